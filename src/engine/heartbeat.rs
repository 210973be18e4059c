//! The heartbeat: registers, beats, and takes in what each accepted beat brings back.
//!
//! It has its own thread, its own lane and its own database connection, and it is the last loop to end.
//! One pass of [`Heartbeat::step`] either registers or sends one beat, and says when the next is due.
//!
//! Races and failures:
//! * The lease counts from *before sending*. Beats are timed from sending to sending; a failed one is
//!   sent again h/2, h/4, then h/8 after its own sending.
//! * The answer comes after the lease watch has ended the life: it is ignored; the incarnation is over.
//! * Zero rows: fenced. Everything is stopped at once, then a new incarnation registers.
//! * A registration of unknown outcome: the next one meets its own namesake, recognised by boot and state
//!   directory, and ends it.
//! * Somebody else beats the same row, a resumed copy of this machine: the same, and the copies get different
//!   state ids, so that neither takes the other for its own former life. What the former life owned is left to the
//!   sweeps until the other one has acknowledged its end, or for L + K, because its processes may still run.
//! * The database came back older (identity, epoch or own beat went backwards): the epoch is raised, and
//!   what this engine holds is checked against the database before anything else is claimed.

mod beat;
mod db_clock;
mod epoch;
mod register;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::register::NamesakeWatch;

use super::lane::Lane;
use super::shared::{Phase, Shared};
use super::stop::Ending;
use crate::protocol::engine::{Proof, Wanted};
use crate::protocol::ids::{Epoch, Incarnation};
use crate::protocol::sent_beats::SentBeats;
use crate::protocol::time::{LeaseInstant, Timestamp};
use crate::store::StoreError;

/// Why the heartbeat ends the engine.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// A live engine elsewhere has this name.
    #[error("engine name {name:?} is taken by a live engine on host {host} (process {pid}, last beat {age:.1}s ago)")]
    NameTaken {
        /// The name.
        name: String,
        /// Where the other runs.
        host: String,
        /// Its process.
        pid: u32,
        /// Age of its last beat in seconds.
        age: f64,
    },
    /// What is remembered and what the database says cannot both be right.
    #[error(
        "{} remembers epoch {}, and the database is at {}: no engine raises it by so much without a person",
        file.display(), remembered.as_i64(), database.as_i64()
    )]
    EpochTooFar {
        /// What this engine remembers.
        remembered: Epoch,
        /// The database's.
        database: Epoch,
        /// Where it is remembered.
        file: PathBuf,
    },
    /// The database cannot be used, and that will not change by itself.
    #[error("the database cannot be used")]
    Store(#[source] StoreError),
}

/// What one pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next is due then.
    Next(LeaseInstant),
    /// The engine has ended.
    Ended,
}

/// See the module.
pub struct Heartbeat {
    shared: Arc<Shared>,
    lane: Lane,
    former: Option<(Incarnation, Proof)>,
    failed: u32,
    /// Registrations in a row that were lost although the database answered before them.
    slow: u32,
    said: Option<String>,
    namesake: Option<NamesakeWatch>,
    standing_since: Option<LeaseInstant>,
    /// When the registration was sent that was answered last.
    registered_at: LeaseInstant,
    has_registered: bool,
    /// Lives that this process has begun, or found as those of a dead one.
    own: Vec<Incarnation>,
    sent: SentBeats,
    /// The database's clock as of the last accepted beat, and when that was answered.
    db_clock: Option<(Timestamp, LeaseInstant)>,
    /// How the present life is known to be over when it is.
    proof: Proof,
}

impl Heartbeat {
    /// Of an engine.
    pub fn new(shared: Arc<Shared>) -> Self {
        let lane = Lane::new("beat", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
        Self {
            shared,
            lane,
            former: None,
            failed: 0,
            slow: 0,
            said: None,
            namesake: None,
            standing_since: None,
            registered_at: LeaseInstant::from_ns(0),
            has_registered: false,
            own: Vec::new(),
            sent: SentBeats::default(),
            db_clock: None,
            proof: Proof::Itself,
        }
    }

    /// One pass.
    pub fn step(&mut self) -> Result<Step, LifeError> {
        if self.shared.stop.ending() >= Ending::All {
            return Ok(Step::Ended);
        }
        let phase = self.shared.life().phase;
        match phase {
            Phase::Out => self.register(),
            Phase::Registered | Phase::Live => Ok(self.beat()),
            Phase::Over => Ok(self.in_(Duration::from_millis(10))),
            Phase::Clear => Ok(self.come_back()),
        }
    }

    fn in_(&self, span: Duration) -> Step {
        Step::Next(self.shared.clock.lease_now().after(span))
    }

    /// After the end of a life, with nothing of it running but `continue` tasks: registers anew.
    fn come_back(&mut self) -> Step {
        let shared = &self.shared;
        let mut life = shared.life.lock();
        let Some(former) = life.incarnation.take() else {
            life.phase = Phase::Out;
            return Step::Next(shared.clock.lease_now());
        };
        life.phase = Phase::Out;
        drop(life);
        self.former = Some((former, std::mem::replace(&mut self.proof, Proof::Itself)));
        *self.shared.former.lock() = Some(former);
        (self.failed, self.slow) = (0, 0);
        self.in_(Duration::ZERO)
    }

    fn say_once(&mut self, text: String) {
        if text.is_empty() {
            if self.said.take().is_some() {
                log::info!("the database answers again");
            }
        } else if self.said.as_ref() != Some(&text) {
            log::warn!("{text}");
            self.said = Some(text);
        } else {
            log::debug!("{text}");
        }
    }
}

/// Whether operators want the engine to end.
pub fn is_told_to_stop(shared: &Shared) -> bool {
    let life = shared.life();
    life.phase == Phase::Live && life.wanted == Wanted::Stop
}
