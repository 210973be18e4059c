//! What a claim of tasks with resources writes: all tasks by one statement, all their resources by another.

use std::collections::BTreeMap;

use super::change::{Change, change};
use super::claim::{CLAIMED, may_claim, read_claimed};
use super::rows::{NEXT_ATTEMPT, NEXT_VERSION, corrupt, is_in, next_token};
use crate::protocol::ids::{ResourceName, TaskId, Token};
use crate::protocol::task::TaskState;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::{Bind, ColumnType, Row, Sql, Stmt};
use crate::store::types::{Claim, Claimed};

/// Gives the tasks to their new owner; what it got, in the order of `take`. All or none: what could keep one from it
/// is locked, or is the same for all.
pub(super) fn take_all(db: &mut dyn Db, c: &Claim, take: &[(TaskId, Token)]) -> StoreResult<Vec<Claimed>> {
    if take.is_empty() {
        return Ok(Vec::new());
    }
    let rows = if db.dialect().has_returning { take_from_table(db, c, take)? } else { take_by_words(db, c, take)? };
    let got = rows.into_iter().map(|row| read_claimed(row, c)).map(|task| (task.held.task, task));
    let mut got: BTreeMap<TaskId, Claimed> = got.collect();
    if !got.is_empty() && got.len() != take.len() {
        return Err(corrupt("claim", format!("{} of {} locked tasks were claimed", got.len(), take.len())));
    }
    Ok(take.iter().filter_map(|(id, _)| got.remove(id)).collect())
}

/// The assignments; `stored` is an expression for the largest token of a task's resources.
fn taken(db: &dyn Db, s: &mut Stmt, c: &Claim, stored: &str) -> String {
    let (now, greatest) = (db.dialect().now, db.dialect().greatest);
    let token = next_token(db.dialect(), &format!("{greatest}(token, {stored})"));
    let (owner, nonce, policy) = (s.int(c.incarnation.as_i64()), s.int(c.nonce.as_i64()), s.int(c.policy.code()));
    format!(
        "state = 3, owner = {owner}, nonce = {nonce}, policy = {policy}, attempt = {NEXT_ATTEMPT}, \
         version = {NEXT_VERSION}, claimed_at = {now}, ended_at = NULL, \
         token = {token}"
    )
}

fn take_from_table(db: &mut dyn Db, c: &Claim, take: &[(TaskId, Token)]) -> StoreResult<Vec<Row>> {
    let identity = db.identity()?;
    let mut s = db.stmt();
    let rows: Vec<Vec<Bind>> =
        take.iter().map(|(id, stored)| vec![Bind::Int(Some(id.as_i64())), Bind::Int(Some(stored.as_i64()))]).collect();
    let u = s.table("u", &[("task_id", ColumnType::Int), ("stored", ColumnType::Int)], &rows);
    let set = taken(db, &mut s, c, "u.stored");
    let may = may_claim(&mut s, &identity, c.incarnation);
    let ready = is_in("state", TaskState::Ready);
    let sql =
        s.sql(format!("UPDATE task SET {set} FROM {u} WHERE id = u.task_id AND {ready} AND {may} RETURNING {CLAIMED}"));
    db.query("claim", &sql)
}

/// Where an UPDATE reads no bound table without locking what else it reads: the engine's row, which beats.
fn take_by_words(db: &mut dyn Db, c: &Claim, take: &[(TaskId, Token)]) -> StoreResult<Vec<Row>> {
    let identity = db.identity()?;
    let mut s = db.stmt();
    let mut by_token: BTreeMap<Token, Vec<i64>> = BTreeMap::new();
    for (id, stored) in take {
        by_token.entry(*stored).or_default().push(id.as_i64());
    }
    // Lines go forward side by side, so a few tokens stand for all of them.
    let whens: Vec<String> = by_token
        .into_iter()
        .map(|(stored, ids)| format!("WHEN id {} THEN {}", s.in_ints(ids), stored.as_i64()))
        .collect();
    let set = taken(db, &mut s, c, &format!("CASE {} ELSE 0 END", whens.join(" ")));
    let ids = s.in_ints(take.iter().map(|(id, _)| id.as_i64()));
    let claim = Change {
        step: "claim",
        table: "task",
        key: "id",
        set: Some(set),
        which: format!("id {ids} AND {}", is_in("state", TaskState::Ready)),
        guard: may_claim(&mut s, &identity, c.incarnation),
        order: String::new(),
        limit: String::new(),
        bytes: None,
        // They are locked already.
        lock: "",
        columns: CLAIMED,
    };
    change(db, &s, &claim)
}

/// Writes the resources of what was claimed: owner, and the token of the task.
pub(super) fn own_all(db: &mut dyn Db, c: &Claim, claimed: &[Claimed]) -> StoreResult<()> {
    let count: usize = claimed.iter().map(|task| task.resources.len()).sum();
    if count == 0 {
        return Ok(());
    }
    let sql = if db.dialect().has_returning { own_from_table(db, c, claimed) } else { own_by_join(db, c, claimed) };
    let owned = db.execute("claim", &sql)?;
    if owned != count {
        return Err(corrupt("claim", format!("{} tasks took {owned} of {count} resources", claimed.len())));
    }
    Ok(())
}

fn own_from_table(db: &dyn Db, c: &Claim, claimed: &[Claimed]) -> Sql {
    let now = db.dialect().now;
    let row = |task: &Claimed, name: &ResourceName| {
        let (id, token) = (task.held.task.as_i64(), task.held.token.as_i64());
        vec![Bind::Text(Some(name.to_string())), Bind::Int(Some(id)), Bind::Int(Some(token))]
    };
    let rows: Vec<Vec<Bind>> =
        claimed.iter().flat_map(|task| task.resources.iter().map(move |name| row(task, name))).collect();
    let columns = [("resource", ColumnType::Text), ("task_id", ColumnType::Int), ("task_token", ColumnType::Int)];
    let mut s = db.stmt();
    let owner = s.int(c.incarnation.as_i64());
    let u = s.table("u", &columns, &rows);
    s.sql(format!(
        "UPDATE resource SET owner_task = u.task_id, owner = {owner}, token = u.task_token, version = {NEXT_VERSION}, \
         used_at = {now} FROM {u} WHERE name = u.resource AND owner_task IS NULL"
    ))
}

/// The same from the rows of the tasks themselves: the names of a bound table would be compared by another
/// collation than that of the index.
fn own_by_join(db: &dyn Db, c: &Claim, claimed: &[Claimed]) -> Sql {
    let (now, join) = (db.dialect().now, db.dialect().cross_join);
    let mut s = db.stmt();
    let owner = s.int(c.incarnation.as_i64());
    let ids = s.in_ints(claimed.iter().map(|task| task.held.task.as_i64()));
    s.sql(format!(
        "UPDATE task_resource tr {join} task t ON t.id = tr.task {join} resource r ON r.name = tr.resource \
         SET r.owner_task = t.id, r.owner = {owner}, r.token = t.token, r.version = {}, r.used_at = {now} \
         WHERE tr.task {ids} AND r.owner_task IS NULL",
        NEXT_VERSION.replace("version", "r.version")
    ))
}
