//! Every statement keeps its way to its rows, whatever the database believes of its tables.
//!
//! How many tasks are ready, run or wait turns over within minutes; what a database knows of it is of the moment
//! when somebody last looked. So all that the store says is recorded while everything is done once (`play`), and
//! then the database is asked how it would carry out each of these statements, with their values, over a backlog
//! of 100,000 tasks of which it knows five different things (`tables`). No table or index that grows with the
//! backlog may be read as a whole (`judge`), but by those who are about all of it (`WHOLE`).

mod judge;
mod play;
mod recorder;
mod tables;

use rekindle::config::DatabaseUrl;
use rekindle::store::Settings;
use rekindle::store::Store;
use rekindle::store::backend::Backend;
use rekindle::store::db::Db;
use rekindle::store::mysql::MysqlOpener;
use rekindle::store::postgres::PostgresOpener;
use rekindle::store::sql::{Row, Sql};
use rekindle::store::sql_store::SqlStore;
use rekindle::store::sqlite::SqliteOpener;

use self::recorder::{Memory, Recording, Said};
use self::tables::{Looked, Words, fill};
use crate::support::{mariadb, postgres};

/// Who reads an index or a table as a whole, because it is about all of it, or stops at its limit: the steps, and what.
const WHOLE: [(&str, &[&str]); 12] = [
    // From the first of its own on: MariaDB, which is asked outside of that session, knows of none.
    ("add tasks", &["task by PRIMARY, sorted"]),
    // Indexes of those that are in one state, counted up to a limit.
    ("count tasks", &["task_ready", "task_due", "task_blocked", "task_owner"]),
    ("count the last hour", &["task_owner"]),
    // By kinds, from one to the next.
    ("look for the oldest ready task", &["task_ready"]),
    // In the order of the numbers, up to the limit.
    (
        "list tasks",
        &["task_pkey", "task_archive_pkey", "t", "sqlite_autoindex_task_archive_1", "task_due", "t by PRIMARY"],
    ),
    // Those that somebody owns.
    ("count owned tasks", &["task_owner"]),
    ("look for orphans", &["task_owner", "task_unowned", "resource_owner"]),
    // Those that are barred from a host.
    ("lift bars", &["task_barred"]),
    // The slow looks at all resources, by name up to the limit; the second once an hour in the whole cluster.
    ("look for free lines", &["resource_pkey", "sqlite_autoindex_resource_1", "r by PRIMARY"]),
    ("look for stray resources", &["resource_pkey", "sqlite_autoindex_resource_1", "r by PRIMARY"]),
    ("forget resources", &["resource_pkey", "r", "sqlite_autoindex_resource_1", "r by PRIMARY", "w by PRIMARY"]),
    (
        "list resources",
        &[
            "task_resource_pkey",
            "task_resource_line",
            "resource",
            "task_resource by PRIMARY",
            "sqlite_autoindex_resource_1",
        ],
    ),
];

/// A database that goes with its guard.
type Fresh<'a, G> = &'a dyn Fn() -> (Settings, G);

fn hold<B: Backend, G>(
    backend: &B,
    words: &Words,
    explain: &str,
    judge: fn(Vec<Row>) -> Vec<String>,
    fresh: Fresh<'_, G>,
) {
    let said = record(backend, fresh);
    assert!(said.len() > 100, "{} statements", said.len());
    let mut wrong = Vec::new();
    for looked in Looked::ALL {
        let (settings, _guard) = fresh();
        let mut db = backend.open(&settings).unwrap();
        fill(&mut db, words, looked);
        for one in &said {
            let sql = Sql { text: format!("{explain} {}", one.sql.text), binds: one.sql.binds.clone() };
            let plan = db.query("a test", &sql).unwrap_or_else(|e| panic!("{}: {e:?}", one.sql.text));
            let what: Vec<String> = judge(plan).into_iter().filter(|what| !is_right(one, what)).collect();
            if !what.is_empty() {
                wrong.push(format!("{looked:?}: {} reads {}\n    {:.400}", one.step, what.join(", "), one.sql.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong plans\n{}", wrong.len(), wrong.join("\n"));
}

fn is_right(said: &Said, what: &str) -> bool {
    WHOLE.iter().any(|(step, whole)| *step == said.step && whole.contains(&what))
}

fn record<B: Backend, G>(backend: &B, fresh: Fresh<'_, G>) -> Vec<Said> {
    let (settings, _guard) = fresh();
    let memory = Memory::default();
    let recording = Recording { inner: backend.clone(), memory: memory.clone() };
    let store = SqlStore::new(recording, vec![settings.clone()], vec![settings], 2);
    store.migrate().unwrap();
    play::play(&store);
    let is_planned = |said: &Said| {
        ["SELECT", "UPDATE", "DELETE", "INSERT", "WITH"].iter().any(|word| said.sql.text.trim_start().starts_with(word))
            && tables::TABLES.iter().any(|table| said.sql.text.contains(table))
    };
    memory.all().into_iter().filter(is_planned).collect()
}

#[test]
fn every_statement_keeps_its_index_on_postgres() {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    let words = Words {
        series: "generate_series(1, {n}) AS s(n)",
        text: "'r' || ({n})",
        analyse: &["VACUUM ANALYZE"],
        leave_alone: &[
            "ALTER TABLE task SET (autovacuum_enabled = false)",
            "ALTER TABLE task_resource SET (autovacuum_enabled = false)",
            "ALTER TABLE resource SET (autovacuum_enabled = false)",
            "ALTER TABLE task_archive SET (autovacuum_enabled = false)",
        ],
    };
    hold(&PostgresOpener, &words, "EXPLAIN (FORMAT JSON)", judge::postgres, &|| {
        let database = postgres::Database::migrated(&server);
        (database.settings.clone(), database)
    });
}

#[test]
fn every_statement_keeps_its_index_on_mariadb() {
    let Some(server) = mariadb::server() else { return println!("skipped: REKINDLE_TEST_MARIADB is not set") };
    let words = Words {
        series: "(SELECT seq AS n FROM seq_1_to_{n}) s",
        text: "CONCAT('r', {n})",
        analyse: &["ANALYZE TABLE task, task_resource, resource, task_archive, attempt, engine"],
        leave_alone: &[
            "ALTER TABLE task STATS_AUTO_RECALC = 0",
            "ALTER TABLE task_resource STATS_AUTO_RECALC = 0",
            "ALTER TABLE resource STATS_AUTO_RECALC = 0",
            "ALTER TABLE task_archive STATS_AUTO_RECALC = 0",
        ],
    };
    hold(&MysqlOpener, &words, "EXPLAIN", judge::mariadb, &|| {
        let database = mariadb::Database::migrated(&server);
        (database.settings.clone(), database)
    });
}

#[test]
fn every_statement_keeps_its_index_on_sqlite() {
    let words = Words {
        series: "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {n}) SELECT n FROM s)",
        text: "'r' || ({n})",
        analyse: &["ANALYZE"],
        leave_alone: &[],
    };
    hold(&SqliteOpener, &words, "EXPLAIN QUERY PLAN", judge::sqlite, &|| {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/plans.db", dir.path().display());
        let settings = Settings { create: true, ..Settings::new(DatabaseUrl::parse(&url).unwrap()) };
        SqlStore::new(SqliteOpener, vec![settings.clone()], vec![settings.clone()], 1).migrate().unwrap();
        (settings, dir)
    });
}
