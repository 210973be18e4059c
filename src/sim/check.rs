//! What must hold after every step: the promises I1 to I7 of the design, on the database's history and on the
//! processes.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{MS, S, World, now};
use crate::engine::shared::Phase;
use crate::handlers::Attempt;
use crate::protocol::engine::Proof;
use crate::protocol::ids::{Epoch, Incarnation, Nonce, ResourceName, TaskId, Token};
use crate::protocol::lease::LeasePhase;
use crate::protocol::task::{Reason, TaskState, Wish};
use crate::protocol::timing::Timing;
use crate::store::memory::State;
use crate::store::{Claimed, Fence, Finish, FinishOutcome, Held};

/// What a token belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Resource(ResourceName),
    Task(TaskId),
}

/// See the module.
#[derive(Default)]
pub(super) struct Checker {
    pub(super) violation: Option<String>,
    /// The largest token ever handed out, also by a database whose commits were lost.
    given: BTreeMap<Line, Token>,
    /// The counters as of the last step.
    stored: BTreeMap<ResourceName, Token>,
    /// Ended for good: by expiry, by a proof, or by themselves.
    dead: BTreeSet<Incarnation>,
    written: BTreeSet<(TaskId, Nonce)>,
    started: BTreeSet<(TaskId, u32)>,
    beats: BTreeMap<Incarnation, u64>,
    /// What people were told would be done with a running attempt.
    asked: BTreeMap<TaskId, (Held, Wish)>,
    /// When lives ended, whatever ended them.
    ended_at: Vec<u64>,
    has_failed_over: bool,
}

/// For so long a sweep's count of the living may be in use: the call itself, and what the sweeper does before it
/// fences.
const COUNT_AGE: u64 = 3 * S;

/// Whether this claim stands.
pub(super) fn is_current(s: &State, held: &Held) -> bool {
    let task = s.tasks.get(&held.task).filter(|task| task.state == TaskState::Running);
    task.is_some_and(|task| task.token == held.token && task.nonce == Some(held.nonce))
}

/// Tokens of all that an incarnation owns.
pub(super) fn owned_tokens(s: &State, owner: Incarnation) -> Vec<(TaskId, Token, Vec<ResourceName>)> {
    let owned = s.tasks.iter().filter(|(_, task)| task.owner == Some(owner));
    owned.map(|(id, task)| (*id, task.token, task.resources.clone())).collect()
}

impl Checker {
    /// Only the first counts: what follows may be its consequence.
    pub(super) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A person was told that this will be done with a running attempt.
    pub(super) fn asked(&mut self, task: TaskId, held: Option<Held>, wish: Wish) {
        match held {
            Some(held) => drop(self.asked.insert(task, (held, wish))),
            None => self.fail(format!("wish: {wish} was accepted for task {task}, which does not run")),
        }
    }

