//! What engine and guard tell each other, over a pair of connected SEQPACKET sockets: one short line
//! of text a packet, so that `strace` shows the talk and a shell script can play the engine in tests.
//!
//! Neither side ever waits for the other. A send that would block fails instead: the buffer holds
//! hundreds of packets, so a full one means that the guard has not turned for minutes, and then the
//! engine's watching thread has long seen [`GuardState::Silent`]. The guard drops ticks that a frozen
//! engine does not read; each tick says when it was sent, so that a thawed engine does not take an
//! old one for a sign of life.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::envfd;
use crate::clock::{Clock, SystemClock};
use crate::protocol::ids::Incarnation;
use crate::protocol::time::LeaseInstant;

/// The variable that tells the engine its end of the link.
pub const GUARD_FD_ENV: &str = "REKINDLE_GUARD_FD";

/// The most `continue` tasks one message can name.
pub const PIDS_MAX: usize = 1_000;

/// A line with [`PIDS_MAX`] process ids of up to 10 digits fits.
const PACKET_MAX: usize = 12 * 1_024;

/// What the engine tells the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// This incarnation is about to be registered, or was.
    Registered(Incarnation),
    /// A beat was accepted: the guard acts at this point (L + K/2 after its sending).
    Renew(LeaseInstant),
    /// The lease is lost and nothing runs but these `continue` tasks: no deadline until the next renewal.
    AllClear(Vec<i32>),
    /// The running `continue` tasks, all of them, each time one starts or ends.
    Continue(Vec<i32>),
    /// The engine ended its incarnation itself, or never had one: nothing to prove.
    Goodbye(i32),
    /// For the service manager: it is up, its watchdog may wait until then, and this is its status.
    Unit(LeaseInstant, String),
}

fn with_pids(word: &str, pids: &[i32]) -> String {
    let mut line = word.to_owned();
    for pid in pids {
        let _ = write!(line, " {pid}");
    }
    line
}

impl Notice {
    fn line(&self) -> String {
        match self {
            Self::Registered(incarnation) => format!("registered {incarnation}"),
            Self::Renew(deadline) => format!("renew {}", deadline.as_ns()),
            Self::AllClear(spared) => with_pids("all-clear", spared),
            Self::Continue(pids) => with_pids("continue", pids),
            Self::Goodbye(code) => format!("goodbye {code}"),
            Self::Unit(until, status) => format!("unit {} {status}", until.as_ns()),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let word = words.next()?;
        if let "all-clear" | "continue" = word {
            let pids = words.map(|w| w.parse().ok().filter(|pid| *pid > 1)).collect::<Option<Vec<i32>>>()?;
            return Some(if word == "continue" { Self::Continue(pids) } else { Self::AllClear(pids) });
        }
        let value = words.next()?;
        if word == "unit" {
            let status = line.splitn(3, ' ').nth(2).unwrap_or_default();
            // One line: what stands behind a line's end would be a field of its own for the manager.
            let status = status.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            return Some(Self::Unit(LeaseInstant::from_ns(value.parse().ok()?), status));
        }
        match word {
            "registered" => Incarnation::parse(value).map(Self::Registered),
            "renew" => value.parse().ok().map(LeaseInstant::from_ns).map(Self::Renew),
            "goodbye" => value.parse().ok().map(Self::Goodbye),
            _ => None,
        }
    }
}

/// How the guard looks from the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardState {
    /// A tick came.
    Alive,
    /// No tick that is younger than the timeout. Silent for L: kill the tasks and die.
    Silent,
    /// Its end is closed: it is dead. Kill the tasks and die.
    Gone,
}

/// What the engine can say to its guard, and hear from it. All methods return at once, except
/// [`GuardTalk::wait_tick`].
pub trait GuardTalk: Send + Sync {
    /// Names the incarnation to prove dead. Call it *before* sending the registration: dead in
    /// between, the row may exist and would otherwise wait for T; a proof for a row that never came
    /// to be changes nothing. Until the next [`Self::renew`] the former incarnation is proved too.
    fn registered(&self, incarnation: Incarnation) -> io::Result<()>;
    /// A beat was accepted; the guard kills at `deadline`: its sending + L + K/2.
    fn renew(&self, deadline: LeaseInstant) -> io::Result<()>;
    /// After a self-fence nothing is left but the `continue` tasks `spared`: the guard waits without
    /// deadline until the next [`Self::renew`].
    fn all_clear(&self, spared: &[i32]) -> io::Result<()>;
    /// The `continue` tasks that run now, replacing those named before. Name a task before its attempt
    /// matters and while its process is not reaped, so that the number cannot be another's.
    fn continuing(&self, pids: &[i32]) -> io::Result<()>;
    /// The incarnation was ended in the database by the engine itself, and it exits with `exit_code`
    /// within K: no proof is needed.
    fn goodbye(&self, exit_code: i32) -> io::Result<()>;
    /// For the service manager (`notify.rs`): the unit is up, and its watchdog may wait until `watchdog_at`.
    fn tell_unit(&self, watchdog_at: LeaseInstant, status: &str) -> io::Result<()>;
    /// Waits until the guard ticks, is gone, or `timeout` has passed without a sign of it.
    fn wait_tick(&self, timeout: Duration) -> GuardState;
}

