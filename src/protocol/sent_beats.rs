//! Whether somebody else beats the same row: two machines resumed from one snapshot, or one that was set back to it.
//!
//! Both are the same incarnation in every byte, so no write of one is refused for the other. But each counts the
//! beats that it has sent since it registered, and the row counts all of them: a counter larger than that has another
//! author. Then the life is over, as if it had been fenced.
//!
//! A beat whose answer was lost may have been written, or may be written yet: it counts as sent. One that was not
//! sent, or not written for certain, does not. When nothing has been lost for `SETTLED`, the row says how many were
//! written, and the count goes on from there; else a flaky network would hide another author for ever.

use std::time::Duration;

use super::time::LeaseInstant;

/// No server or network brings a beat that was lost longer ago. A frozen server may, but then no other beat was
/// accepted either, and the life is over.
const SETTLED: Duration = Duration::from_secs(600);

/// The beats of one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SentBeats {
    /// No more of them can have been written.
    most: i64,
    lost_at: Option<LeaseInstant>,
}

impl SentBeats {
    /// One is being sent.
    pub fn send(&mut self) {
        self.most += 1;
    }

    /// The last one was not written.
    pub fn take_back(&mut self) {
        self.most -= 1;
    }

    /// Nobody knows what became of the last one.
    pub fn lose(&mut self, at: LeaseInstant) {
        self.lost_at = Some(at);
    }

    /// The last one was accepted with this counter. False: somebody else beats the row too.
    pub fn is_own(&mut self, beat: i64, now: LeaseInstant) -> bool {
        let is_own = beat <= self.most;
        if self.lost_at.is_none_or(|at| now.since(at) > SETTLED) {
            (self.most, self.lost_at) = (beat, None);
        }
        is_own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(s: u64) -> LeaseInstant {
        LeaseInstant::from_ns(s * 1_000_000_000)
    }

    fn after(beats: i64) -> SentBeats {
        let mut sent = SentBeats::default();
        for beat in 1..=beats {
            sent.send();
            assert!(sent.is_own(beat, at(0)));
        }
        sent
    }

    #[test]
    fn one_beat_more_than_were_sent_has_another_author() {
        for (beat, is_own) in [(4, true), (5, false), (400, false)] {
            let mut sent = after(3);
            sent.send();
            assert_eq!(sent.is_own(beat, at(1)), is_own, "{beat}");
        }
    }

    #[test]
    fn a_beat_of_unknown_outcome_counts_as_sent() {
        let mut sent = after(3);
        sent.send();
        sent.lose(at(1));
        sent.send();
        assert!(sent.is_own(4, at(2)), "it was not written");
        sent.send();
        assert!(sent.is_own(6, at(3)), "it was written late");
        sent.send();
        assert!(!sent.is_own(8, at(4)));
    }

    #[test]
    fn a_beat_that_was_not_written_does_not() {
        let mut sent = after(3);
        sent.send();
        sent.take_back();
        sent.send();
        assert!(!sent.is_own(5, at(2)));
    }

    #[test]
    fn what_was_lost_long_ago_hides_nobody() {
        let mut sent = after(3);
        for _ in 0..50 {
            sent.send();
            sent.lose(at(1));
        }
        sent.send();
        assert!(sent.is_own(4, at(2)));
        sent.send();
        assert!(sent.is_own(5, at(602)), "what was lost is settled by now");
        sent.send();
        assert!(!sent.is_own(7, at(604)));
    }

    #[test]
    fn a_counter_that_went_back_is_another_matter() {
        let mut sent = after(9);
        sent.send();
        assert!(sent.is_own(4, at(1)));
        sent.send();
        assert!(!sent.is_own(6, at(2)));
    }
}
