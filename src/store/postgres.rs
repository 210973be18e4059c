//! PostgreSQL: what is peculiar to it, each with its test in the conformance suite or beside it.
//!
//! * `FOR UPDATE SKIP LOCKED`, arrays as binds and writing CTEs exist, so a claim, a beat and a batch of
//!   plain finishes are one statement each.
//! * Its identity is the system identifier and the timeline of the WAL that is being written, readable
//!   without privileges and right at once after a promotion (`pg_control_checkpoint()` lags).
//! * diesel exposes no SQLSTATE: errors are sorted by their text, which a server may translate, so what
//!   is not recognised inside a retryable step counts as "refused" and is loud.
//! * A frozen server hangs a call for ever whatever the timeouts say: callers abandon the thread.
//!   `connect_timeout`, keepalives and `tcp_user_timeout` end what a dead network left.
//! * Statements are planned for their values (`force_custom_plan`): generic plans from the statistics of
//!   an empty table made batched claims vary by a factor of three.

use diesel::connection::SimpleConnection;
use diesel::deserialize::{self, FromSql, QueryableByName};
use diesel::pg::{Pg, PgConnection, PgValue};
use diesel::query_builder::AstPass;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::row::{Field, NamedRow, Row as _};
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text};
use diesel::{Connection, RunQueryDsl};

use super::api::StoreResult;
use super::db::Db;
use super::error::{Cause, StoreError};
use super::pool::{Opener, Settings};
use super::sql::{Bind, Dialect, PushBind, Row, Sql, Value};

static DIALECT: Dialect = Dialect {
    now: "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
    greatest: "GREATEST",
    skip_locked: "FOR UPDATE SKIP LOCKED",
    for_update: "FOR UPDATE",
    has_arrays: true,
    has_writing_cte: true,
};

/// Cheap enough for every claim, and evaluated by the server in the same statement.
const IDENTITY: &str = "((SELECT system_identifier FROM pg_control_system()) || ':' || \
     substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))";

impl PushBind for Pg {
    const PLACEHOLDER: char = '$';
    fn push_bind<'b>(out: &mut AstPass<'_, 'b, Self>, bind: &'b Bind) -> QueryResult<()> {
        match bind {
            Bind::Int(v) => out.push_bind_param_value_only::<Nullable<BigInt>, _>(v),
            Bind::Text(v) => out.push_bind_param_value_only::<Nullable<Text>, _>(v),
            Bind::Bytes(v) => out.push_bind_param_value_only::<Nullable<Binary>, _>(v),
            Bind::Ints(v) => out.push_bind_param_value_only::<Array<Nullable<BigInt>>, _>(v),
            Bind::Texts(v) => out.push_bind_param_value_only::<Array<Nullable<Text>>, _>(v),
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
            let field = row.get(at).ok_or("a column is missing")?;
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
}

impl Postgres {
    /// Connects and sets the session up.
    pub fn open(settings: &Settings) -> StoreResult<Self> {
        let place = settings.place();
        let unreachable = |text: String| StoreError::Unreachable { place: place.clone(), source: Cause(settings.redact(&text)) };
        let mut connection = PgConnection::establish(&conninfo(settings)).map_err(|e| sort_connect(settings, e.to_string()))?;
        let statement = settings.statement_timeout.as_millis();
        let idle = settings.idle_timeout.as_millis();
        connection
            .batch_execute(&format!(
                "SET statement_timeout = {statement}; SET lock_timeout = {statement}; \
                 SET idle_in_transaction_session_timeout = {idle}; SET plan_cache_mode = force_custom_plan; \
                 SET client_min_messages = warning; SET synchronous_commit = on"
            ))
            .map_err(|e| unreachable(e.to_string()))?;
        Ok(Self { connection, place: settings.place(), in_transaction: false, broken: false })
    }

    /// Whether it must not be used again.
    pub fn is_broken(&self) -> bool {
        self.broken || self.in_transaction
    }

    /// The connection itself, for migrations and wake-ups.
    pub fn raw(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    fn sort(&mut self, step: &'static str, error: Error) -> StoreError {
        let sorted = classify(step, &self.place, error);
        if matches!(sorted, StoreError::Unknown { .. } | StoreError::Unreachable { .. }) {
            self.broken = true;
        }
        sorted
    }
}

/// The URL with the timeouts that end what a dead network left; what the URL itself says goes first.
fn conninfo(settings: &Settings) -> String {
    let url = settings.url.expose();
    let secs = settings.connect_timeout.as_secs().max(1);
    let user_timeout = settings.statement_timeout.as_millis();
    let defaults = [
        ("connect_timeout", secs.to_string()),
        ("keepalives_idle", "5".into()),
        ("keepalives_interval", "2".into()),
        ("keepalives_count", "3".into()),
        ("tcp_user_timeout", user_timeout.to_string()),
        ("application_name", settings.application.clone()),
    ];
    let mut out = url.to_string();
    for (key, value) in defaults {
        if !out.contains(&format!("{key}=")) {
            out.push(if out.contains('?') { '&' } else { '?' });
            out.push_str(&format!("{key}={value}"));
        }
    }
    out
}

fn sort_connect(settings: &Settings, text: String) -> StoreError {
    let source = Cause(settings.redact(text.trim()));
    let refused = ["password authentication failed", "does not exist", "no pg_hba.conf entry", "permission denied"];
    if refused.iter().any(|part| text.contains(part)) {
        return StoreError::Refused(format!("the database at {} does not let us in: {source}", settings.place()));
    }
    StoreError::Unreachable { place: settings.place(), source }
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

fn classify(step: &'static str, place: &str, error: Error) -> StoreError {
    let text = error.to_string();
    let source = Cause(text.trim().to_owned());
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    match &error {
        Error::DatabaseError(DatabaseErrorKind::ClosedConnection, _) => StoreError::Unknown { step, source },
        _ if has(&LOST) => StoreError::Unknown { step, source },
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => StoreError::Busy { step, source },
        _ if has(&BUSY) => StoreError::Busy { step, source },
        Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _) => StoreError::ReadOnly { step, source },
        _ if has(&["permission denied", "read-only transaction", "recovery is in progress"]) => {
            StoreError::ReadOnly { step, source }
        }
        _ if has(&["No space left", "could not extend file"]) => StoreError::Full { step, source },
        _ if text.contains("relation \"") && text.contains("does not exist") => {
            StoreError::Schema(super::error::SchemaProblem::Missing)
        }
        Error::BrokenTransactionManager => StoreError::Unreachable { place: place.to_owned(), source },
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
        sql.clone().execute(&mut self.connection).map_err(|e| self.sort(step, e))
    }

    fn query(&mut self, step: &'static str, sql: &Sql) -> StoreResult<Vec<Row>> {
        sql.clone().load::<Row>(&mut self.connection).map_err(|e| self.sort(step, e))
    }

    fn begin(&mut self, step: &'static str) -> StoreResult<()> {
        self.connection.batch_execute("BEGIN").map_err(|e| self.sort(step, e))?;
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
}
