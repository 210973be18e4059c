//! What only MariaDB does. The rest is in the conformance suite, which it runs as well.

use std::net::TcpListener;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use rekindle::clock::{Clock, SystemClock};
use rekindle::config::DatabaseUrl;
use rekindle::store::db::Db;
use rekindle::store::mysql::MysqlDb;
use rekindle::store::queries::tasks::add;
use rekindle::store::sql::{Row, Sql};
use rekindle::store::{NewTask, Settings, StoreError, open};

use crate::support::builders::*;
use crate::support::mariadb::{Database, server};
use crate::support::wait_until;

const FOUNDATION: &str = include_str!("../../migrations/mysql/2026-11-21-000000_create_foundation/up.sql");

/// A fresh database, if there is a server.
fn fresh(database: fn(&str) -> Database) -> Option<Database> {
    let found = server().map(|server| database(&server));
    if found.is_none() {
        println!("skipped: REKINDLE_TEST_MARIADB is not set");
    }
    found
}

fn connect(database: &Database) -> MysqlDb {
    MysqlDb::open(&database.settings).unwrap()
}

fn sql(text: impl Into<String>) -> Sql {
    Sql { text: text.into(), binds: Vec::new() }
}

fn run(db: &mut MysqlDb, text: &str) -> usize {
    db.execute("a test", &sql(text)).unwrap()
}

fn rows(db: &mut MysqlDb, text: &str) -> Vec<Row> {
    db.query("a test", &sql(text)).unwrap()
}

fn number(db: &mut MysqlDb, text: &str) -> i64 {
    rows(db, text).remove(0).int()
}

#[test]
fn numbers_of_added_tasks_do_not_lean_on_how_the_server_counts() {
    let Some(database) = fresh(Database::migrated) else { return };
    let mut db = connect(&database);
    // As on one node of a Galera cluster of three.
    run(&mut db, "SET SESSION auto_increment_increment = 3, auto_increment_offset = 2");
    let tasks: Vec<NewTask> = (0..250).map(|n| task().payload(format!("{n}").as_bytes()).0).collect();
    let ids = add(&mut db, &tasks, "me").unwrap();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    for (n, id) in ids.iter().enumerate() {
        let at = id.as_i64();
        assert_eq!(rows(&mut db, &format!("SELECT payload FROM task WHERE id = {at}")).remove(0).text(), n.to_string());
    }
    assert!(number(&mut db, "SELECT max(id) - min(id) FROM task") >= 747, "it counts in steps of three");
}

#[test]
fn payloads_of_many_megabytes_are_added_in_statements_that_a_server_takes() {
    let Some(database) = fresh(Database::migrated) else { return };
    let tasks: Vec<NewTask> = (0..24).map(|n| task().payload(&vec![n; 1 << 20]).0).collect();
    let ids = add(&mut connect(&database), &tasks, "me").unwrap();
    assert_eq!(ids.len(), 24, "24 MiB, where a server takes 16 at once");
}

#[test]
fn texts_are_compared_with_their_trailing_blanks() {
    let Some(database) = fresh(Database::migrated) else { return };
    let mut db = connect(&database);
    run(&mut db, "INSERT INTO resource (name) VALUES ('a'), ('a '), ('A')");
    assert_eq!(number(&mut db, "SELECT count(*) FROM resource WHERE name = 'a'"), 1);
    let or_nothing = db.dialect().or_nothing("resource", "name");
    run(&mut db, &format!("INSERT INTO resource (name) VALUES ('a '), ('b') {or_nothing}"));
    assert_eq!(number(&mut db, "SELECT count(*) FROM resource"), 4);
}

#[test]
fn a_row_that_is_matched_counts_also_where_nothing_changes() {
    let Some(database) = fresh(Database::migrated) else { return };
    assert_eq!(run(&mut connect(&database), "UPDATE meta SET protocol = protocol WHERE one = 1"), 1);
}

/// Under the server's default a range that one session has locked keeps every other from adding to it.
#[test]
fn a_locked_range_keeps_nobody_from_adding_to_it() {
    let Some(database) = fresh(Database::migrated) else { return };
    let (mut one, mut other) = (connect(&database), connect(&database));
    run(&mut one, "INSERT INTO resource (name) VALUES ('b'), ('d')");
    one.begin("a test").unwrap();
    assert_eq!(rows(&mut one, "SELECT name FROM resource WHERE name BETWEEN 'a' AND 'e' FOR UPDATE").len(), 2);
    assert_eq!(run(&mut other, "INSERT INTO resource (name) VALUES ('c')"), 1);
    // And what others have committed is seen at once.
    assert_eq!(number(&mut one, "SELECT count(*) FROM resource"), 3);
    one.rollback();
}

