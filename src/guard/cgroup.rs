//! The engine's control group (version 2): a child of the guard's own, named `rekindle-<state id>`.
//!
//! The guard stays outside, so that `cgroup.kill` ends the engine and all that it started, in one
//! stroke that no fork can outrun, and leaves the guard to tell of it. No controller is enabled here,
//! so the kernel's rule against processes in inner groups does not matter.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::{Clock, SystemClock};

/// Between two looks at whether a killed group is empty.
const PAUSE: Duration = Duration::from_millis(2);

/// A control group that holds nothing but one engine and its tasks.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the group, or takes the empty one that is there. The error says in words why this host
    /// does not allow it.
    pub(super) fn create(state_id: &str) -> Result<Self, String> {
        let own = own_dir()?;
        let path = own.join(name_of(state_id));
        match fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!(
                    "no control group can be made below {} ({e}); systemd: Delegate=yes",
                    own.display()
                ));
            }
            _ => {}
        }
        let group = Self { path };
        group.check().inspect_err(|_| group.remove())?;
        Ok(group)
    }

    /// The group that an earlier life with this state id made, if it is still there.
    pub(super) fn former(path: &Path, state_id: &str) -> Option<Self> {
        let is_ours = path.file_name().is_some_and(|n| n.to_str() == Some(&name_of(state_id)));
        (is_ours && path.join("cgroup.kill").exists()).then(|| Self { path: path.to_owned() })
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What a process writes "0" to, to move itself in.
    pub(super) fn door(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }

    /// Sends SIGKILL to all in the group and the groups below it, without anyone slipping out.
    pub(super) fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether anything lives in it. What cannot be read counts as populated, unless the group is gone.
    pub(super) fn is_populated(&self) -> bool {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(text) => !text.lines().any(|l| l == "populated 0"),
            Err(_) => self.path.exists(),
        }
    }

    /// Kills and waits until nothing lives in it; false if the limit came first.
    pub(super) fn clear(&self, limit: Duration) -> bool {
        let end = SystemClock.lease_now().after(limit);
        while self.is_populated() {
            if let Err(e) = self.kill() {
                log::error!("could not kill control group {}: {e}", self.path.display());
            }
            if SystemClock.lease_now() >= end {
                return false;
            }
            SystemClock.pause(PAUSE);
        }
        true
    }

    /// Removes it with the groups below it; what is not empty stays, and is taken again next time.
    pub(super) fn remove(&self) {
        each_group(&self.path, &mut |group| {
            let _ = fs::remove_dir(group);
        });
    }

    /// A kernel, a namespace or a permission may still forbid what comes later; found out now, while
    /// another means can be taken.
    fn check(&self) -> Result<(), String> {
        let shown = self.path.display();
        if !self.path.join("cgroup.kill").exists() {
            return Err(format!("{shown} has no cgroup.kill; Linux 5.14 or newer is needed"));
        }
        let door = self.door().map_err(|e| format!("{shown}/cgroup.procs cannot be written ({e})"))?;
        super::spawn::try_door(&door).map_err(|e| format!("no process can be moved into {shown} ({e})"))?;
        if !self.clear(Duration::from_secs(2)) {
            return Err(format!("{shown} cannot be emptied"));
        }
        Ok(())
    }
}

fn name_of(state_id: &str) -> String {
    format!("rekindle-{state_id}")
}

/// Children before parents, as removal needs it.
fn each_group(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            each_group(&entry.path(), each);
        }
    }
    each(dir);
}

/// The directory of this process's own group in the version 2 hierarchy.
fn own_dir() -> Result<PathBuf, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("could not read {path} ({e})"));
    let groups = read("/proc/self/cgroup")?;
    let mounts = read("/proc/self/mountinfo")?;
    find_dir(&groups, &mounts)
}

fn find_dir(groups: &str, mounts: &str) -> Result<PathBuf, String> {
    let own =
        groups.lines().find_map(|l| l.strip_prefix("0::")).ok_or("this process is in no version 2 control group")?;
    if own.starts_with("/..") {
        return Err("the own control group lies outside this cgroup namespace".to_owned());
    }
    mounts
        .lines()
        .filter(|line| line.split_once(" - ").is_some_and(|(_, kind)| kind.starts_with("cgroup2 ")))
        .find_map(|line| {
            let mut words = line.split(' ').skip(3);
            let (root, point) = (words.next()?, words.next()?);
            let below = Path::new(own).strip_prefix(root).ok()?;
            Some(Path::new(point).join(below))
        })
        .ok_or_else(|| "no version 2 control group hierarchy is mounted that shows the own group".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_on_every_layout() {
        let unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let hybrid = "40 31 0:37 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let bound = "29 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let dir = |groups, mounts| find_dir(groups, mounts).map(|p| p.display().to_string());
        assert_eq!(dir("0::/system.slice/r.service\n", unified).unwrap(), "/sys/fs/cgroup/system.slice/r.service");
        assert_eq!(dir("9:name=systemd:/\n0::/\n", hybrid).unwrap(), "/sys/fs/cgroup/unified/");
        assert_eq!(dir("0::/docker/abc/x\n", bound).unwrap(), "/sys/fs/cgroup/x");
        assert!(dir("0::/other\n", bound).is_err());
        assert!(dir("0::/../up\n", unified).is_err());
        assert!(dir("1:cpu:/\n", unified).is_err());
        assert!(dir("0::/\n", "40 31 0:37 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n").is_err());
    }
}
