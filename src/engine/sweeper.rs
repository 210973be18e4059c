//! The sweeper: looks for dead peers, fences them, takes over what they left, and does the slow chores.
//!
//! It decides nothing itself: `protocol::liveness` says who is due, `protocol::takeover` (inside the
//! store's transaction) what becomes of each task. Everything is level-triggered: a sweep that dies half
//! way is finished by the next one, here or on a peer.

mod owned;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lane::Lane;
use super::shared::{Phase, Shared};
use super::stop::Ending;
use crate::planted::{Bug, planted};
use crate::protocol::engine::Proof;
use crate::protocol::ids::{Epoch, Incarnation};
use crate::protocol::liveness::{DueFence, Observer, SweepKind};
use crate::protocol::time::LeaseInstant;
use crate::store::{EndedPeer, Fence, FenceOutcome, StoreError, StoreResult, SweepView};

/// Every so many sweeps one reads without the filter and does the slow chores.
const FULL_EVERY: u64 = 10;

/// Tasks of one takeover transaction: small enough to keep row locks short.
const TAKEOVER_BATCH: usize = 100;

/// Takeover batches of one peer in one pass; what is left is done by the next pass, or by a peer.
const BATCHES_MAX: usize = 100;

/// Waiting tasks made due in one transaction.
const DUE_BATCH: usize = 1_000;

/// See the module.
pub struct Sweeper {
    shared: Arc<Shared>,
    lane: Lane,
    observer: Observer,
    count: u64,
    raised: Option<Epoch>,
    unsettled: Option<(Epoch, LeaseInstant)>,
    unacknowledged: BTreeMap<Incarnation, LeaseInstant>,
    purge_at: LeaseInstant,
    failed: bool,
    more_due: bool,
    /// Lines of the log that were dropped, as the state directory tells.
    dropped: u64,
    unreadable: BTreeSet<i64>,
}

impl Sweeper {
    /// Of an engine.
    pub fn new(shared: Arc<Shared>) -> Self {
        let lane = Lane::new("sweep", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
        let observer = Observer::new(&shared.options.timing);
        let purge_at = shared.clock.lease_now().after(Duration::from_secs(fastrand::u64(120..600)));
        Self {
            shared,
            lane,
            observer,
            count: 0,
            raised: None,
            unsettled: None,
            unacknowledged: BTreeMap::new(),
            purge_at,
            failed: false,
            more_due: false,
            dropped: 0,
            unreadable: BTreeSet::new(),
        }
    }

    fn call<T: Send + 'static>(
        &mut self,
        step: &'static str,
        body: impl FnOnce(&dyn crate::store::Store) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let timeout = self.shared.options.statement_timeout;
        self.shared.pulses.sweeper.turn(self.shared.clock.lease_now(), timeout * 2);
        self.lane.call(step, timeout, body)
    }

    /// One pass; how long to wait for the next.
    pub fn step(&mut self) -> Duration {
        let interval = self.shared.options.timing.sweep_interval();
        self.shared
            .pulses
            .sweeper
            .turn(self.shared.clock.lease_now(), interval * 2 + self.shared.options.statement_timeout);
        self.tell_dropped();
        if self.shared.life().phase != Phase::Live {
            return interval.min(Duration::from_millis(250));
        }
        let wait = self.pass().unwrap_or_else(|error| {
            self.complain("sweep", &error);
            interval
        });
        // The promise for the wait itself: with many engines it is long.
        self.shared.pulses.sweeper.turn(self.shared.clock.lease_now(), wait);
        wait
    }

    /// For the doctor, while the log itself cannot tell.
    fn tell_dropped(&mut self) {
        let dropped = crate::outlet::STDERR.dropped();
        if dropped != self.dropped
            && let Some(dir) = &self.shared.options.state_dir
        {
            self.dropped = dropped;
            if let Err(error) = super::dropped_file::write(dir, dropped) {
                log::debug!("could not note that lines of the log were dropped: {error}");
            }
        }
    }

