//! Claims: `ready → running` with owner, token, nonce and `attempt + 1`.
//!
//! Tasks without resources are claimed in one statement; those with resources in `claim_keyed.rs`.
//!
//! Each claiming statement reads `meta`, the identity of the database and the engine's own row: an
//! epoch that was raised and not settled, a database that moved, or an incarnation that is not live
//! gets nothing. A claim can still commit after its engine was fenced, because it reads the engine's
//! row without a lock (a lock there would make beats wait); the slow search finds such tasks.

use std::time::Duration;

use super::change::{Change, change as run_change, in_one};
use super::claim_keyed::keyed_rounds;
use super::rows::{NEXT_ATTEMPT, NEXT_VERSION, held, next_token};
use crate::protocol::ids::{Incarnation, KindName, TaskId, Token};
use crate::protocol::takeover::ALONE_FROM;
use crate::protocol::task::Reason;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::{Row, Stmt};
use crate::store::types::{Claim, ClaimScope, Claimed, Held, KindWork};

/// Payloads that one claim brings at most, in bytes, though at least one task: an engine that claims a thousand
/// tasks ahead must not need the memory for a thousand large ones. Where a claim is one statement, adding them up
/// would read the head of the queue twice: there the dispatcher asks for fewer tasks after large ones.
pub(super) const BYTES_MAX: i64 = 32 << 20;

/// So many payloads are never more than that, so nothing is added up.
const BYTES_FROM: usize = 32;

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
        let shared = |keyed: u8| some(format!("t.keyed = {keyed} AND t.lost < {ALONE_FROM} AND t.{CAN_GROW}"));
        let alone = some(format!("t.lost >= {ALONE_FROM} AND t.{CAN_GROW}"));
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

/// The last column is the wait, where the task was ready from the moment it was added: whatever delays a
/// task (a due time, a line, an earlier claim) writes its row and raises `version`.
pub(super) const CLAIMED: &str = "id, token, attempt, failures, lost, handed_back, reason, was_elsewhere, payload, \
     CASE WHEN attempt = 1 AND version = 1 AND reason = 0 AND created_at > 0 THEN claimed_at - created_at END";

/// What has the largest token can be given no other: it is left where it is, for a person (`stray.rs`).
pub(super) const CAN_GROW: &str = "token < 9223372036854775806";

pub(super) fn read_claimed(mut row: Row, c: &Claim) -> Claimed {
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
pub(super) fn may_claim(s: &mut Stmt, identity: &str, incarnation: Incarnation) -> String {
    let id = s.int(incarnation.as_i64());
    format!(
        "EXISTS (SELECT 1 FROM engine WHERE incarnation = {id} AND state = 1) AND EXISTS (SELECT 1 FROM meta \
         WHERE one = 1 AND settled_epoch >= raised_epoch AND identity = {identity})"
    )
}

fn claim_plain(db: &mut dyn Db, c: &Claim, lost: &str, limit: usize) -> StoreResult<Vec<Claimed>> {
    let identity = db.identity()?;
    let (now, skip, token) = (db.dialect().now, db.dialect().skip_locked, next_token(db.dialect(), "token"));
    let mut s = db.stmt();
    let (kind, host) = (s.text(c.kind.as_str()), s.text(&c.host));
    let most = limit;
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    let may = may_claim(&mut s, &identity, c.incarnation);
    let (owner, nonce, policy) = (s.int(c.incarnation.as_i64()), s.int(c.nonce.as_i64()), s.int(c.policy.code()));
    let change = Change {
        step: "claim",
        table: "task",
        key: "id",
        set: Some(format!(
            "state = 3, owner = {owner}, nonce = {nonce}, policy = {policy}, attempt = {NEXT_ATTEMPT}, \
             version = {NEXT_VERSION}, claimed_at = {now}, ended_at = NULL, \
             token = {token}"
        )),
        which: format!(
            "state = 0 AND keyed = 0 AND kind = {kind} AND lost {lost} {ALONE_FROM} \
             AND (not_on IS NULL OR not_on <> {host}) AND {CAN_GROW}"
        ),
        guard: may,
        order: "ORDER BY priority DESC, id".into(),
        limit: format!("LIMIT {limit}"),
        bytes: (most > BYTES_FROM).then_some(("payload", BYTES_MAX)),
        lock: skip,
        columns: CLAIMED,
    };
    let rows = in_one(db, "claim", |db| run_change(db, &s, &change))?;
    let mut claimed: Vec<Claimed> = rows.into_iter().map(|row| read_claimed(row, c)).collect();
    claimed.sort_by_key(|task| task.held.task);
    Ok(claimed)
}

/// What an incarnation owns.
pub fn owned(db: &mut dyn Db, incarnation: Incarnation) -> StoreResult<Vec<Held>> {
    let mut s = db.stmt();
    let owner = s.int(incarnation.as_i64());
    let sql = s.sql(format!("SELECT id, token, nonce FROM task WHERE owner = {owner} AND state = 3 ORDER BY id"));
    Ok(db.query("read what is owned", &sql)?.into_iter().map(|mut row| held(&mut row)).collect())
}
