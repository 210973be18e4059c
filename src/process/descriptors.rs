//! Closing all descriptors but a few between fork and exec.
//!
//! Close-on-exec alone is not enough: what the engine's own parent leaked has no such flag, and client
//! libraries open a socket first and set it afterwards. A task that got one would hold a connection that has
//! said the password already.

use std::os::fd::RawFd;

use nix::libc;

/// Closes every descriptor from `first` on. Kernels before 5.9 have no call for it, and some sandboxes forbid
/// it: then each one that is open is closed, and where /proc does not say which those are, each that could be.
///
/// # Safety
/// Only in a child that was just forked: it makes system calls only. Nobody may own a descriptor from `first`
/// on that is used afterwards.
pub unsafe fn close_from(first: RawFd) {
    // SAFETY: plain numbers, under the caller's promise.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) < 0 {
            close_one_by_one(first);
        }
    }
}

unsafe fn close_one_by_one(first: RawFd) {
    // SAFETY: as in `close_from`.
    unsafe {
        let dir = libc::open(c"/proc/self/fd".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
        if dir < 0 {
            return close_up_to_the_limit(first);
        }
        // A listing that things are taken out of may skip some: only a round that closes nothing is the last.
        while close_listed(dir, first) {
            libc::lseek(dir, 0, libc::SEEK_SET);
        }
        libc::close(dir);
    }
}

/// Closes what the directory lists, but for itself. True if there was anything.
unsafe fn close_listed(dir: RawFd, first: RawFd) -> bool {
    /// Where the length of an entry stands in it, and where its name begins: `linux_dirent64`.
    const LENGTH_AT: usize = 16;
    const NAME_AT: usize = 19;
    let mut buffer = [0_u8; 4_096];
    let mut has_closed = false;
    loop {
        // SAFETY: the buffer is as long as is said.
        let got = unsafe { libc::syscall(libc::SYS_getdents64, dir, buffer.as_mut_ptr(), buffer.len()) };
        let Ok(got @ 1..) = usize::try_from(got) else { return has_closed };
        let mut at = 0;
        while at + NAME_AT < got {
            let length = usize::from(u16::from_ne_bytes([buffer[at + LENGTH_AT], buffer[at + LENGTH_AT + 1]]));
            if let Some(fd) = number(&buffer[at + NAME_AT..got])
                && fd >= first
                && fd != dir
            {
                // SAFETY: under the promise of `close_from`.
                has_closed |= unsafe { libc::close(fd) == 0 };
            }
            if length == 0 {
                return has_closed;
            }
            at += length;
        }
    }
}

/// A decimal number that a zero byte ends; `.` and `..` are none.
fn number(name: &[u8]) -> Option<RawFd> {
    let mut value: RawFd = 0;
    for (at, byte) in name.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value.checked_mul(10)?.checked_add(RawFd::from(byte - b'0'))?,
            0 if at > 0 => return Some(value),
            _ => return None,
        }
    }
    None
}

unsafe fn close_up_to_the_limit(first: RawFd) {
    /// A limit that says "any number" is not walked through.
    const MOST: RawFd = 1 << 20;
    // SAFETY: as in `close_from`; a zeroed limit is valid.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let end = RawFd::try_from(limit.rlim_cur).unwrap_or(MOST).min(MOST);
        for fd in first..end {
            libc::close(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};

    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;
    use crate::guard::tests::in_child;

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: a plain number.
        unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
    }

    fn all_are_closed_by(close: unsafe fn(RawFd)) {
        let child = in_child(|| {
            let open: Vec<OwnedFd> = (0..300).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
            let kept = open[0].as_raw_fd();
            let numbers: Vec<RawFd> = open.iter().map(AsRawFd::as_raw_fd).collect();
            std::mem::forget(open);
            // SAFETY: what they belong to was forgotten.
            unsafe { close(kept + 1) };
            assert!(numbers[1..].iter().all(|fd| !is_open(*fd)));
            assert!((0..=kept).all(is_open));
            0
        });
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    }

    #[test]
    fn an_old_kernel_closes_all_of_them_too() {
        all_are_closed_by(close_from);
        all_are_closed_by(close_one_by_one);
        all_are_closed_by(close_up_to_the_limit);
    }

    #[test]
    fn names_that_are_no_numbers_are_left_alone() {
        assert_eq!(number(b"17\0rest"), Some(17));
        for name in [&b".\0"[..], b"..\0", b"\0", b"9", b"99999999999\0"] {
            assert_eq!(number(name), None);
        }
    }
}
