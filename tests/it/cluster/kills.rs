//! Engines and guards that are killed and frozen: who takes over, when, and that nothing of the old
//! owner acts beside the new one.

use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::ids::TaskId;
use rekindle::protocol::task::{AttemptResult, TaskState};
use rekindle::store::{Fence, FenceOutcome};

use super::engine::Engine;
use super::rig::{Rig, SOON, signal, uptime, wait_or};
use super::units::Service;

/// Its first attempt never ends; the second does.
const FIRST_HANGS: &str = "if first; then forever; fi; ticks 2";
const FIRST_HANGS_AND_ESCAPES: &str = "if first; then escape; forever; fi; ticks 2";

/// 1.25 h + S + T + 1 s of the fast profile.
const FENCED_WITHIN: f64 = 0.625 + 0.25 + 3.2 + 1.0;

/// Two engines, and a task whose first attempt runs on the first of them.
fn pair(rig: &Rig, means: &'static str, body: &str) -> (Engine, Engine, TaskId) {
    let first = rig.engine("a").means(means).start();
    let task = rig.add(body);
    rig.wait_starts(task, 1, SOON);
    if body.contains("escape") {
        let pids = || rig.said(task, "TICK").iter().map(|line| line.pid).collect::<std::collections::BTreeSet<_>>();
        wait_or(SOON, || pids().len() == 2, || "the escaped grandchild does not tick".into());
    }
    let second = rig.engine("b").means(means).start();
    (first, second, task)
}

/// When the second attempt began.
fn second_start(rig: &Rig, task: TaskId) -> f64 {
    rig.wait_starts(task, 2, SOON);
    rig.said(task, "START")[1].at
}

fn ends_done_after_one_loss(rig: &Rig, task: TaskId, evidence: &str) {
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done]);
    assert!(rig.details(task).contains(evidence), "{}", rig.details(task));
    assert_eq!((rig.task(task).lost, rig.task(task).engine.as_deref()), (1, Some("b")));
    rig.assert_no_overlap();
}

fn engine_killed(rig: &Rig, means: &'static str) {
    let (a, b, task) = pair(rig, means, FIRST_HANGS_AND_ESCAPES);
    let killed_at = uptime();
    signal(a.proper(), Signal::SIGKILL);
    let took = second_start(rig, task) - killed_at;
    assert!(took <= 1.0, "the takeover took {took:.2}s\n{}\n{}", a.log(), b.log());
    assert_eq!(a.wait(SOON), 1);
    let row = rig.life("a");
    assert_eq!((row.state, row.proof, row.taken_over), (EngineState::Fenced, Some(Proof::Guard), 1));
    ends_done_after_one_loss(rig, task, "its engine died; its guard killed what was left and proved it");
    b.stop();
    println!("takeover after {took:.2}s");
}

pub fn a_killed_engine_is_proved_dead_and_its_task_runs_elsewhere_within_a_second(rig: &Rig) {
    engine_killed(rig, "auto");
}

pub fn the_same_with_the_process_tree(rig: &Rig) {
    engine_killed(rig, "tree");
}

pub fn the_same_with_a_pid_namespace(rig: &Rig) {
    if nix::unistd::geteuid().is_root() {
        engine_killed(rig, "pidns");
    } else {
        println!("skipped: not root");
    }
}

/// In one stroke, also what forks faster than it can be looked up.
pub fn the_same_with_a_control_group(rig: &Rig) {
    let Some(service) = Service::make(&rig.mark) else { return };
    let a = rig.engine("a").means("cgroup").group(&service.dir).start();
    assert!(a.log().contains("kills by control group"), "{}", a.log());
    let task =
        rig.add("if first; then escape; (while :; do setsid sleep 30 & sleep 0.01; done) & forever; fi; ticks 2");
    rig.wait_starts(task, 1, SOON);
    wait_or(SOON, || rig.task_processes(task).len() > 10, || "it does not fork".into());
    let b = rig.engine("b").start();
    let killed_at = uptime();
    signal(a.proper(), Signal::SIGKILL);
    let took = second_start(rig, task) - killed_at;
    assert!(took <= 2.0, "the takeover took {took:.2}s\n{}\n{}", a.log(), b.log());
    assert_eq!((a.wait(SOON), rig.life("a").proof), (1, Some(Proof::Guard)));
    ends_done_after_one_loss(rig, task, "its guard killed what was left and proved it");
    let own = std::fs::read_dir(&service.dir).unwrap().flatten();
    let left: Vec<_> = own.filter(|e| e.file_name().to_string_lossy().starts_with("rekindle-")).collect();
    assert!(left.is_empty(), "the guard leaves its group behind: {left:?}");
    b.stop();
}

