//! Clusters for tests: a healthy one, and engines in every state.

use std::time::Duration;

use super::snapshot::{Capped, ClusterSnapshot, DbView, EngineState, EngineView, StuckGroup, TaskCounts, Wanted};
use crate::protocol::ids::Incarnation;
use crate::protocol::task::TaskState;
use crate::protocol::time::Timestamp;

/// 2026-11-20 13:02:11 UTC, shown as 14:02:11.
pub(crate) const NOW: Timestamp = Timestamp::from_us(1_795_179_731_000_000);

/// An active engine with the balanced profile that has just beaten.
pub(crate) fn engine(name: &str) -> EngineView {
    EngineView {
        name: name.to_owned(),
        incarnation: Incarnation::new(41),
        host: format!("{name}.example.net"),
        state: EngineState::Active,
        wanted: Wanted::Run,
        is_alive: true,
        beat_age: Duration::from_millis(1_100),
        lease: Duration::from_secs(10),
        heartbeat_interval: Duration::from_secs(2),
        slots: 4,
        running: 4,
        fenced_at: None,
        fenced_by: None,
        proof: None,
        taken_over: 0,
        note: None,
        set_by: None,
        set_at: None,
        set_until: None,
        version: "0.4.1".to_owned(),
    }
}

impl EngineView {
    /// Fenced by app1 this many seconds ago.
    pub(crate) fn fenced(self, seconds: u64) -> Self {
        Self {
            state: EngineState::Fenced,
            is_alive: false,
            beat_age: Duration::from_secs(seconds + 13),
            running: 0,
            fenced_at: Some(NOW.before(Duration::from_secs(seconds))),
            fenced_by: Some("app1".to_owned()),
            proof: Some("expiry".to_owned()),
            taken_over: 3,
            ..self
        }
    }

    /// Without a beat for this long.
    pub(crate) fn late(self, seconds: u64) -> Self {
        Self { state: EngineState::Late, beat_age: Duration::from_secs(seconds), ..self }
    }

    /// Paused by bob this many seconds ago.
    pub(crate) fn paused(self, seconds: u64) -> Self {
        Self {
            state: EngineState::Paused,
            wanted: Wanted::Pause,
            running: 0,
            note: Some("disk full".to_owned()),
            set_by: Some("bob".to_owned()),
            set_at: Some(NOW.before(Duration::from_secs(seconds))),
            ..self
        }
    }
}

/// A group of stuck tasks.
pub(crate) fn stuck(state: TaskState, kind: &str, count: u64, example: &str) -> StuckGroup {
    let newest_age = Duration::from_secs(120);
    StuckGroup {
        state,
        kind: kind.to_owned(),
        count: Capped::new(count),
        newest_age,
        example: Some(example.to_owned()),
    }
}

/// Five engines, 128 ready tasks, nothing to complain about.
pub(crate) fn snapshot() -> ClusterSnapshot {
    ClusterSnapshot {
        now: NOW,
        utc_offset_s: 3_600,
        cluster: "billing".to_owned(),
        kind: None,
        engines: ["app1", "app2", "app3", "app4", "app5"].map(engine).into(),
        tasks: TaskCounts {
            ready: Capped::new(128),
            waiting: Capped::new(9),
            running: Capped::new(17),
            ..TaskCounts::default()
        },
        oldest_ready_age: Some(Duration::from_secs(42)),
        oldest_ready_id: None,
        oldest_running_age: Some(Duration::from_secs(660)),
        stuck: Vec::new(),
        takeovers_1h: 0,
        fences_1h: 0,
        done_1h: 2_514,
        failures_1h: 36,
        db: DbView {
            round_trip: Duration::from_millis(12),
            is_schema_ok: true,
            is_read_only: false,
            epoch: crate::protocol::ids::Epoch::new(1),
            connections: None,
            schema: "7".to_owned(),
            clock_skew: Duration::from_millis(20),
            clock_set_back: None,
            backend: "PostgreSQL 16".to_owned(),
        },
    }
}
