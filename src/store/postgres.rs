//! PostgreSQL: what is peculiar to it, each with its test in the conformance suite or beside it.
//!
//! * `FOR UPDATE SKIP LOCKED`, arrays as binds and writing CTEs exist, so a claim, a beat and a batch of
//!   plain finishes are one statement each.
//! * Its identity is the system identifier and the timeline of the WAL that is being written, readable
//!   without privileges and right at once after a promotion (`pg_control_checkpoint()` lags).
//! * diesel exposes no SQLSTATE: errors are sorted by their text, which a server may translate; sessions ask for
//!   English, and where they may not have it, what nobody can read counts as passing (`words.rs`,
//!   `conformance::postgres_hostile`).
//! * A frozen server hangs a call for ever whatever the timeouts say: callers abandon the thread.
//!   `connect_timeout`, keepalives and `tcp_user_timeout` end what a dead network left.
//! * A pooler may sit between, which gives each transaction another session (`pooler.rs`).
//! * Each session tells the server how long to believe in a silent client, and not to end one that is idle
//!   (`a_session_tells_the_server_how_long_to_wait_for_its_client`).
//! * Sessions are READ COMMITTED whatever the role or the database is set to: elsewhere each conflict is an error.
//!   `default_transaction_read_only` is left alone: by it operators take the writes away
//!   (`a_role_that_is_set_to_serializable_claims_and_beats_like_any_other`).
//! * Statements are planned for their values and not for what the statistics say of the tables (`PATHS`): a
//!   backlog that was looked at while nothing ran drained twenty times slower (`plans::postgres`).

pub mod backend;
mod connect;
mod words;

use diesel::connection::{CacheSize, SimpleConnection};
use diesel::deserialize::{self, FromSql, QueryableByName};
use diesel::pg::{Pg, PgConnection, PgValue};
use diesel::query_builder::AstPass;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::row::{Field, NamedRow};
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text};
use diesel::{Connection, ConnectionError, RunQueryDsl};

use self::connect::{conninfo, one_line, patience, sort_connect};
use super::api::StoreResult;
use super::db::Db;
use super::error::{Cause, StoreError};
use super::language::Words;
use super::pool::{Opener, Settings};
use super::pooler;
use super::sql::{Bind, Dialect, Lists, PushBind, Row, Sql, Value};

static DIALECT: Dialect = Dialect {
    now: "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
    moment: "(SELECT (extract(epoch from clock_timestamp()) * 1000000)::bigint)",
    greatest: "GREATEST",
    least: "LEAST",
    bad_kind: "(kind COLLATE \"C\" ~ '[^A-Za-z0-9._+@-]' OR length(kind) NOT BETWEEN 1 AND 128)",
    skip_locked: "FOR UPDATE SKIP LOCKED",
    for_update: "FOR UPDATE",
    lists: Lists::Arrays,
    has_writing_cte: true,
    has_returning: true,
    has_on_conflict: true,
    cross_join: "CROSS JOIN",
};

/// Cheap enough for every claim, and evaluated by the server in the same statement.
const IDENTITY: &str = "((SELECT system_identifier FROM pg_control_system()) || ':' || \
     substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))";

/// What the planner may not do, whatever the statistics say.
///
/// Every statement has its index, and the rows that it wants are few. But how many rows are ready, run or wait turns
/// over within minutes, and statistics are of the moment when somebody last looked: a planner that has heard of no
/// running task reads the whole table for the ends of a thousand. So no scan of a whole table where there is an
/// index, no join that reads one side as a whole, and no plan for unknown values, which is made of those statistics
/// alone. Weighed against hints in each statement (`OFFSET 0`, `LATERAL`): they fix an order of joins but not how a
/// table is read, and the next statement would be written without. Price: where a table has a few rows, an index is
/// one page more to read.
///
/// Without JIT: a scan that cannot be done otherwise is planned as immensely dear, and what is dear is compiled.
const PATHS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_custom_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

