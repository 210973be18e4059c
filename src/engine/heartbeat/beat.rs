//! One beat, and what an accepted one brings back: the lease, wishes on tasks, deadlines.

use std::sync::Arc;

use super::{Heartbeat, Step};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::shared::Phase;
use crate::engine::stop::Ending;
use crate::engine::{over, unit, worker};
use crate::handlers::{Lease as GateLease, StopKind};
use crate::planted::{Bug, planted};
use crate::protocol::engine::{Proof, Wanted};
use crate::protocol::ids::{Incarnation, TaskId, Token};
use crate::protocol::lease::{Lease, LeasePhase};
use crate::protocol::task::Wish;
use crate::protocol::time::LeaseInstant;
use crate::store::{Beat, BeatAnswer, BeatOutcome, StoreError};

impl Heartbeat {
    pub(super) fn beat(&mut self) -> Step {
        let shared = Arc::clone(&self.shared);
        let timing = shared.options.timing;
        let sent_at = shared.clock.lease_now();
        let Some(incarnation) = shared.life().incarnation else { return self.in_(timing.heartbeat_interval()) };
        if let Some(name) = shared.pulses.standing(sent_at).filter(|_| !planted(Bug::BeatAnyway)) {
            self.complain_of(name, sent_at);
            return Step::Next(sent_at.after(timing.heartbeat_interval() / 4));
        }
        self.standing_since = None;
        if self.is_stillborn(sent_at) {
            return self.in_(Duration::ZERO);
        }
        let beat = Beat {
            incarnation,
            mode: shared.mode(),
            running: u32::try_from(shared.running.count(|_| true)).unwrap_or(u32::MAX),
        };
        self.sent.send();
        match self.lane.call("beat", timing.query_timeout(), move |store| store.beat(&beat)) {
            Ok(BeatOutcome::Accepted(answer)) => {
                self.failed = 0;
                self.say_once(String::new());
                let is_own = self.sent.is_own(answer.beat, shared.clock.lease_now());
                if !is_own && !planted(Bug::TwinUnseen) {
                    self.leave_to_a_copy(incarnation, answer.beat);
                    return Step::Next(sent_at);
                }
                self.accepted(incarnation, sent_at, &answer);
                self.watch_db_clock(sent_at, &answer.meta);
                Step::Next(sent_at.after(timing.jittered_interval(fastrand::f64())))
            }
            // Its own goodbye was faster than this beat.
            Ok(BeatOutcome::Gone) if shared.stop.ending() >= Ending::Loops => self.in_(timing.heartbeat_interval()),
            Ok(BeatOutcome::Gone) => {
                log::error!("engine {incarnation} was fenced: stopping everything it runs");
                over::end_life(&shared, incarnation, over::Why::Fenced);
                Step::Next(sent_at)
            }
            Err(error) => {
                match error {
                    StoreError::Unknown { .. } | StoreError::Broken { .. } => self.sent.lose(sent_at),
                    _ => self.sent.take_back(),
                }
                self.failed += 1;
                self.say_once(format!("a heartbeat failed: {}", error.chain()));
                Step::Next(sent_at.after(timing.retry_after(self.failed)))
            }
        }
    }

    /// A resumed copy of this machine, or the machine from which this one was copied, beats the same row.
    fn leave_to_a_copy(&mut self, incarnation: Incarnation, beat: i64) {
        log::error!(
            "heartbeat {beat} of engine {incarnation} was not sent by this process: a copy of this machine beats the \
             same row; stopping everything and coming back as another life"
        );
        self.shared.fork();
        // Nothing proves that the other's processes are dead.
        self.proof = Proof::Operator;
        over::end_life(&self.shared, incarnation, over::Why::Fenced);
    }

    /// An incarnation that had no beat accepted for L since it was registered may have been fenced by now, and a
    /// failover may have lost that fence: a beat would bring it back to life (I3). It has nothing to lose, so
    /// another one is registered instead.
    fn is_stillborn(&self, now: LeaseInstant) -> bool {
        let mut life = self.shared.life.lock();
        let is_over =
            life.phase == Phase::Registered && now.since(self.registered_at) >= self.shared.options.timing.lease();
        if is_over {
            life.phase = Phase::Clear;
        }
        is_over
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
        let (lease, doubt, was_live, is_news, is_verified) = {
            let mut life = shared.life.lock();
            if life.incarnation != Some(incarnation) || life.phase.has_ended() {
                return;
            }
            // The old lease ran out before this answer came: the supervisors of commands have seen it too
            // and are stopping what runs, so the life is over whatever the answer says.
            if life.phase == Phase::Live && life.lease.phase(shared.clock.lease_now()) != LeasePhase::Valid {
                return;
            }
            let is_verified = self.is_verified(life.phase, answer);
            if is_verified {
                let answered_at = planted(Bug::LeaseFromAnswer).then(|| shared.clock.lease_now());
                life.lease.accept(answered_at.unwrap_or(sent_at));
            }
            // An answer that took as long as the lease is worth nothing; the lease watch acts on it.
            if life.lease.phase(shared.clock.lease_now()) != LeasePhase::Valid {
                return;
            }
            let went_back = answer.beat <= life.beat;
            let was_live = life.phase == Phase::Live;
            let is_news = !was_live || life.wanted != answer.wanted;
            life.phase = Phase::Live;
            life.beat = answer.beat;
            life.wanted = answer.wanted;
            life.wanted_deadline = answer.wanted_deadline;
            // Before anything is claimed under it: a database that came back older gives out tokens that
            // were given out before.
            let doubt = self.doubt(answer, went_back);
            life.meta = Some(answer.meta.clone()).filter(|_| doubt.is_none());
            if doubt.is_none() {
                shared.remember_beat(incarnation, answer.beat, &answer.meta);
            }
            (life.lease, doubt, was_live, is_news, is_verified)
        };
        // The sweeper compares at once: its next pass may be further away than the end of the lease.
        if is_news || !is_verified {
            shared.stop.nudge();
        }
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
            unit::Unit::lease_renewed(shared, guard_at.after(shared.options.timing.kill_budget() / 4));
        }
    }

    /// After a raise that says "commits may be lost" nobody claims for the largest T, because what was claimed
    /// before is compared with the database meanwhile, and what is not its owner's any more is killed. So the
    /// lease does not grow past the raise until this engine has done that: one whose other calls hang would
    /// beat on, and run its tasks beside their successors.
    fn is_verified(&self, phase: Phase, answer: &BeatAnswer) -> bool {
        let raised = answer.meta.raised_epoch;
        let mut verified = self.shared.verified.lock();
        // A registration keeps what it adopts under current tokens, and nothing else.
        if phase == Phase::Registered {
            *verified = raised.max(*verified);
        }
        if *verified < raised {
            self.shared.reconcile.store(true, Ordering::Release);
        }
        *verified >= raised || planted(Bug::RaiseUnverified)
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
            over::tell_continuing(&self.shared);
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
                let grace = worker::grace(kinds.get(&entry.task.kind));
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
}
