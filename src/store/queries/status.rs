//! Numbers for `status` and the health check. Every count stops.

use std::time::Duration;

use super::engine_rows::newest_engines;
use super::meta::meta;
use super::people::is_aside;
use super::rows::micros;
use crate::protocol::ids::KindName;
use crate::protocol::task::TaskState;
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::Row;
use crate::store::types::{COUNT_MAX, FailedKind, StatusView};

/// See `Store::status`.
pub fn status(db: &mut dyn Db) -> StoreResult<StatusView> {
    let meta = meta(db)?;
    let (now, engines) = newest_engines(db)?;
    let mut counts = Vec::new();
    for state in TaskState::ALL.iter().filter(|s| !matches!(s, TaskState::Done | TaskState::Canceled)) {
        // The literal state lets the partial indexes answer.
        let is_it = match state {
            TaskState::Running => "owner IS NOT NULL".to_owned(),
            other if other.needs_human() => is_aside(*other),
            other => format!("state = {}", other.code()),
        };
        let sql = db.stmt().sql(format!("SELECT count(*) FROM (SELECT 1 FROM task WHERE {is_it} LIMIT {COUNT_MAX}) c"));
        counts.push((*state, db.first("count tasks", &sql)?.map_or(0, |mut row| row.int().unsigned_abs())));
    }
    let hour = micros(Duration::from_secs(3_600));
    let by = db.dialect().by("task_owner");
    let mut s = db.stmt();
    let (failed, interrupted) = (is_aside(TaskState::Failed), is_aside(TaskState::Interrupted));
    // Bound, because prepared statements are kept by their text.
    let since = s.int(now.as_us() - hour);
    let sql = s.sql(format!(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM task_archive WHERE ended_at > {since} AND state = 7 LIMIT {COUNT_MAX}) c), \
         (SELECT count(*) FROM (SELECT 1 FROM task WHERE {failed} AND ended_at > {since} LIMIT {COUNT_MAX}) c), \
         (SELECT count(*) FROM (SELECT 1 FROM attempt WHERE ended_at > {since} AND result = 5 LIMIT {COUNT_MAX}) c), \
         (SELECT count(*) FROM (SELECT 1 FROM task WHERE {interrupted} AND result = 5 AND ended_at > {since} LIMIT {COUNT_MAX}) c), \
         (SELECT min(claimed_at) FROM task {by} WHERE owner IS NOT NULL), \
         (SELECT count(*) FROM (SELECT 1 FROM engine_info i LEFT JOIN engine e ON e.incarnation = i.incarnation \
         WHERE COALESCE(e.ended_at, i.ended_at) > {since} AND COALESCE(e.state, i.end_state) = 2 LIMIT {COUNT_MAX}) c)"
    ));
    let mut row = db.first("count the last hour", &sql)?.unwrap_or_else(|| Row::new(Vec::new()));
    let mut next = || row.int().unsigned_abs();
    let (done_1h, failed_1h, lost, interrupted) = (next(), next(), next(), next());
    Ok(StatusView {
        counts,
        done_1h,
        failed_1h,
        // What was lost and waits for a person was taken over by nobody.
        taken_over_1h: lost.saturating_sub(interrupted),
        oldest_running: row.opt_int().map(|t| now.since(Timestamp::from_us(t))),
        fenced_1h: row.int().unsigned_abs(),
        oldest_ready: oldest_ready(db, now)?,
        failed_kinds: failed_kinds(db, now)?,
        meta,
        engines,
    })
}

/// The age of the first ready task of each kind: a loose scan over kinds, not one over the backlog.
fn oldest_ready(db: &mut dyn Db, now: Timestamp) -> StoreResult<Option<Duration>> {
    let sql = db.stmt().sql(
        "WITH RECURSIVE k(kind) AS (SELECT (SELECT kind FROM task WHERE state = 0 ORDER BY kind LIMIT 1) \
         UNION ALL SELECT (SELECT t.kind FROM task t WHERE t.state = 0 AND t.kind > k.kind ORDER BY t.kind LIMIT 1) \
         FROM k WHERE k.kind IS NOT NULL) \
         SELECT min(x.at) FROM (SELECT (SELECT t.created_at FROM task t WHERE t.state = 0 AND t.kind = k.kind AND t.keyed = 0 \
         ORDER BY t.priority DESC, t.id LIMIT 1) AS at FROM k WHERE k.kind IS NOT NULL \
         UNION ALL SELECT (SELECT t.created_at FROM task t WHERE t.state = 0 AND t.kind = k.kind AND t.keyed = 1 \
         ORDER BY t.priority DESC, t.id LIMIT 1) AS at FROM k WHERE k.kind IS NOT NULL) x",
    );
    let at = db.first("look for the oldest ready task", &sql)?.and_then(|mut row| row.opt_int());
    Ok(at.map(|at| now.since(Timestamp::from_us(at))))
}

fn failed_kinds(db: &mut dyn Db, now: Timestamp) -> StoreResult<Vec<FailedKind>> {
    let sql = db.stmt().sql(format!(
        "SELECT g.kind, g.many, g.newest, (SELECT t.error FROM task t WHERE t.id = g.last_id) \
         FROM (SELECT f.kind AS kind, count(*) AS many, max(f.ended_at) AS newest, max(f.id) AS last_id \
         FROM (SELECT id, kind, ended_at FROM task WHERE {} LIMIT {COUNT_MAX}) f GROUP BY f.kind) g \
         ORDER BY g.many DESC, g.kind LIMIT 20",
        is_aside(TaskState::Failed)
    ));
    let read = |mut row: Row| FailedKind {
        kind: KindName::from_stored(row.text()),
        count: row.int().unsigned_abs(),
        newest: now.since(Timestamp::from_us(row.int())),
        error: row.opt_text(),
    };
    Ok(db.query("count failed tasks", &sql)?.into_iter().map(read).collect())
}