/// The engine's end.
#[derive(Debug)]
pub struct GuardLink {
    fd: OwnedFd,
}

impl GuardLink {
    /// The link that the guard left for this process; `None` for an engine without a guard. To be
    /// called once, before the process has a second thread (refused otherwise).
    pub fn from_env() -> io::Result<Option<Self>> {
        Ok(envfd::take(GUARD_FD_ENV)?.map(|fd| Self { fd }))
    }

    fn newest_tick(&self) -> io::Result<Option<LeaseInstant>> {
        let mut newest = None;
        while let Some(line) = receive(&self.fd)? {
            let at = line.strip_prefix("tick ").and_then(|t| t.parse().ok()).map(LeaseInstant::from_ns);
            newest = newest.max(at);
        }
        Ok(newest)
    }

    fn tell(&self, notice: &Notice) -> io::Result<()> {
        transmit(&self.fd, &notice.line())
    }
}

impl GuardTalk for GuardLink {
    fn registered(&self, incarnation: Incarnation) -> io::Result<()> {
        self.tell(&Notice::Registered(incarnation))
    }

    fn renew(&self, deadline: LeaseInstant) -> io::Result<()> {
        self.tell(&Notice::Renew(deadline))
    }

    fn all_clear(&self, spared: &[i32]) -> io::Result<()> {
        check_count(spared)?;
        self.tell(&Notice::AllClear(spared.to_vec()))
    }

    fn continuing(&self, pids: &[i32]) -> io::Result<()> {
        check_count(pids)?;
        self.tell(&Notice::Continue(pids.to_vec()))
    }

    fn goodbye(&self, exit_code: i32) -> io::Result<()> {
        self.tell(&Notice::Goodbye(exit_code))
    }

    fn tell_unit(&self, watchdog_at: LeaseInstant, status: &str) -> io::Result<()> {
        self.tell(&Notice::Unit(watchdog_at, status.to_owned()))
    }

    fn wait_tick(&self, timeout: Duration) -> GuardState {
        let end = SystemClock.lease_now().after(timeout);
        loop {
            match self.newest_tick() {
                Err(_) => return GuardState::Gone,
                Ok(Some(at)) if at.after(timeout) >= SystemClock.lease_now() => return GuardState::Alive,
                Ok(_) => {}
            }
            // After the reading: a tick that came while this process stood still counts by its age.
            let left = end.since(SystemClock.lease_now());
            if left.is_zero() {
                return GuardState::Silent;
            }
            wait_readable(&self.fd, left);
        }
    }
}

/// The guard's end.
#[derive(Debug)]
pub(super) struct Port {
    fd: Option<OwnedFd>,
}

impl Port {
    /// A new pair: the guard's end, and the one to leave to the engine. Both are closed on exec.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (mine, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self { fd: Some(mine) }, theirs))
    }

    /// What to poll; `None` after the engine's end was closed, which would make poll return for ever.
    pub(super) const fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// Passes on everything that has arrived.
    pub(super) fn hear(&mut self, mut each: impl FnMut(Notice)) {
        loop {
            let Some(fd) = &self.fd else { return };
            match receive(fd) {
                Ok(Some(line)) => match Notice::parse(&line) {
                    Some(notice) => each(notice),
                    None => log::error!("the engine sent a message that this guard cannot read: {line:?}"),
                },
                Ok(None) => return,
                Err(_) => self.fd = None,
            }
        }
    }

    /// Says "I am here"; dropped when the engine does not read.
    pub(super) fn tick(&self, now: LeaseInstant) {
        if let Some(fd) = &self.fd {
            let _ = transmit(fd, &format!("tick {}", now.as_ns()));
        }
    }
}

