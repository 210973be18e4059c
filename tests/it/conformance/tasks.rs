//! Adding tasks, what people ask of them, and what they read.

use rekindle::protocol::ids::TaskId;
use rekindle::protocol::takeover::Next;
use rekindle::protocol::task::{AttemptResult, OnFailure, Policy, Rerun, TaskState};
use rekindle::store::*;

use crate::support::builders::*;
use crate::support::databases::Rig;

pub fn many_tasks_are_added_in_order(rig: &Rig) {
    let tasks: Vec<NewTask> = (0..250).map(|n| task().payload(format!("{n}").as_bytes()).0).collect();
    let ids = rig.store.add(&tasks, "me").unwrap();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    for (n, id) in ids.iter().enumerate().step_by(50) {
        assert_eq!(rig.store.task(*id).unwrap().unwrap().1, format!("{n}").as_bytes());
    }
    assert_eq!(rig.store.add(&[], "me").unwrap(), []);
}

pub fn tasks_are_added_all_or_none(rig: &Rig) {
    let mut twice = task_on(&["r"]).0;
    twice.resources = vec![resource("r"), resource("r")];
    let tasks: Vec<NewTask> = std::iter::repeat_n(task().0, 150).chain([twice]).collect();
    assert!(rig.store.add(&tasks, "me").is_err(), "a resource is named twice");
    let filter = TaskFilter { limit: 9, ..TaskFilter::default() };
    assert_eq!(rig.store.tasks(&filter).unwrap().1, []);
    task().add(&*rig.store);
}

/// One task in each state, in the order of `TaskState::ALL` without `done` and `canceled`.
pub fn one_of_each(rig: &Rig) -> Vec<(TaskState, rekindle::protocol::ids::TaskId)> {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let waiting = task().delay(secs(60)).add(store);
    let c = {
        task().add_many(store, 4);
        a.claim().run(store)
    };
    let quarantine = Finish { next: rekindle::protocol::takeover::Next::Quarantined, ..handed_back(&c[2]) };
    let hold = Finish { next: rekindle::protocol::takeover::Next::Held, ..handed_back(&c[1]) };
    a.finish(store, &[failed(&c[0]), hold, quarantine]);
    task_on(&["r"]).add(store);
    let blocked = task_on(&["r"]).add(store);
    a.claim().keyed().one(store);
    let ready = task().add(store);
    vec![
        (TaskState::Ready, ready),
        (TaskState::Waiting, waiting),
        (TaskState::Blocked, blocked),
        (TaskState::Running, c[3].held.task),
        (TaskState::Held, c[1].held.task),
        (TaskState::Failed, c[0].held.task),
        (TaskState::Quarantined, c[2].held.task),
    ]
}

pub fn retry_fits_waiting_failed_quarantined_and_held_tasks(rig: &Rig) {
    let store = &*rig.store;
    for (was, id) in one_of_each(rig) {
        assert_eq!(state(store, id), Some(was));
        let fits = matches!(was, TaskState::Waiting | TaskState::Failed | TaskState::Quarantined | TaskState::Held);
        let outcome = if fits { VerbOutcome::Applied(was) } else { VerbOutcome::WrongState(was) };
        assert_eq!(store.task_verb(id, TaskVerb::Retry).unwrap(), outcome);
        assert_eq!(state(store, id), Some(if fits { TaskState::Ready } else { was }));
        let task = row(store, id);
        assert_eq!((task.failures, task.lost, task.due_at), (0, 0, None));
    }
}

pub fn cancel_fits_every_task_that_is_not_over(rig: &Rig) {
    let store = &*rig.store;
    for (was, id) in one_of_each(rig) {
        let running = was == TaskState::Running;
        let outcome = if running { VerbOutcome::Asked } else { VerbOutcome::Applied(was) };
        assert_eq!(store.task_verb(id, TaskVerb::Cancel).unwrap(), outcome, "{was}");
        assert_eq!(state(store, id), Some(if running { TaskState::Running } else { TaskState::Canceled }));
        if !running {
            assert_eq!(store.task_verb(id, TaskVerb::Cancel).unwrap(), VerbOutcome::WrongState(TaskState::Canceled));
        }
    }
}

