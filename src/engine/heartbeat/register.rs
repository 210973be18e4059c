//! Registering: a first life, a new life after one that ended, and what to do about a namesake.

use std::time::Duration;

use super::{Heartbeat, LifeError, Step};
use crate::engine::host;
use crate::engine::shared::Phase;
use crate::engine::stop::Ending;
use crate::guard::tree;
use crate::handlers::StopKind;
use crate::planted::{Bug, planted};
use crate::protocol::engine::Proof;
use crate::protocol::ids::Incarnation;
use crate::protocol::lease::Lease;
use crate::protocol::sent_beats::SentBeats;
use crate::protocol::task::OnLeaseLoss;
use crate::protocol::time::LeaseInstant;
use crate::random;
use crate::store::{Fence, FormerLife, Held, Meta, Namesake, RegisterOutcome, Registration, StoreError};

/// The longest wait for results that go before the registration.
const FLUSH_MAX: Duration = Duration::from_millis(1_500);

/// So many lives of this process are remembered.
const OWN_MAX: usize = 64;

/// A namesake whose beat is being watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamesakeWatch {
    incarnation: Incarnation,
    beat: i64,
    seen_at: LeaseInstant,
    looked_at: LeaseInstant,
}

impl Heartbeat {
    pub(super) fn register(&mut self) -> Result<Step, LifeError> {
        if self.shared.stop.ending() >= Ending::Finish {
            // Nothing of it is in the database, and nothing runs: it may end without a goodbye.
            self.shared.stop.ask(Ending::HandBack);
            return Ok(self.in_(Duration::from_millis(50)));
        }
        let comes_back = self.former.is_some() && self.namesake.is_none();
        let meta = self.look(comes_back)?;
        if comes_back && meta.is_none() && !planted(Bug::SlowReturn) {
            self.slow = 0;
            return Ok(self.retry_register());
        }
        if comes_back {
            self.flush_reports();
        }
        let registration = self.registration();
        let incarnation = registration.incarnation;
        // Before it is sent: its row may exist although its answer never comes.
        self.remember_own(incarnation);
        self.shared.about_to_register(incarnation);
        let timeout = self.patience();
        let sent_at = self.shared.clock.lease_now();
        match self.lane.call("register", timeout, move |store| store.register(&registration)) {
            Ok(RegisterOutcome::Registered { adopted, meta, is_lost }) => {
                self.registered_at = sent_at;
                self.has_registered = true;
                self.sent = SentBeats::default();
                if is_lost {
                    self.shared.doubt_beats(&meta);
                } else {
                    self.shared.remember_beat(incarnation, 0, &meta);
                }
                self.enter(incarnation, &adopted);
                self.shared.remember_epoch(&meta);
                Ok(self.in_(Duration::ZERO))
            }
            Ok(RegisterOutcome::NameTaken(namesake)) => self.meet(&namesake),
            Err(error) if error.is_transient() => {
                self.slow += u32::from(matches!(error, StoreError::Unknown { .. }));
                self.say_once(format!("could not register: {}", error.chain()));
                Ok(self.retry_register())
            }
            // An engine that comes back has `continue` tasks to keep and a place to come back to: a standby
            // that is not promoted yet, a full disk, a wrong password are waited out. A first start is not.
            Err(error) if self.former.is_some() && !matches!(error, StoreError::Schema(_)) => {
                self.failed += 1;
                self.say_once(format!("could not come back yet: {}", error.chain()));
                Ok(self.in_(self.shared.options.timing.heartbeat_interval()))
            }
            // It took writes a moment ago: a switch-over, which ends.
            Err(error @ StoreError::ReadOnly { .. }) => {
                self.say_once(format!("could not register: {}", error.chain()));
                Ok(self.retry_register())
            }
            Err(error) => Err(LifeError::Store(error)),
        }
    }

    fn retry_register(&mut self) -> Step {
        self.failed += 1;
        self.in_(self.shared.options.timing.retry_after(self.failed).max(Duration::from_millis(100)))
    }

    /// Who comes back after an outage has less than T until a peer fences its former life, so it must not wait
    /// for a registration that was sent into the outage. It asks first whether the database answers; a
    /// registration that is lost nevertheless is given up after q, and each further one after twice the time: it
    /// may be the registration that is slow, because it hands many tasks back. A first start has no former life.
    fn patience(&self) -> Duration {
        let q = self.shared.options.timing.query_timeout();
        let longest = self.shared.options.statement_timeout + q;
        match self.former {
            Some((_, Proof::Itself)) if !planted(Bug::SlowReturn) => {
                longest.min(q * 2u32.saturating_pow(self.slow.min(6)))
            }
            _ => longest,
        }
    }

