//! The finisher: writes the ends of attempts, in batches.
//!
//! Failures: the database is away – reports wait here, in memory, and are tried again; an unknown
//! outcome – each is read back by its nonce before it is written again or given up, never blindly
//! repeated; several failures in a row – nothing new is claimed until one succeeds; refused – counted by the database and logged, the task belongs to somebody else. After the end of a life
//! its results may still be written as long as nobody has raised the token: that is I1, not luck. An
//! engine that ends waits L + K for a database that is away, then gives up: those tasks run again.

mod ends;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Select};

use self::ends::{Pending, to_finish};
use super::lane::Lane;
use super::shared::{Report, Shared};
use super::stop::Ending;
use super::tally::{ByKind, ByLife, of};
use crate::planted::{Bug, planted};
use crate::protocol::ids::Incarnation;
use crate::protocol::takeover::Next;
use crate::protocol::time::LeaseInstant;
use crate::store::{Finish, FinishOutcome, FinishState, Finisher as Who, Held, StoreError, StoreResult};
use crate::turns;

/// Reports of one batch.
const BATCH: usize = 1_000;

/// And bytes of results and output, unless one alone has more: a server may take no statement that is larger.
const BATCH_BYTES: usize = 4 << 20;

/// How long the first report of a batch waits for more.
const GATHER: Duration = Duration::from_millis(2);

/// After so many failures in a row nothing new is claimed.
const STUCK_AFTER: u32 = 3;

/// The longest wait for a report or the end: it shows that the loop turns.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub struct Finisher {
    shared: Arc<Shared>,
    lane: Lane,
    pending: Vec<Pending>,
    failed: u32,
    give_up_at: Option<LeaseInstant>,
}

