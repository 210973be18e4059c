//! Adding tasks, making them due, and what people ask of them.

use std::collections::BTreeSet;

use super::bulk::same_resources;
use super::change::{Change, change};
use super::claim_keyed::create_missing;
use super::ends::{Ended, write_next};
use super::lines::wake_heads;
use super::people::SEEN;
use super::rows::{NEXT_VERSION, micros, resources_of};
use super::takeover::lock_resources;
use crate::protocol::ids::{PAYLOAD_MAX, ResourceName, TaskId, Token};
use crate::protocol::takeover::Next;
use crate::protocol::task::{AttemptResult, Reason, TaskState, Wish};
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::{Cause, StoreError};
use crate::store::sql::{Bind, ColumnType, Dialect};
use crate::store::types::{NewTask, TaskVerb, VerbOutcome};

/// Rows of one INSERT statement: enough to make the round trip cheap, few enough for every backend's
/// limit on binds.
const ADD_BATCH: usize = 100;

/// Bytes of payload of one INSERT statement, unless one task alone has more: MariaDB takes statements of
/// 16 MiB where nothing else is configured. Where it takes less than this, statements are smaller.
const ADD_BYTES: usize = 4 << 20;

/// See `Store::add`. All or none; touches no row that engines need.
pub fn add(db: &mut dyn Db, tasks: &[NewTask], by: &str) -> StoreResult<Vec<TaskId>> {
    if let Some(large) = tasks.iter().find(|task| task.payload.len() > PAYLOAD_MAX) {
        return Err(StoreError::Refused(format!(
            "the payload of a task of kind {} has {} bytes, over {PAYLOAD_MAX}: put it elsewhere, and name the place in it",
            large.kind,
            large.payload.len()
        )));
    }
    db.transaction("add tasks", |db| {
        let mut ids = Vec::with_capacity(tasks.len());
        let mut rest = tasks;
        while !rest.is_empty() {
            let (batch, more) = rest.split_at(batch_len(rest, ADD_BYTES.min(db.bytes_max())));
            ids.extend(add_batch(db, batch, by)?);
            rest = more;
        }
        add_resources(db, tasks, &ids)?;
        Ok(ids)
    })
}

fn batch_len(tasks: &[NewTask], limit: usize) -> usize {
    /// Of the other columns.
    const AROUND: usize = 512;
    let mut bytes = 0;
    let fits = |task: &&NewTask| {
        bytes += task.payload.len() + AROUND;
        bytes <= limit
    };
    tasks.iter().take(ADD_BATCH).take_while(fits).count().max(1)
}

/// Where an INSERT gives no numbers back, its rows are found again by whom they were last charged for: not an
/// incarnation but a random number plus their place, which no later charge minds. Counting on from the first number would lean on how the
/// server hands numbers out, which an operator (`innodb_autoinc_lock_mode`) and Galera (steps of more than
/// one) may change.
fn add_batch(db: &mut dyn Db, tasks: &[NewTask], by: &str) -> StoreResult<Vec<TaskId>> {
    let Dialect { now, greatest, has_returning, .. } = *db.dialect();
    // Half of the range, so that counting on stays within it.
    let first = crate::random::positive() / 2 + 1;
    let mut s = db.stmt();
    let by = s.text(by);
    let mut rows = Vec::with_capacity(tasks.len());
    for (at, task) in (0..).zip(tasks) {
        let (kind, payload) = (s.text(task.kind.as_str()), s.bytes(task.payload.clone()));
        // Everything is bound, also the NULL of no delay: prepared statements are kept by their text,
        // and a text of its own for each batch would fill the memory of engine and server.
        let (keyed, priority) = (s.int(i64::from(!task.resources.is_empty())), s.int(task.priority));
        let state = if task.delay.is_some() { TaskState::Waiting } else { TaskState::Ready };
        let (state, delay) = (s.int(state.code()), s.opt_int(task.delay.map(micros)));
        let charged = s.opt_int((!has_returning).then_some(first + at));
        // A host without a clock begins in 1970, which the schema takes for seconds of another program.
        rows.push(format!(
            "({kind}, {state}, {keyed}, {priority}, {charged}, {now} + {delay}, {greatest}({now}, 1000000000000000), \
             {by}, {payload})"
        ));
    }
    let text = format!(
        "INSERT INTO task (kind, state, keyed, priority, charged, due_at, created_at, created_by, payload) VALUES {}",
        rows.join(", ")
    );
    let mut ids: Vec<TaskId> = if has_returning {
        let sql = s.sql(format!("{text} RETURNING id"));
        db.query("add tasks", &sql)?.into_iter().map(|mut row| TaskId::new(row.int())).collect()
    } else {
        db.execute("add tasks", &s.sql(text))?;
        find_added(db, first, tasks.len())?
    };
    // Numbers are given out in the order of the rows, but RETURNING promises no order.
    ids.sort_unstable();
    Ok(ids)
}

