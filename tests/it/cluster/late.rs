//! Rows that come too late or go too early: a claim that commits after its engine was fenced, taken over and closed; a
//! running task that somebody deletes.

use std::time::Duration;

use rekindle::protocol::engine::Proof;
use rekindle::protocol::task::{AttemptResult, TaskState};
use rekindle::store::{Fence, FenceOutcome, Registration, TaskVerb};

use super::rig::{Rig, SOON, wait_or};
use crate::support::builders;

pub fn a_claim_that_commits_after_its_engine_was_closed_runs_again_by_itself(rig: &Rig) {
    let b = rig.engine("b").start();
    let ghost = Registration { cluster: "it".into(), ..builders::engine("ghost").0 };
    rig.store().register(&ghost).unwrap();
    let fence =
        Fence { incarnation: ghost.incarnation, beat: None, proof: Proof::Guard, by: "a test".into(), place: None };
    assert_eq!(rig.store().fence(&fence).unwrap(), FenceOutcome::Won);
    let owner = ghost.incarnation.as_i64();
    let open = || rig.number(&format!("SELECT count(*) FROM engine WHERE incarnation = {owner}"));
    wait_or(SOON, || open() == 0, || format!("the ghost is not closed\n{}", b.log()));

    // Nobody runs this kind, so the late claim is the only one.
    let (plain, keyed) = (rig.add_to("later", "ticks 1", &[]), rig.add_to("later", "ticks 1", &["r"]));
    let behind = rig.add_to("sh", "ticks 1", &["r"]);
    wait_or(SOON, || rig.state(behind) == TaskState::Blocked, || format!("{:?}", rig.task(behind)));
    for task in [plain, keyed] {
        rig.sql(&format!(
            "UPDATE task SET state = 3, owner = {owner}, nonce = {0}, token = token + 7, attempt = 1, kind = 'sh', \
             claimed_at = created_at WHERE id = {0}",
            task.as_i64()
        ));
    }
    let id = keyed.as_i64();
    rig.sql(&format!(
        "UPDATE resource SET owner = {owner}, owner_task = {id}, token = (SELECT token FROM task WHERE id = {id})"
    ));
    // Once per T; some more for a busy host.
    for task in [plain, keyed, behind] {
        rig.wait_state(task, TaskState::Done, Duration::from_secs(8));
    }
    for task in [plain, keyed] {
        assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done]);
        assert_eq!(rig.task(task).lost, 1);
    }
    assert_eq!(rig.results(behind), [AttemptResult::Done]);
    assert!(rig.store().task_verb(behind, TaskVerb::Cancel).is_ok());
    b.stop();
}

/// It kept its resource as long as its engine lived, and nobody said a word.
pub fn a_running_task_that_was_deleted_by_hand_gives_its_resource_back(rig: &Rig) {
    let a = rig.engine("a").start();
    let gone = rig.add_to("sh", "ticks 3000", &["r"]);
    rig.wait_state(gone, TaskState::Running, SOON);
    let next = rig.add_to("sh", "ticks 1", &["r"]);
    rig.sql(&format!("DELETE FROM task WHERE id = {}", gone.as_i64()));
    // Two full sweeps and a search for orphans; some more for a busy host.
    rig.wait_state(next, TaskState::Done, Duration::from_secs(30));
    assert!(rig.said(gone, "END").is_empty(), "it was stopped before its successor began");
    a.stop();
}
