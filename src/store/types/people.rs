//! What people and the health check read.

use std::time::Duration;

use super::database::Meta;
use crate::protocol::engine::{EngineState, Mode, Proof, Wanted};
use crate::protocol::ids::{EngineName, Incarnation, KindName, Nonce, ResourceName, TaskId, Token};
use crate::protocol::task::{AttemptResult, Reason, TaskState, Wish};
use crate::protocol::time::Timestamp;
use crate::protocol::timing::Timing;

/// An engine as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineRow {
    /// Which life.
    pub incarnation: Incarnation,
    /// Its name.
    pub name: EngineName,
    /// Live, fenced or stopped.
    pub state: EngineState,
    /// What it reported last.
    pub mode: Mode,
    /// Its counter.
    pub beat: i64,
    /// By the database's clock.
    pub last_beat_at: Timestamp,
    /// Tasks that ran at its last beat.
    pub running: u32,
    /// Results of it that were refused.
    pub refused: u64,
    /// Its timing.
    pub timing: Timing,
    /// Where.
    pub host: String,
    /// Boot, process, state directory.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Random id of its state directory.
    pub state_id: String,
    /// Program version.
    pub version: String,
    /// Protocol range.
    pub protocol: (u32, u32),
    /// Where its code runs from.
    pub release: String,
    /// Kinds it takes.
    pub kinds: Vec<String>,
    /// Tasks at once.
    pub slots: u32,
    /// Means of killing.
    pub means: String,
    /// When this life began.
    pub registered_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it is known to have ended.
    pub proof: Option<Proof>,
    /// Who ended it.
    pub ended_by: Option<String>,
    /// Tasks taken over from it.
    pub taken_over: u64,
    /// What operators want of the name.
    pub wanted: WantedRow,
}

impl EngineRow {
    /// What is noted of its time when its row is removed: no beat of it is later.
    pub fn forgotten_at(&self) -> Timestamp {
        self.ended_at.map_or(self.last_beat_at, |at| at.max(self.last_beat_at))
    }
}

/// What operators want of a name, with who, why and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedRow {
    /// What.
    pub wanted: Wanted,
    /// Why.
    pub reason: Option<String>,
    /// Who.
    pub by: Option<String>,
    /// Since when.
    pub at: Option<Timestamp>,
    /// It ends by itself then.
    pub until: Option<Timestamp>,
    /// What still runs then is handed back.
    pub deadline: Option<Timestamp>,
}

/// A task as people see it, unfinished or archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRow {
    /// Its number.
    pub id: TaskId,
    /// Its kind.
    pub kind: KindName,
    /// Where it is.
    pub state: TaskState,
    /// Why its next (or present) attempt exists.
    pub reason: Reason,
    /// Higher first.
    pub priority: i16,
    /// Due then, if it waits.
    pub due_at: Option<Timestamp>,
    /// Attempts so far.
    pub attempt: u32,
    /// Temporary failures so far.
    pub failures: u32,
    /// Engines lost under it.
    pub lost: u32,
    /// Its owner, or who ran it last.
    pub engine: Option<String>,
    /// The owning incarnation.
    pub owner: Option<Incarnation>,
    /// Its token.
    pub token: Token,
    /// The nonce of its claim.
    pub nonce: Option<Nonce>,
    /// What was asked of it while it runs.
    pub wish: Wish,
    /// Host that may not take the next attempt.
    pub not_on: Option<String>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When its last attempt ended.
    pub ended_at: Option<Timestamp>,
    /// How its last attempt ended.
    pub result: Option<AttemptResult>,
    /// One line about that.
    pub error: Option<String>,
    /// What a handler returned.
    pub value: Option<String>,
    /// Its resources.
    pub resources: Vec<ResourceName>,
    /// Bytes of its payload.
    pub payload_len: u64,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// In these states; empty: all unfinished, failed, quarantined and held ones.
    pub states: Vec<TaskState>,
    /// Of these kinds; empty: all.
    pub kinds: Vec<KindName>,
    /// That name this resource.
    pub resource: Option<ResourceName>,
    /// Run by this engine (now or last).
    pub engine: Option<EngineName>,
    /// Run on this host (now or last).
    pub host: Option<String>,
    /// Whose last error contains this, whatever the case of its letters.
    pub error_like: Option<String>,
    /// Added longer ago.
    pub older_than: Option<Duration>,
    /// Added less long ago.
    pub newer_than: Option<Duration>,
    /// Only these; empty: all.
    pub ids: Vec<TaskId>,
    /// With a smaller number: the next page of a long list.
    pub before: Option<TaskId>,
    /// At most so many, newest first.
    pub limit: usize,
}

/// A task that was selected for a verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Its number.
    pub id: TaskId,
    /// Its kind.
    pub kind: KindName,
    /// Its state when it was selected.
    pub state: TaskState,
}

/// One attempt as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// From 1.
    pub attempt: u32,
    /// Who ran it.
    pub engine: String,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Its token.
    pub token: Token,
    /// Its claim's nonce; 0 where a takeover wrote the row.
    pub nonce: Nonce,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<Timestamp>,
    /// How.
    pub result: Option<AttemptResult>,
    /// Exit code or signal.
    pub exit_code: Option<i32>,
    /// One line, or the evidence of a lost attempt.
    pub detail: Option<String>,
}

/// What an attempt printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRow {
    /// Of which attempt.
    pub attempt: u32,
    /// Bytes dropped before the tail.
    pub dropped: u64,
    /// The tail.
    pub output: Vec<u8>,
}

/// A resource as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRow {
    /// Its name.
    pub name: ResourceName,
    /// The task that owns it.
    pub owner_task: Option<TaskId>,
    /// The engine that runs that task.
    pub engine: Option<String>,
    /// Its counter.
    pub token: Token,
    /// The tasks in its line (at most 1,000), in order, with their states.
    pub line: Vec<(TaskId, TaskState)>,
    /// How many are in line, at most 1,000.
    pub line_count: u64,
}

/// Numbers for `status` and the health check; counts stop at [`COUNT_MAX`].
#[derive(Debug, Clone, PartialEq)]
pub struct StatusView {
    /// The meta row.
    pub meta: Meta,
    /// The newest life of each name, and those that may still own something.
    pub engines: Vec<EngineRow>,
    /// Per state.
    pub counts: Vec<(TaskState, u64)>,
    /// Age of the oldest ready task.
    pub oldest_ready: Option<Duration>,
    /// Time the oldest running attempt has run.
    pub oldest_running: Option<Duration>,
    /// Failed tasks per kind: count, age of the newest, its error.
    pub failed_kinds: Vec<FailedKind>,
    /// Ends within the last hour, done.
    pub done_1h: u64,
    /// Failed within the last hour.
    pub failed_1h: u64,
    /// Lost attempts within the last hour.
    pub taken_over_1h: u64,
    /// Lives that were fenced within the last hour, whatever came after them.
    pub fenced_1h: u64,
}

/// Failed tasks of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedKind {
    /// The kind.
    pub kind: KindName,
    /// How many, at most [`COUNT_MAX`].
    pub count: u64,
    /// Age of the newest.
    pub newest: Duration,
    /// Its error.
    pub error: Option<String>,
}

/// Counts for people stop here: an exact number of a million rows helps nobody and costs a scan.
pub const COUNT_MAX: u64 = 100_001;
