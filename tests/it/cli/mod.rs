//! The real programs, run as people and scripts run them, over SQLite files of their own.

mod bulk;
mod check;
mod engines;
mod epoch;
mod formats;
mod help;
mod hints;
mod history;
mod input;
mod install;
mod json;
mod login;
mod manners;
mod one_database;
mod private;
mod rights;
mod secrets;
mod tasks;
mod trouble;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use diesel::sqlite::Sqlite;
use diesel_migrations::MigrationHarness;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rekindle::config::DatabaseUrl;
use rekindle::store::sqlite::SqliteDb;
use rekindle::store::{RegisterOutcome, Settings, Store, migrate, open};

use crate::support::builders::{Engine, engine};

/// A password that must never be seen.
const SECRET: &str = "geheim-4711";

/// A directory with a configuration and a place for a database.
struct Desk {
    dir: tempfile::TempDir,
}

/// What a program said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    /// The exit code, with everything that was said if it is another one.
    #[track_caller]
    fn code(self, wanted: i32) -> Self {
        assert_eq!(self.code, wanted, "{self:?}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Desk {
    /// Without a database.
    fn bare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let desk = Self { dir };
        desk.configure("[kind.mail]\ncommand = [\"/bin/cat\"]\nrerun = \"always\"\nredact = [\"to\"]\n");
        desk
    }

    /// With a migrated database.
    fn new() -> Self {
        let desk = Self::bare();
        desk.run("db migrate").code(0);
        desk
    }

    /// Appended to the part that names the database and the directories.
    fn configure(&self, more: &str) {
        let dir = self.dir.path().display();
        let text = format!(
            "cluster = \"desk\"\n[database]\nurl = \"sqlite:{dir}/a.db\"\n[engine]\nname = \"app1\"\n\
             state_dir = \"{dir}/state\"\nscratch_dir = \"{dir}/scratch\"\n{more}"
        );
        std::fs::write(self.path("a.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file that holds a URL, for `--database-url-file`: with a password it may not stand on a command line.
    fn url_file(&self, url: &str) -> String {
        let path = self.path("url");
        std::fs::write(&path, url).unwrap();
        path.display().to_string()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Another client library in the place of the system's (scripts/newest-libpq).
        let library = std::env::var("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path));
        command
            .env_clear()
            .envs(library)
            .env("HOME", self.dir.path())
            .env("TZ", "UTC")
            .env("REKINDLE_CONFIG", self.path("a.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `rekindle` with these words.
    fn run(&self, line: &str) -> Said {
        self.args(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// `rekindle` with these arguments.
    fn args(&self, args: &[&str]) -> Said {
        said(self.command(env!("CARGO_BIN_EXE_rekindle")).args(args))
    }

    /// `rekindle` with this on standard input.
    fn feed(&self, line: &str, input: &[u8]) -> Said {
        let mut command = self.command(env!("CARGO_BIN_EXE_rekindle"));
        let mut child = command.args(line.split_whitespace()).stdin(Stdio::piped()).spawn().unwrap();
        // A program that refuses early does not read everything.
        child.stdin.take().unwrap().write_all(input).unwrap_or(());
        read(child.wait_with_output().unwrap())
    }

    /// `rekindle-check` with these words.
    fn check(&self, line: &str) -> Said {
        said(self.command(env!("CARGO_BIN_EXE_rekindle-check")).args(line.split_whitespace()))
    }

    /// `rekindle-engine`, where it ends by itself.
    fn engine(&self) -> Said {
        said(&mut self.command(env!("CARGO_BIN_EXE_rekindle-engine")))
    }

    /// The database as the release before this one left it.
    fn go_back_one_release(&self) {
        let settings = Settings::new(DatabaseUrl::sqlite(self.path("a.db")));
        let mut db = SqliteDb::open(&settings).unwrap();
        MigrationHarness::<Sqlite>::revert_last_migration(db.raw(), migrate::SQLITE).unwrap();
    }

    /// The store, to play engines with.
    fn store(&self) -> Arc<dyn Store> {
        let settings = Settings::new(DatabaseUrl::sqlite(self.path("a.db")));
        open(vec![settings.clone()], vec![settings], 1).unwrap()
    }
}

/// A real engine; told to stop when it goes.
struct Running(std::process::Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have stopped already.
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).unwrap_or(());
        self.0.wait().unwrap();
    }
}

fn said(command: &mut Command) -> Said {
    read(command.output().unwrap())
}

fn read(output: std::process::Output) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// An engine that registered and has beaten once.
fn live(store: &dyn Store, name: &str) -> Engine {
    let mut builder = engine(name);
    builder.0.cluster = "desk".into();
    assert!(matches!(builder.register(store), RegisterOutcome::Registered { .. }));
    let engine = Engine { incarnation: builder.0.incarnation, name: builder.0.name, host: builder.0.host };
    engine.accepted(store);
    engine
}

/// The versions of all migrations, oldest first.
pub fn versions() -> Vec<String> {
    let dir = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite")).unwrap();
    let stamp = |name: &str| name.split('_').next().unwrap().replace('-', "");
    let mut all: Vec<String> = dir.map(|entry| stamp(&entry.unwrap().file_name().to_string_lossy())).collect();
    all.sort();
    all
}
