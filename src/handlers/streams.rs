//! The pipes between a supervisor and its command: none of them can block the supervisor, none can
//! grow its memory.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{read, write};

use super::child::{SETUP_MESSAGE_LEN, Stage};
use super::tail::Tail;
use crate::process::user::RunAs;

/// What is read at once: what a pipe holds by default.
const CHUNK: usize = 64 << 10;
/// How many chunks are read after the end. Only what was in the pipes is still of interest; whoever
/// can still write to them is no part of the attempt.
const LAST_CHUNKS_MAX: usize = 64;
/// Enough of stderr for its last line.
const LAST_LINE_KEEP: usize = 4 << 10;

/// A stream of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Setup,
    Stdin,
    Stdout,
    Stderr,
}

/// The supervisor's ends. `None` is closed.
pub(super) struct Streams {
    setup: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    payload: Arc<[u8]>,
    sent: usize,
    setup_message: Vec<u8>,
    output: Tail,
    errors: Tail,
    chunk: Vec<u8>,
}

/// The command's ends.
pub(super) struct ChildEnds {
    pub(super) stdio: [OwnedFd; 3],
    pub(super) setup: OwnedFd,
}

impl Streams {
    /// Opens the pipes of one attempt.
    pub(super) fn open(payload: Arc<[u8]>, output_keep: usize) -> io::Result<(Self, ChildEnds)> {
        let (child_in, stdin) = io::pipe()?;
        let (stdout, child_out) = io::pipe()?;
        let (stderr, child_err) = io::pipe()?;
        let (setup, child_setup) = io::pipe()?;
        let ours = Self {
            setup: Some(reader(setup)?),
            stdin: Some(writer(stdin)?).filter(|_| !payload.is_empty()),
            stdout: Some(reader(stdout)?),
            stderr: Some(reader(stderr)?),
            payload,
            sent: 0,
            setup_message: Vec::new(),
            output: Tail::new(output_keep),
            errors: Tail::new(LAST_LINE_KEEP),
            chunk: vec![0; CHUNK],
        };
        let stdio = [child_in.into(), child_out.into(), child_err.into()];
        Ok((ours, ChildEnds { stdio, setup: child_setup.into() }))
    }

    /// Makes the command's ends the user's that it runs as: a program that opens `/dev/stdout` once more opens
    /// the pipe, and may do so only if it is its own.
    pub(super) fn give(ends: &ChildEnds, user: &RunAs) -> io::Result<()> {
        ends.stdio.iter().try_for_each(|end| fchown(end, Some(user.uid), Some(user.gid)))
    }

    /// The open ends, to be polled.
    pub(super) fn open_ends(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        [
            (Stream::Setup, &self.setup),
            (Stream::Stdin, &self.stdin),
            (Stream::Stdout, &self.stdout),
            (Stream::Stderr, &self.stderr),
        ]
        .into_iter()
        .filter_map(|(stream, fd)| fd.as_ref().map(|fd| (stream, fd.as_fd())))
    }

    /// Moves what can be moved now, at most one chunk: a flood on one stream must not keep the
    /// supervisor from its other duties.
    pub(super) fn pump(&mut self, stream: Stream) {
        match stream {
            Stream::Stdin => self.feed(),
            _ => {
                self.take(stream);
            }
        }
    }

    /// A command may read nothing or stop reading: the broken pipe that follows is its choice.
    fn feed(&mut self) {
        let Some(fd) = &self.stdin else { return };
        match write(fd, &self.payload[self.sent..]) {
            Ok(count) => self.sent += count,
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) => self.sent = self.payload.len(),
        }
        if self.sent >= self.payload.len() {
            self.stdin = None;
        }
    }

    /// Reads one chunk; false when there is nothing more now.
    fn take(&mut self, stream: Stream) -> bool {
        let end = match stream {
            Stream::Setup => &mut self.setup,
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::Stdin => return false,
        };
        let Some(fd) = end else { return false };
        let count = match read(fd, &mut self.chunk) {
            Ok(count) if count > 0 => count,
            Err(Errno::EINTR) => return true,
            Err(Errno::EAGAIN) => return false,
            Ok(_) | Err(_) => {
                *end = None;
                return false;
            }
        };
        let bytes = &self.chunk[..count];
        match stream {
            Stream::Setup => self.setup_message.extend(&bytes[..count.min(SETUP_MESSAGE_LEN)]),
            _ => self.output.push(bytes),
        }
        if stream == Stream::Stderr {
            self.errors.push(bytes);
        }
        true
    }

    /// Takes what is still in the pipes and closes them, also if somebody keeps the other end open.
    pub(super) fn finish(mut self) -> Captured {
        for stream in [Stream::Setup, Stream::Stdout, Stream::Stderr] {
            let mut chunks = 0;
            while chunks < LAST_CHUNKS_MAX && self.take(stream) {
                chunks += 1;
            }
        }
        let last_line = self.errors.last_line();
        let (output, dropped) = self.output.finish();
        Captured { setup_failure: Stage::parse(&self.setup_message), output, dropped, last_line }
    }
}

/// What came out of a command.
pub(super) struct Captured {
    /// It never became the program: what failed, and errno.
    pub(super) setup_failure: Option<(Stage, i32)>,
    pub(super) output: Vec<u8>,
    pub(super) dropped: u64,
    /// Of stderr.
    pub(super) last_line: Option<String>,
}

fn reader(pipe: PipeReader) -> io::Result<OwnedFd> {
    non_blocking(pipe.into())
}

fn writer(pipe: PipeWriter) -> io::Result<OwnedFd> {
    non_blocking(pipe.into())
}

/// Only our end: the two ends of a pipe have flags of their own.
fn non_blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    debug_assert!(fd.as_raw_fd() > 2, "standard descriptors are open");
    Ok(fd)
}
