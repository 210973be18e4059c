//! How many commands this engine dares to run at once.
//!
//! As many as it has slots, as long as the host can start them. A host that has run out of descriptors,
//! processes or memory makes no task fail: what could not be started goes back as if it had never been
//! claimed. Claimed again at once it would only go round in circles, so the engine takes nothing for a while,
//! and afterwards no more at once than did run when it happened. Then it dares more again, step by step:
//! whoever used the host up may be gone. Where a step fails, the next one is dared later; where even what ran
//! before cannot be started, the pause gets longer.
//!
//! Pure but for its lock and its log; times are the caller's.

use std::time::Duration;

use parking_lot::Mutex;

use crate::protocol::time::LeaseInstant;

/// The first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// So long without a failure, then one step more is dared; after each one that failed, twice as long.
const STEP_MIN: Duration = Duration::from_secs(10);
const STEP_MAX: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Default)]
pub struct Appetite(Mutex<Option<Fasting>>);

/// What is known of a host that could not start something.
#[derive(Debug, Clone, Copy)]
struct Fasting {
    /// So many may run.
    most: usize,
    /// So many did run at the last failure.
    proven: usize,
    pause: Duration,
    step: Duration,
    /// Nothing is claimed before this.
    until: LeaseInstant,
    /// One step more from here on.
    step_at: LeaseInstant,
}

impl Appetite {
    /// A command could not be started while `running` others ran.
    pub fn starved(&self, now: LeaseInstant, running: usize, why: &str) {
        let mut state = self.0.lock();
        let last = *state;
        if let Some(fasting) = state.as_mut().filter(|fasting| now < fasting.until) {
            // Of the same claim: those that are started together fail together, while the first ones begin.
            fasting.most = fasting.most.max(running);
            fasting.proven = fasting.most;
            return;
        }
        let (pause, step) = match last {
            None => (PAUSE_MIN, STEP_MIN),
            // A step that was dared too early.
            Some(last) if running > 0 && running >= last.proven => (PAUSE_MIN, (last.step * 2).min(STEP_MAX)),
            Some(last) => ((last.pause * 2).min(PAUSE_MAX), last.step),
        };
        let until = now.after(pause);
        *state = Some(Fasting { most: running, proven: running, pause, step, until, step_at: until.after(step) });
        log::error!(
            "this host could not start a command ({why}): its task goes back unharmed; claiming commands pauses for \
             {pause:?}, then it is at most {} at once",
            running.max(1)
        );
    }

    /// How many commands may run at once now, of so many slots. None during a pause.
    pub fn room(&self, now: LeaseInstant, slots: usize) -> usize {
        let mut state = self.0.lock();
        let Some(fasting) = state.as_mut() else { return slots };
        if now < fasting.until {
            return 0;
        }
        while now >= fasting.step_at && fasting.most < slots {
            fasting.most += (fasting.most / 4).max(1);
            fasting.step_at = fasting.step_at.after(fasting.step);
        }
        if fasting.most >= slots && now >= fasting.step_at {
            log::info!("this host has started what it was asked to for a while: up to {slots} commands at once again");
            *state = None;
            return slots;
        }
        fasting.most.clamp(1, slots.max(1)).min(slots)
    }

    /// Whether it dares less than it has slots.
    pub fn is_starved(&self) -> bool {
        self.0.lock().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> LeaseInstant {
        LeaseInstant::from_ns(ms * 1_000_000)
    }

    #[test]
    fn after_a_failure_nothing_is_taken_and_then_no_more_than_did_run() {
        let appetite = Appetite::default();
        assert_eq!((appetite.room(at(0), 64), appetite.is_starved()), (64, false));
        appetite.starved(at(0), 3, "no descriptor");
        // Those that were started with it and did begin meanwhile count.
        appetite.starved(at(10), 9, "no descriptor");
        appetite.starved(at(20), 7, "no descriptor");
        assert_eq!((appetite.room(at(999), 64), appetite.is_starved()), (0, true));
        assert_eq!(appetite.room(at(1_000), 64), 9);
    }

    #[test]
    fn each_further_failure_doubles_the_pause_to_a_minute() {
        let appetite = Appetite::default();
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..8 {
            appetite.starved(at(now), 0, "no process");
            let began = now;
            while appetite.room(at(now), 4) == 0 {
                now += 1_000;
            }
            assert_eq!(appetite.room(at(now), 4), 1, "one is tried where none did run");
            pauses.push((now - began) / 1_000);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_step_that_fails_costs_a_short_pause_and_the_next_is_dared_later() {
        let appetite = Appetite::default();
        appetite.starved(at(0), 8, "no memory");
        assert_eq!(appetite.room(at(11_000), 64), 10);
        appetite.starved(at(11_000), 9, "no memory");
        assert_eq!((appetite.room(at(11_999), 64), appetite.room(at(12_000), 64)), (0, 9));
        assert_eq!((appetite.room(at(31_999), 64), appetite.room(at(32_000), 64)), (9, 11));
    }

    #[test]
    fn more_is_dared_step_by_step_until_all_is_as_before() {
        let appetite = Appetite::default();
        appetite.starved(at(0), 8, "no memory");
        let rooms: Vec<usize> = (1..=10).map(|step| appetite.room(at(1_000 + step * 10_000), 16)).collect();
        assert_eq!(rooms, [10, 12, 15, 16, 16, 16, 16, 16, 16, 16]);
        assert!(!appetite.is_starved());
        appetite.starved(at(200_000), 8, "no memory");
        assert_eq!(appetite.room(at(201_000), 16), 8, "a new trouble begins with the shortest pause");
    }

    #[test]
    fn an_engine_without_slots_takes_none() {
        let appetite = Appetite::default();
        appetite.starved(at(0), 0, "no memory");
        assert_eq!(appetite.room(at(5_000), 0), 0);
    }
}
