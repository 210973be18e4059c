//! From the store's rows to what people and the checks see of a cluster. Pure.
//!
//! Whether an engine is shown as late is computed here and nowhere else. It is shown only: whether an
//! engine is dead is decided by `protocol::liveness` with other clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::snapshot::{Capped, ClusterSnapshot, DbView, EngineState, EngineView, StuckGroup, TaskCounts, Wanted};
use crate::protocol::engine::{self, Mode};
use crate::protocol::task::TaskState;
use crate::protocol::time::Timestamp;
use crate::store::{EngineRow, StatusView};

/// What an engine is seen to be.
pub fn state(row: &EngineRow, now: Timestamp) -> EngineState {
    match (row.state, row.mode) {
        (engine::EngineState::Fenced, _) => EngineState::Fenced,
        (engine::EngineState::Stopped, _) => EngineState::Stopped,
        (engine::EngineState::Live, _) if is_late(row, now) => EngineState::Late,
        // The beat that was accepted carried what held before it: whoever has beaten and should run, runs.
        (engine::EngineState::Live, Mode::Starting) if row.beat > 0 && row.wanted.wanted == engine::Wanted::Run => {
            EngineState::Active
        }
        (engine::EngineState::Live, Mode::Starting) => EngineState::Starting,
        (engine::EngineState::Live, Mode::Active) => EngineState::Active,
        (engine::EngineState::Live, Mode::Paused) => EngineState::Paused,
        (engine::EngineState::Live, Mode::Draining) => EngineState::Draining,
        (engine::EngineState::Live, Mode::Drained) => EngineState::Drained,
        (engine::EngineState::Live, Mode::Stuck) => EngineState::Stuck,
        (engine::EngineState::Live, Mode::Starved) => EngineState::Starved,
    }
}

/// More than 1.25 h since its last beat by the database's clock: it has missed one.
fn is_late(row: &EngineRow, now: Timestamp) -> bool {
    now.since(row.last_beat_at) > row.timing.recent()
}

/// Silent for longer than any peer would have let it: nobody is left who could fence it.
fn is_long_silent(row: &EngineRow, now: Timestamp) -> bool {
    now.since(row.last_beat_at) > row.timing.fenced_within()
}

/// One engine.
pub fn engine_view(row: &EngineRow, now: Timestamp) -> EngineView {
    let is_fenced = row.state == engine::EngineState::Fenced;
    EngineView {
        name: row.name.to_string(),
        incarnation: row.incarnation,
        host: row.host.clone(),
        state: state(row, now),
        wanted: match row.wanted.wanted {
            engine::Wanted::Run => Wanted::Run,
            engine::Wanted::Pause => Wanted::Pause,
            engine::Wanted::Drain => Wanted::Drain,
            engine::Wanted::Stop => Wanted::Stop,
        },
        is_alive: row.state == engine::EngineState::Live && !is_long_silent(row, now),
        beat_age: now.since(row.last_beat_at),
        lease: row.timing.lease(),
        heartbeat_interval: row.timing.heartbeat_interval(),
        slots: row.slots,
        running: row.running,
        fenced_at: row.ended_at.filter(|_| is_fenced),
        fenced_by: row.ended_by.clone().filter(|_| is_fenced),
        proof: row.proof.filter(|_| is_fenced).map(|proof| proof.to_string()),
        taken_over: u32::try_from(row.taken_over).unwrap_or(u32::MAX),
        note: row.wanted.reason.clone(),
        set_by: row.wanted.by.clone(),
        set_at: row.wanted.at,
        set_until: row.wanted.until,
        version: row.version.clone(),
    }
}

/// The newest life of each name; ended lives before it are history. `rows` come newest first.
pub fn newest_lives(rows: &[EngineRow]) -> Vec<&EngineRow> {
    let mut newest: BTreeMap<&str, &EngineRow> = BTreeMap::new();
    for row in rows {
        let known = newest.entry(row.name.as_str()).or_insert(row);
        let is_live = |row: &EngineRow| row.state == engine::EngineState::Live;
        if is_live(row) && !is_live(known) {
            *known = row;
        }
    }
    newest.into_values().collect()
}

/// What else a snapshot needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Surroundings {
    /// The cluster's name.
    pub cluster: String,
    /// For clock times in texts: seconds east of UTC.
    pub utc_offset_s: i32,
    /// The database itself.
    pub db: DbView,
}

/// The whole cluster.
pub fn snapshot(status: &StatusView, around: Surroundings) -> ClusterSnapshot {
    let now = status.meta.now;
    let stuck = status.failed_kinds.iter().map(|group| StuckGroup {
        state: TaskState::Failed,
        kind: group.kind.to_string(),
        count: Capped::new(group.count),
        newest_age: group.newest,
        example: group.error.clone(),
    });
    ClusterSnapshot {
        now,
        utc_offset_s: around.utc_offset_s,
        cluster: around.cluster,
        kind: None,
        engines: newest_lives(&status.engines).into_iter().map(|row| engine_view(row, now)).collect(),
        tasks: task_counts(&status.counts),
        oldest_ready_age: status.oldest_ready,
        oldest_ready_id: None,
        oldest_running_age: status.oldest_running,
        stuck: stuck.collect(),
        takeovers_1h: status.taken_over_1h,
        fences_1h: status.fenced_1h,
        done_1h: status.done_1h,
        failures_1h: status.failed_1h,
        db: around.db,
    }
}

