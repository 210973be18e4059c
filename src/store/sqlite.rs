//! SQLite: what is peculiar to it, each with its test in the conformance suite or beside it.
//!
//! * One writer at a time in one file: every writing transaction is `BEGIN IMMEDIATE` (a deferred one
//!   that writes later fails at once), takes milliseconds, and lets a beat of the same process go first.
//! * WAL with `synchronous = FULL`: a commit that was acknowledged survives a power cut.
//! * Lists and tables are bound as JSON; there is no `SKIP LOCKED` and no need for it.
//! * Its identity is the file's inode and birth (`identity`). The path is looked at before each beat and each
//!   claim: a file that was replaced or deleted under the engine would otherwise be written to unseen.
//! * A COMMIT that fails with an I/O error has an unknown outcome: what a failed flush left in the log may be found
//!   there by the next recovery (`cli::trouble`).
//! * The log is kept small (`wal`).
//! * A network file system is refused: its locks cannot be trusted.
//! * A process that is frozen in the middle of a write stops all writers of that file until it goes on or
//!   is killed; nothing here can help that, `doctor` says who it is.

mod identity;
mod wal;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::deserialize::{self, FromSql, QueryableByName};
use diesel::query_builder::AstPass;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::row::{Field, NamedRow};
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::sqlite::{Sqlite, SqliteConnection, SqliteType, SqliteValue};
use diesel::{Connection, RunQueryDsl};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use self::identity::FileId;
pub use self::wal::{WAL_MAX, reader_words, wal_size};
use super::api::{StoreResult, Watcher};
use super::backend::{Backend, applied, seed};
use super::db::Db;
use super::error::{Cause, SchemaProblem, StoreError};
use super::migrate;
use super::pool::{Opener, Settings};
use super::sql::{Bind, Dialect, Lists, PushBind, Row, Sql, Value};
use super::types::{SchemaStatus, ServerInfo};
use crate::clock::{Clock, SystemClock};

static DIALECT: Dialect = Dialect {
    now: "CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)",
    moment: "CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)",
    greatest: "max",
    least: "min",
    bad_kind: "(typeof(kind) <> 'text' OR kind GLOB '*[^A-Za-z0-9._+@-]*' OR length(kind) NOT BETWEEN 1 AND 128)",
    skip_locked: "",
    for_update: "",
    lists: Lists::Json,
    has_writing_cte: false,
    has_returning: true,
    has_on_conflict: true,
    cross_join: "CROSS JOIN",
};

impl PushBind for Sqlite {
    fn push_bind<'b>(out: &mut AstPass<'_, 'b, Self>, bind: &'b Bind) -> QueryResult<()> {
        match bind {
            Bind::Int(v) => out.push_bind_param::<Nullable<BigInt>, _>(v),
            Bind::Text(v) => out.push_bind_param::<Nullable<Text>, _>(v),
            Bind::Bytes(v) => out.push_bind_param::<Nullable<Binary>, _>(v),
            Bind::Ints(_) | Bind::Texts(_) => {
                Err(Error::QueryBuilderError("arrays are bound as JSON on SQLite".into()))
            }
        }
    }
}

fn decode(mut value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Value> {
    Ok(match value.value_type() {
        Some(SqliteType::Long | SqliteType::Integer | SqliteType::SmallInt) => {
            Value::Int(<i64 as FromSql<BigInt, Sqlite>>::from_sql(value)?)
        }
        Some(SqliteType::Binary) => Value::Bytes(value.read_blob().to_vec()),
        Some(_) => Value::Text(<String as FromSql<Text, Sqlite>>::from_sql(value)?),
        None => Value::Null,
    })
}

impl QueryableByName<Sqlite> for Row {
    fn build<'a>(row: &impl NamedRow<'a, Sqlite>) -> deserialize::Result<Self> {
        let mut values = Vec::with_capacity(row.field_count());
        for at in 0..row.field_count() {
            let field = diesel::row::Row::get(row, at).ok_or("a column is missing")?;
            values.push(field.value().map_or(Ok(Value::Null), decode)?);
        }
        Ok(Self::new(values))
    }
}

