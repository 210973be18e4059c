//! Whether claims stop and go on with what can be written.

use super::*;
use crate::clock::ManualClock;
use crate::engine::brake_tests::Watcher;
use crate::engine::options::EngineOptions;
use crate::engine::run::{Role, build};
use crate::engine::shared::Phase;
use crate::protocol::ids::{EngineName, KindName, Nonce};
use crate::protocol::task::{AttemptResult, Policy};
use crate::store::{Claim, ClaimScope, MemoryStore, NewTask, Store};

#[test]
fn nothing_is_claimed_while_no_end_can_be_written() {
    let store = MemoryStore::new(Arc::new(ManualClock::new()));
    let options = EngineOptions::new(EngineName::new("e").unwrap());
    let shared = Arc::new(build(Arc::new(store), options, Role::Library, None).unwrap());
    let mut finisher = Finisher::new(Arc::clone(&shared));
    {
        let mut life = shared.life.lock();
        (life.incarnation, life.phase) = (Some(Incarnation::new(1)), Phase::Live);
        life.lease.accept(shared.clock.lease_now());
        life.meta = Some(shared.store.meta().unwrap());
    }
    let mut may_claim_after = |failed| {
        finisher.failed = failed;
        finisher.tell_the_dispatcher();
        shared.may_claim().is_some()
    };
    assert!(may_claim_after(0), "the rig itself may claim");
    assert!(may_claim_after(STUCK_AFTER - 1), "a hiccup stops nothing");
    assert!(!may_claim_after(STUCK_AFTER));
    assert!(!may_claim_after(STUCK_AFTER + 40));
    assert!(shared.wake.1.is_empty());
    assert!(may_claim_after(0));
    assert!(shared.wake.1.try_recv().is_ok(), "the dispatcher hears of it at once");
}

/// Of a task that engine 0 claimed and finished.
fn an_end_that_was_written(store: &MemoryStore) -> Pending {
    let (kind, incarnation) = (KindName::from_stored("k".into()), Incarnation::new(0));
    let task = NewTask { kind: kind.clone(), payload: Vec::new(), resources: Vec::new(), priority: 0, delay: None };
    store.add(&[task], "a test").unwrap();
    let claim = Claim {
        incarnation,
        host: "h".into(),
        kind: kind.clone(),
        policy: Policy::default(),
        scope: ClaimScope::Plain,
        limit: 1,
        nonce: Nonce::new(7),
    };
    let held = store.claim(&claim).unwrap()[0].held;
    let end = Finish {
        held,
        keyed: false,
        result: AttemptResult::Done,
        next: Next::Done,
        uses_budget: false,
        handed_back: Some(0),
        not_on: None,
        exit_code: Some(0),
        detail: None,
        value: None,
        output: Vec::new(),
        output_dropped: 0,
        unstarted: false,
    };
    let who = Who { incarnation, name: EngineName::new("e0").unwrap() };
    assert_eq!(store.finish(&who, std::slice::from_ref(&end)).unwrap(), [FinishOutcome::Written]);
    Pending { incarnation, end, kind, waited: None, ran: None, broken: None, is_doubted: false }
}

/// Found by the simulator (its seed of then: 15373): after an outage the engine beat, and claimed nothing ever
/// again.
#[test]
fn claims_go_on_when_the_last_end_is_read_back_as_written() {
    let Watcher { shared, store, .. } = Watcher::with_peers(0);
    let mut finisher = Finisher::new(Arc::clone(&shared));
    finisher.failed = STUCK_AFTER;
    finisher.pending.push(an_end_that_was_written(&store));
    finisher.judge();
    assert!(shared.ends_stuck.load(Ordering::Acquire), "one is left");
    let left = std::mem::take(&mut finisher.pending);
    finisher.read_back(left);
    assert!(finisher.pending.is_empty(), "it is archived, as far as the store can tell");
    finisher.judge();
    assert!(!shared.ends_stuck.load(Ordering::Acquire));
    assert_eq!(finisher.failed, 0, "hours are written again, and the next hiccup is one");
}
