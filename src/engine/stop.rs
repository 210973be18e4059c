//! The engine's wish to end, and the one way its loops wait.

use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex};

use crate::turns;

/// How far the end has come; it only goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Not at all.
    No,
    /// Take nothing new, let finish what runs.
    Finish,
    /// Hand back what runs, now.
    HandBack,
    /// The loops end.
    Loops,
    /// The heartbeat ends too: it is the last.
    All,
}

/// Shared by all loops.
#[derive(Debug)]
pub struct Stop {
    state: Mutex<State>,
    changed: Condvar,
    /// Rings once, when the loops have to end: for those that wait for a file descriptor.
    bell: Option<(UnixStream, UnixStream)>,
    /// The same for those that wait for a channel: its sender is dropped.
    hung_up: Receiver<()>,
}

#[derive(Debug)]
struct State {
    ending: Ending,
    nudges: u64,
    line: Option<Sender<()>>,
}

impl Default for Stop {
    fn default() -> Self {
        let (line, hung_up) = bounded(0);
        let state = State { ending: Ending::No, nudges: 0, line: Some(line) };
        Self { state: Mutex::new(state), changed: Condvar::new(), bell: UnixStream::pair().ok(), hung_up }
    }
}

impl Stop {
    /// Goes at least this far.
    pub fn ask(&self, ending: Ending) {
        let mut now = self.state.lock();
        if ending > now.ending {
            now.ending = ending;
            if ending >= Ending::Loops {
                now.line = None;
                let _ = self.bell.as_ref().map(|(rope, _)| rope.shutdown(Shutdown::Both));
            }
            self.changed.notify_all();
            turns::changed();
        }
    }

    /// The phase of the life or what operators want has changed: those in [`Stop::wait_nudged`] look again.
    pub fn nudge(&self) {
        self.state.lock().nudges += 1;
        self.changed.notify_all();
        turns::changed();
    }

    /// How many nudges there were. To be read before the state is that they are about.
    pub fn nudges(&self) -> u64 {
        self.state.lock().nudges
    }

    /// How far it has come.
    pub fn ending(&self) -> Ending {
        self.state.lock().ending
    }

    /// Whether ordinary loops should end.
    pub fn ends_loops(&self) -> bool {
        self.ending() >= Ending::Loops
    }

    /// Waits for `span`, or until the ending comes to `until`. True if it did.
    pub fn wait(&self, until: Ending, span: Duration) -> bool {
        if let Some(has_come) = turns::wait_until(span, || self.ending() >= until) {
            return has_come;
        }
        let mut now = self.state.lock();
        if now.ending < until {
            self.changed.wait_while_for(&mut now, |now| now.ending < until, span);
        }
        now.ending >= until
    }

    /// The same, but a nudge after `seen` ends the waiting too.
    pub fn wait_nudged(&self, until: Ending, span: Duration, seen: u64) -> bool {
        if turns::wait_until(span, || self.ending() >= until || self.nudges() != seen).is_some() {
            return self.ending() >= until;
        }
        let mut now = self.state.lock();
        if now.ending < until && now.nudges == seen {
            self.changed.wait_while_for(&mut now, |now| now.ending < until && now.nudges == seen, span);
        }
        now.ending >= until
    }

    /// Waits for `span`, until `bell` is readable, or until the loops have to end. True if they have to.
    pub fn wait_readable(&self, bell: BorrowedFd<'_>, span: Duration) -> bool {
        let mut fds = vec![PollFd::new(bell, PollFlags::POLLIN)];
        fds.extend(self.bell.as_ref().map(|(_, ours)| PollFd::new(ours.as_fd(), PollFlags::POLLIN)));
        // Without a bell of our own the wait is short.
        let span = if self.bell.is_some() { span } else { span.min(Duration::from_millis(150)) };
        let _ = poll(&mut fds, PollTimeout::try_from(span.as_millis()).unwrap_or(PollTimeout::MAX));
        self.ends_loops()
    }

    /// Disconnected from the moment when the loops have to end; nothing is ever sent.
    pub fn hung_up(&self) -> &Receiver<()> {
        &self.hung_up
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Clock, SystemClock};

    const LONG: Duration = Duration::from_secs(30);

    /// Whether somebody in such a wait is woken by what is done meanwhile.
    fn is_woken(wait: fn(&Stop) -> bool, act: fn(&Stop)) -> bool {
        let stop = Arc::new(Stop::default());
        let began = SystemClock.lease_now();
        let waiting = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || wait(&stop)
        });
        SystemClock.pause(Duration::from_millis(20));
        act(&stop);
        let result = waiting.join().unwrap();
        assert!(SystemClock.lease_now().since(began) < LONG / 2);
        result
    }

    #[test]
    fn a_nudge_ends_the_wait_and_so_does_the_end() {
        assert!(!is_woken(|stop| stop.wait_nudged(Ending::All, LONG, 0), Stop::nudge));
        assert!(is_woken(|stop| stop.wait_nudged(Ending::All, LONG, 0), |stop| stop.ask(Ending::All)));
        let stop = Stop::default();
        stop.nudge();
        assert!(!stop.wait_nudged(Ending::All, LONG, 0), "one that came before the wait is not lost");
    }

    #[test]
    fn who_waits_for_a_descriptor_or_a_channel_hears_of_the_end() {
        let for_descriptor = |stop: &Stop| {
            let (quiet, _other) = UnixStream::pair().unwrap();
            stop.wait_readable(quiet.as_fd(), LONG)
        };
        assert!(is_woken(for_descriptor, |stop| stop.ask(Ending::Loops)));
        assert!(is_woken(|stop| stop.hung_up().recv_timeout(LONG).is_err(), |stop| stop.ask(Ending::Loops)));
        let (readable, other) = UnixStream::pair().unwrap();
        drop(other);
        assert!(!Stop::default().wait_readable(readable.as_fd(), LONG));
    }
}
