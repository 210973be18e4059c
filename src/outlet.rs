//! Standard error as all programs here write to it: nobody who has something to say ever waits for who reads.
//!
//! A pipe that nobody drains, a terminal that was stopped, a journal that hangs, a full disk: any of them would
//! otherwise hold whoever writes next, and with it the lock of the logger, and so every thread that logs. A
//! guard that is held does not kill (I5), a heartbeat that is held is not sent. So lines go into a queue that is
//! bounded; what does not fit is dropped and counted, and the count is said as soon as lines flow again.
//!
//! Who takes them out of the queue:
//! * Mostly a thread of its own ([`Outlet::start`]). It alone may block; at the end of the process it is waited
//!   for a little ([`Outlet::flush`]), and then left behind.
//! * The guard has one thread by design. It writes by itself ([`Outlet::write_by_myself`]), only where `poll`
//!   says that there is room, and under a timer: between the poll and the write somebody else may have taken
//!   the room, and then the timer's signal ends the write after a few milliseconds.
//!
//! Why not `O_NONBLOCK`: the flag belongs to the open description, which is shared with whoever started the
//! program, often a shell and its terminal. A description of our own (opened anew by /proc/self/fd/2) is there
//! neither for a socket, which is what systemd gives, nor for a pipe that another user has made, which is what
//! container engines give. `RWF_NOWAIT` is too new for pipes, and terminals do not know it.
//!
//! One case is left: a regular file on a disk that hangs holds the guard in the kernel, where no signal reaches
//! it. It has killed before it writes; an engine whose guard is silent for L kills its tasks and ends.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction};
use parking_lot::{Condvar, Mutex};

use crate::clock::{Clock, SystemClock};

/// What may wait to be written.
const QUEUE_MAX: usize = 64 << 10;

/// After lines were dropped: only with that much room again are more taken, or the log would be nothing but
/// counts of what was dropped.
const QUEUE_LOW: usize = QUEUE_MAX / 2;

/// `poll` calls a pipe writable if it has room for this much.
const PIECE_MAX: usize = 4_096;

/// After this long a write of the guard is ended, and again after each further such time.
const WRITE_MAX: Duration = Duration::from_millis(5);

/// So long a command waits for a line of its own to be read, so that it stands where it belongs among those of
/// standard output; not again until one was read.
const ORDER_MAX: Duration = Duration::from_millis(100);

/// How a process says that lines were dropped.
pub type Gap = fn(u64) -> String;

/// The one that writes to standard error.
pub static STDERR: Outlet = Outlet::new();

/// See the module.
pub struct Outlet {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// All that were ever dropped.
    dropped: u64,
    /// Of those, what the log has not told yet.
    untold: u64,
    /// A line is on its way.
    is_writing: bool,
    /// Somebody has waited in vain, and nothing was read since.
    is_clogged: bool,
    writer: Writer,
    gap: Gap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// Nobody yet: lines wait.
    Nobody,
    Thread,
    Myself,
}

impl Outlet {
    /// Of nothing yet.
    pub const fn new() -> Self {
        let queue = Queue {
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            untold: 0,
            is_writing: false,
            is_clogged: false,
            writer: Writer::Nobody,
            gap: |count| format!("{count} lines were dropped, because nobody read them\n"),
        };
        Self { queue: Mutex::new(queue), changed: Condvar::new() }
    }

    /// How to say that lines were dropped.
    pub fn on_gap(&self, gap: Gap) {
        self.queue.lock().gap = gap;
    }

    /// Starts the thread that writes; once. To be called after everything that must come before a process's
    /// second thread.
    pub fn start(&'static self) -> io::Result<()> {
        {
            let mut queue = self.queue.lock();
            if queue.writer != Writer::Nobody {
                return Ok(());
            }
            queue.writer = Writer::Thread;
        }
        let thread = std::thread::Builder::new().name("log".into()).stack_size(64 << 10);
        let begun = thread.spawn(|| self.write_for_ever(io::stderr().as_fd()));
        begun.map(drop).inspect_err(|_| self.queue.lock().writer = Writer::Nobody)
    }

