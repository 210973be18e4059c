//! The tables as maps, and the few rules that every step shares: the meta row, the lines, the next token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::protocol::engine::{EngineState, Mode, Proof, Wanted};
use crate::protocol::ids::{EngineName, Epoch, Incarnation, KindName, Nonce, ResourceName, TaskId, Token};
use crate::protocol::task::{AttemptResult, Policy, Reason, TaskState, Wish};
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::audit::Counts;
use crate::store::error::StoreError;
use crate::store::types::{AttemptRow, Held, Meta, OutputRow, Registration};

/// Everything that a database would hold.
#[derive(Debug, Clone)]
pub struct State {
    /// The meta row.
    pub meta: MetaEntry,
    /// What the database is now; it is trusted while `meta` has recorded the same.
    pub identity: String,
    /// Every life that is not forgotten.
    pub engines: BTreeMap<Incarnation, EngineEntry>,
    /// What operators want.
    pub wishes: BTreeMap<EngineName, WishEntry>,
    /// Unfinished tasks, and those that wait for a person.
    pub tasks: BTreeMap<TaskId, TaskEntry>,
    /// Done and canceled ones.
    pub archive: BTreeMap<TaskId, TaskEntry>,
    /// Resources that were claimed at least once.
    pub resources: BTreeMap<ResourceName, ResourceEntry>,
    /// Who stands in line.
    pub lines: BTreeMap<ResourceName, BTreeSet<TaskId>>,
    /// Attempts that were not the good last one.
    pub attempts: BTreeMap<TaskId, Vec<AttemptRow>>,
    /// What attempts printed.
    pub outputs: BTreeMap<(TaskId, u32), OutputRow>,
    /// Who changed what.
    pub history: Vec<super::audit::HistoryRow>,
    /// What became of attempts, per hour and kind.
    pub hours: BTreeMap<(Timestamp, KindName), Counts>,
    /// The last number that was given out.
    pub last_id: i64,
    /// Counts writes, for watchers.
    pub changes: u64,
}

/// The meta row.
#[derive(Debug, Clone)]
pub struct MetaEntry {
    /// The cluster, named by its first engine.
    pub cluster: Option<String>,
    /// The recorded identity.
    pub identity: String,
    /// The current epoch.
    pub epoch: Epoch,
    /// The last one raised because commits may be lost.
    pub raised_epoch: Epoch,
    /// The last one that was watched long enough.
    pub settled_epoch: Epoch,
    /// Why it was raised the last time.
    pub raised_reason: Option<String>,
    /// The last search for orphans.
    pub orphan_scan_at: Timestamp,
    /// When somebody last looked for resources to forget, or raised the epoch for it.
    pub forget_at: Timestamp,
    /// The epoch raised for it, while rows are left to forget.
    pub forget_epoch: Option<Epoch>,
    /// The latest end of all lives that were forgotten.
    pub lives_forgotten_at: Timestamp,
    /// The latest time that was seen before the clock was set back.
    pub clock_seen_at: Timestamp,
}

/// There is one such database in a process.
pub(super) const CLUSTER_ID: &str = "memory";

/// One life of an engine.
#[derive(Debug, Clone)]
pub struct EngineEntry {
    /// What it said of itself.
    pub said: Registration,
    /// Whether it may still act.
    pub state: EngineState,
    /// What it reports.
    pub mode: Mode,
    /// Accepted beats.
    pub beat: i64,
    /// A cheap filter.
    pub last_beat_at: Timestamp,
    /// Tasks that run.
    pub running: u32,
    /// Results refused.
    pub refused: u64,
    /// It has seen that it was fenced.
    pub acknowledged: bool,
    /// Its row was closed: sweeps do not list it any more.
    pub closed: bool,
    /// When it registered.
    pub registered_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How.
    pub proof: Option<Proof>,
    /// Who says so.
    pub ended_by: Option<String>,
    /// Tasks taken over from it.
    pub taken_over: u64,
    /// Ends that it wrote and has not told the hourly numbers.
    pub uncounted: BTreeMap<KindName, Counts>,
}

/// What operators want of a name.
#[derive(Debug, Clone)]
pub struct WishEntry {
    /// What.
    pub wanted: Wanted,
    /// Why.
    pub reason: Option<String>,
    /// Who.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
    /// It ends by itself then.
    pub until: Option<Timestamp>,
    /// What still runs then is handed back.
    pub deadline: Option<Timestamp>,
}

/// A task, unfinished or archived.
#[derive(Debug, Clone)]
pub struct TaskEntry {
    /// Its kind.
    pub kind: KindName,
    /// Where it is.
    pub state: TaskState,
    /// Higher first.
    pub priority: i16,
    /// Why its next attempt exists.
    pub reason: Reason,
    /// Claims so far.
    pub attempt: u32,
    /// Retry budget used.
    pub failures: u32,
    /// Engines lost under it.
    pub lost: u32,
    /// Hand-backs in a row that it may have caused.
    pub handed_back: u32,
    /// What its owner is asked to do.
    pub wish: Wish,
    /// How its last attempt ended.
    pub result: Option<AttemptResult>,
    /// What its kind says, written at the claim.
    pub policy: Policy,
    /// The fencing token.
    pub token: Token,
    /// Who runs it.
    pub owner: Option<Incarnation>,
    /// It was ready from the moment it was added, and nobody has claimed it yet.
    pub was_free: bool,
    /// Names the claim.
    pub nonce: Option<Nonce>,
    /// Not before, while it waits.
    pub due_at: Option<Timestamp>,
    /// When it was claimed.
    pub claimed_at: Option<Timestamp>,
    /// When its last attempt ended.
    pub ended_at: Option<Timestamp>,
    /// Whom it was last charged for.
    pub charged: Option<Incarnation>,
    /// When it was added.
    pub created_at: Timestamp,
    /// Host that may not take the next attempt.
    pub not_on: Option<String>,
    /// It was barred from a host before.
    pub was_elsewhere: bool,
    /// Who ran it last.
    pub engine: Option<String>,
    /// One line about its last attempt.
    pub error: Option<String>,
    /// What a handler returned.
    pub value: Option<String>,
    /// What to work on; shared between copies of the state.
    pub payload: Arc<[u8]>,
    /// Its resources, by name.
    pub resources: Vec<ResourceName>,
}

