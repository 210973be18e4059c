//! What became of attempts, per hour and kind. The why stands in `store/audit.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rows::{SUM_CEILING, micros, plus};
use crate::protocol::ids::{Incarnation, KindName};
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::audit::{Counts, HourRow, shard};
use crate::store::db::Db;
use crate::store::sql::{Row, Sql};

/// An hour in microseconds.
pub const HOUR_US: i64 = 3_600_000_000;

/// Columns that are added up; the results stand in the order of `AttemptResult::ALL`.
pub const SUMS: [&str; 15] = [
    "claimed",
    "done",
    "tempfail",
    "failed",
    "timeout",
    "crash",
    "lost",
    "handed_back",
    "canceled",
    "fenced",
    "failed_for_good",
    "quarantined",
    "run_us",
    "waited",
    "wait_us",
];

/// Columns of which the larger one stays.
pub const PEAKS: [&str; 2] = ["run_max_us", "wait_max_us"];

fn sums(counts: &Counts) -> [u64; 15] {
    let r = &counts.results;
    let (run, wait) = (counts.run_us, counts.wait_us);
    let (failed, parked) = (counts.failed_for_good, counts.quarantined);
    [counts.claimed, r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], failed, parked, run, counts.waited, wait]
}

fn small(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(SUM_CEILING).min(SUM_CEILING)
}

/// See `Store::add_hours`.
pub fn add(db: &mut dyn Db, by: Incarnation, counts: &BTreeMap<KindName, Counts>) -> StoreResult<()> {
    if counts.is_empty() {
        return Ok(());
    }
    let now = db.dialect().now;
    db.transaction("add to the hour", |db| {
        let mut s = db.stmt();
        let id = s.int(by.as_i64());
        let sql = s.sql(format!("UPDATE engine SET counted_at = {now} WHERE incarnation = {id}"));
        // No row: it was closed, and these ends were counted then (`uncounted.rs`).
        if db.execute("add to the hour", &sql)? == 0 { Ok(()) } else { add_here(db, by, counts) }
    })
}

/// The same inside the caller's transaction, which holds whatever else it locks already: these rows are
/// the last in the lock order, by kind.
pub fn add_here(db: &mut dyn Db, by: Incarnation, counts: &BTreeMap<KindName, Counts>) -> StoreResult<()> {
    if counts.is_empty() {
        return Ok(());
    }
    let sql = db.stmt().sql(format!("SELECT {}", db.dialect().now));
    let now = db.first("read the clock", &sql)?.map_or(0, |mut row| row.int());
    add_at(db, now - now.rem_euclid(HOUR_US), by, counts)
}

/// The same to this full hour.
pub fn add_at(db: &mut dyn Db, hour: i64, by: Incarnation, counts: &BTreeMap<KindName, Counts>) -> StoreResult<()> {
    // A kind that no engine can have, of a row that somebody else wrote, must not keep its takeover from being done.
    for (kind, counts) in counts.iter().filter(|(kind, _)| KindName::new(kind.as_str()).is_ok()) {
        let place = Place { hour, kind, shard: shard(by) };
        // Almost always the row is there. Where it is not, somebody else may be making it at this moment: an
        // empty one is made or found, whatever the count of such an INSERT says, and then it is there.
        if db.execute("add to the hour", &place.update(db, counts))? == 0 {
            db.execute("add to the hour", &place.insert(db))?;
            db.execute("add to the hour", &place.update(db, counts))?;
        }
    }
    Ok(())
}

struct Place<'a> {
    hour: i64,
    kind: &'a KindName,
    shard: i64,
}

impl Place<'_> {
    fn update(&self, db: &dyn Db, counts: &Counts) -> Sql {
        let greatest = db.dialect().greatest;
        let mut s = db.stmt();
        let mut sets: Vec<String> = Vec::new();
        for (column, value) in SUMS.iter().zip(sums(counts)) {
            sets.push(format!("{column} = {}", plus(db.dialect(), &mut s, column, value)));
        }
        for (column, value) in PEAKS.iter().zip([counts.run_max_us, counts.wait_max_us]) {
            sets.push(format!("{column} = {greatest}({column}, {})", s.int(small(value))));
        }
        let (hour, kind, shard) = (s.int(self.hour), s.text(self.kind.as_str()), s.int(self.shard));
        let sets = sets.join(", ");
        s.sql(format!("UPDATE hour SET {sets} WHERE starts_at = {hour} AND kind = {kind} AND shard = {shard}"))
    }

    fn insert(&self, db: &dyn Db) -> Sql {
        let mut s = db.stmt();
        let (hour, kind, shard) = (s.int(self.hour), s.text(self.kind.as_str()), s.int(self.shard));
        let or_nothing = db.dialect().or_nothing("hour", "shard");
        s.sql(format!("INSERT INTO hour (starts_at, kind, shard) VALUES ({hour}, {kind}, {shard}) {or_nothing}"))
    }
}

/// See `Store::hours`.
pub fn hours(db: &mut dyn Db, starts: &[Timestamp]) -> StoreResult<Vec<HourRow>> {
    let mut s = db.stmt();
    let list = s.in_ints(starts.iter().map(|at| at.as_us()));
    let sql = s.sql(format!(
        "SELECT starts_at, kind, {}, {} FROM hour WHERE starts_at {list} ORDER BY starts_at, kind",
        SUMS.join(", "),
        PEAKS.join(", ")
    ));
    let mut found: BTreeMap<(Timestamp, KindName), Counts> = BTreeMap::new();
    for mut row in db.query("read the hours", &sql)? {
        let at = Timestamp::from_us(row.int());
        let kind = KindName::from_stored(row.text());
        found.entry((at, kind)).or_default().add(&read(&mut row));
    }
    Ok(found.into_iter().map(|((starts_at, kind), counts)| HourRow { starts_at, kind, counts }).collect())
}

fn read(row: &mut Row) -> Counts {
    let mut next = || row.int().max(0).unsigned_abs();
    Counts {
        claimed: next(),
        results: std::array::from_fn(|_| next()),
        failed_for_good: next(),
        quarantined: next(),
        run_us: next(),
        waited: next(),
        wait_us: next(),
        run_max_us: next(),
        wait_max_us: next(),
    }
}

/// The first hour that is kept.
pub fn first(db: &mut dyn Db) -> StoreResult<Option<Timestamp>> {
    let sql = db.stmt().sql("SELECT min(starts_at) FROM hour");
    Ok(db.first("read the hours", &sql)?.and_then(|mut row| row.opt_int()).map(Timestamp::from_us))
}

/// Deletes rows of a table whose time is longer ago. `column` and `table` are words of this program. A
/// moment is named instead of rows: they are in the order of that index, and nobody brings one back.
pub fn forget(db: &mut dyn Db, table: &str, column: &str, span: Duration, limit: usize) -> StoreResult<usize> {
    let now = db.dialect().moment;
    let mut s = db.stmt();
    let (span, limit) = (s.int(micros(span)), s.int(i64::try_from(limit).unwrap_or(i64::MAX)));
    let sql =
        s.sql(format!("SELECT {column} FROM {table} WHERE {column} < {now} - {span} ORDER BY {column} LIMIT {limit}"));
    let Some(last) = db.query("purge", &sql)?.into_iter().next_back().map(|mut row| row.int()) else { return Ok(0) };
    let mut s = db.stmt();
    let last = s.int(last);
    let sql = s.sql(format!("DELETE FROM {table} WHERE {column} <= {last}"));
    db.execute("purge", &sql)
}
