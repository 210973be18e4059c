//! Takeover: a batch of orphans of one ended incarnation becomes ready again, with the evidence.
//!
//! Level-triggered: whoever finds such tasks does a batch of them; if it dies, the next goes on. The
//! locks are taken in the one order (resources by name, then tasks), passing over what others hold:
//! another sweep does those, or a late transaction that will end soon.

use std::collections::{BTreeMap, BTreeSet};

use super::ends::{Ended, write_next};
use super::engines;
use super::hours;
use super::lines::wake_heads;
use super::rows::{COUNT_CEILING, NEXT_VERSION, held, plus, resources_of};
use crate::protocol::engine::{EngineState, Proof};
use crate::protocol::ids::{Incarnation, KindName, ResourceName, TaskId, Token};
use crate::protocol::takeover::{Next, Orphan, OwnerEnd, take_over as decide};
use crate::protocol::task::{AttemptResult, Policy, Wish};
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::audit::Counts;
use crate::store::db::Db;
use crate::store::sql::Row;
use crate::store::types::{Held, TakeoverReport};

/// How an owner ended, with what people will read as evidence.
#[derive(Debug, Clone)]
pub struct OwnerRow {
    /// For the decision.
    pub end: OwnerEnd,
    /// For people.
    pub evidence: String,
}

impl OwnerRow {
    /// From the owner's row or history.
    pub fn new(
        incarnation: Incarnation,
        state: EngineState,
        proof: Proof,
        beat_at: Option<i64>,
        ended_at: Option<i64>,
        by: Option<String>,
    ) -> Self {
        let stood = Timestamp::from_us(ended_at.unwrap_or(0)).since(Timestamp::from_us(beat_at.unwrap_or(0)));
        let by = by.unwrap_or_else(|| "?".into());
        let evidence = match (state, proof) {
            (EngineState::Stopped, _) => "its engine stopped".to_owned(),
            (_, Proof::Expiry) => format!("no beat for {:.1}s; fenced by {by}", stood.as_secs_f64()),
            (_, Proof::Guard) => "its engine died; its guard killed what was left and proved it".to_owned(),
            (_, Proof::Lock) => "its engine died; its successor held the lock of its state directory".to_owned(),
            (_, Proof::Itself) => "its engine lost its lease, stopped everything and came back".to_owned(),
            (_, Proof::Unit) => "its engine died; systemd ended its unit".to_owned(),
            (_, Proof::Operator) => format!("its engine was fenced by {by}"),
        };
        Self { end: OwnerEnd { incarnation, state, proof }, evidence }
    }

    /// An owner that the database does not know (any more).
    pub fn unknown(incarnation: Incarnation) -> Self {
        let end = OwnerEnd { incarnation, state: EngineState::Fenced, proof: Proof::Expiry };
        Self { end, evidence: "its engine is not known to the database (any more)".into() }
    }
}

struct OrphanRow {
    held: Held,
    orphan: Orphan,
    attempt: u32,
    claimed_at: i64,
    kind: KindName,
}

/// See `Store::take_over`.
pub fn take_over(db: &mut dyn Db, owner: Incarnation, by: &str, limit: usize) -> StoreResult<TakeoverReport> {
    db.transaction("take over", |db| take_over_here(db, owner, by, limit))
}

