//! A database whose clock was set back: delayed and retried tasks come so much later, and nothing else shows it. So
//! the engine says it, and writes it down for `status` and `doctor`.
//!
//! Nothing is decided by it. A clock that is set forward makes tasks come early, and is set back one day.

use std::sync::Arc;
use std::time::Duration;

use super::Heartbeat;
use crate::engine::lane::Lane;
use crate::protocol::time::{LeaseInstant, Timestamp};
use crate::store::Meta;

/// Less is a clock that is set right.
const SET_BACK_MIN: Duration = Duration::from_secs(60);

/// The thread that writes it down makes one call.
const STACK: usize = 256 << 10;

impl Heartbeat {
    /// Compares the database's clock with this host's lease clock, from one accepted beat to the next.
    pub(super) fn watch_db_clock(&mut self, sent_at: LeaseInstant, meta: &Meta) {
        let answered_at = self.shared.clock.lease_now();
        let before = self.db_clock.replace((meta.now, answered_at));
        // Between the two answers at least this much went by.
        let Some(expected) = before.map(|(now, at)| now.after(sent_at.since(at))) else { return };
        let behind = expected.since(meta.now);
        if behind > SET_BACK_MIN {
            log::warn!(
                "the database's clock was set back by {} s: delayed and retried tasks come so much later",
                behind.as_secs()
            );
            self.note_db_clock(expected);
        }
    }

    fn note_db_clock(&self, seen: Timestamp) {
        let shared = Arc::clone(&self.shared);
        // Not on the beat's own lane, and in one that can be given up.
        let spawned = crate::turns::spawn("note-clock", STACK, move || {
            let mut lane = Lane::new("clock", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
            let timeout = shared.options.statement_timeout;
            if let Err(error) = lane.call("note the clock", timeout, move |store| store.note_clock(seen)) {
                log::warn!("could not write down that the database's clock was set back: {}", error.chain());
            }
        });
        if let Err(error) = spawned {
            log::warn!("could not write down that the database's clock was set back: {error}");
        }
    }
}
