//! The end of an attempt, and who may not write it any more.

use rekindle::protocol::takeover::Next;
use rekindle::protocol::task::{AttemptResult, Reason, TaskState, Wish};
use rekindle::store::*;

use crate::support::builders::*;
use crate::support::databases::Rig;

pub fn a_wrong_token_or_nonce_is_refused_and_changes_nothing(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add(store);
    task_on(&["r"]).add(store);
    for claimed in [a.claim().one(store), a.claim().keyed().one(store)] {
        let before = store.task(claimed.held.task).unwrap();
        let token =
            Held { token: rekindle::protocol::ids::Token::new(claimed.held.token.as_i64() + 1), ..claimed.held };
        let nonce = Held { nonce: nonce(), ..claimed.held };
        for held in [token, nonce] {
            for end in [done(&claimed), failed(&claimed), retry(&claimed, secs(1)), handed_back(&claimed)] {
                let end = Finish { held, output: b"x".to_vec(), ..end };
                assert_eq!(a.finish(store, &[end]), [FinishOutcome::Refused]);
            }
            assert_eq!(store.read_finish(&held).unwrap(), FinishState::Refused);
        }
        assert_eq!(store.task(claimed.held.task).unwrap(), before);
        assert_eq!(store.output(claimed.held.task, None).unwrap(), None);
        assert_eq!(store.read_finish(&claimed.held).unwrap(), FinishState::Open);
        a.ends(store, done(&claimed));
        assert_eq!(a.finish(store, &[done(&claimed)]), [FinishOutcome::Refused], "it is over");
    }
}

pub fn a_done_task_moves_to_the_archive_with_its_payload(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    for (builder, output) in [(task(), &b""[..]), (task(), b"out"), (task_on(&["r", "s"]), b"")] {
        let id = builder.clone().payload(b"pay\0load").priority(3).add(store);
        let claimed = if builder.0.resources.is_empty() { a.claim() } else { a.claim().keyed() }.one(store);
        let value = Some("{\"n\": 1}".to_owned());
        a.ends(store, Finish { value: value.clone(), output: output.to_vec(), ..done(&claimed) });
        let (row, payload) = store.task(id).unwrap().unwrap();
        assert_eq!((row.state, row.result, row.value), (TaskState::Done, Some(AttemptResult::Done), value));
        assert_eq!((payload.as_slice(), row.payload_len, row.priority), (&b"pay\0load"[..], 8, 3));
        assert_eq!((row.attempt, row.engine.as_deref(), row.error), (1, Some("a"), None));
        assert_eq!(
            (row.owner, row.nonce, row.token),
            (Some(a.incarnation), Some(claimed.held.nonce), claimed.held.token)
        );
        assert_eq!(row.resources, builder.0.resources);
        assert!(row.ended_at >= row.started_at && row.started_at >= Some(row.created_at));
        assert_eq!(store.read_finish(&claimed.held).unwrap(), FinishState::Written);
        assert_eq!(store.attempts(id).unwrap().len(), 1);
        assert_eq!(store.output(id, None).unwrap().map(|o| o.output), Some(output.to_vec()).filter(|o| !o.is_empty()));
        assert!(store.owned(a.incarnation).unwrap().is_empty());
    }
}

pub fn a_batch_of_ends_has_an_outcome_for_each_in_its_order(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add_many(store, 4);
    let c = a.claim().run(store);
    let stale = Finish { held: Held { nonce: nonce(), ..c[1].held }, ..done(&c[1]) };
    let ends = [failed(&c[3]), stale, done(&c[1]), retry(&c[0], secs(5)), done(&c[2]), done(&c[2])];
    use FinishOutcome::{Refused, Written};
    assert_eq!(a.finish(store, &ends), [Written, Refused, Written, Written, Written, Written]);
    let states: Vec<_> = c.iter().map(|c| state(store, c.held.task).unwrap()).collect();
    assert_eq!(states, [TaskState::Waiting, TaskState::Done, TaskState::Done, TaskState::Failed]);
    assert_eq!(a.finish(store, &[]), []);
}