/// How often the file's write lock is asked for. SQLite's own busy handler waits longer and longer (up to
/// 100 ms), so that under two busy writers a heartbeat could miss every gap within its timeout.
const LOCK_POLL: Duration = Duration::from_micros(700);

/// One connection to a file.
pub struct SqliteDb {
    lock_wait: Duration,
    connection: SqliteConnection,
    path: PathBuf,
    file: FileId,
    in_transaction: bool,
    broken: bool,
}

/// File systems whose locks cannot be trusted, by the magic number of statfs(2).
const NETWORK: [(i64, &str); 9] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x517b, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x5346_414f, "AFS"),
    (0x6573_5546, "FUSE"),
];

/// Refuses a directory on a network file system. `fuse` is refused too: sshfs and the like look the same.
fn refuse_network(path: &Path) -> StoreResult<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(stat) = nix::sys::statfs::statfs(dir) else { return Ok(()) };
    match network_name(i64::from(stat.filesystem_type().0 as u32)) {
        Some(name) => Err(StoreError::Refused(format!(
            "{} lies on a network file system ({name}), whose locks SQLite cannot trust: use a local disk, or PostgreSQL",
            path.display()
        ))),
        None => Ok(()),
    }
}

fn network_name(magic: i64) -> Option<&'static str> {
    NETWORK.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
}

impl SqliteDb {
    /// Opens (and, if `create` is set, makes) the file and sets the session up.
    pub fn open(settings: &Settings) -> StoreResult<Self> {
        let path =
            settings.url.sqlite_path().ok_or_else(|| StoreError::Refused("not a sqlite: URL".into()))?.to_path_buf();
        refuse_network(&path)?;
        if !path.exists() && !settings.create {
            return Err(StoreError::Unreachable {
                place: settings.place(),
                source: Cause("there is no such file".into()),
            });
        }
        prepare(&path, settings)?;
        let text = path.to_string_lossy().into_owned();
        let mut connection =
            SqliteConnection::establish(&text).map_err(|e| open_error(settings, &path, e.to_string()))?;
        let busy = settings.statement_timeout.as_millis();
        // busy_timeout first: switching to WAL needs the lock that a peer may hold at this moment.
        let setup = format!(
            "PRAGMA busy_timeout = {busy}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
             PRAGMA foreign_keys = ON; PRAGMA cache_size = -{}; PRAGMA wal_autocheckpoint = 2000; \
             PRAGMA journal_size_limit = {WAL_MAX}; PRAGMA temp_store = MEMORY; PRAGMA busy_timeout = 0",
            settings.cache_kib
        );
        connection.batch_execute(&setup).map_err(|e| classify("open", e))?;
        let file = FileId::of(&path).map_err(|e| open_error(settings, &path, e.to_string()))?;
        Ok(Self { lock_wait: settings.statement_timeout, connection, path, file, in_transaction: false, broken: false })
    }

    /// Whether it must not be used again.
    pub fn is_broken(&self) -> bool {
        self.broken || self.in_transaction
    }

