//! Registering, beating, what operators want, forgetting.

use rekindle::protocol::engine::{EngineState, Mode, Proof, Wanted};
use rekindle::protocol::ids::EngineName;
use rekindle::protocol::last_beat::LastBeat;
use rekindle::protocol::liveness::SweepKind;
use rekindle::protocol::task::{Reason, TaskState, Wish};
use rekindle::store::*;
use std::time::Duration;

use crate::support::builders::*;
use crate::support::databases::Rig;

pub fn a_live_namesake_is_refused_and_described(rig: &Rig) {
    let store = &*rig.store;
    let first = engine("a").host("h1").on(rig);
    match engine("a").register(store) {
        RegisterOutcome::NameTaken(namesake) => {
            assert_eq!((namesake.incarnation, namesake.host.as_str()), (first.incarnation, "h1"));
            assert_eq!(
                (namesake.pid, namesake.state_id.as_str(), namesake.boot_id.as_str()),
                (4_711, "state-of-a", "boot-1")
            );
            assert_eq!(namesake.stand, engine("a").0.stand);
            assert!(namesake.stand.is_some());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(store.engines().unwrap().1.len(), 1);
    first.dies(store);
    engine("a").on(rig);
}

pub fn a_former_life_ends_with_its_proof_in_the_registering_transaction(rig: &Rig) {
    let store = &*rig.store;
    for (proof, result, lost) in [(Proof::Itself, Reason::HandedBack, 0), (Proof::Lock, Reason::Lost, 1)] {
        let name = format!("e-{proof}");
        let former = engine(&name).on(rig);
        let id = task().of(&name).add(store);
        former.claim().of(&name).one(store);
        let next = engine(&name).after(&former, proof, &[]).on(rig);
        assert!(former.is_gone(store) && !next.is_gone(store));
        let task = row(store, id);
        assert_eq!((task.state, task.reason, task.lost, task.owner), (TaskState::Ready, result, lost, None), "{proof}");
        let lives = store.engines().unwrap().1;
        let life = lives.iter().find(|life| life.incarnation == former.incarnation).unwrap();
        assert_eq!((life.state, life.proof), (EngineState::Fenced, Some(proof)));
    }
}

pub fn adopted_tasks_keep_running_and_the_others_are_handed_back(rig: &Rig) {
    let store = &*rig.store;
    let former = engine("a").on(rig);
    let (plain, keyed, other) = (task().add(store), task_on(&["r"]).add(store), task().priority(-1).add(store));
    let claimed = former.claim().run(store);
    let on_r = former.claim().keyed().one(store);
    let keep = claimed.iter().find(|c| c.held.task == plain).unwrap();
    let stale = Held { nonce: nonce(), ..claimed.iter().find(|c| c.held.task == other).unwrap().held };
    let again = engine("a").after(&former, Proof::Itself, &[keep.held, on_r.held, stale]);
    match again.register(store) {
        RegisterOutcome::Registered { adopted, .. } => assert_eq!(adopted, [keep.held, on_r.held]),
        other => panic!("{other:?}"),
    }
    let again = Engine { incarnation: again.0.incarnation, ..former };
    assert_eq!(store.owned(again.incarnation).unwrap(), [keep.held, on_r.held]);
    assert_eq!(state(store, other), Some(TaskState::Ready));
    assert_eq!(again.finish(store, &[done(keep), done(&on_r)]), [FinishOutcome::Written; 2]);
    assert_eq!((state(store, plain), state(store, keyed)), (Some(TaskState::Done), Some(TaskState::Done)));
    assert_eq!(store.resource(&resource("r")).unwrap().unwrap().owner_task, None);
}

pub fn accepted_beats_count_up_by_one(rig: &Rig) {
    let a = engine("a").on(rig);
    let counts: Vec<i64> = (0..3).map(|_| a.accepted(&*rig.store).beat).collect();
    assert_eq!(counts, [1, 2, 3]);
    let beat = Beat { incarnation: a.incarnation, mode: Mode::Draining, running: 7 };
    rig.store.beat(&beat).unwrap();
    let row = rig.store.engines().unwrap().1.remove(0);
    // What it runs is counted from the tasks, not believed.
    assert_eq!((row.beat, row.mode, row.running), (4, Mode::Draining, 0));
    task().add(&*rig.store);
    let claimed = a.claim().one(&*rig.store);
    assert_eq!(rig.store.engines().unwrap().1[0].running, 1);
    assert_eq!(a.finish(&*rig.store, &[done(&claimed)]), [FinishOutcome::Written]);
    assert_eq!(rig.store.engines().unwrap().1[0].running, 0);
}

pub fn late_beat_of_a_fenced_incarnation_is_gone(rig: &Rig) {
    let a = engine("a").on(rig);
    a.dies(&*rig.store);
    assert!(a.is_gone(&*rig.store));
    assert!(rig.store.close(a.incarnation).unwrap());
    assert!(a.is_gone(&*rig.store), "closing changes nothing about that");
}

pub fn beat_of_a_stopped_incarnation_is_gone(rig: &Rig) {
    let a = engine("a").on(rig);
    assert!(rig.store.stop(a.incarnation).unwrap());
    assert!(a.is_gone(&*rig.store));
    assert!(!rig.store.stop(a.incarnation).unwrap(), "it has stopped before");
    assert_eq!(a.fence(&*rig.store, None, Proof::Operator), FenceOutcome::Missed);
}

pub fn what_operators_want_arrives_with_the_beat(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    assert_eq!(a.accepted(store).wanted, Wanted::Run);
    let drain = Wish4Engine { deadline: Some(secs(60)), ..wish("a", Wanted::Drain) };
    assert_eq!(store.set_wanted(&drain).unwrap(), Some(Wanted::Run));
    let answer = a.accepted(store);
    assert_eq!(answer.wanted, Wanted::Drain);
    let left = answer.wanted_deadline.unwrap().since(answer.meta.now);
    assert!(left > secs(50) && left <= secs(60), "{left:?}");
    assert_eq!(store.set_wanted(&wish("a", Wanted::Run)).unwrap(), Some(Wanted::Drain));
    assert_eq!((a.accepted(store).wanted, a.accepted(store).wanted_deadline), (Wanted::Run, None));
    assert_eq!(store.set_wanted(&wish("nobody", Wanted::Drain)).unwrap(), None);
}

pub fn a_wish_that_has_run_out_counts_as_run(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    store.set_wanted(&Wish4Engine { lasts: Some(secs(60)), ..wish("a", Wanted::Pause) }).unwrap();
    assert_eq!(a.accepted(store).wanted, Wanted::Pause);
    assert_eq!(store.engines().unwrap().1[0].wanted.wanted, Wanted::Pause);
    rig.pass(secs(61));
    assert_eq!(a.accepted(store).wanted, Wanted::Run);
    assert_eq!(store.engines().unwrap().1[0].wanted.wanted, Wanted::Run);
    assert_eq!(store.set_wanted(&wish("a", Wanted::Drain)).unwrap(), Some(Wanted::Run));
}

pub fn what_is_wanted_belongs_to_the_name_and_outlives_the_life(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    store.set_wanted(&wish("a", Wanted::Drain)).unwrap();
    a.dies(store);
    assert_eq!(engine("a").on(rig).accepted(store).wanted, Wanted::Drain);
    assert_eq!(engine("b").on(rig).accepted(store).wanted, Wanted::Run);
}

pub fn wishes_on_running_tasks_arrive_with_the_beat_of_their_owner(rig: &Rig) {
    let (store, a, b) = (&*rig.store, engine("a").on(rig), engine("b").on(rig));
    task().add_many(store, 3);
    let claimed = a.claim().run(store);
    assert_eq!(a.accepted(store).wishes, []);
    for task in &claimed[1..] {
        assert_eq!(store.task_verb(task.held.task, TaskVerb::Cancel).unwrap(), VerbOutcome::Asked);
    }
    let mut wishes = a.accepted(store).wishes;
    wishes.sort();
    let asked: Vec<_> = claimed[1..].iter().map(|c| (c.held.task, c.held.token, Wish::Cancel)).collect();
    assert_eq!(wishes, asked);
    assert_eq!(b.accepted(store).wishes, []);
}

pub fn the_epoch_is_raised_by_compare_and_set_and_arrives_with_the_beat(rig: &Rig) {
    use rekindle::protocol::ids::Epoch;
    let (store, a) = (&*rig.store, engine("a").on(rig));
    assert!(store.raise_epoch(Epoch::new(1), Epoch::new(5), "a test").unwrap());
    assert!(!store.raise_epoch(Epoch::new(1), Epoch::new(9), "a test").unwrap(), "somebody was faster");
    let meta = a.accepted(store).meta;
    assert_eq!((meta.epoch, meta.raised_epoch, meta.settled_epoch), (Epoch::new(5), Epoch::new(5), Epoch::new(1)));
    assert!(!store.settle_epoch(Epoch::new(4)).unwrap());
    assert!(store.settle_epoch(Epoch::new(5)).unwrap());
    assert!(!store.settle_epoch(Epoch::new(5)).unwrap());
    assert!(store.raise_epoch(Epoch::new(5), Epoch::new(2), "a test").unwrap());
    assert_eq!(store.meta().unwrap().epoch, Epoch::new(6), "never lower than one more");
}

pub fn a_database_that_moved_is_seen_with_the_next_beat_and_recorded_by_a_raise(rig: &Rig) {
    use rekindle::protocol::ids::Epoch;
    let (store, a) = (&*rig.store, engine("a").on(rig));
    assert!(a.accepted(store).meta.identity_matches);
    rig.move_database();
    assert!(!a.accepted(store).meta.identity_matches);
    assert!(!store.sweep(rekindle::protocol::liveness::SweepKind::Full).unwrap().meta.identity_matches);
    assert!(store.raise_epoch(Epoch::new(1), Epoch::new(2), "a test").unwrap());
    assert!(a.accepted(store).meta.identity_matches);
}

pub fn engines_read_what_was_registered(rig: &Rig) {
    let builder = engine("a");
    let said = builder.0.clone();
    let a = builder.on(rig);
    a.accepted(&*rig.store);
    let (now, mut rows) = rig.store.engines().unwrap();
    let got = rows.remove(0);
    assert_eq!((got.incarnation, &got.name, &got.host), (said.incarnation, &said.name, &said.host));
    assert_eq!((&got.boot_id, got.pid, &got.state_id), (&said.boot_id, said.pid, &said.state_id));
    assert_eq!((&got.version, got.protocol, &got.release), (&said.version, said.protocol, &said.release));
    assert_eq!((got.kinds, got.slots, &got.means), (vec![KIND.to_owned()], said.slots, &said.means));
    assert_eq!((got.timing, got.state, got.mode), (said.timing, EngineState::Live, Mode::Active));
    assert_eq!((got.ended_at, got.proof, got.taken_over), (None, None, 0));
    assert!(now.since(got.last_beat_at) < secs(60) && now.since(got.registered_at) < secs(60));
}

pub fn live_and_owning_engines_are_not_forgotten(rig: &Rig) {
    let (store, live, owns, over) = (&*rig.store, engine("a").on(rig), engine("b").on(rig), engine("c").on(rig));
    task().add(store);
    owns.claim().one(store);
    owns.dies(store);
    assert!(!store.close(owns.incarnation).unwrap(), "it owns a task");
    assert!(!store.close(live.incarnation).unwrap(), "it lives");
    assert!(!live.is_gone(store));
    store.stop(over.incarnation).unwrap();
    store.close(over.incarnation).unwrap();
    rig.pass(secs(100));
    let names = |rows: Vec<EngineRow>| rows.into_iter().map(|row| row.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(store.forget_engines(secs(101), &[], false).unwrap()), Vec::<String>::new(), "too young");
    assert_eq!(names(store.forget_engines(secs(99), &[], true).unwrap()), ["c"]);
    assert_eq!(store.engines().unwrap().1.len(), 3, "the rehearsal forgets nobody");
    let others = [EngineName::new("a").unwrap(), EngineName::new("b").unwrap()];
    assert_eq!(names(store.forget_engines(secs(99), &others, false).unwrap()), Vec::<String>::new());
    assert_eq!(names(store.forget_engines(secs(99), &[], false).unwrap()), ["c"]);
    assert_eq!(store.engines().unwrap().1.len(), 2);
}

/// What an engine remembers of a beat of `of`, as of now.
fn remembered(store: &dyn Store, of: &Engine, beat: i64) -> LastBeat {
    let meta = store.meta().unwrap();
    LastBeat { cluster_id: meta.cluster_id, incarnation: of.incarnation, beat, epoch: meta.epoch, at: meta.now }
}

fn registers(rig: &Rig, name: &str, last: LastBeat) -> bool {
    let builder = EngineBuilder(Registration { last_beat: Some(last), ..engine(name).0 });
    match builder.register(&*rig.store) {
        RegisterOutcome::Registered { is_lost, .. } => is_lost,
        other => panic!("{other:?}"),
    }
}

pub fn a_registration_says_whether_remembered_beats_are_lost(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let before = remembered(store, &a, 2);
    a.accepted(store);
    a.accepted(store);
    rig.pass(secs(1));
    let last = remembered(store, &a, 2);
    let more = LastBeat { beat: 3, ..last.clone() };
    // Beside a live row, a fenced one, and one that was closed.
    assert_eq!((registers(rig, "b", last.clone()), registers(rig, "c", more.clone())), (false, true));
    assert_eq!((store.is_lost(&last).unwrap(), store.is_lost(&more).unwrap()), (false, true));
    a.dies(store);
    assert_eq!((store.is_lost(&last).unwrap(), store.is_lost(&more).unwrap()), (false, true));
    assert!(store.close(a.incarnation).unwrap());
    assert_eq!((store.is_lost(&last).unwrap(), store.is_lost(&more).unwrap()), (false, true));
    // A life that the database has never heard of, until rows of its time were removed.
    let unheard = |at: &LastBeat| LastBeat { incarnation: engine("x").0.incarnation, ..at.clone() };
    assert!(store.is_lost(&unheard(&last)).unwrap());
    assert!(!store.is_lost(&LastBeat { cluster_id: "another".into(), ..unheard(&last) }).unwrap());
    let dry = store.forget_engines(Duration::ZERO, &[], true).unwrap();
    assert_eq!((dry.len(), store.is_lost(&unheard(&before)).unwrap()), (1, true), "a dry run removes nothing");
    assert_eq!(store.forget_engines(Duration::ZERO, &[], false).unwrap().len(), 1);
    assert!(!store.is_lost(&last).unwrap(), "forgotten is not lost");
    rig.pass(secs(1));
    let later = remembered(store, &a, 2);
    assert!(store.is_lost(&unheard(&later)).unwrap(), "nothing of that time was removed");
    // A raise that is newer than what is remembered answers the loss.
    assert!(store.raise_epoch(later.epoch, later.epoch, "a test").unwrap());
    assert!(!store.is_lost(&unheard(&later)).unwrap());
}

pub fn a_life_that_lost_beats_hands_nothing_back_before_the_epoch_is_raised(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add(store);
    let claimed = a.claim().one(store);
    let last = remembered(store, &a, 9);
    let next = engine("a").after(&a, Proof::Itself, &[]);
    let next = EngineBuilder(Registration { last_beat: Some(last), ..next.0 });
    let outcome = next.register(store);
    assert!(matches!(outcome, RegisterOutcome::Registered { is_lost: true, .. }), "{outcome:?}");
    assert!(a.is_gone(store));
    assert_eq!(store.owned(a.incarnation).unwrap(), [claimed.held]);
}

pub fn a_former_life_that_a_copy_may_still_run_is_fenced_and_left_alone(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add(store);
    let claimed = a.claim().one(store);
    let next = engine("a").after(&a, Proof::Operator, &[]).on(rig);
    assert!(a.is_gone(store));
    assert_eq!(store.owned(a.incarnation).unwrap(), [claimed.held]);
    let ended = || store.sweep(SweepKind::Full).unwrap().ended;
    let left: Vec<_> = ended().iter().map(|peer| (peer.incarnation, peer.proof, peer.acknowledged)).collect();
    assert_eq!(left, [(a.incarnation, Proof::Operator, false)]);
    // The copy finds that it was fenced, and says so when nothing of it runs any more.
    let copy = engine("a").after(&a, Proof::Itself, &[]);
    assert!(matches!(copy.register(store), RegisterOutcome::NameTaken(by) if by.incarnation == next.incarnation));
    assert!(ended()[0].acknowledged);
}

pub fn a_clock_that_was_set_back_is_noted_once_and_arrives_with_the_beat(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    assert_eq!(a.accepted(store).meta.clock_set_back(), None);
    let seen = store.meta().unwrap().now.after(secs(7_200));
    store.note_clock(seen).unwrap();
    store.note_clock(seen.before(secs(600))).unwrap();
    let meta = a.accepted(store).meta;
    assert_eq!(meta.clock_seen_at, seen);
    assert!(meta.clock_set_back().unwrap() > secs(7_000));
    store.note_clock(seen.after(secs(1))).unwrap();
    assert_eq!(store.meta().unwrap().clock_seen_at, seen.after(secs(1)));
}
