//! Forgetting resources: rows that nobody owns, nobody waits for and nobody has used for long.
//!
//! A row holds its resource's counter of tokens, and tokens only grow. So the epoch is raised first: a row
//! that is made again starts above every token of the one before it. Only then do the rows go, T later:
//! a claim that read the old epoch is committed or rolled back long before, and shows in the row.
//!
//! That raise loses nothing and doubts nothing: `raised_epoch` stays, so no observation is restarted and no
//! claim waits. It is not made while another raise is still being settled, nor in a database that moved, nor with
//! the last tenth of the epochs, which is for failovers.
//!
//! States, in `meta`: nothing to do (`forget_epoch = 0`) → once an hour one engine of the cluster has the
//! turn and counts → enough: the epoch is raised → T later batches go → a batch that is not full: nothing to
//! do. An engine that dies in between leaves the rest to the next purge of any other.
//!
//! Seldom, and only for [`ENOUGH`] rows: an epoch has 23 bits (one an hour lasts 957 years), and each raise
//! makes every engine write its state file to the disk and compare what it holds. A thousand rows are some
//! 200 KB: with fewer there is nothing to gain, so a cluster with a fixed set of resources never does any of
//! this. Counting stops at enough.
//!
//! Races: a row is used between the look and its end (it is locked, and the DELETE asks everything again;
//! a token of the new epoch keeps it even where the clock was stepped); a task is added to it at that moment
//! (its first claim makes the row again, as for a new name); two engines forget at once (locked rows are
//! passed over).

use std::time::Duration;

use super::rows::micros;
use crate::protocol::ids::Epoch;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::Stmt;

/// So many idle rows are worth an epoch.
pub const ENOUGH: usize = 1_000;

/// Between two looks in the whole cluster.
pub const EVERY: Duration = Duration::from_secs(3_600);

/// Takes one step; how many rows went. `span` is how long a resource has to be unused.
pub fn forget(db: &mut dyn Db, span: Duration, limit: usize) -> StoreResult<usize> {
    let now = db.dialect().now;
    let every = micros(EVERY);
    let mut s = db.stmt();
    let us = s.int(1_000);
    let sql = s.sql(format!(
        "SELECT m.forget_epoch, CASE WHEN {now} - (SELECT COALESCE(max(e.takeover_ms), 0) FROM engine e \
         WHERE e.state = 1) * {us} >= m.forget_at THEN 1 ELSE 0 END, \
         CASE WHEN m.forget_at <= {now} - {every} OR m.forget_at > {now} + {every} THEN 1 ELSE 0 END \
         FROM meta m WHERE m.one = 1"
    ));
    let Some(mut row) = db.first("forget resources", &sql)? else { return Ok(0) };
    let (epoch, is_over, is_turn) = (row.int(), row.flag(), row.flag());
    if epoch > 0 {
        return if is_over { forget_batch(db, epoch, span, limit) } else { Ok(0) };
    }
    if is_turn {
        db.transaction("forget resources", |db| raise_if_worth_it(db, span))?;
    }
    Ok(0)
}

/// Conditions on a row `r` that may go.
fn idle(s: &mut Stmt, now: &str, span: Duration) -> String {
    let span = s.int(micros(span));
    format!(
        "r.owner_task IS NULL AND r.owner IS NULL AND r.used_at < {now} - {span} \
         AND NOT EXISTS (SELECT 1 FROM task_resource w WHERE w.resource = r.name)"
    )
}

/// The conditional write of the time gives the turn to one engine.
fn raise_if_worth_it(db: &mut dyn Db, span: Duration) -> StoreResult<()> {
    let (now, identity) = (db.dialect().now, db.identity()?);
    let every = micros(EVERY);
    let sql = db.stmt().sql(format!(
        "UPDATE meta SET forget_at = {now} WHERE one = 1 AND forget_epoch = 0 AND settled_epoch >= raised_epoch \
         AND epoch < {} \
         AND identity = {identity} AND (forget_at <= {now} - {every} OR forget_at > {now} + {every})",
        Epoch::SCARCE
    ));
    if db.execute("forget resources", &sql)? == 0 {
        return Ok(());
    }
    let mut s = db.stmt();
    let idle = idle(&mut s, now, span);
    let sql = s.sql(format!("SELECT count(*) FROM (SELECT 1 AS one FROM resource r WHERE {idle} LIMIT {ENOUGH}) x"));
    let count = db.first("forget resources", &sql)?.map_or(0, |mut row| row.int());
    if count >= ENOUGH as i64 {
        // One after the other, not in one SET: MySQL assigns from left to right.
        for set in ["epoch = epoch + 1", "forget_epoch = epoch"] {
            let sql = db.stmt().sql(format!("UPDATE meta SET {set} WHERE one = 1"));
            db.execute("forget resources", &sql)?;
        }
    }
    Ok(())
}

fn forget_batch(db: &mut dyn Db, epoch: i64, span: Duration, limit: usize) -> StoreResult<usize> {
    let count = db.transaction("forget resources", |db| forget_rows(db, epoch, span, limit))?;
    if count.found < limit {
        let mut s = db.stmt();
        let epoch = s.int(epoch);
        let sql = s.sql(format!("UPDATE meta SET forget_epoch = 0 WHERE one = 1 AND forget_epoch = {epoch}"));
        db.execute("forget resources", &sql)?;
    }
    Ok(count.gone)
}

struct Count {
    found: usize,
    gone: usize,
}

/// Locked in name order before they go, passing over those that others hold: nobody waits for this.
fn forget_rows(db: &mut dyn Db, epoch: i64, span: Duration, limit: usize) -> StoreResult<Count> {
    let (now, skip) = (db.dialect().now, db.dialect().skip_locked);
    let conditions = |s: &mut Stmt| {
        let epoch = s.int(epoch);
        format!("r.token < {epoch} * 1099511627776 AND {}", idle(s, now, span))
    };
    let mut s = db.stmt();
    let may_go = conditions(&mut s);
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    let sql = s.sql(format!("SELECT r.name FROM resource r WHERE {may_go} ORDER BY r.name LIMIT {limit} {skip}"));
    let names: Vec<String> = db.query("forget resources", &sql)?.into_iter().map(|mut row| row.text()).collect();
    if names.is_empty() {
        return Ok(Count { found: 0, gone: 0 });
    }
    // Asked again by a statement that began under the locks: a task that was added meanwhile is seen by it. And
    // by a statement of its own: inside the DELETE, MariaDB would wait for whoever is just adding one.
    let mut s = db.stmt();
    let list = s.in_texts(names.iter().map(String::as_str));
    let sql = s.sql(format!(
        "SELECT r.name FROM resource r WHERE r.name {list} AND r.owner_task IS NULL \
         AND NOT EXISTS (SELECT 1 FROM task_resource w WHERE w.resource = r.name)"
    ));
    let gone: Vec<String> = db.query("forget resources", &sql)?.into_iter().map(|mut row| row.text()).collect();
    let mut s = db.stmt();
    let list = s.in_texts(gone.iter().map(String::as_str));
    let sql = s.sql(format!("DELETE FROM resource WHERE name {list}"));
    Ok(Count { found: names.len(), gone: db.execute("forget resources", &sql)? })
}
