//! Rows that no version of this program leaves behind: another program wrote them, or deleted half of them by hand.
//!
//! The schema refuses most of them (`check_rows`). What it lets in, what was written while its rules were switched
//! off, and what is missing because somebody deleted it must stop nothing but itself:
//!
//! * no statement of an engine can overflow on a row (`rows.rs`); a token that cannot grow is not claimed;
//! * a running task without an owner belongs to engine 0, which nobody is, so that the search for orphans takes it
//!   over like any other, with an attempt that says so;
//! * a resource whose task is gone is freed by the engine that runs it, once nothing of that task runs there any
//!   more: nobody else knows when; if that engine ends, by its takeover;
//! * a line whose head is gone goes on;
//! * a row of `engine` that cannot be read is left alone (`sweep.rs`).
//!
//! What is left for a person is listed by [`bad_rows`]. Everything here is looked for once per T in the whole
//! cluster at most, and finds nothing in a database that only this program writes.

use std::collections::BTreeSet;

use super::lines::wake_heads;
use super::rows::{NEXT_VERSION, TIMING_COLUMNS, read_timing};
use super::takeover::lock_resources;
use crate::protocol::engine::EngineState;
use crate::protocol::ids::{Incarnation, ResourceName, TaskId, Token};
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::Lists;
use crate::store::types::BadRow;

/// Gives running tasks without an owner to engine 0, and takes tasks that do not run from theirs.
pub fn give_to_nobody(db: &mut dyn Db) -> StoreResult<()> {
    // Two statements, each with an index of its own.
    // The backlog has no owner either: it must not be read for the few that run, hence the hints and the range.
    let by_state = db.dialect().by("task_ready");
    let by_owner = match db.dialect().lists {
        Lists::Json => "INDEXED BY task_owner".to_owned(),
        _ => db.dialect().by("task_owner"),
    };
    let claimed_at = format!("claimed_at = COALESCE(claimed_at, {})", db.dialect().now);
    for text in [
        format!(
            "UPDATE task {by_state} SET owner = 0, nonce = COALESCE(nonce, 0), {claimed_at} WHERE state = 3 AND owner IS NULL"
        ),
        format!(
            "UPDATE task {by_owner} SET owner = CASE WHEN state <> 3 THEN NULL WHEN owner < 0 THEN 0 ELSE owner END, \
             nonce = CASE WHEN state <> 3 THEN NULL ELSE COALESCE(nonce, 0) END, {claimed_at} \
             WHERE owner > -9223372036854775807 AND (state <> 3 OR owner < 0 OR nonce IS NULL)"
        ),
    ] {
        let sql = db.stmt().sql(text);
        db.execute("look for orphans", &sql)?;
    }
    Ok(())
}

/// Resources that this incarnation owns for a task that does not run for it; with their locks held, in a statement
/// of its own: one that waits for a lock decides from what was before it.
fn left(
    db: &mut dyn Db,
    owner: Incarnation,
    of: Option<&BTreeSet<ResourceName>>,
) -> StoreResult<Vec<(String, TaskId)>> {
    let mut s = db.stmt();
    let id = s.int(owner.as_i64());
    let of = of
        .map_or_else(String::new, |names| format!("AND r.name {}", s.in_texts(names.iter().map(ResourceName::as_str))));
    let sql = s.sql(format!(
        "SELECT r.name, r.owner_task FROM resource r WHERE r.owner = {id} {of} AND NOT EXISTS (SELECT 1 FROM task t \
         WHERE t.id = r.owner_task AND t.owner = {id} AND t.state = 3)"
    ));
    Ok(db
        .query("look for stray resources", &sql)?
        .into_iter()
        .map(|mut row| (row.text(), TaskId::new(row.int())))
        .collect())
}

