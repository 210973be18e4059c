//! MariaDB and MySQL: what is peculiar to them, each with its test in the conformance suite or beside it.
//!
//! * No write gives rows back (`RETURNING` exists on MariaDB for some statements, but the client library
//!   has no metadata for it): rows are picked and locked, written, and read, in one transaction
//!   (`queries::change`). Numbers of added tasks are found again by a random mark
//!   (`many_tasks_are_added_in_order`, `numbers_of_added_tasks_do_not_lean_on_how_the_server_counts`).
//! * An UPDATE assigns from left to right and reads what it has just written: no statement may depend on
//!   the order, which every statement is checked for where assertions are on ([`set_order`]).
//! * The default isolation takes gap locks, so sessions are READ COMMITTED. There, subqueries of a
//!   one-table UPDATE and of a locking SELECT read without locks, those of a DELETE or a joined UPDATE do
//!   not: these never read `engine` while it beats.
//! * Found rows, not changed rows, are counted, so a compare-and-set counts as elsewhere
//!   (`a_row_that_is_matched_counts_also_where_nothing_changes`). An INSERT that
//!   meets a row counts 1, 0 or 2 by version: nobody reads that (`of_namesakes_that_register_at_once_one_gets_the_name`).
//! * An UPDATE or DELETE with `IN (SELECT …)` reads whole tables: lists are words of the text
//!   (`lists_are_found_by_the_primary_key_and_the_rest_by_its_index`). Long ones stay words, and no filter is
//!   built from all that waits (`server`).
//! * Texts compare byte by byte, trailing blanks included, by the collation of the tables
//!   (`texts_are_compared_with_their_trailing_blanks`, `names_that_differ_in_case_or_accent_are_different`).
//! * A bind among the columns of a UNION, as a prepared statement of the binary protocol, kills the server
//!   (MariaDB 10.11.19): binds stand in conditions only there.
//! * Its DDL commits by itself: a migration that was cut runs again (`a_migration_that_was_cut_in_the_middle_runs_again`).
//! * `SYSDATE()` hides an index from every comparison: the clock is that of the statement's beginning.
//! * diesel shows no error number, and calls a killed session healthy: errors are sorted by their text
//!   ([`errors`]), which the session asks for in English
//!   (`a_session_that_was_killed_is_not_used_again_and_a_commit_in_it_is_unknown`).
//! * The client library has no timeout that diesel could set: connecting is left alone when its time is
//!   over ([`connect`]), calls are abandoned by their callers; keepalives end what a dead network left
//!   (`connecting_to_a_server_that_says_nothing_ends_in_time`, `keepalives_are_set_on_the_way_to_the_server`).
//! * Silent clients lose their open transaction after `idle_transaction_timeout`
//!   (`the_server_ends_the_transaction_of_a_silent_client`); MySQL has `wait_timeout` only, in whole seconds
//!   too, set for the time of each transaction.
//! * A server probes nobody and believes in a silent client for eight hours: `wait_timeout` is a few seconds, and
//!   a session that was silent for half of it is not used again (`the_server_gives_a_client_up_that_is_silent`).
//! * No LISTEN: a thread asks three times a second for the newest number, more often after a change ([`watcher`]).
//! * On Galera `FOR UPDATE` holds on one node only, so every decision is a conditional write, and a conflict
//!   is a deadlock of the whole transaction, at COMMIT too; reads wait for what was committed elsewhere.
//! * On Galera a transaction that another node's commit threw out while it was between two statements is rolled
//!   back, and the next prepared statement may answer "no rows" instead of "deadlock", or not at all (MariaDB
//!   10.11.19). What follows would then be committed by itself, statement by statement. So there a transaction
//!   runs without autocommit and carries a savepoint, which goes with it: without the savepoint nothing of it
//!   counts, whatever its statements said ([`MysqlDb::verify`]). A statement that is not answered ends with the
//!   session, after the timeout for silent clients (`conformance::galera`, all races).

pub mod connect;
pub mod errors;
pub mod server;
pub mod set_order;
pub mod watcher;

use diesel::connection::SimpleConnection;
use diesel::deserialize::{self, FromSql, QueryableByName};
use diesel::mysql::{Mysql, MysqlConnection, MysqlType, MysqlValue};
use diesel::query_builder::AstPass;
use diesel::result::{Error, QueryResult};
use diesel::row::{Field, NamedRow};
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::{Connection, RunQueryDsl};

use std::time::Duration;

use self::server::{Product, Server};
use super::api::{StoreResult, Watcher};
use super::backend::{Backend, applied, seed_meta};
use super::db::Db;
use super::error::{Cause, StoreError};
use super::migrate;
use super::pool::{Opener, Settings};
use super::sql::{Bind, Dialect, Lists, PushBind, Row, Sql, Value};
use super::types::{SchemaStatus, ServerInfo};
use crate::clock::{Clock as _, SystemClock};