fn paths(set: &str) -> String {
    PATHS.map(|(name, value)| format!("{set} {name} = {value}")).join("; ")
}

impl PushBind for Pg {
    fn push_bind<'b>(out: &mut AstPass<'_, 'b, Self>, bind: &'b Bind) -> QueryResult<()> {
        match bind {
            Bind::Int(v) => out.push_bind_param::<Nullable<BigInt>, _>(v),
            Bind::Text(v) => out.push_bind_param::<Nullable<Text>, _>(v),
            Bind::Bytes(v) => out.push_bind_param::<Nullable<Binary>, _>(v),
            Bind::Ints(v) => out.push_bind_param::<Array<Nullable<BigInt>>, _>(v),
            Bind::Texts(v) => out.push_bind_param::<Array<Nullable<Text>>, _>(v),
        }
    }
}

// Object ids of the types that our statements return; they are fixed for ever in PostgreSQL.
const OID_BOOL: u32 = 16;
const OID_BYTEA: u32 = 17;
const OID_INT8: u32 = 20;
const OID_INT2: u32 = 21;
const OID_INT4: u32 = 23;

fn decode(value: PgValue<'_>) -> deserialize::Result<Value> {
    let bytes = value.as_bytes();
    Ok(match value.get_oid().get() {
        OID_BOOL => Value::Int(i64::from(bytes.first().is_some_and(|b| *b != 0))),
        OID_INT2 => Value::Int(i16::from_be_bytes(bytes.try_into()?).into()),
        OID_INT4 => Value::Int(i32::from_be_bytes(bytes.try_into()?).into()),
        OID_INT8 => Value::Int(i64::from_be_bytes(bytes.try_into()?)),
        OID_BYTEA => Value::Bytes(bytes.to_vec()),
        _ => Value::Text(<String as FromSql<Text, Pg>>::from_sql(value)?),
    })
}

impl QueryableByName<Pg> for Row {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        let mut values = Vec::with_capacity(row.field_count());
        for at in 0..row.field_count() {
            let field = diesel::row::Row::get(row, at).ok_or("a column is missing")?;
            values.push(field.value().map_or(Ok(Value::Null), decode)?);
        }
        Ok(Self::new(values))
    }
}

/// One connection to PostgreSQL.
pub struct Postgres {
    connection: PgConnection,
    place: String,
    in_transaction: bool,
    broken: bool,
    /// How a transaction begins where a pooler sits between.
    pooled: Option<String>,
    /// In which language it says what is wrong.
    words: Words,
}

impl Postgres {
    /// Connects and sets the session up.
    pub fn open(settings: &Settings) -> StoreResult<Self> {
        let mut db = Self::connect(settings)?;
        words::settle(&mut db, settings)?;
        Ok(db)
    }

    fn connect(settings: &Settings) -> StoreResult<Self> {
        if !settings.pooler.is_known() {
            match Self::open_directly(settings) {
                Ok(Some(direct)) => return Ok(direct),
                Ok(None) => settings.pooler.learn(),
                Err(error) => return Err(error),
            }
        }
        let connect = |e: ConnectionError| sort_connect(settings, e.to_string());
        let mut connection = PgConnection::establish(&conninfo(settings)).map_err(connect)?;
        connection.set_prepared_statement_cache_size(CacheSize::Disabled);
        let begin = format!("{}; {}", pooler::begin(settings), paths("SET LOCAL"));
        Self::new(connection, settings, Some(begin)).turned_away(settings)
    }