    /// From now on whoever says something writes it, as far as there is room: for a process with one thread.
    pub fn write_by_myself(&self) -> io::Result<()> {
        extern "C" fn woken(_: libc::c_int) {}
        // Without SA_RESTART, or the signal would end nothing.
        let action = SigAction::new(SigHandler::Handler(woken), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGALRM, &action) }?;
        self.queue.lock().writer = Writer::Myself;
        Ok(())
    }

    /// Takes a line, or drops and counts it. Returns at once.
    pub fn say(&self, line: &[u8]) {
        let mut queue = self.queue.lock();
        queue.push(line);
        match queue.writer {
            Writer::Thread => drop(self.changed.notify_all()),
            Writer::Myself => queue.write_what_goes(io::stderr().as_fd()),
            Writer::Nobody => {}
        }
    }

    /// The same, and a short wait while lines are read: for a program that also writes to standard output.
    pub fn say_in_order(&self, line: &[u8]) {
        self.say(line);
        if !self.queue.lock().is_clogged && !self.flush(ORDER_MAX) {
            self.queue.lock().is_clogged = true;
        }
    }

    /// Waits until all is written, for at most so long. True if it is.
    pub fn flush(&self, limit: Duration) -> bool {
        let end = SystemClock.lease_now().after(limit);
        let mut queue = self.queue.lock();
        loop {
            queue.own_up();
            if queue.lines.is_empty() && !queue.is_writing {
                return true;
            }
            if queue.writer == Writer::Nobody {
                drop(queue);
                // Whoever ends before there was a writer has one thread.
                if self.write_by_myself().is_err() {
                    return false;
                }
                queue = self.queue.lock();
            }
            if queue.writer == Writer::Myself {
                queue.write_what_goes(io::stderr().as_fd());
                if queue.lines.is_empty() && queue.untold == 0 {
                    return true;
                }
            }
            let left = end.since(SystemClock.lease_now());
            if left.is_zero() {
                return false;
            }
            if queue.writer == Writer::Thread {
                self.changed.wait_for(&mut queue, left);
            } else {
                has_room(io::stderr().as_fd(), left);
            }
        }
    }

    /// How many lines were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.queue.lock().dropped
    }

    fn write_for_ever(&self, to: BorrowedFd<'_>) {
        // Where a terminal stops whoever writes in the background, it would stop the whole process.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTTOU);
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&stop), None);
        loop {
            let line = self.next();
            let written = write_all(to, &line);
            let mut queue = self.queue.lock();
            queue.is_writing = false;
            match written {
                Ok(()) => queue.is_clogged = false,
                Err(_) => queue.lost(1),
            }
            drop(queue);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut queue = self.queue.lock();
        loop {
            queue.own_up();
            if let Some(line) = queue.pop() {
                queue.is_writing = true;
                return line;
            }
            self.changed.wait(&mut queue);
        }
    }
}

impl Default for Outlet {
    fn default() -> Self {
        Self::new()
    }
}

impl Queue {
    fn push(&mut self, line: &[u8]) {
        self.own_up();
        // While a gap is untold, nothing may stand behind it: the count must be where the lines are missing.
        if self.untold > 0 || self.bytes + line.len() > QUEUE_MAX {
            self.lost(1);
        } else {
            self.put(line.to_vec());
        }
    }

    /// Says how many lines are missing, as soon as there is room to go on.
    fn own_up(&mut self) {
        if self.untold > 0 && self.bytes <= QUEUE_LOW {
            let line = (self.gap)(std::mem::take(&mut self.untold));
            self.put(line.into_bytes());
        }
    }

    fn lost(&mut self, count: u64) {
        self.dropped += count;
        self.untold += count;
    }

    fn put(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.len();
        Some(line)
    }

    /// Writes as long as there is room.
    fn write_what_goes(&mut self, to: BorrowedFd<'_>) {
        while let Some(line) = self.lines.front_mut() {
            if !has_room(to, Duration::ZERO) {
                return;
            }
            match write_in_time(to, &line[..line.len().min(PIECE_MAX)]) {
                Ok(count) => {
                    line.drain(..count);
                    self.bytes -= count;
                    if line.is_empty() {
                        self.lines.pop_front();
                    }
                }
                Err(Errno::EINTR | Errno::EAGAIN) => return,
                // A full disk, a closed pipe: it will not get better by trying this one again.
                Err(_) => {
                    self.pop();
                    self.lost(1);
                    return;
                }
            }
        }
    }
}

