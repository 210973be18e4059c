//! Claims of tasks that name resources, many in one short transaction.
//!
//! Candidates are read without locks, their resources are locked in name order (passing over those that another
//! engine holds), the lines are read *after* the locks were taken, and then `protocol::line` decides who takes and
//! who is moved to `blocked`. What was decided is written by sets: one statement for all tasks, one for all their
//! resources. Task by task it was two statements each, and an engine came to 700 tasks a second; most of that was
//! waiting for answers.
//!
//! Each task has a token of its own: the largest that is stored with it or its resources, plus one.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Change, change};
use super::claim::{BYTES_MAX, CAN_GROW, CLAIMED, may_claim, read_claimed};
use super::rows::{NEXT_ATTEMPT, NEXT_VERSION, corrupt, is_in, next_token, resources_of};
use crate::protocol::ids::{ResourceName, TaskId, Token};
use crate::protocol::line::{LockedResource, Place, Round};
use crate::protocol::takeover::ALONE_FROM;
use crate::protocol::task::TaskState;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::{Bind, ColumnType, Row, Sql, Stmt};
use crate::store::types::{Claim, Claimed};

/// Candidates with resources are read this many times over, so that two engines that look at the same
/// head of the queue do not both come back with nothing.
pub const LOOK_AHEAD: usize = 4;

/// At least so many candidates are looked at.
pub const LOOK_MIN: usize = 64;

/// Rounds of one claim, each a transaction of its own: a long line in front of the queue is moved to
/// `blocked` round by round, so that it does not keep other resources waiting for one poll after the other.
pub const ROUNDS_MAX: usize = 16;

/// See `claim::claim`.
pub(super) fn keyed_rounds(db: &mut dyn Db, c: &Claim, lost: &str, limit: usize) -> StoreResult<Vec<Claimed>> {
    for _ in 0..ROUNDS_MAX {
        let (claimed, blocked) = db.transaction("claim", |db| claim_keyed(db, c, lost, limit))?;
        if !claimed.is_empty() || blocked == 0 {
            return Ok(claimed);
        }
    }
    Ok(Vec::new())
}

/// What was claimed, and how many were moved behind their lines.
fn claim_keyed(db: &mut dyn Db, c: &Claim, lost: &str, limit: usize) -> StoreResult<(Vec<Claimed>, usize)> {
    let candidates = keyed_candidates(db, c, lost, limit.saturating_mul(LOOK_AHEAD).max(LOOK_MIN))?;
    if candidates.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let wants = resources_of(db, &candidates)?;
    let names: BTreeSet<&ResourceName> = wants.values().flatten().collect();
    create_missing(db, &names)?;
    let locked = lock_lines(db, &names)?;
    let whole = |id: &&TaskId| wants.get(*id).is_some_and(|names| names.iter().all(|n| locked.contains_key(n)));
    let ready = lock_ready(db, candidates.iter().filter(whole))?;
    let (mut take, mut blocked, mut round) = (Vec::new(), Vec::new(), Round::default());
    let mut bytes = 0_i64;
    for id in candidates.iter() {
        let Some(length) = ready.get(id) else { continue };
        let names = wants.get(id).map_or(&[][..], Vec::as_slice);
        // A full hand still looks at the rest of the candidates: those that stand behind others leave
        // the polled path now, so that a long line costs each task one look, not one look a claim.
        let is_full = take.len() >= limit || !take.is_empty() && bytes + length > BYTES_MAX;
        if is_full && !is_behind(*id, names, &locked) {
            continue;
        }
        match round.place(*id, names, &locked) {
            Place::Take { stored } if stored >= Token::MAX => {}
            Place::Take { stored } => {
                take.push((*id, stored));
                bytes += length;
            }
            Place::Behind(resource) => blocked.push((*id, resource)),
            Place::Unknown => {}
        }
    }
    block(db, &blocked)?;
    let mut claimed = take_all(db, c, &take)?;
    for task in &mut claimed {
        task.resources = wants.get(&task.held.task).cloned().unwrap_or_default();
    }
    own_all(db, c, &claimed)?;
    Ok((claimed, blocked.len()))
}

/// Whether somebody else stands before it in one of its lines.
pub fn is_behind(id: TaskId, names: &[ResourceName], locked: &BTreeMap<ResourceName, LockedResource>) -> bool {
    names.iter().filter_map(|n| locked.get(n)).any(|r| r.owner_task.is_some() || r.head.is_some_and(|head| head < id))
}

fn keyed_candidates(db: &mut dyn Db, c: &Claim, lost: &str, limit: usize) -> StoreResult<Vec<TaskId>> {
    let identity = db.identity()?;
    let mut s = db.stmt();
    let (kind, host) = (s.text(c.kind.as_str()), s.text(&c.host));
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    let may = may_claim(&mut s, &identity, c.incarnation);
    let sql = s.sql(format!(
        "SELECT id FROM task WHERE state = 0 AND keyed = 1 AND kind = {kind} AND lost {lost} {ALONE_FROM} \
         AND (not_on IS NULL OR not_on <> {host}) AND {CAN_GROW} AND {may} ORDER BY priority DESC, id LIMIT {limit}"
    ));
    Ok(db.query("claim", &sql)?.into_iter().map(|mut row| TaskId::new(row.int())).collect())
}