    /// The connection itself, for migrations.
    pub fn raw(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// Asks for the file's lock until it is ours or the time is over. Inside a transaction it is ours.
    fn patiently<T>(
        &mut self,
        step: &'static str,
        mut statement: impl FnMut(&mut SqliteConnection) -> QueryResult<T>,
    ) -> StoreResult<T> {
        let clock = SystemClock;
        let until = clock.lease_now().after(self.lock_wait);
        loop {
            let error = match statement(&mut self.connection) {
                Ok(value) => return Ok(value),
                Err(error) => self.sort(step, error),
            };
            let may_wait = matches!(error, StoreError::Busy { .. }) && !self.in_transaction;
            if !may_wait || clock.lease_now() >= until {
                return Err(error);
            }
            clock.pause(LOCK_POLL);
        }
    }

    fn sort(&mut self, step: &'static str, error: Error) -> StoreError {
        let sorted = classify(step, error);
        if matches!(sorted, StoreError::Broken { .. } | StoreError::Unreachable { .. }) {
            self.broken = true;
        }
        sorted
    }
}

/// Makes what is not there for its owner and group only: payloads, output and history lie in it. SQLite itself
/// would make the file for everyone; its log and index (`-wal`, `-shm`) take over the mode of the file.
fn prepare(path: &Path, settings: &Settings) -> StoreResult<()> {
    if !settings.create {
        return Ok(());
    }
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
        made.map_err(|e| open_error(settings, dir, e.to_string()))?;
    }
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(open_error(settings, path, error.to_string()))
        }
        _ => Ok(()),
    }
}

fn open_error(settings: &Settings, path: &Path, text: String) -> StoreError {
    if text.to_lowercase().contains("permission denied") {
        return StoreError::Forbidden { step: "open", source: Cause(format!("{}: {text}", path.display())) };
    }
    StoreError::Unreachable { place: settings.place(), source: Cause(format!("{}: {text}", path.display())) }
}

fn classify(step: &'static str, error: Error) -> StoreError {
    let text = error.to_string();
    let source = Cause(text.clone());
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    match &error {
        _ if has(&["database is locked", "database table is locked"]) => StoreError::Busy { step, source },
        Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _) => StoreError::Forbidden { step, source },
        // Whether the file or its whole file system is meant is not said.
        _ if has(&["readonly database", "read-only", "unable to open database file"]) => {
            StoreError::Forbidden { step, source }
        }
        _ if has(&["database or disk is full"]) => StoreError::Full { step, source },
        _ if has(&["disk I/O error"]) => StoreError::Unreachable { place: step.to_owned(), source },
        _ if has(&["no such table"]) => StoreError::Schema(SchemaProblem::Missing),
        _ if has(&["file is not a database", "malformed"]) => StoreError::Refused(format!(
            "the file is not a SQLite database, or is damaged ({text}); where a copy was put back, the -wal and -shm \
                 files of the old one must not lie beside it"
        )),
        _ => StoreError::Broken { step, source },
    }
}

/// At the end of a transaction, also of a statement that is one by itself.
fn may_be_written(step: &'static str, error: StoreError) -> StoreError {
    match error {
        StoreError::Unreachable { source, .. } => StoreError::Unknown { step, source },
        other => other,
    }
}

impl Db for SqliteDb {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn identity(&mut self) -> StoreResult<String> {
        match FileId::of(&self.path) {
            Ok(now) if now == self.file => Ok(now.expression()),
            Ok(_) => {
                self.broken = true;
                Err(StoreError::Unreachable {
                    place: format!("sqlite:{}", self.path.display()),
                    source: Cause("the file was replaced by another one while it was open".into()),
                })
            }
            Err(error) => {
                self.broken = true;
                Err(StoreError::Unreachable {
                    place: format!("sqlite:{}", self.path.display()),
                    source: Cause(format!("the file is gone: {error}")),
                })
            }
        }
    }

    fn execute(&mut self, step: &'static str, sql: &Sql) -> StoreResult<usize> {
        let is_alone = !self.in_transaction;
        let result = self.patiently(step, |connection| sql.clone().execute(connection));
        result.map_err(|error| if is_alone { may_be_written(step, error) } else { error })
    }

    fn query(&mut self, step: &'static str, sql: &Sql) -> StoreResult<Vec<Row>> {
        let is_alone = !self.in_transaction && !sql.text.starts_with("SELECT");
        let result = self.patiently(step, |connection| sql.clone().load::<Row>(connection));
        result.map_err(|error| if is_alone { may_be_written(step, error) } else { error })
    }

