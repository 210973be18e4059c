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
use crate::protocol::timing::{Profile, Timing};
use crate::store::{EngineRow, Fence, FenceOutcome, MemoryStore, Store};

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
    let fence = Fence { incarnation: first, beat: Some(0), proof: Proof::Expiry, by: "peer".into() };
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
