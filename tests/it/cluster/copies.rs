//! Two machines that were resumed from one snapshot: the second one is played by a client that beats the row of the
//! first, once per h. That is all it may do as the same incarnation before the life of both is over.

use rekindle::clock::{Clock, SystemClock};
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::task::{AttemptResult, TaskState};
use rekindle::protocol::timing::{Profile, Timing};

use super::rig::{Rig, SOON, wait_or};

pub fn an_engine_whose_row_a_copy_beats_too_comes_back_as_another_life(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("if first; then forever; fi; ticks 1");
    rig.wait_starts(task, 1, SOON);
    let first = rig.life("a");
    let beat =
        format!("UPDATE engine SET beat = beat + 1 WHERE state = 1 AND incarnation = {}", first.incarnation.as_i64());
    let h = Timing::of(Profile::Fast).heartbeat_interval();
    let is_over = || {
        rig.sql(&beat);
        SystemClock.pause(h);
        rig.lives("a").len() == 2
    };
    wait_or(SOON, is_over, || a.log());
    assert!(a.log().contains("a copy of this machine beats the same row"), "{}", a.log());
    wait_or(SOON, || rig.life("a").beat > 0, || a.log());
    // The copy may still run what it has, so its tasks wait as after an operator's fence.
    let (second, ended) = (rig.life("a"), rig.lives("a").remove(1));
    assert_eq!(
        (second.state, ended.state, ended.proof),
        (EngineState::Live, EngineState::Fenced, Some(Proof::Operator))
    );
    assert_eq!(ended.ended_by.as_deref(), Some("a, which found a copy of itself"));
    assert_ne!(first.state_id, second.state_id);
    wait_or(SOON, || rig.processes().iter().all(|pid| !rig.task_processes(task).contains(pid)), || a.log());
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done]);
    // The word stays with the state directory.
    a.stop();
    let again = rig.engine("a").start();
    assert_eq!(rig.life("a").state_id, second.state_id);
    again.stop();
}