    /// `None`: the session is not our own.
    fn open_directly(settings: &Settings) -> StoreResult<Option<Self>> {
        let mut connection = match PgConnection::establish(&pooler::marked(&conninfo(settings))) {
            Ok(connection) => connection,
            Err(error) if pooler::refuses_mark(&error.to_string()) => return Ok(None),
            Err(error) => return Err(sort_connect(settings, error.to_string())),
        };
        let (statement, idle) = (settings.statement_timeout.as_millis(), settings.idle_timeout.as_millis());
        let set_up = connection.batch_execute(&format!(
            "{}; SET statement_timeout = {statement}; SET lock_timeout = {statement}; \
             SET idle_in_transaction_session_timeout = {idle}; {}; \
             SET client_min_messages = warning; SET synchronous_commit = on; \
             SET default_transaction_isolation = 'read committed'; {}",
            pooler::show_mark(),
            paths("SET"),
            patience()
        ));
        match set_up {
            Ok(()) => Self::new(connection, settings, None).turned_away(settings).map(Some),
            Err(error) if pooler::misses_mark(&error.to_string()) => Ok(None),
            Err(error) => {
                let source = Cause(settings.redact(&error.to_string()));
                Err(StoreError::Unreachable { place: settings.place(), source })
            }
        }
    }

    fn new(connection: PgConnection, settings: &Settings, pooled: Option<String>) -> Self {
        Self {
            connection,
            place: settings.place(),
            in_transaction: false,
            broken: false,
            pooled,
            words: Words::English,
        }
    }

    /// Where another place may take the writes that this one does not, it is passed over.
    fn turned_away(mut self, settings: &Settings) -> StoreResult<Self> {
        if settings.wants_writes() && !self.takes_writes()? {
            let source = Cause(format!("{} is a standby, or set to read-only", settings.place()));
            return Err(StoreError::ReadOnly { step: "connect", source });
        }
        Ok(self)
    }

    fn takes_writes(&mut self) -> StoreResult<bool> {
        let db: &mut dyn Db = self;
        let sql = db.stmt().sql(format!("SELECT {}", backend::NOBODY_WRITES));
        Ok(db.first("look for the server that takes writes", &sql)?.is_none_or(|mut row| row.int() == 0))
    }

    /// Whether it must not be used again.
    pub fn is_broken(&self) -> bool {
        self.broken || self.in_transaction
    }

    /// Runs one statement; behind a pooler as a transaction of its own.
    fn run<T>(&mut self, step: &'static str, body: impl FnOnce(&mut PgConnection) -> QueryResult<T>) -> StoreResult<T> {
        if self.in_transaction || self.pooled.is_none() {
            return body(&mut self.connection).map_err(|e| self.sort(step, e));
        }
        // Before COMMIT nothing was applied, whatever became of the connection.
        let place = self.place.clone();
        let unapplied = |error| match error {
            StoreError::Unknown { source, .. } => StoreError::Unreachable { place, source },
            other => other,
        };
        if let Err(error) = self.begin(step) {
            return Err(unapplied(error));
        }
        match body(&mut self.connection) {
            Ok(value) => self.commit(step).map(|()| value),
            Err(error) => {
                let error = self.sort(step, error);
                self.rollback();
                Err(unapplied(error))
            }
        }
    }

