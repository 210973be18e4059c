//! An engine in a container: a PID namespace and a /proc of its own, in which the guard is process 1. That
//! process gets no signal that it does not ask for, adopts every orphan, and takes all others along when it dies.

use std::process::Command;

use nix::sys::signal::Signal;
use rekindle::guard::tree;
use rekindle::protocol::engine::Proof;
use rekindle::protocol::task::{AttemptResult, TaskState};

use super::engine::{CONTAINER, Engine};
use super::rig::{Case, Rig, SOON, signal, uptime, wait_or};

/// Where this host lets us make one.
fn contained(rig: &Rig, case: Case) {
    let made = Command::new(CONTAINER[0]).args(&CONTAINER[1..]).arg("true").output();
    match made {
        Ok(out) if out.status.success() => case(rig),
        other => println!("skipped: no PID namespace can be made here ({other:?})"),
    }
}

fn zombies(engine: &Engine) -> Vec<tree::Proc> {
    let parents = [Some(engine.guard), engine.try_proper()];
    let all = tree::snapshot().unwrap().into_iter();
    all.filter(|proc| proc.state == b'Z' && parents.contains(&Some(proc.ppid))).collect()
}

pub fn as_process_1_a_guard_reaps_every_orphan(rig: &Rig) {
    contained(rig, |rig| {
        let a = rig.engine("a").contained().start();
        let inside = std::fs::read_to_string(format!("/proc/{}/status", a.guard)).unwrap();
        let numbers = inside.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        assert!(numbers.ends_with("\t1"), "the guard is not process 1: {numbers}");
        // What a task leaves is the engine's; what somebody else starts in the container becomes the guard's.
        let task = rig.add("for n in 1 2 3; do (setsid sh -c 'sleep 0.1 & setsid sleep 0.2 &' &); done; ticks 10");
        let enter = ["--target", &a.guard.to_string(), "--pid", "--mount", "sh", "-c", "sleep 0.7 & sleep 0.7 &"];
        assert!(Command::new("nsenter").args(enter).envs(rig.env()).status().unwrap().success());
        let adopted = || {
            let all = tree::snapshot().unwrap().into_iter();
            all.filter(|proc| proc.ppid == a.guard && Some(proc.pid) != a.try_proper()).count()
        };
        wait_or(SOON, || adopted() == 2, || format!("{} orphans are the guard's", adopted()));
        rig.wait_state(task, TaskState::Done, SOON);
        wait_or(SOON, || adopted() == 0, || format!("{} are left of the guard's orphans", adopted()));
        wait_or(SOON, || zombies(&a).is_empty(), || format!("zombies: {:?}", zombies(&a)));
        a.stop();
    });
}

pub fn as_process_1_a_guard_obeys_the_signals_that_stop(rig: &Rig) {
    contained(rig, |rig| {
        for stop in [Signal::SIGTERM, Signal::SIGINT] {
            let a = rig.engine("a").contained().start();
            let task = rig.add("ticks 20");
            rig.wait_starts(task, 1, SOON);
            a.signal(stop);
            assert_eq!(a.wait(SOON), 0, "{stop}\n{}", a.log());
            assert_eq!((rig.state(task), rig.results(task)), (TaskState::Done, vec![AttemptResult::Done]));
        }
        // With nothing asked for it would stay: SIGQUIT hands back at once.
        let a = rig.engine("a").contained().start();
        let task = rig.add("if first; then deaf; forever; fi");
        rig.wait_starts(task, 1, SOON);
        a.signal(Signal::SIGQUIT);
        assert_eq!(a.wait(SOON), 0, "{}", a.log());
        assert_eq!((rig.state(task), rig.results(task)), (TaskState::Ready, vec![AttemptResult::HandedBack]));
    });
}

pub fn in_a_container_a_killed_engine_is_proved_dead_and_the_container_ends(rig: &Rig) {
    contained(rig, |rig| {
        let a = rig.engine("a").contained().start();
        let task = rig.add("if first; then escape; forever; fi; ticks 2");
        rig.wait_starts(task, 1, SOON);
        let b = rig.engine("b").start();
        let killed_at = uptime();
        signal(a.proper(), Signal::SIGKILL);
        rig.wait_starts(task, 2, SOON);
        let took = rig.said(task, "START")[1].at - killed_at;
        // So that whoever runs the container starts it again.
        assert_eq!((a.wait(SOON), rig.life("a").proof), (1, Some(Proof::Guard)), "{}", a.log());
        assert!(took <= 1.0, "the takeover took {took:.2}s");
        rig.wait_state(task, TaskState::Done, SOON);
        assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done]);
        b.stop();
    });
}

pub fn a_killed_container_takes_everything_along_and_its_name_comes_back_at_once(rig: &Rig) {
    contained(rig, |rig| {
        let a = rig.engine("a").contained().start();
        let task = rig.add("alone r; if first; then escape; deaf; forever; fi; ticks 2");
        rig.wait_starts(task, 1, SOON);
        wait_or(SOON, || rig.said(task, "TICK").len() > 4, || "it does not tick".into());
        let killed_at = uptime();
        a.signal(Signal::SIGKILL);
        // Whoever made it says so in its own way.
        assert_ne!(a.wait(SOON), 0, "{}", a.log());
        wait_or(SOON, || rig.processes().is_empty(), || format!("left: {:?}", rig.processes()));
        let last = rig.last_line(task).unwrap();
        assert!(last.at - killed_at < 0.5, "{:.2}s after its container: {last:?}", last.at - killed_at);
        // On the same volume, long before T.
        let a = rig.engine("a").contained().start();
        rig.wait_starts(task, 2, SOON);
        rig.wait_state(task, TaskState::Done, SOON);
        assert_eq!(rig.lives("a")[1].proof, Some(Proof::Lock));
        a.stop();
    });
}
