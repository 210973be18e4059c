//! The epoch: whether the database may have lost commits, and raising it where it may.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Heartbeat, LifeError};
use crate::engine::lane::Lane;
use crate::engine::over;
use crate::planted::{Bug, planted};
use crate::protocol::ids::Epoch;
use crate::store::{BeatAnswer, Meta};

const WENT_BACK: &str = "a heartbeat counter went back";

/// The thread that raises an epoch makes one call.
const RAISE_STACK: usize = 256 << 10;

impl Heartbeat {
    /// Why the database may have lost commits, if it may.
    pub(super) fn doubt(&self, answer: &BeatAnswer, went_back: bool) -> Option<&'static str> {
        self.doubt_of(&answer.meta).or_else(|| {
            if went_back {
                self.shared.doubt_beats(&answer.meta);
            }
            // The next counters go forward again; the doubt stays.
            let doubted = *self.shared.doubted.lock();
            doubted.filter(|epoch| answer.meta.raised_epoch <= *epoch).map(|_| WENT_BACK)
        })
    }

    /// The same, from what this engine remembers alone.
    fn doubt_of(&self, meta: &Meta) -> Option<&'static str> {
        let known = self.shared.known_epoch.lock();
        if !meta.identity_matches {
            Some("the database's identity changed")
        } else if meta.epoch < known.epoch {
            Some("the epoch went back")
        } else if known.is_twin(meta) && !planted(Bug::EpochTwin) {
            Some("the epoch is another one of the same number")
        } else {
            None
        }
    }

    /// What this engine remembers lies so far above the database that either is wrong, and only a person can tell
    /// which: a number from a damaged file would use up the range for good.
    pub(super) fn must_be_believed(&self, meta: &Meta) -> Result<(), LifeError> {
        let remembered = self.shared.known_epoch.lock().epoch;
        if meta.epoch.believes(remembered) {
            return Ok(());
        }
        let dir = self.shared.options.state_dir.clone().unwrap_or_default();
        Err(LifeError::EpochTooFar { remembered, database: meta.epoch, file: dir.join("epoch") })
    }

    /// An engine whose name is taken remembers no less than others: it may be the only one left that has seen the
    /// tokens of a database that was lost. A raise needs no life.
    pub(super) fn raise_from_memory(&mut self) {
        let last = self.shared.last_beat.lock().clone();
        let remembers = self.shared.known_epoch.lock().epoch.as_i64() > 0 || last.is_some();
        if !remembers || planted(Bug::MemoryUnheard) {
            return;
        }
        let timeout = self.shared.options.timing.query_timeout();
        // Whatever keeps it from being read is met again, and said, by the next registration.
        let Ok(meta) = self.lane.call("read meta", timeout, |store| store.meta()) else { return };
        let is_lost =
            last.map(|last| self.lane.call("look for lost beats", timeout, move |store| store.is_lost(&last)));
        let went_back = matches!(is_lost, Some(Ok(true))).then_some(WENT_BACK);
        if let Some(reason) = self.doubt_of(&meta).or(went_back) {
            self.raise(&meta, reason);
        }
    }

    /// Raises the epoch if the database may have lost commits, and has what is held checked after a raise.
    pub(super) fn check_epoch(&self, answer: &BeatAnswer, doubt: Option<&'static str>) {
        let meta = &answer.meta;
        if let (Err(error), Some(incarnation)) = (self.must_be_believed(meta), self.shared.life().incarnation) {
            // The next registration ends the engine with the same words.
            log::error!("{error}: stopping everything");
            over::end_life(&self.shared, incarnation, over::Why::Fenced);
            return;
        }
        let Some(reason) = doubt else {
            let known = self.shared.known_epoch.lock().epoch;
            if meta.epoch > known && known.as_i64() > 0 {
                self.shared.reconcile.store(true, Ordering::Release);
            }
            self.shared.remember_epoch(meta);
            return;
        };
        self.shared.reconcile.store(true, Ordering::Release);
        self.raise(meta, reason);
    }

    fn raise(&self, meta: &Meta, reason: &'static str) {
        if self.must_be_believed(meta).is_err() {
            return;
        }
        if meta.epoch.as_i64() >= Epoch::MAX {
            log::error!("{reason}, and the last epoch is reached: nothing can be claimed from this database any more");
            return;
        }
        if self.shared.raising.swap(true, Ordering::AcqRel) {
            // One raise at a time; the next beat tells whether it is still needed.
            return;
        }
        log::error!("{reason}: commits may be lost, raising the epoch");
        let (shared, from) = (Arc::clone(&self.shared), meta.epoch);
        let known = shared.known_epoch.lock().epoch;
        let at_least = Epoch::new(known.as_i64().max(from.as_i64()) + 1);
        // Not on the beat's own lane: a raise that hangs must not cost a heartbeat.
        let spawned = crate::turns::spawn("raise-epoch", RAISE_STACK, move || {
            // In a lane: a call that hangs is given up, and a later beat asks again.
            let mut lane = Lane::new("raise", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
            let timeout = shared.options.statement_timeout;
            match lane.call("raise the epoch", timeout, move |store| store.raise_epoch(from, at_least, reason)) {
                Ok(true) => log::warn!("the epoch is now {}", at_least.as_i64()),
                Ok(false) => log::info!("another engine was faster in raising the epoch"),
                Err(error) => log::error!("could not raise the epoch: {}", error.chain()),
            }
            shared.raising.store(false, Ordering::Release);
        });
        if let Err(error) = spawned {
            self.shared.raising.store(false, Ordering::Release);
            log::error!("could not raise the epoch: {error}");
        }
    }
}
