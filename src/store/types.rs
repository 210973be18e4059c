//! What goes into the steps of the [`Store`](super::Store) and what comes out: plain values, the same
//! for every backend.

use std::time::Duration;

use serde::Serialize;

use crate::protocol::engine::{EngineState, Mode, Proof, Wanted};
use crate::protocol::ids::{EngineName, Epoch, Incarnation, KindName, Nonce, ResourceName, TaskId, Token};
use crate::protocol::liveness::{PeerBeat, SweepKind};
use crate::protocol::takeover::Next;
use crate::protocol::task::{AttemptResult, Policy, Reason, TaskState, Wish};
use crate::protocol::time::Timestamp;
use crate::protocol::timing::Timing;

/// How far the schema of a database is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaStatus {
    /// The newest migration that was run; `None` in an empty database.
    pub found: Option<String>,
    /// The newest that this program knows.
    pub wanted: String,
    /// Known here, but not run there.
    pub pending: Vec<String>,
    /// Run there, but not known here: the database is newer than this program.
    pub unknown: Vec<String>,
}

impl SchemaStatus {
    /// Whether this program and the database fit.
    pub fn is_current(&self) -> bool {
        self.pending.is_empty() && self.unknown.is_empty()
    }
}

/// The one row of `meta`, with the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Random, made with the database: recognises a wrong one.
    pub cluster_id: String,
    /// The cluster's name, which its first engine wrote.
    pub cluster: Option<String>,
    /// The current epoch.
    pub epoch: Epoch,
    /// The last epoch that was raised because commits may be lost.
    pub raised_epoch: Epoch,
    /// The last epoch after which some engine has watched for the largest T; claims need
    /// `settled_epoch >= raised_epoch`.
    pub settled_epoch: Epoch,
    /// Why the epoch was raised the last time.
    pub raised_reason: Option<String>,
    /// Whether the database's identity is the recorded one.
    pub identity_matches: bool,
    /// The database's clock.
    pub now: Timestamp,
}

/// A new incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Random, never reused.
    pub incarnation: Incarnation,
    /// Chosen by people.
    pub name: EngineName,
    /// Host name.
    pub host: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Process id on that host.
    pub pid: u32,
    /// Random id kept in the state directory.
    pub state_id: String,
    /// Program version.
    pub version: String,
    /// Oldest and newest protocol it speaks.
    pub protocol: (u32, u32),
    /// Where the code runs from.
    pub release: String,
    /// Kinds it takes, for people (`*` for a library's handlers is not allowed: names only).
    pub kinds: Vec<KindName>,
    /// Tasks at once.
    pub slots: u32,
    /// Which means of killing its guard has, or `none`.
    pub means: String,
    /// Its timing, fixed for its life.
    pub timing: Timing,
    /// The life before this one, if it is known to be over: ended in the same transaction.
    pub former: Option<FormerLife>,
    /// The cluster it belongs to; the first one to register names the database's.
    pub cluster: String,
    /// The largest epoch this engine remembers.
    pub known_epoch: Epoch,
}

/// A former incarnation that the registering engine ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerLife {
    /// Who.
    pub incarnation: Incarnation,
    /// How it is known to be over: `self` or `lock`.
    pub proof: Proof,
    /// `continue` tasks that still run and are adopted if their token is still current.
    pub adopt: Vec<Held>,
}

/// A claim as its owner remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// The task.
    pub task: TaskId,
    /// Its token.
    pub token: Token,
    /// The claim's nonce.
    pub nonce: Nonce,
}

/// A live engine of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namesake {
    /// Who.
    pub incarnation: Incarnation,
    /// Where.
    pub host: String,
    /// The boot it runs in.
    pub boot_id: String,
    /// Its process.
    pub pid: u32,
    /// The id of its state directory.
    pub state_id: String,
    /// By the database's clock.
    pub last_beat_age: Duration,
    /// Its counter.
    pub beat: i64,
    /// Its T.
    pub takeover_after: Duration,
}

/// What came of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterOutcome {
    /// Registered; which `continue` tasks were adopted.
    Registered {
        /// Adopted.
        adopted: Vec<Held>,
        /// The meta row.
        meta: Meta,
    },
    /// A live engine has this name. Nothing was changed, but a former life that was named is ended: it is
    /// over in any case.
    NameTaken(Namesake),
}

/// One heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub incarnation: Incarnation,
    /// What it reports.
    pub mode: Mode,
    /// Tasks that run.
    pub running: u32,
}

/// What came of a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeatOutcome {
    /// Accepted.
    Accepted(BeatAnswer),
    /// Zero rows: this incarnation is not live any more.
    Gone,
}

/// What an accepted beat brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeatAnswer {
    /// The counter after this beat.
    pub beat: i64,
    /// What operators want.
    pub wanted: Wanted,
    /// The deadline of a drain or stop, by the database's clock.
    pub wanted_deadline: Option<Timestamp>,
    /// Wishes on tasks this incarnation runs.
    pub wishes: Vec<(TaskId, Token, Wish)>,
    /// The meta row, identity checked.
    pub meta: Meta,
}

/// What one sweep read.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepView {
    /// The meta row.
    pub meta: Meta,
    /// Live engines, this one included.
    pub live_count: usize,
    /// Live peers: the late ones, or all in a full sweep.
    pub peers: Vec<PeerBeat>,
    /// Fenced or stopped incarnations whose row is not closed.
    pub ended: Vec<EndedPeer>,
    /// When the next waiting task is due.
    pub next_due: Option<Timestamp>,
    /// When the last search for orphans of closed rows was.
    pub orphan_scan_at: Timestamp,
    /// The largest T of live rows.
    pub takeover_max: Duration,
}