    /// Waits for the next pass; true if the loops end. In a large cluster that is longer than L, and a lease that
    /// does not grow until what is held was compared must not wait for it.
    fn rest(&mut self, span: Duration) -> bool {
        let clock = Arc::clone(&self.shared.clock);
        let until = clock.lease_now().after(span);
        loop {
            let seen = self.shared.stop.nudges();
            if self.shared.reconcile.load(Ordering::Acquire) && self.shared.live().is_some() {
                let done = self.reconcile();
                self.chore("compare what is owned", done);
            }
            let now = clock.lease_now();
            if now >= until {
                return self.shared.stop.ends_loops();
            }
            self.shared.pulses.sweeper.turn(now, until.since(now));
            if self.shared.stop.wait_nudged(Ending::Loops, until.since(now), seen) {
                return true;
            }
        }
    }

    fn complain(&mut self, what: &str, error: &StoreError) {
        if std::mem::replace(&mut self.failed, true) {
            log::debug!("could not {what}: {}", error.chain());
        } else {
            log::warn!("could not {what}: {}", error.chain());
        }
    }

    /// One chore that fails does not keep the others from being done.
    fn chore(&mut self, what: &'static str, done: StoreResult<()>) {
        match done {
            Ok(()) => {}
            Err(error) => self.complain(what, &error),
        }
    }

    fn pass(&mut self) -> StoreResult<Duration> {
        self.count += 1;
        let is_full = self.count.is_multiple_of(FULL_EVERY);
        let kind = if is_full { SweepKind::Full } else { SweepKind::Filtered };
        let view = self.call("sweep", move |store| store.sweep(kind))?;
        let now = self.shared.clock.lease_now();
        self.failed = false;
        self.name_unreadable(&view);
        let done = self.note_epoch(&view, now);
        self.chore("settle the epoch", done);
        self.observe(&view, kind, now);
        let done = self.fence_due(&view, now);
        self.chore("fence", done);
        self.finish_ended(&view, now);
        let done = self.find_orphans(&view);
        self.chore("look for orphans", done);
        let done = self.promote(&view);
        self.chore("make tasks due", done);
        if is_full || self.shared.reconcile.load(Ordering::Acquire) {
            let done = self.reconcile();
            self.chore("compare what is owned", done);
        }
        let done = self.purge(now);
        self.chore("purge", done);
        Ok(self.wait(&view))
    }

    /// Not longer than until the next fence or the next waiting task is due.
    fn wait(&mut self, view: &SweepView) -> Duration {
        let now = self.shared.clock.lease_now();
        let mut wait = self.shared.options.timing.sweep_after(view.live_count);
        if let Some(due) = self.observer.next_due() {
            wait = wait.min(due.since(now));
        }
        // What was due already was made due in this pass.
        if std::mem::take(&mut self.more_due) {
            return Duration::from_millis(20);
        }
        if let Some(due) = view.next_due.filter(|due| *due > view.meta.now) {
            wait = wait.min(due.since(view.meta.now));
        }
        wait.max(Duration::from_millis(20))
    }

    /// Each is said once, not with each pass.
    fn name_unreadable(&mut self, view: &SweepView) {
        let now: BTreeSet<i64> = view.unreadable.iter().map(|(id, _)| *id).collect();
        for (id, why) in view.unreadable.iter().filter(|(id, _)| !self.unreadable.contains(id)) {
            log::error!("the row of engine {id} was not written by an engine: {why}; rekindle doctor says what to do");
        }
        self.unreadable = now;
    }

    fn observe(&mut self, view: &SweepView, kind: SweepKind, now: LeaseInstant) {
        while let Ok(sent_at) = self.shared.own_beats.1.try_recv() {
            self.observer.own_beat(sent_at);
        }
        let me = self.shared.life().incarnation;
        let peers: Vec<_> = view.peers.iter().filter(|peer| Some(peer.incarnation) != me).copied().collect();
        self.observer.observe(now, kind, &peers);
    }