    /// Who comes back asks whether the database answers; who remembers an epoch, whether the two fit. A first start
    /// that gets no answer is told why by its registration.
    fn look(&mut self, comes_back: bool) -> Result<Option<Meta>, LifeError> {
        let remembers = self.shared.known_epoch.lock().epoch.as_i64() > 0;
        if planted(Bug::SlowReturn) || !(comes_back || remembers) {
            return Ok(None);
        }
        let timeout = self.shared.options.timing.query_timeout();
        match self.lane.call("look whether the database answers", timeout, |store| store.meta()) {
            Ok(meta) => self.must_be_believed(&meta).map(|()| Some(meta)),
            Err(error) => {
                if comes_back {
                    self.say_once(format!("could not register: {}", error.chain()));
                }
                Ok(None)
            }
        }
    }

    /// Registering hands back what the former life still owns in the database; results that only wait to be
    /// written would then be refused and their tasks run again. So they go first, now that the database
    /// answers; a report that cannot be written is not waited for long.
    fn flush_reports(&mut self) {
        let clock = &self.shared.clock;
        let until = clock.lease_now().after(FLUSH_MAX.min(self.shared.options.timing.takeover_after() / 4));
        while self.shared.running.unreported_count() > 0 && clock.lease_now() < until {
            self.shared.stop.wait(Ending::All, Duration::from_millis(20));
        }
    }

    fn registration(&self) -> Registration {
        let options = &self.shared.options;
        Registration {
            incarnation: Incarnation::new(random::positive()),
            name: options.name.clone(),
            host: self.shared.host.clone(),
            boot_id: self.shared.boot_id.clone(),
            pid: std::process::id(),
            state_id: self.shared.state_id(),
            stand: self.shared.options.stand,
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: (1, 1),
            release: host::release(),
            kinds: options.kinds.keys().cloned().collect(),
            slots: options.slots,
            means: if self.shared.guard.is_some() { "guard" } else { "none" }.into(),
            timing: options.timing,
            former: self.former.map(|(incarnation, proof)| FormerLife {
                incarnation,
                proof,
                adopt: if proof == Proof::Itself { self.continuing() } else { Vec::new() },
            }),
            last_beat: self.shared.last_beat.lock().clone(),
            cluster: options.cluster.clone(),
        }
    }

    fn continuing(&self) -> Vec<Held> {
        let entries = self.shared.running.entries();
        entries
            .iter()
            .filter(|e| e.on_lease_loss == OnLeaseLoss::Continue)
            .filter(|e| e.control.as_ref().is_some_and(|control| control.requested().is_none()))
            .map(|e| e.task.held)
            .collect()
    }

    fn enter(&mut self, incarnation: Incarnation, adopted: &[Held]) {
        (self.failed, self.slow) = (0, 0);
        self.former = None;
        self.namesake = None;
        *self.shared.former.lock() = None;
        self.say_once(String::new());
        {
            let mut life = self.shared.life.lock();
            life.incarnation = Some(incarnation);
            life.phase = Phase::Registered;
            life.lease = Lease::new(self.shared.options.timing);
            life.beat = 0;
        }
        let now = self.shared.clock.lease_now();
        self.shared.running.for_each(|entry| {
            if adopted.contains(&entry.task.held) {
                entry.incarnation = incarnation;
            } else if let Some(control) = &entry.control {
                // A `continue` task whose token somebody else has raised: its result would be refused.
                control.stop(StopKind::LeaseLost, now, now.after(self.shared.options.timing.kill_budget() / 4));
            }
        });
        log::info!("engine {} registered as {incarnation}", self.shared.options.name);
    }

    /// A namesake that is a former life with this very state directory, of which nothing is left, is dead. Any other
    /// is watched. So is one that this process has not sent itself once it has registered: all that was before it
    /// has ended by then, so that one is a copy.
    fn meet(&mut self, namesake: &Namesake) -> Result<Step, LifeError> {
        let is_place = namesake.state_id == self.shared.state_id() && namesake.boot_id == self.shared.boot_id;
        let proof = match () {
            // A registration of its own whose answer was lost.
            () if is_place && self.own.contains(&namesake.incarnation) => Some(Proof::Itself),
            () if is_place && !self.has_registered && self.is_over(namesake) => Some(Proof::Lock),
            () => None,
        };
        if let Some(proof) = proof {
            log::info!("the former life {} of this engine is over; ending it (proof {proof})", namesake.incarnation);
            self.former = Some((namesake.incarnation, proof));
            return Ok(self.in_(Duration::ZERO));
        }
        self.raise_from_memory();
        if let Some(step) = self.watch_namesake(namesake) {
            return Ok(step);
        }
        Err(LifeError::NameTaken {
            name: self.shared.options.name.to_string(),
            host: namesake.host.clone(),
            pid: namesake.pid,
            age: namesake.last_beat_age.as_secs_f64(),
        })
    }

