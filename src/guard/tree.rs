//! Processes and who descends from whom, read from /proc.
//!
//! Two ways to list descendants: the kernel's own lists of children (`/proc/PID/task/TID/children`),
//! which cost only what they find, and, on a kernel built without them, a snapshot of all processes.
//! Neither is one moment's truth: a process may be born behind the reader's back. Who needs certainty
//! repeats the listing (`kill.rs`), and the guard at the end asks `waitpid`, which cannot be wrong.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// More processes than a Linux can have: bounds a listing that runs in circles over reused numbers.
const PID_LIMIT: usize = 1 << 22;

/// One process as /proc showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proc {
    /// Its id.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its process group.
    pub pgid: i32,
    /// State letter of its first thread; `Z` and `X` are dead.
    pub state: u8,
    /// How many threads it has.
    pub thread_count: u32,
    /// Clock ticks since boot at its start: with the pid it names a process for good.
    pub start_ticks: u64,
}

impl Proc {
    /// Whether it can still run. A process whose first thread ended shows `Z` while others go on.
    pub const fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x') || self.thread_count > 1
    }
}

/// Reads one process; `None` if there is none.
pub fn read(pid: i32) -> Option<Proc> {
    try_read(pid).ok().flatten()
}

/// Reads one process; an error if it may exist and cannot be read (no file descriptor left, say).
fn try_read(pid: i32) -> io::Result<Option<Proc>> {
    Ok(gone_is_none(fs::read(format!("/proc/{pid}/stat")))?.and_then(|text| parse(pid, &text)))
}

fn parse(pid: i32, text: &[u8]) -> Option<Proc> {
    // The name may hold spaces and parentheses: what follows the last `)` is safe to split.
    let after = text.iter().rposition(|b| *b == b')')? + 2;
    let rest = std::str::from_utf8(text.get(after..)?).ok()?;
    let mut words = rest.split_ascii_whitespace();
    let state = *words.next()?.as_bytes().first()?;
    let ppid = words.next()?.parse().ok()?;
    let pgid = words.next()?.parse().ok()?;
    // Fields 20 and 22 of the file; state was field 3, and three were taken.
    let thread_count = words.nth(20 - 3 - 3)?.parse().ok()?;
    let start_ticks = words.nth(22 - 20 - 1)?.parse().ok()?;
    Some(Proc { pid, ppid, pgid, state, thread_count, start_ticks })
}

/// A process that ended meanwhile is no error.
fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
        Err(e) => Err(e),
    }
}

/// All processes of this PID namespace, at about one moment.
pub fn snapshot() -> io::Result<Vec<Proc>> {
    let mut all = Vec::with_capacity(256);
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|n| n.parse().ok())
            && let Some(proc) = try_read(pid)?
        {
            all.push(proc);
        }
    }
    Ok(all)
}

/// Everything below `root` in a snapshot, parents before children, `root` not included.
pub fn descendants(all: &[Proc], root: i32) -> Vec<Proc> {
    descendants_without(all, root, &[])
}

fn descendants_without(all: &[Proc], root: i32, spare: &[i32]) -> Vec<Proc> {
    let mut found: Vec<Proc> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for proc in all.iter().filter(|p| p.ppid == parent && p.pid != root && !spare.contains(&p.pid)) {
            found.push(*proc);
            parents.push(proc.pid);
        }
    }
    found
}

/// Everything below `root` now, except `spare` and what is below those. Dead, unreaped ones included.
pub fn below(root: i32, spare: &[i32]) -> io::Result<Vec<Proc>> {
    if !fs::exists("/proc/thread-self/children")? {
        return Ok(descendants_without(&snapshot()?, root, spare));
    }
    let mut found: Vec<Proc> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for pid in children(parent)? {
            if !spare.contains(&pid)
                && let Some(proc) = try_read(pid)?
            {
                found.push(proc);
                parents.push(pid);
            }
        }
        if found.len() > PID_LIMIT {
            break;
        }
    }
    Ok(found)
}

/// The kernel keeps the children of each thread apart.
fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    let Some(threads) = gone_is_none(fs::read_dir(format!("/proc/{pid}/task")))? else { return Ok(all) };
    for thread in threads {
        let Some(thread) = gone_is_none(thread)? else { continue };
        if let Some(text) = gone_is_none(fs::read_to_string(thread.path().join("children")))? {
            all.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        }
    }
    Ok(all)
}

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It has it.
    Delivered,
    /// It is there, and this process may not signal it: it runs as another user, a setuid program say.
    Refused,
    /// It is not there any more.
    Gone,
}