/// The engine is the first process of its namespace and dies with its guard: the kernel kills the rest, an
/// escaped grandchild that ignores signals included. Nobody proves it, so the successor starts after T.
pub fn in_a_pid_namespace_everything_dies_with_guard_and_engine(rig: &Rig) {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: not root");
    }
    let (a, b, task) = pair(rig, "pidns", FIRST_HANGS_AND_ESCAPES);
    assert!(rig.task_processes(task).len() >= 2);
    let proper = a.proper();
    let killed_at = uptime();
    a.signal(Signal::SIGKILL);
    signal(proper, Signal::SIGKILL);
    wait_or(Duration::from_millis(900), || rig.attempt_processes(task, 1).is_empty(), || "a task lives on".into());
    let second = second_start(rig, task);
    let first_token = rig.said(task, "START")[0].token;
    let last = rig.oracle().into_iter().rfind(|line| line.token == first_token).unwrap();
    assert!(last.at - killed_at < 0.9 && last.at < second, "{last:?}, killed at {killed_at}, second at {second}");
    assert_eq!(rig.life("a").proof, Some(Proof::Expiry));
    ends_done_after_one_loss(rig, task, "no beat for");
    b.stop();
}

pub fn an_engine_whose_guard_is_killed_kills_its_tasks_and_dies(rig: &Rig) {
    let (a, b, task) = pair(rig, "tree", FIRST_HANGS_AND_ESCAPES);
    let proper = a.proper();
    let killed_at = uptime();
    a.signal(Signal::SIGKILL);
    let is_gone = || rekindle::guard::tree::read(proper).is_none_or(|proc| !proc.is_alive());
    wait_or(SOON, is_gone, || a.log());
    let last = rig.last_line(task).unwrap();
    second_start(rig, task);
    assert!(last.at - killed_at < 1.0, "a task ran on: {last:?}, killed at {killed_at}");
    let row = rig.life("a");
    let stood = row.ended_at.unwrap().since(row.last_beat_at).as_secs_f64();
    assert!(row.proof == Some(Proof::Expiry) && stood <= FENCED_WITHIN, "{row:?}");
    ends_done_after_one_loss(rig, task, "no beat for");
    b.stop();
}

pub fn after_the_death_of_both_tasks_die_and_a_peer_fences_by_expiry(rig: &Rig) {
    let (a, b, task) = pair(rig, "tree", FIRST_HANGS);
    let proper = a.proper();
    let killed_at = uptime();
    a.signal(Signal::SIGKILL);
    signal(proper, Signal::SIGKILL);
    second_start(rig, task);
    let first: Vec<_> = rig.oracle().into_iter().filter(|line| line.word == "TICK").collect();
    let old = first.iter().rfind(|line| line.token == first[0].token).unwrap();
    assert!(old.at - killed_at < 0.5, "the death signal came late: {old:?}, killed at {killed_at}");
    let row = rig.life("a");
    let stood = row.ended_at.unwrap().since(row.last_beat_at).as_secs_f64();
    assert!(row.proof == Some(Proof::Expiry) && stood <= FENCED_WITHIN, "{row:?}");
    ends_done_after_one_loss(rig, task, "no beat for");
    b.stop();
}

pub fn a_frozen_engine_is_killed_by_its_guard_before_a_successor_starts(rig: &Rig) {
    let (a, b, task) = pair(rig, "tree", FIRST_HANGS_AND_ESCAPES);
    let stopped_at = uptime();
    signal(a.proper(), Signal::SIGSTOP);
    let took = second_start(rig, task) - stopped_at;
    // L + K/2 after its last beat the guard acts; at the latest K/2 later all is dead.
    assert!(took <= 2.5 + 0.5 + 1.0, "the takeover took {took:.2}s\n{}", a.log());
    assert_eq!((a.wait(SOON), rig.life("a").proof), (1, Some(Proof::Guard)));
    ends_done_after_one_loss(rig, task, "its guard killed what was left");
    b.stop();
}

/// Not in the middle of a write to a SQLite file, which would stop its peer, too.
fn freeze_both(rig: &Rig, engine: &Engine, proper: i32) {
    loop {
        engine.signal(Signal::SIGSTOP);
        signal(proper, Signal::SIGSTOP);
        if rig.takes_writes() {
            return;
        }
        signal(proper, Signal::SIGCONT);
        engine.signal(Signal::SIGCONT);
    }
}

/// Not covered by kills (`design.md` 4.1): here the token is what protects.
pub fn a_late_finish_of_an_engine_that_was_frozen_with_its_guard_is_refused_and_counted(rig: &Rig) {
    // The work of the first attempt ends while its engine is frozen.
    let (a, b, task) = pair(rig, "tree", "if first; then wait_go; fi; ticks 4");
    let frozen = rig.life("a").incarnation;
    let proper = a.proper();
    freeze_both(rig, &a, proper);
    rig.go();
    rig.wait_state(task, TaskState::Done, SOON);
    let (token, attempts) = (rig.task(task).token, rig.attempts(task));
    let row = || rig.lives("a").into_iter().find(|row| row.incarnation == frozen).unwrap();
    assert_eq!((row().refused, row().proof), (0, Some(Proof::Expiry)));
    signal(proper, Signal::SIGCONT);
    wait_or(SOON, || row().refused == 1, || format!("nothing was refused: {:?}\n{}", row(), a.log()));
    a.signal(Signal::SIGCONT);
    wait_or(SOON, || a.log().contains("was refused"), || a.log());
    assert_eq!((rig.task(task).token, rig.attempts(task)), (token, attempts), "the refused write changed something");
    ends_done_after_one_loss(rig, task, "no beat for");
    // It comes back as a new life, and works.
    wait_or(SOON, || rig.life("a").incarnation != frozen && rig.life("a").beat > 0, || a.log());
    b.stop();
    let next = rig.add("ticks 1");
    rig.wait_state(next, TaskState::Done, SOON);
    a.stop();
}

