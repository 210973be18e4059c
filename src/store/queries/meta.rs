//! The one row of `meta`: reading it, raising the epoch and settling it.

use super::rows::{meta_columns, read_meta};
use crate::protocol::ids::Epoch;
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::StoreError;
use crate::store::types::Meta;

/// Reads `meta`.
pub fn meta(db: &mut dyn Db) -> StoreResult<Meta> {
    let identity = db.identity()?;
    let columns = meta_columns(&identity, db.dialect().now);
    let sql = db.stmt().sql(format!("SELECT {columns} FROM meta m WHERE one = 1"));
    match db.first("read meta", &sql)? {
        Some(mut row) => Ok(read_meta(&mut row)),
        None => Err(StoreError::Refused("the table meta has no row: this database was not migrated as a whole".into())),
    }
}

/// See `Store::raise_epoch`. The compare-and-set on the old epoch lets one of many engines win; the
/// others read the new epoch with their next beat.
pub fn raise_epoch(db: &mut dyn Db, from: Epoch, at_least: Epoch, reason: &str) -> StoreResult<bool> {
    let identity = db.identity()?;
    let mut s = db.stmt();
    let to = s.int(at_least.as_i64().max(from.as_i64() + 1));
    let from = s.int(from.as_i64());
    let reason = s.text(reason);
    let sql = s.sql(format!(
        "UPDATE meta SET epoch = {to}, raised_epoch = {to}, identity = {identity}, raised_reason = {reason} \
         WHERE one = 1 AND epoch = {from}"
    ));
    Ok(db.execute("raise the epoch", &sql)? == 1)
}

/// See `Store::note_clock`.
pub fn note_clock(db: &mut dyn Db, seen: Timestamp) -> StoreResult<()> {
    let mut s = db.stmt();
    let seen = s.int(seen.as_us());
    let sql = s.sql(format!("UPDATE meta SET clock_seen_at = {seen} WHERE one = 1 AND clock_seen_at < {seen}"));
    db.execute("note the clock", &sql).map(drop)
}

/// See `Store::settle_epoch`.
pub fn settle_epoch(db: &mut dyn Db, epoch: Epoch) -> StoreResult<bool> {
    let mut s = db.stmt();
    let epoch = s.int(epoch.as_i64());
    let sql = s.sql(format!(
        "UPDATE meta SET settled_epoch = {epoch} WHERE one = 1 AND epoch = {epoch} AND settled_epoch < {epoch}"
    ));
    Ok(db.execute("settle the epoch", &sql)? == 1)
}
