//! Resources: one task at a time, in order, and nobody waits for ever.

use rekindle::protocol::ids::TaskId;
use rekindle::protocol::takeover::Next;
use rekindle::protocol::task::{AttemptResult, OnFailure, OnRetry, Policy, TaskState};
use rekindle::store::*;

use crate::support::builders::*;
use crate::support::databases::Rig;

fn states(store: &dyn Store, ids: &[TaskId]) -> Vec<TaskState> {
    ids.iter().map(|id| state(store, *id).unwrap()).collect()
}

pub fn one_task_at_a_time_in_the_order_of_the_line(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task_on(&["r"]).add_many(store, 4);
    for (n, id) in ids.iter().enumerate() {
        let claimed = a.claim().keyed().one(store);
        assert_eq!(claimed.held.task, *id);
        assert_eq!(a.claim().keyed().ids(store), [], "the resource is busy");
        let r = store.resource(&resource("r")).unwrap().unwrap();
        assert_eq!((r.owner_task, r.engine.as_deref(), r.line_count), (Some(*id), Some("a"), (4 - n) as u64));
        assert_eq!(r.line.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids[n..]);
        a.ends(store, done(&claimed));
    }
}

pub fn those_behind_are_blocked_and_the_head_is_woken(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task_on(&["r"]).add_many(store, 3);
    let first = a.claim().keyed().one(store);
    assert_eq!(states(store, &ids), [TaskState::Running, TaskState::Blocked, TaskState::Blocked]);
    a.ends(store, done(&first));
    assert_eq!(states(store, &ids[1..]), [TaskState::Ready, TaskState::Blocked]);
    assert_eq!(store.free_lines(9).unwrap(), 0, "no wake-up was lost");
}

pub fn different_resources_run_side_by_side(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids: Vec<_> = ["r", "s", "r", "s", "t"].map(|name| task_on(&[name]).add(store)).into();
    assert_eq!(a.claim().keyed().ids(store), [ids[0], ids[1], ids[4]]);
}

pub fn a_priority_does_not_overtake_within_a_line(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let (first, urgent) = (task_on(&["r"]).add(store), task_on(&["r"]).priority(9).add(store));
    let claimed = a.claim().keyed().one(store);
    assert_eq!(claimed.held.task, first);
    a.ends(store, done(&claimed));
    assert_eq!(a.claim().keyed().ids(store), [urgent]);
}

pub fn a_task_takes_all_its_resources_or_none(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let (on_s, both, on_r) = (task_on(&["s"]).add(store), task_on(&["r", "s"]).add(store), task_on(&["r"]).add(store));
    let first = a.claim().keyed().one(store);
    assert_eq!(first.held.task, on_s);
    assert_eq!(states(store, &[both, on_r]), [TaskState::Blocked, TaskState::Blocked]);
    assert_eq!(store.resource(&resource("r")).unwrap().unwrap().owner_task, None, "nothing is taken in part");
    a.ends(store, done(&first));
    let second = a.claim().keyed().one(store);
    assert_eq!(second.held.task, both);
    for name in ["r", "s"] {
        let row = store.resource(&resource(name)).unwrap().unwrap();
        assert_eq!((row.owner_task, row.token), (Some(both), second.held.token));
    }
    a.ends(store, done(&second));
    assert_eq!(a.claim().keyed().ids(store), [on_r]);
}

