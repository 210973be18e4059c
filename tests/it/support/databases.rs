//! One fresh database per test, whatever the backend, with the few things that tests may do to a
//! database behind the store's back: let time pass, move it, commit a late claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rekindle::clock::ManualClock;
use rekindle::config::DatabaseUrl;
use rekindle::protocol::ids::{Incarnation, Nonce, TaskId, Token};
use rekindle::protocol::task::{TaskState, Wish};
use rekindle::store::db::Db;
use rekindle::store::mysql::MysqlDb;
use rekindle::store::postgres::Postgres;
use rekindle::store::sql::{Row, Sql};
use rekindle::store::sqlite::SqliteDb;
use rekindle::store::{MemoryStore, Settings, Store, StoreResult, open};

use super::postgres::{self, Database};
use super::{hostile, mariadb};

/// A store over a database of its own.
pub struct Rig {
    pub store: Arc<dyn Store>,
    place: Place,
}

enum Place {
    Memory {
        store: MemoryStore,
        clock: ManualClock,
    },
    Sqlite {
        settings: Settings,
        _dir: tempfile::TempDir,
    },
    Postgres(Database),
    /// By way of a pooler, and heartbeats round it.
    Pooled {
        database: Database,
        beats: Settings,
    },
    Mariadb(mariadb::Database),
    /// Each store that is opened has another one of two nodes.
    Galera {
        database: mariadb::Database,
        nodes: Vec<Settings>,
        opened: AtomicUsize,
    },
}

/// A case of the conformance suite.
pub type Case = fn(&Rig);

/// Runs a case in memory.
pub fn on_memory(case: Case) {
    case(&Rig::memory());
}

/// Runs a case over a fresh SQLite file.
pub fn on_sqlite(case: Case) {
    let rig = Rig::sqlite();
    rig.store.migrate().unwrap();
    case(&rig);
}

/// The same without a schema.
pub fn on_empty_sqlite(case: Case) {
    case(&Rig::sqlite());
}

/// Runs a case over a fresh PostgreSQL database.
pub fn on_postgres(case: Case) {
    with_postgres(case, Database::migrated);
}

/// Runs a case over two nodes of a Galera cluster.
pub fn on_galera(case: Case) {
    with_galera(case, mariadb::Database::migrated);
}

/// The same without a schema.
pub fn on_empty_galera(case: Case) {
    with_galera(case, mariadb::Database::empty);
}

fn with_galera(case: Case, database: fn(&str) -> mariadb::Database) {
    let Some(nodes) = mariadb::galera() else { return println!("skipped: REKINDLE_TEST_GALERA is not set") };
    let database = database(&nodes[0]);
    let nodes = nodes[..2].iter().map(|node| database.by_node(node)).collect();
    case(&Rig::over(Place::Galera { database, nodes, opened: AtomicUsize::new(0) }));
}

/// Runs a case over a fresh PostgreSQL database behind a pooler.
pub fn on_pgbouncer(case: Case) {
    with_pgbouncer(case, Database::migrated, false);
}

/// The same without a schema.
pub fn on_empty_pgbouncer(case: Case) {
    with_pgbouncer(case, Database::empty, false);
}

/// Runs a case behind a pooler, where heartbeats have a way of their own.
pub fn on_pgbouncer_beside(case: Case) {
    with_pgbouncer(case, Database::migrated, true);
}

fn with_pgbouncer(case: Case, database: fn(&str) -> Database, beside: bool) {
    let (Some(server), Some(pooler)) = (postgres::server(), postgres::pooler()) else {
        return println!("skipped: REKINDLE_TEST_PGBOUNCER is not set");
    };
    let mut database = database(&server);
    let pooled = database.through(&pooler);
    let direct = std::mem::replace(&mut database.settings, pooled.clone());
    let beats = if beside { direct } else { pooled };
    case(&Rig::over(Place::Pooled { database, beats }));
}

/// The same without a schema.
pub fn on_empty_postgres(case: Case) {
    with_postgres(case, Database::empty);
}

fn with_postgres(case: Case, database: fn(&str) -> Database) {
    match postgres::server() {
        Some(server) => case(&Rig::over(Place::Postgres(database(&server)))),
        None => println!("skipped: REKINDLE_TEST_POSTGRES is not set"),
    }
}

/// Runs a case as a plain user, on a server that is set up for others.
pub fn on_hostile_postgres(case: Case) {
    with_postgres(case, hostile::postgres_migrated);
}

/// The same without a schema.
pub fn on_empty_hostile_postgres(case: Case) {
    with_postgres(case, hostile::postgres_empty);
}

/// The same on MariaDB.
pub fn on_hostile_mariadb(case: Case) {
    with_mariadb(case, |server| hostile::mariadb(server, mariadb::Database::migrated));
}

