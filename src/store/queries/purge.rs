//! Retention: ended rows that are older than they are kept go, oldest first, in small batches.
//!
//! Each batch is one transaction that deletes a task with everything that belongs to it: a task whose
//! resources were gone without it could never be claimed, and a line whose head is gone would stand for
//! ever. A person may bring a failed task back at any moment, so what is deleted is decided by the
//! DELETE itself, under the locks of the task's resources.

use std::collections::BTreeSet;
use std::time::Duration;

use super::change::{Change, change, in_one};
use super::engine_rows::forget_lives;
use super::forget::forget as forget_resources;
use super::hours::forget;
use super::lines::wake_heads;
use super::people::ASIDE;
use super::rows::{micros, resources_of};
use super::takeover::lock_resources;
use crate::config::{Keep, RetentionConfig};
use crate::protocol::ids::{ResourceName, TaskId};
use crate::protocol::task::TaskState;
use crate::store::api::StoreResult;
use crate::store::db::Db;

/// See `Store::purge`.
pub fn purge(db: &mut dyn Db, retention: &RetentionConfig, limit: usize) -> StoreResult<usize> {
    let mut deleted = 0;
    for (keep, state) in [(retention.done, TaskState::Done), (retention.canceled, TaskState::Canceled)] {
        if let Keep::For(span) = keep {
            deleted += db.transaction("purge", |db| archived(db, state, span, limit))?;
        }
    }
    if let Keep::For(span) = retention.failed {
        deleted += db.transaction("purge", |db| failed(db, span, limit))?;
    }
    if let Keep::For(span) = retention.logs {
        deleted += in_one(db, "purge", |db| logs(db, span, limit))?;
    }
    if let Keep::For(span) = retention.history {
        deleted += forget(db, "history", "made_at", span, limit)?;
    }
    if let Keep::For(span) = retention.hours {
        deleted += forget(db, "hour", "starts_at", span, limit)?;
    }
    if let Keep::For(span) = retention.engines {
        deleted += forget_lives(db, span, limit)?;
    }
    if let Keep::For(span) = retention.resources {
        deleted += forget_resources(db, span, limit)?;
    }
    Ok(deleted)
}

fn ids(db: &mut dyn Db, select: &str, span: Duration, limit: usize) -> StoreResult<Vec<i64>> {
    let now = db.dialect().moment;
    let mut s = db.stmt();
    let (span, limit) = (s.int(micros(span)), s.int(i64::try_from(limit).unwrap_or(i64::MAX)));
    let sql = s.sql(format!("{select} AND ended_at < {now} - {span} ORDER BY ended_at LIMIT {limit}"));
    Ok(db.query("purge", &sql)?.into_iter().map(|mut row| row.int()).collect())
}

fn archived(db: &mut dyn Db, state: TaskState, span: Duration, limit: usize) -> StoreResult<usize> {
    let ids = ids(db, &format!("SELECT id FROM task_archive WHERE state = {}", state.code()), span, limit)?;
    // A task that was brought back meanwhile is not in the archive any more, and keeps its attempts.
    let gone = delete(db, "task_archive", &format!("state = {}", state.code()), &ids)?;
    delete_belongings(db, &gone)
}

fn failed(db: &mut dyn Db, span: Duration, limit: usize) -> StoreResult<usize> {
    let ids = ids(db, &format!("SELECT id FROM task WHERE {ASIDE} AND state IN (5, 6)"), span, limit)?;
    let tasks: Vec<TaskId> = ids.iter().map(|id| TaskId::new(*id)).collect();
    let wants = resources_of(db, &tasks)?;
    let locked = lock_resources(db, wants.values().flatten())?;
    let whole = |id: &TaskId| wants.get(id).is_none_or(|names| names.iter().all(|n| locked.contains_key(n)));
    let chosen: Vec<i64> = tasks.iter().filter(|id| whole(id)).map(|id| id.as_i64()).collect();
    let gone = delete(db, "task", "state + 0 IN (5, 6)", &chosen)?;
    let names: BTreeSet<ResourceName> =
        gone.iter().filter_map(|id| wants.get(&TaskId::new(*id))).flatten().cloned().collect();
    let mut s = db.stmt();
    let list = s.in_ints(gone.iter().copied());
    let sql = s.sql(format!("{} WHERE task {list}", db.dialect().delete_by_key("task_resource")));
    db.execute("purge", &sql)?;
    wake_heads(db, &names)?;
    delete_belongings(db, &gone)
}

/// Which of these rows this call has deleted.
fn delete(db: &mut dyn Db, table: &str, which: &str, ids: &[i64]) -> StoreResult<Vec<i64>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut s = db.stmt();
    let list = s.in_ints(ids.iter().copied());
    let old = Change {
        step: "purge",
        table,
        key: "id",
        set: None,
        which: format!("id {list} AND {which}"),
        guard: "1 = 1".into(),
        order: String::new(),
        limit: String::new(),
        bytes: None,
        lock: db.dialect().for_update,
        columns: "id",
    };
    Ok(change(db, &s, &old)?.into_iter().map(|mut row| row.int()).collect())
}

fn delete_belongings(db: &mut dyn Db, ids: &[i64]) -> StoreResult<usize> {
    for table in ["attempt", "attempt_output"] {
        let mut s = db.stmt();
        let list = s.in_ints(ids.iter().copied());
        let sql = s.sql(format!("{} WHERE task {list}", db.dialect().delete_by_key(table)));
        db.execute("purge", &sql)?;
    }
    Ok(ids.len())
}

/// Output of attempts that ended long ago; the attempts themselves stay as long as their task does.
fn logs(db: &mut dyn Db, span: Duration, limit: usize) -> StoreResult<usize> {
    let now = db.dialect().moment;
    let mut s = db.stmt();
    let (span, limit) = (s.int(micros(span)), s.int(i64::try_from(limit).unwrap_or(i64::MAX)));
    let old = format!(
        "SELECT o.task, o.attempt FROM attempt a JOIN attempt_output o ON o.task = a.task AND o.attempt = a.attempt \
         WHERE a.ended_at < {now} - {span} ORDER BY a.ended_at LIMIT {limit}"
    );
    if db.dialect().has_returning {
        let sql = s.sql(format!("DELETE FROM attempt_output WHERE (task, attempt) IN ({old})"));
        return db.execute("purge", &sql);
    }
    // There, a DELETE may not read its own table behind a LIMIT, and finds pairs in no index: one by one.
    let rows = db.query("purge", &s.sql(old))?;
    let mut deleted = 0;
    for mut row in rows {
        let mut s = db.stmt();
        let (task, attempt) = (s.int(row.int()), s.int(row.int()));
        let sql = s.sql(format!("DELETE FROM attempt_output WHERE task = {task} AND attempt = {attempt}"));
        deleted += db.execute("purge", &sql)?;
    }
    Ok(deleted)
}