    /// Whether nothing of this life can still run: this process holds the lock that it held, and what it left was
    /// killed. Its row must have been quiet for as long as a beat may take: one clone is left that looks the same
    /// in all of this, a machine resumed from a snapshot of a time when no engine ran. That one's original beats.
    fn is_over(&self, namesake: &Namesake) -> bool {
        let timing = &self.shared.options.timing;
        let quiet = timing.heartbeat_interval() * 11 / 10 + timing.query_timeout();
        let (Some(its), Some(here)) = (namesake.stand, self.shared.options.stand) else { return false };
        let pid = i32::try_from(namesake.pid).unwrap_or(i32::MAX);
        let lives = || tree::read(pid).is_some_and(|proc| proc.start_ticks == its.start_ticks && proc.is_alive());
        !self.shared.boot_id.is_empty() && its.is_over(&here, lives) && namesake.last_beat_age >= quiet
    }

    fn remember_own(&mut self, incarnation: Incarnation) {
        // Of one name at most one row is live, so an old one cannot be met any more.
        self.own.truncate(OWN_MAX - 1);
        self.own.insert(0, incarnation);
    }

    /// A namesake elsewhere (or from before a reboot) may be dead with nobody left to fence it: after a power
    /// cut every row of the cluster looks live. So it is watched like any peer, by this process's own clock:
    /// if its beat moves, the name is taken; if it stands still for its T, it is fenced. `None`: it beats.
    fn watch_namesake(&mut self, namesake: &Namesake) -> Option<Step> {
        let now = self.shared.clock.lease_now();
        let lapse = self.shared.options.timing.lease() / 2;
        let same = |w: &NamesakeWatch| w.incarnation == namesake.incarnation && now.since(w.looked_at) <= lapse;
        let known = self.namesake.filter(|w| w.incarnation == namesake.incarnation);
        if known.is_some_and(|watch| watch.beat != namesake.beat) {
            return None;
        }
        let watch = match self.namesake.filter(same) {
            Some(watch) => NamesakeWatch { looked_at: now, ..watch },
            None => {
                log::warn!(
                    "an engine of this name ({} on host {}, process {}) is not known to be dead: watching its beat",
                    namesake.incarnation,
                    namesake.host,
                    namesake.pid
                );
                NamesakeWatch { incarnation: namesake.incarnation, beat: namesake.beat, seen_at: now, looked_at: now }
            }
        };
        self.namesake = Some(watch);
        if now.since(watch.seen_at) >= namesake.takeover_after {
            self.fence_namesake(watch);
        }
        Some(self.in_(Duration::from_millis(100)))
    }

    fn fence_namesake(&mut self, watch: NamesakeWatch) {
        let by = self.shared.options.name.to_string();
        let fence =
            Fence { incarnation: watch.incarnation, beat: Some(watch.beat), proof: Proof::Expiry, by, place: None };
        let timeout = self.shared.options.timing.query_timeout();
        match self.lane.call("fence", timeout, move |store| store.fence(&fence)) {
            Ok(outcome) => log::warn!("the namesake {} did not beat for its T: {outcome:?}", watch.incarnation),
            Err(error) => log::warn!("could not fence the namesake: {}", error.chain()),
        }
        self.namesake = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::engine::EngineOptions;
    use crate::engine::run::{Role, build};
    use crate::protocol::ids::EngineName;
    use crate::store::MemoryStore;

    /// A register that is sent into the end of an outage must not cost the time until a peer fences.
    #[test]
    fn who_comes_back_gives_a_lost_registration_up_after_q_and_has_patience_with_a_slow_one() {
        let options = EngineOptions::new(EngineName::new("e").unwrap());
        let (q, longest) = (options.timing.query_timeout(), options.statement_timeout + options.timing.query_timeout());
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let mut heartbeat = Heartbeat::new(Arc::new(build(store, options, Role::Library, None).unwrap()));
        assert_eq!(heartbeat.patience(), longest, "a first start has nothing to lose");
        heartbeat.former = Some((Incarnation::new(1), Proof::Itself));
        let tries: Vec<_> = (0..5)
            .map(|slow| {
                heartbeat.slow = slow;
                heartbeat.patience()
            })
            .collect();
        assert_eq!(tries, [q, q * 2, q * 4, longest.min(q * 8), longest]);
    }
}
