//! What people and the health check read. Nothing here decides anything, and every count stops.

use std::time::Duration;

use super::engines::meta;
use super::rows::{micros, resources_of};
use crate::protocol::engine::{EngineState, Mode, Proof, Wanted};
use crate::protocol::ids::{EngineName, Incarnation, KindName, Nonce, ResourceName, TaskId, Token};
use crate::protocol::task::{AttemptResult, Reason, TaskState, Wish};
use crate::protocol::time::Timestamp;
use crate::protocol::timing::{Profile, Timing};
use crate::store::api::{StoreResult, TaskState4Wait};
use crate::store::db::Db;
use crate::store::sql::Row;
use crate::store::types::*;

fn now(db: &mut dyn Db) -> StoreResult<Timestamp> {
    let sql = db.stmt().sql(format!("SELECT {}", db.dialect().now));
    Ok(Timestamp::from_us(db.first("read the clock", &sql)?.map_or(0, |mut row| row.int())))
}

/// See `Store::engines`.
pub fn engines(db: &mut dyn Db) -> StoreResult<(Timestamp, Vec<EngineRow>)> {
    let sql = db.stmt().sql(
        "SELECT i.incarnation, i.name, COALESCE(e.state, i.end_state), COALESCE(e.mode, i.end_mode), \
         COALESCE(e.beat, i.end_beat), COALESCE(e.last_beat_at, i.end_beat_at), e.running, COALESCE(e.refused, i.end_refused), \
         i.timing, i.host, i.boot_id, i.pid, i.state_id, i.version, i.protocol_min, i.protocol_max, i.release, i.kinds, \
         i.slots, i.means, i.registered_at, COALESCE(e.ended_at, i.ended_at), COALESCE(e.proof, i.end_proof), \
         COALESCE(e.ended_by, i.ended_by), i.taken_over, w.wanted, w.reason, w.set_by, w.set_at, w.until_at, w.deadline_at \
         FROM engine_info i LEFT JOIN engine e ON e.incarnation = i.incarnation LEFT JOIN engine_wish w ON w.name = i.name \
         ORDER BY i.registered_at DESC, i.incarnation",
    );
    let rows = db.query("list engines", &sql)?;
    let now = now(db)?;
    Ok((now, rows.into_iter().map(|row| read_engine(row, now)).collect()))
}

fn read_engine(mut row: Row, now: Timestamp) -> EngineRow {
    EngineRow {
        incarnation: Incarnation::new(row.int()),
        name: EngineName::from_stored(row.text()),
        state: EngineState::from_code(row.int()).unwrap_or(EngineState::Fenced),
        mode: Mode::from_code(row.int()).unwrap_or(Mode::Starting),
        beat: row.int(),
        last_beat_at: Timestamp::from_us(row.int()),
        running: row.count(),
        refused: row.int().unsigned_abs(),
        timing: serde_json::from_str(&row.text()).unwrap_or_else(|_| Timing::of(Profile::Balanced)),
        host: row.text(),
        boot_id: row.text(),
        pid: row.count(),
        state_id: row.text(),
        version: row.text(),
        protocol: (row.count(), row.count()),
        release: row.text(),
        kinds: serde_json::from_str(&row.text()).unwrap_or_default(),
        slots: row.count(),
        means: row.text(),
        registered_at: Timestamp::from_us(row.int()),
        ended_at: row.opt_int().map(Timestamp::from_us),
        proof: row.opt_int().and_then(Proof::from_code),
        ended_by: row.opt_text(),
        taken_over: row.int().unsigned_abs(),
        wanted: read_wanted(&mut row, now),
    }
}

fn read_wanted(row: &mut Row, now: Timestamp) -> WantedRow {
    let mut wanted = WantedRow {
        wanted: row.opt_int().and_then(Wanted::from_code).unwrap_or(Wanted::Run),
        reason: row.opt_text(),
        by: row.opt_text(),
        at: row.opt_int().map(Timestamp::from_us),
        until: row.opt_int().map(Timestamp::from_us),
        deadline: row.opt_int().map(Timestamp::from_us),
    };
    if wanted.until.is_some_and(|until| now >= until) {
        wanted = WantedRow { wanted: Wanted::Run, reason: None, by: None, at: None, until: None, deadline: None };
    }
    wanted
}

