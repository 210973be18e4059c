//! Several engines at once, from threads: what one statement or one lock order has to keep apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rekindle::clock::{Clock, SystemClock};
use rekindle::protocol::ids::{ResourceName, TaskId, Token};
use rekindle::protocol::task::TaskState;
use rekindle::store::*;

use crate::support::builders::*;
use crate::support::databases::Rig;

/// Far more than any of these needs; a race that hangs fails here instead of for ever.
const LIMIT: Duration = Duration::from_secs(120);

fn in_threads<T: Send>(rig: &Rig, count: usize, body: impl Fn(usize, Arc<dyn Store>) -> T + Sync) -> Vec<T> {
    let stores: Vec<_> = (0..count).map(|_| rig.another()).collect();
    let (start, body) = (&std::sync::Barrier::new(count), &body);
    std::thread::scope(|scope| {
        let run = |(n, store)| {
            scope.spawn(move || {
                start.wait();
                body(n, store)
            })
        };
        let threads: Vec<_> = stores.into_iter().enumerate().map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

pub fn two_engines_never_own_one_resource_and_its_order_is_kept(rig: &Rig) {
    const ROUNDS: usize = 1_000;
    let ids = task_on(&["r"]).add_many(&*rig.store, ROUNDS);
    let engines = [engine("a").on(rig), engine("b").on(rig)];
    let (owner, order) = (&Mutex::new(None::<TaskId>), &Mutex::new(Vec::<(TaskId, Token)>::new()));
    let until = SystemClock.lease_now().after(LIMIT);
    in_threads(rig, 2, |n, store| {
        let e = &engines[n];
        while order.lock().len() < ROUNDS && SystemClock.lease_now() < until {
            for claimed in e.claim().keyed().limit(2).run(&*store) {
                let before = owner.lock().replace(claimed.held.task);
                assert_eq!(before, None, "two owners");
                order.lock().push((claimed.held.task, claimed.held.token));
                assert_eq!(owner.lock().take(), Some(claimed.held.task));
                e.ends(&*store, done(&claimed));
            }
        }
    });
    let order = order.lock();
    assert_eq!(order.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    assert!(order.windows(2).all(|pair| pair[0].1 < pair[1].1), "tokens grow");
}

pub fn of_namesakes_that_register_at_once_one_gets_the_name(rig: &Rig) {
    for round in 0..10 {
        let outcomes = in_threads(rig, 4, |_, store| engine(&format!("e{round}")).register(&*store));
        let taken = outcomes.iter().filter(|outcome| matches!(outcome, RegisterOutcome::NameTaken(_))).count();
        assert_eq!(taken, 3, "{outcomes:?}");
    }
}

pub fn canceling_heads_while_claiming_loses_no_wake_up(rig: &Rig) {
    let engines = [engine("a").on(rig), engine("b").on(rig)];
    for round in 0..40 {
        let name = format!("r{round}");
        let ids = task_on(&[&name]).add_many(&*rig.store, 2);
        // The resource has no row yet: the claim and the cancel both come first.
        let got = in_threads(rig, 2, |n, store| match n {
            0 => store.task_verb(ids[0], TaskVerb::Cancel).map(|_| vec![]).unwrap(),
            _ => engines[0].claim().keyed().run(&*store),
        });
        for claimed in got.iter().flatten() {
            engines[0].ends(&*rig.store, done(claimed));
        }
        let left = usize::from(!got.iter().flatten().any(|claimed| claimed.held.task == ids[1]));
        let rest = engines[1].claim().keyed().run(&*rig.store);
        if rest.len() != left {
            let seen = rig.store.task(ids[1]).unwrap();
            let name = ResourceName::new(name.clone()).unwrap();
            let line = rig.store.resource(&name).unwrap();
            let again = engines[1].claim().keyed().run(&*rig.store);
            panic!("round {round}: nobody woke {}: {got:?} {seen:?} {line:?} again {again:?}", ids[1]);
        }
        for claimed in &rest {
            engines[1].ends(&*rig.store, done(claimed));
        }
    }
}

pub fn batches_of_verbs_beside_claims_neither_deadlock_nor_lose_a_task(rig: &Rig) {
    const TASKS: usize = 60;
    let names = ["r", "s", "t", "u"];
    for n in 0..TASKS {
        let mut pair = vec![names[n % 4], names[(n / 4 + n + 1) % 4]];
        pair.dedup();
        task_on(&pair).add(&*rig.store);
    }
    let all = rig.store.select(&TaskFilter { limit: TASKS, ..TaskFilter::default() }).unwrap();
    let ids: &Vec<_> = &all.iter().map(|task| task.id).collect();
    let engines = [engine("a").on(rig), engine("b").on(rig)];
    in_threads(rig, 4, |n, store| match engines.get(n) {
        Some(e) => {
            for _ in 0..25 {
                for task in e.claim().keyed().limit(3).run(&*store) {
                    // Some wait for a person, so that there is something to retry.
                    let end = if task.held.task.as_i64() % 3 == 0 { failed(&task) } else { done(&task) };
                    e.ends(&*store, end);
                }
            }
        }
        None => {
            for _ in 0..25 {
                let from = fastrand::usize(..TASKS - 15);
                let verb = if fastrand::bool() { TaskVerb::Cancel } else { TaskVerb::Retry };
                let change = Change::new("me", "here", "a test", "task verb", None);
                store.task_verbs(&ids[from..from + 15], verb, &change).unwrap();
            }
        }
    });
    // Whatever came first: nothing is lost, and what is left in line runs to its end.
    let until = SystemClock.lease_now().after(LIMIT);
    let open = || {
        let states = vec![TaskState::Ready, TaskState::Blocked, TaskState::Running];
        rig.store.select(&TaskFilter { states, limit: TASKS, ..TaskFilter::default() }).unwrap()
    };
    while !open().is_empty() && SystemClock.lease_now() < until {
        for task in engines[0].claim().keyed().run(&*rig.store) {
            engines[0].ends(&*rig.store, done(&task));
        }
    }
    assert_eq!(open(), [], "a line stands still");
    let filter = TaskFilter { ids: ids.clone(), limit: 2 * TASKS, ..TaskFilter::default() };
    assert_eq!(rig.store.select(&filter).unwrap().len(), TASKS, "each is in one place");
}

pub fn overlapping_resources_in_any_order_neither_deadlock_nor_overlap(rig: &Rig) {
    let names = ["r", "s", "t", "u"];
    let mut count = 0;
    for n in 0..60 {
        let mut pair = vec![names[n % 4], names[(n / 4 + n + 1) % 4]];
        pair.dedup();
        task_on(&pair).add(&*rig.store);
        count += 1;
    }
    let engines = [engine("a").on(rig), engine("b").on(rig), engine("c").on(rig)];
    let (owners, ended) = (&Mutex::new(BTreeMap::new()), &Mutex::new(0));
    let until = SystemClock.lease_now().after(LIMIT);
    in_threads(rig, 3, |n, store| {
        let e = &engines[n];
        while *ended.lock() < count && SystemClock.lease_now() < until {
            let claimed = e.claim().keyed().limit(3).run(&*store);
            for task in &claimed {
                for name in &task.resources {
                    assert_eq!(owners.lock().insert(name.clone(), task.held.task), None, "two owners of {name}");
                }
            }
            for task in &claimed {
                for name in &task.resources {
                    owners.lock().remove(name);
                }
                e.ends(&*store, done(task));
                *ended.lock() += 1;
            }
        }
    });
    assert_eq!(*ended.lock(), count);
}

pub fn four_engines_claim_two_thousand_tasks_each_once(rig: &Rig) {
    const TASKS: usize = 2_000;
    let mut ids = task().add_many(&*rig.store, TASKS);
    let engines: Vec<_> = (0..4).map(|n| engine(&format!("e{n}")).on(rig)).collect();
    let until = SystemClock.lease_now().after(LIMIT);
    let ended = &Mutex::new(0);
    let got = in_threads(rig, 4, |n, store| {
        let mut mine = Vec::new();
        while *ended.lock() < TASKS && SystemClock.lease_now() < until {
            let claimed = engines[n].claim().limit(50).run(&*store);
            let ends: Vec<_> = claimed.iter().map(done).collect();
            let outcomes = engines[n].finish(&*store, &ends);
            assert!(outcomes.iter().all(|outcome| *outcome == FinishOutcome::Written));
            *ended.lock() += claimed.len();
            mine.extend(claimed.into_iter().map(|task| task.held.task));
        }
        mine
    });
    let mut got: Vec<_> = got.into_iter().flatten().collect();
    got.sort();
    ids.sort();
    assert_eq!(got, ids);
    let status = rig.store.status().unwrap();
    assert_eq!((status.done_1h, status.oldest_running), (TASKS as u64, None));
}

pub fn a_late_finish_races_the_takeover_and_one_of_them_wins(rig: &Rig) {
    for round in 0..20 {
        let (store, a) = (&*rig.store, engine(&format!("e{round}")).on(rig));
        let id = task_on(&[&format!("r{round}")]).add(store);
        let claimed = a.claim().keyed().one(store);
        a.dies(store);
        let outcomes = in_threads(rig, 2, |n, store| match n {
            0 => a.finish(&*store, &[done(&claimed)])[0] == FinishOutcome::Written,
            _ => a.takeover(&*store).ready == 1,
        });
        let state = state(store, id).unwrap();
        use rekindle::protocol::task::TaskState::{Done, Ready, Running};
        match (outcomes[0], outcomes[1]) {
            (true, false) => assert_eq!(state, Done),
            (false, true) => assert_eq!(state, Ready),
            // The sweep passed over the row that the finish held, and the finish was then refused: no.
            (false, false) => panic!("nobody won, the task is {state} ({Running} would be an orphan)"),
            (true, true) => panic!("both won"),
        }
        if state == Ready {
            store.task_verb(id, TaskVerb::Cancel).unwrap();
        }
    }
}

pub fn adding_while_claiming_loses_nobody_in_line(rig: &Rig) {
    const EACH: usize = 150;
    let engines = [engine("a").on(rig), engine("b").on(rig)];
    let until = SystemClock.lease_now().after(LIMIT);
    let ended = &Mutex::new(0);
    in_threads(rig, 4, |n, store| {
        if n >= 2 {
            for _ in 0..EACH {
                task_on(&["r"]).add(&*store);
            }
            return;
        }
        while *ended.lock() < 2 * EACH && SystemClock.lease_now() < until {
            for claimed in engines[n].claim().keyed().run(&*store) {
                engines[n].ends(&*store, done(&claimed));
                *ended.lock() += 1;
            }
        }
    });
    assert_eq!(*ended.lock(), 2 * EACH, "a wake-up was lost");
}