/// An incarnation that ended and may still own something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedPeer {
    /// Who.
    pub incarnation: Incarnation,
    /// Its name.
    pub name: EngineName,
    /// Fenced or stopped.
    pub state: EngineState,
    /// How.
    pub proof: Proof,
    /// Its L + K: an operator's fence that was not acknowledged is left alone for that long.
    pub dead_after: Duration,
    /// It has seen that it was fenced, and has stopped everything.
    pub acknowledged: bool,
}

/// How to end an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Whom.
    pub incarnation: Incarnation,
    /// The counter that stood still; `None` with a proof.
    pub beat: Option<i64>,
    /// Why.
    pub proof: Proof,
    /// Who does it, for people.
    pub by: String,
}

/// What came of a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceOutcome {
    /// This call won.
    Won,
    /// It beat meanwhile, or somebody else was faster.
    Missed,
}

/// What one pass of a takeover did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TakeoverReport {
    /// Made ready again.
    pub ready: usize,
    /// Quarantined, failed (`rerun = "never"`), canceled or held.
    pub parked: usize,
    /// Another transaction held them.
    pub skipped: usize,
    /// More is left for the next pass.
    pub more: bool,
}

/// What there is to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindWork {
    /// The kind.
    pub kind: KindName,
    /// Ready tasks without resources.
    pub plain: bool,
    /// Ready tasks with resources.
    pub keyed: bool,
    /// Ready tasks that must run alone.
    pub alone: bool,
}

/// Which part of the ready tasks a claim looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimScope {
    /// Those without resources.
    Plain,
    /// Those with resources.
    Keyed,
    /// One that must run alone, with or without resources.
    Alone,
}

/// A claim of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// For whom.
    pub incarnation: Incarnation,
    /// On which host (a task may be barred from one).
    pub host: String,
    /// Of which kind.
    pub kind: KindName,
    /// What the kind says about interruption.
    pub policy: Policy,
    /// Which part.
    pub scope: ClaimScope,
    /// At most so many.
    pub limit: usize,
    /// Fresh.
    pub nonce: Nonce,
}

/// A task that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The claim.
    pub held: Held,
    /// Its kind.
    pub kind: KindName,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// Temporary failures so far.
    pub failures: u32,
    /// Engines lost under it.
    pub lost: u32,
    /// Self-fences in a row.
    pub handed_back: u32,
    /// Why this attempt exists.
    pub reason: Reason,
    /// It was barred from a host before.
    pub was_elsewhere: bool,
    /// What to work on.
    pub payload: Vec<u8>,
    /// Its resources, by name.
    pub resources: Vec<ResourceName>,
}

/// The end of one attempt, as its owner reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// The claim.
    pub held: Held,
    /// Whether the task names resources (the plain path is shorter).
    pub keyed: bool,
    /// How the attempt ended.
    pub result: AttemptResult,
    /// What becomes of the task.
    pub next: Next,
    /// Whether it uses the retry budget.
    pub uses_budget: bool,
    /// Bar this host from the next attempt, if there is another one.
    pub not_on: Option<String>,
    /// Exit code or signal, for people.
    pub exit_code: Option<i32>,
    /// One line, for people.
    pub detail: Option<String>,
    /// What a handler returned.
    pub value: Option<String>,
    /// The tail of what it printed.
    pub output: Vec<u8>,
    /// Bytes dropped before that tail.
    pub output_dropped: u64,
    /// Never started: the attempt is not counted.
    pub unstarted: bool,
}

/// Who reports ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finisher {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Its name.
    pub name: EngineName,
}

/// What came of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishOutcome {
    /// Written.
    Written,
    /// Not the owner any more: refused.
    Refused,
}

/// A new task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// Its kind.
    pub kind: KindName,
    /// What to work on; at most 1 MiB.
    pub payload: Vec<u8>,
    /// Sorted, without repeats.
    pub resources: Vec<ResourceName>,
    /// Higher first.
    pub priority: i16,
    /// Not before this long from now.
    pub delay: Option<Duration>,
}

/// What operators want of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish4Engine {
    /// Of whom.
    pub name: EngineName,
    /// What.
    pub wanted: Wanted,
    /// Why.
    pub reason: Option<String>,
    /// Who says so.
    pub by: String,
    /// Kill and hand back what still runs this long from now.
    pub deadline: Option<Duration>,
    /// It ends by itself after this long.
    pub lasts: Option<Duration>,
}

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
    /// At most so many, newest first.
    pub limit: usize,
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
    /// Its claim's nonce.
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

/// What a person asked of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskVerb {
    /// Ready now; the retry budget starts again.
    Retry,
    /// Stop it for good.
    Cancel,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerbOutcome {
    /// Done; the state it was in.
    Applied(TaskState),
    /// It runs: its owner was asked, and does it with its next beat.
    Asked,
    /// The verb does not fit its state. Nothing was changed.
    WrongState(TaskState),
    /// There is no such task.
    NotFound,
}

/// Numbers for `status` and the health check; counts stop at [`COUNT_MAX`].
#[derive(Debug, Clone, PartialEq)]
pub struct StatusView {
    /// The meta row.
    pub meta: Meta,
    /// All engines that are not forgotten, newest life of each name, and lives that ended lately.
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

/// What the server is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// For example `PostgreSQL 15.18` or `SQLite 3.53.2`.
    pub product: String,
    /// Where, without password.
    pub place: String,
    /// Its identity as `meta` would record it.
    pub identity: String,
    /// Settings that could lose commits, in words; empty when all is well.
    pub durability_problems: Vec<String>,
    /// Whether it refuses writes.
    pub read_only: bool,
}

/// How the sweeper read.
pub type SweepMode = SweepKind;
