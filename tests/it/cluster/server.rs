//! A server of one test's own, which may be stopped and frozen, and a pooler before it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use rekindle::guard::tree;

use super::rig::{SOON, signal, wait_or};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/databases");

/// What differs between the servers.
pub struct Kind {
    word: &'static str,
    /// What to start, with what stands before it.
    with: &'static str,
    variable: &'static str,
    /// Below its directory: a file whose first line is its process.
    pid_file: &'static str,
    /// What ends it at once, as a crash would.
    crash: Signal,
    /// Starts it again: `$1` is its directory, `$2` its port, `$user` what becomes its user.
    resume: &'static str,
}

pub static POSTGRES: &Kind = &Kind {
    word: "postgres",
    with: "postgres pgbouncer",
    variable: "REKINDLE_TEST_POSTGRES=",
    pid_file: "data/postmaster.pid",
    crash: Signal::SIGQUIT,
    resume: "bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1); user=''; \
         [ \"$(id -u)\" != 0 ] || user='setpriv --reuid=postgres --regid=postgres --init-groups --'; \
         exec $user env -i PATH=\"$PATH\" LC_ALL=C TZ=UTC \"$bin/pg_ctl\" start -s -w -t 60 -D \"$1/data\" \
         -l \"$1/data.log\" -o \"-p $2\"",
};

pub static MARIADB: &Kind = &Kind {
    word: "mariadb",
    with: "mariadb",
    variable: "REKINDLE_TEST_MARIADB=",
    pid_file: "pid",
    crash: Signal::SIGKILL,
    resume: "user=''; owner=$(stat -c %U \"$1/data\"); \
         [ \"$(id -u)\" != 0 ] || user=\"setpriv --reuid=$owner --regid=$(id -gn $owner) --clear-groups --\"; \
         $user env -i PATH=\"$PATH:/usr/sbin\" LC_ALL=C TZ=UTC mariadbd --defaults-file=\"$1/my.cnf\" --port=\"$2\" \
         < /dev/null > \"$1/../again.log\" 2>&1 & \
         exec bash -c 'for i in {1..300}; do (exec 3<>/dev/tcp/127.0.0.1/$0) 2> /dev/null && exit; sleep 0.1; done; exit 1' \"$2\"",
};

/// See the module.
pub struct Server {
    kind: &'static Kind,
    dir: tempfile::TempDir,
    url: String,
    pooler: String,
}

impl Server {
    pub fn start(kind: &'static Kind) -> Self {
        Self::start_with(kind, |_| {})
    }

    /// The same, with a word about the command that starts it.
    pub fn start_with(kind: &'static Kind, say: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The server's own user must get through.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let mut command = Command::new(SCRIPT);
        command.args(["start", "--fast"]).arg(dir.path().join("db")).env("REKINDLE_DATABASES", kind.with);
        say(&mut command);
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let named = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let url = named(kind.variable);
        let url = url.unwrap_or_else(|| panic!("no server: {text}{}", String::from_utf8_lossy(&out.stderr)));
        Self { kind, dir, url, pooler: named("REKINDLE_TEST_PGBOUNCER=").unwrap_or_default() }
    }

