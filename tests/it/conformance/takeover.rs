//! What becomes of the tasks of an engine that ended.

use rekindle::protocol::engine::Proof;
use rekindle::protocol::ids::Nonce;
use rekindle::protocol::task::{AttemptResult, Policy, Reason, Rerun, TaskState, Wish};
use rekindle::store::*;

use crate::support::builders::*;
use crate::support::databases::Rig;

pub fn tasks_of_a_live_engine_are_left_alone(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add(store);
    let claimed = a.claim().one(store);
    assert_eq!(a.takeover(store), TakeoverReport::default());
    a.ends(store, done(&claimed));
}

pub fn orphans_become_ready_in_their_old_place_with_a_raised_token(rig: &Rig) {
    let (store, a, b) = (&*rig.store, engine("a").on(rig), engine("b").on(rig));
    let ids = task().add_many(store, 3);
    let claimed = a.claim().limit(2).run(store);
    a.dies(store);
    assert_eq!(a.takeover(store), TakeoverReport { ready: 2, ..TakeoverReport::default() });
    for task in &claimed {
        let row = row(store, task.held.task);
        assert!(row.token > task.held.token, "{} after {}", row.token, task.held.token);
        assert_eq!((row.state, row.owner, row.nonce, row.reason), (TaskState::Ready, None, None, Reason::Lost));
        assert_eq!((row.lost, row.result, row.engine.as_deref()), (1, Some(AttemptResult::Lost), Some("a")));
    }
    let again = b.claim().run(store);
    assert_eq!(again.iter().map(|c| c.held.task).collect::<Vec<_>>(), ids, "the old order");
    assert_eq!(again.iter().map(|c| (c.attempt, c.lost)).collect::<Vec<_>>(), [(2, 1), (2, 1), (1, 0)]);
    assert_eq!(a.finish(store, &[done(&claimed[0])]), [FinishOutcome::Refused], "a late result");
}

pub fn the_lost_attempt_is_written_with_its_evidence(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    let claimed = a.claim().one(store);
    assert_eq!(a.fence(store, Some(0), Proof::Expiry), FenceOutcome::Won);
    a.takeover(store);
    let attempts = store.attempts(id).unwrap();
    assert_eq!(attempts.len(), 1);
    let lost = &attempts[0];
    assert_eq!((lost.attempt, lost.engine.as_str(), lost.incarnation), (1, "a", a.incarnation));
    // Without the claim's nonce: with it the row would read as an end that the engine itself wrote.
    assert_eq!((lost.token, lost.nonce), (claimed.held.token, Nonce::new(0)));
    assert_eq!(lost.result, Some(AttemptResult::Lost));
    let detail = lost.detail.clone().unwrap();
    assert!(detail.starts_with("no beat for ") && detail.ends_with("fenced by a test"), "{detail}");
}

pub fn the_third_lost_engine_quarantines_the_task(rig: &Rig) {
    let store = &*rig.store;
    let id = task().add(store);
    for n in 0..3 {
        let e = engine(&format!("e{n}")).on(rig);
        let claim = if n < 2 { e.claim() } else { e.claim().alone() };
        claim.one(store);
        e.dies(store);
        let parked = usize::from(n == 2);
        assert_eq!(e.takeover(store), TakeoverReport { ready: 1 - parked, parked, ..TakeoverReport::default() });
    }
    let task = row(store, id);
    assert_eq!((task.state, task.lost, task.owner), (TaskState::Quarantined, 3, None));
    assert_eq!(store.attempts(id).unwrap().len(), 3);
}

pub fn an_incarnation_is_charged_once_per_task(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    a.claim().one(store);
    a.dies(store);
    a.takeover(store);
    let before = row(store, id).token;
    rig.late_claim(id, a.incarnation, nonce());
    assert_eq!(a.takeover(store).ready, 1);
    let after = row(store, id);
    assert_eq!((after.lost, after.state), (1, TaskState::Ready));
    assert!(after.token > before);
}

