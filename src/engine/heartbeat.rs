//! The heartbeat: registers, beats, and takes in what each accepted beat brings back.
//!
//! It has its own thread, its own lane and its own database connection, and it is the last loop to end.
//! One pass of [`Heartbeat::step`] either registers or sends one beat, and says when the next is due.
//!
//! Races and failures:
//! * The lease counts from *before sending*. Beats are timed from sending to sending; a failed one is
//!   sent again h/2, h/4, then h/8 after its own sending.
//! * The answer comes after the lease watch has ended the life: it is ignored; the incarnation is over.
//! * Zero rows: fenced. Everything is stopped at once, then a new incarnation registers.
//! * A registration of unknown outcome: the next one meets its own namesake, recognised by boot and state
//!   directory, and ends it.
//! * The database came back older (identity, epoch or own beat went backwards): the epoch is raised, and
//!   what this engine holds is checked against the database before anything else is claimed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lane::Lane;
use super::shared::{Phase, Shared};
use super::stop::Ending;
use crate::handlers::{Lease as GateLease, StopKind};
use crate::protocol::engine::{Proof, Wanted};
use crate::protocol::ids::{Epoch, Incarnation, TaskId, Token};
use crate::protocol::lease::{Lease, LeasePhase};
use crate::protocol::task::{OnLeaseLoss, Wish};
use crate::protocol::time::LeaseInstant;
use crate::store::{
    Beat, BeatAnswer, BeatOutcome, FormerLife, Held, Namesake, RegisterOutcome, Registration, StoreError,
};

/// Why the heartbeat ends the engine.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// A live engine elsewhere has this name.
    #[error("engine name {name:?} is taken by a live engine on host {host} (process {pid}, last beat {age:.1}s ago)")]
    NameTaken {
        /// The name.
        name: String,
        /// Where the other runs.
        host: String,
        /// Its process.
        pid: u32,
        /// Age of its last beat in seconds.
        age: f64,
    },
    /// The database cannot be used, and that will not change by itself.
    #[error("the database cannot be used")]
    Store(#[source] StoreError),
}

/// What one pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next is due then.
    Next(LeaseInstant),
    /// The engine has ended.
    Ended,
}

/// See the module.
pub struct Heartbeat {
    shared: Arc<Shared>,
    lane: Lane,
    former: Option<(Incarnation, Proof)>,
    failed: u32,
    said: Option<String>,
}

