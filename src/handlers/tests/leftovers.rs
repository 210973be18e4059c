//! No process of a task outlives its attempt (I8), and none outlives its engine.
//!
//! A subreaper takes every unknown child for a straggler, so those tests run in a process of their
//! own: the test binary once more, with one test's name.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::guard::tree;
use crate::handlers::testing::{Bench, INSIDE, again, attempt, bench, bench_in, is_inside, shell, wait_until};
use crate::handlers::{AttemptControl, CommandSpec, Commands, Mode, StopKind};
use crate::protocol::ids::TaskId;
use crate::protocol::task::{AttemptResult, OnLeaseLoss};

fn is_alive(pid: i32) -> bool {
    tree::read(pid).is_some_and(|p| p.is_alive())
}

fn pid_in(file: &Path) -> i32 {
    wait_until("a pid", || std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

fn with_dir(bench: &Bench, script: &str) -> CommandSpec {
    let mut spec = shell(script);
    spec.env.insert("D".to_owned(), bench.dir.path().to_str().unwrap().to_owned());
    spec
}

const ESCAPE: &str = "
    setsid sh -c 'echo $$ > $D/session; exec sleep 300' &
    (setsid sh -c 'trap \"\" TERM HUP; sleep 301 & echo $! > $D/below; echo $$ > $D/daemon; wait' &)
    for f in session daemon below; do while [ ! -s $D/$f ]; do sleep 0.01; done; done
";

fn escaped(bench: &Bench) -> Vec<i32> {
    ["session", "daemon", "below"].map(|name| pid_in(&bench.dir.path().join(name))).to_vec()
}

#[test]
fn daemons_of_a_task_end_with_its_attempt() {
    if !is_inside("leftovers::daemons_of_a_task_end_with_its_attempt") {
        return;
    }
    let bench = bench_in(Mode::Daemon);
    let ended = bench.run(&with_dir(&bench, ESCAPE), "");
    assert_eq!(ended.result, AttemptResult::Done, "{ended:?}");
    for pid in escaped(&bench) {
        assert!(!is_alive(pid), "{pid}");
    }
    let me = std::process::id() as i32;
    assert!(tree::descendants(&tree::snapshot().unwrap(), me).is_empty(), "no zombie is left either");
}

#[test]
fn stragglers_are_told_from_running_attempts() {
    if !is_inside("leftovers::stragglers_are_told_from_running_attempts") {
        return;
    }
    let bench = bench_in(Mode::Daemon);
    let wait = with_dir(&bench, ": > $D/waits; while [ ! -e $D/go ]; do sleep 0.01; done; echo whole");
    let next = AtomicI64::new(1);
    let run = |spec: &CommandSpec| {
        let mut attempt = attempt("");
        attempt.task = TaskId::new(next.fetch_add(1, Ordering::Relaxed));
        bench.runner.run(spec, &attempt, &AttemptControl::new().unwrap())
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&wait));
        wait_until("the waiting command", || bench.dir.path().join("waits").exists().then_some(()));
        let others: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let ended = run(&shell("setsid sleep 300 & (setsid sleep 301 &); exit 0"));
                        assert_eq!(ended.result, AttemptResult::Done, "{ended:?}");
                    }
                })
            })
            .collect();
        others.into_iter().for_each(|other| other.join().unwrap());
        std::fs::write(bench.dir.path().join("go"), "").unwrap();
        let ended = waiting.join().unwrap();
        assert_eq!((ended.result, &ended.output[..]), (AttemptResult::Done, &b"whole\n"[..]));
    });
    let me = std::process::id() as i32;
    assert!(tree::descendants(&tree::snapshot().unwrap(), me).is_empty());
}

#[test]
fn a_kill_reaches_what_left_the_group_also_without_a_subreaper() {
    kill_of_what_left_the_group(&bench());
}