pub fn an_interrupted_task_is_told_apart_from_failed_ones(rig: &Rig) {
    let (store, a, b) = (&*rig.store, engine("a").on(rig), engine("b").on(rig));
    let ids = task_on(&["r"]).add_many(store, 1).into_iter().chain(task().add_many(store, 4)).collect::<Vec<_>>();
    let never = Policy { rerun: Rerun::Never, on_failure: OnFailure::Block, ..Policy::default() };
    let in_line = a.claim().keyed().policy(never).one(store);
    let lost = a.claim().limit(1).policy(never).one(store);
    a.dies(store);
    assert_eq!(a.takeover(store).parked, 2);
    // Stopped by its own engine, failed for good, and failed at last: only the first was cut off.
    let c = b.claim().policy(never).run(store);
    let ends = [handed_back(&c[0]), failed(&c[1]), retry(&c[2], secs(1))];
    b.finish(store, &ends.map(|end| Finish { next: Next::Failed, ..end }));
    let cut_off = [in_line.held.task, lost.held.task, c[0].held.task];
    for id in &ids {
        let expected = if cut_off.contains(id) { TaskState::Interrupted } else { TaskState::Failed };
        assert_eq!(row(store, *id).state, expected);
        assert_eq!(store.task_states(&[*id]).unwrap()[0].1.state, expected);
    }
    let sorted = |mut ids: Vec<TaskId>| {
        ids.sort_unstable();
        ids
    };
    let of = |states: &[TaskState]| {
        let filter = TaskFilter { states: states.to_vec(), limit: 9, ..TaskFilter::default() };
        let selected: Vec<_> = store.select(&filter).unwrap().into_iter().map(|task| task.id).collect();
        assert_eq!(store.tasks(&filter).unwrap().1.into_iter().map(|row| row.id).collect::<Vec<_>>(), selected);
        sorted(selected)
    };
    assert_eq!(of(&[TaskState::Interrupted]), sorted(cut_off.to_vec()));
    assert_eq!(of(&[TaskState::Failed, TaskState::Quarantined]), sorted(vec![c[1].held.task, c[2].held.task]));
    assert_eq!(of(&[TaskState::Failed, TaskState::Interrupted]), sorted(ids.clone()));
    assert_eq!(of(&[]), sorted(ids.clone()));
    let r = store.resource(&resource("r")).unwrap().unwrap();
    assert_eq!(r.line, [(in_line.held.task, TaskState::Interrupted)]);
    let status = store.status().unwrap();
    assert!(status.counts.contains(&(TaskState::Interrupted, 3)) && status.counts.contains(&(TaskState::Failed, 2)));
    assert_eq!((status.failed_1h, status.taken_over_1h, status.failed_kinds[0].count), (2, 0, 2));
    // A person decides, one by one or by its name.
    let applied = VerbOutcome::Applied(TaskState::Interrupted);
    assert_eq!(store.task_verb(cut_off[0], TaskVerb::Retry).unwrap(), applied);
    let both = store.task_verbs(&cut_off[1..], TaskVerb::Cancel, &super::audit::change("task cancel")).unwrap();
    assert_eq!(both, [applied; 2]);
    assert_eq!(row(store, cut_off[0]).state, TaskState::Ready);
    let again = b.claim().keyed().policy(never).one(store);
    b.ends(store, failed(&again));
    assert_eq!(row(store, cut_off[0]).state, TaskState::Failed, "what an earlier attempt came to is forgotten");
}

pub fn verbs_on_unknown_and_done_tasks_change_nothing(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    let claimed = a.claim().one(store);
    a.ends(store, done(&claimed));
    let unknown = rekindle::protocol::ids::TaskId::new(999_999);
    for verb in [TaskVerb::Retry, TaskVerb::Cancel] {
        assert_eq!(store.task_verb(unknown, verb).unwrap(), VerbOutcome::NotFound);
        assert_eq!(store.task_verb(id, verb).unwrap(), VerbOutcome::WrongState(TaskState::Done));
    }
    assert_eq!(state(store, id), Some(TaskState::Done));
}

