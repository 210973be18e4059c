//! What a sweep reads: late peers, ended ones, and owners that nobody knows any more.

use std::time::Duration;

use super::rows::{TIMING_COLUMNS, meta_columns, micros, read_meta, read_timing};
use super::stray::{give_to_nobody, unreadable};
use crate::protocol::engine::{EngineState, Proof};
use crate::protocol::ids::{EngineName, Incarnation};
use crate::protocol::liveness::{PeerBeat, SweepKind};
use crate::protocol::time::Timestamp;
use crate::protocol::timing::Timing;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::StoreError;
use crate::store::sql::Row;
use crate::store::types::{EndedPeer, SweepView};

/// See `Store::sweep`.
pub fn sweep(db: &mut dyn Db, kind: SweepKind) -> StoreResult<SweepView> {
    let identity = db.identity()?;
    let now = db.dialect().now;
    let columns = meta_columns(&identity, now);
    // On both sides of now: a clock that was stepped back leaves beats in the future.
    let mut s = db.stmt();
    // 1.25 h in microseconds; a bind has 64 bits, and so has the product: an hour of it does not fit 32.
    let recent = format!("e.heartbeat_ms * {}", s.int(1_250));
    let late = format!("(e.last_beat_at < {now} - {recent} OR e.last_beat_at > {now} + {recent})");
    let filter = if kind == SweepKind::Full { "1 = 1".to_owned() } else { late.clone() };
    let sql = s.sql(format!(
        "SELECT {columns}, m.orphan_scan_at, (SELECT count(*) FROM engine WHERE state = 1), \
         (SELECT max(takeover_ms) FROM engine WHERE state = 1), \
         (SELECT due_at FROM task WHERE state = 1 AND due_at IS NOT NULL ORDER BY due_at LIMIT 1), \
         e.incarnation, e.state, e.name, e.proof, e.acknowledged, e.beat, CASE WHEN {late} THEN 1 ELSE 0 END, \
         {TIMING_COLUMNS} FROM meta m LEFT JOIN engine e ON e.state <> 1 OR {filter} WHERE m.one = 1"
    ));
    let rows = db.query("sweep", &sql)?;
    let mut view: Option<SweepView> = None;
    for mut row in rows {
        let head = SweepView {
            meta: read_meta(&mut row),
            orphan_scan_at: Timestamp::from_us(row.int()),
            live_count: usize::try_from(row.int()).unwrap_or(0),
            // Of a row that nobody can have written, not a reason to wait for weeks.
            takeover_max: Duration::from_millis(row.int().unsigned_abs()).min(Timing::longest().takeover_after()),
            next_due: row.opt_int().map(Timestamp::from_us),
            peers: Vec::new(),
            ended: Vec::new(),
            unreadable: Vec::new(),
        };
        let view = view.get_or_insert(head);
        if let Some(id) = row.opt_int() {
            read_peer(id, row, view);
        }
    }
    view.ok_or_else(|| StoreError::Refused("the table meta has no row".into()))
}

/// One row that cannot be read ends nobody's sweep. One with an unknown state is left alone; one with impossible
/// spans is watched, and fenced, like the slowest engine that there can be.
fn read_peer(id: i64, mut row: Row, view: &mut SweepView) {
    let code = row.int();
    let name = EngineName::from_stored(row.text());
    let proof = row.opt_int().and_then(Proof::from_code).unwrap_or(Proof::Expiry);
    let acknowledged = row.flag();
    let beat = row.int();
    let is_late = row.flag();
    let timing = read_timing(&mut row);
    if let Some(why) = unreadable(id, code, timing.as_ref().err().map(StoreError::chain)) {
        view.unreadable.push((id, why));
    }
    let Some(state) = EngineState::from_code(code).filter(|_| id >= 0) else { return };
    let (incarnation, timing) = (Incarnation::new(id), timing.unwrap_or_else(|_| Timing::longest()));
    if state == EngineState::Live {
        view.peers.push(PeerBeat { incarnation, beat, timing, is_recent: !is_late });
    } else {
        view.ended.push(EndedPeer { incarnation, name, state, proof, dead_after: timing.dead_after(), acknowledged });
    }
}

/// See `Store::find_orphans`. The conditional write of the time gives the turn to one caller.
pub fn find_orphans(db: &mut dyn Db, every: Duration) -> StoreResult<Option<Vec<Incarnation>>> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let every = s.int(micros(every));
    let sql = s.sql(format!(
        "UPDATE meta SET orphan_scan_at = {now} \
         WHERE one = 1 AND (orphan_scan_at <= {now} - {every} OR orphan_scan_at > {now} + {every})"
    ));
    if db.execute("look for orphans", &sql)? == 0 {
        return Ok(None);
    }
    give_to_nobody(db)?;
    let sql = db.stmt().sql(
        "SELECT DISTINCT o.owner FROM (SELECT owner FROM task WHERE owner IS NOT NULL \
         UNION SELECT owner FROM resource WHERE owner >= 0) o \
         WHERE NOT EXISTS (SELECT 1 FROM engine e WHERE e.incarnation = o.owner)",
    );
    let rows = db.query("look for orphans", &sql)?;
    Ok(Some(rows.into_iter().map(|mut row| Incarnation::new(row.int())).collect()))
}