    /// A PostgreSQL that follows this one.
    pub fn standby(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = self.url.replace(&format!(":{}/", self.port()), &format!(":{port}/"));
        let standby = Self { kind: self.kind, dir, url, pooler: String::new() };
        // As the script leaves it, which will stop it.
        let home = standby.home();
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.parent().unwrap().join("rekindle-databases"), "").unwrap();
        let owner = std::fs::metadata(self.home()).unwrap();
        std::os::unix::fs::chown(&home, Some(owner.uid()), Some(owner.gid())).unwrap();
        standby.follow(self);
        standby
    }

    /// Begins anew as a standby of another one, and waits until it answers.
    pub fn follow(&self, primary: &Self) {
        let _ = std::fs::remove_dir_all(self.home().join("data"));
        let script = "cd /; user=''; [ \"$(id -u)\" != 0 ] || user='setpriv --reuid=postgres --regid=postgres --init-groups --'; \
             bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1); \
             exec $user env -i PATH=\"$PATH\" LC_ALL=C \"$bin/pg_basebackup\" -d \"$2\" -D \"$1/data\" -R -X stream -c fast --no-sync";
        let copied = Command::new("sh").args(["-c", script, "sh"]).arg(self.home()).arg(&primary.url).output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        self.resume();
    }

    /// The URL of the pooler before it.
    pub fn pooler(&self) -> &str {
        &self.pooler
    }

    /// Ends the pooler at once.
    pub fn stop_pooler(&self) {
        let pid = std::fs::read_to_string(self.dir.path().join("db/pgbouncer/pgbouncer.pid")).unwrap();
        let pid = pid.trim().parse().unwrap();
        signal(pid, Signal::SIGTERM);
        wait_or(SOON, || tree::read(pid).is_none_or(|proc| !proc.is_alive()), || "the pooler does not stop".into());
    }

    /// Starts it again, in its place.
    pub fn resume_pooler(&self) {
        let script = "cd /; PATH=$PATH:/usr/sbin; user=''; \
             [ \"$(id -u)\" != 0 ] || user='setpriv --reuid=postgres --regid=postgres --init-groups --'; \
             rm -f \"$1/pgbouncer.pid\"; exec $user pgbouncer -q -d \"$1/pgbouncer.ini\"";
        let dir = self.dir.path().join("db/pgbouncer");
        assert!(Command::new("sh").args(["-c", script, "sh"]).arg(dir).status().unwrap().success());
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap().split('/').next().unwrap()
    }

    /// The same server by its socket, as one of its own users.
    pub fn by_socket(&self) -> String {
        let home = self.home();
        match self.kind.word {
            "postgres" => {
                let (login, _) = self.url.rsplit_once('@').unwrap();
                format!("{login}@/rekindle?host={}&port={}", home.display(), self.port())
            }
            _ => format!("mysql://root@localhost/rekindle?unix_socket={}", home.join("socket").display()),
        }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("db").join(self.kind.word)
    }

    fn postmaster(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.home().join(self.kind.pid_file)).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Postmaster and all its children.
    fn processes(&self) -> Vec<i32> {
        let Some(master) = self.postmaster() else { return Vec::new() };
        let children = tree::snapshot().unwrap().into_iter().filter(|proc| proc.ppid == master);
        std::iter::once(master).chain(children.map(|proc| proc.pid)).collect()
    }

    /// Ends it at once, as a crash would.
    pub fn stop(&self) {
        self.stop_by(self.kind.crash);
    }

    /// Ends it in order: what follows it has all that it had.
    pub fn stop_well(&self) {
        self.stop_by(Signal::SIGINT);
    }

    fn stop_by(&self, how: Signal) {
        let master = self.postmaster().expect("the server runs");
        signal(master, how);
        wait_or(SOON, || tree::read(master).is_none_or(|proc| !proc.is_alive()), || "the server does not stop".into());
    }

    /// Starts it again, in its place.
    pub fn resume(&self) {
        let port = self.port();
        let script = format!("cd /; {}", self.kind.resume);
        let status = Command::new("sh").args(["-c", &script, "sh"]).arg(self.home()).arg(port).status().unwrap();
        assert!(status.success(), "the server did not come back");
    }

    /// Keeps a copy of all that a stopped server has stored.
    pub fn copy_data(&self) {
        self.shell("cp -a \"$1/data\" \"$1/old\"");
    }

    /// Puts the copy back: the same server, as it was then.
    pub fn put_data_back(&self) {
        self.shell("rm -rf \"$1/data\" && mv \"$1/old\" \"$1/data\"");
    }

    fn shell(&self, script: &str) {
        assert!(Command::new("sh").args(["-c", script, "sh"]).arg(self.home()).status().unwrap().success(), "{script}");
    }

    /// Stops all its processes; until [`Server::thaw`] it answers nothing, and refuses nothing.
    pub fn freeze(&self) {
        // The postmaster first, or it would start further children.
        self.processes().into_iter().for_each(|pid| signal(pid, Signal::SIGSTOP));
        self.processes().into_iter().for_each(|pid| signal(pid, Signal::SIGSTOP));
    }

    pub fn thaw(&self) {
        self.processes().into_iter().for_each(|pid| signal(pid, Signal::SIGCONT));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        let _ = Command::new(SCRIPT).arg("stop").arg(self.dir.path().join("db")).status();
    }
}