    fn begin(&mut self, step: &'static str) -> StoreResult<()> {
        self.patiently(step, |connection| connection.batch_execute("BEGIN IMMEDIATE"))?;
        self.in_transaction = true;
        // A file that was replaced would take the write and nobody would ever read it.
        if let Err(error) = self.identity() {
            self.rollback();
            return Err(error);
        }
        Ok(())
    }

    fn commit(&mut self, step: &'static str) -> StoreResult<()> {
        match self.connection.batch_execute("COMMIT") {
            Ok(()) => {
                self.in_transaction = false;
                Ok(())
            }
            Err(error) => {
                let error = self.sort(step, error);
                self.rollback();
                Err(may_be_written(step, error))
            }
        }
    }

    fn rollback(&mut self) {
        self.in_transaction = false;
        // A full disk or an I/O error rolls back by itself; then there is nothing to roll back.
        if let Err(error) = self.connection.batch_execute("ROLLBACK") {
            self.broken |= !error.to_string().contains("no transaction is active");
        }
    }
}

/// How long one engine waits for another one's migration.
const MIGRATION_WAIT_MS: u32 = 60_000;

/// Opens connections for the pool.
#[derive(Debug, Clone)]
pub struct SqliteOpener;

impl Opener for SqliteOpener {
    type Connection = SqliteDb;
    fn open(&self, settings: &Settings) -> StoreResult<SqliteDb> {
        SqliteDb::open(settings)
    }
    fn is_broken(&self, connection: &SqliteDb) -> bool {
        connection.is_broken()
    }
}

impl Backend for SqliteOpener {
    const ONE_WRITER: bool = true;

    fn migrate(&self, db: &mut SqliteDb) -> StoreResult<Vec<String>> {
        let status = self.schema_status(db)?;
        if !status.unknown.is_empty() {
            migrate::check(&status)?;
        }
        // Waiting for another engine's migration is left to SQLite: the runner below begins by itself.
        let wait = |ms| format!("PRAGMA busy_timeout = {ms}");
        db.connection.batch_execute(&wait(MIGRATION_WAIT_MS)).map_err(|e| db.sort("migrate", e))?;
        // The lock of the file is the lock of the migration; what the embedded runner begins inside are
        // savepoints.
        let seed = seed(db)?;
        let done = db.connection.immediate_transaction::<_, MigrateError, _>(|connection| {
            let done = migrate::run::<Sqlite, _>(connection, migrate::SQLITE).map_err(MigrateError)?;
            // Also where nothing was pending: the row may be lost.
            seed.execute(connection)?;
            Ok(done)
        });
        db.connection.batch_execute(&wait(0)).map_err(|e| db.sort("migrate", e))?;
        let done = done.map_err(|MigrateError(error)| error)?;
        record_birth(db)?;
        Ok(done)
    }

    /// The lock of the file is that of the migration. Who may not even ask for it sees no migration.
    fn is_migrating(&self, db: &mut SqliteDb) -> StoreResult<bool> {
        match db.connection.batch_execute("BEGIN IMMEDIATE").map_err(|e| classify("look for a migration", e)) {
            Ok(()) => {
                db.rollback();
                Ok(false)
            }
            Err(error) => Ok(matches!(error, StoreError::Busy { .. })),
        }
    }

    fn schema_status(&self, db: &mut SqliteDb) -> StoreResult<SchemaStatus> {
        let applied = applied(db, "SELECT count(*) FROM sqlite_master WHERE name = '__diesel_schema_migrations'")?;
        Ok(migrate::status(migrate::known::<Sqlite>(&migrate::SQLITE)?, &applied))
    }

