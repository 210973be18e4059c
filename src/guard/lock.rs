//! The lock file of a state directory: who holds it, and what to do about a holder that cannot let it go.
//!
//! Guard and engine hold one lock (flock) together, by one open file. The file says who they are, one line
//! each: number, start, PID namespace and boot. So a later start can tell, without looking into other
//! processes (they are hidden, `process/`), whether the guard is dead, and which process is left with the lock.
//!
//! The lock itself is the truth. A line only says whom to ask, and is believed as far as it can be checked:
//! * A number means something only in its PID namespace and boot. Where either differs, nobody is killed and
//!   the start is refused: seen from the host, the guard of a container looks dead by its number.
//! * A number is used again: a process is named by number and start.
//! * Whoever merely has the file open (a backup, `tail -f`, a second start) holds no lock. Where a process's
//!   descriptors may be read, the kernel's own `lock:` line decides (/proc/PID/fdinfo).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::FlockArg;

use super::kill::own_pid;
use super::leftovers::own_line;
use super::tree::{self, Proc};
use crate::clock::{Clock, SystemClock};
use crate::process::place;

/// A life that was killed a moment ago still holds the lock until the kernel has buried it.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Two lines, with room to spare.
const TEXT_MAX: usize = 1_024;

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Guard,
    Engine,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Engine => "engine",
        }
    }
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    pid: i32,
    start_ticks: u64,
    pid_namespace: u64,
    boot_id: String,
}

impl Signature {
    fn of(proc: &Proc) -> Self {
        Self {
            pid: proc.pid,
            start_ticks: proc.start_ticks,
            pid_namespace: place::pid_namespace(),
            boot_id: place::boot_id(),
        }
    }

    fn line(&self, role: Role) -> String {
        let Self { pid, start_ticks, pid_namespace, boot_id } = self;
        format!("{} {pid} {start_ticks} {pid_namespace} {boot_id}\n", role.word())
    }

    fn parse(text: &str, role: Role) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix(role.word())?.strip_prefix(' '))?;
        let mut words = line.split(' ');
        Some(Self {
            pid: words.next()?.parse().ok()?,
            start_ticks: words.next()?.parse().ok()?,
            pid_namespace: words.next()?.parse().ok()?,
            boot_id: words.next().unwrap_or_default().to_owned(),
        })
    }

    /// Whether its number can be looked up here: this boot, this PID namespace, and both are known.
    fn is_of_here(&self) -> bool {
        let (boot_id, namespace) = (place::boot_id(), place::pid_namespace());
        !boot_id.is_empty() && self.boot_id == boot_id && namespace != 0 && self.pid_namespace == namespace
    }

    /// The process, if it still lives.
    fn alive(&self) -> Option<Proc> {
        tree::read(self.pid).filter(|proc| proc.start_ticks == self.start_ticks && proc.is_alive())
    }
}

/// Why the lock was not taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// ` (process 123)`, or nothing.
    pub(super) holder: String,
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    // The standard library sets close-on-exec. Not truncated: until the lock is ours it tells whose it is.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)
}

/// Takes it, from a frozen engine without a guard if need be, and signs as the guard.
pub(super) fn take(lock: &File) -> io::Result<Result<(), Taken>> {
    if !(lock_soon(lock)? || kill_unguarded(lock) && lock_soon(lock)?) {
        let text = read(lock);
        let pid = Signature::parse(&text, Role::Guard).map(|guard| guard.pid);
        // A former release wrote the number alone.
        let pid = pid.or_else(|| text.trim().parse().ok());
        return Ok(Err(Taken { holder: pid.map(|pid| format!(" (process {pid})")).unwrap_or_default() }));
    }
    let mine = tree::read(own_pid()).map(|proc| Signature::of(&proc).line(Role::Guard));
    lock.set_len(0)?;
    lock.write_all_at(mine.unwrap_or_default().as_bytes(), 0)?;
    Ok(Ok(()))
}

/// Adds the engine, which has the lock from now on too.
pub(super) fn sign_engine(lock: &File, engine: i32) -> io::Result<()> {
    let Some(proc) = tree::read(engine) else { return Ok(()) };
    lock.write_all_at(Signature::of(&proc).line(Role::Engine).as_bytes(), lock.metadata()?.len())
}

