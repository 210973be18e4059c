//! What becomes of a task whose attempt has ended, whoever ended it: its owner, a takeover, a person.
//!
//! All of this runs in the caller's transaction, which holds the task's row and those of its resources.

use super::rows::{NEXT_VERSION, micros, next_token};
use crate::planted::{Bug, planted};
use crate::protocol::ids::{ResourceName, TaskId, Token};
use crate::protocol::takeover::Next;
use crate::protocol::task::{AttemptResult, Reason, TaskState};
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::StoreError;
use crate::store::sql::Stmt;

/// The columns that a task takes along into the archive.
pub const ARCHIVED: &str = "id, kind, priority, reason, attempt, failures, lost, token, owner, nonce, claimed_at, stack, \
     created_at, created_by, payload";

/// [`ARCHIVED`] of this alias.
pub fn of_task(alias: &str) -> String {
    ARCHIVED.split(", ").map(|column| format!("{alias}.{}", column.trim())).collect::<Vec<_>>().join(", ")
}

/// Names as the archive keeps them.
pub fn as_json(names: &[ResourceName]) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    serde_json::to_string(&names).unwrap_or_default()
}

/// What is known of an attempt that ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// The largest token of the task and its resources.
    pub stored: Token,
    /// Its resources.
    pub names: &'a [ResourceName],
    /// How it ended.
    pub result: AttemptResult,
    /// One line.
    pub detail: Option<&'a str>,
}

/// Writes what becomes of a task whose row (and resources) this transaction holds.
pub fn write_next(db: &mut dyn Db, task: TaskId, next: &Next, ended: &Ended<'_>) -> StoreResult<()> {
    free_resources(db, task, next, ended)?;
    match next {
        Next::Done => archive(db, task, TaskState::Done, ended),
        Next::Canceled => archive(db, task, TaskState::Canceled, ended),
        other => move_on(db, task, other, ended),
    }
}

/// Whether this way on raises the token: everything that takes it from an owner who did not finish, so
/// that the outside world can refuse what that owner still does.
pub fn raises_token(next: &Next, result: AttemptResult) -> bool {
    if planted(Bug::TokenKept) && matches!(result, AttemptResult::Lost | AttemptResult::HandedBack) {
        return false;
    }
    matches!(next, Next::Ready(_) | Next::Held | Next::Canceled | Next::Quarantined)
        || matches!(result, AttemptResult::Lost | AttemptResult::HandedBack)
}

/// `GREATEST(stored, epoch << 40) + 1`, and the condition that the database is still the recorded one.
fn raised(db: &mut dyn Db, s: &mut Stmt, stored: Token) -> StoreResult<(String, String)> {
    let stored = s.int(stored.as_i64());
    Ok((next_token(db.dialect(), &stored), is_recorded(db)?))
}

/// The condition that the database is still the recorded one.
pub fn is_recorded(db: &mut dyn Db) -> StoreResult<String> {
    let identity = db.identity()?;
    Ok(format!("EXISTS (SELECT 1 FROM meta WHERE one = 1 AND identity = {identity})"))
}

/// It is not.
pub fn moved_away() -> StoreError {
    StoreError::Refused(
        "the database is not the one that the epoch was recorded for; the next beat raises the epoch".into(),
    )
}

fn free_resources(db: &mut dyn Db, task: TaskId, next: &Next, ended: &Ended<'_>) -> StoreResult<()> {
    if ended.names.is_empty() {
        return Ok(());
    }
    let now = db.dialect().now;
    let mut s = db.stmt();
    let id = s.int(task.as_i64());
    let (token, known) = if raises_token(next, ended.result) {
        let (token, known) = raised(db, &mut s, ended.stored)?;
        (format!("token = {token},"), known)
    } else {
        (String::new(), "1 = 1".into())
    };
    let list = s.in_texts(ended.names.iter().map(|n| n.as_str()));
    let sql = s.sql(format!(
        "UPDATE resource SET {token} owner = NULL, owner_task = NULL, version = {NEXT_VERSION}, used_at = {now} \
         WHERE name {list} AND owner_task = {id} AND {known}"
    ));
    db.execute("free resources", &sql).map(|_| ())
}

