//! Bad input: a clear text, the right exit code, and nothing half added.

use rekindle::protocol::ids::PAYLOAD_MAX;

use super::Desk;

fn count(desk: &Desk) -> usize {
    desk.run("task list -o name").code(0).out.lines().count()
}

#[test]
fn a_payload_over_the_limit_is_refused() {
    let desk = Desk::new();
    let mut payload = vec![b'x'; PAYLOAD_MAX];
    desk.feed("task add mail --payload -", &payload).code(0);
    payload.push(b'x');
    let said = desk.feed("task add mail --payload -", &payload).code(2);
    assert!(said.err.starts_with("error[E505]: the payload is over 1 MiB"), "{}", said.err);
    let lines = format!("{{\"payload\":1}}\n{{\"payload\":\"{}\"}}\n", "x".repeat(PAYLOAD_MAX));
    let said = desk.feed("task add mail --many -", lines.as_bytes()).code(2);
    assert!(
        said.err.contains("line 2: the payload is over 1 MiB") && said.err.contains("nothing was added"),
        "{}",
        said.err
    );
    assert_eq!(count(&desk), 1);
}

#[test]
fn wrong_lines_are_named_and_none_of_the_others_is_added() {
    let desk = Desk::new();
    let lines = "{\"payload\":1}\n{\"payload\":\n{\"payload\":1,\"resources\":[\"a\\u001b\"]}\n\n{\"payload\":1,\"kind\":\"x\"}\n";
    let said = desk.feed("task add mail --many -", lines.as_bytes()).code(2);
    for part in [
        "standard input: 3 lines are wrong",
        "line 2: not valid JSON",
        "line 3: a resource name must not contain control or invisible characters (found U+001B at byte 1)",
        "line 5: unknown field `kind`",
        "nothing was added",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    let many = "oops\n".repeat(1_000);
    let said = desk.feed("task add mail --many -", many.as_bytes()).code(2);
    assert!(said.err.contains("10 lines or more are wrong") && said.err.lines().count() < 15, "{}", said.err);
    assert_eq!(count(&desk), 0);
}

#[test]
fn json_that_was_cut_by_the_shell_is_refused() {
    let desk = Desk::new();
    let said = desk.args(&["task", "add", "mail", "--payload", "{\"a\":"]).code(2);
    assert!(said.err.starts_with("error[E505]: the payload looks like JSON but is not"), "{}", said.err);
    desk.args(&["task", "add", "mail", "--payload", "World"]).code(0);
    for args in [&["--payload", "@/no/such/file"], &["--many", "/no/such/file"], &["--payload", "@/"]] {
        let said = desk.args(&[&["task", "add", "mail"], &args[..]].concat()).code(2);
        assert!(said.err.starts_with("error[E505]: cannot read /"), "{}", said.err);
        assert!(said.err.contains("cause") && said.err.contains("nothing was added"), "{}", said.err);
    }
}

#[test]
fn names_that_look_like_others_are_refused() {
    let desk = Desk::new();
    for name in [" ", " a", "a ", "\u{a0}a"] {
        let said = desk.args(&["task", "add", "mail", "--resource", name]).code(2);
        assert!(said.err.contains("a resource name must not begin or end with a blank"), "{}", said.err);
        let lines = format!("{{\"payload\":1}}\n{{\"payload\":1,\"resources\":[\"{name}\"]}}\n");
        let said = desk.feed("task add mail --many -", lines.as_bytes()).code(2);
        assert!(said.err.contains("line 2: a resource name must not begin or end with a blank"), "{}", said.err);
    }
    assert_eq!(count(&desk), 0);
    desk.args(&["task", "add", "mail", "--resource", "a b"]).code(0);
}

#[test]
fn a_configuration_is_checked_to_its_end() {
    let desk = Desk::bare();
    desk.configure(
        "slotz = 4\n[kind.a]\ncommand = [\"/no/such\"]\n[kind.b]\ncommand = [\"sh\"]\n[kind.c]\ncommand = []\n",
    );
    let said = desk.run("config check").code(78).out;
    for part in ["unknown key engine.slotz", "kind.a.command: /no/such", "kind.b.command: sh", "kind.c.command: must"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("wrong: 4 problems"), "{said}");
}

#[test]
fn names_with_control_characters_are_refused_and_not_repeated_raw() {
    let desk = Desk::new();
    for args in [
        &["task", "add", "mail", "--resource", "a\x1b[31mb"][..],
        &["task", "add", "a\x07b"],
        &["task", "add", "mail", "--resource", "\u{202e}gnp.exe"],
    ] {
        let said = desk.args(args).code(2);
        let bad = ['\x1b', '\x07', '\u{202e}'];
        assert!(said.err.starts_with("error[E101]: ") && !said.err.contains(bad), "{said:?}");
    }
    assert_eq!(count(&desk), 0);
}

#[test]
fn wrong_usage_has_a_code_and_a_guess() {
    let desk = Desk::new();
    for (line, part) in [
        ("task list -s faild", "did you mean failed?"),
        ("task show x", "such as 4812 or #4812"),
        ("task frobnicate", "unrecognized subcommand"),
        ("task add mail --delay 5", "did you mean 5s?"),
        ("task wait", "which tasks?"),
        ("task cancel 1 -k mail", "cannot be used with"),
        ("engine pause", "required"),
    ] {
        let said = desk.run(line).code(2);
        assert!(said.err.starts_with("error[E101]: ") && said.err.contains(part), "{line}: {}", said.err);
        assert_eq!(said.out, "");
    }
}

#[test]
fn a_wrong_configuration_names_the_key_and_a_guess() {
    let desk = Desk::new();
    desk.configure("slotz = 4\n");
    let said = desk.run("status").code(78);
    assert!(said.err.starts_with("error[E201]: the configuration is wrong: 1 problem\n"), "{}", said.err);
    assert!(said.err.contains("a.toml:8: unknown key engine.slotz; did you mean slots?"), "{}", said.err);
    assert_eq!(
        desk.check("").code(3).out,
        format!(
            "REKINDLE UNKNOWN - configuration: {}/a.toml:8: unknown key engine.slotz; did you mean slots?\nnext: rekindle config check\n",
            desk.dir.path().display()
        )
    );
}
