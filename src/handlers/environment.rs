//! The environment of a command: cleared, then what the kind passes on, who its user is if it has one of its
//! own, what the kind sets and reads from its file, then the `REKINDLE_*` variables, which nothing overrides.
//!
//! The engine's own variables stay out because they hold what a task must not have: the database's
//! URL, `NOTIFY_SOCKET` (a task could say READY for the engine), `LISTEN_FDS`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::handler::Attempt;
use super::spec::CommandSpec;
use crate::config::trust;
use crate::protocol::time::Timestamp;

/// Where programs are looked for if neither the kind nor the engine has a `PATH`.
pub const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why the environment could not be made: this host's file is missing or wrong.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The file could not be read.
    #[error("could not read env_file {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is not `KEY=VALUE`. The line itself is not shown: it may be a secret.
    #[error("line {line} of env_file {path} is not KEY=VALUE")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// What the engine adds to each environment, fixed for its life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Release path of the engine.
    pub release: String,
    /// Random id of the state directory. It marks every process of a task, so that a guard that
    /// starts on the same directory finds what a former life left running.
    pub state_id: String,
}

/// Makes the environment of one attempt. `deadline` is on the host's wall clock and informs only.
pub fn environment(
    spec: &CommandSpec,
    attempt: &Attempt,
    identity: &Identity,
    dir: &Path,
    deadline: Option<Timestamp>,
) -> Result<BTreeMap<OsString, OsString>, EnvironmentError> {
    let mut env: BTreeMap<OsString, OsString> =
        spec.env_pass.iter().filter_map(|name| std::env::var_os(name).map(|value| (name.into(), value))).collect();
    if let Some(user) = &spec.run_as {
        let home = user.home.clone().into_os_string();
        env.extend(
            [("HOME", home), ("USER", user.name.clone().into()), ("LOGNAME", user.name.clone().into())]
                .map(|(key, value)| (key.into(), value)),
        );
    }
    env.extend(spec.env.iter().map(|(key, value)| (key.into(), value.into())));
    if let Some(path) = &spec.env_file {
        env.extend(read_file(path)?);
    }
    env.extend(own(attempt, identity, dir, deadline));
    Ok(env)
}

fn own(attempt: &Attempt, identity: &Identity, dir: &Path, deadline: Option<Timestamp>) -> Vec<(OsString, OsString)> {
    // A resource's name may hold spaces, commas and quotes: only JSON separates them safely.
    let resources = serde_json::to_string(&attempt.resources).expect("strings always serialise");
    let mut all: Vec<(OsString, OsString)> = [
        ("REKINDLE_TASK", attempt.task.as_i64().to_string()),
        ("REKINDLE_KIND", attempt.kind.to_string()),
        ("REKINDLE_RESOURCES", resources),
        ("REKINDLE_ATTEMPT", attempt.attempt.to_string()),
        ("REKINDLE_ATTEMPTS_MAX", attempt.attempts_max.to_string()),
        ("REKINDLE_REASON", attempt.reason.word().to_owned()),
        ("REKINDLE_TOKEN", attempt.token.to_string()),
        ("REKINDLE_ENGINE", attempt.engine.to_string()),
        ("REKINDLE_CLUSTER", attempt.cluster.clone()),
        ("REKINDLE_RELEASE", identity.release.clone()),
        ("REKINDLE_STATE_ID", identity.state_id.clone()),
    ]
    .map(|(key, value)| (key.into(), value.into()))
    .into();
    all.push(("REKINDLE_DIR".into(), dir.into()));
    if let Some(at) = deadline {
        all.push(("REKINDLE_DEADLINE".into(), (at.as_us() / 1_000_000).to_string().into()));
    }
    all
}

fn read_file(path: &Path) -> Result<Vec<(OsString, OsString)>, EnvironmentError> {
    // It can set LD_PRELOAD and the like, so it decides what is run.
    let is_root = nix::unistd::geteuid().is_root();
    let text = trust::read_to_string(path, is_root)
        .map_err(|source| EnvironmentError::Read { path: path.to_owned(), source })?;
    let mut all = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let wrong = || EnvironmentError::Line { path: path.to_owned(), line: at + 1 };
        let (key, value) = line.split_once('=').ok_or_else(wrong)?;
        let is_name = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name || value.contains('\0') {
            return Err(wrong());
        }
        all.push((key.into(), unquoted(value).into()));
    }
    Ok(all)
}

