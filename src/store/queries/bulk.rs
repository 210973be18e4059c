//! What people ask of many tasks: a batch in one transaction, with its row of history.
//!
//! Statements work on the whole batch, not on its tasks one by one. The locks are taken in the one order:
//! the resources of all tasks by name (their rows are made where no claim has made them yet, for the
//! reason in `tasks.rs`), then the tasks by number, then archived ones by number. What each task is told
//! is decided from the rows as they were locked, so an outcome is what happened, not what was expected. A
//! running task of the batch is asked, not taken: its engine kills first.

use std::collections::{BTreeMap, BTreeSet};

use super::claim_keyed::create_missing;
use super::ends::{ARCHIVED, is_recorded, moved_away, of_task};
use super::history;
use super::lines::wake_heads;
use super::people::SEEN;
use super::rows::{NEXT_VERSION, Names, is_in, resources_of};
use super::takeover::lock_resources_waiting;
use crate::protocol::ids::{ResourceName, TaskId};
use crate::protocol::task::{AttemptResult, Reason, TaskState, Wish};
use crate::store::api::StoreResult;
use crate::store::audit::{Affected, Change};
use crate::store::db::Db;
use crate::store::error::{Cause, StoreError};
use crate::store::sql::{Bind, ColumnType};
use crate::store::types::{TaskVerb, VerbOutcome};

/// See `Store::task_verbs`.
pub fn task_verbs(db: &mut dyn Db, tasks: &[TaskId], verb: TaskVerb, change: &Change) -> StoreResult<Vec<VerbOutcome>> {
    history::with_history(db, "change tasks", change, |db| {
        let ids: BTreeSet<TaskId> = tasks.iter().copied().collect();
        let outcomes = apply(db, &ids, verb)?;
        let affected = affected(&outcomes, verb);
        let outcome = |id: &TaskId| outcomes.get(id).copied().unwrap_or(VerbOutcome::NotFound);
        Ok((tasks.iter().map(outcome).collect(), affected))
    })
}

/// What the history says; nothing if nothing was changed.
pub fn affected(outcomes: &BTreeMap<TaskId, VerbOutcome>, verb: TaskVerb) -> Option<Affected> {
    let mut counts: BTreeMap<TaskState, usize> = BTreeMap::new();
    let mut changed = Vec::new();
    for (id, outcome) in outcomes {
        let was = match outcome {
            VerbOutcome::Applied(was) => *was,
            VerbOutcome::Asked => TaskState::Running,
            VerbOutcome::WrongState(_) | VerbOutcome::NotFound => continue,
        };
        *counts.entry(was).or_default() += 1;
        changed.push(*id);
    }
    let old = match counts.iter().collect::<Vec<_>>().as_slice() {
        [] => return None,
        [(only, _)] => only.to_string(),
        several => several.iter().map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", "),
    };
    let asked = counts.get(&TaskState::Running).copied().unwrap_or(0);
    let new = match (verb, asked, changed.len() - asked) {
        (TaskVerb::Retry, ..) => TaskState::Ready.word().to_owned(),
        (TaskVerb::Cancel, 0, _) => TaskState::Canceled.word().to_owned(),
        // What runs may be done first: nobody knows yet.
        (TaskVerb::Cancel, _, 0) => ASKED.to_owned(),
        (TaskVerb::Cancel, asked, canceled) => format!("{canceled} canceled, {asked} {ASKED}"),
    };
    Some(Affected::tasks(changed).from_to(old, new))
}

/// What the history says of a running task.
const ASKED: &str = "asked to stop";

fn apply(db: &mut dyn Db, ids: &BTreeSet<TaskId>, verb: TaskVerb) -> StoreResult<BTreeMap<TaskId, VerbOutcome>> {
    let wants = resources_of(db, &ids.iter().copied().collect::<Vec<_>>())?;
    let names: BTreeSet<&ResourceName> = wants.values().flatten().collect();
    if !names.is_empty() {
        create_missing(db, &names)?;
        lock_resources_waiting(db, names.into_iter())?;
    }
    let states = lock(db, "task", ids)?;
    same_resources(db, &wants, states.keys())?;
    let mut outcomes = match verb {
        TaskVerb::Retry => retry(db, &states)?,
        TaskVerb::Cancel => cancel(db, &states, &wants)?,
    };
    let rest: BTreeSet<TaskId> = ids.iter().filter(|id| !states.contains_key(id)).copied().collect();
    if !rest.is_empty() {
        outcomes.extend(archived(db, &rest, verb)?);
    }
    Ok(outcomes)
}

