//! Registering, beating, observing, fencing, closing: the life of an engine in the database.

use std::time::Duration;

use super::rows::{TIMING_COLUMNS, meta_columns, micros, read_meta, read_timing, resources_of};
use super::takeover;
use crate::protocol::engine::{EngineState, Proof, Wanted};
use crate::protocol::ids::{EngineName, Epoch, Incarnation, TaskId, Token};
use crate::protocol::liveness::{PeerBeat, SweepKind};
use crate::protocol::task::Wish;
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::{Cause, StoreError};
use crate::store::sql::Row;
use crate::store::types::*;

/// How many tasks of a former life are handed back in the registering transaction itself.
const FORMER_BATCH: usize = 256;

/// Reads `meta`.
pub fn meta(db: &mut dyn Db) -> StoreResult<Meta> {
    let identity = db.identity()?;
    let columns = meta_columns(&identity, db.dialect().now);
    let sql = db.stmt().sql(format!("SELECT {columns} FROM meta m WHERE one = 1"));
    match db.first("read meta", &sql)? {
        Some(mut row) => Ok(read_meta(&mut row)),
        None => Err(StoreError::Refused("the table meta has no row: this database was not migrated as a whole".into())),
    }
}

/// See `Store::raise_epoch`. The compare-and-set on the old epoch lets one of many engines win; the
/// others read the new epoch with their next beat.
pub fn raise_epoch(db: &mut dyn Db, from: Epoch, at_least: Epoch, reason: &str) -> StoreResult<bool> {
    let identity = db.identity()?;
    let mut s = db.stmt();
    let to = s.int(at_least.as_i64().max(from.as_i64() + 1));
    let from = s.int(from.as_i64());
    let reason = s.text(reason);
    let sql = s.sql(format!(
        "UPDATE meta SET epoch = {to}, raised_epoch = {to}, identity = {identity}, raised_reason = {reason} \
         WHERE one = 1 AND epoch = {from}"
    ));
    Ok(db.execute("raise the epoch", &sql)? == 1)
}

/// See `Store::settle_epoch`.
pub fn settle_epoch(db: &mut dyn Db, epoch: Epoch) -> StoreResult<bool> {
    let mut s = db.stmt();
    let epoch = s.int(epoch.as_i64());
    let sql = s.sql(format!(
        "UPDATE meta SET settled_epoch = {epoch} WHERE one = 1 AND epoch = {epoch} AND settled_epoch < {epoch}"
    ));
    Ok(db.execute("settle the epoch", &sql)? == 1)
}

/// See `Store::register`.
pub fn register(db: &mut dyn Db, r: &Registration) -> StoreResult<RegisterOutcome> {
    db.transaction("register", |db| {
        check_protocol(db, r)?;
        check_cluster(db, &r.cluster)?;
        if let Some(former) = &r.former {
            // First of all, in the one lock order: these tasks may be ending in this moment.
            let tasks: Vec<TaskId> = former.adopt.iter().map(|held| held.task).collect();
            let names = resources_of(db, &tasks)?;
            takeover::lock_resources_waiting(db, names.values().flatten())?;
            end_former(db, former, &r.name)?;
        }
        if let Some(namesake) = live_namesake(db, &r.name)? {
            // Nothing else was written yet that must stay: an ended former life is over in any case.
            return Ok(RegisterOutcome::NameTaken(namesake));
        }
        if !insert_engine(db, r)? {
            // Somebody registered the name between the look and the insert, which waited for that commit.
            return match live_namesake(db, &r.name)? {
                Some(namesake) => Ok(RegisterOutcome::NameTaken(namesake)),
                None => Err(StoreError::Busy { step: "register", source: Cause("its namesake is just ending".into()) }),
            };
        }
        insert_info(db, r)?;
        let mut adopted = Vec::new();
        if let Some(former) = &r.former {
            for held in &former.adopt {
                if adopt(db, former.incarnation, r.incarnation, held)? {
                    adopted.push(*held);
                }
            }
            // What is more than a batch is left to the sweeps; so is all of it in a database that moved: its
            // tokens must not be raised before its epoch is, and the beats of this very life raise that.
            if meta(db)?.identity_matches {
                takeover::take_over_here(db, former.incarnation, r.name.as_str(), FORMER_BATCH)?;
            }
        }
        Ok(RegisterOutcome::Registered { adopted, meta: meta(db)? })
    })
}