/// The same without a schema.
pub fn on_empty_hostile_mariadb(case: Case) {
    with_mariadb(case, |server| hostile::mariadb(server, mariadb::Database::empty));
}

/// Runs a case over a fresh MariaDB database.
pub fn on_mariadb(case: Case) {
    with_mariadb(case, mariadb::Database::migrated);
}

/// The same without a schema.
pub fn on_empty_mariadb(case: Case) {
    with_mariadb(case, mariadb::Database::empty);
}

fn with_mariadb(case: Case, database: fn(&str) -> mariadb::Database) {
    match mariadb::server() {
        Some(server) => case(&Rig::over(Place::Mariadb(database(&server)))),
        None => println!("skipped: REKINDLE_TEST_MARIADB is not set"),
    }
}

impl Rig {
    fn over(place: Place) -> Self {
        Self { store: place.open(), place }
    }

    fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::sqlite(dir.path().join("rekindle.db"));
        let settings = Settings { create: true, statement_timeout: Duration::from_secs(60), ..Settings::new(url) };
        Self::over(Place::Sqlite { settings, _dir: dir })
    }

    /// Over a database of a server of the test's own.
    pub fn over_mariadb(database: mariadb::Database) -> Self {
        Self::over(Place::Mariadb(database))
    }

    /// An empty store in memory beside this one, for comparison.
    pub fn memory() -> Self {
        let clock = ManualClock::new();
        let store = MemoryStore::new(Arc::new(clock.clone()));
        Self::over(Place::Memory { store, clock })
    }

    /// A second store over the same database, as another engine has it.
    pub fn another(&self) -> Arc<dyn Store> {
        self.place.open()
    }

    /// Everything in the database becomes older by `span`, as if so much time had passed.
    pub fn pass(&self, span: Duration) {
        match &self.place {
            Place::Memory { clock, .. } => clock.advance(span),
            _ => self.shift("-", span),
        }
    }

    /// A clock that stands still moves on a little; the databases' own move by themselves, so that two steps
    /// never share an instant.
    pub fn tick(&self) {
        if let Place::Memory { clock, .. } = &self.place {
            clock.advance(Duration::from_micros(1));
        }
    }

    /// The database's clock is stepped back by `span`.
    pub fn un_pass(&self, span: Duration) {
        match &self.place {
            Place::Memory { clock, .. } => clock.step_wall_us(-i64::try_from(span.as_micros()).unwrap()),
            _ => self.shift("+", span),
        }
    }

    fn shift(&self, sign: &str, span: Duration) {
        let us = span.as_micros();
        for (table, columns) in TIMES {
            let sets: Vec<_> = columns.split(' ').map(|column| format!("{column} = {column} {sign} {us}")).collect();
            self.sql(&format!("UPDATE {table} SET {}", sets.join(", ")));
        }
    }

    /// The database turns out to be another one than `meta` has recorded.
    pub fn move_database(&self) {
        match &self.place {
            Place::Memory { store, .. } => store.set_identity("elsewhere"),
            _ => self.sql("UPDATE meta SET identity = 'elsewhere'"),
        }
    }

    /// A claim commits although its engine was fenced or closed meanwhile.
    pub fn late_claim(&self, task: TaskId, owner: Incarnation, nonce: Nonce) {
        if let Place::Memory { store, .. } = &self.place {
            return store.edit(|state| {
                let row = state.tasks.get_mut(&task).unwrap();
                (row.state, row.owner, row.nonce) = (TaskState::Running, Some(owner), Some(nonce));
                (row.token, row.attempt) = (Token::new(row.token.as_i64() + 1), row.attempt + 1);
            });
        }
        let (task, owner, nonce) = (task.as_i64(), owner.as_i64(), nonce.as_i64());
        self.sql(&format!(
            "UPDATE task SET state = 3, owner = {owner}, nonce = {nonce}, token = token + 1, attempt = attempt + 1, \
             claimed_at = created_at WHERE id = {task}"
        ));
    }

    /// A person asks something of a running task. Only `cancel` has a verb yet.
    pub fn ask(&self, task: TaskId, wish: Wish) {
        if let Place::Memory { store, .. } = &self.place {
            return store.edit(|state| state.tasks.get_mut(&task).unwrap().wish = wish);
        }
        self.sql(&format!("UPDATE task SET wish = {} WHERE id = {} AND state = 3", wish.code(), task.as_i64()));
    }

    /// A wake-up was lost: the task is blocked although its line is free.
    pub fn block(&self, task: TaskId) {
        if let Place::Memory { store, .. } = &self.place {
            return store.edit(|state| state.tasks.get_mut(&task).unwrap().state = TaskState::Blocked);
        }
        self.sql(&format!("UPDATE task SET state = 2 WHERE id = {}", task.as_i64()));
    }

    /// Runs a statement behind the store's back.
    pub fn sql(&self, text: &str) {
        self.connection().db().execute("a test", &Sql { text: text.into(), binds: Vec::new() }).unwrap();
    }

    /// The same, of what may be refused.
    pub fn try_sql(&self, text: &str) -> StoreResult<usize> {
        self.connection().db().execute("a test", &Sql { text: text.into(), binds: Vec::new() })
    }

    /// Writes a row as if the schema had no rules (`check_rows`).
    pub fn unchecked(&self, text: &str) {
        self.try_unchecked(text).unwrap();
    }

    /// The same, of what may be refused for another reason.
    pub fn try_unchecked(&self, text: &str) -> StoreResult<usize> {
        let mut connection = self.connection();
        let off = match &connection {
            Connection::Sqlite(_) => "PRAGMA ignore_check_constraints = ON".to_owned(),
            Connection::Mariadb(_) => "SET check_constraint_checks = 0".to_owned(),
            // There is no such switch: the rules of this table go.
            Connection::Postgres(_) => format!(
                "DO $do$ DECLARE r record; BEGIN FOR r IN SELECT conname AS c FROM pg_constraint \
                 WHERE contype = 'c' AND conrelid = '{table}'::regclass \
                 LOOP EXECUTE format('ALTER TABLE {table} DROP CONSTRAINT %I', r.c); END LOOP; END $do$",
                table =
                    text.trim_start_matches("INSERT INTO ").trim_start_matches("UPDATE ").split(' ').next().unwrap()
            ),
        };
        connection.db().execute("a test", &Sql { text: off, binds: Vec::new() })?;
        connection.db().execute("a test", &Sql { text: text.into(), binds: Vec::new() })
    }

    /// The search for orphans is due again.
    pub fn pass_scan(&self) {
        self.sql("UPDATE meta SET orphan_scan_at = 0");
    }

    /// Reads rows behind the store's back.
    pub fn rows(&self, text: &str) -> Vec<Row> {
        self.connection().db().query("a test", &Sql { text: text.into(), binds: Vec::new() }).unwrap()
    }

    /// Where a server is reached.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Postgres(database) | Place::Pooled { database, .. } => database.settings.url.expose(),
            _ => panic!("no server"),
        }
    }

    /// A connection of the test's own.
    pub fn connection(&self) -> Connection {
        self.place.connection()
    }
}

