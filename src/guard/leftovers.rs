//! The state directory: whose it is, and what a former life with it left running.
//!
//! * `lock` (`lock.rs`) is held by guard *and* engine together: both have the same open file, so it is free
//!   only when both are dead, which others use as a proof of death (`lock`). Tasks must never have it,
//!   or one that escaped would keep a dead engine "alive": it is closed on exec everywhere but at the
//!   guard's start of the engine, which takes it back from the environment at once.
//! * `id` is a random name for the directory. The engine gives it to each task in `REKINDLE_STATE_ID`,
//!   and the next life kills whatever still carries it. It is written with the lock's inode and device and the
//!   boot: in a copied directory one of them differs, and the copy gets an id of its own instead of killing the
//!   tasks of the original.
//! * `cgroup` is where the engine's control group was, if it had one.
//!
//! Not found: a task's process that cleared its environment *and* was outside a control group.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cgroup::Cgroup;
use super::envfd;
use super::kill::{kill_tree_sparing, own_pid};
use super::lock::{self, Taken};
use super::tree::{self, Proc};
use crate::clock::{Clock, SystemClock};
use crate::config::place as host_place;
use crate::process::place;
use crate::protocol::stand::{KeptBy, Stand};

/// The variable that tells the engine its descriptor of the lock.
pub const LOCK_FD_ENV: &str = "REKINDLE_LOCK_FD";

/// The variable that every task carries, with the id of the state directory.
pub const STATE_ID_ENV: &str = "REKINDLE_STATE_ID";

/// How long leftovers may take to die before the start is refused.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How much of a process's environment is searched.
const ENVIRON_MAX: u64 = 1 << 20;

/// A state directory that is ours: nobody else has it, and nothing of a former life runs.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    id: String,
    lock: File,
}

/// Why a state directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another guard or engine has it.
    #[error("state directory {path} is in use by another engine{holder}")]
    Locked {
        /// The directory.
        path: String,
        /// ` (process 123)`, or nothing.
        holder: String,
    },
    /// What a former life started cannot be killed.
    #[error("what an earlier engine left with state directory {path} is still running: {left}")]
    Leftovers {
        /// The directory.
        path: String,
        /// Process ids or the control group.
        left: String,
    },
    /// The id is not one.
    #[error(
        "file {path} holds no state id; remove it only if no engine ran here since the last boot (what one left would not be found)"
    )]
    BadId {
        /// The file.
        path: String,
    },
    /// The file system refused.
    #[error("could not {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl StateDirError {
    /// What the program exits with: refused, try again, wrong configuration, no permission, or failed.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Locked { .. } => 3,
            Self::Leftovers { .. } => 75,
            Self::BadId { .. } => 78,
            Self::Io { source, .. } => host_place::exit_code(source.kind()),
        }
    }
}

impl StateDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its random name: 32 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) const fn lock(&self) -> &File {
        &self.lock
    }

    /// Where a life with this directory stands.
    pub fn stand(&self, kept_by: KeptBy) -> io::Result<Stand> {
        let lock = self.lock.metadata()?;
        Ok(Stand {
            lock_device: lock.dev(),
            lock_inode: lock.ino(),
            pid_namespace: place::pid_namespace(),
            start_ticks: tree::read(own_pid()).map_or(0, |proc| proc.start_ticks),
            kept_by,
        })
    }

    /// Adds the engine to the guard's name in the lock. An engine hides what it has open from all but root, so
    /// whoever finds it frozen and without its guard could not know it by that.
    pub(super) fn sign_engine(&self, pid: i32) -> io::Result<()> {
        lock::sign_engine(&self.lock, pid)
    }

    /// Written before anything is put in, so that the next life finds it.
    pub(super) fn remember_cgroup(&self, cgroup: &Path) -> io::Result<()> {
        fs::write(self.path.join("cgroup"), cgroup.as_os_str().as_encoded_bytes())
    }
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateDirError {
    let path = path.display().to_string();
    move |source| StateDirError::Io { verb, path, source }
}

/// Makes the directory if need be, locks it, and kills what a former life with it left.
pub fn take_state_dir(path: &Path) -> Result<StateDir, StateDirError> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(failed("create", path))?;
    let path = path.canonicalize().map_err(failed("find", path))?;
    let lock_path = path.join("lock");
    let file = lock::open(&lock_path).map_err(failed("open", &lock_path))?;
    if let Err(Taken { holder }) = lock::take(&file).map_err(failed("lock", &lock_path))? {
        return Err(StateDirError::Locked { path: path.display().to_string(), holder });
    }
    let lock = file;
    let id = read_or_make_id(&path, &lock)?;
    let dir = StateDir { path, id, lock };
    kill_leftovers(&dir)?;
    Ok(dir)
}

