//! The handle by which the engine stops one running attempt.
//!
//! A stop is a wish with two instants, not an act: whoever asks (heartbeat, operator's wish, drain)
//! never waits for the task. The supervisor of a command wakes at once through an eventfd; a Rust
//! handler sees its cancellation flag.
//!
//! Several may ask, also the supervisor itself (timeout, lease over). The instants only move earlier,
//! so that no later, milder wish delays a kill that a lease depends on. The kind whose SIGTERM is due
//! first names the end, except that `Cancel` outranks all: it is the only one after which the task
//! must not run again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::libc;
use parking_lot::Mutex;

use crate::protocol::task::AttemptResult;
use crate::protocol::time::LeaseInstant;

/// Why an attempt is stopped before it ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopKind {
    /// Over its time.
    Timeout,
    /// An operator stops the task for good.
    Cancel,
    /// The engine stops or drains.
    HandBack,
    /// No accepted beat for L.
    LeaseLost,
    /// An operator gives it to another attempt.
    Requeue,
    /// An operator puts it aside.
    Hold,
}

impl StopKind {
    /// What an attempt that this ended is written down as.
    pub const fn result(self) -> AttemptResult {
        match self {
            Self::Timeout => AttemptResult::Timeout,
            Self::Cancel => AttemptResult::Canceled,
            Self::HandBack | Self::LeaseLost | Self::Requeue | Self::Hold => AttemptResult::HandedBack,
        }
    }

    /// As it stands in a detail.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Cancel => "canceled",
            Self::HandBack => "handed back: the engine stops or drains",
            Self::LeaseLost => "handed back: lease lost",
            Self::Requeue => "handed back: requeued",
            Self::Hold => "handed back: put on hold",
        }
    }
}

/// A stop that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Why.
    pub kind: StopKind,
    /// When SIGTERM is due; a past instant means now.
    pub term_at: LeaseInstant,
    /// When SIGKILL is due.
    pub kill_at: LeaseInstant,
}

impl Stop {
    /// This stop together with another one that was asked for later.
    pub fn and(self, later: Self) -> Self {
        let later_names_it = later.term_at < self.term_at && self.kind != StopKind::Cancel;
        let kind = if later.kind == StopKind::Cancel || later_names_it { later.kind } else { self.kind };
        Self { kind, term_at: self.term_at.min(later.term_at), kill_at: self.kill_at.min(later.kill_at) }
    }
}

/// Shared by the engine and the thread that runs the attempt.
#[derive(Debug)]
pub struct AttemptControl {
    stop: Mutex<Option<Stop>>,
    canceled: Arc<AtomicBool>,
    main_pid: AtomicI32,
    // Only the supervisor of a command polls; a handler has its flag, and a descriptor for each task that is
    // claimed ahead would use up the process's.
    wake: Option<OwnedFd>,
}

impl AttemptControl {
    /// For an attempt in this process: it has a flag to look at, and nothing to poll.
    pub fn of_handler() -> Arc<Self> {
        Self::waking(None)
    }

    /// For an attempt of a command. Fails only where the process has run out of file descriptors.
    pub fn new() -> io::Result<Arc<Self>> {
        // SAFETY: eventfd takes no pointer; a non-negative result is a descriptor that nobody else owns.
        let wake = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self::waking(Some(wake)))
    }

    fn waking(wake: Option<OwnedFd>) -> Arc<Self> {
        Arc::new(Self {
            stop: Mutex::new(None),
            canceled: Arc::new(AtomicBool::new(false)),
            main_pid: AtomicI32::new(0),
            wake,
        })
    }

    /// Asks for the end of the attempt: SIGTERM at `term_at`, SIGKILL of everything at `kill_at`.
    /// Returns at once; the cancellation flag is set before it returns.
    pub fn stop(&self, kind: StopKind, term_at: LeaseInstant, kill_at: LeaseInstant) {
        let asked = Stop { kind, term_at, kill_at };
        {
            let mut stop = self.stop.lock();
            *stop = Some(stop.map_or(asked, |earlier| earlier.and(asked)));
        }
        self.canceled.store(true, Ordering::Release);
        crate::turns::changed();
        let Some(wake) = &self.wake else { return };
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is eight bytes long, as an eventfd wants it. The only possible error is a
        // counter at its maximum, and then the supervisor is awake anyway.
        unsafe { libc::write(wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// What was asked for so far.
    pub fn requested(&self) -> Option<Stop> {
        *self.stop.lock()
    }

    /// Whether anybody asked.
    pub fn is_canceled(&self) -> bool {
        self.canceled.load(Ordering::Acquire)
    }

    /// The flag itself, for handlers that pass it on.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.canceled)
    }

    /// The main process of a command, from a moment after its start to its end; for people and logs.
    /// Who needs all of them exactly asks the gate.
    pub fn main_pid(&self) -> Option<i32> {
        Some(self.main_pid.load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    pub(crate) fn set_main_pid(&self, pid: Option<i32>) {
        self.main_pid.store(pid.unwrap_or(0), Ordering::Release);
    }

    /// Readable as soon as somebody asked.
    pub(crate) fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.wake.as_ref().map(AsFd::as_fd)
    }

    /// Makes the wake-up unreadable again. The stop itself is read after this, so none is missed.
    pub(crate) fn drain_wake(&self) {
        let Some(wake) = &self.wake else { return };
        let mut count = [0u8; 8];
        // SAFETY: the buffer is eight bytes long; a would-block error means that it was drained before.
        unsafe { libc::read(wake.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_milder_stop_delays_nothing() {
        let at = LeaseInstant::from_ns;
        let control = AttemptControl::new().unwrap();
        assert!(!control.is_canceled());
        control.stop(StopKind::LeaseLost, at(10), at(20));
        control.stop(StopKind::HandBack, at(15), at(90));
        assert!(control.is_canceled());
        let stop = Stop { kind: StopKind::LeaseLost, term_at: at(10), kill_at: at(20) };
        assert_eq!(control.requested(), Some(stop));
        control.stop(StopKind::Cancel, at(30), at(40));
        assert_eq!(control.requested(), Some(Stop { kind: StopKind::Cancel, ..stop }));
    }

    #[test]
    fn the_stop_that_is_due_first_names_the_end() {
        let stop =
            |kind, ns| Stop { kind, term_at: LeaseInstant::from_ns(ns), kill_at: LeaseInstant::from_ns(ns + 10) };
        let drain = stop(StopKind::HandBack, 75);
        assert_eq!(drain.and(stop(StopKind::Timeout, 20)).kind, StopKind::Timeout);
        assert_eq!(drain.and(stop(StopKind::Timeout, 80)).kind, StopKind::HandBack);
        assert_eq!(stop(StopKind::Cancel, 75).and(stop(StopKind::Timeout, 20)).kind, StopKind::Cancel);
    }
}