pub fn a_retry_waits_and_is_promoted_when_due(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    let claimed = a.claim().one(store);
    a.ends(store, Finish { detail: Some("exit 75".into()), ..retry(&claimed, secs(30)) });
    let waiting = row(store, id);
    assert_eq!((waiting.state, waiting.failures, waiting.reason), (TaskState::Waiting, 1, Reason::Retry));
    assert_eq!((waiting.error.as_deref(), waiting.result), (Some("exit 75"), Some(AttemptResult::Tempfail)));
    assert_eq!((waiting.owner, waiting.nonce, waiting.engine.as_deref()), (None, None, Some("a")));
    assert_eq!((store.promote_due(9).unwrap(), a.claim().ids(store)), (0, vec![]));
    assert_eq!(store.read_finish(&claimed.held).unwrap(), FinishState::Written);
    rig.pass(secs(31));
    assert_eq!(store.promote_due(9).unwrap(), 1);
    assert_eq!(row(store, id).due_at, None);
    let again = a.claim().one(store);
    assert_eq!((again.attempt, again.failures, again.reason), (2, 1, Reason::Retry));
    let attempts = store.attempts(id).unwrap();
    assert_eq!(attempts.iter().map(|a| (a.attempt, a.exit_code)).collect::<Vec<_>>(), [(1, Some(75)), (2, None)]);
}

pub fn promotion_keeps_to_its_limit_and_to_the_order_of_due_times(rig: &Rig) {
    let store = &*rig.store;
    let (late, early) = (task().delay(secs(20)).add(store), task().delay(secs(10)).add(store));
    rig.pass(secs(30));
    assert_eq!(store.promote_due(1).unwrap(), 1);
    assert_eq!((state(store, late), state(store, early)), (Some(TaskState::Waiting), Some(TaskState::Ready)));
    assert_eq!(store.promote_due(9).unwrap(), 1);
}

pub fn a_failed_task_keeps_its_row_and_its_reason(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    let claimed = a.claim().one(store);
    a.ends(store, failed(&claimed));
    let task = row(store, id);
    assert_eq!((task.state, task.error.as_deref(), task.owner), (TaskState::Failed, Some("exit 1"), None));
    let attempt = store.attempts(id).unwrap().remove(0);
    assert_eq!((attempt.exit_code, attempt.detail.as_deref()), (Some(1), Some("exit 1")));
    assert_eq!(a.claim().ids(store), []);
}

pub fn canceled_and_held_ends_are_kept_apart(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task().add_many(store, 2);
    let c = a.claim().run(store);
    a.ends(store, Finish { result: AttemptResult::Canceled, next: Next::Canceled, ..done(&c[0]) });
    a.ends(store, Finish { next: Next::Held, ..handed_back(&c[1]) });
    assert_eq!((state(store, ids[0]), state(store, ids[1])), (Some(TaskState::Canceled), Some(TaskState::Held)));
    assert_eq!(row(store, ids[0]).result, Some(AttemptResult::Canceled));
    assert_eq!(store.attempts(ids[0]).unwrap()[0].result, Some(AttemptResult::Canceled));
    assert_eq!(row(store, ids[1]).nonce, None);
}

/// The ends that an owner reports, each with where the task goes if nobody has asked for anything.
fn ends_of(claimed: &Claimed) -> Vec<(&'static str, Finish, TaskState)> {
    let not_on = Some("host-of-a".to_owned());
    let snooze = Next::Wait { delay: secs(30), reason: Reason::Retry };
    let elsewhere = Finish { next: Next::Ready(Reason::Retry), not_on: not_on.clone(), ..failed(claimed) };
    let never = Finish { next: Next::Failed, ..handed_back(claimed) };
    vec![
        ("done", done(claimed), TaskState::Done),
        ("done with output", Finish { output: b"x".to_vec(), ..done(claimed) }, TaskState::Done),
        ("failed", failed(claimed), TaskState::Failed),
        ("failed here, and there is another host", elsewhere, TaskState::Ready),
        ("tempfail", retry(claimed, secs(30)), TaskState::Waiting),
        ("tempfail here", Finish { not_on, ..retry(claimed, secs(30)) }, TaskState::Waiting),
        ("timeout", Finish { result: AttemptResult::Timeout, ..retry(claimed, secs(30)) }, TaskState::Waiting),
        ("crash", Finish { result: AttemptResult::Crash, ..retry(claimed, secs(30)) }, TaskState::Waiting),
        ("no retry is left", Finish { next: Next::Failed, ..retry(claimed, secs(30)) }, TaskState::Failed),
        ("snoozed", Finish { next: snooze, ..handed_back(claimed) }, TaskState::Waiting),
        ("handed back", handed_back(claimed), TaskState::Ready),
        ("never started", Finish { unstarted: true, ..handed_back(claimed) }, TaskState::Ready),
        ("interrupted, and is not to run again", never, TaskState::Interrupted),
    ]
}

