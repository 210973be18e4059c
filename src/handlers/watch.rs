//! Watches one running command: moves its streams, notices its end, and stops it when it is time.
//!
//! One loop over poll(2). Its deadlines are lease instants and its timer counts suspend
//! (`CLOCK_BOOTTIME`): poll's own timeout stands still in suspend, and a lease does not.
//!
//! The order within one turn matters: the end is looked for before a signal is sent, so that a command
//! that finished in time is not judged by a stop that came a moment later.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::control::{AttemptControl, Stop, StopKind};
use super::exit::End;
use super::gate::{Gate, Lease};
use super::reaper::{self, Name};
use super::spawner::Running;
use super::streams::{Stream, Streams};
use crate::clock::Clock;
use crate::protocol::time::LeaseInstant;

/// How often the end is looked for where the kernel has no pidfd (before 5.3).
const LOOK_MS: u8 = 20;

/// Which signal was sent last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    Term,
    Kill,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Wait for events, at most until then.
    Wait(Option<LeaseInstant>),
    /// Ask the command to end.
    Term,
    /// Kill all of it.
    Kill,
}

fn next_step(now: LeaseInstant, sent: Sent, stop: Option<Stop>) -> Step {
    match (sent, stop) {
        (Sent::Kill, _) | (_, None) => Step::Wait(None),
        (Sent::Nothing, Some(stop)) if now >= stop.term_at => Step::Term,
        (Sent::Nothing, Some(stop)) => Step::Wait(Some(stop.term_at)),
        (Sent::Term, Some(stop)) if now >= stop.kill_at => Step::Kill,
        (Sent::Term, Some(stop)) => Step::Wait(Some(stop.kill_at)),
    }
}

/// What stops a command although nobody asks.
pub struct Limits<'a> {
    /// When its time is over.
    pub timeout_at: Option<LeaseInstant>,
    /// From SIGTERM to SIGKILL after that.
    pub grace: Duration,
    /// Whose lease it depends on; `None` for kinds that continue without.
    pub lease: Option<&'a Gate>,
}

/// When which signal is due: all that a supervisor decides.
pub struct Countdown<'a> {
    limits: Limits<'a>,
    sent: Sent,
}

impl<'a> Countdown<'a> {
    /// Of a command that was just started.
    pub const fn new(limits: Limits<'a>) -> Self {
        Self { limits, sent: Sent::Nothing }
    }

    /// What to do at `now`. A signal counts as sent when it was returned.
    pub fn step(&mut self, now: LeaseInstant, control: &AttemptControl) -> Step {
        let limit = self.raise_stops(now, control);
        let step = next_step(now, self.sent, control.requested());
        match step {
            Step::Term => self.sent = Sent::Term,
            Step::Kill => self.sent = Sent::Kill,
            Step::Wait(at) => return Step::Wait([at, limit].into_iter().flatten().min()),
        }
        step
    }

    /// The stop that names the end: the one whose SIGTERM was sent before it.
    pub fn stopped(&self, control: &AttemptControl) -> Option<StopKind> {
        control.requested().filter(|_| self.sent != Sent::Nothing).map(|stop| stop.kind)
    }

    /// Asks for a stop where a limit is reached. Returns the next limit that is not reached yet.
    fn raise_stops(&mut self, now: LeaseInstant, control: &AttemptControl) -> Option<LeaseInstant> {
        if self.sent == Sent::Nothing
            && let Some(at) = self.limits.timeout_at.take_if(|at| now >= *at)
        {
            control.stop(StopKind::Timeout, at, now.after(self.limits.grace));
        }
        let lease = self.limits.lease.map(Gate::lease);
        if let Some(Lease { until, kill_at }) = lease.filter(|lease| now >= lease.until) {
            // Once: this lease is lost for this attempt, also if the engine gets another one.
            self.limits.lease = None;
            control.stop(StopKind::LeaseLost, until, kill_at);
        }
        let timeout_at = self.limits.timeout_at.filter(|_| self.sent == Sent::Nothing);
        let lease_until = lease.map(|lease| lease.until).filter(|_| self.limits.lease.is_some());
        [timeout_at, lease_until].into_iter().flatten().min()
    }
}

/// The supervisor of one command.
pub(super) struct Watch<'a> {
    running: &'a Running,
    streams: &'a mut Streams,
    control: &'a AttemptControl,
    clock: &'a dyn Clock,
    countdown: Countdown<'a>,
    timer: TimerFd,
    armed: Option<LeaseInstant>,
    killed: BTreeSet<Name>,
}

/// What a supervisor saw.
pub(super) struct Watched {
    pub(super) end: End,
    /// The stop whose SIGTERM was sent before the end.
    pub(super) stopped: Option<StopKind>,
    /// Descendants that were sent SIGKILL.
    pub(super) killed: BTreeSet<Name>,
}