pub fn rerun_never_interrupts_and_raises_the_token(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task_on(&["r"]).add(store);
    let policy = Policy { rerun: Rerun::Never, ..Policy::default() };
    let claimed = a.claim().keyed().policy(policy).one(store);
    a.dies(store);
    assert_eq!(a.takeover(store).parked, 1);
    let task = row(store, id);
    assert_eq!((task.state, task.owner), (TaskState::Interrupted, None));
    assert_eq!(store.engines().unwrap().1[0].taken_over, 0, "nobody took it over");
    assert!(task.token > claimed.held.token);
    let free = store.resource(&resource("r")).unwrap().unwrap();
    assert_eq!((free.owner_task, free.token), (None, task.token));
}

pub fn a_wish_to_cancel_is_obeyed_at_takeover(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let (plain, keyed) = (task().add(store), task_on(&["r"]).add(store));
    let unkeyed = a.claim().one(store);
    let on_r = a.claim().keyed().one(store);
    for id in [plain, keyed] {
        assert_eq!(store.task_verb(id, TaskVerb::Cancel).unwrap(), VerbOutcome::Asked);
    }
    a.dies(store);
    assert_eq!(a.takeover(store).parked, 2);
    assert_eq!((state(store, plain), state(store, keyed)), (Some(TaskState::Canceled), Some(TaskState::Canceled)));
    for claimed in [&unkeyed, &on_r] {
        assert_eq!(store.read_finish(&claimed.held).unwrap(), FinishState::Refused, "it was the sweep that wrote");
    }
    let r = store.resource(&resource("r")).unwrap().unwrap();
    assert!(r.owner_task.is_none() && r.token > on_r.held.token && r.line.is_empty());
}

type Way = fn(&Rig, &Engine);

/// Nobody brought the wish to the engine: it was fenced, said goodbye, or came back as a new life first.
pub fn a_wish_is_obeyed_by_whoever_ends_the_life_of_the_owner(rig: &Rig) {
    let store = &*rig.store;
    let never = Policy { rerun: Rerun::Never, ..Policy::default() };
    let ways: [(&str, Way); 5] = [
        ("expiry", |rig, a| assert_eq!(a.fence(&*rig.store, Some(0), Proof::Expiry), FenceOutcome::Won)),
        ("guard", |rig, a| a.dies(&*rig.store)),
        ("operator", |rig, a| assert_eq!(a.fence(&*rig.store, None, Proof::Operator), FenceOutcome::Won)),
        ("stop", |rig, a| assert!(rig.store.stop(a.incarnation).unwrap())),
        ("itself", |rig, a| drop(engine(a.name.as_str()).after(a, Proof::Itself, &[]).on(rig))),
    ];
    for (way, end) in ways {
        for policy in [Policy::default(), never] {
            let name = format!("{way}-{}", policy.code());
            let a = engine(&name).on(rig);
            let ids: Vec<_> = Wish::ALL.iter().map(|_| task_on(&["r", "s"]).of(&name).add(store)).collect();
            let plain: Vec<_> = Wish::ALL.iter().map(|_| task().of(&name).add(store)).collect();
            let mut wanted = Vec::new();
            for claimed in a.claim().of(&name).policy(policy).run(store) {
                let at = plain.iter().position(|id| *id == claimed.held.task).unwrap();
                wanted.push((claimed, Wish::ALL[at]));
            }
            // One of the line at a time: the first is asked to be put aside.
            wanted.push((a.claim().of(&name).policy(policy).keyed().one(store), Wish::Hold));
            assert_eq!(wanted[4].0.held.task, ids[0]);
            for (claimed, wish) in &wanted {
                rig.ask(claimed.held.task, *wish);
            }
            end(rig, &a);
            a.takeover(store);
            for (claimed, wish) in &wanted {
                let row = row(store, claimed.held.task);
                let expected = match wish {
                    Wish::Cancel => TaskState::Canceled,
                    Wish::Hold => TaskState::Held,
                    Wish::Requeue => TaskState::Ready,
                    Wish::None if policy.rerun == Rerun::Never => TaskState::Interrupted,
                    Wish::None => TaskState::Ready,
                };
                assert_eq!((row.state, row.wish), (expected, Wish::None), "{way} {wish} {:?}", policy.rerun);
                assert!(*wish != Wish::Requeue || row.reason == Reason::Requeued);
            }
            let r = store.resource(&resource("r")).unwrap().unwrap();
            assert_eq!(r.owner_task, None);
            for id in ids {
                store.task_verb(id, TaskVerb::Cancel).unwrap();
            }
        }
    }
}

