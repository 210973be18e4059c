//! What the loops do when the database may have lost commits. Each story is one that the simulator found (its
//! seeds of then: 32433, 27145; the mistakes are kept as planted bugs).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::brake_tests::{Watcher, beat};
use super::running::Entry;
use crate::clock::Clock;
use crate::protocol::ids::{Epoch, Incarnation, KindName, Nonce, TaskId, Token};
use crate::protocol::task::{OnLeaseLoss, Reason, Wish};
use crate::store::{Claimed, Held, Store};

fn held(task: i64) -> Held {
    Held { task: TaskId::new(task), token: Token::new(1), nonce: Nonce::new(task) }
}

fn entry(held: Held) -> Entry {
    let task = Claimed {
        held,
        kind: KindName::from_stored("k".into()),
        attempt: 1,
        failures: 0,
        lost: 0,
        handed_back: 0,
        reason: Reason::First,
        was_elsewhere: false,
        payload: Vec::new(),
        resources: Vec::new(),
        waited: None,
    };
    Entry {
        task: Arc::new(task),
        incarnation: Incarnation::new(0),
        control: None,
        began_at: None,
        wish: Wish::None,
        on_lease_loss: OnLeaseLoss::Stop,
        takes_slot: false,
        is_alone: false,
    }
}

/// Engine 0 has learned from a beat that the epoch was raised, and what it claims is not in the database.
fn after_a_raise() -> Watcher {
    let mut watcher = Watcher::with_peers(1);
    assert!(watcher.watch(Duration::from_millis(500)).is_empty());
    watcher.store.set_identity("promoted");
    assert!(watcher.store.raise_epoch(Epoch::new(1), Epoch::new(2), "a test").unwrap());
    watcher.shared.life.lock().meta = watcher.store.meta().ok();
    watcher.shared.reconcile.store(true, Ordering::Release);
    watcher
}

#[test]
fn a_claim_answered_after_the_comparison_is_not_begun() {
    let mut watcher = after_a_raise();
    let shared = Arc::clone(&watcher.shared);
    shared.running.expect(Nonce::new(7));
    watcher.watch(Duration::from_millis(250));
    assert_eq!(*shared.verified.lock(), Epoch::new(2));
    assert!(!shared.running.settle(Nonce::new(7), vec![entry(held(7))]), "its commit may be among the lost ones");
    assert!(shared.running.is_idle());
    shared.running.expect(Nonce::new(8));
    shared.reconcile.store(true, Ordering::Release);
    watcher.watch(Duration::from_millis(250));
    assert!(shared.running.settle(Nonce::new(8), vec![entry(held(8))]), "without a raise a claim may be under way");
}

#[test]
fn a_claim_that_has_not_begun_is_dropped_where_the_database_lost_it() {
    let mut watcher = after_a_raise();
    let shared = Arc::clone(&watcher.shared);
    shared.running.expect(Nonce::new(7));
    assert!(shared.running.settle(Nonce::new(7), vec![entry(held(7))]));
    watcher.watch(Duration::from_millis(250));
    assert!(shared.running.is_idle(), "it would begin later, beside its successor");
}

#[test]
fn a_peer_whose_old_counter_came_back_is_watched_anew() {
    let mut watcher = Watcher::with_peers(1);
    assert!(watcher.watch(Duration::from_millis(3_750)).is_empty(), "seen at 0.75 s, and T is 3.2 s");
    // It beats under a database that is then lost, with the raise that went before: no sweep has seen either.
    let older = watcher.store.snapshot();
    beat(&watcher.store, 1);
    watcher.store.restore(older);
    watcher.store.set_identity("promoted");
    assert!(watcher.watch(Duration::from_secs(5)).is_empty(), "a view of a database in doubt fences nobody");
    assert!(watcher.store.raise_epoch(Epoch::new(1), Epoch::new(3), "a test").unwrap());
    watcher.shared.life.lock().meta = watcher.store.meta().ok();
    let fenced = watcher.watch(Duration::from_secs(10));
    assert_eq!(fenced.len(), 1);
    assert!(fenced[0].1 >= 3.2, "{fenced:?}");
}

#[test]
fn a_sweep_that_is_older_than_the_own_beat_counts_for_nothing() {
    let mut watcher = Watcher::with_peers(1);
    assert!(watcher.watch(Duration::from_millis(3_750)).is_empty());
    let seen_by_beat = watcher.store.meta().unwrap();
    let raised = crate::store::Meta { epoch: Epoch::new(4), raised_epoch: Epoch::new(4), ..seen_by_beat };
    watcher.shared.life.lock().meta = Some(raised);
    let began = watcher.clock.lease_now();
    assert!(watcher.watch(Duration::from_secs(5)).is_empty());
    assert!(watcher.clock.lease_now().since(began) >= Duration::from_secs(5));
}

/// The seed of then was 38643: such a claim was handed back as one that had never begun, so its attempt was not
/// counted, and one that must not run twice would have run twice.
#[test]
fn what_was_claimed_and_ended_while_the_database_was_asked_is_known() {
    let running = super::running::Running::default();
    let before = running.known();
    running.expect(Nonce::new(7));
    assert!(running.settle(Nonce::new(7), vec![entry(held(7))]));
    assert!(running.end(&held(7)).is_some());
    running.reported([&held(7)]);
    assert_eq!(running.unknown(&before, &[held(7), held(8)]), [held(8)], "8 was claimed, and its answer lost");
    let before = running.known();
    assert_eq!(running.unknown(&before, &[held(7)]), [held(7)], "what entered is remembered for one question");
}