/// The engine has not heard of the wish yet: its next beat would have brought it.
pub fn an_accepted_wish_is_obeyed_however_its_owner_ends_the_attempt(rig: &Rig) {
    let (store, a, _b) = (&*rig.store, engine("a").on(rig), engine("b").on(rig));
    let ends = {
        task().add(store);
        let some = a.claim().one(store);
        a.ends(store, done(&some));
        ends_of(&some).len()
    };
    for (wish, end, keyed) in Wish::ALL.iter().flat_map(|w| (0..ends).flat_map(|n| [(*w, n, false), (*w, n, true)])) {
        let (builder, claim) = if keyed { (task_on(&["r"]), a.claim().keyed()) } else { (task(), a.claim()) };
        let id = builder.add(store);
        let claimed = claim.one(store);
        assert_eq!(claimed.held.task, id);
        rig.ask(id, wish);
        let (what, end, otherwise) = ends_of(&claimed).swap_remove(end);
        let (result, unstarted) = (end.result, end.unstarted);
        a.ends(store, end);
        let is_done = otherwise == TaskState::Done;
        let expected = match wish {
            Wish::Cancel if !is_done => TaskState::Canceled,
            Wish::Hold if !is_done => TaskState::Held,
            Wish::Requeue if !is_done => TaskState::Ready,
            _ => otherwise,
        };
        let row = row(store, id);
        assert_eq!((row.state, row.wish), (expected, Wish::None), "{what}, {wish}, keyed {keyed}");
        if wish == Wish::Requeue && !is_done {
            assert_eq!((row.reason, row.due_at), (Reason::Requeued, None), "{what}");
        }
        if !is_done && wish != Wish::None {
            assert!(expected == TaskState::Canceled || row.token > claimed.held.token, "{what}: its token is raised");
        }
        // How the attempt ended is not rewritten by what was asked.
        let attempts = store.attempts(id).unwrap();
        assert_eq!(attempts.last().and_then(|row| row.result), Some(result).filter(|_| !unstarted), "{what}, {wish}");
        assert_eq!(store.read_finish(&claimed.held).unwrap() == FinishState::Written, !unstarted, "{what}, {wish}");
        if keyed {
            let r = store.resource(&resource("r")).unwrap().unwrap();
            assert_eq!(r.owner_task, None, "{what}, {wish}");
        }
        if row.state != TaskState::Done {
            store.task_verb(id, TaskVerb::Cancel).unwrap();
        }
    }
}

/// One statement may end many: each by what was asked of it.
pub fn a_batch_of_ends_obeys_the_wish_of_each(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task().add_many(store, 5);
    let c = a.claim().run(store);
    let outcomes = store.task_verbs(&[ids[0], ids[1]], TaskVerb::Cancel, &super::audit::change("task cancel")).unwrap();
    assert_eq!(outcomes, [VerbOutcome::Asked; 2]);
    rig.ask(ids[2], Wish::Hold);
    let ends = [done(&c[0]), failed(&c[1]), retry(&c[2], secs(9)), done(&c[3]), retry(&c[4], secs(9))];
    assert_eq!(a.finish(store, &ends), [FinishOutcome::Written; 5]);
    let states: Vec<_> = ids.iter().map(|id| state(store, *id).unwrap()).collect();
    use TaskState::{Canceled, Done, Held, Waiting};
    assert_eq!(states, [Done, Canceled, Held, Done, Waiting]);
}

pub fn hand_backs_in_a_row_are_counted_as_the_end_says(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    for builder in [task(), task_on(&["r"])] {
        let id = builder.add(store);
        let claim = || if builder.0.resources.is_empty() { a.claim() } else { a.claim().keyed() }.one(store);
        let counts = [Some(1), Some(2), None, Some(0), Some(7)];
        let seen = counts.map(|count| {
            let claimed = claim();
            a.ends(store, Finish { handed_back: count, ..handed_back(&claimed) });
            claimed.handed_back
        });
        assert_eq!((seen, claim().handed_back), ([0, 1, 2, 2, 0], 7));
        a.takeover(store);
        store.task_verb(id, TaskVerb::Cancel).unwrap();
    }
}