/// The directory that the guard took and left to this process; `None` for an engine without a guard.
/// To be called once, before the process has a second thread (refused otherwise).
pub fn inherited_state_dir(path: &Path) -> Result<Option<StateDir>, StateDirError> {
    let lock_path = path.join("lock");
    let Some(fd) = envfd::take(LOCK_FD_ENV).map_err(failed("inherit", &lock_path))? else { return Ok(None) };
    let lock = File::from(fd);
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let is_same = lock.metadata().and_then(|a| Ok(same(a, fs::metadata(&lock_path)?)));
    if !is_same.map_err(failed("inherit", &lock_path))? {
        let text = io::Error::other("the guard holds the lock of another state directory");
        return Err(failed("inherit", &lock_path)(text));
    }
    let path = path.canonicalize().map_err(failed("find", path))?;
    let id = read_or_make_id(&path, &lock)?;
    Ok(Some(StateDir { path, id, lock }))
}

/// The random name of the directory, made anew where this is not the directory it was made for: another inode or
/// device (a copy, also one that numbers alike). A device is the same only within one boot, and nothing of another
/// boot can run or be proved dead here: so each boot has a name of its own.
fn read_or_make_id(dir: &Path, lock: &File) -> Result<String, StateDirError> {
    let path = dir.join("id");
    let meta = lock.metadata().map_err(failed("read", &path))?;
    let here = Origin { inode: meta.ino(), device: Some(meta.dev()), boot_id: place::boot_id() };
    match read_id(&path)? {
        Some((id, origin)) if origin == here => return Ok(id),
        // Of a former release, which wrote the inode alone: what its life has left has this name.
        Some((id, origin)) if origin.device.is_none() && origin.inode == here.inode => {
            write_id(dir, &id, &here).map_err(failed("write", &path))?;
            return Ok(id);
        }
        Some((_, origin)) if origin.boot_id == here.boot_id || origin.device.is_none() => {
            log::warn!("state directory {} is a copy of another one: it gets an id of its own", dir.display());
        }
        _ => {}
    }
    make_id(dir, &here).map_err(failed("write", &path))
}

/// Which file on which device an id was made for, and in which boot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    inode: u64,
    device: Option<u64>,
    boot_id: String,
}

/// The id and what it was made for; nothing where there is no file.
fn read_id(path: &Path) -> Result<Option<(String, Origin)>, StateDirError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("read", path)(e)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.trim().split(' ').collect();
    let found = match words[..] {
        [id, inode, ref more @ ..] => inode.parse().ok().map(|inode| {
            let device = more.first().and_then(|word| word.parse().ok());
            let boot_id = more.get(1).copied().unwrap_or_default().to_owned();
            (id.to_owned(), Origin { inode, device, boot_id })
        }),
        _ => None,
    };
    match found.filter(|(id, _)| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())) {
        Some(found) => Ok(Some(found)),
        None => Err(StateDirError::BadId { path: path.display().to_string() }),
    }
}

/// The random name of a state directory, for whoever looks without taking it.
pub fn state_id(dir: &Path) -> Result<Option<String>, StateDirError> {
    Ok(read_id(&dir.join("id"))?.map(|(id, _)| id))
}

/// Whether a start would refuse the id in this directory, for who looks without starting anything.
pub fn check_id(dir: &Path) -> Result<(), StateDirError> {
    read_id(&dir.join("id")).map(|_| ())
}

fn make_id(dir: &Path, origin: &Origin) -> io::Result<String> {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let id = format!("{:032x}", u128::from_ne_bytes(random));
    write_id(dir, &id, origin)?;
    Ok(id)
}

/// Written aside and renamed, with both flushed: half an id, or one that a crash takes back, would
/// cut the next life off from its leftovers.
fn write_id(dir: &Path, id: &str, origin: &Origin) -> io::Result<()> {
    let aside = dir.join("id.new");
    let mut file = File::create(&aside)?;
    writeln!(file, "{id} {} {} {}", origin.inode, origin.device.unwrap_or(0), origin.boot_id)?;
    file.sync_all()?;
    fs::rename(&aside, dir.join("id"))?;
    File::open(dir)?.sync_all()
}

fn kill_leftovers(dir: &StateDir) -> Result<(), StateDirError> {
    let still_running = |left: String| StateDirError::Leftovers { path: dir.path.display().to_string(), left };
    let note = dir.path.join("cgroup");
    if let Ok(former) = fs::read_to_string(&note) {
        if let Some(group) = Cgroup::former(Path::new(former.trim_end()), &dir.id) {
            if !group.clear(KILL_LIMIT) {
                return Err(still_running(format!("control group {}", group.path().display())));
            }
            group.remove();
        }
        fs::remove_file(&note).map_err(failed("remove", &note))?;
    }
    let left = kill_marked(STATE_ID_ENV, &dir.id, KILL_LIMIT).map_err(failed("search", Path::new("/proc")))?;
    if left.is_empty() {
        return Ok(());
    }
    let pids: Vec<String> = left.iter().map(|proc| proc.pid.to_string()).collect();
    Err(still_running(format!("process {}", pids.join(", "))))
}