fn archive(db: &mut dyn Db, task: TaskId, state: TaskState, ended: &Ended<'_>) -> StoreResult<()> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let (id, state, result) = (s.int(task.as_i64()), s.int(state.code()), s.int(ended.result.code()));
    let names = (!ended.names.is_empty()).then(|| as_json(ended.names));
    let names = s.opt_text(names);
    let detail = s.opt_text(ended.detail.map(str::to_owned));
    let (error, value) =
        if ended.result == AttemptResult::Done { ("NULL", detail.as_str()) } else { (detail.as_str(), "NULL") };
    // Its resources were freed above under the same condition; without it here, a database that moved
    // would lose the task and keep its resources owned.
    let known = if ended.result == AttemptResult::Done { "1 = 1".into() } else { is_recorded(db)? };
    let sql = s.sql(format!(
        "INSERT INTO task_archive ({ARCHIVED}, state, result, ended_at, engine, resources, error, value) \
         SELECT {}, {state}, {result}, {now}, t.engine, {names}, {error}, {value} FROM task t WHERE t.id = {id} AND {known}",
        of_task("t")
    ));
    if db.execute("archive", &sql)? != 1 {
        return Err(moved_away());
    }
    for table in ["task WHERE id", "task_resource WHERE task"] {
        let mut s = db.stmt();
        let id = s.int(task.as_i64());
        let sql = s.sql(format!("DELETE FROM {table} = {id}"));
        db.execute("archive", &sql)?;
    }
    Ok(())
}

fn move_on(db: &mut dyn Db, task: TaskId, next: &Next, ended: &Ended<'_>) -> StoreResult<()> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let id = s.int(task.as_i64());
    let (state, reason, due) = match next {
        Next::Ready(reason) => (TaskState::Ready, Some(*reason), None),
        Next::Wait { delay, reason } => (TaskState::Waiting, Some(*reason), Some(*delay)),
        Next::Failed => (TaskState::Failed, None, None),
        Next::Quarantined => (TaskState::Quarantined, None, None),
        Next::Held => (TaskState::Held, None, None),
        Next::Done | Next::Canceled => return Err(super::rows::corrupt("move on", "an ended task is archived")),
    };
    let state_code = s.int(state.code());
    let reason = s.opt_int(reason.map(|r: Reason| r.code().into()));
    let due = due.map_or_else(|| "NULL".to_owned(), |d| format!("{now} + {}", s.int(micros(d))));
    let (result, detail) = (s.int(ended.result.code()), s.opt_text(ended.detail.map(str::to_owned)));
    let (token, known) = match raises_token(next, ended.result) {
        true => {
            let (token, known) = raised(db, &mut s, ended.stored)?;
            (format!("token = {token},"), known)
        }
        false => (String::new(), "1 = 1".into()),
    };
    let sql = s.sql(format!(
        "UPDATE task SET {token} state = {state_code}, reason = COALESCE({reason}, reason), due_at = {due}, owner = NULL, \
         nonce = NULL, wish = 0, result = {result}, error = {detail}, ended_at = {now}, version = {NEXT_VERSION} \
         WHERE id = {id} AND {known}"
    ));
    if db.execute("move a task on", &sql)? != 1 {
        return Err(moved_away());
    }
    if !ended.names.is_empty() { place_in_line(db, task, state) } else { Ok(()) }
}

/// Keeps or leaves the lines, as the kind said at the claim.
fn place_in_line(db: &mut dyn Db, task: TaskId, state: TaskState) -> StoreResult<()> {
    // Bits of protocol::task::Policy: 512 is on_retry = pass, 1024 is on_failure = block.
    let stays = match state {
        TaskState::Waiting => "CASE WHEN policy & 512 <> 0 THEN 0 ELSE 1 END",
        TaskState::Failed | TaskState::Quarantined => "CASE WHEN policy & 1024 <> 0 THEN 1 ELSE 0 END",
        TaskState::Held => "0",
        _ => "1",
    };
    let mut s = db.stmt();
    let id = s.int(task.as_i64());
    let sql = s.sql(format!(
        "UPDATE task_resource SET in_line = (SELECT {stays} FROM task WHERE id = {id}) WHERE task = {id}"
    ));
    db.execute("keep or leave the line", &sql).map(|_| ())
}