/// The texts are the server's: these are the ones that it says today.
#[test]
fn a_lock_that_is_held_and_a_statement_that_takes_too_long_are_worth_another_try() {
    let Some(database) = fresh(Database::migrated) else { return };
    let hasty = Settings { statement_timeout: Duration::from_secs(1), ..database.settings.clone() };
    let (mut one, mut other) = (connect(&database), MysqlDb::open(&hasty).unwrap());
    one.begin("a test").unwrap();
    run(&mut one, "UPDATE meta SET protocol = protocol + 1");
    let held = other.execute("a test", &sql("UPDATE meta SET protocol = protocol + 1")).unwrap_err();
    let slow = other.query("a test", &sql("SELECT SLEEP(5)")).unwrap_err();
    for error in [held, slow] {
        assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    }
    assert!(!other.is_broken(), "the session goes on");
    one.rollback();
    let error = one.execute("a test", &sql("UPDATE nobody SET a = 1")).unwrap_err();
    assert!(matches!(error, StoreError::Schema(_)), "{error:?}");
}

#[test]
fn a_migration_that_was_cut_in_the_middle_runs_again() {
    for whole in [false, true] {
        let Some(database) = fresh(Database::empty) else { return };
        // Cut in the middle, or after its last statement but before it was noted.
        let tables: Vec<&str> = FOUNDATION.split_inclusive(";\n").collect();
        let some = if whole { &tables[..] } else { &tables[..tables.len() / 2] };
        connect(&database).raw().batch_execute(&some.concat()).unwrap();
        let store = open(vec![database.settings.clone()], vec![database.settings.clone()], 2).unwrap();
        store.migrate().unwrap();
        assert!(store.schema_status().unwrap().is_current());
        task().add(&*store);
    }
}

#[test]
fn a_set_up_that_was_cut_is_finished_by_whoever_comes_next() {
    let Some(database) = fresh(Database::migrated) else { return };
    let store = open(vec![database.settings.clone()], vec![database.settings.clone()], 2).unwrap();
    let wanted = store.schema_status().unwrap().wanted;
    let mut db = connect(&database);
    run(&mut db, "DELETE FROM meta");
    run(&mut db, &format!("DELETE FROM __diesel_schema_migrations WHERE version = '{wanted}'"));
    let status = store.schema_status().unwrap();
    assert_eq!((status.found.as_deref(), status.is_migrating), (None, false), "for an engine it is empty");
    assert_eq!(store.migrate().unwrap(), [wanted]);
    engine("a").register(&*store);
    // From then on a lost row is no unfinished set-up.
    run(&mut db, "DELETE FROM meta");
    assert!(store.schema_status().unwrap().is_current());
}

#[test]
fn a_migration_that_fails_lets_its_lock_go() {
    let Some(database) = fresh(Database::empty) else { return };
    let mut db = connect(&database);
    run(&mut db, "CREATE TABLE __diesel_schema_migrations (no_version INT)");
    let store = open(vec![database.settings.clone()], vec![database.settings.clone()], 2).unwrap();
    store.migrate().unwrap_err();
    let lock = format!("SELECT GET_LOCK({}, 0)", rekindle::store::mysql::MIGRATION_LOCK);
    wait_until(Duration::from_secs(10), || number(&mut db, &lock) == 1);
}

#[test]
fn every_migration_may_run_twice() {
    let Some(database) = fresh(Database::migrated) else { return };
    let mut db = connect(&database);
    run(&mut db, "DELETE FROM __diesel_schema_migrations");
    let store = open(vec![database.settings.clone()], vec![database.settings.clone()], 2).unwrap();
    assert!(!store.migrate().unwrap().is_empty());
    assert!(store.schema_status().unwrap().is_current());
}

#[test]
fn a_session_that_was_killed_is_not_used_again_and_a_commit_in_it_is_unknown() {
    let Some(database) = fresh(Database::migrated) else { return };
    for at_commit in [false, true] {
        let mut db = connect(&database);
        let id = number(&mut db, "SELECT CONNECTION_ID()");
        let end = || run(&mut connect(&database), &format!("KILL {id}"));
        db.begin("a test").unwrap();
        let text = "UPDATE meta SET protocol = protocol";
        let error = if at_commit {
            run(&mut db, text);
            end();
            db.commit("a test").unwrap_err()
        } else {
            end();
            db.execute("a test", &sql(text)).unwrap_err()
        };
        assert!(matches!(error, StoreError::Unknown { .. }), "{error:?}");
        assert!(db.is_broken());
    }
}

