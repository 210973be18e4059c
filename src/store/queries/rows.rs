//! Small converters between rows and protocol types that several query files need.

use crate::protocol::ids::{Epoch, Nonce, ResourceName, TaskId, Token};
use crate::protocol::task::TaskState;
use crate::protocol::time::Timestamp;
use crate::protocol::timing::{Spans, Timing};
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::{Cause, StoreError};
use crate::store::sql::{Dialect, Row, Stmt};
use crate::store::types::{Held, Meta};

/// No count in a row goes beyond this: a row that somebody else wrote must not make a sum overflow, because one such
/// error stops every row that the statement is about. The schema refuses more (`task_counts_can_grow`).
pub const COUNT_CEILING: i64 = 1_000_000_000;

/// The same for sums over many tasks.
pub const SUM_CEILING: i64 = 1_000_000_000_000_000_000;

/// What `version` is after a write: another number, which is all that it has to be.
pub const NEXT_VERSION: &str = "CASE WHEN version < 1000000000 THEN version + 1 ELSE 0 END";

/// What `attempt` is after a claim.
pub const NEXT_ATTEMPT: &str = "CASE WHEN attempt < 1000000000 THEN attempt + 1 ELSE attempt END";

/// `GREATEST(stored, epoch << 40) + 1`, which stands still at [`Token::MAX`]: what has that token is not claimed any
/// more, so nobody is given one twice.
pub fn next_token(dialect: &Dialect, stored: &str) -> String {
    let (least, greatest, last) = (dialect.least, dialect.greatest, Token::MAX.as_i64() - 1);
    format!("{least}({greatest}({stored}, (SELECT epoch * 1099511627776 FROM meta WHERE one = 1)), {last}) + 1")
}

/// `column` plus a number, at most [`SUM_CEILING`]. The room is computed here, so that nothing can overflow there.
pub fn plus(dialect: &Dialect, s: &mut Stmt, column: &str, more: u64) -> String {
    let more = i64::try_from(more).unwrap_or(SUM_CEILING).min(SUM_CEILING);
    let (room, more) = (s.int(SUM_CEILING - more), s.int(more));
    format!("{}({column}, {room}) + {more}", dialect.least)
}

/// `meta`'s columns, in the order of [`read_meta`]; `{identity}` is an SQL expression.
pub fn meta_columns(identity: &str, now: &str) -> String {
    format!(
        "m.cluster_id, m.cluster, m.epoch, m.raised_epoch, m.settled_epoch, m.raised_reason, m.identity, \
         CASE WHEN m.identity = {identity} THEN 1 ELSE 0 END, m.clock_seen_at, {now}"
    )
}

/// Reads [`meta_columns`].
pub fn read_meta(row: &mut Row) -> Meta {
    Meta {
        cluster_id: row.text(),
        cluster: row.opt_text(),
        epoch: Epoch::new(row.int()),
        raised_epoch: Epoch::new(row.int()),
        settled_epoch: Epoch::new(row.int()),
        raised_reason: row.opt_text(),
        identity: row.text(),
        identity_matches: row.flag(),
        clock_seen_at: Timestamp::from_us(row.int()),
        now: Timestamp::from_us(row.int()),
    }
}

/// The timing columns of `engine`, in the order of [`read_timing`].
pub const TIMING_COLUMNS: &str = "heartbeat_ms, query_ms, lease_ms, kill_ms, takeover_ms, sweep_ms";

/// Reads [`TIMING_COLUMNS`]. The database checks the inequalities too, so a row that breaks them was
/// written by something else: such a row is an error, not a guess.
pub fn read_timing(row: &mut Row) -> StoreResult<Timing> {
    let spans = Spans {
        heartbeat_ms: row.count(),
        query_ms: row.count(),
        lease_ms: row.count(),
        kill_ms: row.count(),
        takeover_ms: row.count(),
        sweep_ms: row.count(),
    };
    Timing::new(spans).map_err(|error| corrupt("engine timing", error))
}

/// A row that no version of this program writes.
pub fn corrupt(step: &'static str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Broken { step, source: Cause(error.to_string()) }
}

/// Resources of tasks, each list in name order. Those that name none are not in it.
pub type Names = std::collections::BTreeMap<TaskId, Vec<ResourceName>>;

/// Reads them.
pub fn resources_of(db: &mut dyn Db, tasks: &[TaskId]) -> StoreResult<Names> {
    let mut out = Names::new();
    if tasks.is_empty() {
        return Ok(out);
    }
    let mut s = db.stmt();
    let ids = s.in_ints(tasks.iter().map(|t| t.as_i64()));
    let sql = s.sql(format!("SELECT task, resource FROM task_resource WHERE task {ids} ORDER BY task, resource"));
    for mut row in db.query("read resources of tasks", &sql)? {
        let task = TaskId::new(row.int());
        out.entry(task).or_default().push(ResourceName::from_stored(row.text()));
    }
    Ok(out)
}

/// Reads `id, token, nonce`.
pub fn held(row: &mut Row) -> Held {
    Held { task: TaskId::new(row.int()), token: Token::new(row.int()), nonce: Nonce::new(row.int()) }
}

/// That a task is in this state, beside its number. `+ 0` hides the state from the planner: it would rather read the
/// whole index of those that are ready, where it has heard of none, than look each number up.
pub fn is_in(column: &str, state: TaskState) -> String {
    format!("{column} + 0 = {}", state.code())
}

/// Microseconds from a duration, for adding to the database's clock.
pub fn micros(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// The database's clock.
pub fn now(db: &mut dyn Db) -> StoreResult<Timestamp> {
    let sql = db.stmt().sql(format!("SELECT {}", db.dialect().now));
    Ok(Timestamp::from_us(db.first("read the clock", &sql)?.map_or(0, |mut row| row.int())))
}