static DIALECT: Dialect = Dialect {
    now: "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
    moment: "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
    greatest: "GREATEST",
    least: "LEAST",
    bad_kind: "(kind REGEXP '[^A-Za-z0-9._+@-]' OR char_length(kind) NOT BETWEEN 1 AND 128)",
    skip_locked: "FOR UPDATE SKIP LOCKED",
    for_update: "FOR UPDATE",
    lists: Lists::Words,
    has_writing_cte: false,
    has_returning: false,
    has_on_conflict: false,
    cross_join: "STRAIGHT_JOIN",
};

impl PushBind for Mysql {
    fn push_bind<'b>(out: &mut AstPass<'_, 'b, Self>, bind: &'b Bind) -> QueryResult<()> {
        match bind {
            Bind::Int(v) => out.push_bind_param::<Nullable<BigInt>, _>(v),
            Bind::Text(v) => out.push_bind_param::<Nullable<Text>, _>(v),
            Bind::Bytes(v) => out.push_bind_param::<Nullable<Binary>, _>(v),
            Bind::Ints(_) | Bind::Texts(_) => Err(Error::QueryBuilderError("there are no arrays on MariaDB".into())),
        }
    }
}

/// Texts come as bytes: a binary collation carries the same flag as a BLOB, and [`Row`] turns them over.
fn decode(value: MysqlValue<'_>) -> deserialize::Result<Value> {
    Ok(match value.value_type() {
        MysqlType::String | MysqlType::Blob | MysqlType::Enum | MysqlType::Set | MysqlType::Bit => {
            Value::Bytes(value.as_bytes().to_vec())
        }
        _ => Value::Int(<i64 as FromSql<BigInt, Mysql>>::from_sql(value)?),
    })
}

impl QueryableByName<Mysql> for Row {
    fn build<'a>(row: &impl NamedRow<'a, Mysql>) -> deserialize::Result<Self> {
        let mut values = Vec::with_capacity(row.field_count());
        for at in 0..row.field_count() {
            let field = diesel::row::Row::get(row, at).ok_or("a column is missing")?;
            values.push(field.value().map_or(Ok(Value::Null), decode)?);
        }
        Ok(Self::new(values))
    }
}

/// One connection to MariaDB or MySQL.
pub struct MysqlDb {
    connection: MysqlConnection,
    server: Server,
    place: String,
    idle_s: u64,
    silence_s: u64,
    in_transaction: bool,
    broken: bool,
}

impl MysqlDb {
    /// Connects and sets the session up, within the time that connecting may take.
    pub fn open(settings: &Settings) -> StoreResult<Self> {
        connect::within_its_time(settings)
    }

    /// The same for as long as it takes.
    fn open_here(settings: &Settings) -> StoreResult<Self> {
        let connection = MysqlConnection::establish(&connect::driver_url(settings)?)
            .map_err(|error| errors::sort_connect(settings, &error.to_string()))?;
        let mut db = Self {
            connection,
            server: Server::default(),
            place: settings.place(),
            idle_s: settings.idle_timeout.as_secs().max(1),
            silence_s: settings.silence.as_secs().max(2),
            in_transaction: false,
            broken: false,
        };
        connect::keep_alive(settings);
        db.server = server::look(&mut db, settings)?;
        let setup = db.server.session(settings);
        db.batch("set up the session", &setup)?;
        connect::check_client(&mut db)?;
        Ok(db)
    }

    /// Whether it must not be used again.
    pub fn is_broken(&self) -> bool {
        self.broken || self.in_transaction
    }

    /// The connection itself, for migrations.
    pub fn raw(&mut self) -> &mut MysqlConnection {
        &mut self.connection
    }

