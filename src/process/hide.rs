//! Keeps this process from being read or traced by others of its user, and from leaving a core file.
//!
//! A process that is not *dumpable* belongs to root in the eyes of /proc: without CAP_SYS_PTRACE nobody reads
//! its memory, its environment or its descriptors, and nobody traces it. What everybody may see stays so: its
//! arguments, its state, its children. The kernel writes no core file of it either.
//!
//! Price: whoever debugs an engine has to be root, also where the engine is not. And an exec makes a process
//! dumpable again, so each program has to say it for itself.

use std::io;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{limits, oom};

/// From now on this process is nobody's business. To be called first thing in `main`: what was read before
/// is in memory, and stays readable for as long as this was not said.
///
/// The limit is only lowered, never its ceiling, so that a task can be given back what this program was
/// started with.
pub fn hide() -> io::Result<()> {
    limits::remember()?;
    // Without it tasks have this process's score, which is what they have anywhere.
    let _ = oom::remember();
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 0, hard)?;
    Ok(set_dumpable(false)?)
}

/// [`hide`] for a program that has no log yet.
pub fn hide_or_warn() {
    if let Err(error) = hide() {
        eprintln!("warning: tasks and others of this user may read this process: {error}");
    }
}

/// Undoes the hiding of a process that was just forked and is about to exec, which would undo it anyway: as
/// long as it is hidden, its own files in /proc are root's, and it could not map its user into a namespace.
/// Only where nothing else of this user runs that could look: it still holds its parent's memory.
pub fn show() -> nix::Result<()> {
    set_dumpable(true)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, read_dir};

    use nix::libc;
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

    use super::*;
    use crate::guard::tests::in_child;

    /// Root reads everything, so the tests are somebody else.
    fn become_nobody() {
        if Uid::effective().is_root() {
            setgroups(&[]).unwrap();
            setgid(Gid::from_raw(65534)).unwrap();
            setuid(Uid::from_raw(65534)).unwrap();
            // Who changes its user is hidden until the next exec, and a program was not.
            set_dumpable(true).unwrap();
        }
    }

    /// What a child of the calling process can read or trace of it, as one bit each.
    fn open_to_a_child() -> i32 {
        let parent = std::process::id().cast_signed();
        let child = in_child(|| {
            let at = |what: &str| format!("/proc/{parent}/{what}");
            let traced = {
                // SAFETY: plain numbers.
                unsafe { libc::ptrace(libc::PTRACE_SEIZE, parent, 0, 0) == 0 }
            };
            let seen =
                [File::open(at("environ")).is_ok(), File::open(at("mem")).is_ok(), read_dir(at("fd")).is_ok(), traced];
            seen.iter().enumerate().map(|(bit, is_open)| i32::from(*is_open) << bit).sum()
        });
        match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hidden_process_is_neither_read_nor_traced_by_its_user() {
        let child = in_child(|| {
            become_nobody();
            // A kernel may forbid tracing a parent on its own; reading it is what an open process allows.
            assert_eq!(open_to_a_child() & 0b111, 0b111, "the test could not tell");
            hide().unwrap();
            assert_eq!(open_to_a_child(), 0);
            // What rekindle itself asks of its own processes stays open.
            for file in ["stat", "status", "cmdline", "cgroup", "task"] {
                assert!(File::open(format!("/proc/{}/{file}", std::process::id())).is_ok(), "{file}");
            }
            for file in ["fd", "task"] {
                assert!(read_dir(format!("/proc/self/{file}")).is_ok(), "{file}");
            }
            assert!(std::env::current_exe().is_ok());
            0
        });
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    }

    #[test]
    fn a_hidden_process_leaves_no_core_file_and_gives_the_limit_back() {
        let dir = tempfile::tempdir().unwrap();
        let child = in_child(|| {
            let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
            setrlimit(Resource::RLIMIT_CORE, hard, hard).unwrap();
            std::env::set_current_dir(dir.path()).unwrap();
            hide().unwrap();
            assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, hard));
            limits::found().unwrap().restore().unwrap();
            assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (hard, hard));
            std::process::abort()
        });
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Signaled(child, Signal::SIGABRT, false));
        assert_eq!(read_dir(dir.path()).unwrap().count(), 0);
    }
}