impl Heartbeat {
    /// Of an engine.
    pub fn new(shared: Arc<Shared>) -> Self {
        let lane = Lane::new("beat", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
        Self { shared, lane, former: None, failed: 0, said: None }
    }

    /// One pass.
    pub fn step(&mut self) -> Result<Step, LifeError> {
        if self.shared.stop.ending() >= Ending::All {
            return Ok(Step::Ended);
        }
        let phase = self.shared.life().phase;
        match phase {
            Phase::Out => self.register(),
            Phase::Registered | Phase::Live => Ok(self.beat()),
            Phase::Over => Ok(self.come_back()),
        }
    }

    fn in_(&self, span: Duration) -> Step {
        Step::Next(self.shared.clock.lease_now().after(span))
    }

    // ---- registering ------------------------------------------------------------------------------

    fn register(&mut self) -> Result<Step, LifeError> {
        if self.shared.stop.ending() >= Ending::Finish {
            // Nothing of it is in the database, and nothing runs: it may end without a goodbye.
            self.shared.stop.ask(Ending::HandBack);
            return Ok(self.in_(Duration::from_millis(50)));
        }
        if self.former.is_some() && !self.flush_reports() {
            return Ok(self.in_(Duration::from_millis(50)));
        }
        let registration = self.registration();
        let incarnation = registration.incarnation;
        if let Some(guard) = &self.shared.guard
            && let Err(error) = guard.registered(incarnation)
        {
            log::error!("could not tell the guard who this is: {error}");
        }
        let timeout = self.shared.options.statement_timeout + self.shared.options.timing.query_timeout();
        match self.lane.call("register", timeout, move |store| store.register(&registration)) {
            Ok(RegisterOutcome::Registered { adopted, meta }) => {
                self.enter(incarnation, &adopted);
                self.shared.remember_epoch(meta.epoch);
                Ok(self.in_(Duration::ZERO))
            }
            Ok(RegisterOutcome::NameTaken(namesake)) => self.meet(&namesake),
            Err(error) if error.is_transient() => {
                self.failed += 1;
                self.say_once(format!("could not register: {}", error.chain()));
                Ok(self.in_(self.shared.options.timing.retry_after(self.failed).max(Duration::from_millis(100))))
            }
            // A full disk and a read-only database get better without a restart, but nothing was promised yet.
            Err(error) => Err(LifeError::Store(error)),
        }
    }

    /// Registering hands back what the former life still owns in the database; results that only wait to be
    /// written would then be refused and their tasks run again. So they go first, as soon as the database
    /// answers at all. False while it does not; a report that cannot be written is not waited for long.
    fn flush_reports(&mut self) -> bool {
        if self.shared.running.unreported_count() == 0 {
            return true;
        }
        let timeout = self.shared.options.timing.query_timeout();
        if let Err(error) = self.lane.call("look whether the database answers", timeout, |store| store.meta()) {
            self.say_once(format!("could not register: {}", error.chain()));
            return false;
        }
        let clock = &self.shared.clock;
        let until = clock.lease_now().after(Duration::from_millis(1_500));
        while self.shared.running.unreported_count() > 0 && clock.lease_now() < until {
            self.shared.stop.wait(Ending::All, Duration::from_millis(20));
        }
        true
    }

    fn registration(&self) -> Registration {
        let options = &self.shared.options;
        Registration {
            incarnation: fresh_incarnation(),
            name: options.name.clone(),
            host: self.shared.host.clone(),
            boot_id: super::host::boot_id(),
            pid: std::process::id(),
            state_id: options.state_id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: (1, 1),
            release: super::host::release(),
            kinds: options.kinds.keys().cloned().collect(),
            slots: options.slots,
            means: if self.shared.guard.is_some() { "guard" } else { "none" }.into(),
            timing: options.timing,
            former: self.former.map(|(incarnation, proof)| FormerLife {
                incarnation,
                proof,
                adopt: if proof == Proof::Itself { self.continuing() } else { Vec::new() },
            }),
            known_epoch: *self.shared.known_epoch.lock(),
        }
    }

    fn continuing(&self) -> Vec<Held> {
        let entries = self.shared.running.entries();
        entries.iter().filter(|e| e.on_lease_loss == OnLeaseLoss::Continue).map(|e| e.task.held).collect()
    }

    fn enter(&mut self, incarnation: Incarnation, adopted: &[Held]) {
        self.failed = 0;
        self.former = None;
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

    /// A namesake that is this very state directory in this very boot is dead: this process holds the
    /// directory's lock, and what it left was killed before. Any other is refused.
    fn meet(&mut self, namesake: &Namesake) -> Result<Step, LifeError> {
        let same = namesake.state_id == self.shared.options.state_id && namesake.boot_id == super::host::boot_id();
        if same {
            let proof = if self.former.is_some() { Proof::Itself } else { Proof::Lock };
            log::info!("the former life {} of this engine is over; ending it (proof {proof})", namesake.incarnation);
            self.former = Some((namesake.incarnation, proof));
            return Ok(self.in_(Duration::ZERO));
        }
        Err(LifeError::NameTaken {
            name: self.shared.options.name.to_string(),
            host: namesake.host.clone(),
            pid: namesake.pid,
            age: namesake.last_beat_age.as_secs_f64(),
        })
    }

    // ---- beating ------------------------------------------------------------------------------------

    fn beat(&mut self) -> Step {
        let shared = Arc::clone(&self.shared);
        let timing = shared.options.timing;
        let sent_at = shared.clock.lease_now();
        let Some(incarnation) = shared.life().incarnation else { return self.in_(timing.heartbeat_interval()) };
        if let Some(name) = shared.pulses.standing(sent_at) {
            log::error!("the {name} loop stands still: no heartbeat is sent until it turns");
            return Step::Next(sent_at.after(timing.heartbeat_interval() / 4));
        }
        let beat = Beat {
            incarnation,
            mode: shared.mode(),
            running: u32::try_from(shared.running.count(|_| true)).unwrap_or(u32::MAX),
        };
        match self.lane.call("beat", timing.query_timeout(), move |store| store.beat(&beat)) {
            Ok(BeatOutcome::Accepted(answer)) => {
                self.failed = 0;
                self.say_once(String::new());
                self.accepted(incarnation, sent_at, &answer);
                Step::Next(sent_at.after(timing.jittered_interval(fastrand::f64())))
            }
            // Its own goodbye was faster than this beat.
            Ok(BeatOutcome::Gone) if shared.stop.ending() >= Ending::Loops => self.in_(timing.heartbeat_interval()),
            Ok(BeatOutcome::Gone) => {
                log::error!("engine {incarnation} was fenced: stopping everything it runs");
                super::over::end_life(&shared, incarnation, super::over::Why::Fenced);
                Step::Next(sent_at)
            }
            Err(error) => {
                self.failed += 1;
                self.say_once(format!("a heartbeat failed: {}", error.chain()));
                Step::Next(sent_at.after(timing.retry_after(self.failed)))
            }
        }
    }

    fn accepted(&self, incarnation: Incarnation, sent_at: LeaseInstant, answer: &BeatAnswer) {
        let shared = &self.shared;
        let could_claim = shared.may_claim().is_some();
        let (lease, went_back) = {
            let mut life = shared.life.lock();
            if life.incarnation != Some(incarnation) || life.phase == Phase::Over {
                return;
            }
            life.lease.accept(sent_at);
            // An answer that took as long as the lease is worth nothing; the lease watch acts on it.
            if life.lease.phase(shared.clock.lease_now()) != LeasePhase::Valid {
                return;
            }
            let went_back = answer.beat <= life.beat;
            life.phase = Phase::Live;
            life.beat = answer.beat;
            life.wanted = answer.wanted;
            life.wanted_deadline = answer.wanted_deadline;
            life.meta = Some(answer.meta.clone());
            (life.lease, went_back)
        };
        self.open_gate(&lease);
        let _ = shared.own_beats.0.try_send(sent_at);
        self.obey_wishes(&answer.wishes);
        self.obey_deadline(answer);
        self.check_epoch(answer, went_back);
        // Only where claims are allowed since this beat; an idle engine would look for work twice as often.
        if !could_claim && shared.may_claim().is_some() {
            shared.wake_dispatcher();
        }
        super::host::notify_systemd(shared);
    }

    fn open_gate(&self, lease: &Lease) {
        let (Some(until), Some(kill_at), Some(guard_at)) = (lease.until(), lease.kill_at(), lease.guard_at()) else {
            return;
        };
        if let Some(commands) = &self.shared.commands {
            commands.spawner().open_gate(GateLease { until, kill_at });
        }
        if let Some(guard) = &self.shared.guard {
            if let Err(error) = guard.renew(guard_at) {
                log::error!("could not renew the lease with the guard: {error}");
            }
            super::over::tell_continuing(&self.shared);
        }
    }

    fn obey_wishes(&self, wishes: &[(TaskId, Token, Wish)]) {
        if wishes.is_empty() {
            return;
        }
        let now = self.shared.clock.lease_now();
        let kinds = &self.shared.options.kinds;
        self.shared.running.for_each(|entry| {
            let held = &entry.task.held;
            let Some((_, _, wish)) = wishes.iter().find(|(id, token, _)| *id == held.task && *token == held.token)
            else {
                return;
            };
            let kind = match wish {
                Wish::None => return,
                Wish::Cancel => StopKind::Cancel,
                Wish::Hold => StopKind::Hold,
                Wish::Requeue => StopKind::Requeue,
            };
            entry.wish = *wish;
            if let Some(control) = &entry.control {
                let grace = super::worker::grace(kinds.get(&entry.task.kind));
                control.stop(kind, now, now.after(grace));
            }
        });
    }

    /// A drain or stop whose deadline is over: what still runs is killed and handed back. The engine goes
    /// on beating; for a stop its end follows when nothing runs.
    fn obey_deadline(&self, answer: &BeatAnswer) {
        let is_due = answer.wanted_deadline.is_some_and(|deadline| answer.meta.now >= deadline);
        if !is_due || !matches!(answer.wanted, Wanted::Drain | Wanted::Stop) {
            return;
        }
        let now = self.shared.clock.lease_now();
        let kill_at = now.after(self.shared.options.timing.kill_budget());
        self.shared.running.for_each(|entry| {
            if let Some(control) = entry.control.as_ref().filter(|control| control.requested().is_none()) {
                log::warn!("the deadline is over: handing task {} back", entry.task.held.task);
                control.stop(StopKind::HandBack, now, kill_at);
            }
        });
    }

    /// Raises the epoch if the database may have lost commits, and checks what is held after a raise.
    fn check_epoch(&self, answer: &BeatAnswer, went_back: bool) {
        let meta = &answer.meta;
        let known = *self.shared.known_epoch.lock();
        let reason = if !meta.identity_matches {
            Some("the database's identity changed")
        } else if meta.epoch < known {
            Some("the epoch went back")
        } else if went_back {
            Some("a heartbeat counter went back")
        } else {
            None
        };
        let Some(reason) = reason else {
            if meta.epoch > known && known.as_i64() > 0 {
                self.shared.reconcile.store(true, Ordering::Release);
            }
            self.shared.remember_epoch(meta.epoch);
            return;
        };
        log::error!("{reason}: commits may be lost, raising the epoch");
        let (store, from) = (Arc::clone(&self.shared.store), meta.epoch);
        let at_least = Epoch::new(known.as_i64().max(from.as_i64()) + 1);
        self.shared.reconcile.store(true, Ordering::Release);
        // Not on the beat's own lane: a raise that hangs must not cost a heartbeat.
        let spawned = std::thread::Builder::new().name("raise-epoch".into()).spawn(move || {
            match store.raise_epoch(from, at_least, reason) {
                Ok(true) => log::warn!("the epoch is now {}", at_least.as_i64()),
                Ok(false) => log::info!("another engine was faster in raising the epoch"),
                Err(error) => log::error!("could not raise the epoch: {}", error.chain()),
            }
        });
        if let Err(error) = spawned {
            log::error!("could not raise the epoch: {error}");
        }
    }

    // ---- coming back ----------------------------------------------------------------------------------

    /// After the end of a life: waits until nothing of it runs (but `continue` tasks), writes what still
    /// can be written, and registers anew.
    fn come_back(&mut self) -> Step {
        let shared = &self.shared;
        if !super::over::is_clear(shared) {
            return self.in_(Duration::from_millis(20));
        }
        let mut life = shared.life.lock();
        let Some(former) = life.incarnation.take() else {
            life.phase = Phase::Out;
            return Step::Next(shared.clock.lease_now());
        };
        life.phase = Phase::Out;
        drop(life);
        self.former = Some((former, Proof::Itself));
        self.failed = 0;
        self.in_(Duration::ZERO)
    }

    fn say_once(&mut self, text: String) {
        if text.is_empty() {
            if self.said.take().is_some() {
                log::info!("the database answers again");
            }
        } else if self.said.as_ref() != Some(&text) {
            log::warn!("{text}");
            self.said = Some(text);
        } else {
            log::debug!("{text}");
        }
    }
}

/// From the system's randomness: two engines that start from one image must not draw the same.
fn fresh_incarnation() -> Incarnation {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Incarnation::new(i64::from_ne_bytes(bytes)),
        Err(_) => Incarnation::new(fastrand::i64(..) ^ i64::from(std::process::id())),
    }
}

/// Whether operators want the engine to end.
pub fn is_told_to_stop(shared: &Shared) -> bool {
    let life = shared.life();
    life.phase == Phase::Live && life.wanted == Wanted::Stop
}