/// The sources of events besides the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Stream(Stream),
    Wake,
    Timer,
    Main,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        running: &'a Running,
        streams: &'a mut Streams,
        control: &'a AttemptControl,
        clock: &'a dyn Clock,
        limits: Limits<'a>,
        timer: TimerFd,
    ) -> Self {
        Self {
            running,
            streams,
            control,
            clock,
            countdown: Countdown::new(limits),
            timer,
            armed: None,
            killed: BTreeSet::new(),
        }
    }

    /// The timer that [`Watch::new`] wants; made before the fork, because it can fail.
    pub(super) fn timer() -> io::Result<TimerFd> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?)
    }

    /// Returns when the main process has ended, still unreaped.
    pub(super) fn until_end(mut self) -> Watched {
        loop {
            if let Some(end) = reaper::ended(self.running.pid) {
                return Watched { end, stopped: self.countdown.stopped(self.control), killed: self.killed };
            }
            self.turn();
        }
    }

    fn turn(&mut self) {
        let now = self.clock.lease_now();
        match self.countdown.step(now, self.control) {
            Step::Term => {
                reaper::signal_group(self.running.pid, Signal::SIGTERM);
                // A stopped process takes the signal only when it goes on.
                reaper::signal_group(self.running.pid, Signal::SIGCONT);
            }
            Step::Kill => {
                self.killed = reaper::kill_tree(self.running.pid, self.clock);
            }
            Step::Wait(at) => {
                self.arm(now, at);
                self.wait();
            }
        }
    }

    fn arm(&mut self, now: LeaseInstant, at: Option<LeaseInstant>) {
        if at == self.armed {
            return;
        }
        let result = match at {
            // Zero would switch the timer off. A year is for ever, and fits every kernel.
            Some(at) => {
                let span = at.since(now).clamp(Duration::from_nanos(1), Duration::from_secs(31_536_000));
                self.timer.set(Expiration::OneShot(TimeSpec::from_duration(span)), TimerSetTimeFlags::empty())
            }
            None => self.timer.unset(),
        };
        match result {
            Ok(()) => self.armed = at,
            Err(error) => log::error!("could not set the timer of a task: {error}"),
        }
    }

    fn wait(&mut self) {
        let ready = match self.poll() {
            Ok(ready) => ready,
            Err(error) => {
                // Nothing can be moved without poll, but the end and the deadlines still can be seen.
                log::error!("could not poll the streams of a task: {error}");
                self.clock.pause(Duration::from_millis(LOOK_MS.into()));
                return;
            }
        };
        for source in ready {
            match source {
                Source::Stream(stream) => self.streams.pump(stream),
                Source::Wake => self.control.drain_wake(),
                Source::Timer => self.drain_timer(),
                Source::Main => {}
            }
        }
    }

    /// Makes the timer unreadable, and has it armed again: the lease clock is not slewed and this one
    /// is, so it may have come a little too early.
    fn drain_timer(&mut self) {
        self.armed = None;
        if let Err(error) = self.timer.wait()
            && error != Errno::EAGAIN
        {
            log::error!("could not read the timer of a task: {error}");
        }
    }

    fn poll(&self) -> io::Result<Vec<Source>> {
        let pidfd = self.running.pidfd.as_ref().map(OwnedFd::as_fd);
        let mut fds = vec![(Source::Timer, self.timer.as_fd())];
        fds.extend(self.control.wake_fd().map(|fd| (Source::Wake, fd)));
        fds.extend(pidfd.map(|fd| (Source::Main, fd)));
        fds.extend(self.streams.open_ends().map(|(stream, fd)| (Source::Stream(stream), fd)));
        let mut polled: Vec<PollFd<'_>> = fds
            .iter()
            .map(|(source, fd)| {
                let is_out = *source == Source::Stream(Stream::Stdin);
                PollFd::new(*fd, if is_out { PollFlags::POLLOUT } else { PollFlags::POLLIN })
            })
            .collect();
        let timeout = if pidfd.is_some() { PollTimeout::NONE } else { PollTimeout::from(LOOK_MS) };
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        Ok(fds.iter().zip(&polled).filter(|(_, fd)| is_ready(fd)).map(|((source, _), _)| *source).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_sent_at_their_instants_and_once() {
        let at = LeaseInstant::from_ns;
        let stop = Some(Stop { kind: StopKind::Cancel, term_at: at(10), kill_at: at(20) });
        assert_eq!(next_step(at(9), Sent::Nothing, None), Step::Wait(None));
        assert_eq!(next_step(at(9), Sent::Nothing, stop), Step::Wait(Some(at(10))));
        assert_eq!(next_step(at(10), Sent::Nothing, stop), Step::Term);
        assert_eq!(next_step(at(10), Sent::Term, stop), Step::Wait(Some(at(20))));
        assert_eq!(next_step(at(20), Sent::Term, stop), Step::Kill);
        assert_eq!(next_step(at(30), Sent::Nothing, stop), Step::Term, "also when both are past");
        assert_eq!(next_step(at(30), Sent::Kill, stop), Step::Wait(None));
    }
}
