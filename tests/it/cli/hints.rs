//! What to type next: with the flags that said where to look, and never something that cannot help.

use super::{Desk, live, said};

/// `rekindle` and `rekindle-check` without `REKINDLE_CONFIG`: the place comes by flags alone.
fn bare(desk: &Desk, program: &str, args: &[&str]) -> super::Said {
    said(desk.command(program).env_remove("REKINDLE_CONFIG").args(args))
}

#[test]
fn next_commands_repeat_the_flags_that_said_where_to_look() {
    let desk = Desk::new();
    let rekindle = env!("CARGO_BIN_EXE_rekindle");
    let config = desk.path("a.toml").display().to_string();
    let with = |rest: &str| format!("rekindle -c {config} {rest}\n");
    let unknown = bare(&desk, rekindle, &["-c", &config, "task", "show", "99"]).code(4);
    assert!(unknown.err.ends_with(&with("task list")), "{unknown:?}");
    desk.run("task add mail").code(0);
    let status = bare(&desk, rekindle, &["-c", &config, "status"]).code(0);
    assert!(status.out.ends_with(&with("engine list")), "{status:?}");
    live(&*desk.store(), "app1");
    let paused = bare(&desk, rekindle, &["-c", &config, "engine", "pause", "app1"]).code(0);
    assert!(paused.out.ends_with(&format!("undo: {}", with("engine resume app1"))), "{paused:?}");
    let check = bare(&desk, env!("CARGO_BIN_EXE_rekindle-check"), &["--config", &config, "-m", "engines"]).code(1);
    assert!(check.out.ends_with(&format!("next: {}", with("engine list"))), "{check:?}");
    // Given by the environment, the shell has it already.
    assert!(desk.run("task show 99").code(4).err.ends_with(" rekindle task list\n"));

    let url = desk.path("url");
    std::fs::write(&url, format!("sqlite:{}", desk.path("a.db").display())).unwrap();
    let url = url.display().to_string();
    let unknown = bare(&desk, rekindle, &["--database-url-file", &url, "task", "show", "99"]).code(4);
    assert!(unknown.err.ends_with(&format!("rekindle --database-url-file {url} task list\n")), "{unknown:?}");
}

#[test]
fn an_explanation_is_json_where_json_is_asked_for() {
    let desk = Desk::bare();
    let json = desk.run("explain e301 -o json").code(0).json();
    assert_eq!((&json["schema"], &json["code"]), (&"rekindle.explain/1".into(), &"E301".into()));
    assert!(json["text"].as_str().unwrap().starts_with("The database could not be reached"));
    assert_eq!(desk.run("explain E301 -o name").code(0).out, "E301\n");
    assert!(desk.run("explain E301").code(0).out.starts_with("E301\nThe database could not"));
}

#[test]
fn a_newer_schema_asks_for_a_newer_program() {
    let desk = Desk::new();
    super::trouble::sql(&desk, "INSERT INTO __diesel_schema_migrations (version) VALUES ('20991231000000')");
    for line in ["status", "db migrate", "db status", "doctor", "explain E311"] {
        let said = desk.run(line);
        assert!(!said.out.contains("db migrate") && !said.err.contains("db migrate"), "{line}: {said:?}");
    }
    assert!(desk.run("status").code(78).err.contains("upgrade rekindle on this host"));
}

#[test]
fn a_configuration_of_another_cluster_reads_with_a_warning_and_changes_nothing() {
    let desk = Desk::new();
    live(&*desk.store(), "app1");
    let text = std::fs::read_to_string(desk.path("a.toml")).unwrap();
    std::fs::write(desk.path("a.toml"), text.replace("\"desk\"", "\"other\"")).unwrap();
    let status = desk.run("status").code(0);
    assert!(status.err.contains("this database belongs to the cluster \"desk\", not to \"other\""), "{status:?}");
    for line in ["task add mail", "engine pause app1", "db migrate", "db epoch raise --yes", "db epoch raise -n"] {
        let said = desk.run(line).code(78);
        assert!(said.err.contains("error[E314]: this database belongs to the cluster \"desk\""), "{line}: {said:?}");
    }
    assert!(desk.run("doctor").code(1).out.contains("FAIL  cluster"));
    assert_eq!(desk.run("task list -o name").out, "");
    // Where nobody wrote a name, the database's own counts.
    std::fs::write(desk.path("a.toml"), text.replace("cluster = \"desk\"\n", "")).unwrap();
    let said = desk.run("status").code(0);
    assert!(said.out.starts_with("desk   SQLite") && said.err.is_empty(), "{said:?}");
    desk.run("task add mail").code(0);
}

#[test]
fn the_doctor_tries_the_directories_of_the_engine() {
    let desk = Desk::new();
    let lines = |scratch: &str| {
        let dir = desk.dir.path().display();
        let text = format!(
            "cluster = \"desk\"\n[database]\nurl = \"sqlite:{dir}/a.db\"\n[engine]\nname = \"app1\"\n\
             state_dir = \"{dir}/state\"\nscratch_dir = \"{scratch}\"\n"
        );
        std::fs::write(desk.path("a.toml"), text).unwrap();
        desk.run("doctor")
    };
    let fine = desk.path("scratch").display().to_string();
    assert!(lines(&fine).code(0).out.contains("is not there yet; the engine makes it"));
    std::fs::create_dir(&fine).unwrap();
    assert!(lines(&fine).code(0).out.contains("/scratch is writable for this user"));
    assert_eq!(std::fs::read_dir(&fine).unwrap().count(), 0, "nothing is left behind");
    std::fs::write(desk.path("file"), "").unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", desk.path("link")).unwrap();
    for bad in ["file", "file/below", "link"] {
        let said = lines(&desk.path(bad).display().to_string()).code(1);
        assert!(said.out.contains("FAIL  scratch dir") && said.out.contains("is no directory"), "{bad}: {said:?}");
    }
    let nowhere = lines("/proc/rekindle-test");
    assert!(nowhere.out.contains("FAIL  scratch dir") || nowhere.out.contains("warn  scratch dir"), "{nowhere:?}");
    // What a start would refuse, the doctor names too.
    std::fs::create_dir(desk.path("state")).unwrap();
    std::fs::write(desk.path("state/epoch"), "8388607").unwrap();
    std::fs::write(desk.path("state/id"), "x").unwrap();
    let said = lines(&fine).code(1).out;
    assert!(said.contains("state/epoch holds no epoch") && said.contains("state/id holds no state id"), "{said}");
}
