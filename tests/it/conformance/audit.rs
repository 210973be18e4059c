//! Who changed what, what became of attempts per hour, and verbs for a batch of tasks.

use std::collections::BTreeMap;

use rekindle::config::{Keep, RetentionConfig};
use rekindle::protocol::engine::Wanted;
use rekindle::protocol::ids::{EngineName, Epoch, KindName, TaskId};
use rekindle::protocol::takeover::Next;
use rekindle::protocol::task::{AttemptResult, TaskState};
use rekindle::protocol::time::Timestamp;
use rekindle::store::*;

use super::tasks::one_of_each;
use crate::support::builders::*;
use crate::support::databases::Rig;

pub fn change(verb: &str) -> Change {
    Change::new("bob@host-1", "host-1", "rekindle", verb, Some("a reason".to_owned()))
}

fn history(rig: &Rig, filter: HistoryFilter) -> Vec<HistoryEntry> {
    let limit = if filter.limit == 0 { 100 } else { filter.limit };
    rig.store.history(&HistoryFilter { limit, ..filter }).unwrap().1
}

fn verbs(rig: &Rig) -> Vec<String> {
    history(rig, HistoryFilter::default()).into_iter().map(|entry| entry.verb).collect()
}

pub fn each_change_by_a_person_has_its_entry(rig: &Rig) {
    let store = &*rig.store;
    engine("a").on(rig);
    let ids = store.add_as(&[task().0, task().0, task().0], &change("task add")).unwrap();
    let lasting = Wish4Engine { lasts: Some(secs(60)), ..wish("a", Wanted::Pause) };
    assert_eq!(store.set_wanted_as(&lasting, &change("engine pause")).unwrap(), Some(Wanted::Run));
    assert!(store.raise_epoch_as(Epoch::new(1), Epoch::new(4), "a test", &change("db epoch raise")).unwrap());
    store.task_verbs(&[ids[2], ids[0]], TaskVerb::Cancel, &change("task cancel")).unwrap();
    store.record(&change("db migrate"), &Affected::object("schema").from_to("1", "2")).unwrap();
    let all = history(rig, HistoryFilter::default());
    let line = |e: &HistoryEntry| {
        let word = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{} {} x{} {}->{}", e.verb, e.object, e.count, word(&e.old), word(&e.new))
    };
    let first_last = |from: usize, to: usize| format!("{}..{}", ids[from], ids[to]);
    assert_eq!(
        all.iter().map(line).collect::<Vec<_>>(),
        [
            "db migrate schema x1 1->2".to_owned(),
            format!("task cancel {} x2 ready->canceled", first_last(0, 2)),
            "db epoch raise epoch x1 1->4".to_owned(),
            "engine pause a x1 run->pause".to_owned(),
            format!("task add {} x3 ->", first_last(0, 2)),
        ]
    );
    let (now, _) = store.history(&HistoryFilter { limit: 1, ..HistoryFilter::default() }).unwrap();
    let pause = &all[3];
    assert_eq!((pause.by.as_str(), pause.host.as_str(), pause.program.as_str()), ("bob@host-1", "host-1", "rekindle"));
    assert_eq!((pause.reason.as_deref(), pause.version.as_str()), (Some("a reason"), env!("CARGO_PKG_VERSION")));
    assert!(now.since(pause.at) < secs(60) && pause.at <= now, "the database's clock");
    let lasts = pause.until.unwrap().since(pause.at);
    assert!(lasts >= secs(60) && lasts < secs(61), "{lasts:?}");
}

/// What runs may be done before it is stopped: nobody knows yet.
pub fn a_running_task_is_asked_to_stop_and_the_history_says_no_more(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task().add_many(store, 3);
    a.claim().limit(2).run(store);
    for batch in [&ids[..1], &ids[1..]] {
        store.task_verbs(batch, TaskVerb::Cancel, &change("task cancel")).unwrap();
    }
    let told: Vec<_> = history(rig, HistoryFilter::default()).into_iter().map(|e| (e.old, e.new)).collect();
    let pair = |old: &str, new: &str| (Some(old.to_owned()), Some(new.to_owned()));
    assert_eq!(told, [pair("1 ready, 1 running", "1 canceled, 1 asked to stop"), pair("running", "asked to stop")]);
}

