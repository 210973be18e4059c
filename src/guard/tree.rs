//! Processes and who descends from whom, read from /proc.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process as /proc showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proc {
    /// Its id.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its process group.
    pub pgid: i32,
    /// State letter; `Z` and `X` are dead.
    pub state: u8,
    /// Clock ticks since boot at its start: with the pid it names a process for good.
    pub start_ticks: u64,
}

impl Proc {
    /// Whether it can still run.
    pub const fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads one process; `None` if there is none.
pub fn read(pid: i32) -> Option<Proc> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses: what follows the last `)` is safe to split.
    let after = text.iter().rposition(|b| *b == b')')? + 2;
    let rest = std::str::from_utf8(text.get(after..)?).ok()?;
    let mut words = rest.split_ascii_whitespace();
    let state = *words.next()?.as_bytes().first()?;
    let ppid = words.next()?.parse().ok()?;
    let pgid = words.next()?.parse().ok()?;
    // Field 22 of the file; state was field 3, and three were taken.
    let start_ticks = words.nth(22 - 3 - 3)?.parse().ok()?;
    Some(Proc { pid, ppid, pgid, state, start_ticks })
}

/// All processes of this PID namespace, at about one moment.
pub fn snapshot() -> io::Result<Vec<Proc>> {
    let mut all = Vec::with_capacity(256);
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|n| n.parse().ok())
            && let Some(proc) = read(pid)
        {
            all.push(proc);
        }
    }
    Ok(all)
}

/// Everything below `root` in a snapshot, parents before children, `root` not included.
pub fn descendants(all: &[Proc], root: i32) -> Vec<Proc> {
    let mut found: Vec<Proc> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for proc in all.iter().filter(|p| p.ppid == parent && p.pid != root) {
            found.push(*proc);
            parents.push(proc.pid);
        }
    }
    found
}

/// Sends a signal to exactly this process, not to a later one with its number. True if it was there.
pub fn signal(proc: &Proc, signal: Signal) -> bool {
    match read(proc.pid) {
        Some(now) if now.start_ticks == proc.start_ticks && now.is_alive() => {
            kill(Pid::from_raw(proc.pid), signal) != Err(Errno::ESRCH)
        }
        _ => false,
    }
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
        assert!(signal(&found, Signal::SIGKILL));
        child.wait().unwrap();
        assert!(!signal(&found, Signal::SIGKILL), "a reaped process is not signalled");
    }
}
