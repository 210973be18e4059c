//! What a command gets, and what its end means (`ux.md` 7.1 and 7.3).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::handlers::testing::{bench, is_inside, shell, text};
use crate::handlers::{CommandSpec, Ended};
use crate::protocol::task::AttemptResult;

fn program(command: &[&str]) -> CommandSpec {
    CommandSpec { command: command.iter().map(|s| (*s).to_owned()).collect(), ..shell("") }
}

#[test]
fn payload_comes_over_stdin_and_ends() {
    let ended = bench().run(&program(&["cat"]), "{\"invoice\": 7}");
    assert_eq!(text(&ended), "{\"invoice\": 7}");
    let expected = Ended { output: ended.output.clone(), exit_code: Some(0), ..Ended::new(AttemptResult::Done) };
    assert_eq!(ended, expected);
}

#[test]
fn payload_and_output_of_a_megabyte_do_not_deadlock() {
    let payload = "0123456789abcdef".repeat(1 << 16);
    let spec = CommandSpec { output_keep: 2 << 20, ..program(&["cat"]) };
    let ended = bench().run(&spec, &payload);
    assert_eq!(ended.result, AttemptResult::Done);
    assert!(text(&ended) == payload);
}

#[test]
fn a_command_need_not_read_its_payload() {
    let payload = "x".repeat(1 << 20);
    assert_eq!(bench().run(&shell("exit 0"), &payload).result, AttemptResult::Done);
    let ended = bench().run(&shell("exec 0<&-; echo closed; exit 75"), &payload);
    assert_eq!((ended.exit_code, text(&ended).as_str()), (Some(75), "closed\n"));
}

#[test]
fn a_flood_of_output_is_bounded_and_does_not_block() {
    let began = SystemClock.lease_now();
    let ended = bench().run(&shell("yes | head -c 300000000; echo end"), "");
    assert_eq!(ended.result, AttemptResult::Done);
    assert_eq!(ended.output_dropped, 300_000_004 - (64 << 10));
    assert!(ended.output.len() < (64 << 10) + 40);
    assert!(ended.output.starts_with(b"[299934468 bytes dropped]\n") && ended.output.ends_with(b"y\nend\n"));
    assert!(SystemClock.lease_now().since(began) < Duration::from_secs(30));
}

#[test]
fn exit_codes_mean_what_the_table_says() {
    let bench = bench();
    for (script, result, elsewhere, detail) in [
        (
            "echo no >&2; echo 'smtp: connection refused' >&2; exit 75",
            AttemptResult::Tempfail,
            false,
            "exit 75: smtp: connection refused",
        ),
        ("exit 65", AttemptResult::Failed, false, "exit 65"),
        ("exit 71", AttemptResult::Tempfail, true, "exit 71"),
        ("exit 1", AttemptResult::Tempfail, false, "exit 1"),
        ("exit 127", AttemptResult::Failed, true, "exit 127"),
        ("ulimit -c 0; kill -SEGV $$", AttemptResult::Crash, false, "killed by SIGSEGV"),
        ("kill -KILL $$", AttemptResult::Crash, false, "killed by SIGKILL"),
        ("ulimit -c 0; kill -40 $$", AttemptResult::Crash, false, "killed by signal 40"),
    ] {
        let ended = bench.run(&shell(script), "");
        assert_eq!((ended.result, ended.elsewhere), (result, elsewhere), "{script}");
        assert_eq!(ended.detail.as_deref(), Some(detail));
    }
}