pub fn what_was_not_changed_has_no_entry(rig: &Rig) {
    let store = &*rig.store;
    let mut twice = task_on(&["r"]).0;
    twice.resources = vec![resource("r"), resource("r")];
    assert!(store.add_as(&[task().0, twice], &change("task add")).is_err(), "a resource is named twice");
    assert_eq!(store.add_as(&[], &change("task add")).unwrap(), []);
    assert_eq!(store.set_wanted_as(&wish("nobody", Wanted::Pause), &change("engine pause")).unwrap(), None);
    assert!(!store.raise_epoch_as(Epoch::new(7), Epoch::new(9), "a test", &change("db epoch raise")).unwrap());
    assert_eq!(store.forget_engines_as(secs(0), &[], &change("engine clean")).unwrap(), []);
    let unknown = store.task_verbs(&[TaskId::new(999)], TaskVerb::Retry, &change("task retry")).unwrap();
    assert_eq!(unknown, [VerbOutcome::NotFound]);
    assert_eq!(verbs(rig), Vec::<String>::new());
}

pub fn forgotten_engines_are_named_in_the_history(rig: &Rig) {
    let (store, over) = (&*rig.store, engine("c").on(rig));
    store.stop(over.incarnation).unwrap();
    store.close(over.incarnation).unwrap();
    let names = [EngineName::new("c").unwrap()];
    assert_eq!(store.forget_engines_as(secs(0), &names, &change("engine clean")).unwrap().len(), 1);
    let found = history(rig, HistoryFilter { object: Some("c".to_owned()), ..HistoryFilter::default() });
    assert_eq!((found.len(), found[0].new.as_deref()), (1, Some("forgotten")));
}

pub fn a_command_in_batches_is_one_entry_that_each_of_its_tasks_finds(rig: &Rig) {
    let store = &*rig.store;
    let ids = task().add_many(store, 10);
    let first = change("task cancel");
    store.task_verbs(&[ids[0], ids[2]], TaskVerb::Cancel, &first).unwrap();
    store.task_verbs(&[ids[4], ids[9]], TaskVerb::Cancel, &first.next()).unwrap();
    store.task_verbs(&[ids[5]], TaskVerb::Cancel, &change("task cancel")).unwrap();
    let all = history(rig, HistoryFilter::default());
    let shown: Vec<_> = all.iter().map(|entry| (entry.object.clone(), entry.count)).collect();
    assert_eq!(shown, [(ids[5].to_string(), 1), (format!("{}..{}", ids[0], ids[9]), 4)]);
    let of = |object: String| history(rig, HistoryFilter { object: Some(object), ..HistoryFilter::default() });
    assert_eq!(of(ids[9].to_string())[0].count, 4, "by its second transaction");
    assert_eq!(of(ids[5].as_i64().to_string()).len(), 1);
    assert_eq!(of(ids[3].to_string()), [], "between the first and the last, and not among them");
}

pub fn the_same_transaction_cannot_be_written_twice(rig: &Rig) {
    let store = &*rig.store;
    let id = task().add(store);
    let once = change("task cancel");
    store.record(&once, &Affected::object("x")).unwrap();
    assert!(store.task_verbs(&[id], TaskVerb::Cancel, &once).is_err());
    assert_eq!(state(store, id), Some(TaskState::Ready), "and neither was the change");
}