impl Finisher {
    /// Of an engine.
    pub fn new(shared: Arc<Shared>) -> Self {
        let lane = Lane::new("finish", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
        Self { shared, lane, pending: Vec::new(), failed: 0, give_up_at: None }
    }

    /// One pass: takes in what ended, writes what it can. False when the loop should end.
    pub fn step(&mut self) -> bool {
        let now = self.shared.clock.lease_now();
        let patience = self.shared.options.statement_timeout + Duration::from_secs(1);
        self.shared.pulses.finisher.turn(now, patience * 2);
        self.gather();
        if self.failed > 0 {
            // Errors may come back at once (a refused connection): without this wait a full batch would spin.
            self.shared.stop.wait(Ending::All, self.retry_delay());
        }
        if !self.pending.is_empty() {
            self.write();
            self.judge();
        }
        if self.shared.stop.ending() >= Ending::All {
            return false;
        }
        let goes_on = !self.shared.stop.ends_loops() || !self.may_end();
        self.tell_the_hour(!goes_on);
        goes_on
    }

    /// After a try: whether ends can be written. What was read back as written leaves as well, and with nothing left
    /// there is nothing that could fail once more and then succeed.
    fn judge(&mut self) {
        if self.pending.is_empty() {
            self.failed = 0;
        }
        self.tell_the_dispatcher();
    }

    /// Tasks that are claimed while no end can be written (a right that was taken away, a full disk) run, and then
    /// wait with the others in memory, where a crash loses that they ran: such an engine claims nothing new. Each
    /// try is one more question whether it can again, so nothing else has to ask.
    fn tell_the_dispatcher(&mut self) {
        let is_stuck = self.failed >= STUCK_AFTER;
        if self.shared.ends_stuck.swap(is_stuck, Ordering::AcqRel) == is_stuck {
            return;
        }
        if is_stuck {
            log::error!(
                "{} ends of attempts cannot be written: claiming nothing new until they are",
                self.pending.len()
            );
        } else {
            log::info!("ends of attempts can be written again: claiming goes on");
            self.shared.wake_dispatcher();
        }
    }

    /// Adds what was counted to the hourly numbers, where it is time to. Ends of attempts go first.
    fn tell_the_hour(&mut self, is_last: bool) {
        if self.failed > 0 && !is_last {
            return;
        }
        let now = self.shared.clock.lease_now();
        for (life, counts) in self.shared.tally.take(now, is_last).unwrap_or_default() {
            self.tell_the_hour_of(life, counts);
        }
    }

    fn tell_the_hour_of(&mut self, by: Incarnation, counts: ByKind) {
        let timeout = self.timeout();
        self.shared.pulses.finisher.turn(self.shared.clock.lease_now(), timeout * 2);
        let sent = counts.clone();
        match self.lane.call("add to the hour", timeout, move |store| store.add_hours(by, &sent)) {
            Ok(()) => {}
            // Once too few is a gap; twice would be a lie.
            Err(StoreError::Unknown { source, .. }) => {
                log::warn!("a minute of the hourly numbers may be missing: {source}");
            }
            Err(error) => {
                log::warn!("could not add to the hourly numbers yet: {}", error.chain());
                self.shared.tally.add(by, &counts);
            }
        }
    }

    /// Nothing is left to write, or the database was away for too long.
    fn may_end(&mut self) -> bool {
        if self.shared.running.is_reported() {
            return true;
        }
        let now = self.shared.clock.lease_now();
        let limit = self.shared.options.timing.dead_after();
        let is_over = now >= *self.give_up_at.get_or_insert_with(|| now.after(limit));
        if is_over {
            log::error!("{} ends of attempts could not be written: these tasks will run again", self.pending.len());
        }
        is_over
    }

    fn gather(&mut self) {
        let reports = self.shared.reports.1.clone();
        if self.pending.is_empty() && !self.shared.stop.ends_loops() {
            // Nothing to do until a report comes or the loops have to end.
            let has_something = || !reports.is_empty() || self.shared.stop.ends_loops();
            if turns::wait_until(IDLE_MAX, has_something).is_none() {
                let mut either = Select::new();
                either.recv(&reports);
                either.recv(self.shared.stop.hung_up());
                let _ = either.ready_timeout(IDLE_MAX);
            }
        }
        let mut wait = if self.pending.is_empty() { self.ending_pause() } else { self.retry_delay() };
        let size = |pending: &Pending| pending.end.output.len() + pending.end.value.as_ref().map_or(0, String::len);
        let mut bytes: usize = self.pending.iter().map(size).sum();
        while self.pending.len() < BATCH && bytes < BATCH_BYTES {
            let known = self.pending.len();
            match turns::receive(&reports, wait) {
                Ok(report) => {
                    self.take(report);
                    bytes += self.pending[known..].iter().map(size).sum::<usize>();
                    wait = if self.failed == 0 && reports.is_empty() { GATHER } else { Duration::ZERO };
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Once the loops have to end, the last reports are waited for.
    fn ending_pause(&self) -> Duration {
        if self.shared.stop.ends_loops() { Duration::from_millis(50) } else { Duration::ZERO }
    }

    /// An engine that ends has not the time to wait for a frozen server.
    fn timeout(&self) -> Duration {
        match self.shared.stop.ends_loops() {
            true => (self.shared.options.timing.query_timeout() * 2).max(Duration::from_secs(1)),
            false => self.shared.options.statement_timeout + Duration::from_secs(1),
        }
    }

    fn retry_delay(&self) -> Duration {
        Duration::from_millis(50) * 2u32.saturating_pow(self.failed.min(4))
    }

    fn take(&mut self, report: Report) {
        let entry = report.entry;
        match to_finish(&self.shared, &entry, report.ended) {
            Some(end) => {
                let (incarnation, kind) = (entry.incarnation, entry.task.kind.clone());
                let waited = entry.task.waited;
                self.pending.push(Pending {
                    incarnation,
                    end,
                    kind,
                    waited,
                    ran: report.ran,
                    broken: None,
                    is_doubted: false,
                });
            }
            // The life is over and the attempt was stopped for it: the next registration hands it back.
            None => self.shared.running.reported([&entry.task.held]),
        }
    }

    fn write(&mut self) {
        let mut batches: BTreeMap<Incarnation, Vec<Pending>> = BTreeMap::new();
        // What was refused as wrong before is written apart, so that it does not break the batch again.
        let (apart, sound): (Vec<Pending>, Vec<Pending>) = self.pending.drain(..).partition(|p| p.broken.is_some());
        for pending in sound {
            batches.entry(pending.incarnation).or_default().push(pending);
        }
        for (incarnation, batch) in batches {
            self.write_for(incarnation, batch);
        }
        for pending in apart {
            self.write_for(pending.incarnation, vec![pending]);
        }
    }

    fn write_for(&mut self, incarnation: Incarnation, pending: Vec<Pending>) {
        let timeout = self.timeout();
        let now = self.shared.clock.lease_now();
        self.shared.pulses.finisher.turn(now, timeout * 2);
        let ends: Vec<Finish> = pending.iter().map(|p| p.end.clone()).collect();
        let who = Who { incarnation, name: self.shared.options.name.clone() };
        let batch = Arc::new(ends);
        let sent = Arc::clone(&batch);
        match self.lane.call("finish", timeout, move |store| store.finish(&who, &sent)) {
            Ok(outcomes) => {
                self.failed = 0;
                self.settle(pending, outcomes);
            }
            Err(StoreError::Unknown { step, source }) => {
                log::warn!("the outcome of {step} is unknown ({source}): reading {} ends back", batch.len());
                self.failed += 1;
                if planted(Bug::BlindRetry) {
                    self.pending.extend(pending);
                } else {
                    self.read_back(pending);
                }
            }
            Err(error)
                if error.is_transient() || matches!(error, StoreError::Refused(_) | StoreError::Denied { .. }) =>
            {
                log::warn!("could not write {} ends of attempts yet: {}", batch.len(), error.chain());
                self.failed += 1;
                self.pending.extend(pending);
            }
            Err(StoreError::Broken { step, source }) if batch.len() > 1 => {
                // One of them cannot be written: it must not keep the others.
                log::error!("could not write {} ends of attempts ({step}: {source}): one by one", batch.len());
                for one in pending {
                    self.write_for(incarnation, vec![one]);
                }
            }
            Err(StoreError::Broken { step, source }) => {
                log::error!("could not write the end of a task ({step}: {source})");
                self.failed = self.failed.max(1);
                self.pending.extend(pending.into_iter().map(|one| one.broken_at(now)));
            }
            Err(error) => {
                // Kept and tried again: a full disk or a missing right is a person's to mend, and the
                // result must not be lost meanwhile.
                log::error!("could not write {} ends of attempts: {}", batch.len(), error.chain());
                self.failed += 1;
                self.pending.extend(pending);
            }
        }
    }

    /// For the hourly numbers. What never started was no attempt.
    fn count(&self, ends: &[Pending], outcomes: &[FinishOutcome]) {
        // A refused result belongs to no end of its life, whose row may be closed already.
        let now = self.shared.life().incarnation;
        let mut lives = ByLife::new();
        for (pending, outcome) in ends.iter().zip(outcomes).filter(|(pending, _)| !pending.end.unstarted) {
            let life = match outcome {
                FinishOutcome::Written => pending.incarnation,
                FinishOutcome::Refused => now.unwrap_or(pending.incarnation),
            };
            let counts = of(lives.entry(life).or_default(), &pending.kind);
            match outcome {
                FinishOutcome::Written => {
                    counts.claimed(pending.waited);
                    counts.ended(pending.end.result, &pending.end.next, pending.ran);
                }
                FinishOutcome::Refused => counts.refused(),
            }
        }
        for (life, counts) in &lives {
            self.shared.tally.add(*life, counts);
        }
    }

    fn settle(&mut self, ends: Vec<Pending>, outcomes: Vec<FinishOutcome>) {
        let mut frees_line = false;
        let (mut settled, mut as_what) = (Vec::new(), Vec::new());
        for (pending, mut outcome) in ends.into_iter().zip(outcomes) {
            if outcome == FinishOutcome::Refused && pending.is_doubted && !planted(Bug::RefusedUnread) {
                match self.call_read_finish(pending.end.held) {
                    // The earlier try was applied after all: its own result stands in the way.
                    Ok(FinishState::Written) => outcome = FinishOutcome::Written,
                    Ok(FinishState::Open | FinishState::Refused) => {}
                    Err(_) => {
                        self.failed += 1;
                        self.pending.push(pending);
                        continue;
                    }
                }
            }
            match outcome {
                FinishOutcome::Written => frees_line |= pending.end.keyed || pending.end.next != Next::Done,
                FinishOutcome::Refused => say_refused(&pending.end),
            }
            self.shared.running.reported([&pending.end.held]);
            settled.push(pending);
            as_what.push(outcome);
        }
        // Only now is it known what became of each.
        self.count(&settled, &as_what);
        // What is written makes room for claims ahead.
        if frees_line || self.shared.wants_ahead() {
            self.shared.wake_dispatcher();
        }
    }

    fn call_read_finish(&mut self, held: Held) -> StoreResult<FinishState> {
        let timeout = self.shared.options.statement_timeout;
        self.shared.pulses.finisher.turn(self.shared.clock.lease_now(), timeout * 2);
        self.lane.call("read an end back", timeout, move |store| store.read_finish(&held))
    }

    fn read_back(&mut self, ends: Vec<Pending>) {
        let mut is_away = false;
        for pending in ends {
            if is_away {
                self.pending.push(Pending { is_doubted: true, ..pending });
                continue;
            }
            let held = pending.end.held;
            let pending = Pending { is_doubted: true, ..pending };
            match self.call_read_finish(held) {
                Ok(FinishState::Written) => {
                    self.count(&[pending], &[FinishOutcome::Written]);
                    self.shared.running.reported([&held]);
                    self.shared.wake_dispatcher();
                }
                // Written again, under the same token and nonce: open or still unknown, because it may be
                // needed; not this engine's any more, because the database counts what it refuses.
                Ok(FinishState::Open | FinishState::Refused) => self.pending.push(pending),
                Err(_) => {
                    is_away = true;
                    self.pending.push(pending);
                }
            }
        }
    }
}

/// The database has counted it.
fn say_refused(end: &Finish) {
    // What never started has no result that could be refused, and leaves no row by which it could be read back.
    if !end.unstarted {
        if let Some(player) = turns::player() {
            player.refused(end.held.task.as_i64(), end.held.nonce.as_i64());
        }
        log::warn!(
            "the result ({}) of task {} was refused: its token {} is not current any more",
            end.result,
            end.held.task,
            end.held.token
        );
    }
}

#[cfg(test)]
mod tests;
