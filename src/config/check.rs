//! What can only be judged on the host where the tasks run: are the commands there, and does systemd
//! leave enough time? An error for `config check`, a warning at start, because the tree of the commands
//! may appear later.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::load::Loaded;
use super::source::Problem;
use super::trust;
use super::units::show_duration;

/// Commands that are not absolute or cannot be executed, and files of theirs that are not there.
pub fn command_problems(loaded: &Loaded) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, kind) in &loaded.config.kinds {
        let mut note = |key: &str, fault: Option<String>| {
            let key = format!("kind.{name}.{key}");
            problems.extend(fault.map(|text| Problem { origin: loaded.origin(&key), text: format!("{key}: {text}") }));
        };
        note("command", kind.command.first().and_then(|program| program_fault(program)));
        let unread = |path: &Path| match trust::read_to_string(path, nix::unistd::geteuid().is_root()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Some(format!("{} is not there", path.display())),
            Err(error) => Some(format!("{} cannot be read: {error}", path.display())),
            Ok(_) => None,
        };
        note("env_file", kind.env_file.as_deref().and_then(unread));
        let no_dir = |path: &Path| (!path.is_dir()).then(|| format!("{} is no directory", path.display()));
        note("cwd", kind.cwd.as_deref().and_then(no_dir));
    }
    problems
}

fn program_fault(program: &str) -> Option<String> {
    let path = Path::new(program);
    if !path.is_absolute() {
        return Some(format!("{program} is not an absolute path"));
    }
    match std::fs::metadata(path) {
        Err(error) => Some(format!("{program} cannot be run: {error}")),
        Ok(data) if !data.is_file() => Some(format!("{program} cannot be run: it is no file")),
        Ok(_) => {
            access(path, AccessFlags::X_OK).err().map(|error| format!("{program} cannot be run: {}", error.desc()))
        }
    }
}

/// `stop_deadline` against the unit's own `TimeoutStopSec`, as `systemctl show` prints it.
pub fn stop_problem(loaded: &Loaded, unit_timeout: Duration) -> Option<Problem> {
    let deadline = loaded.config.engine.stop_deadline;
    let text = format!(
        "engine.stop_deadline: {} is not below the unit's TimeoutStopSec = {}: systemd would kill the engine before it \
         has handed back its tasks",
        show_duration(deadline),
        show_duration(unit_timeout)
    );
    let origin = loaded.origin("engine.stop_deadline");
    (deadline >= unit_timeout).then_some(Problem { origin, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Host, KindConfig};
    use crate::protocol::ids::KindName;

    fn loaded(command: &str) -> Loaded {
        let mut config = Config::defaults(&Host::default());
        let kind = KindConfig { command: vec![command.to_owned()], ..KindConfig::default() };
        config.kinds.insert(KindName::new("a").unwrap(), kind);
        Loaded { config, shown: Vec::new(), warnings: Vec::new(), files: Vec::new(), looked_at: Vec::new() }
    }

    fn fault(command: &str) -> Option<String> {
        command_problems(&loaded(command)).first().map(|problem| problem.text.clone())
    }

    #[test]
    fn commands_must_be_absolute_and_executable() {
        assert_eq!(fault("/bin/sh"), None);
        assert_eq!(fault("sh").unwrap(), "kind.a.command: sh is not an absolute path");
        assert!(fault("/no/such").unwrap().contains("/no/such cannot be run: No such file"));
        assert!(fault("/").unwrap().contains("it is no file"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(fault(file.path().to_str().unwrap()).unwrap().contains("cannot be run: Permission denied"));
    }

    #[test]
    fn a_stop_deadline_at_the_units_timeout_is_refused() {
        let loaded = loaded("/bin/sh");
        assert!(stop_problem(&loaded, Duration::from_secs(90)).is_none());
        assert!(stop_problem(&loaded, Duration::from_secs(75)).unwrap().text.contains("1m15s is not below"));
    }
}