/// See `Store::free_strays`.
pub fn free_of(db: &mut dyn Db, owner: Incarnation, keep: &[TaskId]) -> StoreResult<usize> {
    let is_stray = |(name, task): (String, TaskId)| (!keep.contains(&task)).then(|| ResourceName::from_stored(name));
    let names: BTreeSet<ResourceName> = left(db, owner, None)?.into_iter().filter_map(is_stray).collect();
    if names.is_empty() {
        return Ok(0);
    }
    db.transaction("free stray resources", |db| {
        let locked: BTreeSet<ResourceName> = lock_resources(db, names.iter())?.into_keys().collect();
        let names: BTreeSet<ResourceName> = left(db, owner, Some(&locked))?.into_iter().filter_map(is_stray).collect();
        free(db, &names)
    })
}

/// Their rows are locked.
fn free(db: &mut dyn Db, names: &BTreeSet<ResourceName>) -> StoreResult<usize> {
    if names.is_empty() {
        return Ok(0);
    }
    let (least, last) = (db.dialect().least, Token::MAX.as_i64() - 1);
    let mut s = db.stmt();
    let list = s.in_texts(names.iter().map(ResourceName::as_str));
    let sql = s.sql(format!(
        "UPDATE resource SET owner = NULL, owner_task = NULL, token = {least}(token, {last}) + 1, \
         version = {NEXT_VERSION} WHERE name {list}"
    ));
    let freed = db.execute("free stray resources", &sql)?;
    wake_heads(db, names)?;
    Ok(freed)
}

/// What keeps a line standing and is not there: a task that is gone at its head, an owner without a task. Returns
/// how many lines go on.
pub fn free_lines(db: &mut dyn Db, limit: usize) -> StoreResult<usize> {
    Ok(free_half_owned(db, limit)? + leave_lines(db, limit)?)
}

const HALF_OWNED: &str = "((r.owner IS NULL) <> (r.owner_task IS NULL) OR r.owner < 0)";

fn free_half_owned(db: &mut dyn Db, limit: usize) -> StoreResult<usize> {
    let mut s = db.stmt();
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    let sql = s.sql(format!("SELECT r.name FROM resource r WHERE {HALF_OWNED} ORDER BY r.name LIMIT {limit}"));
    let names = read_names(db, &sql)?;
    if names.is_empty() {
        return Ok(0);
    }
    db.transaction("free stray resources", |db| {
        let locked: BTreeSet<ResourceName> = lock_resources(db, names.iter())?.into_keys().collect();
        let mut s = db.stmt();
        let list = s.in_texts(locked.iter().map(ResourceName::as_str));
        let sql = s.sql(format!("SELECT r.name FROM resource r WHERE r.name {list} AND {HALF_OWNED}"));
        let names = read_names(db, &sql)?;
        free(db, &names)
    })
}

fn read_names(db: &mut dyn Db, sql: &crate::store::sql::Sql) -> StoreResult<BTreeSet<ResourceName>> {
    let rows = db.query("look for stray resources", sql)?;
    Ok(rows.into_iter().map(|mut row| ResourceName::from_stored(row.text())).collect())
}

/// The look for the task is a value of its own, because MariaDB would read all tasks for a NOT EXISTS.
///
/// A task and its places in lines are added, and leave, in one transaction: where one is seen without the other,
/// somebody deleted the task by hand.
fn leave_lines(db: &mut dyn Db, limit: usize) -> StoreResult<usize> {
    let mut s = db.stmt();
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    let sql = s.sql(format!(
        "SELECT x.name FROM (SELECT r.name AS name, (SELECT tr.task FROM task_resource tr WHERE tr.resource = r.name \
         AND tr.in_line = 1 ORDER BY tr.task LIMIT 1) AS head FROM resource r WHERE r.owner_task IS NULL) x \
         WHERE x.head IS NOT NULL AND (SELECT 1 FROM task t WHERE t.id = x.head) IS NULL ORDER BY x.name LIMIT {limit}"
    ));
    let names = read_names(db, &sql)?;
    for name in &names {
        db.transaction("leave the line", |db| leave_line(db, name))?;
    }
    Ok(names.len())
}