/// Kills every process whose environment holds `name=value`, with what is below it; returns what is
/// left at the limit. This process and those it descends from are not touched.
pub fn kill_marked(name: &str, value: &str, limit: Duration) -> io::Result<Vec<Proc>> {
    let end = SystemClock.lease_now().after(limit);
    loop {
        let found = find_marked(name, value)?;
        let left = end.since(SystemClock.lease_now());
        if found.is_empty() || left.is_zero() {
            return Ok(found);
        }
        let spare = own_line();
        for proc in found {
            let report = kill_tree_sparing(&proc, &spare, end.since(SystemClock.lease_now()));
            log::info!(
                "killed {} processes with process {}, left behind with {name}={value}{}",
                report.killed,
                proc.pid,
                report.refusal()
            );
        }
    }
}

/// By number and start: killing the first may take so long that the last one's number is another's.
pub(super) fn find_marked(name: &str, value: &str) -> io::Result<Vec<Proc>> {
    let entry = format!("{name}={value}").into_bytes();
    let own_line = own_line();
    let mut buffer = Vec::new();
    let mut found = Vec::new();
    for proc in tree::snapshot()?.iter().filter(|p| p.is_alive() && !own_line.contains(&p.pid)) {
        buffer.clear();
        // A process of another user cannot be read, and cannot be one of ours either.
        let Ok(file) = File::open(format!("/proc/{}/environ", proc.pid)) else { continue };
        let _ = file.take(ENVIRON_MAX).read_to_end(&mut buffer);
        if buffer.split(|b| *b == 0).any(|e| e == entry) {
            found.push(*proc);
        }
    }
    Ok(found)
}

/// This process and those above it.
pub(super) fn own_line() -> Vec<i32> {
    std::iter::successors(tree::read(own_pid()), |p| tree::read(p.ppid)).map(|p| p.pid).take(1_000).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::guard::tests::{marked, wait_until};

    /// A child that another test is just forking may hold a copy of a lock that was dropped here.
    fn retake(path: &Path) -> StateDir {
        let mut taken = None;
        assert!(wait_until(|| match take_state_dir(path) {
            Err(StateDirError::Locked { .. }) => false,
            other => {
                taken = Some(other.unwrap());
                true
            }
        }));
        taken.unwrap()
    }

    #[test]
    fn a_second_life_on_the_same_directory_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let first = take_state_dir(&tmp.path().join("a/b")).unwrap();
        let error = take_state_dir(first.path()).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let want = format!("{} is in use by another engine (process {})", first.path().display(), own_pid());
        assert!(error.to_string().ends_with(&want), "{error}");
    }

    #[test]
    fn the_id_lasts_and_a_copy_gets_its_own() {
        let tmp = tempfile::tempdir().unwrap();
        let (a, b) = (tmp.path().join("a"), tmp.path().join("b"));
        let id = take_state_dir(&a).unwrap().id().to_owned();
        assert_eq!(retake(&a).id(), id);
        fs::create_dir(&b).unwrap();
        fs::copy(a.join("id"), b.join("id")).unwrap();
        assert_ne!(take_state_dir(&b).unwrap().id(), id);
    }

    /// Two tmpfs number alike.
    #[test]
    fn a_copy_on_another_device_or_of_another_boot_gets_an_id_of_its_own() {
        let tmp = tempfile::tempdir().unwrap();
        let id = take_state_dir(tmp.path()).unwrap().id().to_owned();
        let (_, origin) = read_id(&tmp.path().join("id")).unwrap().unwrap();
        for other in [
            Origin { device: Some(1), ..origin.clone() },
            Origin { inode: 1, ..origin.clone() },
            Origin { boot_id: "another".into(), ..origin.clone() },
        ] {
            write_id(tmp.path(), &id, &other).unwrap();
            assert_ne!(retake(tmp.path()).id(), id, "{other:?}");
        }
        // A former release wrote the inode alone.
        fs::write(tmp.path().join("id"), format!("{id} {}\n", origin.inode)).unwrap();
        assert_eq!(retake(tmp.path()).id(), id);
        assert_eq!(read_id(&tmp.path().join("id")).unwrap(), Some((id, origin)));
    }

    #[test]
    fn an_unreadable_id_is_not_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("id"), "nonsense").unwrap();
        assert!(matches!(take_state_dir(tmp.path()), Err(StateDirError::BadId { .. })));
    }

    #[test]
    fn leftovers_are_killed_at_start_and_others_are_not() {
        let tmp = tempfile::tempdir().unwrap();
        let id = take_state_dir(tmp.path()).unwrap().id().to_owned();
        let mark = format!("leftover-{}", own_pid());
        let start = |id: &str| {
            let script = "trap '' TERM; setsid sleep 60 & env -i sleep 60 & wait";
            let mut command = Command::new("sh");
            command.args(["-c", script]).env(STATE_ID_ENV, id).env("MARK", &mark);
            command.spawn().unwrap()
        };
        let (mut ours, mut other) = (start(&id), start("0123"));
        assert!(wait_until(|| marked(&mark).len() == 4));
        retake(tmp.path());
        ours.wait().unwrap();
        assert!(other.try_wait().unwrap().is_none());
        assert_eq!(marked(&mark).len(), 2);
        crate::guard::kill_below(other.id() as i32, crate::guard::Root::Included, &[], KILL_LIMIT);
        other.wait().unwrap();
    }
}
