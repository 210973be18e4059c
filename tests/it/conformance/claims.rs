//! Who gets which task, and who gets none.

use rekindle::protocol::engine::{Mode, Wanted};
use rekindle::protocol::ids::{Epoch, Token};
use rekindle::protocol::takeover::Next;
use rekindle::protocol::task::{AttemptResult, Reason, TaskState};
use rekindle::store::*;

use crate::support::builders::*;
use crate::support::databases::Rig;

pub fn tasks_are_claimed_by_priority_then_number_up_to_the_limit(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let (low, first, second, high) =
        (task().priority(-1).add(store), task().add(store), task().add(store), task().priority(9).add(store));
    let mut got = a.claim().limit(2).ids(store);
    got.sort();
    assert_eq!(got, [first, high]);
    assert_eq!(a.claim().limit(1).ids(store), [second]);
    assert_eq!(a.claim().limit(0).ids(store), []);
    assert_eq!(a.claim().limit(9).ids(store), [low]);
    assert_eq!(a.claim().ids(store), []);
}

pub fn a_claim_says_what_it_is_about(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task_on(&["b", "a"]).payload(b"x").add(store);
    let claim = a.claim().keyed();
    let got = claim.one(store);
    assert_eq!((got.held.task, got.held.nonce, got.held.token), (id, claim.0.nonce, Token::new((1 << 40) + 1)));
    assert_eq!((got.attempt, got.failures, got.lost, got.handed_back), (1, 0, 0, 0));
    assert_eq!((got.reason, got.was_elsewhere, got.payload.as_slice()), (Reason::First, false, &b"x"[..]));
    assert_eq!(got.resources, [resource("a"), resource("b")]);
    let task = row(store, id);
    assert_eq!((task.state, task.owner, task.engine.as_deref()), (TaskState::Running, Some(a.incarnation), Some("a")));
    assert_eq!((task.nonce, task.attempt), (Some(claim.0.nonce), 1));
    assert_eq!(store.owned(a.incarnation).unwrap(), [got.held]);
}

pub fn only_the_kind_that_was_asked_for_is_claimed(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().of("scan").add(store);
    assert_eq!(a.claim().of("mail").ids(store), []);
    assert_eq!(a.claim().of("scan").keyed().ids(store), [], "it names no resource");
    assert_eq!(a.claim().of("scan").ids(store), [id]);
}

pub fn a_probe_says_which_kinds_have_work(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let kinds = [kind("mail"), kind("scan"), kind("idle")];
    assert_eq!(store.probe(&kinds, "h").unwrap(), []);
    assert_eq!(store.probe(&[], "h").unwrap(), []);
    task().add(store);
    task_on(&["r"]).of("scan").add(store);
    let work = |name: &str, plain, keyed, alone| KindWork { kind: kind(name), plain, keyed, alone };
    assert_eq!(store.probe(&kinds, "h").unwrap(), [work("mail", true, false, false), work("scan", false, true, false)]);
    a.claim().one(store);
    assert_eq!(store.probe(&kinds, "h").unwrap(), [work("scan", false, true, false)]);
}

pub fn a_task_barred_from_a_host_is_claimed_on_another(rig: &Rig) {
    let store = &*rig.store;
    let (a, b) = (engine("a").host("h1").on(rig), engine("b").host("h2").on(rig));
    let id = task().add(store);
    let claimed = a.claim().one(store);
    let elsewhere = Finish { next: Next::Ready(Reason::Retry), not_on: Some("h1".into()), ..failed(&claimed) };
    a.ends(store, elsewhere);
    assert_eq!((a.claim().ids(store), store.probe(&[kind(KIND)], "h1").unwrap()), (vec![], vec![]));
    assert_eq!(store.probe(&[kind(KIND)], "h2").unwrap().len(), 1);
    let again = b.claim().one(store);
    assert_eq!((again.held.task, again.was_elsewhere), (id, true));
    b.ends(store, handed_back(&again));
    assert_eq!(a.claim().ids(store), [id], "the bar holds for one attempt");
}

pub fn a_task_barred_from_the_only_host_has_failed(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    let claimed = a.claim().one(store);
    a.ends(store, Finish { next: Next::Ready(Reason::Retry), not_on: Some(a.host.clone()), ..failed(&claimed) });
    assert_eq!(state(store, id), Some(TaskState::Failed));
    assert_eq!(store.attempts(id).unwrap()[0].result, Some(AttemptResult::Failed));
}