    /// The server would end the connection without a word, and the same statement would be sent again and again.
    fn check_size(&self, step: &'static str, sql: &Sql) -> StoreResult<()> {
        let size = sql.text.len().max(sql.binds.iter().map(Bind::size).sum());
        let limit = self.server.bytes_max();
        if size <= limit {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "{step}: {size} bytes are more than the server at {} takes at once (max_allowed_packet leaves room for \
             {limit}): raise max_allowed_packet there, to 16 MiB or more",
            self.place
        )))
    }

    fn batch(&mut self, step: &'static str, text: &str) -> StoreResult<()> {
        self.connection.batch_execute(text).map_err(|e| self.sort(step, &e))
    }

    /// One statement without values, kept prepared: three times as quick as a batch.
    fn word(&mut self, step: &'static str, text: &str) -> StoreResult<()> {
        let sql = Sql { text: text.to_owned(), binds: Vec::new() };
        sql.execute(&mut self.connection).map(|_| ()).map_err(|e| self.sort(step, &e))
    }

    fn sort(&mut self, step: &'static str, error: &Error) -> StoreError {
        let sorted = errors::classify(step, &self.place, error);
        match sorted {
            // It was not told of the conflict that ended its transaction: that is tried again like any other.
            StoreError::Unknown { step, source } if self.is_exposed() => {
                self.broken = true;
                StoreError::Busy { step, source }
            }
            StoreError::Unknown { .. } | StoreError::Unreachable { .. } => {
                self.broken = true;
                sorted
            }
            _ => sorted,
        }
    }

    /// Whether another node may end the open transaction without a word.
    fn is_exposed(&self) -> bool {
        self.in_transaction && self.server.is_galera()
    }

    /// Back to one statement, one commit, and to a session that may be silent.
    fn calm(&mut self) {
        let text = match (self.server.product, self.server.is_galera()) {
            (Product::Mysql, _) => format!("SET SESSION wait_timeout = {}", self.silence_s),
            (_, true) => format!("SET SESSION wait_timeout = {}, autocommit = 1", self.silence_s),
            _ => return,
        };
        // What was committed stays committed: a failure here only breaks the connection.
        self.broken |= self.batch("calm the session", &text).is_err();
    }
}

impl Db for MysqlDb {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn identity(&mut self) -> StoreResult<String> {
        Ok(self.server.identity())
    }

    fn execute(&mut self, step: &'static str, sql: &Sql) -> StoreResult<usize> {
        debug_assert_eq!(set_order::depends(&sql.text), None, "{}", sql.text);
        self.check_size(step, sql)?;
        sql.clone().execute(&mut self.connection).map_err(|e| self.sort(step, &e))
    }

    fn query(&mut self, step: &'static str, sql: &Sql) -> StoreResult<Vec<Row>> {
        self.check_size(step, sql)?;
        sql.clone().load::<Row>(&mut self.connection).map_err(|e| self.sort(step, &e))
    }

    fn bytes_max(&self) -> usize {
        self.server.bytes_max()
    }

    /// MySQL ends silent clients by one timeout whether they hold a transaction or not: it is short while
    /// they do. So it is on Galera, where a transaction that is over may look as if it were not.
    fn begin(&mut self, step: &'static str) -> StoreResult<()> {
        let begun = match (self.server.product, self.server.is_galera()) {
            (Product::Mysql, _) => {
                self.batch(step, &format!("SET SESSION wait_timeout = {}; START TRANSACTION", self.idle_s))
            }
            (_, true) => {
                let silence = format!("SET SESSION wait_timeout = {}, autocommit = 0", self.idle_s);
                let begun = self.batch(step, &format!("{silence}; START TRANSACTION; SAVEPOINT whole"));
                // Without autocommit a statement outside of a transaction would never be committed.
                self.broken |= begun.is_err();
                begun
            }
            _ => self.word(step, "START TRANSACTION"),
        };
        self.in_transaction = begun.is_ok();
        begun
    }

    /// Not prepared: of such a statement the server answers what has become of its transaction.
    fn verify(&mut self, step: &'static str) -> StoreResult<()> {
        if !self.is_exposed() {
            return Ok(());
        }
        self.batch(step, "RELEASE SAVEPOINT whole").map_err(|error| {
            // Who knows what the client library and the server still think of each other.
            self.broken = true;
            match error {
                busy @ StoreError::Busy { .. } => busy,
                other => {
                    StoreError::Busy { step, source: Cause(format!("the transaction was ended: {}", other.chain())) }
                }
            }
        })
    }

    fn commit(&mut self, step: &'static str) -> StoreResult<()> {
        let is_galera = self.server.is_galera();
        self.in_transaction = false;
        let done = if is_galera { self.batch(step, "COMMIT") } else { self.word(step, "COMMIT") };
        if done.is_ok() {
            self.calm();
        }
        done
    }

    fn rollback(&mut self) {
        self.in_transaction = false;
        let is_galera = self.server.is_galera();
        let done = if is_galera { self.batch("roll back", "ROLLBACK") } else { self.word("roll back", "ROLLBACK") };
        match done {
            Ok(()) => self.calm(),
            Err(_) => self.broken = true,
        }
    }
}

/// Opens connections for the pool.
#[derive(Debug, Clone)]
pub struct MysqlOpener;

impl Opener for MysqlOpener {
    type Connection = MysqlDb;
    fn open(&self, settings: &Settings) -> StoreResult<MysqlDb> {
        MysqlDb::open(settings)
    }
    fn is_broken(&self, connection: &MysqlDb) -> bool {
        connection.is_broken()
    }
    fn takes_writes(&self, connection: &mut MysqlDb) -> StoreResult<bool> {
        server::takes_writes(connection)
    }
    fn silence(&self, settings: &Settings) -> Option<Duration> {
        Some(settings.silence / 2)
    }
}

