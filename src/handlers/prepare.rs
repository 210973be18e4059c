//! Everything that can be decided about an attempt before its fork, and what it means when it cannot
//! be started.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::arguments::{self, ArgumentError};
use super::child::{SpawnRequest, Stage};
use super::ended::Ended;
use super::environment::{self, EnvironmentError, Identity, PATH_DEFAULT};
use super::gate::Dies;
use super::handler::Attempt;
use super::spawner::SpawnError;
use super::spec::CommandSpec;
use super::streams::ChildEnds;
use crate::protocol::task::{AttemptResult, OnLeaseLoss};
use crate::protocol::time::Timestamp;

/// Why a command was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The payload or the kind asks for what cannot be. No host would do better.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// This host's env_file is missing or wrong.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// This host lacks the program.
    #[error("could not find program {program} in {path}")]
    NotFound { program: String, path: String },
    /// This host's disk or limits.
    #[error("could not {what}")]
    Host {
        what: String,
        #[source]
        source: io::Error,
    },
    /// Text from a configuration that no program can be given.
    #[error("a zero byte in the command, its directory or its environment")]
    Zero,
    /// Refused at the gate, or no fork.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

impl StartError {
    /// How the attempt ends. What another host may have is tried elsewhere; what the gate refused, and what
    /// this host has run out of, is no fault of the task.
    pub(super) fn ended(&self) -> Ended {
        if self.is_starved() {
            return Ended::starved(&chain(self));
        }
        let (result, elsewhere) = match self {
            Self::Argument(_) | Self::Zero => (AttemptResult::Failed, false),
            Self::Environment(_) | Self::NotFound { .. } => (AttemptResult::Failed, true),
            // Those that come here are starved.
            Self::Host { .. } => (AttemptResult::HandedBack, false),
            Self::Spawn(_) => (AttemptResult::HandedBack, false),
        };
        Ended { elsewhere, ..Ended::not_started(result, &format!("not started: {}", chain(self))) }
    }

    /// Whether the host could not, whatever the task is.
    fn is_starved(&self) -> bool {
        match self {
            Self::Host { .. } | Self::Spawn(SpawnError::Fork(_)) => true,
            Self::Environment(EnvironmentError::Read { source, .. }) => {
                source.raw_os_error().is_some_and(|errno| means_starved(Errno::from_raw(errno)))
            }
            _ => false,
        }
    }

    pub(super) fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Host { what, source }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Whether an error says that the host has run out of something: descriptors, processes, memory.
pub(super) fn means_starved(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ENOMEM)
}

/// The words for a child that failed between fork and exec.
pub(super) fn setup_failure(stage: Stage, errno: i32, spec: &CommandSpec) -> String {
    let what = match stage {
        Stage::Process => "set up the process".to_owned(),
        Stage::Nice => format!("set nice = {}", spec.nice.unwrap_or(0)),
        Stage::Cwd => format!("enter directory {}", spec.cwd.as_deref().unwrap_or(Path::new("(scratch)")).display()),
        Stage::Exec => {
            let program = spec.command.first().map_or("(nothing)", String::as_str);
            match missing_interpreter(Path::new(program)).filter(|_| errno == Errno::ENOENT as i32) {
                Some(why) => return format!("could not run {program}: {why}"),
                None => format!("run {program}"),
            }
        }
        Stage::User => format!("become user {}", spec.run_as.as_ref().map_or("?", |user| user.name.as_str())),
    };
    format!("could not {what}: {}", Errno::from_raw(errno).desc())
}

/// A script that is there cannot be run where its first line names what is not, and the kernel then says that
/// the *script* is not there. Mostly it was written on Windows.
fn missing_interpreter(program: &Path) -> Option<String> {
    /// As much of the first line as the kernel reads.
    const FIRST_LINE_MAX: u64 = 256;
    let mut start = Vec::new();
    std::fs::File::open(program).and_then(|file| file.take(FIRST_LINE_MAX).read_to_end(&mut start)).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let named = line.trim_start_matches([' ', '\t']).split([' ', '\t']).next()?;
    if named.is_empty() || Path::new(named).exists() {
        return None;
    }
    let ending = if named.ends_with('\r') { " (the script has Windows line ends: sed -i 's/\\r$//')" } else { "" };
    Some(format!("its first line names {}, which is not there{ending}", named.trim_end()))
}