    fn server_info(&self, db: &mut SqliteDb, place: String) -> StoreResult<ServerInfo> {
        db.identity()?;
        let identity = db.file.words();
        let refused = std::fs::OpenOptions::new().write(true).open(&db.path).err().map(|error| error.kind());
        let any: &mut dyn Db = db;
        let sql = any.stmt().sql("SELECT sqlite_version()");
        let version = any.first("read the version", &sql)?.map_or_else(String::new, |mut row| row.text());
        let sql = any.stmt().sql("PRAGMA synchronous");
        let level = any.first("read the settings", &sql)?.map_or(0, |mut row| row.int());
        let weak = (level < 2).then(|| "synchronous is below FULL: a power cut can lose commits".to_owned());
        Ok(ServerInfo {
            product: format!("SQLite {version}"),
            place,
            identity,
            durability_problems: weak.into_iter().collect(),
            read_only: refused.is_some(),
            nobody_writes: refused == Some(std::io::ErrorKind::ReadOnlyFilesystem),
            connections: None,
        })
    }

    fn watcher(&self, db: SqliteDb) -> StoreResult<Box<dyn Watcher>> {
        let mut log = db.path.into_os_string();
        log.push("-wal");
        Ok(Box::new(FileWatcher::new(log.into())))
    }

    fn wake(&self, _: &mut SqliteDb) -> StoreResult<()> {
        Ok(())
    }

    fn tidy(&self, db: &mut SqliteDb) -> StoreResult<()> {
        wal::cut(db, WAL_MAX)
    }
}

/// A database of an earlier build has recorded the inode alone: it is this file still.
fn record_birth(db: &mut SqliteDb) -> StoreResult<()> {
    let (weak, words) = (db.file.weak(), db.file.words());
    let any: &mut dyn Db = db;
    let mut s = any.stmt();
    let (weak, words) = (s.text(weak), s.text(words));
    let sql = s.sql(format!("UPDATE meta SET identity = {words} WHERE one = 1 AND identity = {weak}"));
    any.execute("record the identity", &sql).map(drop)
}

struct MigrateError(StoreError);

impl From<Error> for MigrateError {
    fn from(error: Error) -> Self {
        Self(classify("migrate", error))
    }
}

/// Is told by the kernel that the log was written (inotify), which costs nothing while nobody writes. Where
/// it cannot be told, and now and then in any case, it looks at the size and time of the log, which every commit writes: a hundredth of what asking SQLite
/// costs ten times a second. Two commits within one tick of the kernel's clock can look like one; the poll
/// finds the second. The files are never opened here: closing one would drop SQLite's own locks on it.
struct FileWatcher {
    log: PathBuf,
    seen: Option<(i64, i64, u64)>,
    bell: Option<Inotify>,
}

impl FileWatcher {
    fn new(log: PathBuf) -> Self {
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        let bell = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .and_then(|bell| bell.add_watch(&log, flags).map(|_| bell));
        if let Err(error) = &bell {
            log::debug!("{} is looked at again and again: inotify says {error}", log.display());
        }
        Self { log, seen: None, bell: bell.ok() }
    }
}

impl Watcher for FileWatcher {
    fn has_changed(&mut self) -> StoreResult<bool> {
        let now = std::fs::metadata(&self.log).ok().map(|meta| (meta.mtime(), meta.mtime_nsec(), meta.len()));
        let mut changed = std::mem::replace(&mut self.seen, now) != now;
        let mut is_other = false;
        while let Some(Ok(events)) = self.bell.as_ref().map(Inotify::read_events) {
            changed = true;
            is_other |= events.iter().any(|event| !event.mask.contains(AddWatchFlags::IN_MODIFY));
        }
        if is_other {
            // Another file lies at this path by now, or will: the watch would stay with the old one.
            return Err(StoreError::Unreachable {
                place: self.log.display().to_string(),
                source: Cause("the log was replaced".into()),
            });
        }
        Ok(changed)
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_over_a_network_are_told_from_local_ones() {
        use nix::sys::statfs::{FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC};
        let known = [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, FUSE_SUPER_MAGIC];
        let names = known.map(|magic| network_name(i64::from(magic.0 as u32)));
        assert_eq!(names, [Some("NFS"), Some("SMB"), Some("FUSE")]);
        // ext, xfs, btrfs, tmpfs, overlay.
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert_eq!(network_name(magic), None, "{magic:x}");
        }
    }
}