fn find_added(db: &mut dyn Db, first: i64, count: usize) -> StoreResult<Vec<TaskId>> {
    let mut s = db.stmt();
    let (from, to) = (s.int(first), s.int(first + i64::try_from(count).unwrap_or(0)));
    let sql = s.sql(format!(
        "SELECT id FROM task WHERE id >= LAST_INSERT_ID() AND charged >= {from} AND charged < {to} ORDER BY charged"
    ));
    let ids: Vec<TaskId> = db.query("add tasks", &sql)?.into_iter().map(|mut row| TaskId::new(row.int())).collect();
    // Another adder has drawn a number nearby: all of it is undone, and done again with other numbers. Out of
    // order, a task's place in its lines would not be the one that was asked for.
    if ids.len() == count && ids.is_sorted() {
        return Ok(ids);
    }
    let source = Cause(format!("{} rows were found where {count} were added", ids.len()));
    Err(StoreError::Busy { step: "add tasks", source })
}

fn add_resources(db: &mut dyn Db, tasks: &[NewTask], ids: &[TaskId]) -> StoreResult<()> {
    let mut rows = Vec::new();
    for (task, id) in tasks.iter().zip(ids) {
        for name in &task.resources {
            let in_line = i64::from(task.delay.is_none());
            rows.push(vec![Bind::Int(Some(id.as_i64())), Bind::Text(Some(name.to_string())), Bind::Int(Some(in_line))]);
        }
    }
    let columns = [("task", ColumnType::Int), ("resource", ColumnType::Text), ("in_line", ColumnType::Int)];
    for batch in rows.chunks(1_000) {
        let mut s = db.stmt();
        let u = s.table("u", &columns, batch);
        let sql = s.sql(format!(
            "INSERT INTO task_resource (task, resource, in_line) SELECT u.task, u.resource, u.in_line FROM {u}"
        ));
        db.execute("add tasks", &sql)?;
    }
    Ok(())
}

/// See `Store::promote_due`. Where a look finds nothing there is no transaction.
pub fn promote_due(db: &mut dyn Db, limit: usize) -> StoreResult<usize> {
    if is_due(db)? { db.transaction("make tasks due", |db| promote(db, limit)) } else { Ok(0) }
}

/// See `Store::free_lines`. Each of both is whole in itself.
pub fn free_lines(db: &mut dyn Db, limit: usize) -> StoreResult<usize> {
    Ok(wake_free_lines(db, limit)? + lift_bars(db)? + super::stray::free_lines(db, limit)?)
}

fn is_due(db: &mut dyn Db) -> StoreResult<bool> {
    let now = db.dialect().moment;
    let sql = db.stmt().sql(format!("SELECT id FROM task WHERE state = 1 AND due_at <= {now} ORDER BY due_at LIMIT 1"));
    Ok(db.first("look for due tasks", &sql)?.is_some())
}

fn promote(db: &mut dyn Db, limit: usize) -> StoreResult<usize> {
    let (now, skip) = (db.dialect().moment, db.dialect().skip_locked);
    let mut s = db.stmt();
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    let due = Change {
        step: "make tasks due",
        table: "task",
        key: "id",
        set: Some(format!("state = 0, due_at = NULL, version = {NEXT_VERSION}")),
        which: format!("state = 1 AND due_at <= {now}"),
        guard: "1 = 1".into(),
        order: "ORDER BY due_at".into(),
        limit: format!("LIMIT {limit}"),
        bytes: None,
        lock: skip,
        columns: "id, keyed",
    };
    let rows: Vec<(i64, bool)> = change(db, &s, &due)?.into_iter().map(|mut row| (row.int(), row.flag())).collect();
    let keyed: Vec<i64> = rows.iter().filter(|(_, keyed)| *keyed).map(|(id, _)| *id).collect();
    if !keyed.is_empty() {
        let mut s = db.stmt();
        let ids = s.in_ints(keyed);
        let sql = s.sql(format!("UPDATE task_resource SET in_line = 1 WHERE task {ids} AND in_line = 0"));
        db.execute("make tasks due", &sql)?;
    }
    Ok(rows.len())
}

