//! The store in memory: for engine tests and the simulator. It keeps the same promises as the databases
//! (it passes the same conformance suite), decides with the same code from `protocol`, and is
//! deterministic: no threads, no dice, and its clock is injected.
//!
//! Every step looks at all tasks: it is meant for thousands of them, not for millions.
//!
//! One lock makes every step one transaction. Each step checks whether it may be done before it changes
//! anything, so an error leaves nothing half done. The whole state can be copied and put back, which is
//! how a simulator plays lost commits, stale reads and a database that was restored.

mod audit;
mod claims;
mod ends;
mod engines;
mod forget;
mod people;
mod state;
mod takeover;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use audit::HistoryRow;
pub use state::{EngineEntry, MetaEntry, ResourceEntry, State, TaskEntry, WishEntry};

use super::api::{FinishState, Store, StoreResult, TaskState4Wait, Watcher};
use super::audit::{Affected, Change, Counts, HistoryEntry, HistoryFilter, HourRow};
use super::types::*;
use crate::clock::Clock;
use crate::config::RetentionConfig;
use crate::planted::{Bug, planted};
use crate::protocol::engine::Wanted;
use crate::protocol::ids::{EngineName, Epoch, Incarnation, KindName, ResourceName, TaskId};
use crate::protocol::last_beat::LastBeat;
use crate::protocol::liveness::SweepKind;
use crate::protocol::time::Timestamp;

/// See the module. Clones share one state.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    behind: Arc<Mutex<Option<State>>>,
    clock: Arc<dyn Clock>,
}

impl MemoryStore {
    /// An empty store whose database clock is the wall time of `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { state: Arc::new(Mutex::new(State::default())), behind: Arc::default(), clock }
    }

    /// A copy of everything. Payloads are shared, so it is cheap.
    pub fn snapshot(&self) -> State {
        self.state.lock().clone()
    }

    /// Puts an older (or another) state back, as a restore or a failover does.
    pub fn restore(&self, state: State) {
        *self.state.lock() = state;
    }

    /// What the database is from now on; `meta` keeps what was recorded.
    pub fn set_identity(&self, identity: &str) {
        self.state.lock().identity = identity.to_owned();
    }

    /// What plain reads see from now on: an older state, as on a replica that lags (Galera), or the present
    /// one again. Writes always see the present.
    pub fn lag(&self, behind: Option<State>) {
        *self.behind.lock() = behind;
    }

    /// Changes the state behind the store's back.
    pub fn edit<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock())
    }

    fn read<T>(&self, read: impl FnOnce(&State, Timestamp) -> T) -> T {
        if let Some(behind) = &*self.behind.lock() {
            return read(behind, self.clock.wall_now());
        }
        read(&self.state.lock(), self.clock.wall_now())
    }

    fn write<T>(&self, write: impl FnOnce(&mut State, Timestamp) -> T) -> T {
        let mut state = self.state.lock();
        state.changes += 1;
        write(&mut state, self.clock.wall_now())
    }
}

/// The one version of a schema that is only types.
const VERSION: &str = "memory";

impl Store for MemoryStore {
    fn migrate(&self) -> StoreResult<Vec<String>> {
        Ok(Vec::new())
    }
    fn schema_status(&self) -> StoreResult<SchemaStatus> {
        let version = || VERSION.to_owned();
        Ok(SchemaStatus {
            found: Some(version()),
            wanted: version(),
            pending: Vec::new(),
            unknown: Vec::new(),
            is_migrating: false,
        })
    }
    fn server_info(&self) -> StoreResult<ServerInfo> {
        Ok(self.read(|s, _| ServerInfo {
            product: "memory".into(),
            place: "this process".into(),
            identity: s.identity.clone(),
            durability_problems: vec!["nothing is kept beyond the life of this process".into()],
            read_only: false,
            nobody_writes: false,
            connections: None,
        }))
    }
    fn meta(&self) -> StoreResult<Meta> {
        Ok(self.read(State::meta))
    }
    fn raise_epoch(&self, from: Epoch, at_least: Epoch, reason: &str) -> StoreResult<bool> {
        Ok(self.write(|s, _| s.raise_epoch(from, at_least, reason)))
    }
    fn note_clock(&self, seen: Timestamp) -> StoreResult<()> {
        self.edit(|s| s.meta.clock_seen_at = s.meta.clock_seen_at.max(seen));
        Ok(())
    }
    fn settle_epoch(&self, epoch: Epoch) -> StoreResult<bool> {
        Ok(self.write(|s, _| s.settle_epoch(epoch)))
    }

