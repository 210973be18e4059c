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
//! * Statements are planned for their values and not for what the statistics say of the tables ([`PATHS`]): a
//!   backlog that was looked at while nothing ran drained twenty times slower (`plans::postgres`).

pub mod backend;
mod words;

use diesel::connection::{CacheSize, SimpleConnection};
use diesel::deserialize::{self, FromSql, QueryableByName};
use diesel::pg::{Pg, PgConnection, PgValue};
use diesel::query_builder::AstPass;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::row::{Field, NamedRow};
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text};
use diesel::{Connection, ConnectionError, RunQueryDsl};

use super::api::StoreResult;
use super::db::Db;
use super::error::{Cause, StoreError};
use super::language::Words;
use super::pool::{Opener, Settings};
use super::pooler;
use super::sql::{Bind, Dialect, Lists, PushBind, Row, Sql, Value};
use crate::config::DatabaseUrl;

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
        Ok(Self::new(connection, settings, Some(format!("{}; {}", pooler::begin(settings), paths("SET LOCAL")))))
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
             SET client_min_messages = warning; SET synchronous_commit = on",
            pooler::show_mark(),
            paths("SET")
        ));
        match set_up {
            Ok(()) => Ok(Some(Self::new(connection, settings, None))),
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

/// The URL with the timeouts that end what a dead network left; what the URL itself says goes first.
fn conninfo(settings: &Settings) -> String {
    let secs = settings.connect_timeout.as_secs().max(1).to_string();
    let user_timeout = settings.statement_timeout.as_millis().to_string();
    let defaults = [
        ("connect_timeout", secs.as_str()),
        ("keepalives_idle", "5"),
        ("keepalives_interval", "2"),
        ("keepalives_count", "3"),
        ("tcp_user_timeout", &user_timeout),
        ("application_name", &settings.application),
    ];
    let with_default = |url: DatabaseUrl, (key, value)| url.with_default(key, value);
    defaults.into_iter().fold(settings.url.clone(), with_default).expose()
}

fn sort_connect(settings: &Settings, text: String) -> StoreError {
    let source = Cause(settings.redact(&one_line(&text)));
    if MALFORMED.iter().any(|words| text.contains(words)) {
        return StoreError::Refused(format!(
            "the client library does not take the URL of {}: {source}",
            settings.place()
        ));
    }
    let text = answers(&text);
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if text.contains("database \"") && text.contains("does not exist") {
        return StoreError::Refused(format!("there is no such database at {}: {source}", settings.place()));
    }
    if has(&["startup parameter"]) {
        return StoreError::Refused(format!(
            "the pooler at {} does not pass the URL's options on: {source}",
            settings.place()
        ));
    }
    if has(&DENIED) {
        return StoreError::Denied { place: settings.place(), source };
    }
    StoreError::Unreachable { place: settings.place(), source }
}

/// What was answered, without the hosts and paths that were asked: those are chosen by people and may hold any words.
fn answers(text: &str) -> String {
    let answer = |line: &str| match line.trim_start().starts_with("connection to server ") {
        true => line.rsplit_once(" failed: ").map_or(String::new(), |(_, answer)| answer.to_owned()),
        false => line.to_owned(),
    };
    text.lines().map(answer).collect::<Vec<_>>().join("\n")
}

/// What the library says of a URL that it will never take; nothing was sent.
const MALFORMED: [&str; 13] = [
    "in URI:",
    "URI query parameter",
    "percent-encoded",
    "use percent-encoded spaces",
    " value: \"",
    " invalid when ",
    "invalid integer value",
    "invalid port number",
    "invalid connection option",
    "could not match",
    "may not be used with",
    "connection info string",
    "definition of service",
];

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
        let begin = self.pooled.as_deref().unwrap_or("BEGIN");
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_the_url_go_first() {
        let url = DatabaseUrl::parse("postgres://u:p@h/d?connect_timeout=9").unwrap();
        let text = conninfo(&Settings::new(url));
        assert!(text.contains("connect_timeout=9") && !text.contains("connect_timeout=5"));
        assert!(text.contains("tcp_user_timeout=10000"));
        let url = DatabaseUrl::parse("postgres://u:connect_timeout=@h/tcp_user_timeout=").unwrap();
        let text = conninfo(&Settings::new(url));
        assert!(text.contains("&tcp_user_timeout=10000") && text.contains("?connect_timeout=5"), "{text}");
    }

    /// libpq 17 and later refuse a blank, which is in every engine's name for the server.
    #[test]
    fn what_is_added_to_the_url_stays_one_value_whatever_it_holds() {
        for name in ["rekindle app1 prover", "a&b=c?d#e/f%20", "ä \"'\\:@[]", ""] {
            let url = DatabaseUrl::parse("postgres://u:p@h/d?sslmode=prefer").unwrap();
            let text = pooler::marked(&conninfo(&Settings { application: name.into(), ..Settings::new(url) }));
            assert!(!text.contains(|c: char| c.is_whitespace() || !c.is_ascii()), "{text}");
            let (_, query) = text.split_once('?').unwrap();
            let pairs: Vec<(String, String)> =
                query.split('&').map(|pair| pair.split_once('=').unwrap()).map(plain).collect();
            let found: Vec<_> =
                pairs.iter().filter(|(key, _)| key == "application_name").map(|(_, v)| v.as_str()).collect();
            assert_eq!(found, [name], "{text}");
            assert_eq!(pairs.len(), 8, "{text}");
        }
    }

    fn plain((key, value): (&str, &str)) -> (String, String) {
        let mut parts = value.split('%');
        let mut bytes = parts.next().unwrap().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        (key.to_owned(), String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn why_connecting_failed_is_sorted_by_what_was_answered() {
        let url = DatabaseUrl::parse("postgres://u:geheim@h/d").unwrap();
        let sort = |text: &str| sort_connect(&Settings::new(url.clone()), text.to_owned());
        let at = |place: &str, answer: &str| format!("connection to server {place} failed: {answer}\n");
        let (host, socket) =
            ("at \"h\" (192.0.2.1), port 5432", "on socket \"/permission denied/role \"x/.s.PGSQL.5432\"");
        for answer in [
            "Connection refused",
            "No such file or directory",
            "timeout expired",
            "FATAL:  the database system is starting up",
        ] {
            for place in [host, socket, "at \"pg_hba.conf\" (192.0.2.1), port 5432"] {
                assert!(matches!(sort(&at(place, answer)), StoreError::Unreachable { .. }), "{place} {answer}");
            }
        }
        for answer in [
            "FATAL:  password authentication failed for user \"u\"",
            "fe_sendauth: no password supplied",
            "FATAL:  role \"u\" does not exist",
        ] {
            assert!(matches!(sort(&at(socket, answer)), StoreError::Denied { .. }), "{answer}");
        }
        assert!(matches!(sort(&at(host, "FATAL:  database \"d\" does not exist")), StoreError::Refused(_)));
    }

    /// The library's own words, whatever release of it is here.
    #[test]
    fn a_url_that_the_library_does_not_take_is_refused() {
        for url in [
            "h/d?foo=bar",
            "h/d?sslmode=bogus",
            "h/d?target_session_attrs=x",
            "h/d?channel_binding=x",
            "a,b/d?hostaddr=192.0.2.1",
            "h/d?service=no-such-service",
        ] {
            let settings = Settings::new(DatabaseUrl::parse(&format!("postgres://u:geheim@{url}")).unwrap());
            let error = Postgres::open(&settings).err().unwrap();
            assert!(matches!(error, StoreError::Refused(_)), "{url}: {error:?}");
            assert!(!error.chain().contains("geheim"), "{}", error.chain());
        }
    }

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
        assert!(matches!(sort("syntax error"), StoreError::Broken { .. }));
    }
}