/// See `Store::forget_engines`.
pub fn forget_engines(
    db: &mut dyn Db,
    older_than: Duration,
    names: &[EngineName],
    dry_run: bool,
) -> StoreResult<Vec<EngineRow>> {
    let (now, rows) = engines(db)?;
    let mut out = Vec::new();
    for row in rows {
        let named = names.is_empty() || names.contains(&row.name);
        let over = row.ended_at.is_some_and(|at| now.since(at) >= older_than);
        if !named || !over || row.state == EngineState::Live {
            continue;
        }
        let mut s = db.stmt();
        let id = s.int(row.incarnation.as_i64());
        // A row of `engine` is still there while it may own something.
        let still = format!("incarnation = {id} AND NOT EXISTS (SELECT 1 FROM engine e WHERE e.incarnation = {id})");
        let sql = match dry_run {
            true => s.sql(format!("SELECT incarnation FROM engine_info WHERE {still}")),
            false => s.sql(format!("DELETE FROM engine_info WHERE {still} RETURNING incarnation")),
        };
        if db.first("forget an engine", &sql)?.is_some() {
            out.push(row);
        }
    }
    Ok(out)
}

const LIVE: &str = "t.id, t.kind, t.state, t.reason, t.priority, t.due_at, t.attempt, t.failures, t.lost, \
     COALESCE(i.name, t.engine), t.owner, t.token, t.nonce, t.wish, t.created_at, t.claimed_at, t.ended_at, t.result, t.error, \
     NULL, NULL, length(t.payload)";
const ARCHIVED: &str = "t.id, t.kind, t.state, t.reason, t.priority, NULL, t.attempt, t.failures, t.lost, \
     t.engine, t.owner, t.token, t.nonce, 0, t.created_at, t.claimed_at, t.ended_at, t.result, t.error, \
     t.value, t.resources, length(t.payload)";
/// The condition of the index `task_aside` in its own words: SQLite uses a partial index only where they
/// stand in the statement.
const ASIDE: &str = "state IN (4, 5, 6)";
const FROM_LIVE: &str = "FROM task t LEFT JOIN engine_info i ON i.incarnation = t.owner";
const FROM_ARCHIVE: &str = "FROM task_archive t";

fn read_task(row: &mut Row) -> TaskRow {
    TaskRow {
        id: TaskId::new(row.int()),
        kind: KindName::from_stored(row.text()),
        state: TaskState::from_code(row.int()).unwrap_or(TaskState::Failed),
        reason: Reason::from_code(row.int()).unwrap_or(Reason::First),
        priority: i16::try_from(row.int()).unwrap_or(0),
        due_at: row.opt_int().map(Timestamp::from_us),
        attempt: row.count(),
        failures: row.count(),
        lost: row.count(),
        engine: row.opt_text(),
        owner: row.opt_int().map(Incarnation::new),
        token: Token::new(row.int()),
        nonce: row.opt_int().map(Nonce::new),
        wish: Wish::from_code(row.int()).unwrap_or(Wish::None),
        created_at: Timestamp::from_us(row.int()),
        started_at: row.opt_int().map(Timestamp::from_us),
        ended_at: row.opt_int().map(Timestamp::from_us),
        result: row.opt_int().and_then(AttemptResult::from_code),
        error: row.opt_text(),
        value: row.opt_text(),
        resources: row.opt_text().map_or_else(Vec::new, |text| read_names(&text)),
        payload_len: row.int().unsigned_abs(),
    }
}

fn read_names(json: &str) -> Vec<ResourceName> {
    let names: Vec<String> = serde_json::from_str(json).unwrap_or_default();
    names.into_iter().map(ResourceName::from_stored).collect()
}