pub fn what_never_started_is_handed_back_free(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    let claimed = a.claim().one(store);
    a.ends(store, Finish { unstarted: true, ..handed_back(&claimed) });
    let task = row(store, id);
    assert_eq!((task.state, task.attempt, task.failures), (TaskState::Ready, 0, 0));
    assert!(task.token > claimed.held.token);
    assert_eq!(store.attempts(id).unwrap(), []);
    assert_eq!(a.claim().one(store).attempt, 1);
}

/// A seed of the simulator (35047): the hand-back was written, its answer lost, and the engine called it refused,
/// because the row was not older than the end of its engine.
pub fn a_hand_back_at_or_after_its_engines_end_reads_back_as_written(rig: &Rig) {
    let store = &*rig.store;
    for (name, ends) in [("stops", true), ("is-fenced", false)] {
        let a = engine(name).on(rig);
        task().add(store);
        let claimed = a.claim().one(store);
        if ends {
            assert!(store.stop(a.incarnation).unwrap());
        } else {
            a.dies(store);
        }
        a.ends(store, handed_back(&claimed));
        assert_eq!(store.read_finish(&claimed.held).unwrap(), FinishState::Written);
        a.takeover(store);
        assert_eq!(store.read_finish(&claimed.held).unwrap(), FinishState::Written);
        let next = engine("next").on(rig);
        let again = next.claim().one(store);
        next.ends(store, done(&again));
        assert!(store.stop(next.incarnation).unwrap());
    }
}

pub fn ends_of_a_running_batch_are_read_back_by_nonce(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add_many(store, 5);
    let c = a.claim().run(store);
    let cancel = Finish { result: AttemptResult::Canceled, next: Next::Canceled, ..done(&c[3]) };
    a.finish(store, &[done(&c[0]), failed(&c[1]), handed_back(&c[2]), cancel]);
    for written in &c[..4] {
        assert_eq!(store.read_finish(&written.held).unwrap(), FinishState::Written);
    }
    assert_eq!(store.read_finish(&c[4].held).unwrap(), FinishState::Open);
    a.dies(store);
    assert_eq!(store.read_finish(&c[4].held).unwrap(), FinishState::Open, "its token is still the current one");
    a.takeover(store);
    assert_eq!(store.read_finish(&c[4].held).unwrap(), FinishState::Refused);
    assert_eq!(store.read_finish(&c[1].held).unwrap(), FinishState::Written);
}

pub fn the_last_output_is_read_and_an_earlier_one_by_its_number(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    for text in ["one", "two"] {
        let claimed = a.claim().one(store);
        let end = Finish { output: text.into(), output_dropped: 5, ..retry(&claimed, secs(0)) };
        a.ends(store, end);
        rig.pass(secs(1));
        store.promote_due(9).unwrap();
    }
    let out = |attempt, text: &str| Some(OutputRow { attempt, dropped: 5, output: text.into() });
    assert_eq!(store.output(id, None).unwrap(), out(2, "two"));
    assert_eq!(store.output(id, Some(1)).unwrap(), out(1, "one"));
    assert_eq!(store.output(id, Some(3)).unwrap(), None);
}

pub fn refused_results_are_counted_also_after_the_row_is_closed(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let refused = || store.engines().unwrap().1[0].refused;
    task().add_many(store, 2);
    task_on(&["r"]).add(store);
    let (plain, keyed) = (a.claim().run(store), a.claim().keyed().one(store));
    a.ends(store, done(&plain[0]));
    assert_eq!(refused(), 0);
    a.dies(store);
    a.takeover(store);
    // One that is current in a batch with some that are not; what never started has no result.
    a.finish(store, &[done(&plain[1]), failed(&keyed), Finish { unstarted: true, ..handed_back(&keyed) }]);
    assert_eq!(refused(), 2);
    assert!(store.close(a.incarnation).unwrap());
    assert_eq!(refused(), 2);
    a.finish(store, &[done(&plain[1])]);
    assert_eq!(refused(), 3);
}
