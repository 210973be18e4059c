//! Whether the engine's own loops turn. A beat is only sent while all of them do: an engine that beats
//! but does no work would keep its tasks for ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::protocol::time::LeaseInstant;

/// One loop's promise to be back.
#[derive(Debug)]
pub struct Pulse {
    name: &'static str,
    due_ns: AtomicU64,
}

/// How much later than promised a loop may be: a busy host schedules late.
const SLACK: Duration = Duration::from_millis(1_500);

impl Pulse {
    /// A loop that nobody has started ([`Pulses::begin`]); it counts as turning.
    pub const fn new(name: &'static str) -> Self {
        Self { name, due_ns: AtomicU64::new(u64::MAX) }
    }

    /// The loop's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// It turns, and will again within `span` (its wait or its call's own deadline).
    pub fn turn(&self, now: LeaseInstant, span: Duration) {
        self.due_ns.store(now.after(span).after(SLACK).as_ns(), Ordering::Release);
    }

    /// It has ended on purpose.
    pub fn end(&self) {
        self.due_ns.store(u64::MAX, Ordering::Release);
    }

    /// Whether it kept its promise.
    pub fn is_turning(&self, now: LeaseInstant) -> bool {
        now.as_ns() <= self.due_ns.load(Ordering::Acquire)
    }
}

/// The loops whose standing still stops the heartbeat.
#[derive(Debug)]
pub struct Pulses {
    /// Takes work.
    pub dispatcher: Pulse,
    /// Watches peers.
    pub sweeper: Pulse,
    /// Writes results.
    pub finisher: Pulse,
    /// Watches the guard.
    pub guard: Pulse,
}

impl Default for Pulses {
    fn default() -> Self {
        Self {
            dispatcher: Pulse::new("dispatcher"),
            sweeper: Pulse::new("sweeper"),
            finisher: Pulse::new("finisher"),
            guard: Pulse::new("guard watch"),
        }
    }
}

/// How long a loop may take from its start to its first turn.
const BEGINS_WITHIN: Duration = Duration::from_secs(2);

impl Pulses {
    /// The loops are being started: from here on one that never begins stands still like any other.
    pub fn begin(&self, now: LeaseInstant) {
        for pulse in [&self.dispatcher, &self.sweeper, &self.finisher] {
            pulse.turn(now, BEGINS_WITHIN);
        }
    }

    /// The first loop that stands still.
    pub fn standing(&self, now: LeaseInstant) -> Option<&'static str> {
        [&self.dispatcher, &self.sweeper, &self.finisher, &self.guard]
            .into_iter()
            .find(|pulse| !pulse.is_turning(now))
            .map(Pulse::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_is_not_back_in_time_stands_still() {
        let pulses = Pulses::default();
        let now = LeaseInstant::from_ns(1_000_000_000);
        assert_eq!(pulses.standing(now), None);
        pulses.sweeper.turn(now, Duration::from_secs(1));
        assert_eq!(pulses.standing(now.after(Duration::from_millis(2_500))), None);
        assert_eq!(pulses.standing(now.after(Duration::from_millis(2_501))), Some("sweeper"));
        pulses.sweeper.end();
        assert_eq!(pulses.standing(now.after(Duration::from_secs(99))), None);
    }

    /// Found by the simulator (its seed of then: 95655): an engine one of whose loops never began beat on.
    #[test]
    fn a_loop_that_was_started_and_never_begins_stands_still() {
        let pulses = Pulses::default();
        let now = LeaseInstant::from_ns(1_000_000_000);
        pulses.begin(now);
        assert_eq!(pulses.standing(now.after(Duration::from_millis(3_500))), None);
        pulses.dispatcher.turn(now, Duration::from_secs(9));
        pulses.sweeper.end();
        assert_eq!(pulses.standing(now.after(Duration::from_millis(3_501))), Some("finisher"));
    }
}
