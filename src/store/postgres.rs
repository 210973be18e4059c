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
use diesel::row::{Field, NamedRow};
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text};
use diesel::{Connection, RunQueryDsl};

use super::api::{StoreResult, Watcher};
use super::backend::{Backend, applied, seed_meta};
use super::db::Db;
use super::error::{Cause, StoreError};
use super::migrate;
use super::pool::{Opener, Settings};
use super::sql::{Bind, Dialect, PushBind, Row, Sql, Value};
use super::types::{SchemaStatus, ServerInfo};

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
}

impl Postgres {
    /// Connects and sets the session up.
    pub fn open(settings: &Settings) -> StoreResult<Self> {
        let place = settings.place();
        let unreachable =
            |text: String| StoreError::Unreachable { place: place.clone(), source: Cause(settings.redact(&text)) };
        let mut connection =
            PgConnection::establish(&conninfo(settings)).map_err(|e| sort_connect(settings, e.to_string()))?;
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
    let source = Cause(settings.redact(&one_line(&text)));
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if text.contains("database \"") && text.contains("does not exist") {
        return StoreError::Refused(format!("there is no such database at {}: {source}", settings.place()));
    }
    if has(&DENIED) {
        return StoreError::Denied { place: settings.place(), source };
    }
    StoreError::Unreachable { place: settings.place(), source }
}

/// A login that was refused: no restart mends it, and waiting neither.
const DENIED: [&str; 6] = [
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "role \"",
    "permission denied",
    "not permitted to log in",
];

/// The driver's advice comes in lines of its own; a log entry has one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
    let source = Cause(one_line(&text));
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

/// Any number, the same for every version of this program: `rekindle` in ASCII.
const MIGRATION_LOCK: i64 = 0x7265_6b69_6e64_6c65;

const CHANNEL: &str = "rekindle_ready";

impl Backend for PostgresOpener {
    const ONE_WRITER: bool = false;

    /// Under an advisory lock: without it seven of eight engines that start at once fail.
    fn migrate(&self, db: &mut Postgres) -> StoreResult<Vec<String>> {
        // Another engine's migration may take longer than a statement may.
        let setup =
            format!("SET statement_timeout = 0; SET lock_timeout = 0; SELECT pg_advisory_lock({MIGRATION_LOCK})");
        db.connection.batch_execute(&setup).map_err(|e| db.sort("lock the schema", e))?;
        let done = migrate::run::<Pg, _>(&mut db.connection, migrate::POSTGRES)
            .and_then(|done| seed_meta(db, &format!("{:032x}", fastrand::u128(..))).map(|()| done));
        let unlock = format!("SELECT pg_advisory_unlock({MIGRATION_LOCK})");
        // A connection that cannot unlock is not used again; the server unlocks when it goes.
        db.connection.batch_execute(&unlock).map_err(|e| db.sort("unlock the schema", e))?;
        db.broken = true;
        done
    }

    fn schema_status(&self, db: &mut Postgres) -> StoreResult<SchemaStatus> {
        let applied =
            applied(db, "SELECT CASE WHEN to_regclass('__diesel_schema_migrations') IS NULL THEN 0 ELSE 1 END")?;
        Ok(migrate::status(migrate::known::<Pg>(&migrate::POSTGRES)?, &applied))
    }

    fn server_info(&self, db: &mut Postgres, place: String) -> StoreResult<ServerInfo> {
        let db: &mut dyn Db = db;
        let sql = db.stmt().sql(format!(
            "SELECT current_setting('server_version'), {IDENTITY}, current_setting('fsync'), current_setting('full_page_writes'), \
             current_setting('transaction_read_only'), current_setting('synchronous_commit')"
        ));
        let mut row = db.first("read the server's settings", &sql)?.unwrap_or_else(|| Row::new(Vec::new()));
        let (version, identity) = (row.text(), row.text());
        let mut problems = Vec::new();
        for (name, why) in
            [("fsync", "a power cut can lose commits"), ("full_page_writes", "a power cut can tear pages")]
        {
            if row.text() == "off" {
                problems.push(format!("{name} = off: {why}"));
            }
        }
        Ok(ServerInfo {
            product: format!("PostgreSQL {}", version.split(' ').next().unwrap_or_default()),
            place,
            identity,
            durability_problems: problems,
            read_only: row.text() == "on",
        })
    }

    fn watcher(&self, mut db: Postgres) -> StoreResult<Box<dyn Watcher>> {
        db.connection.batch_execute(&format!("LISTEN {CHANNEL}")).map_err(|e| db.sort("listen", e))?;
        Ok(Box::new(Listener { db }))
    }

    /// Its own statement after the commit it tells of: inside a busy transaction NOTIFY takes a lock that
    /// all commits of the server share.
    fn wake(&self, db: &mut Postgres) -> StoreResult<()> {
        db.connection.batch_execute(&format!("NOTIFY {CHANNEL}")).map_err(|e| db.sort("notify", e))
    }
}

struct Listener {
    db: Postgres,
}

impl Watcher for Listener {
    fn has_changed(&mut self) -> StoreResult<bool> {
        let mut changed = false;
        let mut failure = None;
        for notification in self.db.connection.notifications_iter() {
            match notification {
                Ok(_) => changed = true,
                Err(error) => {
                    // A broken connection gives errors without end.
                    failure = Some(error);
                    break;
                }
            }
        }
        match failure {
            Some(error) => Err(self.db.sort("listen", error)),
            None => Ok(changed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_the_url_go_first() {
        let url = crate::config::DatabaseUrl::parse("postgres://u:p@h/d?connect_timeout=9").unwrap();
        let text = conninfo(&Settings::new(url));
        assert!(text.contains("connect_timeout=9") && !text.contains("connect_timeout=5"));
        assert!(text.contains("tcp_user_timeout=10000"));
    }

    #[test]
    fn errors_are_sorted_by_what_to_do_next() {
        let sort = |text: &str| {
            classify("claim", "here", Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned())))
        };
        assert!(matches!(sort("deadlock detected"), StoreError::Busy { .. }));
        assert!(matches!(sort("canceling statement due to lock timeout"), StoreError::Busy { .. }));
        assert!(matches!(sort("server closed the connection unexpectedly"), StoreError::Unknown { .. }));
        assert!(matches!(sort("could not extend file \"x\": No space left on device"), StoreError::Full { .. }));
        assert!(matches!(sort("permission denied for table task"), StoreError::ReadOnly { .. }));
        assert!(matches!(sort("syntax error"), StoreError::Broken { .. }));
    }
}
