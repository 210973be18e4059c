//! Rows that other programs write, or delete: the schema refuses most, and none stops anything but itself. Only
//! for databases, because memory takes no statements.

use std::collections::BTreeMap;
use std::time::Duration;

use rekindle::config::RetentionConfig;
use rekindle::protocol::ids::{KindName, TaskId, Token};
use rekindle::protocol::liveness::SweepKind;
use rekindle::protocol::task::{AttemptResult, TaskState};
use rekindle::store::Counts;

use crate::support::builders::*;
use crate::support::databases::Rig;
use crate::support::schema::revert_newest;

const T: Duration = Duration::from_secs(60);

fn id_of_last(rig: &Rig) -> TaskId {
    TaskId::new(rig.rows("SELECT max(id) FROM task")[0].int())
}

pub fn what_another_program_may_leave_out_has_a_default(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    rig.sql("INSERT INTO task (kind) VALUES ('mail')");
    let mine = task().add(store);
    let theirs = row(store, id_of_last(rig).min(mine));
    assert!(row(store, mine).created_at.since(theirs.created_at) < Duration::from_secs(30), "{theirs:?}");
    let claimed = a.claim().run(store);
    assert_eq!((claimed.len(), claimed[0].payload.len()), (2, 0));
}

/// Each alone was taken without a word.
pub fn rows_that_no_engine_would_write_are_refused(rig: &Rig) {
    engine("a").on(rig);
    let big = "x".repeat((1 << 20) + 1);
    for (columns, values) in [
        ("kind, created_at", "'mail', 1700000000"),
        ("kind, created_at", "'mail', 1700000000000000000"),
        ("kind, created_at", "'mail', -9223372036854775808"),
        ("kind", "'Hello World!'"),
        ("kind", "''"),
        ("kind, state", "'mail', 7"),
        ("kind, state", "'mail', 3"),
        ("kind, state, owner, nonce, claimed_at", "'mail', 3, -5, 1, 1700000000000000"),
        ("kind, owner", "'mail', 5"),
        ("kind, state", "'mail', 1"),
        ("kind, keyed", "'mail', 2"),
        ("kind, attempt", "'mail', 2147483647"),
        ("kind, version", "'mail', 2147483647"),
        ("kind, lost", "'mail', -1"),
        ("kind, token", "'mail', 9223372036854775807"),
        ("kind, payload", &format!("'mail', '{big}'")),
    ] {
        let text = format!("INSERT INTO task ({columns}) VALUES ({values})");
        assert!(rig.try_sql(&text).is_err(), "{columns}: {}", &values[..values.len().min(60)]);
    }
    for text in [
        "INSERT INTO resource (name, owner) VALUES ('r', 1)",
        "INSERT INTO resource (name, token) VALUES ('r', 9223372036854775807)",
        "UPDATE engine SET state = 9, live_name = NULL",
        "UPDATE engine SET sweep_ms = 0",
        "UPDATE engine SET beat = 9223372036854775807",
        "UPDATE meta SET raised_epoch = 9223372036854775807",
        "INSERT INTO hour (starts_at, kind, shard, wait_us) VALUES (0, 'mail', 0, 9223372036854775807)",
    ] {
        assert!(rig.try_sql(text).is_err(), "{text}");
    }
}

/// What the rules let in at their very ends.
pub fn a_row_at_the_end_of_its_numbers_stops_nobody_else(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    rig.sql("INSERT INTO task (kind, priority, token) VALUES ('mail', 99, 9223372036854775806)");
    let stuck = id_of_last(rig);
    rig.sql(
        "INSERT INTO task (kind, priority, attempt, failures, version, handed_back, token, created_at) \
         VALUES ('mail', 98, 1000000000, 1000000000, 1000000000, 1000000000, 9223372036854775805, 1000000000000000)",
    );
    let last = id_of_last(rig);
    rig.sql("INSERT INTO resource (name, token, version) VALUES ('full', 9223372036854775806, 1000000000000000000)");
    let on_full = task_on(&["full"]).add(store);
    let (good, keyed) = (task().add(store), task_on(&["r"]).add(store));
    let claimed = a.claim().run(store);
    assert_eq!(claimed.iter().map(|task| task.held.task).collect::<Vec<_>>(), [last, good]);
    assert_eq!(claimed[0].held.token, Token::MAX);
    assert_eq!(a.claim().keyed().ids(store), [keyed]);
    // Whatever ends it writes the same numbers.
    a.ends(store, retry(&claimed[0], Duration::ZERO));
    a.ends(store, done(&claimed[1]));
    a.dies(store);
    assert_eq!(a.takeover(store).ready, 1);
    let mut listed: Vec<String> = store.bad_rows().unwrap().into_iter().map(|bad| bad.row).collect();
    listed.sort();
    assert_eq!(listed, ["resource full".to_owned(), format!("task {stuck}"), format!("task {last}")]);
    for bad in [stuck, last, on_full] {
        store.task_verb(bad, rekindle::store::TaskVerb::Cancel).unwrap();
        assert_eq!(state(store, bad), Some(TaskState::Canceled));
    }
}

