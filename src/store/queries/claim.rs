//! Claims: `ready → running` with owner, token, nonce and `attempt + 1`.
//!
//! Tasks without resources are claimed in one statement. Tasks with resources need their resources'
//! rows first: candidates are read without locks, the resources are locked in name order (passing over
//! those that another engine holds), the lines are read *after* the locks were taken, and then
//! `protocol::line` decides who takes and who is moved to `blocked`.
//!
//! Each claiming statement reads `meta`, the identity of the database and the engine's own row: an
//! epoch that was raised and not settled, a database that moved, or an incarnation that is not live
//! gets nothing. A claim can still commit after its engine was fenced, because it reads the engine's
//! row without a lock (a lock there would make beats wait); the slow search finds such tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::change::{Change, change as run_change, change_held, in_one};
use super::rows::{held, is_in, resources_of};
use crate::protocol::ids::{Incarnation, KindName, ResourceName, TaskId, Token};
use crate::protocol::line::{LockedResource, Place, Round};
use crate::protocol::takeover::ALONE_FROM;
use crate::protocol::task::{Reason, TaskState};
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::{Row, Stmt};
use crate::store::types::{Claim, ClaimScope, Claimed, Held, KindWork};

/// Candidates with resources are read this many times over, so that two engines that look at the same
/// head of the queue do not both come back with nothing.
pub const LOOK_AHEAD: usize = 4;

/// At least so many candidates are looked at.
pub const LOOK_MIN: usize = 64;

/// See `Store::probe`.
pub fn probe(db: &mut dyn Db, kinds: &[KindName], host: &str) -> StoreResult<Vec<KindWork>> {
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    let mut s = db.stmt();
    let host = s.text(host);
    let may = format!("(t.not_on IS NULL OR t.not_on <> {host})");
    let mut parts = Vec::new();
    for (n, kind) in kinds.iter().enumerate() {
        let kind = s.text(kind.as_str());
        // Those that run alone have an index of their own: without it, "none" would be known only after
        // a look at the whole backlog.
        let some = |which: String| {
            format!(
                "CASE WHEN EXISTS (SELECT 1 FROM task t WHERE t.state = 0 AND t.kind = {kind} AND {which} AND {may}) \
                 THEN 1 ELSE 0 END"
            )
        };
        let shared = |keyed: u8| some(format!("t.keyed = {keyed} AND t.lost < {ALONE_FROM}"));
        let alone = some(format!("t.lost >= {ALONE_FROM}"));
        parts.push(format!("SELECT {n} AS n, {}, {}, {alone}", shared(0), shared(1)));
    }
    let sql = s.sql(parts.join(" UNION ALL "));
    let rows = db.query("probe", &sql)?;
    Ok(rows.into_iter().filter_map(|row| read_work(row, kinds)).collect())
}

fn read_work(mut row: Row, kinds: &[KindName]) -> Option<KindWork> {
    let kind = kinds.get(usize::try_from(row.int()).ok()?)?.clone();
    let work = KindWork { kind, plain: row.flag(), keyed: row.flag(), alone: row.flag() };
    (work.plain || work.keyed || work.alone).then_some(work)
}

/// See `Store::claim`.
pub fn claim(db: &mut dyn Db, c: &Claim) -> StoreResult<Vec<Claimed>> {
    match c.scope {
        ClaimScope::Plain => claim_plain(db, c, "<", c.limit),
        ClaimScope::Keyed => keyed_rounds(db, c, "<", c.limit),
        ClaimScope::Alone => {
            let plain = claim_plain(db, c, ">=", 1)?;
            if plain.is_empty() { keyed_rounds(db, c, ">=", 1) } else { Ok(plain) }
        }
    }
}

/// Rounds of one claim, each a transaction of its own: a long line in front of the queue is moved to
/// `blocked` round by round, so that it does not keep other resources waiting for one poll after the other.
pub const ROUNDS_MAX: usize = 16;

fn keyed_rounds(db: &mut dyn Db, c: &Claim, lost: &str, limit: usize) -> StoreResult<Vec<Claimed>> {
    for _ in 0..ROUNDS_MAX {
        let (claimed, blocked) = db.transaction("claim", |db| claim_keyed(db, c, lost, limit))?;
        if !claimed.is_empty() || blocked == 0 {
            return Ok(claimed);
        }
    }
    Ok(Vec::new())
}

