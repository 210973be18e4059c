//! The connection breaks while a step is being written, and the engine does not learn whether it was. Each
//! case is run both ways: the server has carried it out, and it has not.

use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::task::{AttemptResult, TaskState};

use super::engine::Engine;
use super::rig::{Rig, SOON, signal, wait_or};
use crate::support::proxy::{Cut, Moment, Weather};

const CLAIM: &str = "SET state = 3, owner";
const FINISH: &str = "INSERT INTO task_archive";
const ATTEMPT: &str = "INSERT INTO attempt (";
const BEAT: &str = "UPDATE engine SET beat";
const REGISTER: &str = "INSERT INTO engine (";
const FENCE: &str = "UPDATE engine SET state = 2";

/// Carried out, and not.
const BOTH: [Moment; 2] = [Moment::BeforeAnswer, Moment::BeforeRequest];

/// Without resources, and with some: by one statement, and by a transaction.
const KEYS: [&[&str]; 2] = [&[], &["r", "s"]];

fn refused(rig: &Rig, name: &str) -> u64 {
    rig.lives(name).iter().map(|row| row.refused).sum()
}

fn one_life(rig: &Rig, engine: &Engine) {
    assert_eq!(rig.lives(&engine.name).len(), 1, "it came back as a new life\n{}", engine.log());
}

pub fn a_claim_whose_answer_is_lost_runs_once(rig: &Rig) {
    let proxy = rig.proxy();
    let a = rig.engine("a").through(&proxy).start();
    for moment in BOTH {
        for resources in KEYS {
            proxy.cut(Cut::at(CLAIM, moment));
            let task = rig.add_to("sh", "alone r; ticks 2", resources);
            proxy.wait_cut(SOON);
            rig.wait_state(task, TaskState::Done, SOON);
            // What never ran is no attempt, but its token is used up.
            let starts = rig.said(task, "START");
            let row = rig.task(task);
            assert_eq!((starts.len(), row.attempt, row.lost), (1, 1, 0), "{:?}\n{}", rig.attempts(task), a.log());
            assert_eq!(rig.results(task), [AttemptResult::Done]);
            assert_eq!(starts[0].token, row.token.as_i64());
            assert!(moment == Moment::BeforeRequest || row.token.as_i64() & 0xff_ffff >= 2, "{row:?}");
        }
    }
    assert_eq!(refused(rig, "a"), 0);
    one_life(rig, &a);
    a.stop();
}

pub fn an_end_whose_answer_is_lost_is_written_once(rig: &Rig) {
    let proxy = rig.proxy();
    let a = rig.engine("a").through(&proxy).start();
    for moment in BOTH {
        for resources in KEYS {
            proxy.cut(Cut::at(FINISH, moment));
            let task = rig.add_to("sh", "alone r; ticks 2", resources);
            proxy.wait_cut(SOON);
            rig.wait_state(task, TaskState::Done, SOON);
            let next = rig.add_to("sh", "ticks 1", resources);
            rig.wait_state(next, TaskState::Done, SOON);
            let starts = rig.said(task, "START");
            let row = rig.task(task);
            assert_eq!((starts.len(), row.attempt, row.lost), (1, 1, 0), "{:?}\n{}", rig.attempts(task), a.log());
            // Under the token of the claim.
            assert_eq!((rig.results(task), starts[0].token), (vec![AttemptResult::Done], row.token.as_i64()));
        }
    }
    assert_eq!(refused(rig, "a"), 0, "an end that was written counts as refused\n{}", a.log());
    one_life(rig, &a);
    a.stop();
}

pub fn a_failure_whose_answer_is_lost_uses_its_budget_once(rig: &Rig) {
    let proxy = rig.proxy();
    let a = rig.engine("a").kind("again", "retry = { first = \"100ms\" }").through(&proxy).start();
    for moment in BOTH {
        for resources in KEYS {
            proxy.cut(Cut::at(ATTEMPT, moment));
            let task = rig.add_to("again", "if first; then exit 75; fi", resources);
            proxy.wait_cut(SOON);
            rig.wait_state(task, TaskState::Done, SOON);
            let row = rig.task(task);
            assert_eq!((row.attempt, row.failures, row.lost), (2, 1, 0), "{:?}\n{}", rig.attempts(task), a.log());
            assert_eq!(rig.results(task), [AttemptResult::Tempfail, AttemptResult::Done]);
            assert_eq!(rig.said(task, "START").len(), 2);
        }
    }
    assert_eq!(refused(rig, "a"), 0, "{}", a.log());
    a.stop();
}

