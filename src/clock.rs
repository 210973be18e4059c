//! The only place that reads a clock.
//!
//! Lease arithmetic needs a clock that counts suspend and that nobody can step or slew: on Linux that
//! is `CLOCK_MONOTONIC_RAW + (CLOCK_BOOTTIME - CLOCK_MONOTONIC)`. The raw clock is not slewed by NTP,
//! and the difference of the other two (both slewed alike) is the time spent in suspend. Rust's
//! `Instant` stops in suspend, so it is refused by a lint everywhere else.
//!
//! The host's wall clock is read here too, only to be shown to people and written to logs. It decides
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;

use crate::planted::{Bug, planted};
use crate::protocol::time::{LeaseInstant, Timestamp};

/// Source of time for everything that is not pure.
pub trait Clock: Send + Sync {
    /// Lease time: counts suspend, is not slewed, starts anywhere.
    fn lease_now(&self) -> LeaseInstant;
    /// The host's wall clock, for people.
    fn wall_now(&self) -> Timestamp;
    /// Waits for `span` of real time. Only for loops that have nothing better to wait on.
    fn pause(&self, span: Duration);
}

/// The clocks of this host.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

/// The two reads of `CLOCK_MONOTONIC` around `CLOCK_BOOTTIME` may lie at most this far apart (1 ms);
/// a wider bracket means that the thread was descheduled in between, and the offset would be wrong.
const BRACKET_MAX_NS: u64 = 1_000_000;

fn read_ns(id: ClockId) -> u64 {
    let t = clock_gettime(id).expect("these clocks exist on every Linux since 2.6.39");
    (t.tv_sec() as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec() as u64)
}

fn suspended_ns(read_ns: impl Fn(ClockId) -> u64) -> u64 {
    if planted(Bug::MonotonicClock) {
        return 0;
    }
    let mut best = (u64::MAX, 0);
    for _ in 0..16 {
        let before = read_ns(ClockId::CLOCK_MONOTONIC);
        let boot = read_ns(ClockId::CLOCK_BOOTTIME);
        let after = read_ns(ClockId::CLOCK_MONOTONIC);
        let width = after.saturating_sub(before);
        // The smaller `before` is taken: an offset that is too large by the width makes leases end
        // earlier, never later.
        if width < best.0 {
            best = (width, boot.saturating_sub(before));
        }
        if width <= BRACKET_MAX_NS {
            break;
        }
    }
    best.1
}

/// The lease clock, made of a host's clocks. The simulator gives its own hosts' here.
pub fn lease_time(read_ns: impl Fn(ClockId) -> u64) -> LeaseInstant {
    let offset = suspended_ns(&read_ns);
    LeaseInstant::from_ns(read_ns(ClockId::CLOCK_MONOTONIC_RAW).saturating_add(offset))
}

impl Clock for SystemClock {
    fn lease_now(&self) -> LeaseInstant {
        lease_time(read_ns)
    }

    fn wall_now(&self) -> Timestamp {
        Timestamp::from_us(chrono::Utc::now().timestamp_micros())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one sleep that the lint points to")]
    fn pause(&self, span: Duration) {
        std::thread::sleep(span);
    }
}

/// A clock that stands still until a test turns it.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<Mutex<(u64, i64)>>);

impl ManualClock {
    /// A clock at lease time 1,000 s and a fixed wall time.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new((1_000_000_000_000, 1_790_000_000_000_000))))
    }

    /// Turns both clocks on.
    pub fn advance(&self, span: Duration) {
        let mut now = self.0.lock();
        now.0 += u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        now.1 += i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    }

    /// Steps only the wall clock, as an operator or NTP may.
    pub fn step_wall_us(&self, by: i64) {
        self.0.lock().1 += by;
    }
}

impl Clock for ManualClock {
    fn lease_now(&self) -> LeaseInstant {
        LeaseInstant::from_ns(self.0.lock().0)
    }

    fn wall_now(&self) -> Timestamp {
        Timestamp::from_us(self.0.lock().1)
    }

    fn pause(&self, span: Duration) {
        self.advance(span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_clock_goes_forward() {
        let clock = SystemClock;
        let a = clock.lease_now();
        let b = clock.lease_now();
        // The bracket may move the offset by up to its width between two reads.
        assert!(b.since(a) < Duration::from_secs(5));
        assert!(a.since(b) <= Duration::from_millis(1));
    }

    #[test]
    fn a_step_of_the_wall_clock_leaves_lease_time_alone() {
        let clock = ManualClock::new();
        let before = clock.lease_now();
        clock.step_wall_us(-3_600_000_000);
        assert_eq!(clock.lease_now(), before);
    }
}
