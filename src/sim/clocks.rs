//! The clocks of hosts, which differ, and the database's. The lease clock is made of them by the real arithmetic.

use std::time::Duration;

use nix::time::ClockId;

use super::world::{self, World, now, with};
use crate::clock::{Clock, lease_time};
use crate::protocol::time::{LeaseInstant, Timestamp};
use crate::turns;

/// A host's clocks.
#[derive(Clone, Copy)]
pub(super) struct HostClock(pub(super) usize);

impl HostClock {
    /// What one of its clocks shows.
    pub(super) fn read(world: &World, host: usize, id: ClockId) -> u64 {
        let host = &world.hosts[host];
        let asleep = host.suspended + host.suspended_at.map_or(0, |at| now() - at);
        let scale = |span: u64, ppm: i64| (span as i128 * (100_000 + ppm) as i128 / 100_000) as u64;
        let awake = now() - asleep.min(now());
        match id {
            ClockId::CLOCK_MONOTONIC_RAW => host.base + scale(awake, host.ppm),
            ClockId::CLOCK_MONOTONIC => host.base / 2 + scale(awake, host.slewed_ppm),
            _ => host.base / 2 + scale(awake, host.slewed_ppm) + scale(asleep, host.slewed_ppm),
        }
    }
}

impl Clock for HostClock {
    fn lease_now(&self) -> LeaseInstant {
        with(|w| lease_time(|id| Self::read(w, self.0, id)))
    }

    fn wall_now(&self) -> Timestamp {
        Timestamp::from_us(1_790_000_000_000_000 + (now() / 1_000) as i64)
    }

    fn pause(&self, span: Duration) {
        let _ = turns::wait_until(span, || false);
    }
}

/// The database's clock.
pub(super) struct DbClock;

impl Clock for DbClock {
    fn lease_now(&self) -> LeaseInstant {
        LeaseInstant::from_ns(now())
    }

    fn wall_now(&self) -> Timestamp {
        let ahead = world::with_any(|w| w.db_ahead_us).unwrap_or(0);
        Timestamp::from_us(1_790_000_000_000_000 + (now() / 1_000) as i64 + ahead)
    }

    fn pause(&self, _: Duration) {}
}
