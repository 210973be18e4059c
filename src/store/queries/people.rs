//! Tasks as people see them. Nothing here decides anything.

use std::collections::BTreeSet;

use super::rows::{micros, now, resources_of};
use crate::protocol::ids::{Incarnation, KindName, Nonce, ResourceName, TaskId, Token};
use crate::protocol::task::{AttemptResult, Reason, TaskState, Wish};
use crate::protocol::time::Timestamp;
use crate::store::api::{StoreResult, TaskState4Wait};
use crate::store::db::Db;
use crate::store::sql::{Row, Stmt};
use crate::store::types::{AttemptRow, OutputRow, Selected, TaskFilter, TaskRow};

/// Of the table `t`: the state that people are told, as [`TaskState::seen`] says it.
pub const SEEN: &str = "CASE WHEN t.state = 5 AND t.result IN (5, 6) THEN 9 ELSE t.state END";

/// Whether a row is in this state as people are told it, for states that wait for a person. The literal number
/// lets the index `task_aside` answer.
pub fn is_aside(state: TaskState) -> String {
    let more = match state {
        TaskState::Failed => " AND COALESCE(result, 0) NOT IN (5, 6)",
        TaskState::Interrupted => " AND result IN (5, 6)",
        _ => "",
    };
    format!("{ASIDE} AND state = {}{more}", state.stored().code())
}

const LIVE: &str = "t.id, t.kind, t.state, t.reason, t.priority, t.due_at, t.attempt, t.failures, t.lost, \
     COALESCE(i.name, t.engine), t.owner, t.token, t.nonce, t.wish, t.not_on, t.created_at, t.claimed_at, t.ended_at, t.result, t.error, \
     NULL, NULL, length(t.payload)";

const ARCHIVED: &str = "t.id, t.kind, t.state, t.reason, t.priority, NULL, t.attempt, t.failures, t.lost, \
     t.engine, t.owner, t.token, t.nonce, 0, NULL, t.created_at, t.claimed_at, t.ended_at, t.result, t.error, \
     t.value, t.resources, length(t.payload)";

/// The condition of the index `task_aside` in its own words: SQLite uses a partial index only where they
/// stand in the statement.
pub const ASIDE: &str = "state IN (4, 5, 6)";

const FROM_LIVE: &str = "FROM task t LEFT JOIN engine_info i ON i.incarnation = t.owner";

const FROM_ARCHIVE: &str = "FROM task_archive t";

fn read_task(row: &mut Row) -> TaskRow {
    let mut task = read_row(row);
    task.state = task.state.seen(task.result);
    task
}