/// See `Store::task`.
pub fn task(db: &mut dyn Db, task: TaskId) -> StoreResult<Option<(TaskRow, Vec<u8>)>> {
    for (columns, from) in [(LIVE, FROM_LIVE), (ARCHIVED, FROM_ARCHIVE)] {
        let mut s = db.stmt();
        let id = s.int(task.as_i64());
        let sql = s.sql(format!("SELECT {columns}, t.payload {from} WHERE t.id = {id}"));
        if let Some(mut row) = db.first("read a task", &sql)? {
            let mut found = read_task(&mut row);
            let payload = row.bytes();
            if from == FROM_LIVE {
                found.resources = resources_of(db, &[task])?.remove(&task).unwrap_or_default();
            }
            return Ok(Some((found, payload)));
        }
    }
    Ok(None)
}

/// See `Store::tasks`.
pub fn tasks(db: &mut dyn Db, filter: &TaskFilter) -> StoreResult<(Timestamp, Vec<TaskRow>)> {
    let archived = |state: &TaskState| matches!(state, TaskState::Done | TaskState::Canceled);
    let live_states: Vec<TaskState> = match filter.states.is_empty() {
        true => TaskState::ALL.iter().copied().filter(|s| !archived(s)).collect(),
        false => filter.states.iter().copied().filter(|s| !archived(s)).collect(),
    };
    let old_states: Vec<TaskState> = filter.states.iter().copied().filter(archived).collect();
    let mut found = Vec::new();
    if !live_states.is_empty() {
        found.extend(list(db, filter, &live_states, LIVE, FROM_LIVE)?);
    }
    if !old_states.is_empty() {
        found.extend(list(db, filter, &old_states, ARCHIVED, FROM_ARCHIVE)?);
    }
    found.sort_by_key(|task| std::cmp::Reverse(task.id));
    found.truncate(filter.limit);
    let ids: Vec<TaskId> = found.iter().map(|t| t.id).collect();
    let mut names = resources_of(db, &ids)?;
    for task in &mut found {
        if let Some(names) = names.remove(&task.id) {
            task.resources = names;
        }
    }
    Ok((now(db)?, found))
}

