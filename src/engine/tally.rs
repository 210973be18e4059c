//! What became of this engine's attempts since it last told the database: hourly numbers for people.
//!
//! The finisher counts ends, and adds them to the database about once a minute, and once more when it ends. Each
//! engine draws its own moment, so that engines which were started together do not write together. Nothing counted,
//! nothing written. What a crash takes along is counted from the ends by whoever closes the engine's row
//! (`store/queries/uncounted.rs`), so counts are kept apart by life; a flush of unknown outcome is dropped, not
//! repeated (`store/audit.rs` says why).

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::protocol::ids::{Incarnation, KindName};
use crate::protocol::time::LeaseInstant;
use crate::store::Counts;

/// Counts of each kind.
pub type ByKind = BTreeMap<KindName, Counts>;

/// Of each life of this engine.
pub type ByLife = BTreeMap<Incarnation, ByKind>;

/// See the module.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<ByLife>,
    due_at: Mutex<Option<LeaseInstant>>,
}

impl Tally {
    /// What a batch of ends of this life adds.
    pub fn add(&self, life: Incarnation, more: &ByKind) {
        let mut lives = self.counts.lock();
        let counts = lives.entry(life).or_default();
        for (kind, more) in more {
            of(counts, kind).add(more);
        }
    }

    /// All that was counted, if it is time to write it, or `is_last`; then it counts from zero. What could
    /// not be written is given back with [`Self::add`].
    pub fn take(&self, now: LeaseInstant, is_last: bool) -> Option<ByLife> {
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

    const LIFE: Incarnation = Incarnation::new(7);

    fn one_done() -> ByKind {
        let mut counts = ByKind::new();
        of(&mut counts, &KindName::new("mail").unwrap()).ended(AttemptResult::Done, &Next::Done, None);
        counts
    }

    #[test]
    fn a_count_is_due_about_a_minute_after_it_began_or_at_the_end() {
        let (clock, tally) = (ManualClock::new(), Tally::default());
        assert_eq!(tally.take(clock.lease_now(), true), None, "nothing counted, nothing written");
        tally.add(LIFE, &one_done());
        assert_eq!(tally.take(clock.lease_now(), false), None);
        clock.advance(Duration::from_secs(44));
        assert_eq!(tally.take(clock.lease_now(), false), None);
        clock.advance(Duration::from_secs(32));
        assert_eq!(tally.take(clock.lease_now(), false), Some(ByLife::from([(LIFE, one_done())])));
        assert_eq!(tally.take(clock.lease_now(), true), None, "it was taken");
        tally.add(LIFE, &one_done());
        tally.add(LIFE, &one_done());
        let last = tally.take(clock.lease_now(), true).unwrap();
        assert_eq!(last[&LIFE].values().next().unwrap().of(AttemptResult::Done), 2);
    }
}