/// The last column is the wait, where the task was ready from the moment it was added: whatever delays a
/// task (a due time, a line, an earlier claim) writes its row and raises `version`.
const CLAIMED: &str = "id, token, attempt, failures, lost, handed_back, reason, was_elsewhere, payload, \
     CASE WHEN attempt = 1 AND version = 1 AND reason = 0 THEN claimed_at - created_at END";

fn read_claimed(mut row: Row, c: &Claim) -> Claimed {
    Claimed {
        held: Held { task: TaskId::new(row.int()), token: Token::new(row.int()), nonce: c.nonce },
        kind: c.kind.clone(),
        attempt: row.count(),
        failures: row.count(),
        lost: row.count(),
        handed_back: row.count(),
        reason: Reason::from_code(row.int()).unwrap_or(Reason::First),
        was_elsewhere: row.flag(),
        payload: row.bytes(),
        resources: Vec::new(),
        waited: row.opt_int().map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0))),
    }
}

/// Conditions on `meta` and on the engine's own row.
fn may_claim(s: &mut Stmt, identity: &str, incarnation: Incarnation) -> String {
    let id = s.int(incarnation.as_i64());
    format!(
        "EXISTS (SELECT 1 FROM engine WHERE incarnation = {id} AND state = 1) AND EXISTS (SELECT 1 FROM meta \
         WHERE one = 1 AND settled_epoch >= raised_epoch AND identity = {identity})"
    )
}

fn claim_plain(db: &mut dyn Db, c: &Claim, lost: &str, limit: usize) -> StoreResult<Vec<Claimed>> {
    let identity = db.identity()?;
    let (now, greatest, skip) = (db.dialect().now, db.dialect().greatest, db.dialect().skip_locked);
    let mut s = db.stmt();
    let (kind, host) = (s.text(c.kind.as_str()), s.text(&c.host));
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    let may = may_claim(&mut s, &identity, c.incarnation);
    let (owner, nonce, policy) = (s.int(c.incarnation.as_i64()), s.int(c.nonce.as_i64()), s.int(c.policy.code()));
    let change = Change {
        step: "claim",
        table: "task",
        key: "id",
        set: Some(format!(
            "state = 3, owner = {owner}, nonce = {nonce}, policy = {policy}, attempt = attempt + 1, \
             version = version + 1, claimed_at = {now}, ended_at = NULL, \
             token = {greatest}(token, (SELECT epoch * 1099511627776 FROM meta WHERE one = 1)) + 1"
        )),
        which: format!(
            "state = 0 AND keyed = 0 AND kind = {kind} AND lost {lost} {ALONE_FROM} \
             AND (not_on IS NULL OR not_on <> {host})"
        ),
        guard: may,
        order: format!("ORDER BY priority DESC, id LIMIT {limit}"),
        lock: skip,
        columns: CLAIMED,
    };
    let rows = in_one(db, "claim", |db| run_change(db, &s, &change))?;
    let mut claimed: Vec<Claimed> = rows.into_iter().map(|row| read_claimed(row, c)).collect();
    claimed.sort_by_key(|task| task.held.task);
    Ok(claimed)
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
    for id in candidates.iter().filter(|id| ready.contains(id)) {
        let names = wants.get(id).map_or(&[][..], Vec::as_slice);
        // A full hand still looks at the rest of the candidates: those that stand behind others leave
        // the polled path now, so that a long line costs each task one look, not one look a claim.
        if take.len() >= limit && !is_behind(*id, names, &locked) {
            continue;
        }
        match round.place(*id, names, &locked) {
            Place::Take { stored } => take.push((*id, stored)),
            Place::Behind(resource) => blocked.push((*id, resource)),
            Place::Unknown => {}
        }
    }
    block(db, &blocked)?;
    let mut claimed = Vec::new();
    for (id, stored) in take {
        let names = wants.get(&id).map_or(&[][..], Vec::as_slice);
        if let Some(mut task) = take_one(db, c, id, stored, names)? {
            task.resources = names.to_vec();
            claimed.push(task);
        }
    }
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
         AND (not_on IS NULL OR not_on <> {host}) AND {may} ORDER BY priority DESC, id LIMIT {limit}"
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

fn lock_ready<'a>(db: &mut dyn Db, ids: impl Iterator<Item = &'a TaskId>) -> StoreResult<BTreeSet<TaskId>> {
    let (skip, by) = (db.dialect().skip_locked, db.dialect().by("PRIMARY"));
    let mut s = db.stmt();
    let ids = s.in_ints(ids.map(|t| t.as_i64()));
    let ready = is_in("state", TaskState::Ready);
    let sql = s.sql(format!("SELECT id FROM task {by} WHERE id {ids} AND {ready} ORDER BY id {skip}"));
    Ok(db.query("claim", &sql)?.into_iter().map(|mut row| TaskId::new(row.int())).collect())
}

