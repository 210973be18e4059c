//! Resources that nobody uses any more: their rows go, their tokens stay behind.

use std::time::Duration;

use rekindle::config::{Keep, RetentionConfig};
use rekindle::protocol::ids::{Epoch, Token};
use rekindle::store::Store;

use crate::support::builders::*;
use crate::support::databases::Rig;

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);

fn purge(store: &dyn Store, limit: usize) -> usize {
    let keep = Keep::Forever;
    let retention = RetentionConfig {
        done: keep,
        canceled: keep,
        failed: keep,
        logs: keep,
        engines: keep,
        resources: Keep::For(DAY),
        history: keep,
        hours: keep,
    };
    store.purge(&retention, limit).unwrap()
}

/// Runs one task on each 64 of so many resources; the token of the first.
fn use_many(rig: &Rig, a: &Engine, count: usize) -> Token {
    let names: Vec<String> = (0..count).map(|n| format!("r{n:04}")).collect();
    for some in names.chunks(64) {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        task_on(&some).add(&*rig.store);
    }
    let mut first = None;
    loop {
        let claimed = a.claim().keyed().limit(100).run(&*rig.store);
        if claimed.is_empty() {
            return first.unwrap();
        }
        for task in claimed {
            first = first.or(task.resources.contains(&resource("r0000")).then_some(task.held.token));
            a.ends(&*rig.store, done(&task));
        }
    }
}

fn use_one(rig: &Rig, a: &Engine, name: &str) -> Token {
    let id = task_on(&[name]).add(&*rig.store);
    let claimed = a.claim().keyed().one(&*rig.store);
    assert_eq!(claimed.held.task, id);
    a.ends(&*rig.store, done(&claimed));
    claimed.held.token
}

fn is_there(rig: &Rig, name: &str) -> bool {
    rig.store.resource(&resource(name)).unwrap().is_some()
}

pub fn a_resource_that_was_forgotten_and_made_again_has_a_larger_token(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let before = use_many(rig, &a, 1_010);
    assert_eq!(purge(store, 5_000), 0, "they were just used");
    rig.pass(DAY + HOUR);
    a.accepted(store);
    let old = store.meta().unwrap();
    assert_eq!(purge(store, 5_000), 0, "first the epoch");
    let new = store.meta().unwrap();
    assert_eq!((new.epoch.as_i64(), new.raised_epoch), (old.epoch.as_i64() + 1, old.raised_epoch));
    assert_eq!(purge(store, 5_000), 0, "then T");
    // Claims go on meanwhile, under the new epoch.
    let used = use_one(rig, &a, "r0001");
    assert_eq!(used.epoch(), new.epoch);
    let waits = task_on(&["r0002"]).delay(DAY).add(store);
    rig.pass(Duration::from_secs(13));
    assert_eq!((purge(store, 300), purge(store, 5_000)), (300, 708), "in batches, without those two");
    assert_eq!(["r0000", "r0001", "r0002", "r0003"].map(|name| is_there(rig, name)), [false, true, true, false]);
    let after = use_one(rig, &a, "r0000");
    assert!(after > before && after.epoch() == new.epoch, "{before} {after}");
    assert_eq!(state(store, waits), Some(rekindle::protocol::task::TaskState::Waiting));
    rig.pass(DAY / 2);
    assert_eq!((purge(store, 5_000), store.meta().unwrap().epoch), (0, new.epoch), "nothing is left to forget");
}

pub fn a_few_idle_resources_are_not_worth_an_epoch(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    use_many(rig, &a, 99);
    rig.pass(DAY * 2);
    let before = store.meta().unwrap().epoch;
    for _ in 0..3 {
        assert_eq!(purge(store, 5_000), 0);
        rig.pass(HOUR * 2);
    }
    assert_eq!((store.meta().unwrap().epoch, is_there(rig, "r0000")), (before, true));
}

pub fn nothing_is_forgotten_while_an_epoch_is_being_settled(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    use_many(rig, &a, 1_000);
    rig.pass(DAY * 2);
    let before = store.meta().unwrap().epoch;
    assert!(store.raise_epoch(before, before, "a test").unwrap());
    let raised = store.meta().unwrap().epoch;
    assert_eq!((purge(store, 5_000), store.meta().unwrap().epoch), (0, raised));
    rig.pass(HOUR * 2);
    assert!(store.settle_epoch(raised).unwrap());
    assert_eq!(purge(store, 5_000), 0);
    assert_eq!(store.meta().unwrap().epoch.as_i64(), raised.as_i64() + 1);
}

pub fn the_last_tenth_of_the_epochs_is_not_used_to_forget(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    use_many(rig, &a, 1_000);
    rig.pass(DAY * 2);
    let before = store.meta().unwrap().epoch;
    assert!(store.raise_epoch(before, Epoch::new(Epoch::SCARCE), "a test").unwrap());
    assert!(store.settle_epoch(Epoch::new(Epoch::SCARCE)).unwrap());
    for _ in 0..2 {
        assert_eq!((purge(store, 5_000), store.meta().unwrap().epoch.as_i64()), (0, Epoch::SCARCE));
        rig.pass(HOUR * 2);
    }
    assert!(is_there(rig, "r0000"));
}
