//! Everything that engines and people do, once, with batches as large as they come.

use std::time::Duration;

use rekindle::config::{Keep, RetentionConfig};
use rekindle::protocol::engine::Proof;
use rekindle::protocol::ids::{Incarnation, ResourceName, TaskId};
use rekindle::protocol::liveness::SweepKind;
use rekindle::protocol::task::TaskState;
use rekindle::store::{Change, Claimed, Finish, HistoryFilter, NewTask, Store, TaskFilter, TaskVerb};

use crate::support::builders::*;

/// Tasks of a batch.
const BATCH: usize = 1_000;

/// Resources of the keyed ones.
const KEYS: usize = 100;

pub fn play(store: &dyn Store) {
    let (one, two) = (start(store, "one"), start(store, "two"));
    store.check_rights().unwrap();
    let plain = task().add_many(store, BATCH * 3);
    let keyed: Vec<NewTask> = (0..BATCH).map(|n| task_on(&[&format!("r{}", n % KEYS)]).0).collect();
    let keyed = store.add(&keyed, "a test").unwrap();
    task().delay(Duration::ZERO).add_many(store, 10);
    task_on(&["late"]).delay(Duration::ZERO).add(store);
    run(store, &one);
    die(store, &two);
    sweep(store);
    ask(store, &plain[BATCH * 2..], &keyed[KEYS..]);
    list(store, &plain, &keyed);
    forget(store);
}

fn start(store: &dyn Store, name: &str) -> Engine {
    let builder = engine(name);
    let engine =
        Engine { incarnation: builder.0.incarnation, name: builder.0.name.clone(), host: builder.0.host.clone() };
    builder.register(store);
    engine.accepted(store);
    engine
}

/// Claims and ends of each sort.
fn run(store: &dyn Store, engine: &Engine) {
    store.probe(&[kind(KIND), kind("other")], &engine.host).unwrap();
    let plain = engine.claim().limit(BATCH).run(store);
    assert_eq!(plain.len(), BATCH);
    let keyed = engine.claim().keyed().limit(BATCH).run(store);
    assert_eq!(keyed.len(), KEYS);
    engine.claim().alone().run(store);
    let held = store.owned(engine.incarnation).unwrap();
    store.read_finish(&held[0]).unwrap();
    for claimed in [&plain, &keyed] {
        let (well, rest) = claimed.split_at(claimed.len() - 40);
        let ends: Vec<Finish> = well.iter().map(done).collect();
        engine.finish(store, &ends);
        let ends: Vec<Finish> = rest.iter().enumerate().map(|(n, task)| badly(n, task)).collect();
        engine.finish(store, &ends);
        // Refused.
        engine.finish(store, &ends);
    }
    store.add_hours(engine.incarnation, &[(kind(KIND), Default::default())].into()).unwrap();
}

fn badly(n: usize, task: &Claimed) -> Finish {
    match n % 4 {
        0 => failed(task),
        1 => Finish { not_on: Some("host-of-one".into()), ..retry(task, Duration::ZERO) },
        2 => handed_back(task),
        _ => Finish { output: b"it said so".to_vec(), ..done(task) },
    }
}

/// What an engine leaves, and its end.
fn die(store: &dyn Store, engine: &Engine) {
    engine.claim().limit(BATCH).run(store);
    engine.claim().keyed().limit(BATCH).run(store);
    engine.dies(store);
    while store.take_over(engine.incarnation, "one", 256).unwrap().more {}
    assert!(store.close(engine.incarnation).unwrap());
    let third = start(store, "three");
    let held = third.claim().limit(1).one(store).held;
    let fourth = self::engine("three").after(&third, Proof::Itself, &[held]);
    fourth.register(store);
    assert!(store.stop(fourth.0.incarnation).unwrap());
    while store.take_over(fourth.0.incarnation, "one", 256).unwrap().more {}
}

fn sweep(store: &dyn Store) {
    for kind in [SweepKind::Filtered, SweepKind::Full] {
        store.sweep(kind).unwrap();
    }
    while store.promote_due(100).unwrap() > 0 {}
    store.free_lines(100).unwrap();
    store.find_orphans(Duration::ZERO).unwrap();
    store.take_over(Incarnation::new(4), "one", 256).unwrap();
    store.close(Incarnation::new(4)).unwrap();
}

/// What people ask of tasks.
fn ask(store: &dyn Store, plain: &[TaskId], keyed: &[TaskId]) {
    for ids in [plain, keyed] {
        for verb in [TaskVerb::Cancel, TaskVerb::Retry] {
            store.task_verb(ids[0], verb).unwrap();
            store.task_verbs(ids, verb, &change()).unwrap();
        }
    }
}

fn change() -> Change {
    Change::new("me@here", "here", "rekindle", "task cancel", None)
}

fn list(store: &dyn Store, plain: &[TaskId], keyed: &[TaskId]) {
    let filter = TaskFilter { limit: 100, ..TaskFilter::default() };
    let mut filters: Vec<TaskFilter> =
        TaskState::ALL.iter().map(|state| TaskFilter { states: vec![*state], ..filter.clone() }).collect();
    filters.push(filter.clone());
    filters.push(TaskFilter { ids: plain.to_vec(), ..filter.clone() });
    filters.push(TaskFilter { resource: Some(ResourceName::new("r1").unwrap()), ..filter.clone() });
    for filter in &filters {
        store.tasks(filter).unwrap();
        store.select(filter).unwrap();
    }
    store.task_states(plain).unwrap();
    for id in [plain[0], keyed[0]] {
        store.task(id).unwrap();
        store.attempts(id).unwrap();
        store.output(id, None).unwrap();
    }
    store.resources(100).unwrap();
    store.resource(&ResourceName::new("r1").unwrap()).unwrap();
    store.status().unwrap();
    store.engines().unwrap();
    store.hours(&[store.first_hour().unwrap().unwrap()]).unwrap();
    store.history(&HistoryFilter::default()).unwrap();
    store.meta().unwrap();
}

fn forget(store: &dyn Store) {
    let keep = Keep::For(Duration::ZERO);
    let retention = RetentionConfig {
        done: keep,
        canceled: keep,
        failed: keep,
        logs: keep,
        history: keep,
        hours: keep,
        engines: keep,
        resources: keep,
    };
    while store.purge(&retention, BATCH).unwrap() > 0 {}
}
