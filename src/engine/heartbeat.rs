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
    Beat, BeatAnswer, BeatOutcome, Fence, FormerLife, Held, Namesake, RegisterOutcome, Registration, StoreError,
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

/// The thread that raises an epoch makes one call.
const RAISE_STACK: usize = 256 << 10;

/// See the module.
pub struct Heartbeat {
    shared: Arc<Shared>,
    lane: Lane,
    former: Option<(Incarnation, Proof)>,
    failed: u32,
    said: Option<String>,
    namesake: Option<NamesakeWatch>,
    standing_since: Option<LeaseInstant>,
}

/// A namesake whose beat is being watched.
#[derive(Debug, Clone, Copy)]
struct NamesakeWatch {
    incarnation: Incarnation,
    beat: i64,
    seen_at: LeaseInstant,
    looked_at: LeaseInstant,
}

impl Heartbeat {
    /// Of an engine.
    pub fn new(shared: Arc<Shared>) -> Self {
        let lane = Lane::new("beat", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
        Self { shared, lane, former: None, failed: 0, said: None, namesake: None, standing_since: None }
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
            Phase::Over => Ok(self.in_(Duration::from_millis(10))),
            Phase::Clear => Ok(self.come_back()),
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
        if self.former.is_some() && self.namesake.is_none() && !self.flush_reports() {
            return Ok(self.in_(Duration::from_millis(50)));
        }
        let registration = self.registration();
        let incarnation = registration.incarnation;
        self.shared.about_to_register(incarnation);
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
            // An engine that comes back has `continue` tasks to keep and a place to come back to: a standby
            // that is not promoted yet, a full disk, a wrong password are waited out. A first start is not.
            Err(error) if self.former.is_some() && !matches!(error, StoreError::Schema(_)) => {
                self.failed += 1;
                self.say_once(format!("could not come back yet: {}", error.chain()));
                Ok(self.in_(self.shared.options.timing.heartbeat_interval()))
            }
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
            boot_id: self.shared.boot_id.clone(),
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
        self.failed = 0;
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

    /// A namesake that is this very state directory in this very boot is dead: this process holds the
    /// directory's lock, and what it left was killed before. Any other is refused.
    fn meet(&mut self, namesake: &Namesake) -> Result<Step, LifeError> {
        let same = namesake.state_id == self.shared.options.state_id && namesake.boot_id == self.shared.boot_id;
        if same {
            let proof = if self.former.is_some() { Proof::Itself } else { Proof::Lock };
            log::info!("the former life {} of this engine is over; ending it (proof {proof})", namesake.incarnation);
            self.former = Some((namesake.incarnation, proof));
            return Ok(self.in_(Duration::ZERO));
        }
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
        let fence = Fence { incarnation: watch.incarnation, beat: Some(watch.beat), proof: Proof::Expiry, by };
        let timeout = self.shared.options.timing.query_timeout();
        match self.lane.call("fence", timeout, move |store| store.fence(&fence)) {
            Ok(outcome) => log::warn!("the namesake {} did not beat for its T: {outcome:?}", watch.incarnation),
            Err(error) => log::warn!("could not fence the namesake: {}", error.chain()),
        }
        self.namesake = None;
    }

    // ---- beating ------------------------------------------------------------------------------------

    fn beat(&mut self) -> Step {
        let shared = Arc::clone(&self.shared);
        let timing = shared.options.timing;
        let sent_at = shared.clock.lease_now();
        let Some(incarnation) = shared.life().incarnation else { return self.in_(timing.heartbeat_interval()) };
        if let Some(name) = shared.pulses.standing(sent_at) {
            self.complain_of(name, sent_at);
            return Step::Next(sent_at.after(timing.heartbeat_interval() / 4));
        }
        self.standing_since = None;
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

    /// A loop that stands still ends the lease, and with it all tasks; one that never turns again would
    /// leave a process that can do nothing and never ends. Where there is a guard, it takes over from there.
    fn complain_of(&mut self, name: &str, now: LeaseInstant) {
        let since = *self.standing_since.get_or_insert_with(|| {
            log::error!("the {name} loop stands still: no heartbeat is sent until it turns");
            now
        });
        if self.shared.guard.is_some() && now.since(since) > self.shared.options.timing.dead_after() {
            log::error!("the {name} loop has not turned for {:?}: aborting", now.since(since));
            crate::turns::abort("a loop stands still");
        }
    }

    fn accepted(&self, incarnation: Incarnation, sent_at: LeaseInstant, answer: &BeatAnswer) {
        let shared = &self.shared;
        let could_claim = shared.may_claim().is_some();
        let (lease, doubt, was_live) = {
            let mut life = shared.life.lock();
            if life.incarnation != Some(incarnation) || life.phase.has_ended() {
                return;
            }
            // The old lease ran out before this answer came: the supervisors of commands have seen it too
            // and are stopping what runs, so the life is over whatever the answer says.
            if life.phase == Phase::Live && life.lease.phase(shared.clock.lease_now()) != LeasePhase::Valid {
                return;
            }
            life.lease.accept(sent_at);
            // An answer that took as long as the lease is worth nothing; the lease watch acts on it.
            if life.lease.phase(shared.clock.lease_now()) != LeasePhase::Valid {
                return;
            }
            let went_back = answer.beat <= life.beat;
            let was_live = life.phase == Phase::Live;
            life.phase = Phase::Live;
            life.beat = answer.beat;
            life.wanted = answer.wanted;
            life.wanted_deadline = answer.wanted_deadline;
            // Before anything is claimed under it: a database that came back older gives out tokens that
            // were given out before.
            let doubt = self.doubt(answer, went_back);
            life.meta = Some(answer.meta.clone()).filter(|_| doubt.is_none());
            (life.lease, doubt, was_live)
        };
        self.open_gate(&lease, was_live);
        let _ = shared.own_beats.0.send(sent_at);
        self.obey_wishes(&answer.wishes);
        self.obey_deadline(answer);
        self.check_epoch(answer, doubt);
        // Only where claims are allowed since this beat; an idle engine would look for work twice as often.
        if !could_claim && shared.may_claim().is_some() {
            shared.wake_dispatcher();
        }
        if let Some(guard_at) = lease.guard_at() {
            super::unit::Unit::lease_renewed(shared, guard_at.after(shared.options.timing.kill_budget() / 4));
        }
    }

    fn open_gate(&self, lease: &Lease, was_live: bool) {
        let (Some(until), Some(kill_at), Some(guard_at)) = (lease.until(), lease.kill_at(), lease.guard_at()) else {
            return;
        };
        if let Some(commands) = &self.shared.commands {
            // A gate that was closed on purpose (a stop, a dead guard) is not opened by another beat.
            match was_live {
                true => commands.gate().renew(GateLease { until, kill_at }),
                false => commands.gate().open(GateLease { until, kill_at }),
            }
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

    /// Why the database may have lost commits, if it may.
    fn doubt(&self, answer: &BeatAnswer, went_back: bool) -> Option<&'static str> {
        if !answer.meta.identity_matches {
            Some("the database's identity changed")
        } else if answer.meta.epoch < *self.shared.known_epoch.lock() {
            Some("the epoch went back")
        } else {
            let mut doubted = self.shared.doubted.lock();
            if went_back {
                *doubted = Some(answer.meta.epoch);
            }
            // The next counters go forward again; the doubt stays until the epoch has been raised.
            doubted.filter(|epoch| answer.meta.epoch <= *epoch).map(|_| "a heartbeat counter went back")
        }
    }

    /// Raises the epoch if the database may have lost commits, and has what is held checked after a raise.
    fn check_epoch(&self, answer: &BeatAnswer, doubt: Option<&'static str>) {
        let meta = &answer.meta;
        let known = *self.shared.known_epoch.lock();
        let Some(reason) = doubt else {
            if meta.epoch > known && known.as_i64() > 0 {
                self.shared.reconcile.store(true, Ordering::Release);
            }
            self.shared.remember_epoch(meta.epoch);
            return;
        };
        self.shared.reconcile.store(true, Ordering::Release);
        if self.shared.raising.swap(true, Ordering::AcqRel) {
            // One raise at a time; the next beat tells whether it is still needed.
            return;
        }
        log::error!("{reason}: commits may be lost, raising the epoch");
        let (shared, from) = (Arc::clone(&self.shared), meta.epoch);
        let at_least = Epoch::new(known.as_i64().max(from.as_i64()) + 1);
        // Not on the beat's own lane: a raise that hangs must not cost a heartbeat.
        let spawned = crate::turns::spawn("raise-epoch", RAISE_STACK, move || {
            // In a lane: a call that hangs is given up, and a later beat asks again.
            let mut lane = Lane::new("raise", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
            let timeout = shared.options.statement_timeout;
            match lane.call("raise the epoch", timeout, move |store| store.raise_epoch(from, at_least, reason)) {
                Ok(true) => log::warn!("the epoch is now {}", at_least.as_i64()),
                Ok(false) => log::info!("another engine was faster in raising the epoch"),
                Err(error) => log::error!("could not raise the epoch: {}", error.chain()),
            }
            shared.raising.store(false, Ordering::Release);
        });
        if let Err(error) = spawned {
            self.shared.raising.store(false, Ordering::Release);
            log::error!("could not raise the epoch: {error}");
        }
    }

    // ---- coming back ----------------------------------------------------------------------------------

    /// After the end of a life, with nothing of it running but `continue` tasks: registers anew.
    fn come_back(&mut self) -> Step {
        let shared = &self.shared;
        let mut life = shared.life.lock();
        let Some(former) = life.incarnation.take() else {
            life.phase = Phase::Out;
            return Step::Next(shared.clock.lease_now());
        };
        life.phase = Phase::Out;
        drop(life);
        self.former = Some((former, Proof::Itself));
        *self.shared.former.lock() = Some(former);
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
    if let Some(player) = crate::turns::player() {
        return Incarnation::new(player.draw());
    }
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