pub fn the_history_is_asked_by_person_and_time(rig: &Rig) {
    let store = &*rig.store;
    store.record(&change("one"), &Affected::object("x")).unwrap();
    rig.pass(secs(3_600));
    let eve = Change::new("eve@h", "h", "rekindle", "two", None);
    store.record(&eve, &Affected::object("x")).unwrap();
    let of = |filter| history(rig, filter).into_iter().map(|e| e.verb).collect::<Vec<_>>();
    let by = |by: &str| of(HistoryFilter { by: Some(by.to_owned()), ..HistoryFilter::default() });
    assert_eq!((by("bob"), by("bob@host-1"), by("bo")), (vec!["one".into()], vec!["one".into()], vec![]));
    assert_eq!(of(HistoryFilter { since: Some(secs(600)), ..HistoryFilter::default() }), ["two"]);
    assert_eq!(of(HistoryFilter { limit: 1, ..HistoryFilter::default() }), ["two"]);
    let keep = |span| RetentionConfig { history: Keep::For(span), ..RetentionConfig::default() };
    assert_eq!(store.purge(&keep(secs(7_200)), 100).unwrap(), 0);
    assert_eq!(store.purge(&keep(secs(600)), 100).unwrap(), 1);
    assert_eq!(verbs(rig), ["two"]);
}

pub fn a_batch_tells_each_task_what_one_alone_would_be_told(rig: &Rig) {
    batch_of_each(rig, TaskVerb::Retry);
}

pub fn a_batch_cancels_every_task_that_is_not_over(rig: &Rig) {
    batch_of_each(rig, TaskVerb::Cancel);
}

fn batch_of_each(rig: &Rig, verb: TaskVerb) {
    let store = &*rig.store;
    let states = one_of_each(rig);
    let mut ids: Vec<TaskId> = states.iter().map(|(_, id)| *id).collect();
    let unknown = TaskId::new(999_999);
    ids.insert(0, unknown);
    let outcomes = store.task_verbs(&ids, verb, &change("a test")).unwrap();
    assert_eq!(outcomes[0], VerbOutcome::NotFound);
    for ((was, id), outcome) in states.into_iter().zip(&outcomes[1..]) {
        let retries = matches!(was, TaskState::Waiting | TaskState::Failed | TaskState::Quarantined | TaskState::Held);
        let (wanted, is) = match (verb, was) {
            (TaskVerb::Cancel, TaskState::Running) => (VerbOutcome::Asked, TaskState::Running),
            (TaskVerb::Cancel, _) => (VerbOutcome::Applied(was), TaskState::Canceled),
            (TaskVerb::Retry, _) if retries => (VerbOutcome::Applied(was), TaskState::Ready),
            (TaskVerb::Retry, _) => (VerbOutcome::WrongState(was), was),
        };
        assert_eq!((*outcome, state(store, id)), (wanted, Some(is)), "{verb:?} {was}");
        let task = row(store, id);
        assert!(verb == TaskVerb::Cancel || (task.failures, task.lost, task.due_at) == (0, 0, None));
    }
    assert_eq!(store.task_verbs(&[], TaskVerb::Cancel, &change("a test")).unwrap(), []);
}

pub fn a_batch_wakes_the_lines_that_it_leaves(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let ids = task_on(&["r"]).add_many(store, 4);
    let other = task_on(&["r", "s"]).add(store);
    let head = a.claim().keyed().one(store);
    assert_eq!(a.claim().keyed().run(store), [], "the rest is blocked");
    a.ends(store, retry(&head, secs(60)));
    let gone = [ids[1], ids[0], ids[2]];
    let outcomes = store.task_verbs(&gone, TaskVerb::Cancel, &change("task cancel")).unwrap();
    assert_eq!(outcomes[1], VerbOutcome::Applied(TaskState::Waiting));
    assert_eq!((state(store, ids[3]), state(store, other)), (Some(TaskState::Ready), Some(TaskState::Blocked)));
    assert_eq!(row(store, ids[0]).resources, [resource("r")], "the archive knows its resources");
    let back = store.task_verbs(&gone, TaskVerb::Retry, &change("task retry")).unwrap();
    assert_eq!(back, [VerbOutcome::Applied(TaskState::Canceled); 3]);
    assert_eq!(a.claim().keyed().ids(store), [ids[0]], "in their old places");
    assert_eq!(row(store, ids[2]).resources, [resource("r")]);
    assert_eq!(row(store, ids[0]).attempt, 2);
}