/// Resource rows are made by the first claim, never by an enqueue: a submitter's long transaction must
/// not hold a row that engines need.
pub fn create_missing(db: &mut dyn Db, names: &BTreeSet<&ResourceName>) -> StoreResult<()> {
    let mut s = db.stmt();
    let list = s.in_texts(names.iter().map(|n| n.as_str()));
    let sql = s.sql(format!("SELECT name FROM resource WHERE name {list}"));
    let found: BTreeSet<String> = db.query("claim", &sql)?.into_iter().map(|mut row| row.text()).collect();
    let missing: Vec<&str> = names.iter().map(|n| n.as_str()).filter(|n| !found.contains(*n)).collect();
    let or_nothing = db.dialect().or_nothing("resource", "name");
    // One by one in name order: two engines that make the same rows in one order cannot deadlock.
    for name in missing {
        let mut s = db.stmt();
        let name = s.text(name);
        let sql = s.sql(format!("INSERT INTO resource (name) VALUES ({name}) {or_nothing}"));
        db.execute("claim", &sql)?;
    }
    Ok(())
}

fn lock_lines(db: &mut dyn Db, names: &BTreeSet<&ResourceName>) -> StoreResult<BTreeMap<ResourceName, LockedResource>> {
    let (skip, by) = (db.dialect().skip_locked, db.dialect().by("PRIMARY"));
    let mut s = db.stmt();
    let list = s.in_texts(names.iter().map(|n| n.as_str()));
    let sql =
        s.sql(format!("SELECT name, owner_task, token FROM resource {by} WHERE name {list} ORDER BY name {skip}"));
    let mut locked = BTreeMap::new();
    for mut row in db.query("claim", &sql)? {
        let name = ResourceName::from_stored(row.text());
        let resource =
            LockedResource { owner_task: row.opt_int().map(TaskId::new), token: Token::new(row.int()), head: None };
        locked.insert(name, resource);
    }
    read_heads(db, &mut locked)?;
    Ok(locked)
}

/// A statement of its own after the locks: inside the locking one the lines would be read from a
/// snapshot that is older than the locks, and a task that left its line meanwhile would still stand there.
fn read_heads(db: &mut dyn Db, locked: &mut BTreeMap<ResourceName, LockedResource>) -> StoreResult<()> {
    let mut s = db.stmt();
    let list = s.in_texts(locked.keys().map(ResourceName::as_str));
    let sql = s.sql(format!(
        "SELECT r.name, (SELECT tr.task FROM task_resource tr WHERE tr.resource = r.name AND tr.in_line = 1 \
         ORDER BY tr.task LIMIT 1) FROM resource r WHERE r.name {list}"
    ));
    for mut row in db.query("claim", &sql)? {
        let name = ResourceName::from_stored(row.text());
        if let Some(resource) = locked.get_mut(&name) {
            resource.head = row.opt_int().map(TaskId::new);
        }
    }
    Ok(())
}

/// With the lengths of their payloads.
fn lock_ready<'a>(db: &mut dyn Db, ids: impl Iterator<Item = &'a TaskId>) -> StoreResult<BTreeMap<TaskId, i64>> {
    let (skip, by) = (db.dialect().skip_locked, db.dialect().by("PRIMARY"));
    let mut s = db.stmt();
    let ids = s.in_ints(ids.map(|t| t.as_i64()));
    let ready = is_in("state", TaskState::Ready);
    let sql = s.sql(format!("SELECT id, length(payload) FROM task {by} WHERE id {ids} AND {ready} ORDER BY id {skip}"));
    Ok(db.query("claim", &sql)?.into_iter().map(|mut row| (TaskId::new(row.int()), row.int())).collect())
}

/// Moves tasks behind their lines, under a write of the resource that keeps them waiting.
fn block(db: &mut dyn Db, blocked: &[(TaskId, ResourceName)]) -> StoreResult<()> {
    if blocked.is_empty() {
        return Ok(());
    }
    let mut s = db.stmt();
    let list = s.in_texts(blocked.iter().map(|(_, name)| name.as_str()).collect::<BTreeSet<_>>());
    let by = db.dialect().by("PRIMARY");
    let sql = s.sql(format!("UPDATE resource {by} SET version = {NEXT_VERSION} WHERE name {list}"));
    db.execute("block", &sql)?;
    let by = db.dialect().by("PRIMARY");
    let mut s = db.stmt();
    let ids = s.in_ints(blocked.iter().map(|(id, _)| id.as_i64()));
    let ready = is_in("state", TaskState::Ready);
    let sql = s.sql(format!("UPDATE task {by} SET state = 2, version = {NEXT_VERSION} WHERE id {ids} AND {ready}"));
    db.execute("block", &sql).map(|_| ())
}

/// Gives the tasks to their new owner; what it got, in the order of `take`. All or none: what could keep one from it
/// is locked, or is the same for all.
fn take_all(db: &mut dyn Db, c: &Claim, take: &[(TaskId, Token)]) -> StoreResult<Vec<Claimed>> {
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
fn own_all(db: &mut dyn Db, c: &Claim, claimed: &[Claimed]) -> StoreResult<()> {
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
