//! Registering: a new life of a name, the end of its former one, and what it adopts from that.

use std::time::Duration;

use super::engines::fence_row;
use super::meta::meta;
use super::rows::{NEXT_VERSION, TIMING_COLUMNS, resources_of};
use super::takeover;
use crate::planted::{Bug, planted};
use crate::protocol::ids::{EngineName, Epoch, Incarnation, TaskId};
use crate::protocol::last_beat::{KnownLife, LastBeat, LifeRow};
use crate::protocol::stand::{KeptBy, Stand};
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::{Cause, StoreError};
use crate::store::sql::Row;
use crate::store::types::*;

/// How many tasks of a former life are handed back in the registering transaction itself.
const FORMER_BATCH: usize = 256;

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
        let is_lost = match &r.last_beat {
            Some(last) if !planted(Bug::LossUnseen) => is_lost(db, last)?,
            _ => false,
        };
        let mut adopted = Vec::new();
        if let Some(former) = &r.former {
            for held in &former.adopt {
                if adopt(db, former.incarnation, r.incarnation, held)? {
                    adopted.push(*held);
                }
            }
            // What is more than a batch is left to the sweeps; so is all of it in a database that moved: its
            // tokens must not be raised before its epoch is, and the beats of this very life raise that. The same
            // holds where it came back older.
            if meta(db)?.identity_matches && !is_lost && former.is_over() {
                takeover::take_over_here(db, former.incarnation, r.name.as_str(), FORMER_BATCH)?;
            }
        }
        Ok(RegisterOutcome::Registered { adopted, meta: meta(db)?, is_lost })
    })
}

/// See `Store::is_lost`.
pub fn is_lost(db: &mut dyn Db, last: &LastBeat) -> StoreResult<bool> {
    let mut s = db.stmt();
    let id = s.int(last.incarnation.as_i64());
    // One statement: a life that is closed at this moment moves its counter from one table to the other.
    let sql = s.sql(format!(
        "SELECT m.cluster_id, m.raised_epoch, m.lives_forgotten_at, i.incarnation, COALESCE(e.beat, i.end_beat) \
         FROM meta m LEFT JOIN engine_info i ON i.incarnation = {id} LEFT JOIN engine e ON e.incarnation = {id} \
         WHERE m.one = 1"
    ));
    let Some(mut row) = db.first("look for lost beats", &sql)? else { return Ok(false) };
    let (cluster_id, raised_epoch) = (row.text(), Epoch::new(row.int()));
    let forgotten_at = Timestamp::from_us(row.int());
    let row = match (row.opt_int(), row.opt_int()) {
        (_, Some(beat)) => LifeRow::Beat(beat),
        (Some(_), None) => LifeRow::Unclear,
        (None, None) => LifeRow::Missing,
    };
    Ok(last.is_lost(&KnownLife { cluster_id, raised_epoch, forgotten_at, row }))
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
    fence_row(db, &former.fence(name))?;
    match former.is_over() {
        true => super::engines::acknowledge_fence(db, former.incarnation),
        false => Ok(()),
    }
}

fn live_namesake(db: &mut dyn Db, name: &EngineName) -> StoreResult<Option<Namesake>> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let name = s.text(name.as_str());
    let sql = s.sql(format!(
        "SELECT e.incarnation, i.host, i.boot_id, i.pid, i.state_id, {now} - e.last_beat_at, e.beat, e.takeover_ms, \
         i.lock_device, i.lock_inode, i.pid_namespace, i.start_ticks, i.kept_by FROM engine e JOIN engine_info i ON i.incarnation = e.incarnation WHERE e.live_name = {name}"
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
        stand: read_stand(&mut row),
    }))
}

/// `None` in a row of a former release, and of an engine without a state directory.
fn read_stand(row: &mut Row) -> Option<Stand> {
    let mut next = || row.opt_int();
    let (device, inode, namespace, ticks, kept_by) = (next(), next(), next(), next(), next());
    Some(Stand {
        lock_device: device?.cast_unsigned(),
        lock_inode: inode?.cast_unsigned(),
        pid_namespace: namespace?.cast_unsigned(),
        start_ticks: ticks?.cast_unsigned(),
        kept_by: KeptBy::from_code(kept_by?)?,
    })
}

/// False: there is a live engine of this name.
fn insert_engine(db: &mut dyn Db, r: &Registration) -> StoreResult<bool> {
    let now = db.dialect().now;
    let t = r.timing.spans();
    let mut s = db.stmt();
    let (id, name) = (s.int(r.incarnation.as_i64()), s.text(r.name.as_str()));
    let read = s.clone();
    let or_nothing = db.dialect().or_nothing("engine", "live_name");
    let spans = [t.heartbeat_ms, t.query_ms, t.lease_ms, t.kill_ms, t.takeover_ms, t.sweep_ms];
    let spans: Vec<_> = spans.into_iter().map(|ms| s.int(ms)).collect();
    let sql = s.sql(format!(
        "INSERT INTO engine (incarnation, name, live_name, last_beat_at, counted_at, {TIMING_COLUMNS}) \
         VALUES ({id}, {name}, {name}, {now}, {now}, {}) {or_nothing}",
        spans.join(", ")
    ));
    db.execute("register", &sql)?;
    // The count of such an INSERT says something else on each backend.
    let sql = read.sql(format!("SELECT count(*) FROM engine WHERE incarnation = {id}"));
    Ok(db.first("register", &sql)?.is_some_and(|mut row| row.int() == 1))
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
        s.opt_int(r.stand.map(|stand| stand.lock_device.cast_signed())),
        s.opt_int(r.stand.map(|stand| stand.lock_inode.cast_signed())),
        s.opt_int(r.stand.map(|stand| stand.pid_namespace.cast_signed())),
        s.opt_int(r.stand.map(|stand| stand.start_ticks.cast_signed())),
        s.opt_int(r.stand.map(|stand| stand.kept_by.code())),
    ];
    let sql = s.sql(format!(
        "INSERT INTO engine_info (incarnation, name, host, boot_id, pid, state_id, version, protocol_min, protocol_max, \
         \"release\", kinds, slots, means, timing, lock_device, lock_inode, pid_namespace, start_ticks, kept_by, \
         registered_at) VALUES ({}, {now})",
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
        "UPDATE task SET owner = {to}, version = {NEXT_VERSION} \
         WHERE id = {id} AND token = {token} AND nonce = {nonce} AND owner = {from} AND state = 3"
    ));
    let adopted = db.execute("adopt", &sql)? == 1;
    if adopted {
        let sql = binds.sql(format!(
            "UPDATE resource SET owner = {to}, version = {NEXT_VERSION} \
             WHERE owner_task = {id} AND token = {token} AND owner = {from}"
        ));
        db.execute("adopt", &sql)?;
    }
    Ok(adopted)
}
