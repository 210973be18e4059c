//! Schema, server and wake-up of PostgreSQL.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::pg::Pg;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};

use super::{IDENTITY, Postgres, PostgresOpener};
use crate::store::api::{StoreResult, Watcher};
use crate::store::backend::{Backend, applied, seed_meta};
use crate::store::db::{Db, before_commit};
use crate::store::migrate;
use crate::store::sql::Row;
use crate::store::types::{SchemaStatus, ServerConnections, ServerInfo};

/// Any number, the same for every version of this program: `rekindle` in ASCII.
pub const MIGRATION_LOCK: i64 = 0x7265_6b69_6e64_6c65;

const CHANNEL: &str = "rekindle_ready";

fn lock_schema(db: &mut Postgres) -> StoreResult<()> {
    // Another engine's migration may take longer than a statement may.
    let lock = format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; \
         SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"
    );
    db.connection.batch_execute(&lock).map_err(|e| db.sort("lock the schema", e))
}

/// A standby, or a server or database that is set so; not a role for monitoring that is.
pub(super) const NOBODY_WRITES: &str = "CASE WHEN pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AND \
     EXISTS (SELECT 1 FROM pg_settings WHERE name = 'default_transaction_read_only' AND setting = 'on' \
     AND source NOT IN ('user', 'database user', 'client', 'session')) THEN 1 ELSE 0 END";

impl Backend for PostgresOpener {
    const ONE_WRITER: bool = false;

    /// Under an advisory lock: without it seven of eight engines that start at once fail. The lock and all
    /// migrations are one transaction, because behind a pooler a session's lock would stay with a stranger.
    fn migrate(&self, db: &mut Postgres) -> StoreResult<Vec<String>> {
        // Begun by diesel's own hand, so that each migration is a part of it and commits nothing.
        let begun = AnsiTransactionManager::begin_transaction(&mut db.connection);
        begun.map_err(|e| before_commit(db.sort("lock the schema", e)))?;
        db.in_transaction = true;
        let done = lock_schema(db)
            .and_then(|()| migrate::run::<Pg, _>(&mut db.connection, migrate::POSTGRES))
            .and_then(|done| seed_meta(db).map(|()| done));
        match done {
            Ok(done) => {
                let committed = AnsiTransactionManager::commit_transaction(&mut db.connection);
                db.in_transaction = false;
                committed.map(|()| done).map_err(|e| db.sort("migrate", e))
            }
            Err(error) => {
                db.in_transaction = false;
                db.broken |= AnsiTransactionManager::rollback_transaction(&mut db.connection).is_err();
                Err(before_commit(error))
            }
        }
    }

    fn schema_status(&self, db: &mut Postgres) -> StoreResult<SchemaStatus> {
        let applied =
            applied(db, "SELECT CASE WHEN to_regclass('__diesel_schema_migrations') IS NULL THEN 0 ELSE 1 END")?;
        Ok(migrate::status(migrate::known::<Pg>(&migrate::POSTGRES)?, &applied))
    }

    fn is_migrating(&self, db: &mut Postgres) -> StoreResult<bool> {
        let db: &mut dyn Db = db;
        let (high, low) = (MIGRATION_LOCK >> 32, MIGRATION_LOCK & 0xffff_ffff);
        let sql = db.stmt().sql(format!(
            "SELECT 1::bigint FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database() \
             WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = {high} AND l.objid::bigint = {low} \
             AND l.objsubid = 1 LIMIT 1"
        ));
        Ok(db.first("look for a migration", &sql)?.is_some())
    }

    fn server_info(&self, db: &mut Postgres, place: String) -> StoreResult<ServerInfo> {
        let is_pooled = db.pooled.is_some();
        let db: &mut dyn Db = db;
        let sql = db.stmt().sql(format!(
            "SELECT current_setting('server_version'), {IDENTITY}, current_setting('fsync'), current_setting('full_page_writes'), \
             current_setting('transaction_read_only'), {NOBODY_WRITES}, \
             current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint \
             - coalesce(current_setting('reserved_connections', true)::bigint, 0), \
             (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
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
        let way = if is_pooled { " behind a pooler" } else { "" };
        Ok(ServerInfo {
            product: format!("PostgreSQL {}{way}", version.split(' ').next().unwrap_or_default()),
            place,
            identity,
            durability_problems: problems,
            read_only: row.text() == "on",
            nobody_writes: row.flag(),
            connections: Some(ServerConnections { limit: row.count(), open: row.count() }).filter(|_| !is_pooled),
        })
    }

    fn hears(&self, db: &Postgres) -> bool {
        db.pooled.is_none()
    }

    fn watcher(&self, mut db: Postgres) -> StoreResult<Box<dyn Watcher>> {
        if !self.hears(&db) {
            return Ok(Box::new(Deaf));
        }
        let bell = socket_of(&mut db);
        // Last: what is noticed while another statement is answered waits in the library, where no socket tells of it.
        db.connection.batch_execute(&format!("LISTEN {CHANNEL}")).map_err(|e| db.sort("listen", e))?;
        if bell.is_none() {
            log::debug!("the socket that PostgreSQL writes to was not found: looking for its notices now and then");
        }
        Ok(Box::new(Listener { db, bell }))
    }

    /// Its own statement after the commit it tells of: inside a busy transaction NOTIFY takes a lock that
    /// all commits of the server share.
    fn wake(&self, db: &mut Postgres) -> StoreResult<()> {
        db.connection.batch_execute(&format!("NOTIFY {CHANNEL}")).map_err(|e| db.sort("notify", e))
    }
}

/// Behind a pooler nobody tells us of anything: engines poll.
struct Deaf;

impl Watcher for Deaf {
    fn has_changed(&mut self) -> StoreResult<bool> {
        Ok(false)
    }
}

/// The socket of a connection, which diesel does not show: the one whose own port is the one that the server sees.
/// `None` by a Unix socket, through a proxy, or where two have that port; then nobody rings.
fn socket_of(db: &mut Postgres) -> Option<OwnedFd> {
    let db: &mut dyn Db = db;
    let sql = db.stmt().sql("SELECT inet_client_port()::bigint");
    let port = u16::try_from(db.first("look at the connection", &sql).ok()??.opt_int()?).ok()?;
    let numbers = std::fs::read_dir("/proc/self/fd").ok()?.flatten();
    let numbers: Vec<i32> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let has_port = |number: &i32| {
        let own = getsockname::<SockaddrStorage>(*number).ok();
        let own = own.and_then(|at| at.as_sockaddr_in().map(|a| a.port()).or(at.as_sockaddr_in6().map(|a| a.port())));
        own == Some(port) && getpeername::<SockaddrStorage>(*number).is_ok()
    };
    let found: Vec<i32> = numbers.into_iter().filter(has_port).collect();
    let [only] = found[..] else { return None };
    // SAFETY: it was open just now, and is borrowed for one call. If another thread closed it meanwhile, what is
    // copied is somebody else's: then it rings for nothing, or never, and the loop looks now and then in any case.
    unsafe { BorrowedFd::borrow_raw(only) }.try_clone_to_owned().ok()
}

struct Listener {
    db: Postgres,
    bell: Option<OwnedFd>,
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

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(OwnedFd::as_fd)
    }
}