pub fn a_database_that_moved_takes_no_batch_of_cancels(rig: &Rig) {
    let store = &*rig.store;
    let ids = task_on(&["r"]).add_many(store, 3);
    rig.move_database();
    let refused = store.task_verbs(&ids, TaskVerb::Cancel, &change("task cancel"));
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert!(ids.iter().all(|id| state(store, *id) == Some(TaskState::Ready)));
    assert_eq!(verbs(rig), Vec::<String>::new());
}

fn counts(claims: u64, done: u64) -> Counts {
    let mut counts = Counts::default();
    (0..claims).for_each(|n| counts.claimed(Some(secs(n))));
    (0..done).for_each(|n| counts.ended(AttemptResult::Done, &Next::Done, Some(secs(n))));
    counts
}

fn this_hour(rig: &Rig) -> Vec<HourRow> {
    let now = rig.store.meta().unwrap().now.as_us();
    let hour = 3_600_000_000;
    let starts = [now - now % hour - hour, now - now % hour].map(Timestamp::from_us);
    rig.store.hours(&starts).unwrap()
}

/// All that is known of this hour and the last, by kind: a test may run at the turn of an hour.
fn lately(rig: &Rig) -> BTreeMap<KindName, Counts> {
    let mut sums: BTreeMap<KindName, Counts> = BTreeMap::new();
    for row in this_hour(rig) {
        sums.entry(row.kind).or_default().add(&row.counts);
    }
    sums
}

pub fn what_engines_count_adds_up_and_keeps_the_longest(rig: &Rig) {
    let (store, a, b) = (&*rig.store, engine("a").on(rig), engine("b").on(rig));
    assert_eq!((store.first_hour().unwrap(), this_hour(rig)), (None, vec![]));
    let mail = |counts| BTreeMap::from([(kind("mail"), counts)]);
    store.add_hours(a.incarnation, &BTreeMap::new()).unwrap();
    assert_eq!(this_hour(rig), [], "nothing counted, nothing written");
    store.add_hours(a.incarnation, &mail(counts(3, 2))).unwrap();
    store.add_hours(a.incarnation, &mail(counts(1, 5))).unwrap();
    let both = BTreeMap::from([(kind("mail"), counts(2, 0)), (kind("report"), counts(0, 1))]);
    store.add_hours(b.incarnation, &both).unwrap();
    let got = lately(rig);
    let mut wanted = counts(3, 2);
    wanted.add(&counts(1, 5));
    wanted.add(&counts(2, 0));
    assert_eq!(got[&kind("mail")], wanted);
    assert_eq!((wanted.claimed, wanted.of(AttemptResult::Done)), (6, 7));
    assert_eq!((wanted.run_max_us, wanted.wait_us), (4_000_000, 4_000_000));
    assert_eq!(got[&kind("report")], counts(0, 1));
    assert!(store.first_hour().unwrap().is_some());
}

pub fn engines_that_make_the_same_row_at_once_lose_no_count(rig: &Rig) {
    let a = engine("a").on(rig);
    let stores: Vec<_> = (0..4).map(|_| rig.another()).collect();
    let start = std::sync::Barrier::new(stores.len());
    std::thread::scope(|scope| {
        for store in &stores {
            let (start, incarnation) = (&start, a.incarnation);
            scope.spawn(move || {
                start.wait();
                for _ in 0..5 {
                    store.add_hours(incarnation, &BTreeMap::from([(kind("mail"), counts(1, 1))])).unwrap();
                }
            });
        }
    });
    assert_eq!(lately(rig)[&kind("mail")].of(AttemptResult::Done), 20);
}

pub fn a_takeover_counts_what_was_lost(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add_many(store, 2);
    a.claim().run(store);
    a.dies(store);
    a.takeover(store);
    let mail = lately(rig)[&kind(KIND)];
    assert_eq!((mail.of(AttemptResult::Lost), mail.of(AttemptResult::HandedBack), mail.quarantined), (2, 0, 0));
    for name in ["b", "c"] {
        let e = engine(name).on(rig);
        while !e.claim().alone().limit(1).run(store).is_empty() || !e.claim().run(store).is_empty() {}
        e.dies(store);
        e.takeover(store);
    }
    let mail = lately(rig)[&kind(KIND)];
    assert!(mail.of(AttemptResult::Lost) > 2 && mail.quarantined > 0, "{mail:?}");
    let s = engine("d").on(rig);
    task().add(store);
    s.claim().run(store);
    store.stop(s.incarnation).unwrap();
    s.takeover(store);
    assert_eq!(lately(rig)[&kind(KIND)].of(AttemptResult::HandedBack), 1);
}

