//! The engine's wish to end, and the one way its loops wait.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::turns;

/// How far the end has come; it only goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Not at all.
    No,
    /// Take nothing new, let finish what runs.
    Finish,
    /// Hand back what runs, now.
    HandBack,
    /// The loops end.
    Loops,
    /// The heartbeat ends too: it is the last.
    All,
}

/// Shared by all loops.
#[derive(Debug)]
pub struct Stop {
    ending: Mutex<Ending>,
    changed: Condvar,
}

impl Default for Stop {
    fn default() -> Self {
        Self { ending: Mutex::new(Ending::No), changed: Condvar::new() }
    }
}

impl Stop {
    /// Goes at least this far.
    pub fn ask(&self, ending: Ending) {
        let mut now = self.ending.lock();
        if ending > *now {
            *now = ending;
            self.changed.notify_all();
            turns::changed();
        }
    }

    /// How far it has come.
    pub fn ending(&self) -> Ending {
        *self.ending.lock()
    }

    /// Whether ordinary loops should end.
    pub fn ends_loops(&self) -> bool {
        self.ending() >= Ending::Loops
    }

    /// Waits for `span`, or until the ending comes to `until`. True if it did.
    pub fn wait(&self, until: Ending, span: Duration) -> bool {
        if let Some(has_come) = turns::wait_until(span, || self.ending() >= until) {
            return has_come;
        }
        let mut now = self.ending.lock();
        if *now < until {
            self.changed.wait_while_for(&mut now, |ending| *ending < until, span);
        }
        *now >= until
    }
}