fn leave_line(db: &mut dyn Db, name: &ResourceName) -> StoreResult<()> {
    if lock_resources(db, std::iter::once(name))?.is_empty() {
        return Ok(());
    }
    // Up to the first that is there, so that a long line is not read to its end.
    let mut s = db.stmt();
    let at = s.text(name.as_str());
    let sql = s.sql(format!(
        "SELECT tr.task FROM task_resource tr JOIN task t ON t.id = tr.task WHERE tr.resource = {at} AND tr.in_line = 1 \
         ORDER BY tr.task LIMIT 1"
    ));
    let first = db.first("leave the line", &sql)?.map_or(i64::MAX, |mut row| row.int());
    let mut s = db.stmt();
    let (at, first) = (s.text(name.as_str()), s.int(first));
    let sql = s.sql(format!(
        "DELETE FROM task_resource WHERE resource = {at} AND in_line = 1 AND task < {first} \
         AND NOT EXISTS (SELECT 1 FROM task t WHERE t.id = task_resource.task)"
    ));
    db.execute("leave the line", &sql)?;
    wake_heads(db, &BTreeSet::from([name.clone()]))
}

/// Rows of one table that are listed at most.
const LISTED: usize = 20;

/// See `Store::bad_rows`.
pub fn bad_rows(db: &mut dyn Db) -> StoreResult<Vec<BadRow>> {
    let mut found = Vec::new();
    for (condition, why, verb) in [
        ("state NOT BETWEEN 0 AND 6", "its state means nothing, so no engine takes it", "cancel"),
        ("state = 1 AND due_at IS NULL", "it waits, but for no time", "retry"),
        (
            "state IN (0, 1, 2) AND token >= 9223372036854775806",
            "its token cannot grow, so no engine takes it",
            "cancel",
        ),
    ] {
        let sql = db.stmt().sql(format!("SELECT id FROM task WHERE {condition} ORDER BY id LIMIT {LISTED}"));
        for mut row in db.query("look for bad rows", &sql)? {
            let id = row.int();
            let row = format!("task {}", TaskId::new(id));
            found.push(BadRow { row, why: why.into(), fix: format!("rekindle task {verb} {id}") });
        }
    }
    let last = Token::MAX.as_i64();
    let sql = db.stmt().sql(format!("SELECT name FROM resource WHERE token >= {last} ORDER BY name LIMIT {LISTED}"));
    for mut row in db.query("look for bad rows", &sql)? {
        let name = row.text();
        let fix = format!(
            "while no task of it runs, in SQL: DELETE FROM resource WHERE name = '{}'",
            name.replace('\'', "''")
        );
        let why = "its token cannot grow, so no task gets it".to_owned();
        found.push(BadRow { row: format!("resource {name}"), why, fix });
    }
    found.extend(bad_engines(db)?);
    Ok(found)
}

fn bad_engines(db: &mut dyn Db) -> StoreResult<Vec<BadRow>> {
    let sql = db.stmt().sql(format!("SELECT incarnation, state, {TIMING_COLUMNS} FROM engine ORDER BY incarnation"));
    let mut found = Vec::new();
    for mut row in db.query("look for bad rows", &sql)? {
        let (incarnation, state) = (row.int(), row.int());
        let Some(why) = unreadable(incarnation, state, read_timing(&mut row).err().map(|e| e.chain())) else {
            continue;
        };
        let fix =
            format!("if no engine of yours is this one, in SQL: DELETE FROM engine WHERE incarnation = {incarnation}");
        found.push(BadRow { row: format!("engine {incarnation}"), why, fix });
        if found.len() == LISTED {
            break;
        }
    }
    Ok(found)
}

/// Why a row of `engine` cannot be what a release of this program wrote; `timing` is what is wrong with its spans.
pub fn unreadable(incarnation: i64, state: i64, timing: Option<String>) -> Option<String> {
    if incarnation < 0 {
        return Some("its id is negative".to_owned());
    }
    if EngineState::from_code(state).is_none() {
        return Some(format!("its state {state} means nothing to this release"));
    }
    timing
}
