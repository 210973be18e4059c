//! A fork that runs nobody's handlers.
//!
//! Libraries that a client library brings along (LDAP, TLS, Kerberos) register handlers that run around each
//! fork, with their locks, in a process with many threads. The child of a task's fork needs none of what they
//! mend: it makes a few system calls and becomes another program. glibc from 2.34 and musl have `_Fork` for
//! that; elsewhere it is the ordinary one.

use std::ffi::c_void;

use nix::libc::{self, pid_t};

/// The fork that this system has for it.
#[derive(Debug, Clone, Copy)]
pub struct BareFork(unsafe extern "C" fn() -> pid_t);

impl BareFork {
    /// Looks for it. At start and not at the fork: the dynamic linker has a lock.
    pub fn find() -> Self {
        // SAFETY: a name that ends with a zero byte.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_Fork".as_ptr()) };
        if found.is_null() {
            return Self(libc::fork);
        }
        // SAFETY: POSIX gives `_Fork` exactly this type, and lets a function's address be told like this.
        Self(unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> pid_t>(found) })
    }

    /// Forks.
    ///
    /// # Safety
    /// The child may make system calls only: no lock of any library was made usable for it.
    pub unsafe fn fork(self) -> pid_t {
        // SAFETY: under the caller's promise.
        unsafe { (self.0)() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::*;

    static HANDLED: AtomicU32 = AtomicU32::new(0);

    extern "C" fn handle() {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn handlers_of_libraries_do_not_run() {
        let bare = BareFork::find();
        let child = crate::guard::tests::in_child(|| {
            // SAFETY: the handler only counts. This process was forked with one thread and ends soon.
            unsafe { libc::pthread_atfork(Some(handle), None, None) };
            // SAFETY: the child only exits.
            let child = unsafe { bare.fork() };
            if child == 0 {
                // SAFETY: it may be called at any time.
                unsafe { libc::_exit(3) };
            }
            assert_eq!(waitpid(Pid::from_raw(child), None).unwrap(), WaitStatus::Exited(Pid::from_raw(child), 3));
            // Where there is no such fork the handlers run, and that is known.
            let is_bare = bare.0 as *const () != libc::fork as *const ();
            assert_eq!(HANDLED.load(Ordering::Relaxed), u32::from(!is_bare));
            0
        });
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    }
}