pub fn a_running_task_that_nobody_owns_is_taken_over(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let (lone, foreign, negative) = (task().add(store), task().add(store), task().add(store));
    let run = |task: TaskId, owner: &str, nonce: &str| {
        rig.unchecked(&format!(
            "UPDATE task SET state = 3, owner = {owner}, nonce = {nonce}, attempt = 1 WHERE id = {}",
            task.as_i64()
        ));
    };
    run(lone, "NULL", "NULL");
    run(foreign, "4711", "1");
    run(negative, "-4711", "NULL");
    rig.unchecked("INSERT INTO task (kind, owner) VALUES ('mail', 4712)");
    let owners = store.find_orphans(T).unwrap().unwrap();
    for owner in owners {
        store.take_over(owner, "a test", 100).unwrap();
    }
    for task in [lone, foreign, negative] {
        let row = row(store, task);
        assert_eq!((row.state, row.owner, row.lost), (TaskState::Ready, None, 1), "{row:?}");
        assert_eq!(store.attempts(task).unwrap()[0].result, Some(AttemptResult::Lost));
    }
    assert_eq!(a.claim().run(store).len(), 4);
}

pub fn a_resource_whose_task_was_deleted_is_freed_when_its_engine_says_so(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let gone = task_on(&["r"]).add(store);
    let held = a.claim().keyed().one(store);
    let (next, other) = (task_on(&["r"]).add(store), task_on(&["s"]).add(store));
    let kept = a.claim().keyed().one(store);
    assert_eq!(kept.held.task, other);
    assert_eq!(store.free_strays(a.incarnation, &[]).unwrap(), 0, "none is a stray");
    rig.sql(&format!("DELETE FROM task WHERE id = {}", gone.as_i64()));
    assert_eq!(store.free_strays(a.incarnation, &[gone, other]).unwrap(), 0, "it may still run");
    assert_eq!(store.free_strays(a.incarnation, &[other]).unwrap(), 1);
    // Its place in the line was not deleted with it.
    store.free_lines(100).unwrap();
    a.ends(store, done(&kept));
    let after = a.claim().keyed().one(store);
    assert_eq!(after.held.task, next);
    assert!(after.held.token > held.held.token);
}

pub fn a_line_whose_head_was_deleted_goes_on(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let first = task_on(&["r"]).add(store);
    a.ends(store, done(&a.claim().keyed().one(store)));
    let (head, second, next) = (task_on(&["r"]).add(store), task_on(&["r"]).add(store), task_on(&["r"]).add(store));
    assert!(first < head);
    rig.sql(&format!("DELETE FROM task WHERE id IN ({}, {})", head.as_i64(), second.as_i64()));
    assert_eq!(a.claim().keyed().ids(store), [], "it stands behind what is gone");
    assert_eq!(store.free_lines(100).unwrap(), 1);
    assert_eq!(a.claim().keyed().ids(store), [next]);
    // Half an owner, which no engine would free.
    rig.unchecked("UPDATE resource SET owner = NULL WHERE name = 'r'");
    store.free_lines(100).unwrap();
    assert_eq!(store.resource(&resource("r")).unwrap().unwrap().owner_task, None);
}

