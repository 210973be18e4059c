//! Fencing, stopping, closing, and what operators want: how lives of engines end in the database.

use std::time::Duration;

use super::rows::{micros, plus};
use super::{takeover, uncounted};
use crate::planted::{Bug, planted};
use crate::protocol::engine::{EngineState, Proof, Wanted};
use crate::protocol::ids::Incarnation;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::types::{Fence, FenceOutcome, Wish4Engine};

/// See `Store::fence`.
pub fn fence(db: &mut dyn Db, fence: &Fence) -> StoreResult<FenceOutcome> {
    Ok(if fence_row(db, fence)? { FenceOutcome::Won } else { FenceOutcome::Missed })
}

/// The one write of a fence, for those who end an incarnation inside another transaction too.
pub fn fence_row(db: &mut dyn Db, fence: &Fence) -> StoreResult<bool> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let id = s.int(fence.incarnation.as_i64());
    let (proof, by) = (s.int(fence.proof.code()), s.text(&fence.by));
    let same_beat = fence.beat.filter(|_| !planted(Bug::FenceBlind));
    let same_beat = same_beat.map(|beat| format!("AND beat = {}", s.int(beat))).unwrap_or_default();
    let same_place = fence.place.as_ref().map(|place| {
        let ids: Vec<_> = place.state_ids.iter().map(|id| s.text(id)).collect();
        let boot = s.text(&place.boot_id);
        format!(
            "AND EXISTS (SELECT 1 FROM engine_info i WHERE i.incarnation = {id} AND i.boot_id = {boot} AND i.state_id IN ({}))",
            ids.join(", ")
        )
    });
    let same_place = same_place.unwrap_or_default();
    let sql = s.sql(format!(
        "UPDATE engine SET state = 2, live_name = NULL, proof = {proof}, ended_by = {by}, ended_at = {now} \
         WHERE incarnation = {id} AND state = 1 {same_beat} {same_place}"
    ));
    Ok(db.execute("fence", &sql)? == 1)
}

/// A fenced incarnation has stopped everything: what an operator's fence left with it may be taken over now.
pub(super) fn acknowledge_fence(db: &mut dyn Db, incarnation: Incarnation) -> StoreResult<()> {
    let mut s = db.stmt();
    let id = s.int(incarnation.as_i64());
    let sql = s.sql(format!("UPDATE engine SET acknowledged = 1 WHERE incarnation = {id} AND state = 2"));
    db.execute("acknowledge the fence", &sql).map(|_| ())
}

/// See `Store::stop`.
pub fn stop(db: &mut dyn Db, incarnation: Incarnation) -> StoreResult<bool> {
    db.transaction("stop", |db| stop_here(db, incarnation))
}

fn stop_here(db: &mut dyn Db, incarnation: Incarnation) -> StoreResult<bool> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let id = s.int(incarnation.as_i64());
    let sql = s.sql(format!(
        "UPDATE engine SET state = 3, live_name = NULL, running = 0, mode = 4, acknowledged = 1, ended_at = {now}, ended_by = name \
         WHERE incarnation = {id} AND state = 1"
    ));
    let stopped = db.execute("stop", &sql)? == 1;
    if !stopped {
        acknowledge_fence(db, incarnation)?;
        return Ok(false);
    }
    // A wish to stop is fulfilled now: the next start of this name runs.
    let mut s = db.stmt();
    let id = s.int(incarnation.as_i64());
    let sql = s.sql(format!(
        "DELETE FROM engine_wish WHERE wanted = 3 AND name = (SELECT name FROM engine_info WHERE incarnation = {id})"
    ));
    db.execute("stop", &sql)?;
    Ok(true)
}

/// Results of this incarnation were refused: counted in its row, or in its history once that is closed.
pub fn count_refused(db: &mut dyn Db, incarnation: Incarnation, count: usize) -> StoreResult<()> {
    let mut s = db.stmt();
    let id = s.int(incarnation.as_i64());
    let mut binds = s.clone();
    let refused = plus(db.dialect(), &mut s, "refused", count as u64);
    let sql = s.sql(format!("UPDATE engine SET refused = {refused} WHERE incarnation = {id}"));
    if db.execute("count refused results", &sql)? == 0 {
        let refused = plus(db.dialect(), &mut binds, "COALESCE(end_refused, 0)", count as u64);
        let sql = binds.sql(format!("UPDATE engine_info SET end_refused = {refused} WHERE incarnation = {id}"));
        db.execute("count refused results", &sql)?;
    }
    Ok(())
}

/// What `engine_info` keeps of a row that is closed: its column, and that of `engine`.
const KEPT: [(&str, &str); 8] = [
    ("end_state", "state"),
    ("end_mode", "mode"),
    ("end_proof", "proof"),
    ("end_beat", "beat"),
    ("end_beat_at", "last_beat_at"),
    ("end_refused", "refused"),
    ("ended_by", "ended_by"),
    ("ended_at", "ended_at"),
];