const TIMES: [(&str, &str); 10] = [
    ("engine", "last_beat_at ended_at counted_at"),
    ("engine_info", "registered_at ended_at"),
    ("engine_wish", "set_at until_at deadline_at"),
    ("task", "due_at created_at claimed_at ended_at"),
    ("task_archive", "created_at claimed_at ended_at"),
    ("attempt", "started_at ended_at"),
    ("history", "made_at until_at"),
    ("hour", "starts_at"),
    ("meta", "orphan_scan_at forget_at lives_forgotten_at clock_seen_at"),
    ("resource", "used_at"),
];

impl Place {
    fn open(&self) -> Arc<dyn Store> {
        let (settings, beats) = match self {
            Self::Memory { store, .. } => return Arc::new(store.clone()),
            Self::Sqlite { settings, .. } => (settings, settings),
            Self::Postgres(database) => (&database.settings, &database.settings),
            Self::Pooled { database, beats } => (&database.settings, beats),
            Self::Mariadb(database) => (&database.settings, &database.settings),
            Self::Galera { nodes, opened, .. } => {
                let node = &nodes[opened.fetch_add(1, Ordering::Relaxed) % nodes.len()];
                (node, node)
            }
        };
        open(vec![settings.clone()], vec![beats.clone()], 4).unwrap()
    }

    fn connection(&self) -> Connection {
        match self {
            Self::Memory { .. } => panic!("memory takes no statements"),
            Self::Sqlite { settings, .. } => Connection::Sqlite(SqliteDb::open(settings).unwrap()),
            Self::Postgres(database) | Self::Pooled { database, .. } => {
                Connection::Postgres(Postgres::open(&database.settings).unwrap())
            }
            Self::Mariadb(database) | Self::Galera { database, .. } => {
                Connection::Mariadb(MysqlDb::open(&database.settings).unwrap())
            }
        }
    }
}

/// A connection that a test uses beside the store.
pub enum Connection {
    Sqlite(SqliteDb),
    Postgres(Postgres),
    Mariadb(MysqlDb),
}

impl Connection {
    /// To run statements on.
    pub fn db(&mut self) -> &mut dyn Db {
        match self {
            Self::Sqlite(db) => db,
            Self::Postgres(db) => db,
            Self::Mariadb(db) => db,
        }
    }
}
