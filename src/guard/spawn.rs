//! Starting the engine and the prover: fork, a few steps, exec.
//!
//! Not `std::process::Command`, because a PID namespace is given at the fork itself: entered any
//! earlier it would also take the prover in, which must still start after the namespace is dead.
//! Everything is prepared before the fork; the steps behind it only make system calls. What fails
//! there comes back through a pipe that a successful exec closes, so that a spawn that returned is
//! a process that runs the right program.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execve, execvpe, fork, pipe2, setsid};

use crate::process::{self, limits};

/// libpq brings the LDAP client along, and that a second TLS library which sets itself up at each start, 0.8 MiB of
/// it, whether anybody speaks LDAP or not. Whoever does starts it himself, as the client libraries do.
const LEAN: (&str, &str) = ("GNUTLS_NO_IMPLICIT_INIT", "1");

/// The file of this program, as it was called when it was there.
static OWN_PROGRAM: OnceLock<OsString> = OnceLock::new();

/// From now on this program is found also after its file was removed.
pub fn remember_own_program(path: &Path) {
    let _ = OWN_PROGRAM.set(path.as_os_str().to_owned());
}

/// What to start, and how.
pub(super) struct Recipe<'a> {
    /// Program and arguments; the program is looked up in PATH.
    pub(super) argv: &'a [OsString],
    /// Added to this process's environment.
    pub(super) env: Vec<(&'static str, OsString)>,
    /// Kept open across the exec.
    pub(super) inherit: Vec<BorrowedFd<'a>>,
    /// The `cgroup.procs` of the group to move into.
    pub(super) door: Option<File>,
    /// Whether it becomes the first process of a new PID namespace.
    pub(super) is_namespaced: bool,
}

/// What went wrong between fork and exec.
#[derive(Debug, thiserror::Error)]
#[error("could not {step} for {program}")]
pub(super) struct SpawnError {
    step: &'static str,
    program: String,
    #[source]
    source: io::Error,
}

const STEPS: [&str; 8] = [
    "leave the session",
    "enter the control group",
    "map the user into a new namespace",
    "mount /proc in a new namespace",
    "pass on a file descriptor",
    "reset the signals",
    "run the program",
    "give back the limits",
];

/// Starts it and returns once it runs its program. Its session is its own, so that a Ctrl-C at the terminal
/// reaches the guard alone, which passes it on once, and so that no task has a terminal: one that it shares
/// with a person who started the engine by hand would let it type into that person's shell.
pub(super) fn spawn(recipe: &Recipe<'_>) -> Result<Pid, SpawnError> {
    let program = recipe.argv.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let failed = |step, source| SpawnError { step, program: program.clone(), source };
    let prepared = Prepared::new(recipe).map_err(|e| failed("prepare", e))?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("make a pipe", e.into()))?;
    match fork_into(namespaces(recipe.is_namespaced)).map_err(|e| failed("fork", e.into()))? {
        ForkResult::Child => {
            let (step, errno) = prepared.become_it(recipe);
            tell_and_exit(writer, step, errno)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut answer = [0_u8; 5];
            if File::from(reader).read_exact(&mut answer).is_err() {
                return Ok(child);
            }
            let _ = waitpid(child, None);
            let [step, errno @ ..] = answer;
            let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            Err(failed(STEPS[usize::from(step)], source))
        }
    }
}

/// Whether a process can be moved through this `cgroup.procs`, tried with one that ends at once.
pub(super) fn try_door(door: &File) -> io::Result<()> {
    try_in_child(0, || enter(door))
}

/// Whether a PID namespace with a /proc of its own can be made here.
pub(super) fn try_namespace() -> io::Result<()> {
    let maps = Maps::new();
    try_in_child(namespaces(true), || maps.write().and_then(|()| mount_proc()))
}

fn try_in_child(flags: libc::c_int, attempt: impl FnOnce() -> Result<(), Errno>) -> io::Result<()> {
    match fork_into(flags)? {
        ForkResult::Child => exit_now(attempt().err().map_or(0, |e| e as i32)),
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
            other => Err(io::Error::other(format!("the trial ended with {other:?}"))),
        },
    }
}

const fn namespaces(is_namespaced: bool) -> libc::c_int {
    match is_namespaced {
        false => 0,
        true => libc::CLONE_NEWPID | libc::CLONE_NEWNS,
    }
}

/// fork, into new namespaces if flags say so; without root also into a new user namespace, which is
/// what lets an ordinary user make the others.
fn fork_into(flags: libc::c_int) -> nix::Result<ForkResult> {
    if flags == 0 {
        // SAFETY: the child only makes system calls and execs or exits; the guard has one thread anyway.
        return unsafe { fork() };
    }
    let user = if nix::unistd::geteuid().is_root() { 0 } else { libc::CLONE_NEWUSER };
    let flags = libc::c_long::from(flags | user | libc::SIGCHLD);
    // SAFETY: without a new stack this is fork with namespaces; the same holds for the child as above.
    // Flags come second on s390x; the unused arguments are zero.
    let pid = unsafe {
        if cfg!(target_arch = "s390x") {
            libc::syscall(libc::SYS_clone, 0, flags, 0, 0, 0)
        } else {
            libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0)
        }
    };
    Ok(match Errno::result(pid)? {
        0 => ForkResult::Child,
        pid => ForkResult::Parent { child: Pid::from_raw(pid as i32) },
    })
}

/// Arguments and environment in the form that exec takes.
struct Prepared {
    argv: Vec<CString>,
    env: Vec<CString>,
    maps: Maps,
    /// It is the program that runs here.
    is_own_program: bool,
}