pub fn a_row_of_an_engine_that_cannot_be_read_ends_no_sweep(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let b = engine("b").on(rig);
    rig.pass(Duration::from_secs(10));
    a.accepted(store);
    for (id, state, span) in [(5, 9, 2_000), (-6, 1, 2_000), (7, 1, 0)] {
        rig.unchecked(&format!(
            "INSERT INTO engine (incarnation, name, live_name, state, last_beat_at, heartbeat_ms, query_ms, lease_ms, \
             kill_ms, takeover_ms, sweep_ms) VALUES ({id}, 'x{id}', 'x{id}', {state}, 1000000000000000, {span}, 1500, 10000, 2000, 12500, 1000)"
        ));
    }
    let view = store.sweep(SweepKind::Filtered).unwrap();
    let named: Vec<i64> = view.unreadable.iter().map(|(id, _)| *id).collect();
    assert_eq!(named.iter().copied().collect::<std::collections::BTreeSet<_>>(), [-6, 5, 7].into());
    let mut peers: Vec<_> = view.peers.iter().map(|peer| peer.incarnation.as_i64()).collect();
    peers.sort();
    let mut expected = vec![7, b.incarnation.as_i64()];
    expected.sort();
    assert_eq!(peers, expected, "one with impossible spans is watched for the longest T");
    let rows = store.bad_rows().unwrap();
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows.iter().all(|bad| bad.fix.contains("DELETE FROM engine WHERE incarnation = ")), "{rows:?}");
}

pub fn one_claim_brings_no_more_than_its_bytes(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let big = vec![b'x'; 1 << 20];
    for n in 0..40 {
        task_on(&[&format!("r{n}")]).payload(&big).add(store);
    }
    assert_eq!(a.claim().keyed().limit(1_000).run(store).len(), 32);
    assert!(task().payload(&vec![b'x'; (1 << 20) + 1]).try_add(store).is_err());
}

/// One row with a wrong time was the mean of its hour ("waited 799d on average").
pub fn no_row_poisons_the_mean_of_its_hour(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    rig.sql("INSERT INTO task (kind, created_at) VALUES ('mail', 1000000000000000)");
    rig.unchecked("INSERT INTO task (kind, created_at) VALUES ('mail', 1700000000)");
    rig.unchecked("INSERT INTO task (kind, created_at) VALUES ('mail', -9223372036854775807)");
    task().add(store);
    let mut counts = Counts::default();
    for claimed in a.claim().run(store) {
        counts.claimed(claimed.waited);
    }
    // One that fails a rule with its claim is mended, and has then waited from that moment.
    assert!(counts.claimed == 4 && counts.waited >= 1, "{counts:?}");
    assert!(counts.wait_max_us < 60_000_000, "{counts:?}");
    // An hour that is full takes nothing more, and lets everything else go on.
    store.add_hours(a.incarnation, &BTreeMap::from([(kind(KIND), counts)])).unwrap();
    rig.sql("UPDATE hour SET wait_us = 1000000000000000000, claimed = 1000000000000000000");
    store.add_hours(a.incarnation, &BTreeMap::from([(kind(KIND), counts)])).unwrap();
    let odd = BTreeMap::from([(KindName::from_stored("no kind!".repeat(40)), counts)]);
    store.add_hours(a.incarnation, &odd).unwrap();
}

/// 10,000 lives within a week are ten a minute of one engine that cannot stay up.
pub fn a_crash_loop_leaves_few_lives_and_status_reads_one(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    let b = engine("b").on(rig);
    b.dies(store);
    assert!(store.close(b.incarnation).unwrap());
    let columns = "name, host, boot_id, pid, state_id, version, protocol_min, protocol_max, kinds, slots, means, timing, \
                   registered_at, end_state, end_beat, end_beat_at, ended_at, \"release\"";
    for n in 0..14 {
        rig.sql(&format!(
            "INSERT INTO engine_info (incarnation, {columns}) SELECT incarnation % 4611686018427387904 + {}, {columns} \
             FROM engine_info WHERE name = 'b'",
            1_i64 << n
        ));
    }
    assert!(store.engines().unwrap().1.len() > 10_000);
    // All of them have registered in one moment, which tells nobody apart; the next life is the newest.
    rig.pass(secs(1));
    let b = engine("b").on(rig);
    let names = |rows: Vec<rekindle::store::EngineRow>| {
        let mut rows: Vec<_> = rows.into_iter().map(|row| row.incarnation).collect();
        rows.sort();
        rows
    };
    let mut newest = vec![a.incarnation, b.incarnation];
    newest.sort();
    assert_eq!(names(store.newest_engines().unwrap().1), newest);
    assert_eq!(names(store.status().unwrap().engines), newest);
    let week = RetentionConfig::default();
    assert_eq!(store.purge(&week, 1_000).unwrap(), 0, "they have just ended");
    rig.pass(secs(2 * 3_600));
    assert_eq!(store.purge(&week, 1_000).unwrap(), 1_000, "in batches");
    while store.purge(&week, 5_000).unwrap() > 0 {}
    assert_eq!(store.engines().unwrap().1.len(), 20 + 2);
    rig.pass(secs(8 * 86_400));
    store.purge(&week, 1_000).unwrap();
    assert_eq!(store.engines().unwrap().1.len(), 2);
}