/// SQLite's clock counts milliseconds.
fn next_instant(rig: &Rig) {
    let now = || rig.store.meta().unwrap().now;
    let before = now();
    rig.tick();
    crate::support::wait_until(secs(5), || now() > before);
}

/// With a kill every few seconds a third of all ends was counted.
pub fn what_a_dead_engine_had_not_told_is_counted_once(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add_many(store, 6);
    let claimed = a.claim().limit(6).run(store);
    let told = done(&claimed[0]);
    a.ends(store, told);
    next_instant(rig);
    store.add_hours(a.incarnation, &BTreeMap::from([(kind(KIND), counts(1, 1))])).unwrap();
    next_instant(rig);
    a.ends(store, done(&claimed[1]));
    a.ends(store, failed(&claimed[2]));
    a.ends(store, retry(&claimed[3], secs(60)));
    a.ends(store, handed_back(&claimed[4]));
    let before = lately(rig)[&kind(KIND)];
    a.dies(store);
    a.takeover(store);
    assert!(store.close(a.incarnation).unwrap());
    let after = lately(rig)[&kind(KIND)];
    let of = |result: AttemptResult| after.of(result) - before.of(result);
    let results = [AttemptResult::Done, AttemptResult::Failed, AttemptResult::Tempfail, AttemptResult::HandedBack];
    assert_eq!(results.map(of), [1, 1, 1, 1]);
    assert_eq!((of(AttemptResult::Lost), after.failed_for_good - before.failed_for_good), (1, 1));
    assert_eq!(after.claimed - before.claimed, 5);
    // It was fenced, but its process goes on, and tells what was counted already.
    store.add_hours(a.incarnation, &BTreeMap::from([(kind(KIND), counts(9, 9))])).unwrap();
    assert_eq!((lately(rig)[&kind(KIND)], store.close(a.incarnation).unwrap()), (after, true));
}

pub fn hours_are_forgotten_when_they_are_old(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    store.add_hours(a.incarnation, &BTreeMap::from([(kind("mail"), counts(1, 1))])).unwrap();
    rig.pass(secs(10 * 3_600));
    let keep = |hours: u64| RetentionConfig { hours: Keep::For(secs(hours * 3_600)), ..RetentionConfig::default() };
    assert_eq!(store.purge(&keep(20), 100).unwrap(), 0);
    assert_eq!(store.purge(&keep(9), 100).unwrap(), 1);
    assert_eq!(store.first_hour().unwrap(), None);
}

pub fn the_wait_is_known_of_tasks_that_waited_for_an_engine_only(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task().add(store);
    rig.pass(secs(7));
    let free = a.claim().one(store);
    let waited = free.waited.expect("it was ready all the time");
    assert!(waited >= secs(7) && waited < secs(60), "{waited:?}");
    a.ends(store, handed_back(&free));
    assert_eq!(a.claim().one(store).waited, None, "a second claim");
    task().delay(secs(5)).add(store);
    rig.pass(secs(6));
    assert_eq!(store.promote_due(10).unwrap(), 1);
    assert_eq!(a.claim().one(store).waited, None, "it was delayed");
    task_on(&["r"]).add_many(store, 2);
    let head = a.claim().keyed().one(store);
    assert!(head.waited.is_some());
    assert_eq!(a.claim().keyed().run(store), []);
    a.ends(store, done(&head));
    assert_eq!(a.claim().keyed().one(store).waited, None, "it stood in a line");
    let canceled = task().add(store);
    store.task_verb(canceled, TaskVerb::Cancel).unwrap();
    store.task_verb(canceled, TaskVerb::Retry).unwrap();
    assert_eq!(a.claim().one(store).waited, None, "it was brought back");
}