    /// The connection itself, for migrations and wake-ups.
    pub fn raw(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    fn sort(&mut self, step: &'static str, error: Error) -> StoreError {
        let sorted = classify(step, &self.place, self.words, error);
        if matches!(sorted, StoreError::Unknown { .. } | StoreError::Unreachable { .. }) {
            self.broken = true;
        }
        sorted
    }
}

const LOST: [&str; 7] = [
    "server closed the connection",
    "terminating connection",
    "connection to server",
    "could not receive data",
    "could not send data",
    "no connection to the server",
    "SSL connection has been closed",
];
const BUSY: [&str; 5] =
    ["deadlock detected", "lock timeout", "statement timeout", "could not obtain lock", "could not serialize"];

fn classify(step: &'static str, place: &str, words: Words, error: Error) -> StoreError {
    let text = error.to_string();
    let source = Cause(one_line(&text));
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    match &error {
        Error::DatabaseError(DatabaseErrorKind::ClosedConnection, _) => StoreError::Unknown { step, source },
        _ if has(&LOST) => StoreError::Unknown { step, source },
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => StoreError::Busy { step, source },
        _ if has(&BUSY) => StoreError::Busy { step, source },
        Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _) => StoreError::ReadOnly { step, source },
        _ if has(&["read-only transaction", "recovery is in progress", "during recovery"]) => {
            StoreError::ReadOnly { step, source }
        }
        _ if has(&["permission denied"]) => StoreError::Forbidden { step, source },
        _ if has(&["No space left", "could not extend file"]) => StoreError::Full { step, source },
        _ if text.contains("relation \"") && text.contains("does not exist") => {
            StoreError::Schema(super::error::SchemaProblem::Missing)
        }
        Error::BrokenTransactionManager => StoreError::Unreachable { place: place.to_owned(), source },
        // Nobody here can read it, and nothing of it was applied.
        Error::DatabaseError(DatabaseErrorKind::Unknown, _) if words == Words::Foreign => {
            StoreError::Busy { step, source }
        }
        _ => StoreError::Broken { step, source },
    }
}

impl Db for Postgres {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn identity(&mut self) -> StoreResult<String> {
        Ok(IDENTITY.to_owned())
    }

    fn execute(&mut self, step: &'static str, sql: &Sql) -> StoreResult<usize> {
        self.run(step, |connection| sql.clone().execute(connection))
    }

    fn query(&mut self, step: &'static str, sql: &Sql) -> StoreResult<Vec<Row>> {
        self.run(step, |connection| sql.clone().load::<Row>(connection))
    }

    fn begin(&mut self, step: &'static str) -> StoreResult<()> {
        let begin = self.pooled.as_deref().unwrap_or("BEGIN ISOLATION LEVEL READ COMMITTED");
        self.connection.batch_execute(begin).map_err(|e| self.sort(step, e))?;
        self.in_transaction = true;
        Ok(())
    }

    fn commit(&mut self, step: &'static str) -> StoreResult<()> {
        let done = self.connection.batch_execute("COMMIT");
        self.in_transaction = false;
        done.map_err(|e| self.sort(step, e))
    }

    fn rollback(&mut self) {
        self.in_transaction = false;
        if self.connection.batch_execute("ROLLBACK").is_err() {
            self.broken = true;
        }
    }
}

/// Opens connections for the pool.
#[derive(Debug, Clone)]
pub struct PostgresOpener;

impl Opener for PostgresOpener {
    type Connection = Postgres;
    fn open(&self, settings: &Settings) -> StoreResult<Postgres> {
        Postgres::open(settings)
    }
    fn is_broken(&self, connection: &Postgres) -> bool {
        connection.is_broken()
    }
    fn takes_writes(&self, connection: &mut Postgres) -> StoreResult<bool> {
        connection.takes_writes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_what_to_do_next() {
        let sort = |text: &str| {
            classify(
                "claim",
                "here",
                Words::English,
                Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned())),
            )
        };
        assert!(matches!(sort("deadlock detected"), StoreError::Busy { .. }));
        assert!(matches!(sort("canceling statement due to lock timeout"), StoreError::Busy { .. }));
        assert!(matches!(sort("server closed the connection unexpectedly"), StoreError::Unknown { .. }));
        assert!(matches!(sort("could not extend file \"x\": No space left on device"), StoreError::Full { .. }));
        assert!(matches!(sort("permission denied for table task"), StoreError::Forbidden { .. }));
        let read_only = ["cannot execute UPDATE in a read-only transaction", "cannot execute LISTEN during recovery"];
        for text in read_only.iter().chain(&["recovery is in progress"]) {
            assert!(matches!(sort(text), StoreError::ReadOnly { .. }), "{text}");
        }
        assert!(matches!(sort("syntax error"), StoreError::Broken { .. }));
    }
}