pub fn what_a_stopped_engine_left_counts_as_handed_back(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let id = task().add(store);
    let claimed = a.claim().one(store);
    assert!(store.stop(a.incarnation).unwrap());
    assert_eq!(a.takeover(store).ready, 1);
    let task = row(store, id);
    assert_eq!((task.lost, task.reason, task.result), (0, Reason::HandedBack, Some(AttemptResult::HandedBack)));
    assert_eq!(store.read_finish(&claimed.held).unwrap(), FinishState::Refused, "it was not the engine that wrote it");
}

pub fn a_takeover_goes_on_in_batches(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add_many(store, 5);
    a.claim().run(store);
    a.dies(store);
    let pass = || store.take_over(a.incarnation, "a test", 2).unwrap();
    let batch = |ready, more| TakeoverReport { ready, more, ..TakeoverReport::default() };
    assert_eq!([pass(), pass(), pass(), pass()], [batch(2, true), batch(2, true), batch(1, false), batch(0, false)]);
    assert_eq!(store.engines().unwrap().1[0].taken_over, 5);
}

pub fn several_sweepers_take_each_task_once(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add_many(store, 60);
    for n in 0..20 {
        task_on(&[&format!("r{n}"), "s"][..1 + n % 2]).add(store);
    }
    let plain = a.claim().limit(60).run(store).len();
    let keyed = a.claim().keyed().limit(20).run(store).len();
    assert!(plain == 60 && keyed >= 11, "{plain} {keyed}");
    a.dies(store);
    let stores: Vec<_> = (0..4).map(|_| rig.another()).collect();
    let ready: usize = std::thread::scope(|scope| {
        let a = &a;
        let run = |store: std::sync::Arc<dyn Store>| {
            scope.spawn(move || {
                let mut ready = 0;
                // Bounded: each pass takes something or finds that others have it.
                for _ in 0..200 {
                    let report = store.take_over(a.incarnation, "a test", 7).unwrap();
                    ready += report.ready;
                    if report == TakeoverReport::default() {
                        break;
                    }
                }
                ready
            })
        };
        let threads: Vec<_> = stores.into_iter().map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(ready, plain + keyed);
    assert!(store.owned(a.incarnation).unwrap().is_empty());
    assert!(store.close(a.incarnation).unwrap());
    let filter = TaskFilter { limit: 1_000, ..TaskFilter::default() };
    for task in store.tasks(&filter).unwrap().1 {
        assert_eq!(store.attempts(task.id).unwrap().len(), usize::from(task.attempt > 0), "{}", task.id);
        assert_eq!(task.lost, u32::from(task.attempt > 0));
    }
}

pub fn a_takeover_wakes_the_line(rig: &Rig) {
    let (store, a, b) = (&*rig.store, engine("a").on(rig), engine("b").on(rig));
    let (first, second) = (task_on(&["r"]).add(store), task_on(&["r"]).add(store));
    a.claim().keyed().one(store);
    a.dies(store);
    a.takeover(store);
    let claimed = b.claim().keyed().one(store);
    assert_eq!(claimed.held.task, first, "in its old place, before those behind it");
    b.ends(store, done(&claimed));
    assert_eq!(b.claim().keyed().ids(store), [second]);
}