#[test]
fn the_server_ends_the_transaction_of_a_silent_client() {
    let Some(database) = fresh(Database::migrated) else { return };
    let settings = Settings { idle_timeout: Duration::from_secs(1), ..database.settings.clone() };
    let mut silent = MysqlDb::open(&settings).unwrap();
    silent.begin("a test").unwrap();
    run(&mut silent, "UPDATE meta SET raised_reason = 'held' WHERE one = 1");
    // Waits for the row until the server lets go of it.
    let began = SystemClock.lease_now();
    run(&mut connect(&database), "UPDATE meta SET protocol = protocol WHERE one = 1");
    let took = SystemClock.lease_now().since(began);
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(matches!(silent.commit("a test"), Err(StoreError::Unknown { .. })));
    assert_eq!(number(&mut connect(&database), "SELECT count(*) FROM meta WHERE raised_reason IS NULL"), 1);
}

/// What a cut of the network left must not hold the server's connections for its own eight hours.
#[test]
fn the_server_gives_a_client_up_that_is_silent() {
    let Some(database) = fresh(Database::migrated) else { return };
    let place = Settings { silence: Duration::from_secs(2), ..database.settings.clone() };
    let store = open(vec![place.clone()], vec![place], 2).unwrap();
    let beat = || engine("a").0.incarnation;
    let beat =
        rekindle::store::Beat { incarnation: beat(), mode: rekindle::protocol::engine::Mode::Active, running: 0 };
    store.meta().unwrap();
    store.beat(&beat).unwrap();
    let mut other = connect(&database);
    let others = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
    assert_eq!(number(&mut other, others), 2);
    wait_until(Duration::from_secs(15), || number(&mut other, others) == 0);
    // Nobody meets an error for it.
    store.meta().unwrap();
    store.beat(&beat).unwrap();
    assert_eq!(number(&mut other, others), 2);
}

#[test]
fn who_loses_a_deadlock_hears_that_the_database_is_busy() {
    let Some(database) = fresh(Database::migrated) else { return };
    let (mut a, mut b) = (connect(&database), connect(&database));
    run(&mut a, "INSERT INTO resource (name) VALUES ('1'), ('2')");
    let lock = |n: u8| sql(format!("UPDATE resource SET version = version + 1 WHERE name = '{n}'"));
    a.begin("a test").unwrap();
    b.begin("a test").unwrap();
    a.execute("a test", &lock(1)).unwrap();
    b.execute("a test", &lock(2)).unwrap();
    let (first, second) = std::thread::scope(|scope| {
        let waits = scope.spawn(|| a.execute("a test", &lock(2)));
        let second = b.execute("a test", &lock(1));
        // Whoever won goes on when the other has gone.
        b.rollback();
        (waits.join().unwrap(), second)
    });
    let busy = |result: &Result<usize, StoreError>| matches!(result, Err(StoreError::Busy { .. }));
    assert!(busy(&first) != busy(&second), "{first:?} {second:?}");
    a.rollback();
    assert!(!a.is_broken() && !b.is_broken());
}

#[test]
fn connecting_to_a_server_that_says_nothing_ends_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mysql://u@127.0.0.1:{}/d", silent.local_addr().unwrap().port());
    let settings =
        Settings { connect_timeout: Duration::from_millis(300), ..Settings::new(DatabaseUrl::parse(&url).unwrap()) };
    let began = SystemClock.lease_now();
    for _ in 0..3 {
        assert!(matches!(MysqlDb::open(&settings), Err(StoreError::Unreachable { .. })));
    }
    assert!(SystemClock.lease_now().since(began) < Duration::from_secs(3));
}

#[test]
fn an_encrypted_connection_is_not_promised_where_there_is_none() {
    let Some(database) = fresh(Database::empty) else { return };
    let with = |mode: &str| {
        let url = format!("{}?ssl_mode={mode}", database.settings.url.expose());
        MysqlDb::open(&Settings { url: DatabaseUrl::parse(&url).unwrap(), ..database.settings.clone() }).err()
    };
    assert!(with("preferred").is_none());
    for (mode, part) in [("required", "is not encrypted"), ("verify_identity", "cannot be promised")] {
        let error = with(mode).map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(part), "{mode}: {error}");
    }
}