/// What writers speak must be within what this engine speaks.
fn check_protocol(db: &mut dyn Db, r: &Registration) -> StoreResult<()> {
    let sql = db.stmt().sql("SELECT protocol FROM meta WHERE one = 1");
    let pinned = db.first("read the protocol", &sql)?.map_or(1, |mut row| row.count());
    let (oldest, newest) = r.protocol;
    if (oldest..=newest).contains(&pinned) {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "the cluster speaks protocol {pinned}, this program speaks {oldest} to {newest}: install the release of the others"
    )))
}

/// A wrong URL must not make an engine run the tasks of another cluster.
fn check_cluster(db: &mut dyn Db, cluster: &str) -> StoreResult<()> {
    let mut s = db.stmt();
    let name = s.text(cluster);
    let sql = s.sql(format!("UPDATE meta SET cluster = {name} WHERE one = 1 AND cluster IS NULL"));
    db.execute("name the cluster", &sql)?;
    let sql = db.stmt().sql("SELECT cluster FROM meta WHERE one = 1");
    let found = db.first("read the cluster", &sql)?.map_or_else(String::new, |mut row| row.text());
    if found == cluster {
        return Ok(());
    }
    Err(StoreError::Refused(format!("this database belongs to the cluster {found:?}, not to {cluster:?}")))
}

/// The former life ends; its tasks are handed back by the takeover of the next sweep, or adopted below
/// in this same transaction.
fn end_former(db: &mut dyn Db, former: &FormerLife, name: &EngineName) -> StoreResult<()> {
    let fence = Fence { incarnation: former.incarnation, beat: None, proof: former.proof, by: name.to_string() };
    fence_row(db, &fence)?;
    acknowledge_fence(db, former.incarnation)
}

fn live_namesake(db: &mut dyn Db, name: &EngineName) -> StoreResult<Option<Namesake>> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let name = s.text(name.as_str());
    let sql = s.sql(format!(
        "SELECT e.incarnation, i.host, i.boot_id, i.pid, i.state_id, {now} - e.last_beat_at, e.beat, e.takeover_ms \
         FROM engine e JOIN engine_info i ON i.incarnation = e.incarnation WHERE e.live_name = {name}"
    ));
    Ok(db.first("look for a namesake", &sql)?.map(|mut row| Namesake {
        incarnation: Incarnation::new(row.int()),
        host: row.text(),
        boot_id: row.text(),
        pid: row.count(),
        state_id: row.text(),
        last_beat_age: Duration::from_micros(row.int().max(0).unsigned_abs()),
        beat: row.int(),
        takeover_after: Duration::from_millis(row.int().max(0).unsigned_abs()),
    }))
}

/// False: there is a live engine of this name.
fn insert_engine(db: &mut dyn Db, r: &Registration) -> StoreResult<bool> {
    let now = db.dialect().now;
    let t = r.timing.spans();
    let mut s = db.stmt();
    let (id, name) = (s.int(r.incarnation.as_i64()), s.text(r.name.as_str()));
    let spans = [t.heartbeat_ms, t.query_ms, t.lease_ms, t.kill_ms, t.takeover_ms, t.sweep_ms];
    let spans: Vec<_> = spans.into_iter().map(|ms| s.int(ms)).collect();
    let sql = s.sql(format!(
        "INSERT INTO engine (incarnation, name, live_name, last_beat_at, {TIMING_COLUMNS}) \
         VALUES ({id}, {name}, {name}, {now}, {}) ON CONFLICT (live_name) DO NOTHING",
        spans.join(", ")
    ));
    Ok(db.execute("register", &sql)? == 1)
}