/// What was written before there were rules.
pub fn the_migration_mends_rows_or_sets_them_aside(rig: &Rig) {
    rig.store.migrate().unwrap();
    engine("a").on(rig);
    while !rig.store.schema_status().unwrap().pending.iter().any(|version| version == "20261128110000") {
        revert_newest(rig);
    }
    let now = rig.rows("SELECT last_beat_at FROM engine")[0].int();
    let big = "x".repeat((1 << 20) + 1);
    for values in [
        format!("'Hello World!', 0, NULL, 0, 0, {now}, 'a'"),
        format!("'mail', 7, NULL, 0, 0, {now}, 'b'"),
        format!("'mail', 3, NULL, 0, 0, {now}, 'c'"),
        format!("'mail', 0, 5, 0, 0, {now}, 'd'"),
        format!("'mail', 1, NULL, 0, 0, {now}, 'e'"),
        "'mail', 0, NULL, 0, 0, 1700000000, 'f'".to_owned(),
        format!("'mail', 0, NULL, 2147483647, 9223372036854775807, {now}, 'g'"),
        format!("'mail', 5, NULL, -7, -7, {now}, 'h'"),
        format!("'mail', 0, NULL, 0, 0, {now}, '{big}'"),
    ] {
        rig.sql(&format!(
            "INSERT INTO task (kind, state, owner, attempt, token, created_at, payload) VALUES ({values})"
        ));
    }
    // A Galera cluster leaves out the numbers of other nodes.
    let ids: Vec<i64> = rig.rows("SELECT id FROM task ORDER BY id").into_iter().map(|mut row| row.int()).collect();
    let id = |n: usize| TaskId::new(ids[n - 1]);
    rig.sql(&format!("INSERT INTO task_resource (task, resource, in_line) VALUES ({}, 'r', 1)", ids[1]));
    rig.sql("INSERT INTO resource (name, owner, token) VALUES ('r', -4, 9223372036854775807)");
    rig.sql("INSERT INTO engine_wish (name, wanted, set_by, set_at) VALUES ('x', -1, 'x', 0)");
    rig.sql(
        "INSERT INTO engine (incarnation, name, state, last_beat_at, heartbeat_ms, query_ms, lease_ms, kill_ms, takeover_ms, \
         sweep_ms) VALUES (5, 'x', 9, 0, 2000, 1500, 10000, 2000, 12500, 0)",
    );
    rig.store.migrate().unwrap();
    let store = &*rig.store;
    let is = |n: usize| {
        let row = row(store, id(n));
        (row.state.word(), row.error.unwrap_or_default().replace("set aside by a migration: ", ""))
    };
    let aside = |why: &str| ("failed", why.to_owned());
    assert_eq!(is(1), aside("its kind was \"Hello World!\", which no engine can have"));
    assert_eq!(is(2), aside("its state was 7, which means nothing"));
    assert_eq!(is(7), aside("its token cannot grow any more"));
    assert_eq!(is(9), aside("its payload is over 1 MiB"));
    assert_eq!([3, 4, 5, 6, 8].map(|n| is(n).0), ["running", "ready", "waiting", "ready", "failed"]);
    assert_eq!(row(store, id(8)).attempt, 0);
    assert!(row(store, id(6)).created_at.as_us() >= now);
    let owners = store.find_orphans(T).unwrap().unwrap();
    for owner in &owners {
        store.take_over(*owner, "a test", 100).unwrap();
    }
    assert_eq!(is(3).0, "ready", "{owners:?}");
    store.free_lines(100).unwrap();
    let b = engine("b").on(rig);
    assert_eq!(b.claim().ids(store), [3, 4, 6].map(id));
    assert!(store.sweep(SweepKind::Full).unwrap().unreadable.is_empty());
    let keyed = task_on(&["r"]).add(store);
    assert!(keyed > id(9), "numbers go on where they were");
    assert_eq!(b.claim().keyed().ids(store), [], "its token cannot grow");
    assert_eq!(store.bad_rows().unwrap().len(), 1);
}

