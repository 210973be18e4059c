//! What the simulator found of lives and epochs, each as a story of its own.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::engine::EngineOptions;
use crate::engine::epoch_file::Remembered;
use crate::engine::run::{Role, build};
use crate::protocol::engine::EngineState;
use crate::protocol::ids::{EngineName, Epoch};
use crate::protocol::stand::{KeptBy, Stand};
use crate::protocol::timing::{Profile, Timing};
use crate::store::{EngineRow, Fence, FenceOutcome, MemoryStore, Store};

/// A control group held it together, and its process is not one of this host.
const STAND: Stand = Stand { lock_device: 1, lock_inode: 1, pid_namespace: 1, start_ticks: 0, kept_by: KeptBy::Group };

struct Rig {
    clock: ManualClock,
    store: MemoryStore,
    heartbeat: Heartbeat,
}

impl Rig {
    /// An engine of this name that has done nothing yet, over the database of others.
    fn beside(store: &MemoryStore, clock: &ManualClock, state_id: &str) -> Self {
        let options = EngineOptions {
            timing: Timing::of(Profile::Fast),
            state_id: state_id.into(),
            stand: Some(STAND),
            ..EngineOptions::new(EngineName::new("e").unwrap())
        };
        // It runs no commands: no thread that forks is wanted here.
        let mut shared = build(Arc::new(store.clone()), options, Role::Library, None).unwrap();
        shared.clock = Arc::new(clock.clone());
        Self { clock: clock.clone(), store: store.clone(), heartbeat: Heartbeat::new(Arc::new(shared)) }
    }

    fn new() -> Self {
        let clock = ManualClock::new();
        Self::beside(&MemoryStore::new(Arc::new(clock.clone())), &clock, "here")
    }

    fn step(&mut self) {
        self.heartbeat.step().unwrap();
    }

    fn lives(&self) -> Vec<EngineRow> {
        self.store.engines().unwrap().1
    }

    /// It is raised by a thread of its own.
    fn wait_epoch(&self, epoch: i64) {
        for _ in 0..1_000 {
            if self.store.meta().unwrap().epoch == Epoch::new(epoch) {
                return;
            }
            SystemClock.pause(Duration::from_millis(10));
        }
        panic!("it is {:?}", self.store.meta());
    }

    fn lease_ends(&self) -> LeaseInstant {
        self.heartbeat.shared.life().lease.until().unwrap()
    }
}

/// A peer fenced it before its first beat, a failover lost that fence, and the beat brought it back to life with
/// nothing in its hands.
#[test]
fn a_life_without_a_beat_for_its_lease_sends_none_any_more() {
    let mut rig = Rig::new();
    rig.step();
    let first = rig.lives()[0].incarnation;
    let before = rig.store.snapshot();
    let fence = Fence { incarnation: first, beat: Some(0), proof: Proof::Expiry, by: "peer".into(), place: None };
    assert_eq!(rig.store.fence(&fence).unwrap(), FenceOutcome::Won);
    rig.store.restore(before);
    rig.clock.advance(Timing::of(Profile::Fast).lease());
    for _ in 0..4 {
        rig.step();
    }
    let lives = rig.lives();
    let old = lives.iter().find(|row| row.incarnation == first).unwrap();
    assert_eq!((old.beat, old.state), (0, EngineState::Fenced), "ended by its successor");
    let new = lives.iter().find(|row| row.incarnation != first).unwrap();
    assert_eq!((new.beat, new.state), (1, EngineState::Live));
}

/// An engine whose beats were accepted but whose other calls hung ran the tasks of lost commits beside their
/// successors.
#[test]
fn a_lease_does_not_grow_past_a_raise_before_what_is_held_was_compared() {
    let mut rig = Rig::new();
    rig.step();
    rig.step();
    let h = Timing::of(Profile::Fast).heartbeat_interval();
    let before = rig.lease_ends();
    rig.clock.advance(h);
    rig.step();
    assert_eq!(rig.lease_ends(), before.after(h), "as long as nothing was raised it grows");
    let ends = rig.lease_ends();
    rig.store.set_identity("promoted");
    assert!(rig.store.raise_epoch(Epoch::new(1), Epoch::new(2), "a test").unwrap());
    for _ in 0..3 {
        rig.clock.advance(h);
        rig.step();
        assert_eq!(rig.lease_ends(), ends, "nothing was compared yet");
    }
    *rig.heartbeat.shared.verified.lock() = Epoch::new(2);
    rig.clock.advance(h);
    rig.step();
    assert_eq!(rig.lease_ends(), ends.after(h * 4));
}

