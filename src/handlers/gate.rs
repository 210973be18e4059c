//! The gate that every spawn passes, and who is inside.
//!
//! One lock holds three things that must never disagree: whether spawning is allowed, until when, and
//! which processes are main processes of running attempts. The fork happens under it. So
//!
//! * whoever closed the gate knows that what has not started will not start, and
//! * a child of this process that is not in the set cannot be a main process whose fork merely was
//!   not registered yet: it is a straggler.
//!
//! Only the fork is under the lock, not the exec: a program on a dead network file system must not
//! keep the heartbeat from closing the gate.

use std::collections::BTreeMap;

use parking_lot::{Mutex, MutexGuard};

use crate::clock::Clock;
use crate::protocol::time::LeaseInstant;

/// How long what runs may run without another accepted beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// L after the last accepted beat was sent: no spawn any more, SIGTERM to what runs.
    pub until: LeaseInstant,
    /// L + K/4: SIGKILL.
    pub kill_at: LeaseInstant,
}

impl Lease {
    /// For programs without a lease, such as a library that runs one command.
    pub const FOREVER: Self = Self { until: LeaseInstant::from_ns(u64::MAX), kill_at: LeaseInstant::from_ns(u64::MAX) };
}

/// Why a spawn was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody closed the gate.
    Closed,
    /// The lease is over.
    LeaseOver,
}

/// Shared by the heartbeat (which renews), the spawner (which asks), and the reaper (which counts).
#[derive(Debug)]
pub struct Gate(Mutex<Inside>);

/// Whether a child ends with its engine's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dies {
    /// It is stopped at L, and the kernel kills it with the engine.
    WithEngine,
    /// Its kind says `on_lease_loss = "continue"`.
    Alone,
}

/// What the lock protects.
#[derive(Debug)]
pub struct Inside {
    is_open: bool,
    lease: Lease,
    mains: BTreeMap<i32, Dies>,
}

impl Inside {
    /// Notes a child that is not a straggler.
    pub fn admit(&mut self, pid: i32, dies: Dies) {
        self.mains.insert(pid, dies);
    }
    /// Forgets one. The caller reaps it under the same hold of the lock: a reaped number may be given
    /// to the next fork, which must not be forgotten in its place.
    pub fn forget(&mut self, pid: i32) {
        self.mains.remove(&pid);
    }
    /// Those that run on without a lease.
    pub fn continuing(&self) -> Vec<i32> {
        self.mains.iter().filter(|(_, dies)| **dies == Dies::Alone).map(|(pid, _)| *pid).collect()
    }
    /// Whether this child is known.
    pub fn knows(&self, pid: i32) -> bool {
        self.mains.contains_key(&pid)
    }
}

impl Default for Gate {
    /// Closed: no claim and no spawn before the first accepted beat.
    fn default() -> Self {
        let zero = LeaseInstant::from_ns(0);
        Self(Mutex::new(Inside { is_open: false, lease: Lease { until: zero, kill_at: zero }, mains: BTreeMap::new() }))
    }
}

impl Gate {
    /// Lets spawns in again, under a new lease.
    pub fn open(&self, lease: Lease) {
        let mut inside = self.0.lock();
        inside.is_open = true;
        inside.lease = lease;
    }

    /// No spawn after this returns. A running one is left alone; stop it through its control.
    pub fn close(&self) {
        self.0.lock().is_open = false;
    }

    /// Another beat was accepted. A closed gate stays closed.
    pub fn renew(&self, lease: Lease) {
        self.0.lock().lease = lease;
    }

    /// The lease as it stands.
    pub fn lease(&self) -> Lease {
        self.0.lock().lease
    }

    /// How many main processes there are.
    pub fn running_count(&self) -> usize {
        self.0.lock().mains.len()
    }

    /// Those that run on without a lease, to be named to the guard with "all clear". Exact only while
    /// nothing can be spawned: behind a closed gate or after the lease.
    pub fn continuing(&self) -> Vec<i32> {
        self.0.lock().continuing()
    }

    /// Names those that run on without a lease, under the lock: no list can arrive behind a newer one, which
    /// a start names under the same lock. `tell` must not block.
    pub fn tell_continuing(&self, tell: impl FnOnce(&[i32])) {
        tell(&self.0.lock().continuing());
    }

    /// The lock itself, to spare a child that this process starts by other means (a prover) from the
    /// stray sweep: fork and [`Inside::admit`] it while holding this, or the sweep may be faster.
    pub fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock()
    }

    /// The lock, if a spawn is allowed now. The caller forks while it holds the guard.
    pub fn enter(&self, clock: &dyn Clock) -> Result<MutexGuard<'_, Inside>, Refusal> {
        let inside = self.0.lock();
        if !inside.is_open {
            return Err(Refusal::Closed);
        }
        // The clock is read after the lock was got: waiting for it may have taken long.
        if clock.lease_now() >= inside.lease.until {
            return Err(Refusal::LeaseOver);
        }
        Ok(inside)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn nothing_enters_at_the_end_of_the_lease_or_after() {
        let clock = ManualClock::new();
        let gate = Gate::default();
        assert_eq!(gate.enter(&clock).err(), Some(Refusal::Closed));
        let until = clock.lease_now().after(Duration::from_secs(10));
        gate.open(Lease { until, kill_at: until });
        clock.advance(Duration::from_nanos(9_999_999_999));
        assert!(gate.enter(&clock).is_ok());
        clock.advance(Duration::from_nanos(1));
        assert_eq!(gate.enter(&clock).err(), Some(Refusal::LeaseOver));
        gate.renew(Lease::FOREVER);
        assert!(gate.enter(&clock).is_ok());
        gate.close();
        gate.renew(Lease::FOREVER);
        assert_eq!(gate.enter(&clock).err(), Some(Refusal::Closed), "a beat does not open a closed gate");
    }
}