fn read(lock: &File) -> String {
    let mut bytes = [0; TEXT_MAX];
    let count = lock.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[expect(deprecated, reason = "nix's new type unlocks when dropped, also for the other process that shares the lock")]
pub(crate) fn try_lock(lock: &File) -> io::Result<bool> {
    match nix::fcntl::flock(lock.as_raw_fd(), FlockArg::LockExclusiveNonblock) {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::EWOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn lock_soon(lock: &File) -> io::Result<bool> {
    let until = SystemClock.lease_now().after(LOCK_WAIT);
    while !try_lock(lock)? {
        if SystemClock.lease_now() >= until {
            return Ok(false);
        }
        SystemClock.pause(Duration::from_millis(10));
    }
    Ok(true)
}

/// The lock is held, but the guard that took it is dead: what holds it is an engine that should have died
/// with it and cannot, because it is frozen. It is killed with everything below it. False where the guard
/// lives, or cannot be asked for from here.
fn kill_unguarded(lock: &File) -> bool {
    let text = read(lock);
    let Some(guard) = Signature::parse(&text, Role::Guard) else { return false };
    if !guard.is_of_here() || guard.alive().is_some() {
        return false;
    }
    let engine = Signature::parse(&text, Role::Engine).filter(Signature::is_of_here);
    let mut found: Vec<Proc> = engine.and_then(|engine| engine.alive()).into_iter().collect();
    let Ok(meta) = lock.metadata() else { return false };
    let spare = own_line();
    // What the file says may be of a process that has long let go; what the kernel says decides.
    found.retain(|proc| !spare.contains(&proc.pid) && holds(proc.pid, &meta) != Some(false));
    let others = tree::snapshot().unwrap_or_default();
    let is_other =
        |proc: &&Proc| proc.is_alive() && !spare.contains(&proc.pid) && !found.iter().any(|p| p.pid == proc.pid);
    let others: Vec<Proc> =
        others.iter().filter(is_other).filter(|proc| holds(proc.pid, &meta) == Some(true)).copied().collect();
    found.extend(others);
    for engine in &found {
        let report = super::kill::kill_tree_sparing(engine, &spare, LOCK_WAIT);
        log::warn!(
            "process {} of a former life held the lock and had no guard any more: killed {} processes",
            engine.pid,
            report.killed
        );
    }
    true
}

/// Whether the process has the lock on this file by one of its descriptors; `None` where that may not be read.
/// By number of the descriptor: a `lock:` line names another device than `stat` does on btrfs and overlayfs.
fn holds(pid: i32, file: &fs::Metadata) -> Option<bool> {
    let is_it =
        |fd: &fs::DirEntry| fs::metadata(fd.path()).is_ok_and(|m| (m.dev(), m.ino()) == (file.dev(), file.ino()));
    let mut fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().filter(is_it);
    Some(fds.any(|fd| {
        let info = Path::new("/proc").join(pid.to_string()).join("fdinfo").join(fd.file_name());
        let text = fs::read_to_string(info).unwrap_or_default();
        text.lines().any(|line| line.starts_with("lock:") && line.contains(" FLOCK "))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_reads_back_and_is_of_here() {
        let mine = Signature::of(&tree::read(own_pid()).unwrap());
        let text = mine.line(Role::Guard);
        assert_eq!(Signature::parse(&text, Role::Guard), Some(mine.clone()));
        assert_eq!(Signature::parse(&text, Role::Engine), None);
        assert!(mine.is_of_here() && mine.alive().is_some());
        assert!(Signature { start_ticks: mine.start_ticks + 1, ..mine.clone() }.alive().is_none());
        assert!(!Signature { pid_namespace: 1, ..mine.clone() }.is_of_here());
        assert!(!Signature { boot_id: String::new(), ..mine }.is_of_here());
        assert_eq!(Signature::parse("123\n", Role::Guard), None);
    }

    #[test]
    fn guard_and_engine_stand_in_it_from_its_start_however_often_it_was_read() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("lock");
        std::fs::write(&path, "a longer text of some former life, which is gone then".repeat(10)).unwrap();
        let file = open(&path).unwrap();
        std::io::Read::read_to_string(&mut &file, &mut String::new()).unwrap();
        take(&file).unwrap().unwrap();
        sign_engine(&file, own_pid()).unwrap();
        let mine = Signature::of(&tree::read(own_pid()).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, mine.line(Role::Guard) + &mine.line(Role::Engine));
    }

    #[test]
    fn who_has_the_file_open_does_not_hold_it_and_who_locked_it_does() {
        let tmp = tempfile::tempdir().unwrap();
        let file = open(&tmp.path().join("lock")).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(holds(own_pid(), &meta), Some(false));
        assert!(try_lock(&file).unwrap());
        assert_eq!(holds(own_pid(), &meta), Some(true));
    }

    /// As seen from the host of a container, or after another boot.
    #[test]
    fn a_guard_of_another_namespace_or_boot_is_not_judged() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("lock");
        let held = open(&path).unwrap();
        assert!(try_lock(&held).unwrap());
        let dead = Signature { pid: i32::MAX, ..Signature::of(&tree::read(own_pid()).unwrap()) };
        for foreign in [
            Signature { pid_namespace: 7, ..dead.clone() },
            Signature { boot_id: "x".into(), ..dead.clone() },
            Signature { boot_id: String::new(), ..dead.clone() },
        ] {
            held.set_len(0).unwrap();
            held.write_all_at(foreign.line(Role::Guard).as_bytes(), 0).unwrap();
            assert!(!kill_unguarded(&open(&path).unwrap()), "{foreign:?}");
        }
    }
}
