//! What happens between fork and exec.
//!
//! The engine has many threads, so after the fork only async-signal-safe calls are allowed: no
//! allocation, no lock, no panic. Everything with a choice in it is prepared in [`Image`] before.
//! Errors go back through a close-on-exec pipe: nothing but its end means that the program runs.
//!
//! Why not `std::process::Command`: it waits for the exec before it returns, which would keep the
//! gate's lock while a program hangs on a dead network file system, and it leaves the engine's signal
//! handlers active in the child, where a SIGTERM to the task would be reported to the engine.

use std::ffi::{CString, c_char};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::libc;

use super::gate::Dies;
use crate::process::descriptors::close_from;
use crate::process::limits::{self, Limits};
use crate::process::user::{NOT_FOR_TASKS, RunAs};

/// What is spawned, complete before the fork.
#[derive(Debug)]
pub struct SpawnRequest {
    /// Path of the program, looked up already.
    pub program: CString,
    /// Arguments, with the program's name first.
    pub argv: Vec<CString>,
    /// `KEY=VALUE`.
    pub env: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// What becomes descriptors 0, 1 and 2.
    pub stdio: [OwnedFd; 3],
    /// Where a failure between fork and exec is written.
    pub setup: OwnedFd,
    /// File mode creation mask.
    pub umask: u32,
    /// Scheduling priority.
    pub nice: Option<i32>,
    /// Who it becomes; `None` stays who this process is.
    pub run_as: Option<RunAs>,
    /// Whether it may get more rights than this process has.
    pub new_privileges: bool,
    /// Whether the kernel kills it with the engine.
    pub dies: Dies,
}

/// What the child was doing when it failed; sent as one byte, with errno behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Process group, death signal, subreaper, descriptors.
    Process = 1,
    /// Scheduling priority.
    Nice = 2,
    /// Working directory.
    Cwd = 3,
    /// The program itself.
    Exec = 4,
    /// The user that it runs as.
    User = 5,
}

/// Bytes of a failure message.
pub const SETUP_MESSAGE_LEN: usize = 5;

impl Stage {
    /// Reads what [`Image::run`] wrote: the stage and errno.
    pub fn parse(message: &[u8]) -> Option<(Self, i32)> {
        let (first, rest) = message.split_first()?;
        let stage =
            [Self::Process, Self::Nice, Self::Cwd, Self::Exec, Self::User].into_iter().find(|s| *s as u8 == *first)?;
        Some((stage, i32::from_ne_bytes(rest.try_into().ok()?)))
    }
}

/// A request with the pointers that exec wants. Borrowed, so that they stay valid.
pub(super) struct Image<'a> {
    request: &'a SpawnRequest,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    engine_pid: i32,
    /// What this program was started with; nothing where it has changed nothing.
    limits: Option<Limits>,
    terminal: Terminal,
}

/// Whether this process has a terminal, which a task must not share: it could type into the shell behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    /// It has none, and so its tasks have none. Each is a process group in the session of the engine: in
    /// sessions of their own the kernel would weigh them against each other whatever their `nice` says.
    None,
    /// A library in a program that somebody started by hand: each task gets a session of its own.
    Shared,
}

impl Terminal {
    /// As it is now.
    pub(super) fn here() -> Self {
        use std::os::unix::fs::OpenOptionsExt;
        let tty = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open("/dev/tty");
        if tty.is_ok() { Self::Shared } else { Self::None }
    }
}

/// Where the pipe for failures goes in the child.
const SETUP_FD: RawFd = 3;

impl<'a> Image<'a> {
    /// Prepares an image. `None` if a descriptor would be overwritten before it is used, which cannot
    /// happen while 0, 1 and 2 of this process are open.
    pub(super) fn new(request: &'a SpawnRequest, terminal: Terminal) -> Option<Self> {
        let mut sources = request.stdio.iter().chain([&request.setup]);
        if sources.any(|fd| fd.as_raw_fd() < SETUP_FD) {
            return None;
        }
        let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Some(Self {
            request,
            argv: pointers(&request.argv),
            env: pointers(&request.env),
            // In a PID namespace of its own this is what getppid of the child shows, too.
            engine_pid: std::process::id().cast_signed(),
            limits: limits::found(),
            terminal,
        })
    }

