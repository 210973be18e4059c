//! The way of a task: added, claimed, finished, changed by a person.

use std::time::Duration;

use crate::protocol::ids::{EngineName, Incarnation, KindName, Nonce, ResourceName, TaskId, Token};
use crate::protocol::takeover::Next;
use crate::protocol::task::{AttemptResult, Policy, Reason, TaskState};

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
    /// Hand-backs in a row that it may have caused: by self-fences, and by stops soon after its start.
    pub handed_back: u32,
    /// Why this attempt exists.
    pub reason: Reason,
    /// It was barred from a host before.
    pub was_elsewhere: bool,
    /// What to work on.
    pub payload: Vec<u8>,
    /// Its resources, by name.
    pub resources: Vec<ResourceName>,
    /// From added to claimed, where it waited for nothing but an engine.
    pub waited: Option<Duration>,
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
    /// The new count of hand-backs in a row; `None` leaves it as it is.
    pub handed_back: Option<u32>,
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

/// What a person asked of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskVerb {
    /// Ready now; the retry budget starts again.
    Retry,
    /// Stop it for good.
    Cancel,
}

impl TaskVerb {
    /// What comes of it for a task in this state: the one place that knows.
    pub const fn on(self, state: TaskState) -> VerbOutcome {
        use TaskState::{Blocked, Canceled, Done, Failed, Held, Interrupted, Quarantined, Ready, Running, Waiting};
        match (self, state) {
            (Self::Cancel, Running) => VerbOutcome::Asked,
            (Self::Cancel, Ready | Waiting | Blocked | Held | Failed | Interrupted | Quarantined)
            | (Self::Retry, Failed | Interrupted | Quarantined | Waiting | Held | Canceled) => {
                VerbOutcome::Applied(state)
            }
            (Self::Cancel, Done | Canceled) | (Self::Retry, Ready | Blocked | Running | Done) => {
                VerbOutcome::WrongState(state)
            }
        }
    }
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