/// `mail_a` on one host, and a name on the other that only a pattern or a blind eye would take for it.
pub fn another_host_is_one_that_takes_this_very_kind(rig: &Rig) {
    let store = &*rig.store;
    let a = engine("a").kinds(&["mail_a"]).on(rig);
    let b = engine("b").kinds(&["mail-a", "MAIL_A", "mail_ab", "xmail_a"]).on(rig);
    let id = task().of("mail_a").add(store);
    let claimed = a.claim().of("mail_a").one(store);
    let elsewhere = Finish { not_on: Some(a.host.clone()), ..retry(&claimed, secs(0)) };
    a.ends(store, elsewhere.clone());
    assert_eq!(row(store, id).not_on, None, "{} does not take it", b.name);
    rig.pass(secs(1));
    store.promote_due(9).unwrap();
    let claimed = a.claim().of("mail_a").one(store);
    engine("c").kinds(&["other", "mail_a"]).on(rig);
    a.ends(store, Finish { held: claimed.held, ..elsewhere });
    assert_eq!(row(store, id).not_on, Some(a.host));
}

/// Such a host would keep the task waiting for ever, and nobody would say why.
pub fn a_host_that_takes_nothing_is_no_other_host(rig: &Rig) {
    let (store, a, b) = (&*rig.store, engine("a").on(rig), engine("b").on(rig));
    let says = |mode| store.beat(&Beat { incarnation: b.incarnation, mode, running: 0 }).unwrap();
    let bar = || {
        let id = task().add(store);
        let claimed = a.claim().one(store);
        a.ends(store, Finish { not_on: Some(a.host.clone()), ..retry(&claimed, secs(60)) });
        let bar = row(store, id).not_on;
        let lifted = store.free_lines(9).unwrap();
        store.task_verb(id, TaskVerb::Cancel).unwrap();
        (bar, lifted)
    };
    let barred = (Some(a.host.clone()), 0);
    for mode in [Mode::Paused, Mode::Draining, Mode::Drained, Mode::Stuck] {
        says(mode);
        assert_eq!(bar(), (None, 0), "{mode}");
    }
    says(Mode::Active);
    assert_eq!(bar(), barred);
    // One that has not heard of it yet.
    for wanted in [Wanted::Pause, Wanted::Drain, Wanted::Stop] {
        store.set_wanted(&wish("b", wanted)).unwrap();
        assert_eq!(bar(), (None, 0), "{wanted}");
    }
    store.set_wanted(&Wish4Engine { lasts: Some(secs(60)), ..wish("b", Wanted::Pause) }).unwrap();
    rig.pass(secs(61));
    assert_eq!(bar(), barred, "that wish is over");
    // What was barred before is let go with the next slow look.
    let id = task().add(store);
    let claimed = a.claim().one(store);
    a.ends(store, Finish { not_on: Some(a.host.clone()), ..retry(&claimed, secs(60)) });
    assert_eq!((row(store, id).not_on, store.free_lines(9).unwrap()), (Some(a.host.clone()), 0));
    says(Mode::Drained);
    assert_eq!((store.free_lines(9).unwrap(), row(store, id).not_on), (1, None));
}

pub fn a_task_that_cost_two_engines_runs_alone(rig: &Rig) {
    let store = &*rig.store;
    for builder in [task(), task_on(&["r"])] {
        let id = builder.add(store);
        let keyed = !builder.0.resources.is_empty();
        for name in ["a", "b"] {
            let e = engine(name).on(rig);
            let claim = if keyed { e.claim().keyed() } else { e.claim() };
            assert_eq!(claim.ids(store), [id]);
            e.dies(store);
            e.takeover(store);
        }
        let c = engine("c").on(rig);
        assert_eq!((c.claim().ids(store), c.claim().keyed().ids(store)), (vec![], vec![]));
        let work = store.probe(&[kind(KIND)], "h").unwrap();
        assert_eq!((work[0].plain, work[0].keyed, work[0].alone), (false, false, true));
        let claimed = c.claim().alone().one(store);
        assert_eq!((claimed.held.task, claimed.resources.len()), (id, builder.0.resources.len()));
        c.ends(store, done(&claimed));
        c.dies(store);
    }
}

pub fn an_alone_claim_takes_one_task_and_no_innocent_ones(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add_many(store, 2);
    assert_eq!(a.claim().alone().ids(store), []);
    a.claim().run(store);
    for e in [a, engine("b").on(rig)] {
        e.claim().run(store);
        e.dies(store);
        e.takeover(store);
    }
    assert_eq!(engine("c").on(rig).claim().alone().limit(9).ids(store).len(), 1);
}

pub fn a_fenced_incarnation_claims_nothing(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let (plain, keyed) = (task().add(store), task_on(&["r"]).add(store));
    a.dies(store);
    assert_eq!(
        (a.claim().ids(store), a.claim().keyed().ids(store), a.claim().alone().ids(store)),
        (vec![], vec![], vec![])
    );
    assert_eq!((state(store, plain), state(store, keyed)), (Some(TaskState::Ready), Some(TaskState::Ready)));
    assert_eq!((row(store, plain).attempt, row(store, keyed).attempt), (0, 0));
}