    fn register(&self, registration: &Registration) -> StoreResult<RegisterOutcome> {
        self.write(|s, now| s.register(registration, now))
    }
    fn is_lost(&self, last: &LastBeat) -> StoreResult<bool> {
        Ok(self.read(|s, _| s.is_lost(last)))
    }
    fn beat(&self, beat: &Beat) -> StoreResult<BeatOutcome> {
        Ok(self.write(|s, now| s.beat(beat, now)))
    }
    fn sweep(&self, kind: SweepKind) -> StoreResult<SweepView> {
        Ok(self.read(|s, now| s.sweep(kind, now)))
    }
    fn fence(&self, fence: &Fence) -> StoreResult<FenceOutcome> {
        let won = self.write(|s, now| s.fence(fence, now));
        Ok(if won { FenceOutcome::Won } else { FenceOutcome::Missed })
    }
    fn take_over(&self, owner: Incarnation, _: &str, limit: usize) -> StoreResult<TakeoverReport> {
        self.write(|s, now| s.take_over(owner, limit, now))
    }
    fn close(&self, incarnation: Incarnation) -> StoreResult<bool> {
        Ok(self.write(|s, now| s.close(incarnation, now)))
    }
    fn find_orphans(&self, every: Duration) -> StoreResult<Option<Vec<Incarnation>>> {
        Ok(self.write(|s, now| s.find_orphans(every, now)))
    }
    fn stop(&self, incarnation: Incarnation) -> StoreResult<bool> {
        Ok(self.write(|s, now| s.stop(incarnation, now)))
    }
    fn set_wanted(&self, wish: &Wish4Engine) -> StoreResult<Option<Wanted>> {
        Ok(self.write(|s, now| s.set_wanted(wish, now)))
    }
    fn engines(&self) -> StoreResult<(Timestamp, Vec<EngineRow>)> {
        Ok(self.read(|s, now| (now, s.engine_rows(now))))
    }
    fn forget_engines(&self, older_than: Duration, names: &[EngineName], dry_run: bool) -> StoreResult<Vec<EngineRow>> {
        Ok(self.write(|s, now| s.forget_engines(older_than, names, dry_run, now)))
    }

    fn promote_due(&self, limit: usize) -> StoreResult<usize> {
        Ok(self.write(|s, now| s.promote_due(limit, now)))
    }
    fn free_lines(&self, limit: usize) -> StoreResult<usize> {
        Ok(self.write(|s, now| s.free_lines(limit, now)))
    }
    fn probe(&self, kinds: &[KindName], host: &str) -> StoreResult<Vec<KindWork>> {
        Ok(self.read(|s, _| s.probe(kinds, host)))
    }
    fn claim(&self, claim: &Claim) -> StoreResult<Vec<Claimed>> {
        Ok(self.write(|s, now| s.claim(claim, now)))
    }
    fn finish(&self, who: &Finisher, ends: &[Finish]) -> StoreResult<Vec<FinishOutcome>> {
        if planted(Bug::TokenRead)
            && let Some(behind) = &*self.behind.lock()
        {
            return self.write(|s, now| s.finish_as_read(behind, who, ends, now));
        }
        self.write(|s, now| s.finish(who, ends, now))
    }
    fn read_finish(&self, held: &Held) -> StoreResult<FinishState> {
        Ok(self.read(|s, _| s.read_finish(held)))
    }
    fn owned(&self, incarnation: Incarnation) -> StoreResult<Vec<Held>> {
        Ok(self.read(|s, _| s.owned(incarnation)))
    }

    fn purge(&self, retention: &RetentionConfig, limit: usize) -> StoreResult<usize> {
        Ok(self.write(|s, now| s.purge(retention, limit, now)))
    }