impl Delivery {
    /// Whether there is still somebody to reckon with.
    pub fn is_there(self) -> bool {
        self != Self::Gone
    }
}

/// Sends a signal to exactly this process, not to a later one with its number.
pub fn signal(proc: &Proc, signal: Signal) -> Delivery {
    // The handle first, the look afterwards: what is looked at then is what the handle stands for, or the handle's
    // process is dead already. The other way round the number could pass to another in between.
    let handle = pidfd_open(proc.pid);
    if !read(proc.pid).is_some_and(|now| now.start_ticks == proc.start_ticks && now.is_alive()) {
        return Delivery::Gone;
    }
    let sent = match handle {
        Ok(handle) => send(&handle, signal),
        Err(Errno::ESRCH) => Err(Errno::ESRCH),
        // A kernel before 5.3, no descriptor left, or a sandbox: the little time since the look has to do.
        Err(_) => kill(Pid::from_raw(proc.pid), signal),
    };
    match sent {
        Ok(()) => Delivery::Delivered,
        Err(Errno::EPERM) => Delivery::Refused,
        Err(_) => Delivery::Gone,
    }
}

fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers; a result that is no error is a descriptor that nobody else owns, closed on exec.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn send(handle: &OwnedFd, signal: Signal) -> nix::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the handle is open; without a siginfo the kernel fills in what kill(2) would.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal as i32, none, 0) };
    Errno::result(sent).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_child_are_found() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let all = snapshot().unwrap();
        let me = std::process::id() as i32;
        let below = descendants(&all, me);
        let found = below.iter().find(|p| p.pid == child.id() as i32).copied().unwrap();
        assert_eq!(found.ppid, me);
        assert_eq!(signal(&found, Signal::SIGKILL), Delivery::Delivered);
        child.wait().unwrap();
        assert_eq!(signal(&found, Signal::SIGKILL), Delivery::Gone, "a reaped process is not signalled");
        let another = Proc { start_ticks: 1, ..read(me).unwrap() };
        assert_eq!(signal(&another, Signal::SIGKILL), Delivery::Gone, "nor one that has its number");
    }

    /// As an engine meets a setuid program that a task has started.
    #[test]
    fn a_process_of_another_user_is_there_and_is_not_killed() {
        use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
        if !Uid::effective().is_root() {
            return println!("skipped: not root");
        }
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let proc = read(child.id() as i32).unwrap();
        crate::guard::tests::as_subreaper(|| {
            setgroups(&[]).unwrap();
            setgid(Gid::from_raw(65534)).unwrap();
            setuid(Uid::from_raw(65534)).unwrap();
            assert_eq!(signal(&proc, Signal::SIGKILL), Delivery::Refused);
        });
        assert!(read(proc.pid).unwrap().is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn both_ways_of_listing_find_the_same_and_leave_out_the_spared() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 30 & wait"]).spawn().unwrap();
        let root = child.id() as i32;
        assert!(crate::guard::tests::wait_until(|| below(root, &[]).unwrap().len() == 1));
        let found = below(root, &[]).unwrap();
        assert_eq!(descendants(&snapshot().unwrap(), root)[0].pid, found[0].pid);
        assert!(below(root, &[found[0].pid]).unwrap().is_empty());
        signal(&found[0], Signal::SIGKILL);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_name_full_of_parentheses_is_read_past() {
        let line = b"7 (a) Z 1 (b)) S 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 6 0 99 1000 1 2";
        let proc = parse(7, line).unwrap();
        assert_eq!((proc.state, proc.ppid, proc.pgid, proc.thread_count, proc.start_ticks), (b'S', 3, 4, 6, 99));
    }

    #[test]
    fn a_dead_first_thread_does_not_make_a_process_dead() {
        let proc = Proc { pid: 7, ppid: 1, pgid: 7, state: b'Z', thread_count: 2, start_ticks: 1 };
        assert!(proc.is_alive());
        assert!(!Proc { thread_count: 1, ..proc }.is_alive());
    }
}
