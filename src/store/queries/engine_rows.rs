//! Engines as people see them, and forgetting those that ended long ago.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rows::{micros, now};
use crate::protocol::engine::{EngineState, Mode, Proof, Wanted};
use crate::protocol::ids::{EngineName, Incarnation};
use crate::protocol::time::Timestamp;
use crate::protocol::timing::{Profile, Timing};
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::Row;
use crate::store::types::{EngineRow, WantedRow};

/// See `Store::engines`.
pub fn engines(db: &mut dyn Db) -> StoreResult<(Timestamp, Vec<EngineRow>)> {
    select(db, "")
}

/// See `Store::newest_engines`. The newest of each name in one pass over the table: a look for each row would be as
/// many looks as a crash loop leaves rows.
pub fn newest_engines(db: &mut dyn Db) -> StoreResult<(Timestamp, Vec<EngineRow>)> {
    select(
        db,
        "JOIN (SELECT name, max(registered_at) AS at FROM engine_info GROUP BY name) n ON n.name = i.name \
         WHERE e.incarnation IS NOT NULL OR i.registered_at = n.at",
    )
}

fn select(db: &mut dyn Db, which: &str) -> StoreResult<(Timestamp, Vec<EngineRow>)> {
    let sql = db.stmt().sql(format!(
        "SELECT i.incarnation, i.name, COALESCE(e.state, i.end_state), COALESCE(e.mode, i.end_mode), \
         COALESCE(e.beat, i.end_beat), COALESCE(e.last_beat_at, i.end_beat_at), e.running, COALESCE(e.refused, i.end_refused), \
         i.timing, i.host, i.boot_id, i.pid, i.state_id, i.version, i.protocol_min, i.protocol_max, i.release, i.kinds, \
         i.slots, i.means, i.registered_at, COALESCE(e.ended_at, i.ended_at), COALESCE(e.proof, i.end_proof), \
         COALESCE(e.ended_by, i.ended_by), i.taken_over, w.wanted, w.reason, w.set_by, w.set_at, w.until_at, w.deadline_at \
         FROM engine_info i LEFT JOIN engine e ON e.incarnation = i.incarnation LEFT JOIN engine_wish w ON w.name = i.name \
         {which} ORDER BY i.registered_at DESC, i.incarnation",
    ));
    let rows = db.query("list engines", &sql)?;
    // What an engine said with its last beat is as old as that; its tasks' rows tell what it owns now.
    let counted = db.stmt().sql("SELECT owner, count(*) FROM task WHERE owner IS NOT NULL GROUP BY owner");
    let owned: BTreeMap<i64, u32> =
        db.query("count owned tasks", &counted)?.into_iter().map(|mut row| (row.int(), row.count())).collect();
    let now = now(db)?;
    let row = |row| {
        let engine = read_engine(row, now);
        let running = owned.get(&engine.incarnation.as_i64()).copied().unwrap_or(0);
        EngineRow { running, ..engine }
    };
    Ok((now, rows.into_iter().map(row).collect()))
}

fn read_engine(mut row: Row, now: Timestamp) -> EngineRow {
    EngineRow {
        incarnation: Incarnation::new(row.int()),
        name: EngineName::from_stored(row.text()),
        state: EngineState::from_code(row.int()).unwrap_or(EngineState::Fenced),
        mode: Mode::from_code(row.int()).unwrap_or(Mode::Starting),
        beat: row.int(),
        last_beat_at: Timestamp::from_us(row.int()),
        running: row.count(),
        refused: row.int().unsigned_abs(),
        timing: serde_json::from_str(&row.text()).unwrap_or_else(|_| Timing::of(Profile::Balanced)),
        host: row.text(),
        boot_id: row.text(),
        pid: row.count(),
        state_id: row.text(),
        version: row.text(),
        protocol: (row.count(), row.count()),
        release: row.text(),
        kinds: serde_json::from_str(&row.text()).unwrap_or_default(),
        slots: row.count(),
        means: row.text(),
        registered_at: Timestamp::from_us(row.int()),
        ended_at: row.opt_int().map(Timestamp::from_us),
        proof: row.opt_int().and_then(Proof::from_code),
        ended_by: row.opt_text(),
        taken_over: row.int().unsigned_abs(),
        wanted: read_wanted(&mut row, now),
    }
}

