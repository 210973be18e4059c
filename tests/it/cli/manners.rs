//! Manners of a program in a pipe.

use std::io::Read;
use std::process::Stdio;

use super::{Desk, live};

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let desk = Desk::new();
    desk.feed("task add mail --many -", "{\"payload\":1}\n".repeat(20_000).as_bytes()).code(0);
    let mut command = desk.command(env!("CARGO_BIN_EXE_rekindle"));
    let mut child = command.args(["task", "list", "--limit", "20000"]).spawn().unwrap();
    let mut first = [0; 10];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    drop(out);
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()));
}

#[test]
fn a_report_that_cannot_be_written_says_whether_something_was_changed() {
    let desk = Desk::new();
    for (line, effect) in [
        ("task add mail", "the change was made, only this report of it is missing: do not simply repeat it"),
        ("task cancel 1", "the change was made"),
        ("task list", "nothing was changed"),
        ("task add mail --dry-run", "nothing was changed"),
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = desk.command(env!("CARGO_BIN_EXE_rekindle"));
        let said = super::said(command.args(line.split(' ')).stdout(full)).code(1);
        assert!(said.err.contains("standard output") && said.err.contains(effect), "{line}: {}", said.err);
    }
    let ids: Vec<_> = desk.run("task list -s canceled -o name").code(0).out.lines().map(str::to_owned).collect();
    assert_eq!(ids, ["1"]);
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    let desk = Desk::new();
    live(&*desk.store(), "app1");
    for line in
        ["status", "engine list", "task show 9", "task frobnicate", "--help", "task add --help", "doctor", "-vv status"]
    {
        let mut command = desk.command(env!("CARGO_BIN_EXE_rekindle"));
        let said = super::said(command.args(line.split(' ')).env("TERM", "xterm-256color"));
        assert!(!said.out.contains('\x1b') && !said.err.contains('\x1b'), "{line}: {said:?}");
    }
}

#[test]
fn quiet_hides_success_and_never_errors() {
    let desk = Desk::new();
    for line in ["task add mail -q", "db migrate -q", "engine clean -q", "task cancel 1 -q"] {
        let said = desk.run(line).code(0);
        assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""), "{line}");
    }
    assert!(desk.run("task show 9 -q").code(4).err.starts_with("error[E501]"));
}

#[test]
fn without_a_terminal_nobody_is_asked() {
    let desk = Desk::new();
    desk.feed("task add mail --many -", b"{\"payload\":1}\n{\"payload\":1}\n").code(0);
    let mut command = desk.command(env!("CARGO_BIN_EXE_rekindle"));
    // An open pipe that never says anything: a prompt would hang.
    let mut child = command.args(["task", "cancel", "--all"]).stdin(Stdio::piped()).spawn().unwrap();
    let open = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    drop(open);
}

#[test]
fn the_doctor_says_ok_warn_or_fail_and_how_to_mend_it() {
    let desk = Desk::new();
    let said = desk.run("doctor").code(0).out;
    for part in [
        "ok  config       ",
        "ok  command      every kind's command can be run\n",
        &format!("ok  schema       {}\n", super::versions().pop().unwrap()),
        "ok  writable     yes\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    desk.configure("[kind.x]\ncommand = [\"/no/such\"]\nrerun = \"always\"\n");
    let said = desk.run("doctor").code(1).out;
    assert!(said.contains("FAIL  command") && said.contains("-> install it"), "{said}");
    desk.configure("slotz = 1\n");
    assert!(desk.run("doctor").code(1).out.contains("FAIL  config"));
}

#[test]
fn the_doctor_lists_rows_of_other_programs_with_what_removes_them() {
    let desk = Desk::new();
    super::trouble::sql(&desk, "INSERT INTO task (kind, token) VALUES ('mail', 9223372036854775806)");
    let said = desk.run("doctor").code(0).out;
    assert!(said.contains("warn  rows         task #1: its token cannot grow, so no engine takes it\n"), "{said}");
    assert!(said.contains("-> rekindle task cancel 1\n"), "{said}");
    desk.run("task cancel 1").code(0);
    let said = desk.run("doctor").code(0).out;
    assert!(said.contains(" rows         none that engines would have to leave alone\n"), "{said}");
}