fn list(
    db: &mut dyn Db,
    filter: &TaskFilter,
    states: &[TaskState],
    columns: &str,
    from: &str,
) -> StoreResult<Vec<TaskRow>> {
    let mut s = db.stmt();
    let codes: Vec<String> = states.iter().map(|state| state.code().to_string()).collect();
    let mut wheres = vec![format!("t.state IN ({})", codes.join(", "))];
    if states.iter().all(|state| state.needs_human()) {
        wheres.push(format!("t.{ASIDE}"));
    }
    if !filter.kinds.is_empty() {
        wheres.push(format!("t.kind {}", s.in_texts(filter.kinds.iter().map(|k| k.as_str()))));
    }
    if let Some(name) = &filter.resource {
        if from == FROM_LIVE {
            let name = s.text(name.as_str());
            wheres.push(format!("t.id IN (SELECT task FROM task_resource WHERE resource = {name})"));
        } else {
            // A JSON array of names: the quoted name stands in it exactly if it is an element.
            let quoted = serde_json::to_string(name.as_str()).unwrap_or_default();
            let part = s.text(quoted.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
            wheres.push(format!("t.resources LIKE '%' || {part} || '%' ESCAPE '\\'"));
        }
    }
    if let Some(engine) = &filter.engine {
        let engine = s.text(engine.as_str());
        let column = if from == FROM_LIVE { "COALESCE(i.name, t.engine)" } else { "t.engine" };
        wheres.push(format!("{column} = {engine}"));
    }
    let limit = s.int(i64::try_from(filter.limit).unwrap_or(i64::MAX));
    let sql = s.sql(format!("SELECT {columns} {from} WHERE {} ORDER BY t.id DESC LIMIT {limit}", wheres.join(" AND ")));
    Ok(db.query("list tasks", &sql)?.iter_mut().map(read_task).collect())
}

/// See `Store::task_states`.
pub fn task_states(db: &mut dyn Db, tasks: &[TaskId]) -> StoreResult<Vec<(TaskId, TaskState4Wait)>> {
    let mut s = db.stmt();
    let ids = s.in_ints(tasks.iter().map(|t| t.as_i64()));
    let sql = s.sql(format!(
        "SELECT t.id, t.state, t.attempt, COALESCE(i.name, t.engine), t.error {FROM_LIVE} WHERE t.id {ids} \
         UNION ALL SELECT t.id, t.state, t.attempt, t.engine, t.error FROM task_archive t WHERE t.id {ids}"
    ));
    let read = |mut row: Row| {
        let id = TaskId::new(row.int());
        let state = TaskState::from_code(row.int()).unwrap_or(TaskState::Failed);
        (id, TaskState4Wait { state, attempt: row.count(), engine: row.opt_text(), error: row.opt_text() })
    };
    Ok(db.query("read states", &sql)?.into_iter().map(read).collect())
}

/// See `Store::attempts`. The last attempt of a task that is done or runs lies in the task's own row.
pub fn attempts(db: &mut dyn Db, task: TaskId) -> StoreResult<Vec<AttemptRow>> {
    let mut s = db.stmt();
    let id = s.int(task.as_i64());
    let sql = s.sql(format!(
        "SELECT attempt, engine, incarnation, token, nonce, started_at, ended_at, result, exit_code, detail \
         FROM attempt WHERE task = {id} \
         UNION ALL SELECT t.attempt, i.name, t.owner, t.token, t.nonce, t.claimed_at, NULL, NULL, NULL, NULL \
         {FROM_LIVE} WHERE t.id = {id} AND t.state = 3 \
         UNION ALL SELECT attempt, engine, owner, token, nonce, claimed_at, ended_at, result, 0, value \
         FROM task_archive WHERE id = {id} AND result = 0 ORDER BY 1, 4"
    ));
    let read = |mut row: Row| AttemptRow {
        attempt: row.count(),
        engine: row.text(),
        incarnation: Incarnation::new(row.int()),
        token: Token::new(row.int()),
        nonce: Nonce::new(row.int()),
        started_at: Timestamp::from_us(row.int()),
        ended_at: row.opt_int().map(Timestamp::from_us),
        result: row.opt_int().and_then(AttemptResult::from_code),
        exit_code: row.opt_int().and_then(|code| i32::try_from(code).ok()),
        detail: row.opt_text(),
    };
    Ok(db.query("list attempts", &sql)?.into_iter().map(read).collect())
}

/// See `Store::output`.
pub fn output(db: &mut dyn Db, task: TaskId, attempt: Option<u32>) -> StoreResult<Option<OutputRow>> {
    let mut s = db.stmt();
    let id = s.int(task.as_i64());
    let only = attempt.map(|n| format!("AND attempt = {}", s.int(n))).unwrap_or_default();
    let sql = s.sql(format!(
        "SELECT attempt, dropped, output FROM attempt_output WHERE task = {id} {only} ORDER BY attempt DESC LIMIT 1"
    ));
    Ok(db.first("read output", &sql)?.map(|mut row| OutputRow {
        attempt: row.count(),
        dropped: row.int().unsigned_abs(),
        output: row.bytes(),
    }))
}

/// Names in a line are listed up to this many; a line of a million is shown as "1000+".
const LINE_MAX: i64 = 1_000;

/// See `Store::resources`.
pub fn resources(db: &mut dyn Db, limit: usize) -> StoreResult<Vec<ResourceRow>> {
    let mut s = db.stmt();
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    let sql = s.sql(format!(
        "SELECT n.name, r.owner_task, i.name, r.token, \
         (SELECT count(*) FROM (SELECT 1 FROM task_resource tr WHERE tr.resource = n.name AND tr.in_line = 1 LIMIT {LINE_MAX}) c) \
         FROM (SELECT resource AS name FROM task_resource UNION SELECT name FROM resource WHERE owner_task IS NOT NULL) n \
         LEFT JOIN resource r ON r.name = n.name LEFT JOIN engine_info i ON i.incarnation = r.owner ORDER BY n.name LIMIT {limit}"
    ));
    Ok(db.query("list resources", &sql)?.into_iter().map(read_resource).collect())
}

fn read_resource(mut row: Row) -> ResourceRow {
    ResourceRow {
        name: ResourceName::from_stored(row.text()),
        owner_task: row.opt_int().map(TaskId::new),
        engine: row.opt_text(),
        token: Token::new(row.int()),
        line_count: row.int().unsigned_abs(),
        line: Vec::new(),
    }
}

/// See `Store::resource`.
pub fn resource(db: &mut dyn Db, name: &ResourceName) -> StoreResult<Option<ResourceRow>> {
    let mut s = db.stmt();
    let at = s.text(name.as_str());
    let sql = s.sql(format!(
        "SELECT n.name, r.owner_task, i.name, r.token, \
         (SELECT count(*) FROM (SELECT 1 FROM task_resource tr WHERE tr.resource = n.name AND tr.in_line = 1 LIMIT {LINE_MAX}) c) \
         FROM (SELECT resource AS name FROM task_resource WHERE resource = {at} UNION SELECT name FROM resource WHERE name = {at}) n \
         LEFT JOIN resource r ON r.name = n.name LEFT JOIN engine_info i ON i.incarnation = r.owner"
    ));
    let Some(row) = db.first("read a resource", &sql)? else { return Ok(None) };
    let mut found = read_resource(row);
    let mut s = db.stmt();
    let at = s.text(name.as_str());
    let sql = s.sql(format!(
        "SELECT t.id, t.state FROM task_resource tr JOIN task t ON t.id = tr.task \
         WHERE tr.resource = {at} AND tr.in_line = 1 ORDER BY tr.task LIMIT {LINE_MAX}"
    ));
    let read = |mut row: Row| Some((TaskId::new(row.int()), TaskState::from_code(row.int())?));
    found.line = db.query("read a line", &sql)?.into_iter().filter_map(read).collect();
    Ok(Some(found))
}

/// See `Store::status`.
pub fn status(db: &mut dyn Db) -> StoreResult<StatusView> {
    let meta = meta(db)?;
    let (now, engines) = engines(db)?;
    let mut counts = Vec::new();
    for state in TaskState::ALL.iter().filter(|s| !matches!(s, TaskState::Done | TaskState::Canceled)) {
        // The literal state lets the partial indexes answer.
        let is_it = match state {
            TaskState::Running => "owner IS NOT NULL".to_owned(),
            other if other.needs_human() => format!("{ASIDE} AND state = {}", other.code()),
            other => format!("state = {}", other.code()),
        };
        let sql = db.stmt().sql(format!("SELECT count(*) FROM (SELECT 1 FROM task WHERE {is_it} LIMIT {COUNT_MAX}) c"));
        counts.push((*state, db.first("count tasks", &sql)?.map_or(0, |mut row| row.int().unsigned_abs())));
    }
    let hour = micros(Duration::from_secs(3_600));
    let mut s = db.stmt();
    // Bound, because prepared statements are kept by their text.
    let since = s.int(now.as_us() - hour);
    let sql = s.sql(format!(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM task_archive WHERE ended_at > {since} AND state = 7 LIMIT {COUNT_MAX}) c), \
         (SELECT count(*) FROM (SELECT 1 FROM task WHERE {ASIDE} AND state = 5 AND ended_at > {since} LIMIT {COUNT_MAX}) c), \
         (SELECT count(*) FROM (SELECT 1 FROM attempt WHERE ended_at > {since} AND result = 5 LIMIT {COUNT_MAX}) c), \
         (SELECT min(claimed_at) FROM task WHERE owner IS NOT NULL)"
    ));
    let mut row = db.first("count the last hour", &sql)?.unwrap_or_else(|| Row::new(Vec::new()));
    Ok(StatusView {
        counts,
        done_1h: row.int().unsigned_abs(),
        failed_1h: row.int().unsigned_abs(),
        taken_over_1h: row.int().unsigned_abs(),
        oldest_running: row.opt_int().map(|t| now.since(Timestamp::from_us(t))),
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
         FROM (SELECT id, kind, ended_at FROM task WHERE {ASIDE} AND state = 5 LIMIT {COUNT_MAX}) f GROUP BY f.kind) g \
         ORDER BY g.many DESC, g.kind LIMIT 20"
    ));
    let read = |mut row: Row| FailedKind {
        kind: KindName::from_stored(row.text()),
        count: row.int().unsigned_abs(),
        newest: now.since(Timestamp::from_us(row.int())),
        error: row.opt_text(),
    };
    Ok(db.query("count failed tasks", &sql)?.into_iter().map(read).collect())
}