pub fn a_batch_ends_with_its_resources_free_and_their_lines_awake(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let names: Vec<String> = (0..20).map(|n| format!("r{n:02}")).collect();
    // Their tokens differ: each name has been used once more than the one before it.
    for round in 1..4 {
        for name in &names[round * 5..] {
            task_on(&[name]).add(store);
        }
        let ends: Vec<Finish> = a.claim().keyed().limit(20).run(store).iter().map(done).collect();
        a.finish(store, &ends);
    }
    let first: Vec<TaskId> = names.iter().map(|name| task_on(&[name]).add(store)).collect();
    let both = task_on(&["q", "s"]).add(store);
    let behind: Vec<TaskId> = names.iter().map(|name| task_on(&[name]).add(store)).collect();
    let last = task_on(&["s"]).add(store);
    let stored: Vec<i64> =
        names.iter().map(|n| store.resource(&resource(n)).unwrap().map_or(0, |row| row.token.as_i64())).collect();
    let claimed = a.claim().keyed().limit(30).run(store);
    assert_eq!(claimed.iter().map(|task| task.held.task).collect::<Vec<_>>(), [&first[..], &[both]].concat());
    for task in &claimed {
        for name in &task.resources {
            let row = store.resource(name).unwrap().unwrap();
            assert_eq!((row.owner_task, row.token), (Some(task.held.task), task.held.token));
        }
    }
    // Of those that were used before: one more than what was stored.
    for (task, stored) in claimed.iter().zip(stored).skip(5).take(15) {
        assert_eq!(task.held.token.as_i64(), stored + 1);
    }
    let mut ends: Vec<Finish> = claimed.iter().map(done).collect();
    ends[7].held.nonce = nonce();
    ends[9] = failed(&claimed[9]);
    let outcomes = a.finish(store, &ends);
    let refused: Vec<usize> = (0..ends.len()).filter(|n| outcomes[*n] == FinishOutcome::Refused).collect();
    assert_eq!(refused, [7]);
    for (n, task) in claimed.iter().enumerate() {
        let next = behind.get(n).copied().unwrap_or(last);
        let expected = match n {
            7 => (TaskState::Running, TaskState::Blocked),
            9 => (TaskState::Failed, TaskState::Ready),
            _ => (TaskState::Done, TaskState::Ready),
        };
        assert_eq!((state(store, task.held.task).unwrap(), state(store, next).unwrap()), expected, "{n}");
        assert_eq!(row(store, task.held.task).resources, task.resources, "the archive keeps them");
        let owner = store.resource(&task.resources[0]).unwrap().unwrap().owner_task;
        assert_eq!(owner, (n == 7).then_some(task.held.task));
    }
    assert_eq!(store.free_lines(9).unwrap(), 0, "no wake-up was lost");
    assert_eq!(a.claim().keyed().limit(30).run(store).len(), 20);
}

pub fn a_claim_of_several_resources_takes_the_largest_token_plus_one(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    for _ in 0..3 {
        task_on(&["s"]).add(store);
        let claimed = a.claim().keyed().one(store);
        a.ends(store, done(&claimed));
    }
    let before = store.resource(&resource("s")).unwrap().unwrap().token.as_i64();
    task_on(&["r", "s"]).add(store);
    assert_eq!(a.claim().keyed().one(store).held.token.as_i64(), before + 1);
}

pub fn a_retry_keeps_its_place(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task_on(&["r"]).add_many(store, 2);
    let claimed = a.claim().keyed().one(store);
    a.ends(store, retry(&claimed, secs(30)));
    assert_eq!(a.claim().keyed().ids(store), [], "those behind it wait");
    assert_eq!(store.free_lines(9).unwrap(), 0);
    rig.pass(secs(31));
    store.promote_due(9).unwrap();
    let again = a.claim().keyed().one(store);
    assert_eq!(again.held.task, ids[0]);
    a.ends(store, done(&again));
    assert_eq!(a.claim().keyed().ids(store), [ids[1]]);
}

pub fn with_on_retry_pass_those_behind_go_first(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task_on(&["r"]).add_many(store, 2);
    let pass = Policy { on_retry: OnRetry::Pass, ..Policy::default() };
    let claimed = a.claim().keyed().policy(pass).one(store);
    a.ends(store, retry(&claimed, secs(30)));
    let second = a.claim().keyed().one(store);
    assert_eq!(second.held.task, ids[1]);
    rig.pass(secs(31));
    store.promote_due(9).unwrap();
    assert_eq!(a.claim().keyed().ids(store), [], "it waits for the one that passed");
    a.ends(store, done(&second));
    assert_eq!(a.claim().keyed().ids(store), [ids[0]]);
}