fn insert_info(db: &mut dyn Db, r: &Registration) -> StoreResult<()> {
    let now = db.dialect().now;
    let kinds: Vec<&str> = r.kinds.iter().map(|k| k.as_str()).collect();
    let mut s = db.stmt();
    let values = [
        s.int(r.incarnation.as_i64()),
        s.text(r.name.as_str()),
        s.text(&r.host),
        s.text(&r.boot_id),
        s.int(r.pid),
        s.text(&r.state_id),
        s.text(&r.version),
        s.int(r.protocol.0),
        s.int(r.protocol.1),
        s.text(&r.release),
        s.text(serde_json::to_string(&kinds).unwrap_or_default()),
        s.int(r.slots),
        s.text(&r.means),
        s.text(serde_json::to_string(&r.timing).unwrap_or_default()),
    ];
    let sql = s.sql(format!(
        "INSERT INTO engine_info (incarnation, name, host, boot_id, pid, state_id, version, protocol_min, protocol_max, \
         release, kinds, slots, means, timing, registered_at) VALUES ({}, {now})",
        values.join(", ")
    ));
    db.execute("register", &sql)?;
    Ok(())
}

/// A `continue` task goes over to the new incarnation only if nobody has raised its token since.
fn adopt(db: &mut dyn Db, from: Incarnation, to: Incarnation, held: &Held) -> StoreResult<bool> {
    let mut s = db.stmt();
    let (id, token, nonce) = (s.int(held.task.as_i64()), s.int(held.token.as_i64()), s.int(held.nonce.as_i64()));
    let (from, to) = (s.int(from.as_i64()), s.int(to.as_i64()));
    let binds = s.clone();
    let sql = s.sql(format!(
        "UPDATE task SET owner = {to}, version = version + 1 \
         WHERE id = {id} AND token = {token} AND nonce = {nonce} AND owner = {from} AND state = 3"
    ));
    let adopted = db.execute("adopt", &sql)? == 1;
    if adopted {
        let sql = binds.sql(format!(
            "UPDATE resource SET owner = {to}, version = version + 1 \
             WHERE owner_task = {id} AND token = {token} AND owner = {from}"
        ));
        db.execute("adopt", &sql)?;
    }
    Ok(adopted)
}

const ACCEPT: &str = "UPDATE engine SET beat = beat + 1, last_beat_at = {now}, mode = {mode}, running = {running} \
     WHERE incarnation = {id} AND state = 1 RETURNING beat, name";

/// See `Store::beat`. One statement where the backend can write inside a CTE, one short transaction
/// elsewhere: the answer belongs to the same moment as the accepted beat.
pub fn beat(db: &mut dyn Db, b: &Beat) -> StoreResult<BeatOutcome> {
    if db.dialect().has_writing_cte { beat_once(db, b) } else { db.transaction("beat", |db| beat_in_two(db, b)) }
}

fn accept_sql(db: &mut dyn Db, b: &Beat) -> (crate::store::sql::Stmt, String, String) {
    let mut s = db.stmt();
    let id = s.int(b.incarnation.as_i64());
    let text = ACCEPT
        .replace("{now}", db.dialect().now)
        .replace("{id}", &id)
        .replace("{mode}", &s.int(b.mode.code()))
        .replace("{running}", &s.int(b.running));
    (s, text, id)
}

fn beat_once(db: &mut dyn Db, b: &Beat) -> StoreResult<BeatOutcome> {
    let identity = db.identity()?;
    let now = db.dialect().now;
    let (s, accept, id) = accept_sql(db, b);
    let columns = meta_columns(&identity, now);
    let sql = s.sql(format!(
        "WITH b AS ({accept}) SELECT b.beat, w.wanted, w.until_at, w.deadline_at, \
         (SELECT string_agg(id || ':' || token || ':' || wish, ',') FROM task WHERE owner = {id} AND wish <> 0), \
         {columns} FROM b CROSS JOIN meta m LEFT JOIN engine_wish w ON w.name = b.name"
    ));
    match db.first("beat", &sql)? {
        Some(row) => Ok(BeatOutcome::Accepted(read_answer(row))),
        None => Ok(BeatOutcome::Gone),
    }
}