#[test]
fn what_this_host_lacks_fails_here_and_is_tried_elsewhere() {
    let bench = bench();
    let no_cwd = CommandSpec { cwd: Some("/nowhere/at/all".into()), ..program(&["true"]) };
    let no_file = CommandSpec { env_file: Some("/nowhere/env".into()), ..program(&["true"]) };
    for (spec, detail) in [
        (program(&["/nowhere/send"]), "could not run /nowhere/send: No such file or directory"),
        (program(&["/etc/passwd"]), "could not run /etc/passwd: Permission denied"),
        (program(&["no-such-program"]), "not started: could not find program no-such-program in "),
        (no_cwd, "could not enter directory /nowhere/at/all: No such file or directory"),
        (no_file, "not started: could not read env_file /nowhere/env: No such file"),
    ] {
        let ended = bench.run(&spec, "");
        assert_eq!((ended.result, ended.elsewhere, ended.started), (AttemptResult::Failed, true, false));
        assert!(ended.detail.as_deref().unwrap().starts_with(detail), "{ended:?}");
    }
}

#[test]
fn placeholders_reach_the_command_and_a_refused_one_fails_for_good() {
    let spec = program(&["echo", "{task.id}", "{task.attempt}", "{payload.to}", "{}"]);
    let ended = bench().run(&spec, r#"{"to": "a b; $(id)"}"#);
    assert_eq!(text(&ended), "4812 1 a b; $(id) {}\n");
    let refused = bench().run(&spec, r#"{"to": "-n"}"#);
    assert_eq!((refused.result, refused.elsewhere, refused.started), (AttemptResult::Failed, false, false));
}

#[test]
fn the_environment_is_cleared() {
    if !is_inside("contract::the_environment_is_cleared") {
        return;
    }
    assert!(std::env::var_os("DATABASE_URL").is_some());
    let mut spec = program(&["env"]);
    spec.env_pass = vec!["PATH".to_owned()];
    spec.env.insert("SMTP_HOST".to_owned(), "mx1".to_owned());
    let output = text(&bench().run(&spec, ""));
    let names: BTreeSet<&str> = output.lines().filter_map(|line| line.split_once('=')).map(|pair| pair.0).collect();
    let own =
        "TASK KIND QUEUE RESOURCES ATTEMPT ATTEMPTS_MAX REASON TOKEN ENGINE CLUSTER RELEASE STATE_ID DIR DEADLINE";
    let own: Vec<String> = own.split(' ').map(|name| format!("REKINDLE_{name}")).collect();
    let expected: BTreeSet<&str> = own.iter().map(String::as_str).chain(["PATH", "SMTP_HOST"]).collect();
    assert_eq!(names, expected);
}

#[test]
fn the_process_starts_fresh() {
    let bench = bench();
    let script = "umask; ls -A | wc -l; [ \"$PWD\" = \"$REKINDLE_DIR\" ] && echo home; stat -c %a .; \
        sed -n 's/^Sig[BI].*://p' /proc/self/status; ls /proc/self/fd; touch file; cut -d' ' -f5,19 /proc/$$/stat; echo $$";
    let output = text(&bench.run(&CommandSpec { nice: Some(5), ..shell(script) }, ""));
    let lines: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(lines[..4], ["0027", "0", "home", "700"]);
    let mask = |at: usize| u64::from_str_radix(lines[at], 16).unwrap();
    // 32 and 33 belong to libc, which does not let them be set; they are as this process found them.
    assert_eq!((mask(4), mask(5) & !0x1_8000_0000), (0, 0), "nothing blocked, nothing ignored");
    assert_eq!(lines[6..10], ["0", "1", "2", "3"], "ls itself has opened 3");
    let [group, nice, pid] = lines[10..] else { panic!("{output}") };
    assert_eq!((group, nice), (pid, "5"), "leader of its own group");
    let left: Vec<_> = std::fs::read_dir(bench.dir.path().join("t")).unwrap().collect();
    assert!(left.is_empty(), "the private directory is removed: {left:?}");
}

#[test]
fn a_working_directory_of_the_kind_is_used_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let spec = CommandSpec { cwd: Some(dir.path().to_owned()), ..shell("touch here; [ -d \"$REKINDLE_DIR\" ]") };
    assert_eq!(bench().run(&spec, "").result, AttemptResult::Done);
    assert!(dir.path().join("here").exists());
}
