//! What can only be judged on the host where the tasks run: are the commands there, and does systemd
//! leave enough time? An error for `config check`, a warning at start, because the tree of the commands
//! may appear later.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::load::Loaded;
use super::source::Problem;
use super::trust;
use super::units::show_duration;
use super::words::KillMeans;
use crate::process::limits;
use crate::process::user::{self, RunAs};

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
            let denied = access(path, AccessFlags::X_OK).err();
            denied.map(|error| format!("{program} cannot be run: {}", error.desc())).or_else(|| interpreter_fault(path))
        }
    }
}

/// The system says "no such file" of a script whose interpreter is missing, and means the interpreter.
pub fn interpreter_fault(program: &Path) -> Option<String> {
    let mut head = [0; 256];
    let read = std::fs::File::open(program).and_then(|mut file| file.read(&mut head)).ok()?;
    let line = head[..read].strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let name = line.trim_start_matches([' ', '\t']).split([' ', '\t']).next()?;
    let ends = if name.ends_with('\r') { "; its lines end as on Windows (dos2unix)" } else { "" };
    let is_there = Path::new(name).exists();
    (!is_there).then(|| format!("{} cannot be run: its interpreter {name:?} is not there{ends}", program.display()))
}

/// Kinds that say `user`: users and groups that this host does not know.
pub fn unknown_users(loaded: &Loaded) -> Vec<Problem> {
    let kinds = loaded.config.kinds.iter().filter_map(|(name, kind)| Some((name, kind.user.as_deref()?, kind)));
    let faults = kinds.filter_map(|(name, user, kind)| {
        let text = RunAs::find(user, kind.group.as_deref()).err()?;
        let key = format!("kind.{name}.{}", if text.starts_with("there is no group") { "group" } else { "user" });
        Some(Problem { origin: loaded.origin(&key), text: format!("{key}: {text}") })
    });
    faults.collect()
}

/// The same, where this process may not run anything as somebody else, or not give it a place to work in. For
/// the engine's own user this refuses the start: every task of such a kind would fail.
pub fn user_problems(loaded: &Loaded) -> Vec<Problem> {
    let engine = &loaded.config.engine;
    let missing = user::missing_rights();
    let is_root = nix::unistd::geteuid().is_root();
    let mut problems = Vec::new();
    for (name, kind) in loaded.config.kinds.iter().filter(|(name, _)| engine.kinds.includes(name)) {
        let Some(user) = &kind.user else { continue };
        let key = format!("kind.{name}.user");
        let mut note = |text: String| {
            problems.push(Problem { origin: loaded.origin(&key), text: format!("{key}: {text}") });
        };
        if !missing.is_empty() {
            let who = RunAs::here().name;
            note(format!("an engine that runs as {who} cannot run it as {user}: it lacks {}", missing.join(", ")));
        } else if engine.kill == KillMeans::Pidns && !is_root {
            note(format!("{user} does not exist in the PID namespace that an engine makes which is not root"));
        } else if let Ok(found) = RunAs::find(user, kind.group.as_deref())
            && let Some(dir) = found.barred_at(&engine.scratch_dir.join("any"))
            // The engine makes these two enterable, where they are its own.
            && dir != engine.scratch_dir
        {
            note(format!(
                "{user} may not enter {}, and its tasks work below it, in engine.scratch_dir = {}",
                dir.display(),
                engine.scratch_dir.display()
            ));
        }
    }
    problems
}

/// What the slots may use against `most` descriptors of a process.
pub fn descriptor_problem(loaded: &Loaded, most: u64) -> Option<Problem> {
    let slots = loaded.config.engine.slots;
    let fits = limits::slots_within(most);
    let text = format!(
        "engine.slots: {slots} commands at once need {} descriptors, and this process may have {most} (ulimit -Hn, \
         LimitNOFILE= of the unit): the engine would run {fits}",
        limits::needed_for(slots)
    );
    let has_commands = !loaded.config.kinds.is_empty();
    (has_commands && slots > fits).then(|| Problem { origin: loaded.origin("engine.slots"), text })
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
        let dir = tempfile::tempdir().unwrap();
        let script = |text: &str| {
            let path = dir.path().join("script");
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            fault(path.to_str().unwrap()).map(|text| text.replace(path.to_str().unwrap(), "PATH"))
        };
        assert_eq!(script("#!/bin/sh\necho\n"), None);
        assert_eq!(
            script("#!/bin/sh\r\necho\r\n").unwrap(),
            "kind.a.command: PATH cannot be run: its interpreter \"/bin/sh\\r\" is not there; its lines end as on \
             Windows (dos2unix)"
        );
        assert!(script("#! /no/such -x\n").unwrap().ends_with("its interpreter \"/no/such\" is not there"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(fault(file.path().to_str().unwrap()).unwrap().contains("cannot be run: Permission denied"));
    }

    #[test]
    fn users_that_this_host_does_not_know_are_named_at_their_key() {
        let mut loaded = loaded("/bin/sh");
        let kind = loaded.config.kinds.values_mut().next().unwrap();
        kind.user = Some("no-such-user".to_owned());
        let text = |loaded: &Loaded| unknown_users(loaded).first().map(|problem| problem.text.clone());
        assert_eq!(text(&loaded).unwrap(), "kind.a.user: there is no user no-such-user on this host");
        let kind = loaded.config.kinds.values_mut().next().unwrap();
        (kind.user, kind.group) = (Some("nobody".to_owned()), Some("no-such-group".to_owned()));
        assert_eq!(text(&loaded).unwrap(), "kind.a.group: there is no group no-such-group on this host");
        loaded.config.kinds.values_mut().next().unwrap().group = None;
        assert_eq!(text(&loaded), None);
    }

    #[test]
    fn slots_that_need_more_descriptors_than_there_are_are_a_problem() {
        let mut loaded = loaded("/bin/sh");
        loaded.config.engine.slots = 64;
        assert!(descriptor_problem(&loaded, 128).unwrap().text.contains("the engine would run 5"));
        assert!(descriptor_problem(&loaded, 1_024).is_none());
        loaded.config.engine.slots = 256;
        assert!(descriptor_problem(&loaded, 1_024).unwrap().text.contains("256 commands at once need 2880"));
    }

    #[test]
    fn a_stop_deadline_at_the_units_timeout_is_refused() {
        let loaded = loaded("/bin/sh");
        assert!(stop_problem(&loaded, Duration::from_secs(90)).is_none());
        assert!(stop_problem(&loaded, Duration::from_secs(75)).unwrap().text.contains("1m15s is not below"));
    }
}