impl Prepared {
    fn new(recipe: &Recipe<'_>) -> io::Result<Self> {
        let argv: Vec<CString> = recipe.argv.iter().map(|a| text(a.clone())).collect::<io::Result<_>>()?;
        if argv.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program is named"));
        }
        // systemd means its watchdog for the guard's process; the engine feeds it, and a client library
        // that compared WATCHDOG_PID with its own would not.
        let inherited = std::env::vars_os().filter(|(name, _)| name != "WATCHDOG_PID");
        let added = recipe.env.iter().map(|(name, value)| (OsString::from(name), value.clone()));
        let is_added = |name: &OsStr| recipe.env.iter().any(|(n, _)| name == *n);
        let lean = Some(LEAN).filter(|(name, _)| std::env::var_os(name).is_none());
        let lean = lean.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let env = inherited.filter(|(name, _)| !is_added(name)).chain(added).chain(lean);
        let env = env.map(|(name, value)| text([name, value].join(OsStr::new("=")))).collect::<io::Result<_>>()?;
        let is_own_program = OWN_PROGRAM.get().is_some_and(|own| recipe.argv.first() == Some(own));
        Ok(Self { argv, env, maps: Maps::new(), is_own_program })
    }

    /// In the child. Returns only with the number of the step that failed.
    fn become_it(&self, recipe: &Recipe<'_>) -> (u8, Errno) {
        self.steps(recipe).err().unwrap_or((0, Errno::UnknownErrno))
    }

    fn steps(&self, recipe: &Recipe<'_>) -> Result<(), (u8, Errno)> {
        let at = |step: u8| move |errno: Errno| (step, errno);
        setsid().map_err(at(0))?;
        if let Some(limits) = limits::found() {
            limits.restore().map_err(at(7))?;
        }
        if let Some(door) = &recipe.door {
            enter(door).map_err(at(1))?;
        }
        if recipe.is_namespaced {
            self.maps.write().map_err(at(2))?;
            mount_proc().map_err(at(3))?;
            // The engine is the first process of its namespace: with it the kernel kills everything in it. So
            // here, and only here, it may die with its guard at once, even while it is frozen.
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(at(3))?;
        }
        for fd in &recipe.inherit {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map_err(at(4))?;
        }
        reset_signals().map_err(at(5))?;
        let Err(errno) = execvpe(&self.argv[0], &self.argv, &self.env);
        // The release was removed while it runs. This process still has the program, and so has its copy here.
        if errno == Errno::ENOENT && self.is_own_program {
            execve(c"/proc/self/exe", &self.argv, &self.env).map_err(at(6))?;
        }
        Err::<(), _>(errno).map_err(at(6))?;
        Ok(())
    }
}

fn text(value: OsString) -> io::Result<CString> {
    CString::new(value.into_vec()).map_err(io::Error::from)
}

/// The user outside is the same user inside a new user namespace; formatted before the fork.
struct Maps {
    is_needed: bool,
    uid: String,
    gid: String,
}

impl Maps {
    fn new() -> Self {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Self { is_needed: !uid.is_root(), uid: format!("{uid} {uid} 1"), gid: format!("{gid} {gid} 1") }
    }

    fn write(&self) -> Result<(), Errno> {
        if !self.is_needed {
            return Ok(());
        }
        // Nothing that the guard started runs at this moment, and the exec would do it anyway.
        process::show()?;
        put("/proc/self/setgroups", "deny")?;
        put("/proc/self/uid_map", &self.uid)?;
        put("/proc/self/gid_map", &self.gid)
    }
}

fn put(path: &str, value: &str) -> Result<(), Errno> {
    let result = File::options().write(true).open(path).and_then(|mut f| f.write_all(value.as_bytes()));
    result.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
}

/// The engine finds its tasks in /proc by number, so it needs one that shows its own namespace's
/// numbers: with the outer ones it would kill strangers. Mounts from outside still arrive.
fn mount_proc() -> Result<(), Errno> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
}

fn enter(mut door: &File) -> Result<(), Errno> {
    door.write_all(b"0").map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
}

/// The guard blocks signals to read them, and Rust ignores SIGPIPE: neither is meant for others.
fn reset_signals() -> Result<(), Errno> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(Signal::SIGPIPE, &default) }?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

fn tell_and_exit(writer: OwnedFd, step: u8, errno: Errno) -> ! {
    let [a, b, c, d] = (errno as i32).to_ne_bytes();
    let _ = nix::unistd::write(writer.as_fd(), &[step, a, b, c, d]);
    exit_now(127)
}

/// Without running what the parent registered for its own exit.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit may be called at any time.
    unsafe { libc::_exit(code) }
}

/// `argv` with more arguments behind it.
pub(super) fn with_arguments(argv: &[OsString], more: &[&str]) -> Vec<OsString> {
    argv.iter().cloned().chain(more.iter().map(|a| OsStr::from_bytes(a.as_bytes()).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(argv: &[OsString]) -> Recipe<'_> {
        Recipe { argv, env: vec![], inherit: vec![], door: None, is_namespaced: false }
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error_and_no_child() {
        let argv = [OsString::from("/nonexistent/engine")];
        let error = spawn(&recipe(&argv)).unwrap_err();
        assert_eq!(error.to_string(), "could not run the program for /nonexistent/engine");
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_program_gets_what_was_added_and_not_the_watchdogs_process() {
        let script =
            "[ \"$ADDED\" = 'a=b c' ] && [ -z \"$WATCHDOG_PID\" ] && [ \"$GNUTLS_NO_IMPLICIT_INIT\" = 1 ] && exit 7";
        let argv = ["sh", "-c", script].map(OsString::from);
        let child = spawn(&Recipe { env: vec![("ADDED", "a=b c".into())], ..recipe(&argv) }).unwrap();
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7));
    }
}
