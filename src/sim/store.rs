//! The database as the engines see it: the memory store, every write of which is judged.
//!
//! The judging is an audit of its own. It looks at the state before and after a step, and never asks the code
//! that made the step.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{now, trace, with};
use crate::config::RetentionConfig;
use crate::protocol::engine::{EngineState, Proof, Wanted};
use crate::protocol::ids::{EngineName, Epoch, Incarnation, KindName, ResourceName, TaskId};
use crate::protocol::last_beat::LastBeat;
use crate::protocol::liveness::SweepKind;
use crate::protocol::task::Wish;
use crate::protocol::time::Timestamp;
use crate::store::*;

/// See the module.
pub(super) struct SimStore {
    pub(super) unit: usize,
    pub(super) inner: MemoryStore,
}

thread_local! {
    /// The claim that commits now read its engine's row when that was live.
    static CLAIM_OPENED_LIVE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a claim that may have been opened earlier.
pub(super) fn with_claim(opened_live: bool, job: impl FnOnce()) {
    CLAIM_OPENED_LIVE.set(opened_live);
    job();
    CLAIM_OPENED_LIVE.set(false);
}

/// Whether the database says that this unit's incarnation is live.
pub(super) fn is_live(u: usize) -> bool {
    let (shared, store) = with(|w| (w.units[u].shared.clone(), w.store()));
    let incarnation = shared.and_then(|shared| shared.life().incarnation);
    incarnation.is_some_and(|id| store.edit(|s| s.engines.get(&id).is_some_and(|e| e.state == EngineState::Live)))
}

/// Runs a call, perhaps on a node whose plain reads lag.
pub(super) fn with_lag(_: usize, body: impl FnOnce()) {
    let (store, behind) = with(|w| {
        let lags = w.plan.lag && w.rng.percent(50);
        let pick = w.history.len() - w.rng.below(w.history.len() as u64 + 1) as usize;
        let behind = lags.then(|| w.history.get(pick).map(|(_, state)| state.clone())).flatten();
        (w.store(), behind)
    });
    let lags = behind.is_some();
    if lags {
        store.lag(behind);
    }
    body();
    if lags {
        store.lag(None);
    }
}

impl SimStore {
    /// A step that writes, with the state before and after it.
    fn write<T>(&self, step: impl FnOnce(&MemoryStore) -> T) -> T {
        let out = step(&self.inner);
        self.inner.edit(|s| with(|w| w.check.state(s)));
        out
    }

    /// A person asks something of a running task. Only `cancel` has a verb yet; all are obeyed alike.
    pub(super) fn ask(&self, task: TaskId, wish: Wish) {
        if wish == Wish::Cancel {
            let _ = self.task_verb(task, TaskVerb::Cancel);
            return;
        }
        trace!("{wish} is asked of {task}");
        self.inner.edit(|s| s.tasks.get_mut(&task).map(|task| task.wish = wish));
        self.note_wish(task, wish);
    }

    fn note_wish(&self, task: TaskId, wish: Wish) {
        let held = self.inner.edit(|s| s.tasks.get(&task).and_then(|row| row.held(task)));
        with(|w| {
            w.stats.wishes += 1;
            w.check.asked(task, held, wish);
        });
    }

    fn count<T>(&self, count: impl FnOnce(&mut super::world::Stats) -> T) -> T {
        with(|w| count(&mut w.stats))
    }

    /// A plain read that must not lag.
    fn fresh(&self) -> &MemoryStore {
        self.inner.lag(None);
        &self.inner
    }
}

impl Store for SimStore {
    fn register(&self, r: &Registration) -> StoreResult<RegisterOutcome> {
        let out = self.write(|s| s.register(r));
        if let Some(former) = &r.former {
            with(|w| {
                w.check_clean(former.incarnation, "a new life ended the former one");
                w.check.ended();
            });
        }
        trace!(
            "{} register {}: {}",
            r.name,
            r.incarnation,
            match &out {
                Ok(RegisterOutcome::Registered { adopted, .. }) => format!("registered, adopted {}", adopted.len()),
                Ok(RegisterOutcome::NameTaken(by)) => format!("name taken by {}", by.incarnation),
                Err(error) => error.chain(),
            }
        );
        out
    }
    fn is_lost(&self, last: &LastBeat) -> StoreResult<bool> {
        self.fresh().is_lost(last)
    }
    fn beat(&self, beat: &Beat) -> StoreResult<BeatOutcome> {
        let out = self.fresh().beat(beat);
        if let Ok(BeatOutcome::Accepted(_)) = &out {
            let is_live =
                self.inner.edit(|s| s.engines.get(&beat.incarnation).is_some_and(|e| e.state == EngineState::Live));
            with(|w| {
                w.check.beat(beat.incarnation, is_live, now());
                w.check_twin(beat.incarnation);
            });
        }
        out
    }
    fn sweep(&self, kind: SweepKind) -> StoreResult<SweepView> {
        let stale = with(|w| w.units[self.unit].stale.clone());
        self.inner.lag(stale);
        let out = self.inner.sweep(kind);
        self.inner.lag(None);
        out
    }
    fn fence(&self, fence: &Fence) -> StoreResult<FenceOutcome> {
        let out = self.write(|s| s.fence(fence));
        if matches!(out, Ok(FenceOutcome::Won)) {
            trace!("{} fences {} by {}", fence.by, fence.incarnation, fence.proof);
            let live: Vec<Incarnation> = self.inner.edit(|s| {
                let live = s.engines.iter().filter(|(_, e)| e.state == EngineState::Live);
                live.map(|(id, _)| *id).collect()
            });
            with(|w| {
                match fence.proof {
                    Proof::Expiry => {
                        w.stats.fences += 1;
                        w.judge_fence(fence, &live);
                    }
                    Proof::Guard => {
                        w.stats.proofs += 1;
                        w.check_clean(fence.incarnation, "its death was proved");
                    }
                    _ => {}
                }
                w.check.fenced(fence.incarnation, fence.proof);
            });
        }
        out
    }
    fn take_over(&self, owner: Incarnation, by: &str, limit: usize) -> StoreResult<TakeoverReport> {
        let before = self.inner.edit(|s| super::check::owned_tokens(s, owner));
        let hidden = self.hide_some(owner);
        let out = self.inner.take_over(owner, by, limit);
        let skipped = hidden.len();
        self.unhide(hidden);
        let out = out.map(|report| TakeoverReport { skipped: report.skipped + skipped, ..report });
        self.inner.edit(|s| {
            with(|w| {
                w.check.taken_over(s, &before);
                w.check.state(s);
            });
        });
        if let Ok(report) = &out
            && report.ready + report.parked > 0
        {
            trace!("{by} takes {} tasks over from {owner}", report.ready + report.parked);
            self.count(|c| c.takeovers += (report.ready + report.parked) as u64);
        }
        out
    }
    fn close(&self, incarnation: Incarnation) -> StoreResult<bool> {
        let out = self.write(|s| s.close(incarnation));
        if matches!(out, Ok(true)) {
            self.inner.edit(|s| with(|w| w.check.closed(s, incarnation)));
        }
        out
    }
    fn find_orphans(&self, every: Duration) -> StoreResult<Option<Vec<Incarnation>>> {
        self.write(|s| s.find_orphans(every))
    }
    fn stop(&self, incarnation: Incarnation) -> StoreResult<bool> {
        with(|w| {
            w.check_clean(incarnation, "it said goodbye");
            w.check.ended();
        });
        let out = self.write(|s| s.stop(incarnation));
        trace!("{incarnation} stops: {out:?}");
        out
    }
    fn claim(&self, claim: &Claim) -> StoreResult<Vec<Claimed>> {
        let late = CLAIM_OPENED_LIVE.get();
        let was = self.inner.edit(|s| {
            let engine = s.engines.get_mut(&claim.incarnation)?;
            let was = engine.state;
            if late {
                engine.state = EngineState::Live;
            }
            Some(was)
        });
        let out = self.inner.claim(claim);
        self.inner.edit(|s| {
            if let (Some(was), Some(engine)) = (was, s.engines.get_mut(&claim.incarnation)) {
                engine.state = was;
            }
            let epoch = s.meta.epoch;
            with(|w| {
                for got in out.iter().flatten() {
                    trace!(
                        w,
                        "{} claims {} ({}) attempt {}",
                        w.units[self.unit].name,
                        got.held.task,
                        got.held.token,
                        got.attempt
                    );
                    w.check.claimed(got, epoch, was == Some(EngineState::Live) || late);
                }
                w.check.state(s);
            });
        });
        out
    }
    fn finish(&self, who: &Finisher, ends: &[Finish]) -> StoreResult<Vec<FinishOutcome>> {
        let mine: Vec<bool> = self.inner.edit(|s| ends.iter().map(|e| super::check::is_current(s, &e.held)).collect());
        let out = self.write(|s| s.finish(who, ends));
        for ((end, outcome), mine) in ends.iter().zip(out.iter().flatten()).zip(mine) {
            let free = if end.unstarted { ", free" } else { "" };
            trace!("{} finishes {} ({}) {}{free}: {outcome:?}", who.name, end.held.task, end.held.token, end.result);
            with(|w| {
                if *outcome == FinishOutcome::Refused && !end.unstarted && !w.check.has_written(&end.held) {
                    w.stats.refused += 1;
                }
                w.check.finished(end, *outcome, mine);
            });
        }
        out
    }
    fn read_finish(&self, held: &Held) -> StoreResult<FinishState> {
        // Read where the cluster has been waited for: an answer that lags would call a written end refused.
        let out = self.fresh().read_finish(held);
        trace!("reads the end of {} back: {out:?}", held.task);
        out
    }
    fn raise_epoch(&self, from: Epoch, at_least: Epoch, reason: &str) -> StoreResult<bool> {
        trace!("the epoch is raised from {} to {}: {reason}", from.as_i64(), at_least.as_i64());
        self.write(|s| s.raise_epoch(from, at_least, reason))
    }
    fn note_clock(&self, seen: Timestamp) -> StoreResult<()> {
        self.inner.note_clock(seen)
    }
    fn settle_epoch(&self, epoch: Epoch) -> StoreResult<bool> {
        trace!("epoch {} is settled", epoch.as_i64());
        self.write(|s| s.settle_epoch(epoch))
    }
    fn promote_due(&self, limit: usize) -> StoreResult<usize> {
        self.write(|s| s.promote_due(limit))
    }
    fn free_lines(&self, limit: usize) -> StoreResult<usize> {
        self.write(|s| s.free_lines(limit))
    }
    fn add(&self, new: &[NewTask], by: &str) -> StoreResult<Vec<TaskId>> {
        self.write(|s| s.add(new, by))
    }
    fn task_verb(&self, task: TaskId, verb: TaskVerb) -> StoreResult<VerbOutcome> {
        let out = self.write(|s| s.task_verb(task, verb));
        trace!("{verb:?} {task}: {out:?}");
        if matches!(out, Ok(VerbOutcome::Asked)) {
            self.note_wish(task, Wish::Cancel);
        }
        out
    }
    fn meta(&self) -> StoreResult<Meta> {
        self.fresh().meta()
    }
    fn probe(&self, kinds: &[KindName], host: &str) -> StoreResult<Vec<KindWork>> {
        self.inner.probe(kinds, host)
    }
    fn owned(&self, incarnation: Incarnation) -> StoreResult<Vec<Held>> {
        // The sweeper's connection waits for the cluster (`wsrep_sync_wait`), like its sweeps.
        self.fresh().owned(incarnation)
    }
    fn set_wanted(&self, wish: &Wish4Engine) -> StoreResult<Option<Wanted>> {
        self.inner.set_wanted(wish)
    }
    fn purge(&self, retention: &RetentionConfig, limit: usize) -> StoreResult<usize> {
        self.inner.purge(retention, limit)
    }

    fn add_as(&self, tasks: &[NewTask], change: &Change) -> StoreResult<Vec<TaskId>> {
        self.write(|s| s.add_as(tasks, change))
    }
    fn task_verbs(&self, tasks: &[TaskId], verb: TaskVerb, change: &Change) -> StoreResult<Vec<VerbOutcome>> {
        self.write(|s| s.task_verbs(tasks, verb, change))
    }
    fn add_hours(&self, by: Incarnation, counts: &BTreeMap<KindName, Counts>) -> StoreResult<()> {
        self.inner.add_hours(by, counts)
    }

    // What people ask is not part of a run.
    fn set_wanted_as(&self, wish: &Wish4Engine, change: &Change) -> StoreResult<Option<Wanted>> {
        self.inner.set_wanted_as(wish, change)
    }
    fn forget_engines_as(&self, older: Duration, names: &[EngineName], by: &Change) -> StoreResult<Vec<EngineRow>> {
        self.inner.forget_engines_as(older, names, by)
    }
    fn raise_epoch_as(&self, from: Epoch, at_least: Epoch, reason: &str, change: &Change) -> StoreResult<bool> {
        self.inner.raise_epoch_as(from, at_least, reason, change)
    }
    fn record(&self, change: &Change, affected: &Affected) -> StoreResult<()> {
        self.inner.record(change, affected)
    }
    fn history(&self, filter: &HistoryFilter) -> StoreResult<(Timestamp, Vec<HistoryEntry>)> {
        self.inner.history(filter)
    }
    fn hours(&self, starts: &[Timestamp]) -> StoreResult<Vec<HourRow>> {
        self.inner.hours(starts)
    }
    fn first_hour(&self) -> StoreResult<Option<Timestamp>> {
        self.inner.first_hour()
    }
    fn migrate(&self) -> StoreResult<Vec<String>> {
        self.inner.migrate()
    }
    fn schema_status(&self) -> StoreResult<SchemaStatus> {
        self.inner.schema_status()
    }
    fn server_info(&self) -> StoreResult<ServerInfo> {
        self.inner.server_info()
    }
    fn engines(&self) -> StoreResult<(Timestamp, Vec<EngineRow>)> {
        self.inner.engines()
    }
    fn forget_engines(&self, older: Duration, names: &[EngineName], dry_run: bool) -> StoreResult<Vec<EngineRow>> {
        self.inner.forget_engines(older, names, dry_run)
    }
    fn task(&self, task: TaskId) -> StoreResult<Option<(TaskRow, Vec<u8>)>> {
        self.inner.task(task)
    }
    fn tasks(&self, filter: &TaskFilter) -> StoreResult<(Timestamp, Vec<TaskRow>)> {
        self.inner.tasks(filter)
    }
    fn select(&self, filter: &TaskFilter) -> StoreResult<Vec<Selected>> {
        self.inner.select(filter)
    }
    fn task_states(&self, tasks: &[TaskId]) -> StoreResult<Vec<(TaskId, TaskState4Wait)>> {
        self.inner.task_states(tasks)
    }
    fn attempts(&self, task: TaskId) -> StoreResult<Vec<AttemptRow>> {
        self.inner.attempts(task)
    }
    fn output(&self, task: TaskId, attempt: Option<u32>) -> StoreResult<Option<OutputRow>> {
        self.inner.output(task, attempt)
    }
    fn resources(&self, limit: usize) -> StoreResult<Vec<ResourceRow>> {
        self.inner.resources(limit)
    }
    fn resource(&self, name: &ResourceName) -> StoreResult<Option<ResourceRow>> {
        self.inner.resource(name)
    }
    fn status(&self) -> StoreResult<StatusView> {
        self.inner.status()
    }
    fn watcher(&self) -> StoreResult<Box<dyn Watcher>> {
        self.inner.watcher()
    }
    fn wake(&self) -> StoreResult<()> {
        self.inner.wake()
    }
}