fn beat_in_two(db: &mut dyn Db, b: &Beat) -> StoreResult<BeatOutcome> {
    let (s, accept, _) = accept_sql(db, b);
    let Some(mut row) = db.first("beat", &s.sql(accept))? else { return Ok(BeatOutcome::Gone) };
    let (count, name) = (row.int(), row.text());
    let identity = db.identity()?;
    let columns = meta_columns(&identity, db.dialect().now);
    let mut s = db.stmt();
    let (count, id, name) = (s.int(count), s.int(b.incarnation.as_i64()), s.text(name));
    let sql = s.sql(format!(
        "SELECT {count}, w.wanted, w.until_at, w.deadline_at, \
         (SELECT group_concat(id || ':' || token || ':' || wish, ',') FROM task WHERE owner = {id} AND wish <> 0), \
         {columns} FROM meta m LEFT JOIN engine_wish w ON w.name = {name} WHERE m.one = 1"
    ));
    match db.first("beat", &sql)? {
        Some(row) => Ok(BeatOutcome::Accepted(read_answer(row))),
        None => Err(StoreError::Refused("the table meta has no row".into())),
    }
}

fn read_answer(mut row: Row) -> BeatAnswer {
    let beat = row.int();
    let wanted = row.opt_int();
    let until = row.opt_int().map(Timestamp::from_us);
    let deadline = row.opt_int().map(Timestamp::from_us);
    let wishes = row.opt_text().unwrap_or_default();
    let meta = read_meta(&mut row);
    // A wish that ended by itself counts as `run`; the row is only cleaned up by the next writer.
    let over = until.is_some_and(|until| meta.now >= until);
    let wanted = wanted.filter(|_| !over).and_then(Wanted::from_code).unwrap_or(Wanted::Run);
    BeatAnswer {
        beat,
        wanted,
        wanted_deadline: deadline.filter(|_| !over),
        wishes: wishes.split(',').filter_map(read_wish).collect(),
        meta,
    }
}

fn read_wish(text: &str) -> Option<(TaskId, Token, Wish)> {
    let mut parts = text.split(':').map(|part| part.parse::<i64>().ok());
    Some((TaskId::new(parts.next()??), Token::new(parts.next()??), Wish::from_code(parts.next()??)?))
}

/// 1.25 h in microseconds; as a 64-bit product, because an hour of it does not fit 32.
const RECENT_US: &str = "e.heartbeat_ms * CAST(1250 AS BIGINT)";

/// See `Store::sweep`.
pub fn sweep(db: &mut dyn Db, kind: SweepKind) -> StoreResult<SweepView> {
    let identity = db.identity()?;
    let now = db.dialect().now;
    let columns = meta_columns(&identity, now);
    // On both sides of now: a clock that was stepped back leaves beats in the future.
    let late = format!("(e.last_beat_at < {now} - {RECENT_US} OR e.last_beat_at > {now} + {RECENT_US})");
    let filter = if kind == SweepKind::Full { "1 = 1".to_owned() } else { late.clone() };
    let sql = db.stmt().sql(format!(
        "SELECT {columns}, m.orphan_scan_at, (SELECT count(*) FROM engine WHERE state = 1), \
         (SELECT max(takeover_ms) FROM engine WHERE state = 1), (SELECT min(due_at) FROM task WHERE state = 1), \
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
            takeover_max: Duration::from_millis(row.int().unsigned_abs()),
            next_due: row.opt_int().map(Timestamp::from_us),
            peers: Vec::new(),
            ended: Vec::new(),
        };
        let view = view.get_or_insert(head);
        if let Some(id) = row.opt_int() {
            read_peer(Incarnation::new(id), row, view)?;
        }
    }
    view.ok_or_else(|| StoreError::Refused("the table meta has no row".into()))
}

fn read_peer(incarnation: Incarnation, mut row: Row, view: &mut SweepView) -> StoreResult<()> {
    let state = EngineState::from_code(row.int()).unwrap_or(EngineState::Fenced);
    let name = EngineName::from_stored(row.text());
    let proof = row.opt_int().and_then(Proof::from_code).unwrap_or(Proof::Expiry);
    let acknowledged = row.flag();
    let beat = row.int();
    let is_late = row.flag();
    let timing = read_timing(&mut row)?;
    if state == EngineState::Live {
        view.peers.push(PeerBeat { incarnation, beat, timing, is_recent: !is_late });
    } else {
        view.ended.push(EndedPeer { incarnation, name, state, proof, dead_after: timing.dead_after(), acknowledged });
    }
    Ok(())
}