#[test]
fn keepalives_are_set_on_the_way_to_the_server() {
    let Some(database) = fresh(Database::empty) else { return };
    let mut db = connect(&database);
    run(&mut db, "DO 1");
    let (_, port) = database.settings.url.host_port().unwrap();
    // Address, port and timer of each socket; timer 02 is a keepalive, and its time left is in hundredths.
    let is_soon = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let to = format!(":{port:04X}");
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|words| {
            let timer = words.get(5).and_then(|timer| timer.split_once(':'));
            let left = timer.filter(|(kind, _)| *kind == "02").map(|(_, left)| i64::from_str_radix(left, 16).unwrap());
            words.get(2).is_some_and(|at| at.ends_with(&to)) && left.is_some_and(|left| left <= 500)
        })
    };
    wait_until(Duration::from_secs(5), is_soon);
}

/// The statements of the hot paths, as the server means to carry them out with 100,000 tasks.
#[test]
fn lists_are_found_by_the_primary_key_and_the_rest_by_its_index() {
    let Some(database) = fresh(Database::migrated) else { return };
    let mut db = connect(&database);
    run(
        &mut db,
        "INSERT INTO task (kind, state, priority, keyed, created_at, payload) \
         SELECT 'mail', 0, seq % 3, 0, 1700000000000000 + seq, '' FROM seq_1_to_100000",
    );
    run(&mut db, "UPDATE task SET lost = 2 WHERE id IN (70000, 70001)");
    run(&mut db, "UPDATE task SET state = 1, due_at = id WHERE id BETWEEN 90001 AND 95000");
    run(
        &mut db,
        "UPDATE task SET state = 3, owner = 7, nonce = id, claimed_at = created_at WHERE id BETWEEN 95001 AND 95100",
    );
    rows(&mut db, "ANALYZE TABLE task");
    let list: Vec<String> = (1..=400).map(|n| (n * 200).to_string()).collect();
    let list = list.join(", ");
    let now = db.dialect().now;
    for (text, key, most) in [
        (format!("UPDATE task SET state = 3 WHERE id IN ({list}) AND state = 0"), "PRIMARY", 400),
        (format!("DELETE FROM task WHERE id IN ({list})"), "PRIMARY", 400),
        (format!("SELECT id, token FROM task WHERE id IN ({list}) ORDER BY id FOR UPDATE"), "PRIMARY", 400),
        (
            format!("SELECT id FROM task WHERE state = 1 AND due_at <= {now} ORDER BY due_at LIMIT 10"),
            "task_due",
            9_000,
        ),
        (
            "SELECT due_at FROM task WHERE state = 1 AND due_at IS NOT NULL ORDER BY due_at LIMIT 1".into(),
            "task_due",
            9_000,
        ),
        ("SELECT id FROM task WHERE owner = 7 ORDER BY id LIMIT 256".into(), "task_owner", 200),
        ("SELECT id FROM task WHERE owner = 7 AND wish <> 0".into(), "task_owner", 200),
        (
            "SELECT id FROM task WHERE state = 0 AND keyed = 0 AND kind = 'mail' AND lost >= 2 \
             AND (not_on IS NULL OR not_on <> 'h') ORDER BY priority DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED"
                .into(),
            "task_lost",
            10,
        ),
    ] {
        let mut plan = rows(&mut db, &format!("EXPLAIN {text}")).remove(0);
        let values: Vec<String> = (0..10).map(|_| plan.text()).collect();
        let (used, count) = (&values[5], values[8].parse::<u64>().unwrap_or_else(|_| panic!("{values:?}")));
        assert!(used == key && count <= most, "{used}, {count} rows instead of {key}, {most}: {text:.90} {values:?}");
    }
    // In the order of the index: the first rows are the ones.
    let claim = "SELECT id FROM task WHERE state = 0 AND keyed = 0 AND kind = 'mail' AND lost < 2 \
         AND (not_on IS NULL OR not_on <> 'h') ORDER BY priority DESC, id LIMIT 100 FOR UPDATE SKIP LOCKED";
    run(&mut db, "FLUSH STATUS");
    assert_eq!(rows(&mut db, claim).len(), 100);
    let mut read = rows(&mut db, "SHOW SESSION STATUS LIKE 'Handler_read_next'").remove(0);
    read.text();
    let count = read.int();
    assert!(count <= 110, "a claim of 100 has looked at {count} rows");
}