    /// Becomes the program.
    ///
    /// # Safety
    /// Only in a child that was just forked, whose signals are all blocked.
    pub(super) unsafe fn run(&self) -> ! {
        // SAFETY: every call below is async-signal-safe, and the pointers live as long as `self`.
        unsafe {
            let stage = match self.set_up() {
                Ok(()) => {
                    libc::execve(self.request.program.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
                    Stage::Exec
                }
                Err(stage) => stage,
            };
            let errno = (*libc::__errno_location()).to_ne_bytes();
            let message = [stage as u8, errno[0], errno[1], errno[2], errno[3]];
            libc::write(SETUP_FD, message.as_ptr().cast(), message.len());
            libc::_exit(127)
        }
    }

    unsafe fn set_up(&self) -> Result<(), Stage> {
        // SAFETY: as in `run`.
        unsafe {
            // First of all, so that each later failure has somewhere to go.
            self.place_descriptors()?;
            check(self.become_leader(), Stage::Process)?;
            if let Some(limits) = &self.limits {
                limits.restore().map_err(|_| Stage::Process)?;
            }
            libc::umask(self.request.umask);
            if let Some(nice) = self.request.nice {
                check(libc::setpriority(libc::PRIO_PROCESS, 0, nice), Stage::Nice)?;
            }
            self.become_user()?;
            // After the change of the user, which takes a death signal away.
            if self.request.dies == Dies::WithEngine {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0), Stage::Process)?;
            }
            // The engine may have died before the death signal was set; then nobody wants this task.
            if libc::getppid() != self.engine_pid {
                libc::_exit(127);
            }
            // Orphans of the task come to its main process, so that they are found below it while it
            // lives. Survives the exec, is not inherited by its children.
            check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), Stage::Process)?;
            check(libc::chdir(self.request.cwd.as_ptr()), Stage::Cwd)?;
            reset_signals();
        }
        Ok(())
    }

    /// Its group has its number either way.
    unsafe fn become_leader(&self) -> i32 {
        // SAFETY: as in `run`.
        unsafe {
            match self.terminal {
                Terminal::None => libc::setpgid(0, 0),
                Terminal::Shared => libc::setsid(),
            }
        }
    }

    /// Gives up what a task must not have, and becomes its user.
    unsafe fn become_user(&self) -> Result<(), Stage> {
        // SAFETY: as in `run`. The calls of libc for this would ask all threads of the parent to do the same,
        // of which there are none here; the system's own change this process.
        unsafe {
            for right in NOT_FOR_TASKS {
                // What was not given cannot be taken, and a kernel before 4.3 knows none.
                libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_LOWER, right, 0, 0);
            }
            if let Some(user) = &self.request.run_as {
                libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
                check(libc::syscall(SET_GROUPS, user.groups.len(), user.groups.as_ptr()) as i32, Stage::User)?;
                check(libc::syscall(SET_GID, user.gid, user.gid, user.gid) as i32, Stage::User)?;
                check(libc::syscall(SET_UID, user.uid, user.uid, user.uid) as i32, Stage::User)?;
            }
            if !self.request.new_privileges {
                // What has more rights than its engine could not be killed.
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), Stage::Process)?;
            }
        }
        Ok(())
    }

    unsafe fn place_descriptors(&self) -> Result<(), Stage> {
        // SAFETY: as in `run`; `new` has made sure that no source lies at a target.
        unsafe {
            let setup = self.request.setup.as_raw_fd();
            for (target, source) in self.request.stdio.iter().enumerate() {
                if libc::dup2(source.as_raw_fd(), target as RawFd) < 0 {
                    return Err(Stage::Process);
                }
            }
            if setup != SETUP_FD && libc::dup3(setup, SETUP_FD, libc::O_CLOEXEC) < 0 {
                return Err(Stage::Process);
            }
            // Closed now and not at the exec: this child may hang in chdir or exec, and with a copy of
            // another attempt's stdin it would keep that one from ever reading its end.
            close_from(SETUP_FD + 1);
        }
        Ok(())
    }
}

fn check(result: i32, stage: Stage) -> Result<(), Stage> {
    if result < 0 { Err(stage) } else { Ok(()) }
}

// Where numbers of users once had 16 bits, the first calls of these names still take those.
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const SET_GROUPS: libc::c_long = libc::SYS_setgroups;
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const SET_GID: libc::c_long = libc::SYS_setresgid;
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const SET_UID: libc::c_long = libc::SYS_setresuid;
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const SET_GROUPS: libc::c_long = libc::SYS_setgroups32;
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const SET_GID: libc::c_long = libc::SYS_setresgid32;
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const SET_UID: libc::c_long = libc::SYS_setresuid32;

/// Gives the program a fresh start: default dispositions first (Rust ignores SIGPIPE, and ignored
/// stays ignored over an exec), and only then the empty mask.
unsafe fn reset_signals() {
    // SAFETY: a zeroed sigaction is SIG_DFL without flags; numbers that cannot be set are refused
    // without harm.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_messages_read_back() {
        let errno = 13i32.to_ne_bytes();
        let message = [Stage::Cwd as u8, errno[0], errno[1], errno[2], errno[3]];
        assert_eq!(message.len(), SETUP_MESSAGE_LEN);
        assert_eq!(Stage::parse(&message), Some((Stage::Cwd, 13)));
        assert_eq!(Stage::parse(&message[..4]), None);
        assert_eq!(Stage::parse(&[9, 0, 0, 0, 0]), None);
    }
}
