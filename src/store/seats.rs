//! How many connections may be open, and which of them may still be used. What opens them is next door (`pool`).

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, SystemClock};
use crate::protocol::time::LeaseInstant;

/// One of the connections that may be open at once; free again when it is dropped, with the connection that has it.
pub struct Seat(Arc<Seats>);

/// How many there are of one kind. A call that hangs keeps its seat: the server counts its session, too.
pub struct Seats {
    taken: Mutex<u32>,
    all: u32,
}

impl Seats {
    /// So many.
    pub fn new(all: u32) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::new(0), all })
    }

    /// How many there are.
    pub const fn all(&self) -> u32 {
        self.all
    }

    /// One that is free.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        let mut taken = self.taken.lock();
        (*taken < self.all).then(|| *taken += 1).map(|()| Seat(Arc::clone(self)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        *self.0.taken.lock() -= 1;
    }
}

/// An open connection, with what says whether it may still be used.
pub struct Seated<C> {
    connection: C,
    /// When it was used last.
    pub used_at: LeaseInstant,
    /// When its server was last asked whether it takes writes.
    pub looked_at: LeaseInstant,
    /// Its turn.
    pub turn: u64,
    /// How long it may be silent: the server ends it after twice that.
    pub silence: Option<Duration>,
    seat: Seat,
}

impl<C> Seated<C> {
    /// One that was opened just now.
    pub fn new(connection: C, seat: Seat, turn: u64, silence: Option<Duration>) -> Self {
        let now = SystemClock.lease_now();
        Self { connection, used_at: now, looked_at: now, turn, silence, seat }
    }

    /// For whoever keeps it as long as he lives.
    pub fn into_parts(self) -> (C, Seat) {
        (self.connection, self.seat)
    }
}

impl<C> Deref for Seated<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.connection
    }
}

impl<C> DerefMut for Seated<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.connection
    }
}

/// Which place of a list takes the writes, as far as this process knows. Shared by all that open connections, so that
/// what one of them learns holds for all.
#[derive(Default)]
pub struct Turns {
    /// Counts up when a server was found to take no writes any more: what was opened before is thrown away.
    turn: AtomicU64,
}

impl Turns {
    /// How often the place has changed.
    pub fn now(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// The server of a connection of this turn takes no writes; the first to say so counts.
    pub fn note_read_only(&self, turn: u64) {
        if self.turn.compare_exchange(turn, turn + 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            log::debug!("a server takes no writes any more: looking for the one that does");
        }
    }
}

/// How long somebody may keep a connection.
pub struct Tenure {
    turn: u64,
    turns: Option<Arc<Turns>>,
    _seat: Seat,
}

impl Tenure {
    /// Of this turn; without turns it has no end.
    pub fn new(turn: u64, turns: Option<Arc<Turns>>, seat: Seat) -> Self {
        Self { turn, turns, _seat: seat }
    }

    /// Whether another server takes the writes by now.
    pub fn is_over(&self) -> bool {
        self.turns.as_ref().is_some_and(|turns| turns.now() != self.turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_free_again_when_its_connection_is_gone() {
        let seats = Seats::new(2);
        let (one, other) = (seats.take().unwrap(), seats.take().unwrap());
        assert!(seats.take().is_none());
        let (connection, seat) = Seated::new("a connection", one, 0, None).into_parts();
        assert!(seats.take().is_none(), "who keeps {connection} keeps its seat");
        let tenure = Tenure::new(0, None, seat);
        assert!(!tenure.is_over());
        drop(tenure);
        assert!(seats.take().is_some());
        drop(other);
    }

    #[test]
    fn the_first_who_meets_a_server_that_takes_no_writes_ends_the_turn_of_all() {
        let (turns, seats) = (Arc::new(Turns::default()), Seats::new(1));
        let tenure = Tenure::new(turns.now(), Some(Arc::clone(&turns)), seats.take().unwrap());
        turns.note_read_only(0);
        assert!(tenure.is_over());
        // Late news of a server that was left already.
        turns.note_read_only(0);
        assert_eq!(turns.now(), 1);
    }
}