    /// What was accepted is obeyed in the step that ends the attempt, unless the work was done first, or a task
    /// that is to run again is one that no engine may have any more.
    fn wishes(&mut self, s: &State) {
        let (over, open): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.asked).into_iter().partition(|(_, (held, _))| !is_current(s, held));
        self.asked = open;
        for (id, (_, wish)) in over {
            let Some(task) = s.tasks.get(&id).or_else(|| s.archive.get(&id)) else { continue };
            let is_obeyed = match wish {
                Wish::None => true,
                Wish::Cancel => task.state == TaskState::Canceled,
                Wish::Hold => task.state == TaskState::Held,
                Wish::Requeue => task.state == TaskState::Quarantined || task.reason == Reason::Requeued,
            };
            if !is_obeyed && task.state != TaskState::Done {
                self.fail(format!("wish: {wish} of task {id} was accepted, and it is {}", task.state));
            }
        }
    }

    /// I2, lines, wishes, and I4 for stored counters, on the whole state.
    pub(super) fn state(&mut self, s: &State) {
        self.wishes(s);
        for (id, task) in s.tasks.iter().filter(|(_, task)| task.state == TaskState::Running) {
            let Some(owner) = task.owner else {
                return self.fail(format!("I2: task {id} runs without an owner"));
            };
            for name in &task.resources {
                let has = s.resources.get(name).and_then(|resource| resource.owner);
                if has != Some((*id, owner)) {
                    return self.fail(format!("I2: task {id} runs, but {name} is owned by {has:?}"));
                }
            }
        }
        for (name, resource) in &s.resources {
            if let Some((id, owner)) = resource.owner {
                let runs = s.tasks.get(&id).is_some_and(|t| t.state == TaskState::Running && t.owner == Some(owner));
                if !runs {
                    return self.fail(format!("I2: {name} is owned by task {id}, which does not run for {owner}"));
                }
            }
            if self.stored.get(name).is_some_and(|had| resource.token < *had) {
                return self.fail(format!("I4: the token of {name} fell to {}", resource.token));
            }
            if self.stored.get(name) != Some(&resource.token) {
                self.stored.insert(name.clone(), resource.token);
            }
        }
        for (name, line) in &s.lines {
            let Some(head) = line.first() else { continue };
            let Some(task) = s.tasks.get(head).filter(|task| task.state == TaskState::Blocked) else { continue };
            let is_first = |name: &ResourceName| {
                let is_free = s.resources.get(name).is_none_or(|resource| resource.owner.is_none());
                is_free && s.lines.get(name).and_then(|line| line.first()) == Some(head)
            };
            if task.resources.iter().all(is_first) {
                return self.fail(format!("lost wake-up: task {head} is blocked, but first in line for a free {name}"));
            }
        }
    }

    /// I3.
    pub(super) fn beat(&mut self, incarnation: Incarnation, is_live: bool, at: u64) {
        if !is_live || self.dead.contains(&incarnation) {
            self.fail(format!("I3: a beat of {incarnation} was accepted after its end"));
        }
        self.beats.insert(incarnation, at);
    }

    /// It ended. An operator's fence may be lost by a failover with the engine none the wiser.
    pub(super) fn fenced(&mut self, incarnation: Incarnation, proof: Proof) {
        self.ended();
        if proof != Proof::Operator {
            self.dead.insert(incarnation);
        }
    }

    /// A life is over.
    pub(super) fn ended(&mut self) {
        self.ended_at.push(now());
    }

    /// I2, I3 and I4 for a claim.
    pub(super) fn claimed(&mut self, got: &Claimed, epoch: Epoch, was_live: bool) {
        if !was_live {
            self.fail(format!("I3: an incarnation that was not live claimed task {}", got.held.task));
        }
        let lines: Vec<Line> = match got.resources.as_slice() {
            [] => vec![Line::Task(got.held.task)],
            names => names.iter().cloned().map(Line::Resource).collect(),
        };
        for line in lines {
            if self.given.get(&line).is_some_and(|had| got.held.token <= *had) {
                self.fail(format!(
                    "I4: {line:?} was given token {} again, in epoch {}",
                    got.held.token,
                    epoch.as_i64()
                ));
            }
            self.given.insert(line, got.held.token);
        }
    }

    /// I1.
    pub(super) fn finished(&mut self, end: &Finish, outcome: FinishOutcome, was_current: bool) {
        match (outcome, was_current) {
            (FinishOutcome::Written, false) => {
                self.fail(format!("I1: a result of task {} was accepted from token {}", end.held.task, end.held.token));
            }
            (FinishOutcome::Refused, true) => {
                self.fail(format!("I1: the owner's result of task {} was refused", end.held.task));
            }
            (FinishOutcome::Written, true) => drop(self.written.insert((end.held.task, end.held.nonce))),
            (FinishOutcome::Refused, false) => {}
        }
    }

    /// Whether the end of this claim was written.
    pub(super) fn has_written(&self, held: &Held) -> bool {
        self.written.contains(&(held.task, held.nonce))
    }

    /// An engine called its own result refused.
    pub(super) fn says_refused(&mut self, task: i64, nonce: i64) {
        if self.written.contains(&(TaskId::new(task), Nonce::new(nonce))) {
            self.fail(format!("account: the result of task {task} was written, but its engine calls it refused"));
        }
    }

    /// A takeover raises the token of what it takes.
    pub(super) fn taken_over(&mut self, s: &State, before: &[(TaskId, Token, Vec<ResourceName>)]) {
        for (id, token, resources) in before {
            let still = s.tasks.get(id).is_some_and(|task| task.state == TaskState::Running && task.token == *token);
            let raised = match resources.first().and_then(|name| s.resources.get(name)) {
                Some(resource) => resource.token > *token,
                None => s.tasks.get(id).is_none_or(|task| task.token > *token),
            };
            if !still && !raised {
                self.fail(format!("I4: the takeover of task {id} kept its token {token}"));
            }
        }
    }

    /// A closed engine owns nothing.
    pub(super) fn closed(&mut self, s: &State, incarnation: Incarnation) {
        if let Some((id, _)) = s.tasks.iter().find(|(_, task)| task.owner == Some(incarnation)) {
            self.fail(format!("I6: {incarnation} was closed while it owned task {id}"));
        }
    }

    /// An attempt starts: under a lease that holds in true time, and under a number of its own.
    pub(super) fn starts(&mut self, attempt: &Attempt, at: u64, sent_at: Option<u64>, timing: &Timing) {
        let limit = timing.lease().as_nanos() as u64 * 102 / 100 + 5 * MS;
        if sent_at.is_none_or(|sent| at > sent + limit) {
            self.fail(format!("I5: task {} starts after its engine's lease", attempt.task));
        }
        if !self.started.insert((attempt.task, attempt.attempt)) && !self.has_failed_over {
            self.fail(format!("I6: two attempts of task {} have the number {}", attempt.task, attempt.attempt));
        }
    }

    /// An older state came back: what it forgot is not held against it.
    pub(super) fn failed_over(&mut self, s: &State) {
        self.has_failed_over = true;
        self.written.clear();
        self.asked.clear();
        self.stored = s.resources.iter().map(|(name, resource)| (name.clone(), resource.token)).collect();
    }
}