/// Not with the next beat only, which is 10 s away with tolerant timing: an engine that froze before it would
/// lose the task.
pub fn a_task_that_continues_is_named_to_the_guard_at_its_start(rig: &Rig) {
    let a = rig.engine("a").timing("tolerant").kind("on", "on_lease_loss = \"continue\"").start();
    let proper = a.proper();
    let beats = rig.life("a").beat;
    let task = rig.add_to("on", "forever", &[]);
    rig.wait_starts(task, 1, SOON);
    wait_or(
        SOON,
        || a.log().lines().any(|l| l.contains("the engine says Continue([") && !l.contains("[]")),
        || a.log(),
    );
    assert_eq!(rig.life("a").beat, beats, "no beat has named it");
    signal(proper, Signal::SIGKILL);
    a.wait(SOON);
}

/// With fewer than L frozen nobody is disturbed.
pub fn an_engine_that_is_frozen_for_less_than_its_lease_goes_on(rig: &Rig) {
    use rekindle::clock::{Clock, SystemClock};
    let (a, b, task) = pair(rig, "tree", "ticks 60");
    let incarnation = rig.life("a").incarnation;
    let proper = a.proper();
    signal(proper, Signal::SIGSTOP);
    SystemClock.pause(Duration::from_millis(1_200));
    signal(proper, Signal::SIGCONT);
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!((rig.results(task), rig.task(task).attempt), (vec![AttemptResult::Done], 1), "{:?}", rig.task(task));
    assert_eq!((rig.life("a").incarnation, rig.life("a").state), (incarnation, EngineState::Live));
    a.stop();
    b.stop();
}

/// The engine hears nothing of its guard for L: it kills its tasks and dies; a peer takes over after T.
pub fn an_engine_whose_guard_is_frozen_kills_its_tasks_and_dies(rig: &Rig) {
    let (a, b, task) = pair(rig, "tree", FIRST_HANGS_AND_ESCAPES);
    let proper = a.proper();
    a.signal(Signal::SIGSTOP);
    let is_gone = || rekindle::guard::tree::read(proper).is_none_or(|proc| !proc.is_alive());
    wait_or(SOON, is_gone, || a.log());
    assert_eq!(rig.attempt_processes(task, 1), Vec::<i32>::new());
    second_start(rig, task);
    assert_eq!(rig.life("a").proof, Some(Proof::Expiry));
    a.signal(Signal::SIGCONT);
    assert_eq!(a.wait(SOON), 1);
    ends_done_after_one_loss(rig, task, "no beat for");
    b.stop();
}

/// It stops everything first; then its tasks are given to others, and it comes back as a new life.
pub fn an_operators_fence_waits_until_the_engine_has_stopped_everything(rig: &Rig) {
    let (a, b, task) = pair(rig, "tree", FIRST_HANGS_AND_ESCAPES);
    let fenced = rig.life("a").incarnation;
    let fence = Fence { incarnation: fenced, beat: None, proof: Proof::Operator, by: "ops".into(), place: None };
    let fenced_at = uptime();
    assert_eq!(rig.store().fence(&fence).unwrap(), FenceOutcome::Won);
    let took = second_start(rig, task) - fenced_at;
    assert!(took <= 2.5, "the takeover took {took:.2}s");
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done]);
    assert!(rig.details(task).contains("fenced by ops"), "{}", rig.details(task));
    assert_eq!((rig.life("a").state, rig.lives("a").len()), (EngineState::Live, 2));
    a.stop();
    b.stop();
}

/// The guard starts the prover from the program that it runs itself.
pub fn a_release_that_was_removed_still_proves_the_death_of_its_engine(rig: &Rig) {
    let release = rig.path("release");
    std::fs::create_dir(&release).unwrap();
    let program = release.join("rekindle-engine");
    std::fs::copy(env!("CARGO_BIN_EXE_rekindle-engine"), &program).unwrap();
    let a = rig.engine("a").program(&program).start();
    std::fs::remove_dir_all(&release).unwrap();
    signal(a.proper(), Signal::SIGKILL);
    assert_eq!((a.wait(SOON), rig.life("a").proof), (1, Some(Proof::Guard)), "{}", a.log());
}