/// It was the only one left that had seen an epoch, waited for its name, and kept that to itself.
#[test]
fn an_engine_whose_name_is_taken_raises_the_epoch_that_it_remembers() {
    let mut owner = Rig::new();
    owner.step();
    owner.step();
    let mut other = Rig::beside(&owner.store, &owner.clock, "there");
    other.step();
    assert_eq!(owner.store.meta().unwrap().epoch, Epoch::new(1), "who remembers nothing raises nothing");
    let mut other = Rig::beside(&owner.store, &owner.clock, "there");
    *other.heartbeat.shared.known_epoch.lock() =
        Remembered { epoch: Epoch::new(5), identity: Some("a lost one".into()) };
    other.step();
    owner.wait_epoch(6);
}

/// Two failovers within seconds raised one number twice, and tokens were given out twice.
#[test]
fn an_epoch_of_the_same_number_for_another_database_is_raised_above() {
    let mut rig = Rig::new();
    rig.step();
    rig.step();
    rig.store.set_identity("the second");
    assert!(rig.store.raise_epoch(Epoch::new(1), Epoch::new(2), "a test").unwrap());
    *rig.heartbeat.shared.known_epoch.lock() = Remembered { epoch: Epoch::new(2), identity: Some("the first".into()) };
    rig.clock.advance(Timing::of(Profile::Fast).heartbeat_interval());
    rig.step();
    rig.wait_epoch(3);
}

/// Ends its life as an outage that is longer than L does, and lets the next one register.
fn come_back(rig: &mut Rig) {
    rig.heartbeat.shared.life.lock().phase = Phase::Clear;
    rig.step();
    rig.step();
    assert_eq!(rig.heartbeat.shared.life().phase, Phase::Registered);
}

/// What it holds at that moment is not beaten any more, so no counter goes back.
#[test]
fn a_database_that_lost_beats_in_a_long_outage_is_raised_before_anything_is_claimed() {
    let mut rig = Rig::new();
    rig.step();
    rig.step();
    let older = rig.store.snapshot();
    rig.step();
    rig.store.restore(older);
    come_back(&mut rig);
    assert_eq!(rig.store.meta().unwrap().epoch, Epoch::new(1));
    rig.step();
    assert_eq!(rig.heartbeat.shared.may_claim(), None, "its first beat must not allow a claim");
    rig.wait_epoch(2);
    assert!(rig.store.settle_epoch(Epoch::new(2)).unwrap());
    rig.step();
    assert!(rig.heartbeat.shared.may_claim().is_some(), "the doubt ends with the raise");
    come_back(&mut rig);
    rig.step();
    assert!(rig.heartbeat.shared.may_claim().is_some(), "one loss is one raise");
}

#[test]
fn a_database_that_kept_all_beats_is_not_raised_after_a_long_outage() {
    let mut rig = Rig::new();
    rig.step();
    rig.step();
    for _ in 0..2 {
        come_back(&mut rig);
        rig.step();
        assert!(rig.heartbeat.shared.may_claim().is_some());
    }
    // A life that was forgotten meanwhile is no loss either.
    for row in rig.lives().into_iter().filter(|row| row.state != EngineState::Live) {
        assert!(rig.store.close(row.incarnation).unwrap());
    }
    let live = rig.heartbeat.shared.life().incarnation.unwrap();
    let fence = Fence { incarnation: live, beat: None, proof: Proof::Expiry, by: "peer".into(), place: None };
    assert_eq!(rig.store.fence(&fence).unwrap(), FenceOutcome::Won);
    assert!(rig.store.close(live).unwrap());
    assert_eq!(rig.store.forget_engines(Duration::ZERO, &[], false).unwrap().len(), 3);
    come_back(&mut rig);
    rig.step();
    assert!(rig.heartbeat.shared.may_claim().is_some());
    assert_eq!(rig.store.meta().unwrap().epoch, Epoch::new(1));
}