/// Moves tasks behind their lines, under a write of the resource that keeps them waiting.
fn block(db: &mut dyn Db, blocked: &[(TaskId, ResourceName)]) -> StoreResult<()> {
    if blocked.is_empty() {
        return Ok(());
    }
    let mut s = db.stmt();
    let list = s.in_texts(blocked.iter().map(|(_, name)| name.as_str()).collect::<BTreeSet<_>>());
    let by = db.dialect().by("PRIMARY");
    let sql = s.sql(format!("UPDATE resource {by} SET version = version + 1 WHERE name {list}"));
    db.execute("block", &sql)?;
    let by = db.dialect().by("PRIMARY");
    let mut s = db.stmt();
    let ids = s.in_ints(blocked.iter().map(|(id, _)| id.as_i64()));
    let ready = is_in("state", TaskState::Ready);
    let sql = s.sql(format!("UPDATE task {by} SET state = 2, version = version + 1 WHERE id {ids} AND {ready}"));
    db.execute("block", &sql).map(|_| ())
}

fn take_one(
    db: &mut dyn Db,
    c: &Claim,
    id: TaskId,
    stored: Token,
    names: &[ResourceName],
) -> StoreResult<Option<Claimed>> {
    let identity = db.identity()?;
    let (now, greatest) = (db.dialect().now, db.dialect().greatest);
    let mut s = db.stmt();
    let (id_at, stored) = (s.int(id.as_i64()), s.int(stored.as_i64()));
    let (owner, nonce, policy) = (s.int(c.incarnation.as_i64()), s.int(c.nonce.as_i64()), s.int(c.policy.code()));
    let may = may_claim(&mut s, &identity, c.incarnation);
    let change = Change {
        step: "claim",
        table: "task",
        key: "id",
        set: Some(format!(
            "state = 3, owner = {owner}, nonce = {nonce}, policy = {policy}, attempt = attempt + 1, \
             version = version + 1, claimed_at = {now}, ended_at = NULL, \
             token = {greatest}({greatest}(token, {stored}), (SELECT epoch * 1099511627776 FROM meta WHERE one = 1)) + 1"
        )),
        which: is_in("state", TaskState::Ready),
        guard: may,
        order: String::new(),
        lock: "",
        columns: CLAIMED,
    };
    let Some(row) = change_held(db, &s, &change, &format!("id = {id_at}"))? else { return Ok(None) };
    let task = read_claimed(row, c);
    let mut s = db.stmt();
    let (id_at, owner, token) = (s.int(id.as_i64()), s.int(c.incarnation.as_i64()), s.int(task.held.token.as_i64()));
    let list = s.in_texts(names.iter().map(|n| n.as_str()));
    let sql = s.sql(format!(
        "UPDATE resource SET owner_task = {id_at}, owner = {owner}, token = {token}, version = version + 1, used_at = {now} \
         WHERE name {list} AND owner_task IS NULL"
    ));
    let owned = db.execute("claim", &sql)?;
    if owned != names.len() {
        return Err(super::rows::corrupt("claim", format!("{id} took {owned} of {} resources", names.len())));
    }
    Ok(Some(task))
}

/// What an incarnation owns.
pub fn owned(db: &mut dyn Db, incarnation: Incarnation) -> StoreResult<Vec<Held>> {
    let mut s = db.stmt();
    let owner = s.int(incarnation.as_i64());
    let sql = s.sql(format!("SELECT id, token, nonce FROM task WHERE owner = {owner} AND state = 3 ORDER BY id"));
    Ok(db.query("read what is owned", &sql)?.into_iter().map(|mut row| held(&mut row)).collect())
}
