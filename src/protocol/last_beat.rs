//! What an engine remembers of its last accepted beat, against what the database knows of that life: whether
//! commits were lost while nobody beat.
//!
//! A database that comes back older within a lease shows it by a counter that goes back. After a longer outage
//! the life is over, and its counter is never beaten again; so the next life, also that of another process with
//! the same state directory, compares. Restores, a cluster started from the wrong node and the recovery after a
//! crash take longer than a lease.
//!
//! Races and limits:
//! * A beat whose answer was lost makes the row larger than what is remembered, never smaller.
//! * The row of a life that ended is removed one day. `lives_forgotten_at` is the latest end or last beat of all
//!   that were removed: a missing row that was last seen after it was not removed by anybody.
//! * Many engines remember the same loss. The first of them raises the epoch. Every epoch that the lost history
//!   had when a beat was accepted came with that beat, so a larger one was raised after the loss, and answers it.
//! * What was lost after the last beat that is remembered shows in nothing.

use super::ids::{Epoch, Incarnation};
use super::time::Timestamp;

/// What came with an accepted beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastBeat {
    /// The database's random id: another one knows nothing of this life.
    pub cluster_id: String,
    /// Whose.
    pub incarnation: Incarnation,
    /// The counter; 0 for a registration.
    pub beat: i64,
    /// The epoch then.
    pub epoch: Epoch,
    /// The database's clock then.
    pub at: Timestamp,
}

/// What the database knows of that life now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLife {
    /// The database's random id.
    pub cluster_id: String,
    /// The last epoch that was raised because commits may be lost.
    pub raised_epoch: Epoch,
    /// See the migration `remember_forgotten_lives`.
    pub forgotten_at: Timestamp,
    /// Its row.
    pub row: LifeRow,
}

/// The row of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeRow {
    /// It is there with this counter.
    Beat(i64),
    /// It is there, and somebody has removed its counter by hand.
    Unclear,
    /// There is none.
    Missing,
}

impl LastBeat {
    /// Whether commits were lost since, for which no epoch has been raised.
    pub fn is_lost(&self, known: &KnownLife) -> bool {
        let is_contradicted = match known.row {
            LifeRow::Beat(beat) => beat < self.beat,
            LifeRow::Unclear => false,
            LifeRow::Missing => known.forgotten_at < self.at,
        };
        known.cluster_id == self.cluster_id && is_contradicted && known.raised_epoch <= self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> LastBeat {
        LastBeat {
            cluster_id: "here".into(),
            incarnation: Incarnation::new(7),
            beat: 50,
            epoch: Epoch::new(3),
            at: Timestamp::from_us(1_000),
        }
    }

    fn known(row: LifeRow) -> KnownLife {
        KnownLife { cluster_id: "here".into(), raised_epoch: Epoch::new(1), forgotten_at: Timestamp::from_us(999), row }
    }

    #[test]
    fn a_counter_below_the_last_accepted_one_is_a_loss() {
        let table = [(49, true), (50, false), (51, false), (0, true)];
        for (beat, is_lost) in table {
            assert_eq!(last().is_lost(&known(LifeRow::Beat(beat))), is_lost, "{beat}");
        }
        assert!(!last().is_lost(&known(LifeRow::Unclear)), "a guess is no evidence");
    }

    #[test]
    fn a_missing_row_is_a_loss_unless_rows_of_its_time_were_removed() {
        let missing = known(LifeRow::Missing);
        assert!(last().is_lost(&missing));
        assert!(!last().is_lost(&KnownLife { forgotten_at: Timestamp::from_us(1_000), ..missing }));
    }

    #[test]
    fn a_raise_that_is_newer_than_the_last_beat_answers_the_loss() {
        let went_back = known(LifeRow::Beat(1));
        assert!(last().is_lost(&KnownLife { raised_epoch: Epoch::new(3), ..went_back.clone() }));
        assert!(!last().is_lost(&KnownLife { raised_epoch: Epoch::new(4), ..went_back }));
    }

    #[test]
    fn another_database_has_lost_nothing_of_this_one() {
        assert!(!last().is_lost(&KnownLife { cluster_id: "elsewhere".into(), ..known(LifeRow::Missing) }));
    }
}
