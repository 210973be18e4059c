//! Waking the heads of lines.

use std::collections::BTreeSet;

use super::rows::{NEXT_VERSION, is_in};
use crate::protocol::ids::ResourceName;
use crate::protocol::task::TaskState;
use crate::store::api::StoreResult;
use crate::store::db::Db;

/// Writes the rows of these resources and makes the heads of their lines ready if they are blocked.
pub fn wake_heads(db: &mut dyn Db, names: &BTreeSet<ResourceName>) -> StoreResult<()> {
    leave_lines(db, names)?;
    wake(db, names)
}

/// Writes the rows of these resources: a claim that is just moving somebody behind them sees it.
pub fn leave_lines(db: &mut dyn Db, names: &BTreeSet<ResourceName>) -> StoreResult<()> {
    if names.is_empty() {
        return Ok(());
    }
    let by = db.dialect().by("PRIMARY");
    let mut s = db.stmt();
    let list = s.in_texts(names.iter().map(|n| n.as_str()));
    let sql = s.sql(format!("UPDATE resource {by} SET version = {NEXT_VERSION} WHERE name {list}"));
    db.execute("leave the line", &sql).map(|_| ())
}

/// Makes the heads of these lines ready if they are blocked. The caller has written the rows of the resources.
pub fn wake(db: &mut dyn Db, names: &BTreeSet<ResourceName>) -> StoreResult<()> {
    if names.is_empty() {
        return Ok(());
    }
    let by = db.dialect().by("PRIMARY");
    let mut s = db.stmt();
    let list = s.in_texts(names.iter().map(|n| n.as_str()));
    let sql = s.sql(format!(
        "SELECT (SELECT tr.task FROM task_resource tr WHERE tr.resource = r.name AND tr.in_line = 1 ORDER BY tr.task LIMIT 1) \
         FROM resource r WHERE r.name {list} AND r.owner_task IS NULL"
    ));
    let heads: BTreeSet<i64> = db.query("wake heads", &sql)?.into_iter().filter_map(|mut row| row.opt_int()).collect();
    if heads.is_empty() {
        return Ok(());
    }
    let lock = db.dialect().for_update;
    let mut s = db.stmt();
    let ids = s.in_ints(heads);
    let binds = s.clone();
    // Locked in the order of their numbers, so that two who wake the same heads cannot wait for each other.
    let blocked = is_in("state", TaskState::Blocked);
    let sql = s.sql(format!("SELECT id FROM task {by} WHERE id {ids} AND {blocked} ORDER BY id {lock}"));
    db.query("wake heads", &sql)?;
    let sql =
        binds.sql(format!("UPDATE task {by} SET state = 0, version = {NEXT_VERSION} WHERE id {ids} AND {blocked}"));
    db.execute("wake heads", &sql).map(|_| ())
}
