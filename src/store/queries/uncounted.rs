//! What an engine had not told the hourly numbers when it ended, counted from the ends that it wrote.
//!
//! An engine adds what it counted about once a minute, and notes the moment in its row, in the same transaction
//! (`counted_at`). Whoever closes the row of one that ended counts the ends after that moment, in the transaction that
//! deletes the row. So each end is counted once, whoever does it and whenever the engine died:
//!
//! * an engine that still lives although it was fenced finds no row any more, and drops what it had not told;
//! * of an addition of unknown outcome, either the note is there and its ends lie before it, or neither is.
//!
//! What falls short, always to fewer: the lengths of waits and runs, and refused results, are known to the engine only;
//! a clock that is stepped back hides ends; a task that a life adopted from its former one is not counted as its own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::hours::{HOUR_US, add_at};
use super::rows::micros;
use crate::protocol::ids::{Incarnation, KindName};
use crate::protocol::takeover::Next;
use crate::protocol::task::AttemptResult;
use crate::store::api::StoreResult;
use crate::store::audit::Counts;
use crate::store::db::Db;
use crate::store::sql::Row;

/// An engine that counts anything tells it within 75 s, so nothing older is looked at: the ends of all engines lie in
/// one index, and a busy cluster has written many since an idle one told something.
const WINDOW: Duration = Duration::from_secs(150);

/// Counts them; `row` holds `counted_at` and `last_beat_at` of the engine's row, which this transaction has locked.
pub fn add(db: &mut dyn Db, of: Incarnation, mut row: Row) -> StoreResult<()> {
    let (Some(counted_at), last_beat_at) = (row.opt_int(), row.int()) else { return Ok(()) };
    let since = counted_at.max(last_beat_at.saturating_sub(micros(WINDOW)));
    let mut hours: BTreeMap<i64, BTreeMap<KindName, Counts>> = BTreeMap::new();
    for end in done(db, of, since)?.into_iter().chain(others(db, of, since)?) {
        let counts = hours.entry(end.hour).or_default().entry(end.kind).or_default();
        for _ in 0..end.count {
            counts.claimed(None);
            counts.ended(end.result, &end.next, None);
        }
    }
    for (hour, counts) in &hours {
        add_at(db, *hour, of, counts)?;
    }
    Ok(())
}

struct End {
    kind: KindName,
    hour: i64,
    result: AttemptResult,
    next: Next,
    count: i64,
}

/// Well: in the archive, under the owner that ended it.
fn done(db: &mut dyn Db, of: Incarnation, since: i64) -> StoreResult<Vec<End>> {
    let by = db.dialect().by("task_archive_ended");
    let mut s = db.stmt();
    let (id, since) = (s.int(of.as_i64()), s.int(since));
    let sql = s.sql(format!(
        "SELECT kind, ended_at - ended_at % {HOUR_US}, count(*) FROM task_archive {by} WHERE ended_at > {since} AND owner = {id} \
         AND state = 7 AND claimed_at >= (SELECT registered_at FROM engine_info WHERE incarnation = {id}) GROUP BY 1, 2"
    ));
    let read = |mut row: Row| End {
        kind: KindName::from_stored(row.text()),
        hour: row.int(),
        result: AttemptResult::Done,
        next: Next::Done,
        count: row.int(),
    };
    Ok(db.query("count its ends", &sql)?.into_iter().map(read).collect())
}

/// Otherwise: each has its row, with the claim's nonce where the engine itself wrote it; a takeover counts its own.
fn others(db: &mut dyn Db, of: Incarnation, since: i64) -> StoreResult<Vec<End>> {
    let (by_time, by_key) = (db.dialect().by("attempt_ended"), db.dialect().by("PRIMARY"));
    let mut s = db.stmt();
    let (id, since) = (s.int(of.as_i64()), s.int(since));
    let sql = s.sql(format!(
        "SELECT COALESCE(t.kind, r.kind), a.ended_at - a.ended_at % {HOUR_US}, a.result, \
         CASE WHEN t.state = 5 AND t.attempt = a.attempt THEN 1 ELSE 0 END, count(*) FROM attempt a {by_time} \
         LEFT JOIN task t {by_key} ON t.id = a.task LEFT JOIN task_archive r {by_key} ON r.id = a.task \
         WHERE a.ended_at > {since} AND a.incarnation = {id} AND a.nonce <> 0 GROUP BY 1, 2, 3, 4"
    ));
    let read = |mut row: Row| {
        let (kind, hour) = (KindName::from_stored(row.opt_text()?), row.int());
        let result = AttemptResult::from_code(row.int())?;
        // Only whether it failed for good is counted of what follows.
        let next = if row.flag() { Next::Failed } else { Next::Held };
        Some(End { kind, hour, result, next, count: row.int() })
    };
    Ok(db.query("count its ends", &sql)?.into_iter().filter_map(read).collect())
}
