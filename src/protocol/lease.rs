//! Until when an engine may believe its last accepted beat, and what must have happened by when.
//!
//! The lease is counted from *before sending* the beat that was accepted: the database may have
//! applied it at any moment after that, and a peer that saw it counts T from its own read, which came
//! later still. Counting from the response would let a slow answer stretch the lease past the peer's T.

use super::time::LeaseInstant;
use super::timing::Timing;

/// The lease of one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    timing: Timing,
    sent_at: Option<LeaseInstant>,
}

/// What the time since the last accepted beat asks for. Each step includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeasePhase {
    /// No beat was accepted yet: nothing may be claimed, nothing runs.
    None,
    /// Trusted.
    Valid,
    /// From L: no new claim, no new spawn, SIGTERM to what runs.
    Terminate,
    /// From L + K/4: SIGKILL.
    Kill,
    /// From L + K/2: all clear must have been said, or the guard kills; in-process handlers that still
    /// run make the process abort.
    Guard,
    /// From L + K: nothing may be left.
    Dead,
}

impl Lease {
    /// A lease that was not granted yet.
    pub const fn new(timing: Timing) -> Self {
        Self { timing, sent_at: None }
    }

    /// The database accepted the beat that was sent at `sent_at`. Answers that overtook each other
    /// never shorten the lease.
    pub fn accept(&mut self, sent_at: LeaseInstant) {
        self.sent_at = Some(self.sent_at.map_or(sent_at, |had| had.max(sent_at)));
    }

    /// When the last accepted beat was sent.
    pub const fn sent_at(&self) -> Option<LeaseInstant> {
        self.sent_at
    }

    /// Until when new work may start.
    pub fn until(&self) -> Option<LeaseInstant> {
        self.sent_at.map(|at| at.after(self.timing.lease()))
    }

    /// When the guard acts on its own.
    pub fn guard_at(&self) -> Option<LeaseInstant> {
        self.sent_at.map(|at| at.after(self.timing.guard_after()))
    }

    /// When SIGKILL follows the SIGTERM of a lost lease.
    pub fn kill_at(&self) -> Option<LeaseInstant> {
        self.sent_at.map(|at| at.after(self.timing.kill_after()))
    }

    /// What must be happening at `now`.
    pub fn phase(&self, now: LeaseInstant) -> LeasePhase {
        let Some(sent_at) = self.sent_at else { return LeasePhase::None };
        let t = &self.timing;
        match now.since(sent_at) {
            age if age >= t.dead_after() => LeasePhase::Dead,
            age if age >= t.guard_after() => LeasePhase::Guard,
            age if age >= t.kill_after() => LeasePhase::Kill,
            age if age >= t.lease() => LeasePhase::Terminate,
            _ => LeasePhase::Valid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::timing::Profile;
    use std::time::Duration;

    #[test]
    fn phases_begin_exactly_at_their_bounds() {
        let mut lease = Lease::new(Timing::of(Profile::Balanced));
        let t0 = LeaseInstant::from_ns(5_000_000_000);
        assert_eq!(lease.phase(t0), LeasePhase::None);
        lease.accept(t0);
        let at = |ms| lease.phase(t0.after(Duration::from_millis(ms)));
        assert_eq!(at(0), LeasePhase::Valid);
        assert_eq!(at(9_999), LeasePhase::Valid);
        assert_eq!(at(10_000), LeasePhase::Terminate);
        assert_eq!(at(10_499), LeasePhase::Terminate);
        assert_eq!(at(10_500), LeasePhase::Kill);
        assert_eq!(at(11_000), LeasePhase::Guard);
        assert_eq!(at(12_000), LeasePhase::Dead);
    }

    #[test]
    fn a_late_answer_to_an_older_beat_does_not_shorten_the_lease() {
        let mut lease = Lease::new(Timing::of(Profile::Fast));
        lease.accept(LeaseInstant::from_ns(9_000));
        lease.accept(LeaseInstant::from_ns(4_000));
        assert_eq!(lease.sent_at(), Some(LeaseInstant::from_ns(9_000)));
    }

    #[test]
    fn everything_is_dead_before_a_peer_may_fence() {
        for (_, profile) in Profile::ALL {
            let t = Timing::of(profile);
            assert!(t.dead_after() < t.takeover_after());
        }
    }
}