/// Makes the request for the spawner.
pub(super) fn request(
    spec: &CommandSpec,
    attempt: &Attempt,
    identity: &Identity,
    scratch: &Path,
    deadline: Option<Timestamp>,
    ends: ChildEnds,
) -> Result<SpawnRequest, StartError> {
    let arguments = arguments::expand(&spec.command, attempt)?;
    let env = environment::environment(spec, attempt, identity, scratch, deadline)?;
    let path = env.get(OsStr::new("PATH")).cloned().unwrap_or_else(|| PATH_DEFAULT.into());
    let program = find(&arguments[0], &path)?;
    let cwd = spec.cwd.as_deref().unwrap_or(scratch);
    Ok(SpawnRequest {
        program: text(program.into())?,
        argv: arguments.into_iter().map(|a| text(a.into())).collect::<Result<_, _>>()?,
        env: env.into_iter().map(variable).collect::<Result<_, _>>()?,
        cwd: text(cwd.into())?,
        stdio: ends.stdio,
        setup: ends.setup,
        umask: spec.umask,
        nice: spec.nice,
        run_as: spec.run_as.clone(),
        new_privileges: spec.new_privileges,
        dies: match spec.on_lease_loss {
            OnLeaseLoss::Stop => Dies::WithEngine,
            OnLeaseLoss::Continue => Dies::Alone,
        },
    })
}

/// A name with a slash is a path, and exec judges it. Others are looked for in the task's own `PATH`.
fn find(program: &str, path: &OsStr) -> Result<PathBuf, StartError> {
    if program.contains('/') {
        return Ok(program.into());
    }
    let found = std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok());
    found.ok_or_else(|| StartError::NotFound { program: program.to_owned(), path: path.to_string_lossy().into_owned() })
}

fn variable((key, value): (OsString, OsString)) -> Result<CString, StartError> {
    text(OsString::from_vec([key.as_bytes(), b"=", value.as_bytes()].concat()))
}

fn text(value: OsString) -> Result<CString, StartError> {
    CString::new(value.into_vec()).map_err(|_| StartError::Zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_given_path_only() {
        assert!(find("sh", OsStr::new("relative:/nowhere:/bin")).is_ok());
        assert!(find("sh", OsStr::new("/nowhere:")).is_err());
        assert_eq!(find("./x", OsStr::new("")).unwrap(), PathBuf::from("./x"));
    }

    #[test]
    fn what_was_not_started_says_whose_fault_it_was() {
        let of = |error: StartError| {
            let ended = error.ended();
            assert!(!ended.started);
            (ended.result, ended.elsewhere)
        };
        assert_eq!(of(ArgumentError::Empty.into()), (AttemptResult::Failed, false));
        assert_eq!(of(SpawnError::LeaseOver.into()), (AttemptResult::HandedBack, false));
        assert_eq!(of(SpawnError::Closed.into()), (AttemptResult::HandedBack, false));
        // What the host has run out of costs the task nothing, and the engine is told.
        let full = StartError::host("make the scratch directory")(io::Error::from_raw_os_error(28));
        assert!(full.ended().detail.unwrap().contains("No space left"));
        let read = |errno| {
            StartError::from(EnvironmentError::Read { path: "/e".into(), source: io::Error::from_raw_os_error(errno) })
        };
        for starved in [full, SpawnError::Fork(io::Error::from_raw_os_error(11)).into(), read(24)] {
            let ended = starved.ended();
            assert_eq!((ended.result, ended.starved, ended.elsewhere), (AttemptResult::HandedBack, true, false));
        }
        assert_eq!(of(read(2)), (AttemptResult::Failed, true));
    }
}
