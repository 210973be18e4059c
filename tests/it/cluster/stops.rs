//! Tasks that do not want to end, and engines that are told to.

use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::protocol::engine::{EngineState, Mode, Wanted};
use rekindle::protocol::ids::{EngineName, TaskId};
use rekindle::protocol::task::{AttemptResult, TaskState};
use rekindle::store::{Counts, TaskVerb, VerbOutcome, Wish4Engine};

use super::engine::Engine;
use super::rig::{Rig, SOON, wait_or};

/// Ignores TERM; and one whose grandchild, in a session of its own, does.
const STUBBORN: [&str; 2] = ["deaf; forever", "escape; forever"];

fn wants(rig: &Rig, name: &str, wanted: Wanted) {
    wants_by(rig, name, wanted, None);
}

fn wants_by(rig: &Rig, name: &str, wanted: Wanted, deadline: Option<Duration>) {
    let (reason, by) = (Some("a test".to_owned()), "ops".to_owned());
    let name = EngineName::new(name).unwrap();
    let wish = Wish4Engine { name, wanted, reason, by, deadline, lasts: None };
    assert!(rig.store().set_wanted(&wish).unwrap().is_some());
}

fn wait_mode(rig: &Rig, engine: &Engine, mode: Mode) {
    wait_or(Duration::from_secs(2), || rig.life(&engine.name).mode == mode, || format!("{:?}", rig.life(&engine.name)));
}

/// Its end is written, so nothing of it may be left (I8).
fn ended(rig: &Rig, task: TaskId, state: TaskState, result: AttemptResult) {
    rig.wait_state(task, state, SOON);
    assert_eq!(rig.task_processes(task), Vec::<i32>::new(), "{task} is {state} and still runs");
    assert_eq!(rig.results(task), [result]);
}

fn start_all(rig: &Rig, kind: &str) -> [TaskId; 2] {
    let tasks = STUBBORN.map(|body| rig.add_to(kind, body, &[]));
    for task in tasks {
        rig.wait_starts(task, 1, SOON);
        wait_or(SOON, || !rig.said(task, "TICK").is_empty(), || "no tick".into());
    }
    tasks
}

pub fn stubborn_tasks_end_on_timeout_cancel_and_stop(rig: &Rig) {
    let spec = rig.engine("a").slots(8).with("stop_deadline = \"300ms\"");
    let a = spec.kind("quick", "timeout = \"600ms\"\nretry = { max = 1 }").start();
    for task in start_all(rig, "quick") {
        ended(rig, task, TaskState::Failed, AttemptResult::Timeout);
    }
    let tasks = start_all(rig, "sh");
    for task in tasks {
        assert_eq!(rig.store().task_verb(task, TaskVerb::Cancel).unwrap(), VerbOutcome::Asked);
    }
    for task in tasks {
        ended(rig, task, TaskState::Canceled, AttemptResult::Canceled);
    }
    let tasks = start_all(rig, "sh");
    a.stop();
    for task in tasks {
        ended(rig, task, TaskState::Ready, AttemptResult::HandedBack);
        assert_eq!((rig.task(task).lost, rig.task(task).failures), (0, 0));
        rig.store().task_verb(task, TaskVerb::Cancel).unwrap();
    }
    let row = rig.life("a");
    assert_eq!((row.state, row.proof, row.taken_over), (EngineState::Stopped, None, 0));
}

/// Heartbeats are ten seconds apart here, so the attempt ends before its engine hears of the wish.
pub fn a_cancel_is_obeyed_although_the_attempt_ends_by_itself_first(rig: &Rig) {
    let a =
        rig.engine("a").timing("tolerant").kind("back", "retry = { max = 5, first = \"1s\", factor = 1.0 }").start();
    let (temporary, permanent) =
        (rig.add_to("back", "wait_go; exit 75", &[]), rig.add_to("back", "wait_go; exit 65", &["r"]));
    let (done, behind) = (rig.add_to("back", "wait_go", &[]), rig.add_to("back", "ticks 1", &["r"]));
    for task in [temporary, permanent, done] {
        rig.wait_starts(task, 1, SOON);
        assert_eq!(rig.store().task_verb(task, TaskVerb::Cancel).unwrap(), VerbOutcome::Asked);
    }
    rig.go();
    ended(rig, temporary, TaskState::Canceled, AttemptResult::Tempfail);
    ended(rig, permanent, TaskState::Canceled, AttemptResult::Failed);
    ended(rig, done, TaskState::Done, AttemptResult::Done);
    rig.wait_state(behind, TaskState::Done, SOON);
    a.stop();
}

pub fn a_stopping_engine_lets_its_tasks_finish_and_its_peer_takes_the_rest(rig: &Rig) {
    let a = rig.engine("a").slots(1).start();
    let (first, second) = (rig.add("ticks 20"), rig.add("ticks 1"));
    rig.wait_starts(first, 1, SOON);
    a.stop();
    assert_eq!((rig.state(first), rig.life("a").state), (TaskState::Done, EngineState::Stopped));
    assert_eq!((rig.state(second), rig.task(second).attempt), (TaskState::Ready, 0));
    let b = rig.engine("b").start();
    rig.wait_state(second, TaskState::Done, SOON);
    b.stop();
}