fn check_count(pids: &[i32]) -> io::Result<()> {
    if pids.len() <= PIDS_MAX {
        return Ok(());
    }
    let text = format!("at most {PIDS_MAX} continue tasks can be named to the guard, these are {}", pids.len());
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn transmit(fd: &OwnedFd, line: &str) -> io::Result<()> {
    send(fd.as_raw_fd(), line.as_bytes(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// One packet, `None` if none waits, an error if the other end is closed.
fn receive(fd: &OwnedFd) -> io::Result<Option<String>> {
    let mut buffer = [0_u8; PACKET_MAX];
    loop {
        return match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => Ok(Some(String::from_utf8_lossy(&buffer[..len]).into_owned())),
            Err(Errno::EAGAIN) => Ok(None),
            // An end that was closed with ticks unread resets the other, and the kernel reports that
            // once *before* the packets that still wait here: the goodbye may be among them.
            Err(Errno::EINTR | Errno::ECONNRESET) => continue,
            Err(e) => Err(e.into()),
        };
    }
}

pub(super) fn wait_readable(fd: &impl AsFd, limit: Duration) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, poll_timeout(limit));
}

/// Rounded up, so that a wait for less than a millisecond does not spin.
pub(super) fn poll_timeout(limit: Duration) -> PollTimeout {
    let ms = limit.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Port, GuardLink) {
        let (port, fd) = Port::pair().unwrap();
        (port, GuardLink { fd })
    }

    fn heard(port: &mut Port) -> Vec<Notice> {
        let mut all = Vec::new();
        port.hear(|n| all.push(n));
        all
    }

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let (mut port, link) = pair();
        let incarnation = Incarnation::new(0x0123_4567_89ab_cdef);
        link.registered(incarnation).unwrap();
        link.renew(LeaseInstant::from_ns(u64::MAX)).unwrap();
        link.continuing(&[10, 11]).unwrap();
        link.all_clear(&[]).unwrap();
        link.goodbye(-3).unwrap();
        link.tell_unit(LeaseInstant::from_ns(7), "active, 1/4 slots, lease 10s").unwrap();
        link.tell_unit(LeaseInstant::from_ns(8), "active\nMAINPID=1").unwrap();
        let want = [
            Notice::Registered(incarnation),
            Notice::Renew(LeaseInstant::from_ns(u64::MAX)),
            Notice::Continue(vec![10, 11]),
            Notice::AllClear(vec![]),
            Notice::Goodbye(-3),
            Notice::Unit(LeaseInstant::from_ns(7), "active, 1/4 slots, lease 10s".into()),
            Notice::Unit(LeaseInstant::from_ns(8), "active MAINPID=1".into()),
        ];
        assert_eq!(heard(&mut port), want);
    }

    #[test]
    fn a_thousand_tasks_fit_one_message_and_more_are_refused() {
        let (mut port, link) = pair();
        let pids: Vec<i32> = (0..1_000).map(|n| i32::MAX - n).collect();
        link.continuing(&pids).unwrap();
        assert_eq!(heard(&mut port), [Notice::Continue(pids)]);
        assert!(link.all_clear(&vec![7; 1_001]).is_err());
    }

    #[test]
    fn nonsense_is_not_taken_for_a_message() {
        for line in
            ["", "renew", "renew x", "renew -1", "continue 1", "all-clear 7 0", "registered zz", "hello 1", "unit x y"]
        {
            assert_eq!(Notice::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_guard_that_does_not_read_never_blocks_the_engine() {
        let (_port, link) = pair();
        let sent = (0..100_000).take_while(|_| link.renew(LeaseInstant::from_ns(1)).is_ok()).count();
        assert!((100..100_000).contains(&sent), "{sent}");
    }

    #[test]
    fn the_last_words_of_an_engine_that_left_ticks_unread_are_heard() {
        let (mut port, link) = pair();
        port.tick(SystemClock.lease_now());
        link.goodbye(0).unwrap();
        drop(link);
        assert_eq!(heard(&mut port), [Notice::Goodbye(0)]);
        assert!(port.fd().is_none());
    }

    #[test]
    fn ticks_silence_and_death_are_told_apart() {
        let (port, link) = pair();
        let short = Duration::from_millis(20);
        assert_eq!(link.wait_tick(short), GuardState::Silent);
        port.tick(SystemClock.lease_now());
        assert_eq!(link.wait_tick(Duration::from_secs(10)), GuardState::Alive);
        port.tick(LeaseInstant::from_ns(1));
        assert_eq!(link.wait_tick(short), GuardState::Silent, "an old tick is no sign of life");
        drop(port);
        assert_eq!(link.wait_tick(Duration::from_secs(10)), GuardState::Gone);
        assert!(link.renew(LeaseInstant::from_ns(1)).is_err());
    }
}