pub fn a_failure_lets_the_line_go_on_unless_the_kind_says_block(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    for (on_failure, name) in [(OnFailure::Pass, "r"), (OnFailure::Block, "s")] {
        let ids = task_on(&[name]).add_many(store, 2);
        let claimed = a.claim().keyed().policy(Policy { on_failure, ..Policy::default() }).one(store);
        a.ends(store, failed(&claimed));
        let next = a.claim().keyed().ids(store);
        if on_failure == OnFailure::Pass {
            assert_eq!(next, [ids[1]]);
            continue;
        }
        assert_eq!(next, [], "the line stands until a human acts");
        assert_eq!(store.free_lines(9).unwrap(), 0);
        assert_eq!(store.task_verb(ids[0], TaskVerb::Cancel).unwrap(), VerbOutcome::Applied(TaskState::Failed));
        assert_eq!(a.claim().keyed().ids(store), [ids[1]]);
    }
}

pub fn a_line_that_stands_goes_on_with_a_retry(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task_on(&["r"]).add_many(store, 2);
    let block = Policy { on_failure: OnFailure::Block, ..Policy::default() };
    let claimed = a.claim().keyed().policy(block).one(store);
    a.ends(store, failed(&claimed));
    store.task_verb(ids[0], TaskVerb::Retry).unwrap();
    let again = a.claim().keyed().one(store);
    assert_eq!(again.held.task, ids[0]);
    a.ends(store, done(&again));
    assert_eq!(a.claim().keyed().ids(store), [ids[1]]);
}

pub fn held_and_canceled_ends_wake_the_next(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task_on(&["r"]).add_many(store, 3);
    let first = a.claim().keyed().one(store);
    a.ends(store, Finish { next: Next::Held, ..handed_back(&first) });
    let second = a.claim().keyed().one(store);
    a.ends(store, Finish { result: AttemptResult::Canceled, next: Next::Canceled, ..done(&second) });
    assert_eq!(a.claim().keyed().ids(store), [ids[2]]);
}

pub fn canceling_a_blocked_task_or_a_waiting_head_wakes_the_next(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task_on(&["r"]).add_many(store, 3);
    let first = a.claim().keyed().one(store);
    assert_eq!(store.task_verb(ids[1], TaskVerb::Cancel).unwrap(), VerbOutcome::Applied(TaskState::Blocked));
    a.ends(store, retry(&first, secs(60)));
    assert_eq!(a.claim().keyed().ids(store), []);
    assert_eq!(store.task_verb(ids[0], TaskVerb::Cancel).unwrap(), VerbOutcome::Applied(TaskState::Waiting));
    assert_eq!(state(store, ids[2]), Some(TaskState::Ready));
    assert_eq!(a.claim().keyed().ids(store), [ids[2]]);
}

pub fn a_blocked_task_of_two_lines_is_woken_by_the_last_one(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task_on(&["r"]).add(store);
    task_on(&["s"]).add(store);
    let both = task_on(&["r", "s"]).add(store);
    let c = a.claim().keyed().run(store);
    assert_eq!(c.len(), 2);
    for claimed in &c {
        a.ends(store, done(claimed));
        let woken = a.claim().keyed().limit(1);
        if claimed.held == c[0].held {
            assert_eq!(woken.ids(store), []);
        } else {
            assert_eq!(woken.ids(store), [both]);
        }
    }
}

pub fn a_delayed_task_joins_the_line_when_it_is_due(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let (delayed, second) = (task_on(&["r"]).delay(secs(30)).add(store), task_on(&["r"]).add(store));
    let claimed = a.claim().keyed().one(store);
    assert_eq!(claimed.held.task, second, "nobody waits for what is not due");
    rig.pass(secs(31));
    assert_eq!(store.promote_due(9).unwrap(), 1);
    assert_eq!(a.claim().keyed().ids(store), []);
    a.ends(store, done(&claimed));
    assert_eq!(a.claim().keyed().ids(store), [delayed]);
}

pub fn a_lost_wake_up_is_found_by_the_slow_sweep(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task_on(&["r"]).add_many(store, 2);
    let claimed = a.claim().keyed().one(store);
    a.ends(store, done(&claimed));
    rig.block(ids[1]);
    assert_eq!((store.promote_due(9).unwrap(), a.claim().keyed().ids(store)), (0, vec![]));
    assert_eq!(store.free_lines(9).unwrap(), 1);
    assert_eq!(a.claim().keyed().ids(store), [ids[1]]);
}