fn read_row(row: &mut Row) -> TaskRow {
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
        not_on: row.opt_text(),
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
    let (live_states, old_states) = split(filter);
    let mut found = Vec::new();
    for (states, columns, from) in [(&live_states, LIVE, FROM_LIVE), (&old_states, ARCHIVED, FROM_ARCHIVE)] {
        if !states.is_empty() {
            found.extend(list(db, filter, states, columns, from)?.iter_mut().map(read_task));
        }
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

/// States of live rows, and of the archive. Numbers that are named are looked for everywhere.
fn split(filter: &TaskFilter) -> (Vec<TaskState>, Vec<TaskState>) {
    let archived = |state: &TaskState| matches!(state, TaskState::Done | TaskState::Canceled);
    let wanted: Vec<TaskState> = match (filter.states.is_empty(), filter.ids.is_empty()) {
        (true, true) => TaskState::ALL.iter().copied().filter(|s| !archived(s)).collect(),
        (true, false) => TaskState::ALL.to_vec(),
        (false, _) => filter.states.clone(),
    };
    wanted.into_iter().partition(|state| !archived(state))
}

/// See `Store::select`.
pub fn select(db: &mut dyn Db, filter: &TaskFilter) -> StoreResult<Vec<Selected>> {
    let (live, old) = split(filter);
    let mut found = Vec::new();
    for (states, from) in [(live, FROM_LIVE), (old, FROM_ARCHIVE)] {
        if states.is_empty() {
            continue;
        }
        for mut row in list(db, filter, &states, &format!("t.id, t.kind, {SEEN}"), from)? {
            let (id, kind) = (TaskId::new(row.int()), KindName::from_stored(row.text()));
            let state = TaskState::from_code(row.int()).unwrap_or(TaskState::Failed);
            found.push(Selected { id, kind, state });
        }
    }
    found.sort_by_key(|task| std::cmp::Reverse(task.id));
    found.truncate(filter.limit);
    Ok(found)
}

fn list(
    db: &mut dyn Db,
    filter: &TaskFilter,
    states: &[TaskState],
    columns: &str,
    from: &str,
) -> StoreResult<Vec<Row>> {
    let mut s = db.stmt();
    let codes: BTreeSet<i16> = states.iter().map(|state| state.stored().code()).collect();
    let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
    let mut wheres = vec![format!("t.state IN ({})", codes.join(", "))];
    // Both are stored as failed: where only one of them is meant, the other is left out.
    match (states.contains(&TaskState::Failed), states.contains(&TaskState::Interrupted)) {
        (true, false) => wheres.push("NOT (t.state = 5 AND COALESCE(t.result, 0) IN (5, 6))".into()),
        (false, true) => wheres.push("NOT (t.state = 5 AND COALESCE(t.result, 0) NOT IN (5, 6))".into()),
        _ => {}
    }
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
            // A JSON array of names: the quoted name stands in it exactly if it is an element. Not by LIKE: on SQLite
            // that is blind to case, and elsewhere a server's settings say what a backslash in a text means.
            let part = s.text(serde_json::to_string(name.as_str()).unwrap_or_default());
            wheres.push(format!("replace(t.resources, {part}, '') <> t.resources"));
        }
    }
    if let Some(engine) = &filter.engine {
        let engine = s.text(engine.as_str());
        let column = if from == FROM_LIVE { "COALESCE(i.name, t.engine)" } else { "t.engine" };
        wheres.push(format!("{column} = {engine}"));
    }
    more_conditions(&mut s, filter, from, db.dialect().now, &mut wheres);
    let limit = s.int(i64::try_from(filter.limit).unwrap_or(i64::MAX));
    let sql = s.sql(format!("SELECT {columns} {from} WHERE {} ORDER BY t.id DESC LIMIT {limit}", wheres.join(" AND ")));
    db.query("list tasks", &sql)
}

fn more_conditions(s: &mut Stmt, filter: &TaskFilter, from: &str, now: &str, wheres: &mut Vec<String>) {
    if let Some(host) = &filter.host {
        let column = if from == FROM_LIVE { "COALESCE(i.name, t.engine)" } else { "t.engine" };
        wheres.push(format!("{column} IN (SELECT h.name FROM engine_info h WHERE h.host = {})", s.text(host)));
    }
    if let Some(part) = &filter.error_like {
        // Unlike a pattern it has no characters that mean something else, in any of the databases.
        let part = s.text(part);
        wheres.push(format!("replace(lower(t.error), lower({part}), '') <> lower(t.error)"));
    }
    if let Some(span) = filter.older_than {
        wheres.push(format!("t.created_at < {now} - {}", s.int(micros(span))));
    }
    if let Some(span) = filter.newer_than {
        wheres.push(format!("t.created_at >= {now} - {}", s.int(micros(span))));
    }
    if !filter.ids.is_empty() {
        wheres.push(format!("t.id {}", s.in_ints(filter.ids.iter().map(|id| id.as_i64()))));
    }
    if let Some(before) = filter.before {
        wheres.push(format!("t.id < {}", s.int(before.as_i64())));
    }
}

/// See `Store::task_states`.
pub fn task_states(db: &mut dyn Db, tasks: &[TaskId]) -> StoreResult<Vec<(TaskId, TaskState4Wait)>> {
    let mut s = db.stmt();
    let ids = s.in_ints(tasks.iter().map(|t| t.as_i64()));
    let sql = s.sql(format!(
        "SELECT t.id, {SEEN}, t.attempt, COALESCE(i.name, t.engine), t.error {FROM_LIVE} WHERE t.id {ids} \
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