pub fn an_engine_that_is_stopped_while_it_starts_exits_well(rig: &Rig) {
    use rekindle::clock::{Clock, SystemClock};
    for ms in [5, 10, 15, 20, 25, 30, 40, 60, 100] {
        let a = rig.engine("a").launch();
        SystemClock.pause(Duration::from_millis(ms));
        a.signal(Signal::SIGTERM);
        // Before the guard itself handles signals it dies of it, which systemd takes as a clean end, too.
        let code = a.wait(SOON);
        assert!(code == 0 || code == -15, "{code} after {ms} ms\n{}", a.log());
    }
    assert!(rig.lives("a").iter().all(|row| row.state == EngineState::Stopped), "{:?}", rig.lives("a"));
}

pub fn a_second_signal_hands_back_at_once(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("if first; then forever; fi");
    rig.wait_starts(task, 1, SOON);
    a.signal(Signal::SIGTERM);
    wait_or(SOON, || a.log().contains("told to stop"), || a.log());
    a.signal(Signal::SIGTERM);
    assert_eq!(a.wait(SOON), 0);
    ended(rig, task, TaskState::Ready, AttemptResult::HandedBack);
}

pub fn an_engine_that_ends_adds_what_it_did_to_the_hour(rig: &Rig) {
    assert_eq!(rig.store().first_hour().unwrap(), None);
    let a = rig.engine("a").start();
    let tasks = [rig.add("ticks 2"), rig.add("ticks 2"), rig.add("exit 65")];
    let ends = [TaskState::Done, TaskState::Done, TaskState::Failed];
    for (task, state) in tasks.into_iter().zip(ends) {
        rig.wait_state(task, state, SOON);
    }
    a.stop();
    let first = rig.store().first_hour().unwrap().expect("something was counted");
    let hours = [first, first.after(Duration::from_secs(3_600))];
    let mut all = Counts::default();
    rig.store().hours(&hours).unwrap().iter().for_each(|row| all.add(&row.counts));
    let got =
        (all.claimed, all.waited, all.of(AttemptResult::Done), all.of(AttemptResult::Failed), all.failed_for_good);
    assert_eq!(got, (3, 3, 2, 1, 1), "{all:?}");
    // Two ticks take about 120 ms.
    assert!(all.run_us >= 150_000 && all.run_max_us >= 75_000 && all.run_max_us < all.run_us, "{all:?}");
}

pub fn what_still_runs_at_the_deadline_of_a_drain_is_handed_back(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("if first; then escape; forever; fi; ticks 2");
    rig.wait_starts(task, 1, SOON);
    wants_by(rig, "a", Wanted::Drain, Some(Duration::from_secs(1)));
    ended(rig, task, TaskState::Ready, AttemptResult::HandedBack);
    wait_mode(rig, &a, Mode::Drained);
    let b = rig.engine("b").start();
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!((rig.task(task).lost, rig.life("a").state), (0, EngineState::Live));
    a.stop();
    b.stop();
}

pub fn drain_pause_and_stop_are_obeyed_with_the_next_beat(rig: &Rig) {
    let a = rig.engine("a").start();
    let running = rig.add("ticks 30");
    rig.wait_starts(running, 1, SOON);
    wants(rig, "a", Wanted::Drain);
    wait_mode(rig, &a, Mode::Draining);
    let waiting = rig.add("ticks 1");
    rig.wait_state(running, TaskState::Done, SOON);
    wait_mode(rig, &a, Mode::Drained);
    let beat = rig.life("a").beat;
    wait_or(SOON, || rig.life("a").beat >= beat + 3, || "a drained engine stopped beating".into());
    assert_eq!(rig.task(waiting).attempt, 0);

    // A drained name that starts again stays drained.
    a.stop();
    let a = rig.engine("a").start();
    wait_mode(rig, &a, Mode::Drained);
    assert_eq!(rig.task(waiting).attempt, 0);

    wants(rig, "a", Wanted::Pause);
    wait_mode(rig, &a, Mode::Paused);
    assert_eq!(rig.task(waiting).attempt, 0);
    wants(rig, "a", Wanted::Run);
    rig.wait_state(waiting, TaskState::Done, SOON);

    let last = rig.add("ticks 10");
    rig.wait_starts(last, 1, SOON);
    wants(rig, "a", Wanted::Stop);
    assert_eq!(a.wait(SOON), 0, "{}", a.log());
    assert_eq!((rig.state(last), rig.life("a").state), (TaskState::Done, EngineState::Stopped));
    // The wish is fulfilled: the next start of this name runs.
    let a = rig.engine("a").start();
    wait_mode(rig, &a, Mode::Active);
    a.stop();
}