/// One pair of quotes around the whole value is taken off, as systemd's `EnvironmentFile=` does.
fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote).and_then(|v: &str| v.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::testing::attempt;
    use crate::process::user::RunAs;

    fn make(spec: &CommandSpec) -> Result<BTreeMap<OsString, OsString>, EnvironmentError> {
        let identity = Identity { release: "/opt/acme/7".to_owned(), state_id: "s1".to_owned() };
        environment(
            spec,
            &attempt("{}"),
            &identity,
            Path::new("/run/x"),
            Some(Timestamp::from_us(1_795_180_800_000_001)),
        )
    }

    #[test]
    fn the_readme_lists_every_variable_and_no_other() {
        let readme = include_str!("../../README.md");
        let (_, list) = readme.split_once("| variable | what it holds |").expect("the table");
        let (list, rest) = list.split_once("\n\n").expect("its end");
        let named: std::collections::BTreeSet<&str> = list
            .lines()
            .filter_map(|row| row.split('|').nth(1))
            .flat_map(|cell| cell.split('`'))
            .filter(|w| w.starts_with("REKINDLE_"))
            .collect();
        let env = make(&CommandSpec { env_pass: Vec::new(), ..CommandSpec::default() }).unwrap();
        let own: std::collections::BTreeSet<&str> = env.keys().filter_map(|key| key.to_str()).collect();
        assert_eq!(named, own);
        assert!(rest.contains("`{task.id}`, `{task.attempt}`, or `{payload.NAME}`"), "placeholders");
    }

    #[test]
    fn own_variables_are_complete_and_win() {
        let spec =
            CommandSpec { env: [("REKINDLE_TOKEN".to_owned(), "99".to_owned())].into(), ..CommandSpec::default() };
        let env = make(&spec).unwrap();
        let mut attempted = attempt("{}");
        attempted.resources = vec![crate::protocol::ids::ResourceName::new("a \"b\", c").unwrap()];
        let of = |name: &str| env.get(std::ffi::OsStr::new(name)).and_then(|v| v.to_str());
        for (name, value) in [
            ("REKINDLE_TASK", "4812"),
            ("REKINDLE_KIND", "invoice-mail"),
            ("REKINDLE_RESOURCES", "[]"),
            ("REKINDLE_ATTEMPT", "1"),
            ("REKINDLE_ATTEMPTS_MAX", "6"),
            ("REKINDLE_REASON", "first"),
            ("REKINDLE_TOKEN", "6"),
            ("REKINDLE_DEADLINE", "1795180800"),
            ("REKINDLE_DIR", "/run/x"),
            ("REKINDLE_ENGINE", "app1"),
            ("REKINDLE_CLUSTER", "billing"),
            ("REKINDLE_RELEASE", "/opt/acme/7"),
            ("REKINDLE_STATE_ID", "s1"),
        ] {
            assert_eq!(of(name), Some(value), "{name}");
        }
        let own = own(&attempted, &Identity::default(), Path::new("/"), None);
        assert!(own.contains(&("REKINDLE_RESOURCES".into(), r#"["a \"b\", c"]"#.into())));
        assert!(!own.iter().any(|(key, _)| key == "REKINDLE_DEADLINE"), "no timeout, no deadline");
    }

    #[test]
    fn a_user_of_the_kinds_own_is_told_and_what_the_kind_sets_wins() {
        let run_as = RunAs { name: "mailer".into(), uid: 9, gid: 9, groups: vec![9], home: "/srv/mail".into() };
        let mut spec = CommandSpec { run_as: Some(run_as), ..CommandSpec::default() };
        spec.env_pass.push("HOME".to_owned());
        spec.env.insert("USER".to_owned(), "other".to_owned());
        let env = make(&spec).unwrap();
        for (key, value) in [("HOME", "/srv/mail"), ("USER", "other"), ("LOGNAME", "mailer")] {
            assert_eq!(env[std::ffi::OsStr::new(key)], value);
        }
    }

    #[test]
    fn an_env_file_is_read_and_a_wrong_line_is_named_but_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let spec = CommandSpec { env_file: Some(file.path().to_owned()), ..CommandSpec::default() };
        std::fs::write(file.path(), "# a\n\nA=1=2\n B=\"x y\"\nC='z'\nD=\n").unwrap();
        let env = make(&spec).unwrap();
        for (key, value) in [("A", "1=2"), ("B", "x y"), ("C", "z"), ("D", "")] {
            assert_eq!(env[std::ffi::OsStr::new(key)], value);
        }
        std::fs::write(file.path(), "A=1\nhunter2\n").unwrap();
        let error = make(&spec).unwrap_err().to_string();
        assert!(error.starts_with("line 2 of env_file") && !error.contains("hunter2"), "{error}");
    }
}
