//! The dispatcher: claims ready tasks and hands them to those who run them.
//!
//! It asks with one cheap statement which of its kinds have work, and claims only those. Commands are
//! claimed up to the free slots, handlers ahead in batches. It wakes when something ended, when the
//! database tells of a change, with the beat that allows claims again, and at the latest after `poll`.
//!
//! A task that two engines were lost under must run alone. This engine takes it only while it runs
//! nothing, and takes nothing beside it; one that sees such a task waiting for a few seconds (drawn by
//! lot, so that not all engines do it) stops claiming until it has emptied itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::keyed::KeyedAhead;
use super::lane::Lane;
use super::options::{Kind, Work};
use super::running::Entry;
use super::shared::Shared;
use super::worker;
use crate::protocol::ids::{Incarnation, KindName, Nonce};
use crate::protocol::takeover::ALONE_FROM;
use crate::protocol::task::Wish;
use crate::protocol::time::LeaseInstant;
use crate::random;
use crate::store::{Claim, ClaimScope, Claimed, KindWork, StoreError};

/// Handler tasks that are claimed and whose ends are not written: at most this many times `ahead`.
const UNWRITTEN_FACTOR: usize = 4;

/// Payloads that one claim may bring, in bytes, as far as the last one of the kind tells.
const BYTES_MAX: usize = 32 << 20;

/// See the module.
pub struct Dispatcher {
    shared: Arc<Shared>,
    lane: Lane,
    kinds: Vec<KindName>,
    turn: usize,
    alone_since: Option<(LeaseInstant, Duration)>,
    keyed: KeyedAhead,
    failed: bool,
    /// Bytes of payload a task, in the last claim of each kind.
    weights: BTreeMap<KindName, usize>,
}

/// How long an engine stops claiming so that it can take a task that must run alone.
const EMPTY_MAX: Duration = Duration::from_secs(60);

/// The first pause after a pass that others were faster than; doubles with each that follows.
const MISSED_PAUSE: Duration = Duration::from_millis(2);

/// What one pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pass {
    /// Tasks claimed.
    pub claimed: usize,
    /// A claim came back full: there may be more at once.
    pub more: bool,
    /// There were tasks with resources, but others held these at that moment.
    pub missed: bool,
}

impl Dispatcher {
    /// Of an engine.
    pub fn new(shared: Arc<Shared>) -> Self {
        let lane = Lane::new("claim", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
        let kinds = shared.options.kinds.keys().cloned().collect();
        let keyed = KeyedAhead::new(shared.options.slots as usize, shared.options.ahead, shared.clock.lease_now());
        Self { shared, lane, kinds, turn: 0, alone_since: None, keyed, failed: false, weights: BTreeMap::new() }
    }

    /// One pass.
    pub fn step(&mut self) -> Pass {
        let timeout = self.shared.options.statement_timeout;
        let calls = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX).saturating_mul(2).saturating_add(2);
        self.shared.pulses.dispatcher.turn(self.shared.clock.lease_now(), self.shared.options.poll + timeout);
        let Some(incarnation) = self.shared.may_claim() else { return Pass::default() };
        let (slots, ahead) = self.room();
        if slots == 0 && ahead == 0 || self.kinds.is_empty() {
            return Pass::default();
        }
        let mut pass = Pass::default();
        let work = self.probe();
        if self.must_empty(&work) {
            return self.claim_alone(incarnation, &work);
        }
        for found in self.in_turn(work).into_iter().take(calls as usize) {
            self.shared.pulses.dispatcher.turn(self.shared.clock.lease_now(), self.shared.options.poll + timeout * 2);
            pass = self.claim_kind(incarnation, &found, pass);
        }
        if pass.claimed > 0 {
            self.shared.passes_with_work.fetch_add(1, Ordering::Relaxed);
        }
        pass
    }