pub fn a_canceled_task_is_redriven_under_its_number(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task_on(&["r", "s"]).payload(b"\x00\xff").priority(4).add(store);
    let first = a.claim().keyed().one(store);
    a.ends(store, retry(&first, secs(60)));
    store.task_verb(id, TaskVerb::Cancel).unwrap();
    let before = row(store, id);
    assert_eq!(before.resources, [resource("r"), resource("s")]);
    assert_eq!(store.task_verb(id, TaskVerb::Retry).unwrap(), VerbOutcome::Applied(TaskState::Canceled));
    let (redriven, payload) = store.task(id).unwrap().unwrap();
    assert_eq!((redriven.state, redriven.priority, payload.as_slice()), (TaskState::Ready, 4, &b"\x00\xff"[..]));
    assert_eq!((redriven.created_at, redriven.failures), (before.created_at, 0));
    let again = a.claim().keyed().one(store);
    assert_eq!((again.held.task, again.attempt), (id, 2));
    assert!(again.held.token > first.held.token);
    assert_eq!(again.resources, [resource("r"), resource("s")]);
    let next = task().add(store);
    assert!(next > id, "numbers go on");
}

pub fn tasks_are_listed_newest_first_by_state_kind_resource_and_engine(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let mail = task().add(store);
    let scan = task_on(&["r_%", "s"]).of("scan").add(store);
    let other = task_on(&["rx%"]).of("scan").add(store);
    let list = |filter: TaskFilter| {
        let filter = TaskFilter { limit: if filter.limit == 0 { 100 } else { filter.limit }, ..filter };
        store.tasks(&filter).unwrap().1.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    let any = TaskFilter::default;
    assert_eq!(list(any()), [other, scan, mail]);
    assert_eq!(list(TaskFilter { limit: 1, ..any() }), [other]);
    assert_eq!(list(TaskFilter { kinds: vec![kind("mail"), kind("none")], ..any() }), [mail]);
    let by_resource = |states| TaskFilter { resource: Some(resource("r_%")), states, ..any() };
    assert_eq!(list(by_resource(vec![])), [scan]);
    for claimed in a.claim().of("scan").keyed().run(store) {
        a.ends(store, done(&claimed));
    }
    assert_eq!(list(by_resource(vec![TaskState::Done])), [scan], "names with % and _ are no patterns");
    assert_eq!(list(any()), [mail], "what is over is listed only by its state");
    assert_eq!(list(TaskFilter { states: vec![TaskState::Done, TaskState::Ready], ..any() }), [other, scan, mail]);
    a.claim().one(store);
    let engine = Some(a.name.clone());
    assert_eq!(list(TaskFilter { engine: engine.clone(), ..any() }), [mail]);
    assert_eq!(list(TaskFilter { engine, states: vec![TaskState::Done], ..any() }), [other, scan]);
    let row = store.tasks(&TaskFilter { limit: 1, ..any() }).unwrap().1.remove(0);
    assert_eq!((row.state, row.payload_len, row.engine.as_deref()), (TaskState::Running, 2, Some("a")));
}

pub fn states_of_many_tasks_are_read_at_once(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task().add_many(store, 3);
    let c = a.claim().limit(2).run(store);
    a.finish(store, &[done(&c[0]), failed(&c[1])]);
    let unknown = rekindle::protocol::ids::TaskId::new(999_999);
    let mut got = store.task_states(&[ids[2], ids[0], ids[1], unknown]).unwrap();
    got.sort_by_key(|(id, _)| *id);
    let wanted = |state, attempt, engine: Option<&str>, error: Option<&str>| TaskState4Wait {
        state,
        attempt,
        engine: engine.map(str::to_owned),
        error: error.map(str::to_owned),
    };
    let states = [
        (ids[0], wanted(TaskState::Done, 1, Some("a"), None)),
        (ids[1], wanted(TaskState::Failed, 1, Some("a"), Some("exit 1"))),
        (ids[2], wanted(TaskState::Ready, 0, None, None)),
    ];
    assert_eq!(got, states);
    assert_eq!(store.task_states(&[]).unwrap(), []);
}

pub fn status_counts_what_is_there(rig: &Rig) {
    let store = &*rig.store;
    let empty = store.status().unwrap();
    assert_eq!((empty.oldest_ready, empty.oldest_running, empty.failed_kinds), (None, None, vec![]));
    one_of_each(rig);
    rig.pass(secs(10));
    task().of("other").add(store);
    let status = store.status().unwrap();
    let count = |state| status.counts.iter().find(|(s, _)| *s == state).map(|(_, n)| *n);
    let counts =
        [TaskState::Ready, TaskState::Waiting, TaskState::Blocked, TaskState::Running, TaskState::Failed].map(count);
    assert_eq!(counts, [Some(2), Some(1), Some(1), Some(2), Some(1)]);
    assert_eq!((count(TaskState::Held), count(TaskState::Quarantined)), (Some(1), Some(1)));
    assert!(status.oldest_ready.unwrap() >= secs(10) && status.oldest_running.unwrap() >= secs(10));
    assert_eq!((status.failed_1h, status.taken_over_1h, status.done_1h), (1, 0, 0));
    let failed = &status.failed_kinds[0];
    assert_eq!((failed.kind.as_str(), failed.count, failed.error.as_deref()), (KIND, 1, Some("exit 1")));
    assert!(failed.newest >= secs(10) && failed.newest < secs(600));
    assert_eq!((status.engines.len(), status.meta.identity_matches), (1, true));
}

/// A fence was forgotten as soon as the engine was started again: one that flapped looked healthy.
pub fn every_fence_of_the_last_hour_is_counted(rig: &Rig) {
    let store = &*rig.store;
    for _ in 0..2 {
        let a = engine("a").on(rig);
        a.dies(store);
        a.takeover(store);
        assert!(store.close(a.incarnation).unwrap());
    }
    let stopped = engine("a").on(rig);
    store.stop(stopped.incarnation).unwrap();
    engine("a").on(rig);
    engine("b").on(rig).dies(store);
    assert_eq!(store.status().unwrap().fenced_1h, 3);
    rig.pass(secs(3_601));
    assert_eq!(store.status().unwrap().fenced_1h, 0);
}

pub fn lost_attempts_of_the_last_hour_are_counted(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add_many(store, 2);
    a.claim().run(store);
    a.dies(store);
    a.takeover(store);
    assert_eq!(store.status().unwrap().taken_over_1h, 2);
    rig.pass(secs(3_601));
    assert_eq!(store.status().unwrap().taken_over_1h, 0);
    assert!(store.status().unwrap().counts.contains(&(TaskState::Ready, 2)));
}

pub fn resources_in_use_or_named_are_listed(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    assert_eq!((store.resources(9).unwrap(), store.resource(&resource("r")).unwrap()), (vec![], None));
    task_on(&["r"]).add_many(store, 2);
    task_on(&["z"]).of("other").add(store);
    let claimed = a.claim().keyed().one(store);
    let rows = store.resources(9).unwrap();
    let short: Vec<_> = rows.iter().map(|r| (r.name.as_str(), r.owner_task.is_some(), r.line_count)).collect();
    assert_eq!(short, [("r", true, 2), ("z", false, 1)]);
    assert_eq!(rows[0].token, claimed.held.token);
    assert_eq!(store.resources(1).unwrap().len(), 1);
    a.ends(store, done(&claimed));
    let line = store.resource(&resource("r")).unwrap().unwrap().line;
    assert_eq!(line.iter().map(|(_, state)| *state).collect::<Vec<_>>(), [TaskState::Ready]);
}

pub fn attempts_are_listed_in_order_with_the_running_and_the_last_one(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    let first = a.claim().one(store);
    a.ends(store, handed_back(&first));
    let second = a.claim().one(store);
    let list = || {
        let attempts = store.attempts(id).unwrap();
        attempts.into_iter().map(|a| (a.attempt, a.token, a.result)).collect::<Vec<_>>()
    };
    let back = (1, first.held.token, Some(AttemptResult::HandedBack));
    assert_eq!(list(), [back, (2, second.held.token, None)]);
    a.ends(store, done(&second));
    assert_eq!(list(), [back, (2, second.held.token, Some(AttemptResult::Done))]);
}