/// See `Store::close`. The read of what is owned is plain on purpose: with SKIP LOCKED a row that
/// another transaction holds at this moment would look like nothing, and the orphan would wait for the
/// slow search.
pub fn close(db: &mut dyn Db, incarnation: Incarnation) -> StoreResult<bool> {
    db.transaction("close", |db| {
        let mut s = db.stmt();
        let id = s.int(incarnation.as_i64());
        let sql = s.sql(format!(
            "SELECT (SELECT count(*) FROM task WHERE owner = {id}) + (SELECT count(*) FROM resource WHERE owner = {id})"
        ));
        if db.first("close", &sql)?.is_none_or(|mut row| row.int() > 0) && !planted(Bug::ClosedAfterSkip) {
            return Ok(false);
        }
        // Locked before it is copied: a refusal that is being counted at this moment belongs to the copy.
        let lock = db.dialect().for_update;
        let mut s = db.stmt();
        let id = s.int(incarnation.as_i64());
        let sql = s
            .sql(format!("SELECT counted_at, last_beat_at FROM engine WHERE incarnation = {id} AND state <> 1 {lock}"));
        if let Some(row) = db.first("close", &sql)? {
            uncounted::add(db, incarnation, row)?;
        }
        let mut s = db.stmt();
        let id = s.int(incarnation.as_i64());
        let of = |column: &str| format!("(SELECT e.{column} FROM engine e WHERE e.incarnation = {id})");
        let copies: Vec<_> = KEPT.iter().map(|(to, from)| format!("{to} = {}", of(from))).collect();
        let keep = s.clone().sql(format!(
            "UPDATE engine_info SET {} WHERE incarnation = {id} \
             AND EXISTS (SELECT 1 FROM engine e WHERE e.incarnation = {id} AND e.state <> 1)",
            copies.join(", ")
        ));
        db.execute("close", &keep)?;
        let sql = s.sql(format!("DELETE FROM engine WHERE incarnation = {id} AND state <> 1"));
        db.execute("close", &sql)?;
        let mut s = db.stmt();
        let id = s.int(incarnation.as_i64());
        // A live row is still there; one that another sweep has closed is gone as well.
        let sql = s.sql(format!("SELECT count(*) FROM engine WHERE incarnation = {id}"));
        Ok(db.first("close", &sql)?.is_none_or(|mut row| row.int() == 0))
    })
}

/// See `Store::set_wanted`.
pub fn set_wanted(db: &mut dyn Db, wish: &Wish4Engine) -> StoreResult<Option<Wanted>> {
    let now = db.dialect().now;
    db.transaction("set what is wanted", |db| {
        let mut s = db.stmt();
        let name = s.text(wish.name.as_str());
        let sql = s.sql(format!(
            "SELECT (SELECT count(*) FROM engine_info WHERE name = {name}), \
             (SELECT wanted FROM engine_wish WHERE name = {name} AND (until_at IS NULL OR until_at > {now}))"
        ));
        let Some(mut row) = db.first("set what is wanted", &sql)? else { return Ok(None) };
        if row.int() == 0 {
            return Ok(None);
        }
        let had = row.opt_int().and_then(Wanted::from_code).unwrap_or(Wanted::Run);
        let mut s = db.stmt();
        let (name, wanted) = (s.text(wish.name.as_str()), s.int(wish.wanted.code()));
        let (reason, by) = (s.opt_text(wish.reason.clone()), s.text(&wish.by));
        let from_now = |s: &mut crate::store::sql::Stmt, span: Option<Duration>| match span {
            Some(span) => format!("{now} + {}", s.int(micros(span))),
            None => "NULL".to_owned(),
        };
        let columns = ["wanted", "reason", "set_by", "set_at", "until_at", "deadline_at"];
        let or_update = db.dialect().or_update("name", &columns);
        let (until, deadline) = (from_now(&mut s, wish.lasts), from_now(&mut s, wish.deadline));
        let sql = s.sql(format!(
            "INSERT INTO engine_wish (name, wanted, reason, set_by, set_at, until_at, deadline_at) \
             VALUES ({name}, {wanted}, {reason}, {by}, {now}, {until}, {deadline}) {or_update}"
        ));
        db.execute("set what is wanted", &sql)?;
        Ok(Some(had))
    })
}

/// How an owner ended: from its row, or from its history if the row is closed. `None`: it is live, or
/// nobody knows it.
pub fn owner_end(db: &mut dyn Db, owner: Incarnation) -> StoreResult<Option<(takeover::OwnerRow, String)>> {
    let mut s = db.stmt();
    let id = s.int(owner.as_i64());
    let sql = s.sql(format!(
        "SELECT i.name, e.state, e.proof, i.end_state, i.end_proof, COALESCE(e.last_beat_at, i.end_beat_at), \
         COALESCE(e.ended_at, i.ended_at), COALESCE(e.ended_by, i.ended_by) \
         FROM engine_info i LEFT JOIN engine e ON e.incarnation = i.incarnation WHERE i.incarnation = {id}"
    ));
    let Some(mut row) = db.first("read how an owner ended", &sql)? else {
        // A claim of an incarnation that a failover has wiped out: as dead as one can be.
        return Ok(Some((takeover::OwnerRow::unknown(owner), "?".into())));
    };
    let name = row.text();
    let (state, proof) = (row.opt_int(), row.opt_int());
    let (end_state, end_proof) = (row.opt_int(), row.opt_int());
    let state = state.or(end_state).and_then(EngineState::from_code);
    let proof = proof.or(end_proof).and_then(Proof::from_code).unwrap_or(Proof::Expiry);
    let (beat_at, ended_at, by) = (row.opt_int(), row.opt_int(), row.opt_text());
    Ok(match state {
        None | Some(EngineState::Live) => None,
        Some(state) => Some((takeover::OwnerRow::new(owner, state, proof, beat_at, ended_at, by), name)),
    })
}