    /// Free slots for commands, and room for handler tasks.
    fn room(&self) -> (usize, usize) {
        let running = &self.shared.running;
        if running.has_alone() {
            return (0, 0);
        }
        // Fewer than there are slots where the host could not start as many.
        let slots = self.shared.appetite.room(self.shared.clock.lease_now(), self.shared.options.slots as usize);
        let slots = slots.saturating_sub(running.count(|entry| entry.takes_slot));
        let most = self.shared.options.ahead;
        // Handlers may be faster than the database takes their ends in: those wait in memory, so they count.
        let unwritten = (most * UNWRITTEN_FACTOR).saturating_sub(running.unwritten());
        let ahead = most.saturating_sub(self.shared.jobs.1.len()).min(unwritten);
        // A claim of a few tasks costs as much as one of many.
        let ahead = if ahead * 2 < most { 0 } else { ahead };
        (slots, ahead)
    }

    fn probe(&mut self) -> Vec<KindWork> {
        let (kinds, host) = (self.kinds.clone(), self.shared.host.clone());
        let timeout = self.shared.options.statement_timeout;
        match self.lane.call("probe", timeout, move |store| store.probe(&kinds, &host)) {
            Ok(work) => {
                self.failed = false;
                work
            }
            Err(error) => {
                self.complain("look for work", &error);
                Vec::new()
            }
        }
    }

    /// Kinds take turns in going first, so that a long queue of one does not starve the others.
    fn in_turn(&mut self, mut work: Vec<KindWork>) -> Vec<KindWork> {
        if !work.is_empty() {
            self.turn = (self.turn + 1) % work.len();
            work.rotate_left(self.turn);
        }
        work
    }

    fn claim_kind(&mut self, incarnation: Incarnation, found: &KindWork, mut pass: Pass) -> Pass {
        let Some(kind) = self.shared.options.kinds.get(&found.kind).cloned() else { return pass };
        for (there, scope) in [(found.plain, ClaimScope::Plain), (found.keyed, ClaimScope::Keyed)] {
            let (slots, ahead) = self.room();
            let limit = match (kind.is_handler(), scope) {
                (true, ClaimScope::Keyed) => ahead.min(self.keyed_room()),
                (true, _) => ahead,
                (false, _) => slots,
            };
            if !there || limit == 0 {
                continue;
            }
            let got = self.claim(incarnation, &found.kind, &kind, scope, limit);
            pass.claimed += got;
            if kind.is_handler() && scope == ClaimScope::Keyed {
                self.keyed.claimed(got);
            }
            pass.missed |= got == 0 && scope == ClaimScope::Keyed;
            pass.more |= got == limit || (got > 0 && scope == ClaimScope::Keyed);
        }
        pass
    }

    /// Handler tasks with resources that may be claimed now.
    fn keyed_room(&mut self) -> usize {
        let here = self.shared.running.count(|entry| !entry.takes_slot && !entry.task.resources.is_empty());
        self.keyed.room(here, self.shared.clock.lease_now())
    }

    fn must_empty(&mut self, work: &[KindWork]) -> bool {
        if !work.iter().any(|found| found.alone) {
            self.alone_since = None;
            return false;
        }
        if self.shared.running.is_idle() {
            return true;
        }
        let now = self.shared.clock.lease_now();
        let (since, patience) =
            *self.alone_since.get_or_insert_with(|| (now, Duration::from_millis(fastrand::u64(1_000..5_000))));
        if now.since(since) >= patience + EMPTY_MAX {
            // Long tasks run here: another engine may be empty sooner. Claim again, and try later.
            let later = Duration::from_secs(fastrand::u64(60..300));
            self.alone_since = Some((now, later));
        }
        let (since, patience) = self.alone_since.unwrap_or((since, patience));
        now.since(since) >= patience
    }