/// Whether setting the database up was finished: the row of `meta` is the last that is made. One that was lost
/// later is made by hand (`rekindle db migrate`), because engines have been there.
fn is_set_up(db: &mut MysqlDb) -> StoreResult<bool> {
    let text = "SELECT EXISTS (SELECT 1 FROM meta) OR EXISTS (SELECT 1 FROM engine_info)";
    match db.query("read the schema version", &Sql { text: text.into(), binds: Vec::new() }) {
        Ok(mut rows) => Ok(rows.first_mut().is_some_and(Row::flag)),
        Err(StoreError::Schema(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Names of locks belong to the whole server, and have room for 64 characters.
pub const MIGRATION_LOCK: &str = "CONCAT('rekindle.', MD5(DATABASE()))";

/// How long one engine waits for another one's migration.
const MIGRATION_WAIT_S: u32 = 600;

/// On Galera, where two nodes may migrate at once: each migration may run twice, so who loses tries again.
const MIGRATION_TRIES: u32 = 40;
const MIGRATION_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

impl Backend for MysqlOpener {
    const ONE_WRITER: bool = false;

    /// Under a named lock: without it seven of eight engines that start at once fail. On Galera it holds on
    /// one node only; there the statements themselves are carried out one after the other on all nodes, and
    /// may run twice.
    fn migrate(&self, db: &mut MysqlDb) -> StoreResult<Vec<String>> {
        // The lock goes with the connection, which is set up for waiting: wherever this ends, it is not used again.
        db.broken = true;
        let patient = db.server.patient(MIGRATION_WAIT_S);
        db.batch("lock the schema", &patient)?;
        let lock = Sql { text: format!("SELECT GET_LOCK({MIGRATION_LOCK}, {MIGRATION_WAIT_S})"), binds: Vec::new() };
        if db.query("lock the schema", &lock)?.first_mut().is_none_or(|row| row.int() != 1) {
            let source = Cause(format!("another migration has held it for {MIGRATION_WAIT_S} s"));
            return Err(StoreError::Busy { step: "lock the schema", source });
        }
        let mut done = migrate::run::<Mysql, _>(&mut db.connection, migrate::MYSQL);
        for _ in 0..MIGRATION_TRIES {
            match done {
                Err(_) if self.schema_status(db)?.is_current() => done = Ok(Vec::new()),
                // Another node's migration came between two statements of this one, and may still be under way.
                Err(_) if db.server.is_galera() => {
                    SystemClock.pause(MIGRATION_PAUSE);
                    done = migrate::run::<Mysql, _>(&mut db.connection, migrate::MYSQL);
                }
                _ => break,
            }
        }
        let mut seeded = Ok(());
        for _ in 0..MIGRATION_TRIES {
            seeded = seed_meta(db);
            if !matches!(seeded, Err(StoreError::Busy { .. })) {
                break;
            }
            SystemClock.pause(MIGRATION_PAUSE);
        }
        done.and_then(|done| seeded.map(|()| done))
    }

    fn schema_status(&self, db: &mut MysqlDb) -> StoreResult<SchemaStatus> {
        let applied = applied(
            db,
            "SELECT count(*) FROM information_schema.tables \
             WHERE table_schema = DATABASE() AND table_name = '__diesel_schema_migrations'",
        )?;
        let status = migrate::status(migrate::known::<Mysql>(&migrate::MYSQL)?, &applied);
        if !status.unknown.is_empty() || is_set_up(db)? {
            return Ok(status);
        }
        // Whoever began to set it up does so now, or died: for whoever comes next nothing was run.
        Ok(migrate::status(migrate::known::<Mysql>(&migrate::MYSQL)?, &[]))
    }

    /// On Galera another node's lock is not seen: there an engine that finds no schema makes it beside the other.
    fn is_migrating(&self, db: &mut MysqlDb) -> StoreResult<bool> {
        let sql = Sql { text: format!("SELECT IS_USED_LOCK({MIGRATION_LOCK}) IS NOT NULL"), binds: Vec::new() };
        Ok(db.query("look for a migration", &sql)?.first_mut().is_some_and(Row::flag))
    }

    fn server_info(&self, db: &mut MysqlDb, place: String) -> StoreResult<ServerInfo> {
        server::info(db, place)
    }

    fn watcher(&self, db: MysqlDb) -> StoreResult<Box<dyn Watcher>> {
        watcher::start(db)
    }

    /// Nothing to send it with; the watchers see what was added by themselves.
    fn wake(&self, _: &mut MysqlDb) -> StoreResult<()> {
        Ok(())
    }
}