/// The same inside the caller's transaction.
pub fn take_over_here(db: &mut dyn Db, owner: Incarnation, by: &str, limit: usize) -> StoreResult<TakeoverReport> {
    let Some((end, name)) = engines::owner_end(db, owner)? else { return Ok(TakeoverReport::default()) };
    let mut ids = candidates(db, owner, limit + 1)?;
    let more = ids.len() > limit;
    ids.truncate(limit);
    let wants = resources_of(db, &ids)?;
    let locked = lock_resources(db, wants.values().flatten())?;
    let whole = |id: &TaskId| wants.get(id).is_none_or(|names| names.iter().all(|n| locked.contains_key(n)));
    let chosen: Vec<TaskId> = ids.iter().copied().filter(whole).collect();
    let rows = lock_orphans(db, owner, &chosen)?;
    let mut report = TakeoverReport { more, skipped: ids.len() - rows.len(), ..TakeoverReport::default() };
    let mut freed = BTreeSet::new();
    let mut counts: BTreeMap<KindName, Counts> = BTreeMap::new();
    for row in &rows {
        let plan = decide(&row.orphan, &end.end);
        let names = wants.get(&row.held.task).map_or(&[][..], Vec::as_slice);
        let stored = names.iter().filter_map(|n| locked.get(n)).copied().max().unwrap_or(row.held.token);
        write_attempt(db, row, plan.result, &name, owner, &end.evidence)?;
        charge(db, row, &plan, &name)?;
        let ended =
            Ended { stored: stored.max(row.held.token), names, result: plan.result, detail: Some(&end.evidence) };
        write_next(db, row.held.task, &plan.next, &ended)?;
        let of_kind = counts.entry(row.kind.clone()).or_default();
        of_kind.claimed(None);
        of_kind.ended(plan.result, &plan.next, None);
        freed.extend(names.iter().cloned());
        if matches!(plan.next, Next::Ready(_)) { report.ready += 1 } else { report.parked += 1 }
    }
    free_strays(db, owner, more || report.skipped > 0, &mut freed)?;
    wake_heads(db, &freed)?;
    // What is put aside or canceled is taken over by nobody.
    count_taken(db, owner, by, report.ready)?;
    hours::add_here(db, owner, &counts)?;
    Ok(report)
}

fn candidates(db: &mut dyn Db, owner: Incarnation, limit: usize) -> StoreResult<Vec<TaskId>> {
    let mut s = db.stmt();
    let (owner, limit) = (s.int(owner.as_i64()), s.int(i64::try_from(limit).unwrap_or(i64::MAX)));
    let sql = s.sql(format!("SELECT id FROM task WHERE owner = {owner} ORDER BY id LIMIT {limit}"));
    Ok(db.query("look for orphans", &sql)?.into_iter().map(|mut row| TaskId::new(row.int())).collect())
}

/// Locks resource rows in name order, passing over those that others hold; their tokens.
pub fn lock_resources<'a>(
    db: &mut dyn Db,
    names: impl Iterator<Item = &'a ResourceName>,
) -> StoreResult<BTreeMap<ResourceName, Token>> {
    let skip = db.dialect().skip_locked;
    lock_with(db, names, skip)
}

/// The same, waiting for those that others hold.
pub fn lock_resources_waiting<'a>(
    db: &mut dyn Db,
    names: impl Iterator<Item = &'a ResourceName>,
) -> StoreResult<BTreeMap<ResourceName, Token>> {
    let wait = db.dialect().for_update;
    lock_with(db, names, wait)
}

fn lock_with<'a>(
    db: &mut dyn Db,
    names: impl Iterator<Item = &'a ResourceName>,
    lock: &str,
) -> StoreResult<BTreeMap<ResourceName, Token>> {
    let names: BTreeSet<&str> = names.map(|n| n.as_str()).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let by = db.dialect().by("PRIMARY");
    let mut s = db.stmt();
    let list = s.in_texts(names);
    let sql = s.sql(format!("SELECT name, token FROM resource {by} WHERE name {list} ORDER BY name {lock}"));
    let rows = db.query("lock resources", &sql)?;
    Ok(rows.into_iter().map(|mut row| (ResourceName::from_stored(row.text()), Token::new(row.int()))).collect())
}

fn lock_orphans(db: &mut dyn Db, owner: Incarnation, ids: &[TaskId]) -> StoreResult<Vec<OrphanRow>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let skip = db.dialect().skip_locked;
    let mut s = db.stmt();
    let (owner, ids) = (s.int(owner.as_i64()), s.in_ints(ids.iter().map(|t| t.as_i64())));
    let sql = s.sql(format!(
        "SELECT id, token, nonce, lost, handed_back, charged, policy, wish, attempt, claimed_at, kind FROM task \
         WHERE id {ids} AND owner = {owner} ORDER BY id {skip}"
    ));
    Ok(db.query("lock orphans", &sql)?.into_iter().map(read_orphan).collect())
}

