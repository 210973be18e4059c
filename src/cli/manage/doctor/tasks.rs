//! What the doctor says of what a task of this engine could read: whoever may write a kind's command, or steers
//! one by a payload, has that as well.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Line;
use crate::config::{Host, KindConfig, Loaded};
use crate::process::user::RunAs;

/// One line for each user that tasks run as.
pub(super) fn task_lines(loaded: &Loaded) -> Vec<Line> {
    let secrets = secrets(loaded, &Host::here());
    let mine = loaded.config.kinds.iter().filter(|(name, _)| loaded.config.engine.kinds.includes(name));
    let users: BTreeSet<_> = mine.map(|(_, kind)| runs_as(kind)).collect();
    users.into_iter().filter_map(|user| user_line(user, &secrets)).collect()
}

fn runs_as(kind: &KindConfig) -> Option<(&str, Option<&str>)> {
    kind.user.as_deref().map(|user| (user, kind.group.as_deref()))
}

fn user_line(user: Option<(&str, Option<&str>)>, secrets: &[(&'static str, PathBuf)]) -> Option<Line> {
    let who = match user {
        // One that is not there has a line of its own.
        Some((user, group)) => RunAs::find(user, group).ok()?,
        None => RunAs::here(),
    };
    let read: Vec<String> = secrets
        .iter()
        .filter(|(_, path)| who.reads(path))
        .map(|(what, path)| format!("{what} {}", path.display()))
        .collect();
    let name = &who.name;
    Some(match (read.is_empty(), user) {
        (true, _) => Line::ok("tasks", format!("a task that runs as {name} reads nothing of the engine's")),
        // No fault: so it is wherever only administrators write commands, and a warning that is always there is
        // read by nobody.
        (false, None) => Line::ok(
            "tasks",
            format!(
                "a task that runs as {name}, as the engine does, can read {}; one of a kind with a user of its own \
                 (kind.NAME.user) could not",
                read.join(", ")
            ),
        ),
        (false, Some(_)) => Line::warn(
            "tasks",
            format!("a task that runs as {name} can read {}", read.join(", ")),
            format!("take the right to read from {name}"),
        ),
    })
}

/// Where the database's password lies, what is as good as it, and what engines tell each other by.
fn secrets(loaded: &Loaded, host: &Host) -> Vec<(&'static str, PathBuf)> {
    let database = &loaded.config.database;
    let urls = || database.urls.iter().chain(&database.beat_url);
    let mut all: Vec<(&'static str, PathBuf)> = Vec::new();
    all.extend(database.password_file.clone().map(|path| ("the password in", path)));
    if let Some(dir) = host.var("CREDENTIALS_DIRECTORY") {
        all.push(("the password in", Path::new(dir).join("db-password")));
    }
    if let Some(home) = host.var("HOME").filter(|_| urls().any(|url| url.sqlite_path().is_none())) {
        all.push(("the passwords in", Path::new(home).join(".pgpass")));
    }
    for key in ["database.url", "database.beat_url"] {
        // A password that came out of a file of its own is not in the file that names the database.
        if let Some(file) = loaded.origin(key).path().filter(|_| database.password_file.is_none()) {
            all.extend(urls().any(|url| url.has_password()).then(|| ("the password in", file.to_owned())));
        }
    }
    all.extend(urls().filter_map(|url| url.sqlite_path()).map(|path| ("the database", path.to_owned())));
    all.push(("the identity in", loaded.config.engine.state_dir.clone()));
    let mut seen = BTreeSet::new();
    all.retain(|(_, path)| seen.insert(path.clone()) && path.exists());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::manage::doctor::Verdict;
    use crate::config::{LoadOptions, load};

    #[test]
    fn a_user_of_its_own_that_can_read_something_all_the_same_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("pw");
        std::fs::write(&open, "geheim").unwrap();
        for path in [dir.path(), &open] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let secrets = [("the password in", open.clone())];
        let line = user_line(Some(("nobody", None)), &secrets).unwrap();
        assert_eq!((line.verdict, line.fix.as_deref()), (Verdict::Warn, Some("take the right to read from nobody")));
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(user_line(Some(("nobody", None)), &secrets).unwrap().verdict, Verdict::Ok);
    }

    #[test]
    fn what_a_task_of_the_engines_own_user_can_read_is_named_and_what_is_not_there_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("pw"), "geheim\n").unwrap();
        std::fs::write(
            at("a.toml"),
            format!(
                "[database]\nurl = \"sqlite:{}\"\npassword_file = {:?}\n[engine]\nstate_dir = {:?}\n\
                 [kind.a]\ncommand = [\"/bin/sh\"]\n[kind.b]\ncommand = [\"/bin/sh\"]\n",
                at("r.db").display(),
                at("pw"),
                at("state")
            ),
        )
        .unwrap();
        let loaded = load(&LoadOptions { config: Some(at("a.toml")), ..LoadOptions::default() }).unwrap();
        let lines = task_lines(&loaded);
        assert_eq!((lines.len(), lines[0].verdict), (1, Verdict::Ok));
        assert!(
            lines[0].text.contains(&format!("can read the password in {}; one of", at("pw").display())),
            "{lines:?}"
        );
        assert!(!lines[0].text.contains("geheim"));
        std::fs::remove_file(at("pw")).unwrap();
        assert!(task_lines(&loaded)[0].text.ends_with("reads nothing of the engine's"));
    }
}
