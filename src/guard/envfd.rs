//! File descriptors that the guard hands to the engine by number in an environment variable.
//!
//! They must not travel further: a task that held the lock or the link would make a dead engine look
//! alive. So the variable is removed and the descriptor is closed on exec before anything is spawned.

use std::env;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Takes the descriptor that `name` tells of; `None` where the variable is not set. To be called once,
/// at the start of the process, before its second thread.
pub(super) fn take(name: &str) -> io::Result<Option<OwnedFd>> {
    let Some(text) = env::var_os(name) else { return Ok(None) };
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other(format!("{name} must be taken before the first thread is started")));
    }
    let number = text.to_str().and_then(|t| t.parse::<RawFd>().ok()).filter(|n| *n > 2);
    let number = number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is no number")))?;
    // SAFETY: this is the only thread (checked above), so nobody else reads the environment.
    unsafe { env::remove_var(name) };
    // SAFETY: only used for this call, which fails for a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, the guard opened it for this process, and with the variable gone nobody
    // takes it a second time.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
}