/// The resources of tasks are read before their locks, and a task that somebody brought back from the archive
/// between the two had none then: without a second look it would be canceled as one that names none, and
/// stand in its lines for ever. The step is repeated from its beginning
/// (`batches_of_verbs_beside_claims_neither_deadlock_nor_lose_a_task`).
pub fn same_resources<'a>(db: &mut dyn Db, wants: &Names, tasks: impl Iterator<Item = &'a TaskId>) -> StoreResult<()> {
    let tasks: Vec<TaskId> = tasks.copied().collect();
    let now = resources_of(db, &tasks)?;
    if now.iter().all(|(task, names)| wants.get(task) == Some(names)) {
        return Ok(());
    }
    let source = Cause("a task was brought back at this moment".to_owned());
    Err(StoreError::Busy { step: "change tasks", source })
}

fn lock(db: &mut dyn Db, table: &str, ids: &BTreeSet<TaskId>) -> StoreResult<BTreeMap<TaskId, TaskState>> {
    let wait = db.dialect().for_update;
    let mut s = db.stmt();
    let list = s.in_ints(ids.iter().map(|id| id.as_i64()));
    let sql = s.sql(format!("SELECT t.id, {SEEN} FROM {table} t WHERE t.id {list} ORDER BY t.id {wait}"));
    let mut found = BTreeMap::new();
    for mut row in db.query("lock tasks", &sql)? {
        let id = TaskId::new(row.int());
        found.insert(id, TaskState::from_code(row.int()).unwrap_or(TaskState::Failed));
    }
    Ok(found)
}

fn run(db: &mut dyn Db, step: &'static str, ids: &[TaskId], text: impl Fn(&str) -> String) -> StoreResult<usize> {
    if ids.is_empty() {
        return Ok(0);
    }
    let mut s = db.stmt();
    let list = s.in_ints(ids.iter().map(|id| id.as_i64()));
    let sql = s.sql(text(&list));
    db.execute(step, &sql)
}

/// The retry budget starts again, as in `tasks.rs`.
fn retry(db: &mut dyn Db, states: &BTreeMap<TaskId, TaskState>) -> StoreResult<BTreeMap<TaskId, VerbOutcome>> {
    let fits = |state: &TaskState| matches!(TaskVerb::Retry.on(*state), VerbOutcome::Applied(_));
    let ids: Vec<TaskId> = states.iter().filter(|(_, state)| fits(state)).map(|(id, _)| *id).collect();
    let reason = Reason::Retry.code();
    run(db, "retry tasks", &ids, |list| {
        format!(
            "UPDATE task SET state = 0, due_at = NULL, failures = 0, lost = 0, handed_back = 0, not_on = NULL, \
             was_elsewhere = 0, wish = 0, reason = {reason}, version = {NEXT_VERSION} WHERE id {list}"
        )
    })?;
    run(db, "retry tasks", &ids, |list| format!("UPDATE task_resource SET in_line = 1 WHERE task {list}"))?;
    Ok(states.iter().map(|(id, state)| (*id, TaskVerb::Retry.on(*state))).collect())
}

fn cancel(
    db: &mut dyn Db,
    states: &BTreeMap<TaskId, TaskState>,
    wants: &Names,
) -> StoreResult<BTreeMap<TaskId, VerbOutcome>> {
    let runs = |state: &TaskState| *state == TaskState::Running;
    let (asked, ended): (Vec<_>, Vec<_>) = states.iter().partition(|(_, state)| runs(state));
    let asked: Vec<TaskId> = asked.into_iter().map(|(id, _)| *id).collect();
    let ended: Vec<TaskId> = ended.into_iter().map(|(id, _)| *id).collect();
    let wish = Wish::Cancel.code();
    let runs = is_in("state", TaskState::Running);
    run(db, "ask the owners", &asked, |list| format!("UPDATE task SET wish = {wish} WHERE id {list} AND {runs}"))?;
    archive(db, &ended, wants)?;
    Ok(states.iter().map(|(id, state)| (*id, TaskVerb::Cancel.on(*state))).collect())
}