fn has_room(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    let limit = PollTimeout::try_from(limit.as_millis()).unwrap_or(PollTimeout::MAX);
    // An error counts as room: the write then says which.
    poll(&mut fds, limit).is_ok_and(|count| count > 0)
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            // Whoever shares the description has made it so.
            Err(Errno::EAGAIN) => drop(poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A write that is ended by a signal if it blocks. It comes again and again, so that one that arrives before the
/// write has begun does no harm.
fn write_in_time(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    ring_every(WRITE_MAX);
    let result = nix::unistd::write(fd, bytes);
    ring_every(Duration::ZERO);
    result
}

fn ring_every(span: Duration) {
    let span = libc::timeval { tv_sec: 0, tv_usec: span.subsec_micros().into() };
    let timer = libc::itimerval { it_interval: span, it_value: span };
    // SAFETY: the value lives through the call, and none is asked back. It cannot fail with such spans.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

/// For a logger that wants something to write into. A call is a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToStderr {
    /// By [`Outlet::say`].
    AtOnce,
    /// By [`Outlet::say_in_order`].
    InOrder,
}

impl io::Write for ToStderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::AtOnce => STDERR.say(line),
            Self::InOrder => STDERR.say_in_order(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    /// A pipe that is full, with what stands in it.
    fn full() -> (io::PipeReader, io::PipeWriter, usize) {
        let (reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let filled = (0..).take_while(|_| nix::unistd::write(&writer, &[b'.'; 1_024]).is_ok()).count();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        (reader, writer, filled * 1_024)
    }

    fn text(reader: &mut impl Read, count: usize) -> String {
        let mut bytes = vec![0; count];
        reader.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_told_where_it_is_missing() {
        let outlet = Outlet::new();
        let line = [b'x'; 1_024];
        (0..QUEUE_MAX / 1_024 + 3).for_each(|_| outlet.say(&line));
        assert_eq!(outlet.dropped(), 3);
        let mut queue = outlet.queue.lock();
        while queue.bytes > QUEUE_LOW {
            queue.pop();
        }
        queue.push(b"after");
        let last: Vec<_> = queue.lines.iter().rev().take(2).rev().map(|l| String::from_utf8_lossy(l)).collect();
        assert_eq!(last, ["3 lines were dropped, because nobody read them\n", "after"]);
    }

    #[test]
    fn who_writes_by_himself_never_waits_for_a_full_pipe_and_goes_on_later() {
        let (mut reader, writer, filled) = full();
        let outlet = Outlet::new();
        outlet.say(b"first\n");
        outlet.queue.lock().write_what_goes(writer.as_fd());
        assert_eq!(outlet.queue.lock().lines.len(), 1);
        text(&mut reader, filled);
        outlet.queue.lock().write_what_goes(writer.as_fd());
        assert_eq!(text(&mut reader, 6), "first\n");
    }

    #[test]
    fn a_write_that_finds_the_room_taken_is_ended_by_the_timer() {
        crate::guard::in_one_thread(|| {
            let (_reader, writer, _) = full();
            Outlet::new().write_by_myself().unwrap();
            assert_eq!(write_in_time(writer.as_fd(), b"x"), Err(Errno::EINTR));
        });
    }

    #[test]
    fn the_thread_alone_waits_for_a_full_pipe_and_writes_all_in_order() {
        let (mut reader, writer, filled) = full();
        let outlet = Arc::new(Outlet::new());
        outlet.queue.lock().writer = Writer::Thread;
        let its = Arc::clone(&outlet);
        std::thread::spawn(move || its.write_for_ever(writer.as_fd()));
        outlet.say(b"one\n");
        outlet.say(b"two\n");
        assert!(!outlet.flush(Duration::from_millis(20)));
        text(&mut reader, filled);
        assert!(outlet.flush(Duration::from_secs(30)));
        assert_eq!(text(&mut reader, 8), "one\ntwo\n");
    }

    #[test]
    fn a_full_disk_drops_lines_and_holds_nobody() {
        let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
            return println!("skipped: there is no /dev/full");
        };
        let outlet = Outlet::new();
        outlet.say(b"lost\n");
        outlet.queue.lock().write_what_goes(full.as_fd());
        assert_eq!((outlet.dropped(), outlet.queue.lock().lines.len()), (1, 0));
    }
}
