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

use super::claim::{BYTES_MAX, CAN_GROW, may_claim};
use super::rows::{NEXT_VERSION, Names, is_in, resources_of};
use super::take::{own_all, take_all};
use crate::protocol::ids::{ResourceName, TaskId, Token};
use crate::protocol::line::{LockedResource, Place, Round};
use crate::protocol::takeover::ALONE_FROM;
use crate::protocol::task::TaskState;
use crate::store::api::StoreResult;
use crate::store::db::Db;
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
    let mut held = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let known = held.len();
        let (claimed, blocked) = db.transaction("claim", |db| claim_keyed(db, c, lost, limit, &mut held))?;
        if !claimed.is_empty() || blocked == 0 && held.len() == known {
            return Ok(claimed);
        }
    }
    Ok(Vec::new())
}

/// What was claimed, and how many were moved behind their lines. `held` are resources that another engine was found to
/// hold: the next round looks for others.
fn claim_keyed(
    db: &mut dyn Db,
    c: &Claim,
    lost: &str,
    limit: usize,
    held: &mut BTreeSet<ResourceName>,
) -> StoreResult<(Vec<Claimed>, usize)> {
    let candidates = keyed_candidates(db, c, lost, limit.saturating_mul(LOOK_AHEAD).max(LOOK_MIN))?;
    if candidates.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let wants = resources_of(db, &candidates)?;
    let candidates = worth_locking(db, &candidates, &wants, limit, held)?;
    let names: BTreeSet<&ResourceName> = candidates.iter().filter_map(|id| wants.get(id)).flatten().collect();
    create_missing(db, &names)?;
    let locked = lock_lines(db, &names)?;
    held.extend(names.iter().filter(|name| !locked.contains_key(**name)).map(|name| (*name).clone()));
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

/// Those that will be taken or moved behind their lines, as far as an unlocked look can tell: what a full hand cannot
/// take is left to other engines, which pass over what is locked here.
fn worth_locking(
    db: &mut dyn Db,
    candidates: &[TaskId],
    wants: &Names,
    limit: usize,
    held: &BTreeSet<ResourceName>,
) -> StoreResult<Vec<TaskId>> {
    let names: BTreeSet<&ResourceName> = wants.values().flatten().filter(|name| !held.contains(*name)).collect();
    let seen = read_lines(db, &names)?;
    let (mut chosen, mut taken, mut round) = (Vec::new(), 0, Round::default());
    for id in candidates {
        let names = wants.get(id).map_or(&[][..], Vec::as_slice);
        match round.place(*id, names, &seen) {
            Place::Behind(_) => chosen.push(*id),
            // Its resource can be given out no more: it must not stand in the way of others.
            Place::Take { stored } if stored >= Token::MAX => {}
            Place::Take { .. } if taken < limit => {
                taken += 1;
                chosen.push(*id);
            }
            Place::Take { .. } | Place::Unknown => {}
        }
    }
    Ok(chosen)
}

/// Resources with the heads of their lines, unlocked: of one that is owned the head tells nothing more. One that no
/// claim has made yet is free.
fn read_lines(db: &mut dyn Db, names: &BTreeSet<&ResourceName>) -> StoreResult<BTreeMap<ResourceName, LockedResource>> {
    let free = LockedResource { owner_task: None, token: Token::ZERO, head: None };
    let mut seen: BTreeMap<ResourceName, LockedResource> =
        names.iter().map(|name| ((*name).clone(), free.clone())).collect();
    let mut s = db.stmt();
    let list = s.in_texts(names.iter().map(|n| n.as_str()));
    let sql = s.sql(format!(
        "SELECT r.name, r.owner_task, r.token, CASE WHEN r.owner_task IS NULL THEN \
         (SELECT tr.task FROM task_resource tr WHERE tr.resource = r.name AND tr.in_line = 1 ORDER BY tr.task LIMIT 1) END \
         FROM resource r {} WHERE r.name {list}",
        db.dialect().by("PRIMARY")
    ));
    for mut row in db.query("claim", &sql)? {
        let name = ResourceName::from_stored(row.text());
        let (owner_task, token) = (row.opt_int().map(TaskId::new), Token::new(row.int()));
        seen.insert(name, LockedResource { owner_task, token, head: row.opt_int().map(TaskId::new) });
    }
    Ok(seen)
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