pub fn beats_whose_answers_are_lost_are_sent_again(rig: &Rig) {
    let proxy = rig.proxy();
    let a = rig.engine("a").through(&proxy).start();
    let task = rig.add("alone r; wait_go");
    rig.wait_starts(task, 1, SOON);
    for moment in BOTH {
        // Two in a row, then one is answered.
        for nth in [1, 2, 4, 5] {
            proxy.cut(Cut::at(BEAT, moment).nth(nth));
        }
        proxy.wait_cut(SOON);
        let beat = rig.life("a").beat;
        wait_or(SOON, || rig.life("a").beat >= beat + 2, || a.log());
    }
    rig.go();
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.task(task).attempt, 1);
    one_life(rig, &a);
    a.stop();
}

pub fn a_registration_whose_answer_is_lost_is_ended_by_the_next(rig: &Rig) {
    for (name, moment, lives) in [("a", BOTH[0], 2), ("b", BOTH[1], 1)] {
        let proxy = rig.proxy();
        proxy.cut(Cut::at(REGISTER, moment));
        let engine = rig.engine(name).through(&proxy).start();
        proxy.wait_cut(SOON);
        let task = rig.add("ticks 1");
        rig.wait_state(task, TaskState::Done, SOON);
        let rows = rig.lives(name);
        assert_eq!((rows.len(), rows[0].state), (lives, EngineState::Live), "{}", engine.log());
        assert!(rows[1..].iter().all(|row| row.proof == Some(Proof::Itself)), "{rows:?}");
        engine.stop();
    }
}

/// An engine comes back from an outage, its `continue` task with it, and the answer to that is lost.
pub fn a_task_that_continues_goes_over_although_the_answer_is_lost(rig: &Rig) {
    let proxy = rig.proxy();
    let a = rig.engine("a").kind("on", "on_lease_loss = \"continue\"").through(&proxy).start();
    // Carried out, it is a life of its own that the next one ends.
    for (outage, moment, lives) in [(1, BOTH[0], 3), (2, BOTH[1], 4)] {
        let continued = rig.add_to("on", "alone c; ticks 90", &["r"]);
        let stopped = rig.add("if first; then forever; fi");
        rig.wait_starts(continued, 1, SOON);
        rig.wait_starts(stopped, 1, SOON);
        proxy.set(Weather::blackhole());
        wait_or(SOON, || a.log().matches("all clear").count() >= outage, || a.log());
        proxy.cut(Cut::at(REGISTER, moment));
        proxy.heal();
        proxy.wait_cut(SOON);
        rig.wait_state(stopped, TaskState::Done, SOON);
        rig.wait_state(continued, TaskState::Done, SOON);
        assert_eq!(rig.results(stopped), [AttemptResult::HandedBack, AttemptResult::Done]);
        assert_eq!(
            (rig.results(continued), rig.task(continued).attempt),
            (vec![AttemptResult::Done], 1),
            "{}",
            a.log()
        );
        assert_eq!(rig.lives("a").len(), lives, "{}", a.log());
        assert!(rig.lives("a")[1..].iter().all(|row| row.proof == Some(Proof::Itself)), "{:?}", rig.lives("a"));
    }
    assert_eq!(refused(rig, "a"), 0);
    a.stop();
}

pub fn a_fence_whose_answer_is_lost_is_finished_by_the_next_sweep(rig: &Rig) {
    peer_dies(rig, FENCE);
}

pub fn a_takeover_whose_answer_is_lost_is_charged_once(rig: &Rig) {
    peer_dies(rig, ATTEMPT);
}

fn peer_dies(rig: &Rig, pattern: &str) {
    let proxy = rig.proxy();
    let b = rig.engine("b").through(&proxy).slots(1).start();
    let busy = rig.add("wait_go");
    rig.wait_starts(busy, 1, SOON);
    for (name, moment) in [("a", BOTH[0]), ("c", BOTH[1])] {
        let dead = rig.engine(name).start();
        let tasks = KEYS.map(|resources| rig.add_to("sh", "if first; then forever; fi; ticks 1", resources));
        tasks.iter().for_each(|task| rig.wait_starts(*task, 1, SOON));
        proxy.cut(Cut::at(pattern, moment));
        let proper = dead.proper();
        dead.signal(Signal::SIGKILL);
        signal(proper, Signal::SIGKILL);
        proxy.wait_cut(SOON);
        let next = rig.engine(&format!("{name}2")).start();
        for task in tasks {
            rig.wait_state(task, TaskState::Done, SOON);
            assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done], "{}", b.log());
            assert_eq!((rig.task(task).lost, rig.said(task, "START").len()), (1, 2));
        }
        let row = rig.life(name);
        let stood = row.ended_at.unwrap().since(row.last_beat_at);
        assert!(row.proof == Some(Proof::Expiry) && stood >= Duration::from_millis(3_200), "{row:?}");
        next.stop();
    }
    rig.go();
    rig.wait_state(busy, TaskState::Done, SOON);
    one_life(rig, &b);
    b.stop();
}