/// A task that is barred from one host needs an engine on another one that takes its kind; where that
/// one has gone, or takes nothing any more, the bar is lifted: better tried where it failed than never.
fn lift_bars(db: &mut dyn Db) -> StoreResult<usize> {
    let takes = super::finish::takes("task", db.dialect().now);
    let sql = db.stmt().sql(format!(
        "UPDATE task SET not_on = NULL WHERE state IN (0, 1) AND not_on IS NOT NULL AND NOT EXISTS (SELECT 1 FROM engine e \
         JOIN engine_info i ON i.incarnation = e.incarnation WHERE i.host <> task.not_on AND {takes})"
    ));
    db.execute("lift bars", &sql)
}

/// Blocked heads of lines whose resource nobody owns: none in a database that only this program writes.
/// The belt to the braces of the wake-up in every finish.
fn wake_free_lines(db: &mut dyn Db, limit: usize) -> StoreResult<usize> {
    let mut s = db.stmt();
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    // A value, not EXISTS: that may become a join of all free resources with all blocked tasks.
    let sql = s.sql(format!(
        "SELECT r.name FROM resource r WHERE r.owner_task IS NULL AND (SELECT t.state FROM task t WHERE t.id = \
         (SELECT tr.task FROM task_resource tr WHERE tr.resource = r.name AND tr.in_line = 1 ORDER BY tr.task LIMIT 1)) = 2 \
         ORDER BY r.name LIMIT {limit}"
    ));
    let names: BTreeSet<ResourceName> = db
        .query("look for free lines", &sql)?
        .into_iter()
        .map(|mut row| ResourceName::from_stored(row.text()))
        .collect();
    if names.is_empty() {
        return Ok(0);
    }
    // What the look found may have changed since: waking reads the heads again under the locks.
    db.transaction("wake free lines", |db| {
        let locked: BTreeSet<ResourceName> = lock_resources(db, names.iter())?.into_keys().collect();
        wake_heads(db, &locked)?;
        Ok(locked.len())
    })
}

/// See `Store::task_verb`.
pub fn task_verb(db: &mut dyn Db, task: TaskId, verb: TaskVerb) -> StoreResult<VerbOutcome> {
    db.transaction("change a task", |db| {
        let wants = resources_of(db, &[task])?;
        let names = wants.get(&task).cloned().unwrap_or_default();
        lock_in_order(db, &names)?;
        let lock = db.dialect().for_update;
        let mut s = db.stmt();
        let id = s.int(task.as_i64());
        let sql = s.sql(format!("SELECT {SEEN}, t.token FROM task t WHERE t.id = {id} {lock}"));
        let Some(mut row) = db.first("change a task", &sql)? else { return archived_verb(db, task, verb) };
        same_resources(db, &wants, std::iter::once(&task))?;
        let state = TaskState::from_code(row.int()).unwrap_or(TaskState::Failed);
        let ended =
            Ended { stored: Token::new(row.int()), names: &names, result: AttemptResult::Canceled, detail: None };
        match (verb, state) {
            (TaskVerb::Cancel, TaskState::Running) => ask(db, task, Wish::Cancel),
            (TaskVerb::Cancel, _) => {
                write_next(db, task, &Next::Canceled, &ended)?;
                wake_heads(db, &names.into_iter().collect())?;
                Ok(VerbOutcome::Applied(state))
            }
            (TaskVerb::Retry, _) if matches!(verb.on(state), VerbOutcome::Applied(_)) => {
                make_ready(db, task)?;
                Ok(VerbOutcome::Applied(state))
            }
            (TaskVerb::Retry, _) => Ok(VerbOutcome::WrongState(state)),
        }
    })
}

