//! What became of this engine's attempts since it last told the database: hourly numbers for people.
//!
//! The dispatcher counts claims, the finisher ends; the finisher adds both to the database about once a
//! minute, and once more when it ends. Each engine draws its own moment, so that engines which were started
//! together do not write together. Nothing counted, nothing written. A crash loses the last minute; a flush
//! of unknown outcome is dropped, not repeated (`store/audit.rs` says why).

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::protocol::ids::KindName;
use crate::protocol::time::LeaseInstant;
use crate::store::{Claimed, Counts};

/// Counts of each kind.
pub type ByKind = BTreeMap<KindName, Counts>;

/// See the module.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<ByKind>,
    due_at: Mutex<Option<LeaseInstant>>,
}

impl Tally {
    /// Tasks that were claimed.
    pub fn claimed(&self, claimed: &[Claimed]) {
        let mut counts = self.counts.lock();
        for task in claimed {
            of(&mut counts, &task.kind).claimed(task.waited);
        }
    }

    /// What a batch of ends adds.
    pub fn add(&self, more: &ByKind) {
        let mut counts = self.counts.lock();
        for (kind, more) in more {
            of(&mut counts, kind).add(more);
        }
    }

    /// All that was counted, if it is time to write it, or `is_last`; then it counts from zero. What could
    /// not be written is given back with [`Self::add`].
    pub fn take(&self, now: LeaseInstant, is_last: bool) -> Option<ByKind> {
        let mut due_at = self.due_at.lock();
        let mut counts = self.counts.lock();
        if counts.is_empty() {
            // The minute begins with the first thing that is counted.
            *due_at = None;
            return None;
        }
        let due = *due_at.get_or_insert_with(|| now.after(Duration::from_millis(fastrand::u64(45_000..75_000))));
        if now < due && !is_last {
            return None;
        }
        *due_at = None;
        Some(std::mem::take(&mut *counts))
    }
}

/// The counts of a kind; its name is copied once a minute, not once a task.
pub fn of<'a>(counts: &'a mut ByKind, kind: &KindName) -> &'a mut Counts {
    if !counts.contains_key(kind) {
        counts.insert(kind.clone(), Counts::default());
    }
    counts.get_mut(kind).expect("it was put there just now")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::protocol::takeover::Next;
    use crate::protocol::task::AttemptResult;

    fn one_done() -> ByKind {
        let mut counts = ByKind::new();
        of(&mut counts, &KindName::new("mail").unwrap()).ended(AttemptResult::Done, &Next::Done, None);
        counts
    }

    #[test]
    fn a_count_is_due_about_a_minute_after_it_began_or_at_the_end() {
        let (clock, tally) = (ManualClock::new(), Tally::default());
        assert_eq!(tally.take(clock.lease_now(), true), None, "nothing counted, nothing written");
        tally.add(&one_done());
        assert_eq!(tally.take(clock.lease_now(), false), None);
        clock.advance(Duration::from_secs(44));
        assert_eq!(tally.take(clock.lease_now(), false), None);
        clock.advance(Duration::from_secs(32));
        assert_eq!(tally.take(clock.lease_now(), false), Some(one_done()));
        assert_eq!(tally.take(clock.lease_now(), true), None, "it was taken");
        tally.add(&one_done());
        tally.add(&one_done());
        let last = tally.take(clock.lease_now(), true).unwrap();
        assert_eq!(last.values().next().unwrap().of(AttemptResult::Done), 2);
    }
}