    fn claim_alone(&mut self, incarnation: Incarnation, work: &[KindWork]) -> Pass {
        if !self.shared.running.is_idle() {
            return Pass::default();
        }
        for found in work.iter().filter(|found| found.alone) {
            let timeout = self.shared.options.statement_timeout;
            self.shared.pulses.dispatcher.turn(self.shared.clock.lease_now(), timeout * 2);
            let Some(kind) = self.shared.options.kinds.get(&found.kind).cloned() else { continue };
            let got = self.claim(incarnation, &found.kind, &kind, ClaimScope::Alone, 1);
            if got > 0 {
                self.alone_since = None;
                return Pass { claimed: got, ..Pass::default() };
            }
        }
        Pass::default()
    }

    fn claim(
        &mut self,
        incarnation: Incarnation,
        name: &KindName,
        kind: &Kind,
        scope: ClaimScope,
        limit: usize,
    ) -> usize {
        let nonce = Nonce::new(random::positive());
        let weight = self.weights.get(name).copied().unwrap_or(0).max(1);
        let limit = limit.min(BYTES_MAX / weight).max(1);
        let claim = Claim {
            incarnation,
            host: self.shared.host.clone(),
            kind: name.clone(),
            policy: kind.policy,
            scope,
            limit,
            nonce,
        };
        self.shared.running.expect(nonce);
        let timeout = self.shared.options.statement_timeout;
        match self.lane.call("claim", timeout, move |store| store.claim(&claim)) {
            Ok(claimed) => {
                if !claimed.is_empty() {
                    let bytes: usize = claimed.iter().map(|task| task.payload.len()).sum();
                    self.weights.insert(name.clone(), bytes / claimed.len());
                }
                self.take(incarnation, nonce, kind, claimed)
            }
            Err(error) => {
                // Whatever it got is found by its nonce, which nobody here knows any more, and handed back.
                self.shared.running.settle(nonce, Vec::new());
                self.shared.reconcile.store(true, Ordering::Release);
                self.complain("claim", &error);
                0
            }
        }
    }

    fn take(&self, incarnation: Incarnation, nonce: Nonce, kind: &Kind, claimed: Vec<Claimed>) -> usize {
        let count = claimed.len();
        let entries: Vec<Entry> = claimed
            .into_iter()
            .map(|task| Entry {
                incarnation,
                control: None,
                began_at: None,
                wish: Wish::None,
                on_lease_loss: kind.policy.on_lease_loss,
                takes_slot: !kind.is_handler(),
                is_alone: task.lost >= ALONE_FROM,
                task: Arc::new(task),
            })
            .collect();
        let held: Vec<_> = entries.iter().map(|entry| entry.task.held).collect();
        if !self.shared.running.settle(nonce, entries) && count > 0 {
            log::warn!("{count} claims are given up: the epoch was raised while they were under way");
            self.shared.reconcile.store(true, Ordering::Release);
            return 0;
        }
        for held in held {
            match &kind.work {
                Work::Command(spec) => worker::start_command(&self.shared, held, Arc::clone(spec)),
                // The queue is unbounded; the room was counted before the claim.
                Work::Handler(_) => drop(self.shared.jobs.0.send(held)),
            }
        }
        count
    }

    fn complain(&mut self, what: &str, error: &StoreError) {
        if std::mem::replace(&mut self.failed, true) {
            log::debug!("could not {what}: {}", error.chain());
        } else {
            log::warn!("could not {what}: {}", error.chain());
        }
    }
}

/// The loop of the dispatcher.
pub fn dispatch_loop(shared: &Arc<Shared>) {
    let mut dispatcher = Dispatcher::new(Arc::clone(shared));
    let wake = shared.wake.1.clone();
    let mut again = MISSED_PAUSE;
    while !shared.stop.ends_loops() {
        let pass = dispatcher.step();
        if pass.more {
            again = MISSED_PAUSE;
            continue;
        }
        // Others hold resources for milliseconds, and nobody tells when they let go.
        let pause = if pass.missed { again } else { shared.options.poll };
        again = if pass.missed { (again * 2).min(shared.options.poll) } else { MISSED_PAUSE };
        let _ = crate::turns::receive(&wake, pause);
    }
    shared.pulses.dispatcher.end();
}