/// Moves tasks that do not run, so own nothing, to the archive, and wakes those behind them.
fn archive(db: &mut dyn Db, ids: &[TaskId], wants: &Names) -> StoreResult<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let known = is_recorded(db)?;
    let (now, cross_join) = (db.dialect().now, db.dialect().cross_join);
    let mut s = db.stmt();
    let names = |id: &TaskId| wants.get(id).map(|names| names.iter().map(|n| n.as_str()).collect::<Vec<_>>());
    let json = |id: &TaskId| names(id).map(|names| serde_json::to_string(&names).unwrap_or_default());
    let rows: Vec<Vec<Bind>> = ids.iter().map(|id| vec![Bind::Int(Some(id.as_i64())), Bind::Text(json(id))]).collect();
    let u = s.table("u", &[("id", ColumnType::Int), ("names", ColumnType::Text)], &rows);
    let (state, result) = (TaskState::Canceled.code(), AttemptResult::Canceled.code());
    // This join keeps the list on the outside, as in `finish.rs`.
    let sql = s.sql(format!(
        "INSERT INTO task_archive ({ARCHIVED}, state, result, ended_at, engine, resources) \
         SELECT {}, {state}, {result}, {now}, t.engine, u.names FROM {u} {cross_join} task t WHERE t.id = u.id AND {known}",
        of_task("t")
    ));
    if db.execute("cancel tasks", &sql)? != ids.len() {
        return Err(moved_away());
    }
    let delete = |table: &str| db.dialect().delete_by_key(table);
    let (task, task_resource) = (delete("task"), delete("task_resource"));
    run(db, "cancel tasks", ids, |list| format!("{task} WHERE id {list}"))?;
    let left: BTreeSet<ResourceName> = ids.iter().filter_map(|id| wants.get(id)).flatten().cloned().collect();
    if !left.is_empty() {
        run(db, "cancel tasks", ids, |list| format!("{task_resource} WHERE task {list}"))?;
        wake_heads(db, &left)?;
    }
    Ok(())
}

/// Canceled tasks can be brought back under their numbers; a done one is not run again by mistake.
fn archived(db: &mut dyn Db, ids: &BTreeSet<TaskId>, verb: TaskVerb) -> StoreResult<BTreeMap<TaskId, VerbOutcome>> {
    let states = lock(db, "task_archive", ids)?;
    let is_back = |state: &TaskState| matches!(verb.on(*state), VerbOutcome::Applied(_));
    let back: Vec<TaskId> = states.iter().filter(|(_, state)| is_back(state)).map(|(id, _)| *id).collect();
    bring_back(db, &back)?;
    Ok(states.iter().map(|(id, state)| (*id, verb.on(*state))).collect())
}

fn bring_back(db: &mut dyn Db, ids: &[TaskId]) -> StoreResult<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut s = db.stmt();
    let list = s.in_ints(ids.iter().map(|id| id.as_i64()));
    let sql = s.sql(format!("SELECT id, resources FROM task_archive WHERE id {list} AND resources IS NOT NULL"));
    let mut rows: Vec<Vec<Bind>> = Vec::new();
    for mut row in db.query("retry tasks", &sql)? {
        let id = row.int();
        let names: Vec<String> = serde_json::from_str(&row.text()).unwrap_or_default();
        rows.extend(
            names.into_iter().map(|name| vec![Bind::Int(Some(id)), Bind::Text(Some(name)), Bind::Int(Some(1))]),
        );
    }
    let reason = Reason::Retry.code();
    run(db, "retry tasks", ids, |list| {
        format!(
            "INSERT INTO task (id, kind, keyed, priority, reason, attempt, token, stack, created_at, created_by, payload) \
             SELECT id, kind, CASE WHEN resources IS NULL THEN 0 ELSE 1 END, priority, {reason}, attempt, token, stack, \
             created_at, created_by, payload FROM task_archive WHERE id {list}"
        )
    })?;
    run(db, "retry tasks", ids, |list| format!("DELETE FROM task_archive WHERE id {list}"))?;
    let columns = [("task", ColumnType::Int), ("resource", ColumnType::Text), ("in_line", ColumnType::Int)];
    for batch in rows.chunks(1_000) {
        let mut s = db.stmt();
        let u = s.table("u", &columns, batch);
        let sql = s.sql(format!(
            "INSERT INTO task_resource (task, resource, in_line) SELECT u.task, u.resource, u.in_line FROM {u}"
        ));
        db.execute("retry tasks", &sql)?;
    }
    Ok(())
}
