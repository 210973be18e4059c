//! Which database it is: said by somebody, or said to be the default; never two without a word.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rekindle::config::DEFAULT_DATABASE;

use super::{Desk, Running, Said, said};
use crate::support::wait_until;

/// A program whose user has no configuration anywhere.
fn lost(desk: &Desk, program: &str, words: &str) -> Said {
    said(desk.command(program).env_remove("REKINDLE_CONFIG").args(words.split_whitespace()))
}

#[test]
fn without_a_configuration_every_program_says_so_and_makes_nothing() {
    if Path::new("/etc/rekindle").exists() || Path::new(DEFAULT_DATABASE).exists() {
        return println!("skipped: this host has a configuration");
    }
    let desk = Desk::bare();
    let home = desk.dir.path().display();
    let looked = format!(
        "no configuration file: looked at /etc/rekindle/rekindle.toml and {home}/.config/rekindle/rekindle.toml"
    );
    for line in ["status", "task add hello", "engine list", "db migrate", "db migrate --dry-run", "db status"] {
        let said = lost(&desk, env!("CARGO_BIN_EXE_rekindle"), line);
        assert_eq!(said.code, if line.starts_with("db migrate") { 78 } else { 69 }, "{line}: {said:?}");
        assert!(said.err.contains(&format!("  config   {looked}\n")), "{line}: {said:?}");
        assert!(!said.err.contains("rekindle db migrate"), "{line}: {said:?}");
        assert!(said.err.contains("rekindle config init"), "{line}: {said:?}");
    }
    for mode in ["overall", "db", "engines"] {
        let check = lost(&desk, env!("CARGO_BIN_EXE_rekindle-check"), &format!("-m {mode}")).code(3).out;
        assert!(check.contains(&format!("UNKNOWN - {looked}; the default database: ")), "{check}");
        assert!(check.ends_with("next: rekindle-check --config FILE, or rekindle config init\n"), "{check}");
    }
    let check = lost(&desk, env!("CARGO_BIN_EXE_rekindle"), "config check").code(0).out;
    assert!(check.contains(&looked), "{check}");
    let doctor = lost(&desk, env!("CARGO_BIN_EXE_rekindle"), "doctor").code(1).out;
    assert!(doctor.contains(&looked), "{doctor}");
    assert!(!Path::new(DEFAULT_DATABASE).exists() && !desk.path(".local").exists());
}

#[test]
fn an_error_says_which_configuration_was_read() {
    let desk = Desk::bare();
    let config = desk.path("a.toml").display().to_string();
    let away = desk.run("status").code(69).err;
    assert!(away.contains(&format!("  config   {config}\n")) && away.contains("db migrate"), "{away}");
    desk.run("db migrate").code(0);
    let unknown = desk.run("engine show app9").code(4).err;
    assert!(unknown.contains(&format!("  config   {config}\n")), "{unknown}");
    std::fs::create_dir(desk.path("conf.d")).unwrap();
    std::fs::write(desk.path("conf.d/10.toml"), "[kind.other]\ncommand = [\"/bin/true\"]\n").unwrap();
    let both = desk.run("task show 9").code(4).err;
    assert!(
        both.contains(&format!("  config   {config} and {}/conf.d/10.toml\n", desk.dir.path().display())),
        "{both}"
    );
    // An engine too.
    std::fs::write(desk.path("a.db"), "my diary\n").unwrap();
    let engine = desk.engine().code(78).err;
    assert!(engine.contains(&format!("database.url is from {config}:3")), "{engine}");
}

/// README: "A second engine on one host needs a name and a state directory of its own".
#[test]
fn two_engines_by_the_readmes_own_line_share_one_database() {
    let readme = include_str!("../../../README.md");
    assert!(readme.contains("rekindle-engine --name app1b --state-dir /var/lib/rekindle-b"));
    let desk = Desk::bare();
    let config = desk.path("init.toml").display().to_string();
    desk.args(&["config", "init", "--path", &config]).code(0);
    let text = std::fs::read_to_string(&config).unwrap();
    let file = desk.path("shared.db").display().to_string();
    let line = text.lines().find(|line| line.starts_with("url = \"sqlite:///")).expect("an active line").to_owned();
    std::fs::write(&config, text.replace(&line, &format!("url = \"sqlite://{file}\""))).unwrap();
    let engine = |name: &str| {
        let mut command: Command = desk.command(env!("CARGO_BIN_EXE_rekindle-engine"));
        command.args(["-c", &config, "--timing", "fast", "--name", name, "--state-dir"]).arg(desk.path(name));
        command.env("REKINDLE_ENGINE__SCRATCH_DIR", desk.path(&format!("scratch-{name}")));
        Running::start(command)
    };
    let _engines = [engine("app1"), engine("app1b")];
    let list = || desk.args(&["-c", &config, "engine", "list", "-s", "active", "-o", "name"]).out;
    wait_until(Duration::from_secs(60), || list() == "app1\napp1b\n");
    assert!(!desk.path("app1b/rekindle.db").exists());
}
