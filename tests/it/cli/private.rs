//! What is not for everyone: files of this host, texts that drive a terminal, payloads of unknown kinds.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rekindle::store::db::Db;

use super::trouble::sql;
use super::{Desk, live, said};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// README's own order: `rekindle db migrate` comes before the first engine, and makes directory and file.
#[test]
fn payloads_are_readable_by_owner_and_group_only() {
    let desk = Desk::bare();
    let dir = desk.path("var/rekindle");
    let file = dir.join("rekindle.db");
    let url = desk.url_file(&format!("sqlite:{}", file.display()));
    // As a login shell has it.
    let mut command = std::process::Command::new("/bin/sh");
    command.env_clear().env("HOME", desk.dir.path()).args(["-c", "umask 022; exec \"$0\" \"$@\""]);
    command.args([env!("CARGO_BIN_EXE_rekindle"), "-c"]).arg(desk.path("a.toml"));
    said(command.args(["--database-url-file", &url, "db", "migrate"])).code(0);
    assert_eq!((mode(&dir), mode(&file)), (0o750, 0o640));
    // Its log and index take over the mode of the file.
    let settings = rekindle::store::Settings::new(rekindle::config::DatabaseUrl::sqlite(&file));
    let mut open = rekindle::store::sqlite::SqliteDb::open(&settings).unwrap();
    open.begin("test").unwrap();
    for suffix in ["-wal", "-shm"] {
        let beside = file.with_file_name(format!("rekindle.db{suffix}"));
        assert_eq!(mode(&beside), 0o640, "{suffix}");
    }
    open.rollback();
}

#[test]
fn a_state_directory_that_is_open_to_all_is_named() {
    let desk = Desk::new();
    let state = desk.path("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let doctor = desk.run("doctor").out;
    let fix = format!("-> chmod o= {}\n", state.display());
    assert!(doctor.contains("warn  state dir") && doctor.contains(&fix), "{doctor}");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(!desk.run("doctor").out.contains("may look into"));
}

#[test]
fn a_name_that_somebody_wrote_by_sql_is_one_line_and_drives_no_terminal() {
    let desk = Desk::new();
    live(&*desk.store(), "app1");
    desk.args(&["engine", "pause", "app1", "--reason", "x"]).code(0);
    sql(
        &desk,
        "UPDATE engine_wish SET reason = 'a' || char(10) || 'b' || char(155) || '31mc', set_by = 'd' || char(27)",
    );
    sql(&desk, "UPDATE engine_wish SET set_at = set_at - 7200000000");
    sql(&desk, "INSERT INTO resource (name, token) VALUES ('e' || char(10) || 'f', 0)");
    let names = desk.run("resource list -o name").out;
    assert!(names.is_empty() || names == "e\\nf\n", "{names}");
    for line in ["status", "status -o json", "status -o jsonl", "status -o tsv", "engine list", "engine list -o json"] {
        let out = desk.run(line).code(0).out;
        let is_bare = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!out.contains(is_bare), "{line}: {out:?}");
    }
    let status = desk.run("status").out;
    assert!(!status.lines().any(|line| line.starts_with('b')), "{status}");
    let json = desk.run("engine list -o json").json();
    assert_eq!(json["items"][0]["note"], "a\nb\u{9b}31mc", "the text itself is whole");
}

#[test]
fn a_kind_that_this_host_does_not_know_is_shown_without_its_payload() {
    let desk = Desk::new();
    desk.args(&["task", "add", "mail", "--payload", r#"{"n": 1, "to": "bob"}"#]).code(0);
    desk.args(&["task", "add", "other", "--payload", r#"{"n": 1, "to": "bob"}"#]).code(0);
    let known = desk.run("task show 1").code(0).out;
    assert!(known.contains("n=1, to=[redacted]"), "{known}");
    let unknown = desk.run("task show 2").code(0).out;
    assert!(unknown.contains("21B, hidden: this configuration does not know the kind"), "{unknown}");
    assert!(!unknown.contains("bob"), "{unknown}");
    assert!(desk.run("task show 2 --payload").code(0).out.contains("bob"));
}