fn read_orphan(mut row: Row) -> OrphanRow {
    OrphanRow {
        held: held(&mut row),
        orphan: Orphan {
            lost: row.count(),
            handed_back: row.count(),
            charged: row.opt_int().map(Incarnation::new),
            policy: Policy::from_code(row.int()),
            wish: Wish::from_code(row.int()).unwrap_or(Wish::None),
        },
        attempt: row.count(),
        claimed_at: row.int(),
        kind: KindName::from_stored(row.text()),
    }
}

fn write_attempt(
    db: &mut dyn Db,
    row: &OrphanRow,
    result: AttemptResult,
    engine: &str,
    owner: Incarnation,
    evidence: &str,
) -> StoreResult<()> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let values = [
        s.int(row.held.task.as_i64()),
        s.int(row.attempt),
        s.text(engine),
        s.int(owner.as_i64()),
        s.int(row.held.token.as_i64()),
        // No nonce: one in an attempt's row says that the claim's own engine wrote it (`read_finish`).
        s.int(0),
        s.int(row.claimed_at),
        now.to_owned(),
        s.int(result.code()),
        s.text(evidence),
    ];
    let sql = s.sql(format!(
        "INSERT INTO attempt (task, attempt, engine, incarnation, token, nonce, started_at, ended_at, result, detail) \
         VALUES ({}) {}",
        values.join(", "),
        db.dialect().or_nothing("attempt", "task")
    ));
    db.execute("write the lost attempt", &sql).map(|_| ())
}

fn charge(
    db: &mut dyn Db,
    row: &OrphanRow,
    plan: &crate::protocol::takeover::Takeover,
    engine: &str,
) -> StoreResult<()> {
    let mut s = db.stmt();
    let engine = s.text(engine);
    let small = |count: u32| i64::from(count).min(COUNT_CEILING);
    let (id, lost, back) = (s.int(row.held.task.as_i64()), s.int(small(plan.lost)), s.int(small(plan.handed_back)));
    let charged = s.opt_int(plan.charged.map(Incarnation::as_i64));
    let sql = s.sql(format!(
        "UPDATE task SET lost = {lost}, handed_back = {back}, charged = {charged}, engine = {engine} WHERE id = {id}"
    ));
    db.execute("charge the lost engine", &sql).map(|_| ())
}

/// Resources whose owner ended but whose task is gone or owned by somebody else: no version of this
/// program leaves such rows, but a resource that stays owned for ever would stop its line for ever.
fn free_strays(db: &mut dyn Db, owner: Incarnation, more: bool, freed: &mut BTreeSet<ResourceName>) -> StoreResult<()> {
    if more {
        return Ok(());
    }
    let mut s = db.stmt();
    let id = s.int(owner.as_i64());
    let strays = format!(
        "owner = {id} AND NOT EXISTS (SELECT 1 FROM task t WHERE t.id = resource.owner_task AND t.owner = {id})"
    );
    let sql = s.clone().sql(format!("SELECT name FROM resource WHERE {strays} ORDER BY name"));
    let names: Vec<String> = db.query("free resources", &sql)?.into_iter().map(|mut row| row.text()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let list = s.in_texts(names.iter().map(String::as_str));
    let (least, last) = (db.dialect().least, Token::MAX.as_i64() - 1);
    let sql = s.sql(format!(
        "UPDATE resource SET owner = NULL, owner_task = NULL, token = {least}(token, {last}) + 1, version = {NEXT_VERSION} \
         WHERE name {list} AND {strays}"
    ));
    db.execute("free resources", &sql)?;
    // Waking a line too many harms nobody.
    freed.extend(names.into_iter().map(ResourceName::from_stored));
    Ok(())
}

fn count_taken(db: &mut dyn Db, owner: Incarnation, _by: &str, count: usize) -> StoreResult<()> {
    if count == 0 {
        return Ok(());
    }
    let mut s = db.stmt();
    let id = s.int(owner.as_i64());
    let sum = plus(db.dialect(), &mut s, "taken_over", count as u64);
    let sql = s.sql(format!("UPDATE engine_info SET taken_over = {sum} WHERE incarnation = {id}"));
    db.execute("count what was taken over", &sql).map(|_| ())
}
