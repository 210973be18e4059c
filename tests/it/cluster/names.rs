//! Names and state directories: who may be whom.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::task::{AttemptResult, TaskState};

use super::engine::Engine;
use super::rig::{Rig, SOON, signal, wait_or};

fn kill_both(engine: &Engine) {
    let proper = engine.proper();
    engine.signal(Signal::SIGKILL);
    signal(proper, Signal::SIGKILL);
    engine.wait(SOON);
    // It holds the state directory's lock until it is wholly gone.
    let is_gone = || rekindle::guard::tree::read(proper).is_none_or(|proc| !proc.is_alive());
    wait_or(SOON, is_gone, || engine.log());
}

fn copy(rig: &Rig, from: &str, to: &str) {
    assert!(Command::new("cp").arg("-a").arg(rig.path(from)).arg(rig.path(to)).status().unwrap().success());
}

pub fn a_second_engine_of_a_live_name_exits_3_and_disturbs_nobody(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("ticks 60");
    rig.wait_starts(task, 1, SOON);
    copy(rig, "state-a", "state-copy");
    // The same state directory, another one, and a copy of the first.
    for state in ["state-a", "state-other", "state-copy"] {
        let second = rig.engine("a").state(state).launch();
        assert_eq!(second.wait(SOON), 3, "{}", second.log());
        let said = if state == "state-a" { "in use by another engine" } else { "is taken by a live engine" };
        assert!(second.log().contains(said), "{}", second.log());
    }
    assert_eq!(rig.lives("a").len(), 1);
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.results(task), [AttemptResult::Done]);
    a.stop();
}

/// A whole cluster that lost its power, or a host whose disk is new: nobody is left who could fence the rows
/// that still look live, so the namesake itself watches for T.
pub fn without_its_state_directory_a_dead_name_is_free_after_its_t(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("if first; then forever; fi; ticks 2");
    rig.wait_starts(task, 1, SOON);
    kill_both(&a);
    let former = rig.life("a").incarnation;
    let other = rig.engine("a").state("state-other").start();
    rig.wait_state(task, TaskState::Done, SOON);
    let row = rig.lives("a").into_iter().find(|row| row.incarnation == former).unwrap();
    assert_eq!((row.state, row.proof), (EngineState::Fenced, Some(Proof::Expiry)), "{}", other.log());
    other.stop();
}

pub fn after_the_death_of_both_the_same_state_directory_registers_at_once(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("if first; then escape; forever; fi; ticks 2");
    rig.wait_starts(task, 1, SOON);
    wait_or(SOON, || rig.task_processes(task).len() >= 2, || "nothing escaped".into());
    kill_both(&a);
    let former = rig.life("a");
    assert_eq!(former.state, EngineState::Live);
    let again = rig.engine("a").start();
    let row = rig.lives("a").into_iter().find(|row| row.incarnation == former.incarnation).unwrap();
    assert_eq!((row.state, row.proof), (EngineState::Fenced, Some(Proof::Lock)));
    let stood = row.ended_at.unwrap().since(row.last_beat_at);
    assert!(stood < Duration::from_secs(3), "it waited for T: {stood:?}\n{}", again.log());
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done]);
    again.stop();
}