impl World {
    /// I7, the brake, and that an outage for all fences nobody.
    pub(super) fn judge_fence(&mut self, fence: &Fence, live: &[Incarnation]) {
        let dead = fence.incarnation;
        let last = |id: &Incarnation| self.check.beats.get(id).copied();
        let mut bad = None;
        for unit in self.units.iter().filter(|unit| unit.is_running) {
            let Some(shared) = &unit.shared else { continue };
            let life = shared.life();
            if life.incarnation != Some(dead) {
                continue;
            }
            let host_now = crate::clock::lease_time(|id| super::clocks::HostClock::read(self, unit.host, id));
            if life.lease.phase(host_now) == LeasePhase::Valid {
                bad = Some(format!("I7: {} is fenced while its lease holds", unit.name));
            }
        }
        let takeover = super::plan::takeover_ns();
        // Whoever had no contact himself counts anew, so a long outage gives everybody T.
        if self.outage_ended_at.is_some_and(|at| now() - at < takeover * 97 / 100)
            && self.outage_lasted > takeover
            && last(&dead).is_some_and(|at| at + takeover > self.outage_began_at)
        {
            bad = Some(format!("I7: {dead} is fenced for an outage of the database"));
        }
        if self.is_fenced_for_outage(fence) {
            bad = Some(format!("I7: {dead} was well, and is fenced by a peer for an outage of the database"));
        }
        let age = last(&dead).map(|at| now() - at);
        let quiet = live.iter().filter(|id| last(id).is_some_and(|at| now() - at > takeover)).count() + 1;
        // A newcomer that watched its own namesake for T does not wait for others.
        let store = self.store();
        let by_namesake = store.edit(|s| s.engines.get(&dead).is_some_and(|e| e.said.name.as_str() == fence.by));
        // Who ended a moment ago was alive when the observer counted: what then was half is more than that now.
        let gone = self.check.ended_at.iter().filter(|at| now() - **at < COUNT_AGE).count();
        let counts_lag = self.plan.steps_db_clock || self.plan.lag || self.plan.stale_sweeps;
        if !counts_lag
            && !by_namesake
            && quiet >= 3
            && quiet * 2 > live.len() + 1 + gone
            && age.is_some_and(|age| age < takeover * 2)
            && self.check.beats.len() > 3
        {
            bad = Some(format!("brake: {quiet} of {} engines are quiet, and one is fenced at once", live.len() + 1));
        }
        if let Some(bad) = bad {
            self.check.fail(bad);
        }
    }