fn task_counts(counts: &[(TaskState, u64)]) -> TaskCounts {
    let count = |state| Capped::new(counts.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count));
    TaskCounts {
        ready: count(TaskState::Ready),
        waiting: count(TaskState::Waiting),
        blocked: count(TaskState::Blocked),
        running: count(TaskState::Running),
        held: count(TaskState::Held),
        failed: count(TaskState::Failed),
        quarantined: count(TaskState::Quarantined),
        interrupted: count(TaskState::Interrupted),
    }
}

/// The difference of two clocks, given when the question was sent and the answer came. What the round
/// trip alone could explain is no skew.
pub fn clock_skew(sent: Timestamp, database: Timestamp, answered: Timestamp) -> Duration {
    if database < sent { sent.since(database) } else { database.since(answered) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::engine::Proof;
    use crate::protocol::ids::{EngineName, Incarnation};
    use crate::protocol::timing::{Profile, Timing};
    use crate::store::WantedRow;

    const NOW: Timestamp = Timestamp::from_us(1_795_179_731_000_000);

    fn row(name: &str, beat_age_ms: u64) -> EngineRow {
        EngineRow {
            incarnation: Incarnation::new(7),
            name: EngineName::new(name).unwrap(),
            state: engine::EngineState::Live,
            mode: Mode::Active,
            beat: 1,
            last_beat_at: NOW.before(Duration::from_millis(beat_age_ms)),
            running: 1,
            refused: 0,
            timing: Timing::of(Profile::Balanced),
            host: "h".into(),
            boot_id: "b".into(),
            pid: 1,
            state_id: "s".into(),
            version: "0.1.0".into(),
            protocol: (1, 1),
            release: "/".into(),
            kinds: Vec::new(),
            slots: 4,
            means: "none".into(),
            registered_at: NOW.before(Duration::from_secs(60)),
            ended_at: None,
            proof: None,
            ended_by: None,
            taken_over: 0,
            wanted: WantedRow {
                wanted: engine::Wanted::Run,
                reason: None,
                by: None,
                at: None,
                until: None,
                deadline: None,
            },
        }
    }

    #[test]
    fn an_engine_is_late_from_a_missed_beat_on() {
        assert_eq!(state(&row("a", 2_500), NOW), EngineState::Active);
        assert_eq!(state(&row("a", 2_501), NOW), EngineState::Late);
        let stopped = EngineRow { state: engine::EngineState::Stopped, ..row("a", 9_000) };
        assert_eq!(state(&stopped, NOW), EngineState::Stopped);
    }

    #[test]
    fn an_engine_starts_until_its_first_accepted_beat() {
        let starting = |beat| EngineRow { mode: Mode::Starting, beat, ..row("a", 0) };
        assert_eq!(state(&starting(0), NOW), EngineState::Starting);
        assert_eq!(state(&starting(1), NOW), EngineState::Active);
        let wanted = WantedRow { wanted: engine::Wanted::Drain, ..row("a", 0).wanted };
        assert_eq!(state(&EngineRow { wanted, ..starting(1) }, NOW), EngineState::Starting);
    }

    #[test]
    fn only_a_fenced_engine_shows_who_fenced_it() {
        let ended = |state| EngineRow {
            state,
            ended_at: Some(NOW),
            ended_by: Some("b".into()),
            proof: Some(Proof::Expiry),
            ..row("a", 0)
        };
        let view = engine_view(&ended(engine::EngineState::Fenced), NOW);
        assert_eq!((view.fenced_by.as_deref(), view.proof.as_deref()), (Some("b"), Some("expiry")));
        assert_eq!(engine_view(&ended(engine::EngineState::Stopped), NOW).fenced_at, None);
    }

    #[test]
    fn a_name_is_shown_by_its_live_or_newest_life() {
        let dead = EngineRow { state: engine::EngineState::Fenced, incarnation: Incarnation::new(1), ..row("a", 0) };
        let rows = [dead.clone(), row("a", 0), row("b", 0), dead];
        let shown: Vec<_> = newest_lives(&rows).iter().map(|row| (row.name.as_str(), row.incarnation)).collect();
        assert_eq!(shown, [("a", Incarnation::new(7)), ("b", Incarnation::new(7))]);
    }

    #[test]
    fn a_slow_answer_is_no_skew() {
        let at = |ms: u64| NOW.after(Duration::from_millis(ms));
        assert_eq!(clock_skew(at(100), at(150), at(900)), Duration::ZERO);
        assert_eq!(clock_skew(at(100), at(40), at(120)), Duration::from_millis(60));
        assert_eq!(clock_skew(at(100), at(2_120), at(120)), Duration::from_secs(2));
    }
}