/// Whoever raised it for this loss before was faster: its epoch is newer than every token that was lost.
#[test]
fn a_loss_for_which_another_engine_has_raised_the_epoch_is_not_raised_again() {
    let mut rig = Rig::new();
    rig.step();
    rig.step();
    let older = rig.store.snapshot();
    rig.step();
    rig.store.restore(older);
    assert!(rig.store.raise_epoch(Epoch::new(1), Epoch::new(2), "a test").unwrap());
    assert!(rig.store.settle_epoch(Epoch::new(2)).unwrap());
    rig.step();
    assert!(rig.heartbeat.shared.doubted.lock().is_some(), "its own counter went back");
    assert!(rig.heartbeat.shared.may_claim().is_some());
    come_back(&mut rig);
    rig.step();
    assert_eq!(rig.store.meta().unwrap().epoch, Epoch::new(2));
}

/// Engines are often started again while a database is brought back.
#[test]
fn a_process_that_remembers_a_lost_beat_raises_the_epoch() {
    let mut rig = Rig::new();
    rig.step();
    let older = rig.store.snapshot();
    rig.step();
    rig.step();
    let remembered = rig.heartbeat.shared.last_beat.lock().clone();
    assert_eq!(remembered.as_ref().map(|last| last.beat), Some(2));
    rig.store.restore(older);
    let mut next = Rig::beside(&rig.store, &rig.clock, "here");
    *next.heartbeat.shared.last_beat.lock() = remembered.clone();
    next.step();
    assert_eq!(next.lives().len(), 1, "it has met its namesake");
    next.step();
    next.step();
    assert_eq!(next.heartbeat.shared.may_claim(), None);
    next.wait_epoch(2);
    // So does one that finds its name taken.
    rig.store.edit(|s| s.engines.clear());
    let mut taken = Rig::beside(&rig.store, &rig.clock, "there");
    taken.step();
    taken.step();
    let mut waits = Rig::beside(&rig.store, &rig.clock, "here");
    *waits.heartbeat.shared.last_beat.lock() =
        remembered.map(|last| crate::protocol::last_beat::LastBeat { epoch: Epoch::new(2), ..last });
    waits.step();
    waits.wait_epoch(3);
}

fn beat_as(store: &MemoryStore, incarnation: Incarnation) -> bool {
    let beat = crate::store::Beat { incarnation, mode: crate::protocol::engine::Mode::Active, running: 0 };
    matches!(store.beat(&beat).unwrap(), crate::store::BeatOutcome::Accepted(_))
}

/// Two machines that were resumed from one snapshot: neither can prove the other dead, and one of them has the name.
#[test]
fn who_finds_that_a_copy_beats_its_row_comes_back_as_another_life_and_place() {
    let mut rig = Rig::new();
    rig.step();
    rig.step();
    let first = rig.heartbeat.shared.life().incarnation.unwrap();
    // The copy has the same memory.
    let mut copy = Rig::beside(&rig.store, &rig.clock, "here");
    copy.heartbeat.own = rig.heartbeat.own.clone();
    copy.heartbeat.has_registered = true;
    copy.heartbeat.sent = rig.heartbeat.sent;
    *copy.heartbeat.shared.life.lock() = rig.heartbeat.shared.life();
    copy.step();
    assert_eq!(copy.heartbeat.shared.life().phase, Phase::Live, "the first of them to beat finds nothing");
    rig.step();
    assert_eq!(rig.heartbeat.shared.life().phase, Phase::Over);
    assert_eq!(rig.heartbeat.shared.live(), None);
    come_back(&mut rig);
    let row = |id| rig.lives().into_iter().find(|row| row.incarnation == id).unwrap();
    assert_eq!((row(first).state, row(first).proof), (EngineState::Fenced, Some(Proof::Operator)));
    assert!(row(first).ended_by.unwrap().contains("found a copy of itself"));
    let second = rig.heartbeat.shared.life().incarnation.unwrap();
    assert_ne!(row(first).state_id, row(second).state_id);
    let is_acknowledged = || rig.store.edit(|s| s.engines[&first].acknowledged);
    assert!(!is_acknowledged(), "the copy may still run its tasks");
    // The copy finds that it was fenced, acknowledges that, and then that its name is taken.
    copy.step();
    assert_eq!(copy.heartbeat.shared.life().phase, Phase::Over);
    copy.heartbeat.shared.life.lock().phase = Phase::Clear;
    copy.step();
    copy.step();
    assert!(is_acknowledged());
    rig.step();
    assert!(matches!(copy.heartbeat.step(), Err(LifeError::NameTaken { .. })));
    // A new process of that machine is no better off.
    let mut again = Rig::beside(&rig.store, &rig.clock, "here");
    again.step();
    rig.step();
    assert!(matches!(again.heartbeat.step(), Err(LifeError::NameTaken { .. })));
    rig.step();
    assert_eq!(rig.heartbeat.shared.life().incarnation, Some(second));
}