    /// Nobody is fenced by a peer for an outage of the database, however long it was: who was well comes back
    /// before a peer has seen its former life stand still for T. Who was cut off, frozen, or short of calls that
    /// were lost or slow for other reasons is not asked; nor is anybody after a failover, which may bring back
    /// a life that its engine has long left.
    fn is_fenced_for_outage(&self, fence: &Fence) -> bool {
        let began = self.outage_began_at;
        let dead = fence.incarnation;
        let beat = self.check.beats.get(&dead).copied();
        // It beat until the outage, give or take a heartbeat and its timeout.
        let was_live = beat.is_some_and(|at| at <= began && at + 1_500 * MS > began);
        if self.outage_ended_at.is_none() || !was_live || self.check.has_failed_over {
            return false;
        }
        if self.plan.loss > 0 || self.plan.slow > 0 {
            return false;
        }
        self.units.iter().enumerate().any(|(u, unit)| {
            if !unit.is_running || unit.stuck_since.is_some() || self.is_still(u) {
                return false;
            }
            let Some(shared) = &unit.shared else { return false };
            let is_it = shared.life().incarnation == Some(dead) || *shared.former.lock() == Some(dead);
            let troubles = [unit.disturbed_at, self.hosts[unit.host].woke_at, unit.unlinked_at, Some(unit.started_at)];
            let since = troubles.into_iter().flatten().max().unwrap_or(0);
            let is_ending = shared.stop.ending() != crate::engine::stop::Ending::No;
            is_it && !is_ending && unit.name.as_str() != fence.by && since + 3 * S < began
        })
    }

    /// I5: what is said to be over has no process left.
    pub(super) fn check_clean(&mut self, dead: Incarnation, why: &str) {
        let left = self.processes.iter().find(|p| {
            let asleep = self.hosts[self.units[p.unit].host].suspended_at.is_some();
            p.is_alive && p.incarnation == Some(dead) && !p.continues && !p.is_uncovered && !asleep
        });
        if let Some(left) = left {
            let what = format!("I5: {why}, but task {} of {dead} still runs", left.held.task);
            self.check.fail(what);
        }
    }

    /// The lease counts from the sending of the last accepted beat, in true time: past it nothing is claimed, and
    /// the life is over a moment later.
    pub(super) fn check_lease(&mut self, u: usize, step: &str) {
        let unit = &self.units[u];
        let (Some(shared), Some(sent_at)) = (&unit.shared, unit.beat_sent_at) else { return };
        let age = now() - sent_at;
        let limit = shared.options.timing.lease().as_nanos() as u64 * 102 / 100 + 60 * MS;
        let was_still = [unit.disturbed_at, self.hosts[unit.host].woke_at].into_iter().flatten().max();
        if age <= limit || was_still.is_some_and(|at| now() - at < 100 * MS) {
            return;
        }
        if shared.life().phase == Phase::Live {
            let what = format!("lease: {} sends a {step} {} ms after its last accepted beat", unit.name, age / MS);
            self.check.fail(what);
        }
    }

    /// A beat is only sent while the loops turn.
    pub(super) fn check_loops(&mut self, u: usize) {
        let unit = &self.units[u];
        let limit = super::plan::standing_ns();
        if let Some(since) = unit.stuck_since.filter(|since| now() - since > limit) {
            let what = format!("{} beats although a loop has stood still for {} ms", unit.name, (now() - since) / MS);
            self.check.fail(what);
        }
    }
}