#[test]
fn a_kill_leaves_no_zombie_in_an_engine() {
    if is_inside("leftovers::a_kill_leaves_no_zombie_in_an_engine") {
        kill_of_what_left_the_group(&bench_in(Mode::Daemon));
        let me = std::process::id() as i32;
        assert!(tree::descendants(&tree::snapshot().unwrap(), me).is_empty());
    }
}

fn kill_of_what_left_the_group(bench: &Bench) {
    let spec = with_dir(bench, &format!("trap '' TERM; {ESCAPE} : > $D/all; while :; do sleep 0.05; done"));
    let control = AttemptControl::new().unwrap();
    let attempt = attempt("");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| bench.runner.run(&spec, &attempt, &control));
        wait_until("the daemons", || bench.dir.path().join("all").exists().then_some(()));
        let now = SystemClock.lease_now();
        control.stop(StopKind::Cancel, now, now.after(Duration::from_millis(50)));
        let ended = running.join().unwrap();
        assert_eq!((ended.result, ended.signal), (AttemptResult::Canceled, Some(9)));
    });
    for pid in escaped(bench) {
        assert!(!is_alive(pid), "{pid}");
    }
}

#[test]
fn output_kept_open_in_the_background_does_not_delay_the_end() {
    let bench = bench();
    let grouped = bench.run(&with_dir(&bench, "sleep 300 & echo $! > $D/grouped; echo out"), "");
    assert_eq!((grouped.result, &grouped.output[..]), (AttemptResult::Done, &b"out\n"[..]));
    assert!(!is_alive(pid_in(&bench.dir.path().join("grouped"))));
    // In a library this one escapes, as the mode says; it holds stdout open all the while.
    let script = "setsid sh -c 'echo $$ > $D/away; exec sleep 300' & while [ ! -s $D/away ]; do sleep 0.01; done";
    assert_eq!(bench.run(&with_dir(&bench, script), "").result, AttemptResult::Done);
    let away = tree::read(pid_in(&bench.dir.path().join("away"))).unwrap();
    assert!(tree::signal(&away, nix::sys::signal::Signal::SIGKILL).is_there());
}

/// Starts this test binary as an engine with one task, and returns it with the task's pid.
fn engine_with_task(test: &str) -> (Child, i32) {
    let mut engine = again(test).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(engine.stdout.take().unwrap()).lines();
    let pid = lines.map_while(Result::ok).find_map(|line| line.split_once("main=")?.1.trim().parse().ok()).unwrap();
    (engine, pid)
}

/// The engine's side: runs one endless task and says its number.
fn be_an_engine(on_lease_loss: OnLeaseLoss) {
    let bench = bench_in(Mode::Daemon);
    let spec = CommandSpec { on_lease_loss, ..shell("exec sleep 300") };
    let control = AttemptControl::new().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| bench.runner.run(&spec, &attempt(""), &control));
        let is_sleep = |pid| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"sleep\n");
        let pid = wait_until("the task", || control.main_pid().filter(|pid| is_sleep(*pid)));
        println!("main={pid}");
    });
}

#[test]
fn the_kernel_kills_tasks_of_a_killed_engine() {
    const TEST: &str = "leftovers::the_kernel_kills_tasks_of_a_killed_engine";
    if std::env::var(INSIDE).is_ok() {
        return be_an_engine(OnLeaseLoss::Stop);
    }
    let (mut engine, pid) = engine_with_task(TEST);
    engine.kill().unwrap();
    engine.wait().unwrap();
    wait_until("the task's death", || (!is_alive(pid)).then_some(()));
}

#[test]
fn a_task_that_continues_survives_its_engine() {
    const TEST: &str = "leftovers::a_task_that_continues_survives_its_engine";
    if std::env::var(INSIDE).is_ok() {
        return be_an_engine(OnLeaseLoss::Continue);
    }
    let (mut engine, pid) = engine_with_task(TEST);
    engine.kill().unwrap();
    engine.wait().unwrap();
    // A death signal is sent while the engine exits, so before it could be waited for.
    let task = tree::read(pid).unwrap();
    assert!(tree::signal(&task, nix::sys::signal::Signal::SIGKILL).is_there());
}