    fn add(&self, new: &[NewTask], by: &str) -> StoreResult<Vec<TaskId>> {
        self.write(|s, now| s.add(new, by, now))
    }
    fn task_verb(&self, task: TaskId, verb: TaskVerb) -> StoreResult<VerbOutcome> {
        self.write(|s, now| s.task_verb(task, verb, now))
    }
    fn task(&self, task: TaskId) -> StoreResult<Option<(TaskRow, Vec<u8>)>> {
        Ok(self.read(|s, _| s.task_row(task)))
    }
    fn tasks(&self, filter: &TaskFilter) -> StoreResult<(Timestamp, Vec<TaskRow>)> {
        Ok(self.read(|s, now| (now, s.task_rows(filter, now))))
    }
    fn select(&self, filter: &TaskFilter) -> StoreResult<Vec<Selected>> {
        let rows = self.read(|s, now| s.task_rows(filter, now));
        Ok(rows.into_iter().map(|row| Selected { id: row.id, kind: row.kind, state: row.state }).collect())
    }
    fn task_states(&self, tasks: &[TaskId]) -> StoreResult<Vec<(TaskId, TaskState4Wait)>> {
        Ok(self.read(|s, _| s.task_states(tasks)))
    }
    fn attempts(&self, task: TaskId) -> StoreResult<Vec<AttemptRow>> {
        Ok(self.read(|s, _| s.attempt_rows(task)))
    }
    fn output(&self, task: TaskId, attempt: Option<u32>) -> StoreResult<Option<OutputRow>> {
        Ok(self.read(|s, _| s.output(task, attempt)))
    }
    fn resources(&self, limit: usize) -> StoreResult<Vec<ResourceRow>> {
        Ok(self.read(|s, _| s.resource_rows(limit)))
    }
    fn resource(&self, name: &ResourceName) -> StoreResult<Option<ResourceRow>> {
        Ok(self.read(|s, _| s.resource_row(name)))
    }
    fn status(&self) -> StoreResult<StatusView> {
        Ok(self.read(State::status))
    }

    fn add_as(&self, new: &[NewTask], change: &Change) -> StoreResult<Vec<TaskId>> {
        self.write(|s, now| {
            s.must_be_new(change)?;
            let ids = s.add(new, &change.by, now)?;
            s.record(change, (!ids.is_empty()).then(|| Affected::tasks(ids.clone())), now);
            Ok(ids)
        })
    }
    fn set_wanted_as(&self, wish: &Wish4Engine, change: &Change) -> StoreResult<Option<Wanted>> {
        self.write(|s, now| {
            s.must_be_new(change)?;
            let had = s.set_wanted(wish, now);
            s.record(change, had.map(|had| wish.affected(had)), now);
            Ok(had)
        })
    }
    fn forget_engines_as(
        &self,
        older_than: Duration,
        names: &[EngineName],
        change: &Change,
    ) -> StoreResult<Vec<EngineRow>> {
        self.write(|s, now| {
            s.must_be_new(change)?;
            let gone = s.forget_engines(older_than, names, false, now);
            s.record(change, Affected::forgotten(&gone), now);
            Ok(gone)
        })
    }
    fn raise_epoch_as(&self, from: Epoch, at_least: Epoch, reason: &str, change: &Change) -> StoreResult<bool> {
        self.write(|s, now| {
            s.must_be_new(change)?;
            let is_raised = s.raise_epoch(from, at_least, reason);
            s.record(change, is_raised.then(|| Affected::epoch(from, at_least)), now);
            Ok(is_raised)
        })
    }
    fn task_verbs(&self, tasks: &[TaskId], verb: TaskVerb, change: &Change) -> StoreResult<Vec<VerbOutcome>> {
        self.write(|s, now| s.task_verbs(tasks, verb, change, now))
    }
    fn record(&self, change: &Change, affected: &Affected) -> StoreResult<()> {
        self.write(|s, now| {
            s.must_be_new(change)?;
            s.record(change, Some(affected.clone()), now);
            Ok(())
        })
    }
    fn history(&self, filter: &HistoryFilter) -> StoreResult<(Timestamp, Vec<HistoryEntry>)> {
        Ok(self.read(|s, now| (now, s.history(filter, now))))
    }

    fn add_hours(&self, by: Incarnation, counts: &BTreeMap<KindName, Counts>) -> StoreResult<()> {
        self.write(|s, now| s.add_hours_of(by, counts, now));
        Ok(())
    }
    fn hours(&self, starts: &[Timestamp]) -> StoreResult<Vec<HourRow>> {
        Ok(self.read(|s, _| s.hours(starts)))
    }
    fn first_hour(&self) -> StoreResult<Option<Timestamp>> {
        Ok(self.read(|s, _| s.hours.keys().next().map(|(at, _)| *at)))
    }

    fn watcher(&self) -> StoreResult<Box<dyn Watcher>> {
        let state = self.state.clone();
        let seen = state.lock().changes;
        Ok(Box::new(MemoryWatcher { state, seen }))
    }
    fn wake(&self) -> StoreResult<()> {
        Ok(())
    }
}

struct MemoryWatcher {
    state: Arc<Mutex<State>>,
    seen: u64,
}

impl Watcher for MemoryWatcher {
    fn has_changed(&mut self) -> StoreResult<bool> {
        let now = self.state.lock().changes;
        Ok(std::mem::replace(&mut self.seen, now) != now)
    }
}