/// See `Store::fence`.
pub fn fence(db: &mut dyn Db, fence: &Fence) -> StoreResult<FenceOutcome> {
    Ok(if fence_row(db, fence)? { FenceOutcome::Won } else { FenceOutcome::Missed })
}

fn fence_row(db: &mut dyn Db, fence: &Fence) -> StoreResult<bool> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let id = s.int(fence.incarnation.as_i64());
    let (proof, by) = (s.int(fence.proof.code()), s.text(&fence.by));
    let same_beat = fence.beat.map(|beat| format!("AND beat = {}", s.int(beat))).unwrap_or_default();
    let sql = s.sql(format!(
        "UPDATE engine SET state = 2, live_name = NULL, proof = {proof}, ended_by = {by}, ended_at = {now} \
         WHERE incarnation = {id} AND state = 1 {same_beat}"
    ));
    Ok(db.execute("fence", &sql)? == 1)
}

/// A fenced incarnation has stopped everything: what an operator's fence left with it may be taken over now.
fn acknowledge_fence(db: &mut dyn Db, incarnation: Incarnation) -> StoreResult<()> {
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
    let (id, count) = (s.int(incarnation.as_i64()), s.int(i64::try_from(count).unwrap_or(i64::MAX)));
    let binds = s.clone();
    let sql = s.sql(format!("UPDATE engine SET refused = refused + {count} WHERE incarnation = {id}"));
    if db.execute("count refused results", &sql)? == 0 {
        let sql = binds.sql(format!(
            "UPDATE engine_info SET end_refused = COALESCE(end_refused, 0) + {count} WHERE incarnation = {id}"
        ));
        db.execute("count refused results", &sql)?;
    }
    Ok(())
}

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
        if db.first("close", &sql)?.is_none_or(|mut row| row.int() > 0) {
            return Ok(false);
        }
        // Locked before it is copied: a refusal that is being counted at this moment belongs to the copy.
        let lock = db.dialect().for_update;
        let mut s = db.stmt();
        let id = s.int(incarnation.as_i64());
        let sql = s.sql(format!("SELECT refused FROM engine WHERE incarnation = {id} AND state <> 1 {lock}"));
        db.first("close", &sql)?;
        let mut s = db.stmt();
        let id = s.int(incarnation.as_i64());
        let keep = s.clone().sql(format!(
            "UPDATE engine_info SET end_state = e.state, end_mode = e.mode, end_proof = e.proof, end_beat = e.beat, \
             end_beat_at = e.last_beat_at, end_refused = e.refused, ended_by = e.ended_by, ended_at = e.ended_at \
             FROM engine e WHERE e.incarnation = engine_info.incarnation AND e.incarnation = {id} AND e.state <> 1"
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
    let sql = db.stmt().sql(
        "SELECT DISTINCT o.owner FROM (SELECT owner FROM task WHERE owner IS NOT NULL \
         UNION SELECT owner FROM resource WHERE owner IS NOT NULL) o \
         WHERE NOT EXISTS (SELECT 1 FROM engine e WHERE e.incarnation = o.owner)",
    );
    let rows = db.query("look for orphans", &sql)?;
    Ok(Some(rows.into_iter().map(|mut row| Incarnation::new(row.int())).collect()))
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
        let (until, deadline) = (from_now(&mut s, wish.lasts), from_now(&mut s, wish.deadline));
        let sql = s.sql(format!(
            "INSERT INTO engine_wish (name, wanted, reason, set_by, set_at, until_at, deadline_at) \
             VALUES ({name}, {wanted}, {reason}, {by}, {now}, {until}, {deadline}) \
             ON CONFLICT (name) DO UPDATE SET wanted = excluded.wanted, reason = excluded.reason, set_by = excluded.set_by, \
             set_at = excluded.set_at, until_at = excluded.until_at, deadline_at = excluded.deadline_at"
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
