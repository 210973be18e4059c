//! What an engine remembers of the database beyond a life, and beyond its process: the largest epoch and the last
//! accepted beat, which tell a database that came back older, and whether there is a copy of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::epoch_file::{self, Remembered};
use super::shared::Shared;
use super::{fork_file, last_beat_file};
use crate::protocol::ids::Incarnation;
use crate::protocol::last_beat::LastBeat;
use crate::protocol::time::LeaseInstant;
use crate::random;
use crate::store::Meta;

/// What a process starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// The largest epoch.
    pub epoch: Remembered,
    /// The last accepted beat that was kept.
    pub last_beat: Option<LastBeat>,
    /// What tells its state directory from a copy of it.
    pub fork: Option<String>,
}

impl Memory {
    /// Of one that never ran before.
    pub const NOTHING: Self = Self { epoch: Remembered::NOTHING, last_beat: None, fork: None };

    /// From the state directory.
    pub fn read(dir: &Path) -> std::io::Result<Self> {
        Ok(Self { epoch: epoch_file::read(dir)?, last_beat: last_beat_file::read(dir)?, fork: fork_file::read(dir)? })
    }
}

/// The last beat as it is kept for the next process.
#[derive(Debug, Default)]
pub struct KeptBeat {
    /// What is kept.
    pub last: Option<LastBeat>,
    at: Option<LeaseInstant>,
    is_writing: Arc<AtomicBool>,
}

/// A lease is so much shorter than the time between two writes: a minute with balanced timing. A disk would not
/// notice more, but a restore of less than that is seen by the engines that ran through it.
const KEEP_EVERY: u32 = 6;

/// With tolerant timing too.
const KEEP_EVERY_MAX: Duration = Duration::from_secs(60);

/// The thread that keeps a beat makes a few system calls.
const KEEP_STACK: usize = 128 << 10;

impl Shared {
    /// Remembers the largest epoch. One of the same number that was raised for another database is not it.
    pub fn remember_epoch(&self, meta: &Meta) {
        let mut known = self.known_epoch.lock();
        let is_same = meta.epoch == known.epoch && known.identity.is_none();
        if meta.epoch > known.epoch || is_same && meta.epoch.as_i64() > 0 {
            *known = Remembered { epoch: meta.epoch, identity: Some(meta.identity.clone()) };
            if let Some(dir) = &self.options.state_dir
                && let Err(error) = epoch_file::write(dir, &known)
            {
                log::warn!("could not remember epoch {} in the state directory: {error}", meta.epoch.as_i64());
            }
        }
    }

    /// Remembers an accepted beat, or a registration as beat 0. Not one of a database in doubt: what was
    /// remembered before is the evidence until the epoch has been raised for it.
    pub fn remember_beat(&self, incarnation: Incarnation, beat: i64, meta: &Meta) {
        let last = LastBeat { cluster_id: meta.cluster_id.clone(), incarnation, beat, epoch: meta.epoch, at: meta.now };
        *self.last_beat.lock() = Some(last.clone());
        let now = self.clock.lease_now();
        let mut kept = self.kept_beat.lock();
        let is_other = kept.last.as_ref().is_none_or(|kept| kept.incarnation != incarnation);
        let every = (self.options.timing.lease() * KEEP_EVERY).min(KEEP_EVERY_MAX);
        let is_due = kept.at.is_none_or(|at| now.since(at) >= every);
        // A life is kept from its first beat: a registration alone may be one of many in a row.
        if beat == 0 || !(is_other || is_due) || kept.is_writing.swap(true, Ordering::AcqRel) {
            return;
        }
        (kept.last, kept.at) = (Some(last.clone()), Some(now));
        let is_writing = Arc::clone(&kept.is_writing);
        drop(kept);
        let Some(dir) = self.options.state_dir.clone() else { return is_writing.store(false, Ordering::Release) };
        // Not on the thread of the beats: the disk may take longer than a lease.
        let spawned = crate::turns::spawn("keep-beat", KEEP_STACK, move || {
            keep(&dir, &last);
            is_writing.store(false, Ordering::Release);
        });
        if let Err(error) = spawned {
            self.kept_beat.lock().is_writing.store(false, Ordering::Release);
            log::warn!("could not keep the last heartbeat: {error}");
        }
    }

    /// Beats that were accepted are missing. The doubt stays until an epoch has been raised that is newer than they
    /// are; one that was raised to forget resources is no answer.
    pub fn doubt_beats(&self, meta: &Meta) {
        let newest = self.last_beat.lock().as_ref().map_or(meta.epoch, |last| last.epoch);
        *self.doubted.lock() = Some(newest);
    }

    /// Names the place of this engine: its state directory, and whether that was found to be one of two.
    pub fn state_id(&self) -> String {
        let id = &self.options.state_id;
        self.fork.lock().as_ref().map_or_else(|| id.clone(), |word| format!("{id}.{word}"))
    }

    /// From now on this place is another one than that of a copy.
    pub fn fork(&self) {
        let word = random::id();
        if let Some(dir) = &self.options.state_dir
            && let Err(error) = fork_file::write(dir, &word)
        {
            log::error!("could not tell the state directory from its copy: {error}");
        }
        *self.fork.lock() = Some(word);
    }

    /// At the end of the process.
    pub fn keep_last_beat(&self) {
        let (Some(dir), Some(last)) = (&self.options.state_dir, self.last_beat.lock().clone()) else { return };
        // Two writers of one file are one too many; what is being written is a minute old at most.
        if !self.kept_beat.lock().is_writing.swap(true, Ordering::AcqRel) {
            keep(dir, &last);
        }
    }
}

fn keep(dir: &Path, last: &LastBeat) {
    if let Err(error) = last_beat_file::write(dir, last) {
        log::warn!("could not keep the last heartbeat in the state directory: {error}");
    }
}
