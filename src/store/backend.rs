//! What a backend adds to the shared statements: schema, server, wake-up. One implementation each.

use super::api::{StoreResult, Watcher};
use super::db::Db;
use super::pool::Opener;
use super::sql::Sql;
use super::types::{SchemaStatus, ServerInfo};

/// See the module.
pub trait Backend: Opener {
    /// Runs pending migrations under a lock.
    fn migrate(&self, connection: &mut Self::Connection) -> StoreResult<Vec<String>>;
    /// Versions known here and run there.
    fn schema_status(&self, connection: &mut Self::Connection) -> StoreResult<SchemaStatus>;
    /// Whether somebody runs migrations now. On MariaDB what they have run so far is seen by everybody.
    fn is_migrating(&self, connection: &mut Self::Connection) -> StoreResult<bool>;
    /// What the server is.
    fn server_info(&self, connection: &mut Self::Connection, place: String) -> StoreResult<ServerInfo>;
    /// Whether a watcher on this connection would be told of changes.
    fn hears(&self, _: &Self::Connection) -> bool {
        true
    }
    /// Turns a connection of its own into a watcher.
    fn watcher(&self, connection: Self::Connection) -> StoreResult<Box<dyn Watcher>>;
    /// Tells other processes that there is new work.
    fn wake(&self, connection: &mut Self::Connection) -> StoreResult<()>;
    /// What is to be done now and then, with a purge.
    fn tidy(&self, _: &mut Self::Connection) -> StoreResult<()> {
        Ok(())
    }
    /// Whether all writers share one lock, so that a beat has to be let through first.
    const ONE_WRITER: bool;
}

/// The newest versions in diesel's own table; empty if there is no such table.
pub fn applied(db: &mut dyn Db, table_exists: &str) -> StoreResult<Vec<String>> {
    let sql = db.stmt().sql(table_exists);
    if db.first("read the schema version", &sql)?.is_none_or(|mut row| row.int() == 0) {
        return Ok(Vec::new());
    }
    let sql = db.stmt().sql("SELECT version FROM __diesel_schema_migrations ORDER BY version");
    Ok(db.query("read the schema version", &sql)?.into_iter().map(|mut row| row.text()).collect())
}

/// Makes the one row of `meta` after the first migration; a second caller changes nothing.
pub fn seed_meta(db: &mut dyn Db) -> StoreResult<()> {
    let sql = seed(db)?;
    db.execute("make the meta row", &sql).map(|_| ())
}

/// The statement that does it.
pub fn seed(db: &mut dyn Db) -> StoreResult<Sql> {
    let identity = db.identity()?;
    let mut s = db.stmt();
    let id = s.text(crate::random::id());
    Ok(s.sql(format!(
        "INSERT INTO meta (one, cluster_id, protocol, epoch, raised_epoch, settled_epoch, identity) \
         VALUES (1, {id}, 1, 1, 1, 1, {identity}) {}",
        db.dialect().or_nothing("meta", "one")
    )))
}