fn read_wanted(row: &mut Row, now: Timestamp) -> WantedRow {
    let mut wanted = WantedRow {
        wanted: row.opt_int().and_then(Wanted::from_code).unwrap_or(Wanted::Run),
        reason: row.opt_text(),
        by: row.opt_text(),
        at: row.opt_int().map(Timestamp::from_us),
        until: row.opt_int().map(Timestamp::from_us),
        deadline: row.opt_int().map(Timestamp::from_us),
    };
    if wanted.until.is_some_and(|until| now >= until) {
        wanted = WantedRow { wanted: Wanted::Run, reason: None, by: None, at: None, until: None, deadline: None };
    }
    wanted
}

/// So many lives of a name are kept however old they are not: a crash loop leaves one every few seconds.
const LIVES_KEPT: usize = 20;

/// Lives that ended lately are kept in any case: people count them (`fenced` of the last hour).
const LATELY: Duration = Duration::from_secs(3_600);

/// A row of `engine` is still there while it may own something.
const OWNS_NOTHING: &str = "NOT EXISTS (SELECT 1 FROM engine e WHERE e.incarnation = engine_info.incarnation)";

/// Forgets lives that ended longer ago than this, and those of a name beyond the newest; a batch, the oldest first.
pub fn forget_lives(db: &mut dyn Db, span: Duration, limit: usize) -> StoreResult<usize> {
    let now = db.dialect().moment;
    let mut s = db.stmt();
    let (span, lately, limit) =
        (s.int(micros(span)), s.int(micros(LATELY)), s.int(i64::try_from(limit).unwrap_or(i64::MAX)));
    // One that was never closed and has no row either was written by another program.
    let sql = s.sql(format!(
        "SELECT x.incarnation, x.ended, x.beat FROM (SELECT incarnation, COALESCE(ended_at, registered_at) AS ended, \
         COALESCE(end_beat_at, 0) AS beat, \
         row_number() OVER (PARTITION BY name ORDER BY registered_at DESC, incarnation) AS place FROM engine_info \
         WHERE {OWNS_NOTHING}) x WHERE x.ended < {now} - {span} OR (x.place > {LIVES_KEPT} AND x.ended < {now} - {lately}) \
         ORDER BY x.ended LIMIT {limit}"
    ));
    let rows = db.query("forget engines", &sql)?;
    let rows: Vec<(i64, i64)> = rows.into_iter().map(|mut row| (row.int(), row.int().max(row.int()))).collect();
    let Some(newest) = rows.iter().map(|(_, at)| *at).max() else { return Ok(0) };
    note_forgotten(db, Timestamp::from_us(newest))?;
    let ids = rows.into_iter().map(|(id, _)| id);
    let mut s = db.stmt();
    let list = s.in_ints(ids);
    let sql = s.sql(format!("DELETE FROM engine_info WHERE incarnation {list} AND {OWNS_NOTHING}"));
    db.execute("forget engines", &sql)
}

/// See `Store::forget_engines`.
pub fn forget_engines(
    db: &mut dyn Db,
    older_than: Duration,
    names: &[EngineName],
    dry_run: bool,
) -> StoreResult<Vec<EngineRow>> {
    let (now, rows) = engines(db)?;
    let mut out = Vec::new();
    let is_old = |row: &EngineRow| {
        let named = names.is_empty() || names.contains(&row.name);
        let over = row.ended_at.is_some_and(|at| now.since(at) >= older_than);
        named && over && row.state != EngineState::Live
    };
    let rows: Vec<EngineRow> = rows.into_iter().filter(is_old).collect();
    if let Some(newest) = rows.iter().map(EngineRow::forgotten_at).max().filter(|_| !dry_run) {
        note_forgotten(db, newest)?;
    }
    for row in rows {
        let mut s = db.stmt();
        let id = s.int(row.incarnation.as_i64());
        // A row of `engine` is still there while it may own something.
        let still = format!("incarnation = {id} AND NOT EXISTS (SELECT 1 FROM engine e WHERE e.incarnation = {id})");
        let forgotten = match dry_run {
            true => {
                let sql = s.sql(format!("SELECT incarnation FROM engine_info WHERE {still}"));
                db.first("forget an engine", &sql)?.is_some()
            }
            false => db.execute("forget an engine", &s.sql(format!("DELETE FROM engine_info WHERE {still}")))? == 1,
        };
        if forgotten {
            out.push(row);
        }
    }
    Ok(out)
}

/// Before the rows go: an engine whose row is missing asks whether it was removed or lost, and one that was removed
/// without a note would look lost.
fn note_forgotten(db: &mut dyn Db, newest: Timestamp) -> StoreResult<()> {
    let mut s = db.stmt();
    let newest = s.int(newest.as_us());
    let sql =
        s.sql(format!("UPDATE meta SET lives_forgotten_at = {newest} WHERE one = 1 AND lives_forgotten_at < {newest}"));
    db.execute("forget an engine", &sql).map(drop)
}
