//! What a command gets, and what its end means (`ux.md` 7.1 and 7.3).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::handlers::testing::{bench, is_inside, shell, text, wait_until};
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
    let own = "TASK KIND RESOURCES ATTEMPT ATTEMPTS_MAX REASON TOKEN ENGINE CLUSTER RELEASE STATE_ID DIR DEADLINE";
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
    let left = || std::fs::read_dir(bench.dir.path().join("t")).unwrap().count();
    wait_until("the removal of the private directory", || (left() == 0).then_some(()));
}

#[test]
fn a_working_directory_of_the_kind_is_used_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let spec = CommandSpec { cwd: Some(dir.path().to_owned()), ..shell("touch here; [ -d \"$REKINDLE_DIR\" ]") };
    assert_eq!(bench().run(&spec, "").result, AttemptResult::Done);
    assert!(dir.path().join("here").exists());
}

#[test]
fn a_script_whose_interpreter_is_missing_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, first: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("{first}\nexit 0\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let (windows, gone) = (script("windows", "#!/bin/sh\r"), script("gone", "#! /no/such/python -u"));
    let bench = bench();
    for (path, why) in [
        (
            &windows,
            "its first line names /bin/sh, which is not there (the script has Windows line ends: sed -i 's/\\r$//')",
        ),
        (&gone, "its first line names /no/such/python, which is not there"),
    ] {
        let ended = bench.run(&program(&[path]), "");
        assert_eq!((ended.result, ended.elsewhere, ended.started), (AttemptResult::Failed, true, false));
        assert_eq!(ended.detail.unwrap(), format!("could not run {path}: {why}"));
    }
}

#[test]
fn a_command_gets_no_new_privileges_unless_its_kind_says_so() {
    let script = "sed -n 's/^NoNewPrivs:\t//p' /proc/self/status";
    let inherited = text(&bench().run(&CommandSpec { new_privileges: true, ..shell(script) }, ""));
    // Whoever runs the tests may have given them up already.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    assert!(own.contains(&format!("NoNewPrivs:\t{inherited}")), "{inherited}");
    assert_eq!(text(&bench().run(&shell(script), "")), "1\n");
}

#[test]
fn a_command_runs_as_its_kinds_user_with_its_groups_in_a_directory_of_its_own() {
    use crate::process::user::{RunAs, missing_rights};
    if !missing_rights().is_empty() {
        return println!("skipped: this test cannot become somebody else");
    }
    let bench = bench();
    // The directories above belong to who runs the tests.
    std::fs::set_permissions(bench.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let nobody = RunAs::find("nobody", Some("daemon")).unwrap();
    let groups: Vec<String> = nobody.groups.iter().map(u32::to_string).collect();
    let script = "id -u; id -g; id -G; pwd; touch file && stat -c %u file; echo $HOME $USER; echo here > /dev/stderr; \
                  sed -n 's/^Cap\\(Eff\\|Amb\\):\t//p' /proc/self/status; kill -0 $PPID 2>/dev/null && echo reaches; exit 0";
    let spec = CommandSpec { run_as: Some(nobody.clone()), ..shell(script) };
    let ended = bench.run(&spec, "");
    let output = text(&ended);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], [nobody.uid.to_string(), nobody.gid.to_string()], "{output}");
    let mut seen: Vec<&str> = lines[2].split(' ').collect();
    let mut wanted: Vec<&str> = groups.iter().map(String::as_str).collect();
    seen.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
    assert!(lines[3].ends_with("4812-6"), "{output}");
    assert_eq!(lines[4..6], [nobody.uid.to_string(), format!("{} nobody", nobody.home.display())], "{output}");
    let none = "0000000000000000";
    assert_eq!(lines[6..], ["here", none, none], "no right is left, and the engine is out of reach");
    assert_eq!(ended.result, AttemptResult::Done);
}

#[test]
fn a_command_of_another_user_is_killed_with_everything_below_it() {
    use crate::process::user::{RunAs, missing_rights};
    if !missing_rights().is_empty() {
        return println!("skipped: this test cannot become somebody else");
    }
    let bench = bench();
    std::fs::set_permissions(bench.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let script = "trap '' TERM; setsid sleep 300 & echo $!; echo $$; sleep 301 & wait; wait; wait";
    let spec = CommandSpec {
        run_as: Some(RunAs::find("nobody", None).unwrap()),
        timeout: Some(Duration::from_millis(300)),
        grace: Duration::from_millis(100),
        ..shell(script)
    };
    let ended = bench.run(&spec, "");
    assert_eq!((ended.result, ended.signal), (AttemptResult::Timeout, Some(9)), "{ended:?}");
    for pid in text(&ended).lines() {
        let proc = crate::guard::tree::read(pid.parse().unwrap());
        assert!(proc.is_none_or(|proc| !proc.is_alive()), "{pid}");
    }
}