#[test]
fn beats_of_unknown_outcome_are_no_copy() {
    let mut rig = Rig::new();
    rig.step();
    rig.step();
    let id = rig.heartbeat.shared.life().incarnation.unwrap();
    for _ in 0..3 {
        rig.heartbeat.sent.send();
        rig.heartbeat.sent.lose(rig.clock.lease_now());
    }
    // Two of them are written late.
    assert!(beat_as(&rig.store, id) && beat_as(&rig.store, id));
    rig.step();
    assert_eq!(rig.heartbeat.shared.life().phase, Phase::Live);
    // One more than were sent.
    assert!(beat_as(&rig.store, id) && beat_as(&rig.store, id));
    rig.step();
    assert_eq!(rig.heartbeat.shared.life().phase, Phase::Over);
}

/// A flipped bit, a task that writes the state file, a number that somebody wrote into the database for a while.
#[test]
fn a_memory_that_is_far_above_the_database_ends_the_engine_and_raises_nothing() {
    let far = |rig: &Rig| {
        *rig.heartbeat.shared.known_epoch.lock() = Remembered { epoch: Epoch::new(10_002), identity: None };
    };
    let is_refused = |result| match result {
        Err(LifeError::EpochTooFar { remembered, database, .. }) => (remembered.as_i64(), database.as_i64()),
        other => panic!("{other:?}"),
    };
    let mut rig = Rig::new();
    far(&rig);
    assert_eq!(is_refused(rig.heartbeat.step()), (10_002, 1));
    assert_eq!(rig.lives(), [], "it has written nothing");
    // While it runs.
    let mut rig = Rig::new();
    rig.step();
    rig.step();
    far(&rig);
    rig.step();
    assert_eq!(rig.heartbeat.shared.life().phase, Phase::Over);
    rig.heartbeat.shared.life.lock().phase = Phase::Clear;
    rig.step();
    assert_eq!(is_refused(rig.heartbeat.step()), (10_002, 1));
    assert_eq!(rig.store.meta().unwrap().epoch, Epoch::new(1));
    // One who waits for its name raises no more than that.
    let mut owner = Rig::new();
    owner.step();
    owner.step();
    let mut other = Rig::beside(&owner.store, &owner.clock, "there");
    *other.heartbeat.shared.known_epoch.lock() = Remembered { epoch: Epoch::new(10_001), identity: None };
    other.step();
    owner.wait_epoch(10_002);
}

/// Delayed and retried tasks came two hours late, and nobody knew why.
#[test]
fn a_database_whose_clock_was_set_back_is_written_down() {
    let clock = ManualClock::new();
    let db_clock = ManualClock::new();
    let store = MemoryStore::new(Arc::new(db_clock.clone()));
    let mut rig = Rig::beside(&store, &clock, "here");
    rig.step();
    rig.step();
    db_clock.step_wall_us(-59_000_000);
    rig.step();
    assert_eq!(store.meta().unwrap().clock_set_back(), None, "it was set right");
    db_clock.step_wall_us(-7_200_000_000);
    rig.step();
    for _ in 0..1_000 {
        if store.meta().unwrap().clock_set_back().is_some() {
            break;
        }
        SystemClock.pause(Duration::from_millis(10));
    }
    let behind = store.meta().unwrap().clock_set_back().unwrap();
    assert_eq!(behind, Duration::from_secs(7_200));
    // It ends by itself when the time has come again.
    db_clock.step_wall_us(7_200_000_000);
    assert_eq!(store.meta().unwrap().clock_set_back(), None);
}