/// Rows that no claim has made yet are made here: without a row to lock, a claim that is making it could
/// move the next task to `blocked` behind a head that this transaction takes out of the line, and neither
/// would see the other.
fn lock_in_order(db: &mut dyn Db, names: &[ResourceName]) -> StoreResult<()> {
    if names.is_empty() {
        return Ok(());
    }
    create_missing(db, &names.iter().collect())?;
    let lock = db.dialect().for_update;
    let mut s = db.stmt();
    let list = s.in_texts(names.iter().map(|n| n.as_str()));
    let sql = s.sql(format!("SELECT name FROM resource WHERE name {list} ORDER BY name {lock}"));
    db.query("lock resources", &sql).map(|_| ())
}

fn ask(db: &mut dyn Db, task: TaskId, wish: Wish) -> StoreResult<VerbOutcome> {
    let mut s = db.stmt();
    let (id, wish) = (s.int(task.as_i64()), s.int(wish.code()));
    let sql = s.sql(format!("UPDATE task SET wish = {wish} WHERE id = {id} AND state = 3"));
    db.execute("ask the owner", &sql)?;
    Ok(VerbOutcome::Asked)
}

/// The retry budget starts again; the count of lost engines does too, because a person has looked at it.
fn make_ready(db: &mut dyn Db, task: TaskId) -> StoreResult<()> {
    let mut s = db.stmt();
    let (id, reason) = (s.int(task.as_i64()), s.int(Reason::Retry.code()));
    let binds = s.clone();
    let sql = s.sql(format!(
        "UPDATE task SET state = 0, due_at = NULL, failures = 0, lost = 0, handed_back = 0, not_on = NULL, was_elsewhere = 0, \
         wish = 0, reason = {reason}, version = {NEXT_VERSION} WHERE id = {id}"
    ));
    db.execute("retry a task", &sql)?;
    let sql = binds.sql(format!("UPDATE task_resource SET in_line = 1 WHERE task = {id}"));
    db.execute("retry a task", &sql).map(|_| ())
}

/// A canceled task can be brought back under its number; a done one is not run again by mistake.
fn archived_verb(db: &mut dyn Db, task: TaskId, verb: TaskVerb) -> StoreResult<VerbOutcome> {
    let mut s = db.stmt();
    let id = s.int(task.as_i64());
    let sql = s.sql(format!("SELECT state, resources FROM task_archive WHERE id = {id}"));
    let Some(mut row) = db.first("change a task", &sql)? else { return Ok(VerbOutcome::NotFound) };
    let state = TaskState::from_code(row.int()).unwrap_or(TaskState::Done);
    let names: Vec<String> = row.opt_text().and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
    if verb != TaskVerb::Retry || state != TaskState::Canceled {
        return Ok(VerbOutcome::WrongState(state));
    }
    let mut s = db.stmt();
    let (id, keyed, reason) = (s.int(task.as_i64()), s.int(i64::from(!names.is_empty())), s.int(Reason::Retry.code()));
    let binds = s.clone();
    let sql = s.sql(format!(
        "INSERT INTO task (id, kind, keyed, priority, reason, attempt, token, stack, created_at, created_by, payload) \
         SELECT id, kind, {keyed}, priority, {reason}, attempt, token, stack, created_at, created_by, payload \
         FROM task_archive WHERE id = {id}"
    ));
    if db.execute("retry a task", &sql)? == 0 {
        // Somebody else has brought it back in this moment.
        return Ok(VerbOutcome::NotFound);
    }
    let sql = binds.sql(format!("DELETE FROM task_archive WHERE id = {id}"));
    db.execute("retry a task", &sql)?;
    let rows: Vec<Vec<Bind>> = names
        .into_iter()
        .map(|name| vec![Bind::Int(Some(task.as_i64())), Bind::Text(Some(name)), Bind::Int(Some(1))])
        .collect();
    if !rows.is_empty() {
        let columns = [("task", ColumnType::Int), ("resource", ColumnType::Text), ("in_line", ColumnType::Int)];
        let mut s = db.stmt();
        let u = s.table("u", &columns, &rows);
        let sql = s.sql(format!(
            "INSERT INTO task_resource (task, resource, in_line) SELECT u.task, u.resource, u.in_line FROM {u}"
        ));
        db.execute("retry a task", &sql)?;
    }
    Ok(VerbOutcome::Applied(state))
}