/// A resource.
#[derive(Debug, Clone)]
pub struct ResourceEntry {
    /// The task that owns it and the incarnation that runs that task.
    pub owner: Option<(TaskId, Incarnation)>,
    /// Its counter.
    pub token: Token,
    /// When it was last claimed.
    pub used_at: Timestamp,
}

impl Default for ResourceEntry {
    fn default() -> Self {
        Self { owner: None, token: Token::ZERO, used_at: Timestamp::from_us(0) }
    }
}

impl Default for State {
    fn default() -> Self {
        let one = Epoch::new(1);
        let meta = MetaEntry {
            cluster: None,
            identity: "memory".into(),
            epoch: one,
            raised_epoch: one,
            settled_epoch: one,
            raised_reason: None,
            orphan_scan_at: Timestamp::from_us(0),
            forget_at: Timestamp::from_us(0),
            forget_epoch: None,
            lives_forgotten_at: Timestamp::from_us(0),
            clock_seen_at: Timestamp::from_us(0),
        };
        Self {
            meta,
            identity: "memory".into(),
            engines: BTreeMap::new(),
            wishes: BTreeMap::new(),
            tasks: BTreeMap::new(),
            archive: BTreeMap::new(),
            resources: BTreeMap::new(),
            lines: BTreeMap::new(),
            attempts: BTreeMap::new(),
            outputs: BTreeMap::new(),
            history: Vec::new(),
            hours: BTreeMap::new(),
            last_id: 0,
            changes: 0,
        }
    }
}

impl TaskEntry {
    /// Its state as people are told it.
    pub fn seen(&self) -> TaskState {
        self.state.seen(self.result)
    }

    /// The claim that holds it, if it runs.
    pub fn held(&self, id: TaskId) -> Option<Held> {
        let nonce = self.nonce.filter(|_| self.state == TaskState::Running)?;
        Some(Held { task: id, token: self.token, nonce })
    }
}

impl State {
    pub(super) fn meta(&self, now: Timestamp) -> Meta {
        Meta {
            cluster_id: CLUSTER_ID.into(),
            cluster: self.meta.cluster.clone(),
            epoch: self.meta.epoch,
            raised_epoch: self.meta.raised_epoch,
            settled_epoch: self.meta.settled_epoch,
            raised_reason: self.meta.raised_reason.clone(),
            identity: self.meta.identity.clone(),
            identity_matches: self.is_recorded(),
            clock_seen_at: self.meta.clock_seen_at,
            now,
        }
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.identity == self.meta.identity
    }

    /// No token is given out by a database that is not the recorded one.
    pub(super) fn must_be_recorded(&self) -> StoreResult<()> {
        if self.is_recorded() {
            return Ok(());
        }
        Err(StoreError::Refused("the database is not the one that the epoch was recorded for".into()))
    }

    pub(super) fn raise_epoch(&mut self, from: Epoch, at_least: Epoch, reason: &str) -> bool {
        let is_mine = self.meta.epoch == from;
        if is_mine {
            self.meta.epoch = at_least.max(Epoch::new(from.as_i64() + 1));
            self.meta.raised_epoch = self.meta.epoch;
            self.meta.raised_reason = Some(reason.to_owned());
            self.meta.identity.clone_from(&self.identity);
        }
        is_mine
    }

    pub(super) fn settle_epoch(&mut self, epoch: Epoch) -> bool {
        let is_next = self.meta.epoch == epoch && self.meta.settled_epoch < epoch;
        if is_next {
            self.meta.settled_epoch = epoch;
        }
        is_next
    }

    /// The first in the line of a resource.
    pub(super) fn head(&self, name: &ResourceName) -> Option<TaskId> {
        self.lines.get(name).and_then(|line| line.first()).copied()
    }

    /// Puts a task into the lines of its resources, or takes it out.
    pub(super) fn place_in_line(&mut self, id: TaskId, names: &[ResourceName], stays: bool) {
        for name in names {
            let line = self.lines.entry(name.clone()).or_default();
            if stays {
                line.insert(id);
            } else {
                line.remove(&id);
            }
            if line.is_empty() {
                self.lines.remove(name);
            }
        }
    }

    /// Makes the heads of these lines ready if they are blocked and their resource is free.
    pub(super) fn wake_heads<'a>(&mut self, names: impl IntoIterator<Item = &'a ResourceName>) {
        for name in names {
            let is_free = self.resources.get(name).is_some_and(|r| r.owner.is_none());
            let Some(head) = self.head(name).filter(|_| is_free) else { continue };
            if let Some(task) = self.tasks.get_mut(&head).filter(|task| task.state == TaskState::Blocked) {
                task.state = TaskState::Ready;
            }
        }
    }

    /// The largest token of a task and its resources.
    pub(super) fn largest_token(&self, task: &TaskEntry) -> Token {
        let of_resources = task.resources.iter().filter_map(|name| self.resources.get(name)).map(|r| r.token);
        of_resources.fold(task.token, Token::max)
    }

    pub(super) fn owned(&self, incarnation: Incarnation) -> Vec<Held> {
        let mine = self.tasks.iter().filter(|(_, task)| task.owner == Some(incarnation));
        mine.filter_map(|(id, task)| task.held(*id)).collect()
    }
}