    fn fence_due(&mut self, view: &SweepView, now: LeaseInstant) -> StoreResult<()> {
        let due = self.observer.due(now, view.live_count);
        if self.observer.is_braking() {
            log::error!(
                "{} of {} engines look dead at once: fencing them one by one, slowly",
                self.observer.suspect_count(),
                view.live_count
            );
        }
        for DueFence { incarnation, beat, stood_for } in due {
            let by = self.shared.options.name.to_string();
            let fence = Fence { incarnation, beat: Some(beat), proof: Proof::Expiry, by, place: None };
            let outcome = match self.call("fence", move |store| store.fence(&fence)) {
                Ok(outcome) => outcome,
                // One that cannot be fenced does not keep the others alive.
                Err(error @ StoreError::Broken { .. }) => {
                    self.complain("fence", &error);
                    self.observer.fence_sent(incarnation);
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.observer.fence_sent(incarnation);
            if outcome == FenceOutcome::Won {
                log::warn!("engine {incarnation} is fenced: no beat for {:.1}s", stood_for.as_secs_f64());
                self.take_over(incarnation)?;
            }
        }
        Ok(())
    }

    fn finish_ended(&mut self, view: &SweepView, now: LeaseInstant) {
        self.unacknowledged.retain(|id, _| view.ended.iter().any(|peer| peer.incarnation == *id));
        for peer in &view.ended {
            if self.must_leave_alone(peer, now) {
                continue;
            }
            // One peer whose takeover fails does not keep the others waiting.
            let done = self.finish_one(peer);
            self.chore("take over", done);
        }
    }

    fn finish_one(&mut self, peer: &EndedPeer) -> StoreResult<()> {
        let incarnation = peer.incarnation;
        if self.take_over(incarnation)? && self.call("close", move |store| store.close(incarnation))? {
            log::info!("engine {} ({incarnation}) is closed: nothing of it is left", peer.name);
        }
        Ok(())
    }

    /// An operator's fence of an engine that may still run its tasks waits for its acknowledgement, or
    /// until this sweeper has itself seen it for L + K.
    fn must_leave_alone(&mut self, peer: &EndedPeer, now: LeaseInstant) -> bool {
        if peer.proof != Proof::Operator || peer.acknowledged {
            return false;
        }
        let seen = *self.unacknowledged.entry(peer.incarnation).or_insert(now);
        now.since(seen) < peer.dead_after
    }

    /// True if nothing was left over or skipped.
    fn take_over(&mut self, owner: Incarnation) -> StoreResult<bool> {
        let (mut ready, mut parked) = (0, 0);
        let mut is_whole = false;
        for _ in 0..BATCHES_MAX {
            let by = self.shared.options.name.to_string();
            let report = self.call("take over", move |store| store.take_over(owner, &by, TAKEOVER_BATCH))?;
            ready += report.ready;
            parked += report.parked;
            is_whole = !report.more && (report.skipped == 0 || planted(Bug::ClosedAfterSkip));
            // A batch that others hold entirely is theirs.
            if !report.more || report.ready + report.parked == 0 {
                break;
            }
        }
        if ready + parked > 0 {
            log::warn!(
                "took over {} tasks of engine {owner}: {ready} are ready again, {parked} are not",
                ready + parked
            );
            self.shared.wake_dispatcher();
            // Peers with free slots learn of it at once; that it fails costs them only their poll.
            let _ = self.call("wake", |store| store.wake());
        }
        Ok(is_whole)
    }

    /// Once per T in the whole cluster: claims that committed after their engine was closed.
    fn find_orphans(&mut self, view: &SweepView) -> StoreResult<()> {
        let every = view.takeover_max.max(Duration::from_secs(1));
        if view.meta.now.since(view.orphan_scan_at) < every && view.orphan_scan_at <= view.meta.now {
            return Ok(());
        }
        let Some(owners) = self.call("look for orphans", move |store| store.find_orphans(every))? else {
            return Ok(());
        };
        for owner in owners {
            log::warn!("found tasks of engine {owner}, whose row is closed: a claim of it committed late");
            let done = self.take_over(owner).map(|_| ());
            self.chore("take over", done);
        }
        // The one whose turn it is looks for free lines too: it reads every idle resource.
        self.make_ready(|store| store.free_lines(DUE_BATCH)).map(|_| ())
    }

    fn promote(&mut self, view: &SweepView) -> StoreResult<()> {
        if view.next_due.is_none_or(|due| due > view.meta.now) {
            return Ok(());
        }
        self.more_due = self.make_ready(|store| store.promote_due(DUE_BATCH))? >= DUE_BATCH;
        Ok(())
    }

    fn make_ready(&mut self, step: fn(&dyn crate::store::Store) -> StoreResult<usize>) -> StoreResult<usize> {
        let count = self.call("make tasks ready", step)?;
        if count > 0 {
            self.shared.wake_dispatcher();
            let _ = self.call("wake", |store| store.wake());
        }
        Ok(count)
    }

    // ---- epochs -------------------------------------------------------------------------------------

    /// A raise restarts all observations; claims go on when this engine has watched the new epoch for
    /// the largest T of live rows, so that nothing that was claimed before can still run.
    fn note_epoch(&mut self, view: &SweepView, now: LeaseInstant) -> StoreResult<()> {
        if self.is_older(view) && !planted(Bug::RaiseUnseen) {
            self.raised = None;
            self.observer.restart();
            return Ok(());
        }
        if self.raised.replace(view.meta.raised_epoch) != Some(view.meta.raised_epoch) {
            self.observer.restart();
            self.shared.reconcile.store(true, Ordering::Release);
        }
        if view.meta.settled_epoch >= view.meta.raised_epoch {
            self.unsettled = None;
            return Ok(());
        }
        let epoch = view.meta.epoch;
        let since = match self.unsettled {
            Some((known, since)) if known == epoch => since,
            _ => {
                self.unsettled = Some((epoch, now));
                return Ok(());
            }
        };
        if now.since(since) >= view.takeover_max && self.call("settle", move |store| store.settle_epoch(epoch))? {
            log::warn!("epoch {} is settled: claims go on", epoch.as_i64());
        }
        Ok(())
    }

    /// Whether what was read is of a database that lost commits and was not raised for it yet, or is older than
    /// this engine's own last beat. The raises between two sweeps may be lost with the rest, and a peer that
    /// beat all the time has its old counter again: nobody's standing still is counted by such a view.
    fn is_older(&self, view: &SweepView) -> bool {
        let meta = self.shared.life().meta;
        !view.meta.identity_matches || meta.is_none_or(|meta| view.meta.raised_epoch < meta.raised_epoch)
    }

    // ---- retention --------------------------------------------------------------------------------------

    fn purge(&mut self, now: LeaseInstant) -> StoreResult<()> {
        if now < self.purge_at {
            return Ok(());
        }
        let retention = self.shared.options.retention;
        let deleted = self.call("purge", move |store| store.purge(&retention, 1_000))?;
        // A full batch means that more is due; small ones with pauses leave the others room.
        let pause = if deleted >= 1_000 { Duration::from_secs(1) } else { Duration::from_secs(600) };
        self.purge_at = now.after(pause);
        Ok(())
    }
}

/// The loop of the sweeper.
pub fn sweep_loop(shared: &Arc<Shared>) {
    let mut sweeper = Sweeper::new(Arc::clone(shared));
    loop {
        let wait = sweeper.step();
        if sweeper.rest(wait) {
            shared.pulses.sweeper.end();
            return;
        }
    }
}