pub fn nothing_is_claimed_before_a_raised_epoch_is_settled(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add(store);
    task_on(&["r"]).add(store);
    assert!(store.raise_epoch(Epoch::new(1), Epoch::new(2), "a test").unwrap());
    assert_eq!((a.claim().ids(store), a.claim().keyed().ids(store)), (vec![], vec![]));
    assert!(store.settle_epoch(Epoch::new(2)).unwrap());
    assert_eq!(a.claim().one(store).held.token.epoch(), Epoch::new(2));
    assert_eq!(a.claim().keyed().one(store).held.token.epoch(), Epoch::new(2));
}

pub fn nothing_is_claimed_from_a_database_that_moved(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add(store);
    task_on(&["r"]).add(store);
    rig.move_database();
    assert_eq!((a.claim().ids(store), a.claim().keyed().ids(store)), (vec![], vec![]));
}

pub fn nothing_that_raises_a_token_is_written_to_a_database_that_moved(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let (plain, keyed) = (task().add(store), task_on(&["r"]).add(store));
    let claimed = [a.claim().one(store), a.claim().keyed().one(store)];
    rig.move_database();
    for task in &claimed {
        let cancel = Finish { result: AttemptResult::Canceled, next: Next::Canceled, ..done(task) };
        for end in [handed_back(task), cancel] {
            assert!(matches!(store.finish(&a.finisher(), &[end]), Err(StoreError::Refused(_))));
        }
    }
    a.dies(store);
    assert!(matches!(store.take_over(a.incarnation, "a test", 9), Err(StoreError::Refused(_))));
    assert_eq!((state(store, plain), state(store, keyed)), (Some(TaskState::Running), Some(TaskState::Running)));
    assert_eq!(store.attempts(plain).unwrap().len(), 1, "only the running one");
    assert_eq!(store.resource(&resource("r")).unwrap().unwrap().owner_task, Some(keyed));
    // With the epoch raised there, work goes on, above every token of the old one.
    assert!(store.raise_epoch(Epoch::new(1), Epoch::new(2), "a test").unwrap());
    assert_eq!(a.takeover(store).ready, 2);
    assert_eq!((row(store, plain).token.epoch(), row(store, keyed).token.epoch()), (Epoch::new(2), Epoch::new(2)));
}

pub fn tokens_of_a_task_only_grow(rig: &Rig) {
    tokens_grow(rig, &task(), |e| e.claim(), |store, id| row(store, id).token);
}

pub fn tokens_of_a_resource_only_grow(rig: &Rig) {
    let of_resource = |store: &dyn Store, _| store.resource(&resource("r")).unwrap().unwrap().token;
    tokens_grow(rig, &task_on(&["r"]), |e| e.claim().keyed(), of_resource);
}

/// Every way from one claim to the next, with an epoch in between.
fn tokens_grow(
    rig: &Rig,
    task: &TaskBuilder,
    claim: fn(&Engine) -> ClaimBuilder,
    stored: fn(&dyn Store, rekindle::protocol::ids::TaskId) -> Token,
) {
    let store = &*rig.store;
    let id = task.add(store);
    let mut last = Token::ZERO;
    for round in 0..12 {
        let e = engine(&format!("e{round}")).on(rig);
        let claimed = claim(&e).one(store);
        assert!(claimed.held.token > last, "round {round}: {} after {last}", claimed.held.token);
        assert_eq!(stored(store, id), claimed.held.token);
        last = claimed.held.token;
        match round % 4 {
            0 => {
                assert_eq!(e.fence(store, None, rekindle::protocol::engine::Proof::Itself), FenceOutcome::Won);
                e.takeover(store);
            }
            1 => e.ends(store, handed_back(&claimed)),
            2 => {
                e.ends(store, Finish { result: AttemptResult::Canceled, next: Next::Canceled, ..done(&claimed) });
                store.task_verb(id, TaskVerb::Retry).unwrap();
            }
            _ => {
                e.ends(store, retry(&claimed, secs(1)));
                rig.pass(secs(2));
                assert_eq!(store.promote_due(9).unwrap(), 1);
            }
        }
        if round == 6 {
            let epoch = store.meta().unwrap().epoch;
            store.raise_epoch(epoch, Epoch::new(9), "a test").unwrap();
            store.settle_epoch(Epoch::new(9)).unwrap();
        }
        assert!(stored(store, id) >= last);
    }
    assert_eq!(last.epoch(), Epoch::new(9));
}
