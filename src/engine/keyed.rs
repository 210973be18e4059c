//! How many tasks with resources are claimed ahead for handlers.
//!
//! A task that waits here for a thread keeps its resources from all other engines. So an engine claims few of them
//! ahead: as many as it has threads, and more only where they are over so soon that claiming is what takes the time.
//! Then, up to a quarter of what it claims ahead otherwise: four engines find something to do on as many resources.

use std::time::Duration;

use crate::protocol::time::LeaseInstant;

/// The part of `ahead` that is the most.
const PART: usize = 4;

/// Where as many as may be here are over within this time, claims are too small.
const QUICK: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct KeyedAhead {
    least: usize,
    most: usize,
    limit: usize,
    /// All that were claimed.
    claimed: usize,
    /// When the present limit was set, and how many were over then.
    since: (LeaseInstant, usize),
}

impl KeyedAhead {
    pub(super) fn new(threads: usize, ahead: usize, now: LeaseInstant) -> Self {
        let least = threads.max(1);
        Self { least, most: (ahead / PART).max(least), limit: least, claimed: 0, since: (now, 0) }
    }

    /// How many may be claimed now, with so many here.
    pub(super) fn room(&mut self, here: usize, now: LeaseInstant) -> usize {
        let over = self.claimed.saturating_sub(here);
        let (from, before) = self.since;
        if over - before.min(over) >= self.limit {
            let took = now.since(from);
            if took <= QUICK {
                self.limit = (self.limit * 2).min(self.most);
            } else if took > QUICK * 2 {
                self.limit = (self.limit / 2).max(self.least);
            }
            self.since = (now, over);
        }
        self.limit.saturating_sub(here)
    }

    pub(super) fn claimed(&mut self, count: usize) {
        self.claimed += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> LeaseInstant {
        LeaseInstant::from_ns(0).after(Duration::from_millis(ms))
    }

    #[test]
    fn slow_tasks_are_claimed_by_the_threads_that_run_them() {
        let mut keyed = KeyedAhead::new(4, 1_000, at(0));
        assert_eq!(keyed.room(0, at(0)), 4);
        keyed.claimed(4);
        assert_eq!(keyed.room(4, at(10)), 0, "all threads are busy");
        for round in 1..10 {
            // Four of 100 ms each.
            let room = keyed.room(0, at(round * 110));
            assert_eq!(room, 4, "round {round}");
            keyed.claimed(room);
        }
    }

    #[test]
    fn quick_tasks_are_claimed_in_larger_and_larger_batches_up_to_a_quarter() {
        let mut keyed = KeyedAhead::new(4, 1_000, at(0));
        let mut rooms = Vec::new();
        for round in 0..9 {
            let room = keyed.room(0, at(round * 5));
            keyed.claimed(room);
            rooms.push(room);
        }
        assert_eq!(rooms, [4, 8, 16, 32, 64, 128, 250, 250, 250]);
        // They have become slow: step by step back to the threads.
        let mut last = 250;
        for round in 1..9 {
            let room = keyed.room(0, at(1_000 + round * 500));
            keyed.claimed(room);
            assert!(room <= last);
            last = room;
        }
        assert_eq!(last, 4);
    }
}