/// Random rows, legal by their types, in every table, with the rules on and off: everything that engines do with
/// the rest goes on.
pub fn random_rows_stop_nothing_but_themselves(rig: &Rig) {
    // `REKINDLE_TEST_SEED` plays the rows of one run again.
    let seed = std::env::var("REKINDLE_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let (store, seed) = (&*rig.store, seed.unwrap_or_else(|| fastrand::u64(..)));
    println!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let a = engine("a").on(rig);
    // The rows name small numbers of tasks, and one that gives a resource to a task is a part of that task: so what has
    // to go on has other numbers.
    task().of("filler").add_many(store, 64);
    let mut refused = 0;
    for round in 0..6 {
        for _ in 0..25 {
            let text = random_row(&mut dice);
            // What `meta` says is the cluster: it has no rows of others.
            match dice.bool() || text.starts_with("UPDATE meta") {
                true => refused += usize::from(rig.try_sql(&text).is_err()),
                false => drop(rig.try_unchecked(&text)),
            }
        }
        all_goes_on(rig, &a, round);
    }
    assert!(refused > 0, "seed {seed}");
    drop(store.status().unwrap());
    drop(store.bad_rows().unwrap());
}

fn all_goes_on(rig: &Rig, a: &Engine, round: usize) {
    let store = &*rig.store;
    rig.pass_scan();
    a.accepted(store);
    let meta = store.meta().unwrap();
    if meta.settled_epoch < meta.raised_epoch {
        store.settle_epoch(meta.epoch).unwrap();
    }
    let kind = format!("good-{round}");
    let resource = format!("good-{round}");
    let dead = engine(&format!("dead-{round}")).on(rig);
    task().of(&kind).add_many(store, 2);
    task_on(&[&resource]).of(&kind).add(store);
    let lost = dead.claim().of(&kind).keyed().one(store);
    dead.dies(store);
    // As the sweeper does.
    let view = store.sweep(SweepKind::Full).unwrap();
    assert!(view.ended.iter().any(|peer| peer.incarnation == dead.incarnation));
    for peer in &view.ended {
        store.take_over(peer.incarnation, "a test", 100).unwrap();
        store.close(peer.incarnation).unwrap();
    }
    for owner in store.find_orphans(Duration::from_secs(1)).unwrap().unwrap_or_default() {
        store.take_over(owner, "a test", 100).unwrap();
    }
    store.promote_due(1_000).unwrap();
    store.free_lines(1_000).unwrap();
    store.free_strays(a.incarnation, &[]).unwrap();
    store.purge(&RetentionConfig::default(), 1_000).unwrap();
    let work = store.probe(&[kind_of(&kind), kind_of(KIND)], &a.host).unwrap();
    assert!(work.iter().any(|work| work.kind.as_str() == kind && work.plain && work.keyed), "{work:?}");
    let again = a.claim().of(&kind).keyed().one(store);
    assert!(again.held.task == lost.held.task && again.held.token > lost.held.token);
    a.ends(store, done(&again));
    let claimed = a.claim().of(&kind).run(store);
    assert_eq!(claimed.len(), 2);
    let ends: Vec<_> = claimed.iter().map(done).collect();
    a.finish(store, &ends);
    // The kind that the random rows have, too: whatever they are, a good one of it is done.
    let good = task().add(store);
    for _ in 0..50 {
        for claimed in [a.claim().limit(100), a.claim().keyed().limit(100), a.claim().alone()] {
            let ends: Vec<_> = claimed.run(store).iter().map(done).collect();
            a.finish(store, &ends);
        }
        if state(store, good) == Some(TaskState::Done) {
            break;
        }
    }
    assert_eq!(state(store, good), Some(TaskState::Done), "round {round}");
    let counts = BTreeMap::from([(kind_of(KIND), Counts::default())]);
    store.add_hours(a.incarnation, &counts).unwrap();
    store.status().unwrap();
    store.engines().unwrap();
    store.hours(&[rekindle::protocol::time::Timestamp::from_us(0)]).unwrap();
}

fn kind_of(name: &str) -> KindName {
    kind(name)
}

/// Tables and what may stand in their columns: a number, a text, or bytes.
const TABLES: [(&str, &str); 11] = [
    (
        "task",
        "kind:k state:n keyed:n priority:n reason:n attempt:n failures:n lost:n handed_back:n wish:n result:n policy:n \
         version:n token:n owner:n nonce:n due_at:n claimed_at:n ended_at:n charged:n created_at:n not_on:t error:t payload:t",
    ),
    ("task_resource", "task:n resource:t in_line:n"),
    ("resource", "name:t owner_task:n owner:n token:n version:n used_at:n"),
    (
        "engine",
        "incarnation:n name:t live_name:t state:n mode:n beat:n last_beat_at:n running:n refused:n acknowledged:n proof:n \
         ended_by:t ended_at:n heartbeat_ms:n query_ms:n lease_ms:n kill_ms:n takeover_ms:n sweep_ms:n",
    ),
    (
        "engine_info",
        "incarnation:n name:t host:t boot_id:t pid:n state_id:t version:t protocol_min:n protocol_max:n kinds:t slots:n \
         means:t timing:t registered_at:n taken_over:n end_state:n end_beat:n ended_at:n release:t",
    ),
    ("engine_wish", "name:t wanted:n set_by:t set_at:n until_at:n deadline_at:n"),
    (
        "hour",
        "starts_at:n kind:k shard:n claimed:n done:n lost:n run_us:n run_max_us:n waited:n wait_us:n wait_max_us:n",
    ),
    (
        "task_archive",
        "id:a kind:k state:n priority:n reason:n attempt:n failures:n lost:n result:n token:n owner:n ended_at:n created_at:n \
         payload:t resources:t",
    ),
    ("attempt", "task:n attempt:n engine:t incarnation:n token:n nonce:n started_at:n ended_at:n result:n detail:t"),
    ("attempt_output", "task:n attempt:n dropped:n output:t"),
    ("meta", "raised_epoch:n settled_epoch:n orphan_scan_at:n forget_at:n forget_epoch:n raised_reason:t"),
];

fn random_row(dice: &mut fastrand::Rng) -> String {
    let (table, columns) = TABLES[dice.usize(..TABLES.len())];
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (name, kind) in columns.split_whitespace().map(|column| column.split_once(':').unwrap()) {
        // Without a number of its own a row of the same table could not stand beside it.
        if kind != "a" && dice.u8(..4) == 0 && table != "engine" {
            continue;
        }
        names.push(if name == "release" { "\"release\"".to_owned() } else { name.to_owned() });
        values.push(random_value(dice, kind));
    }
    if table == "meta" && !names.is_empty() {
        let sets: Vec<_> = names.iter().zip(&values).map(|(name, value)| format!("{name} = {value}")).collect();
        return format!("UPDATE meta SET {}", sets.join(", "));
    }
    format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "))
}

fn random_value(dice: &mut fastrand::Rng, kind: &str) -> String {
    let texts = ["'mail'", "''", "'r1'", "'r2'", "'[\"mail\"]'", "'a''b'", "NULL"];
    match kind {
        "a" => (1_000_000 + dice.u32(..)).to_string(),
        "k" => ["'mail'", "'mail'", "'mail'", "'no kind!'", "''"][dice.usize(..5)].to_owned(),
        "t" => texts[dice.usize(..texts.len())].to_owned(),
        _ => {
            let some = [
                0_i64,
                0,
                0,
                1,
                1,
                2,
                3,
                5,
                6,
                7,
                9,
                20,
                100,
                -1,
                32_767,
                2_147_483_647,
                1_700_000_000,
                1_700_000_000_000_000,
            ];
            let large = [i64::MAX, i64::MAX - 1, i64::MIN + 1, 1_000_000_000_000_000_000, 1_000_000_000];
            match dice.u8(..8) {
                0 => "NULL".to_owned(),
                1 => large[dice.usize(..large.len())].to_string(),
                2 => dice.i64(..).to_string(),
                _ => some[dice.usize(..some.len())].to_string(),
            }
        }
    }
}
