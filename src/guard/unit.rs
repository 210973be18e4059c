//! The control group of a systemd unit that has ended, as its prover sees it: nothing but the prover itself
//! may be left in it before a death is proved.
//!
//! systemd kills what is left before it starts `ExecStopPost`, so mostly there is nothing to do. Yet it gives
//! up after a while, and a unit may be told not to kill (`KillMode=process`). So this looks for itself, and
//! kills: groups below by `cgroup.kill` where that may be written, and each process by signal, because the
//! unit's own group is not delegated that far and holds the prover too.
//!
//! Races: a process may be born between two listings (looked at again until two listings in a row are
//! empty), and a number may be another's by the time it is signalled (a process is named by number and
//! start, and asked for its group in between).
//!
//! A unit with `Delegate=yes` has its control processes in `.control` below its group: the unit is one up.
//! On hosts with the first version of control groups, systemd's own hierarchy is read. Started anywhere but
//! in a service this refuses: in a login session "all that is left" would be the person's shell.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::kill::own_pid;
use super::tree::{self, Delivery};
use crate::clock::{Clock, SystemClock};

const PAUSE: Duration = Duration::from_millis(5);

/// Why the unit's group is not known to be empty.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// This process is in no service of systemd.
    #[error("this process is in no control group of a systemd service ({0})")]
    NoService(String),
    /// The group could not be read.
    #[error("could not read control group {0}")]
    Unreadable(String, #[source] io::Error),
    /// What was read is not the group of this process: another mount hides it.
    #[error("control group {0} does not list this process, so it is not the one of its unit")]
    Elsewhere(String),
    /// Something does not die.
    #[error("these processes of the unit do not die: {0:?}")]
    Left(Vec<i32>),
}

/// Kills what is left in the control group of the service that this process belongs to, but for this
/// process itself, and returns how many that were once nothing else is there.
pub fn clear_own_unit(limit: Duration) -> Result<usize, UnitError> {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| UnitError::Unreadable(path.into(), e));
    let unit = find_unit(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)?;
    let end = SystemClock.lease_now().after(limit);
    let (mut killed, mut empty_count): (BTreeSet<i32>, u32) = Default::default();
    loop {
        let place = || unit.dir.display().to_string();
        let mut left = members(&unit.dir, true).map_err(|e| UnitError::Unreadable(place(), e))?;
        // This process is in its own group: a list without it is the list of something else, and "empty" there
        // would prove a death that did not happen.
        let known = left.len();
        left.retain(|pid| *pid != own_pid());
        if left.len() == known {
            return Err(UnitError::Elsewhere(place()));
        }
        if left.is_empty() {
            empty_count += 1;
            if empty_count == 2 {
                return Ok(killed.len());
            }
            continue;
        }
        empty_count = 0;
        kill_groups_below(&unit.dir);
        killed.extend(left.iter().copied().filter(|pid| kill_member(*pid, &unit.path)));
        if SystemClock.lease_now() >= end {
            return Err(UnitError::Left(left));
        }
        SystemClock.pause(PAUSE);
    }
}

/// A service's group: as /proc names it, and where it is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    path: String,
    dir: PathBuf,
}

fn find_unit(groups: &str, mounts: &str) -> Result<Unit, UnitError> {
    // Version 2 first: on a host with both, systemd keeps them alike, and only there is `cgroup.kill`.
    for (prefix, is_its) in [("0::", "cgroup2 "), (":name=systemd:", "cgroup ")] {
        let path = groups.lines().find_map(|line| {
            let (_, path) = if prefix == "0::" {
                line.split_once(prefix).filter(|(n, _)| n.is_empty())
            } else {
                line.split_once(prefix)
            }?;
            Some(path.strip_suffix("/.control").unwrap_or(path))
        });
        let Some(path) = path.filter(|path| path.ends_with(".service") && !path.starts_with("/..")) else { continue };
        // Of several mounts the last one is seen.
        let dir = mounts.lines().rev().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let is_wanted = kind.starts_with(is_its) && (prefix == "0::" || kind.contains("name=systemd"));
            let mut words = place.split(' ').skip(3).filter(|_| is_wanted);
            let (root, point) = (words.next()?, words.next()?);
            Some(Path::new(point).join(Path::new(path).strip_prefix(root).ok()?))
        });
        if let Some(dir) = dir {
            return Ok(Unit { path: path.to_owned(), dir });
        }
    }
    Err(UnitError::NoService(groups.lines().last().unwrap_or_default().to_owned()))
}

/// Everything in the group and below it. The group at the top must be there.
fn members(dir: &Path, is_top: bool) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        // A group that was removed meanwhile holds nothing; the processes of a threaded one stand in the
        // group above it.
        Err(e) if !is_top && (e.kind() == io::ErrorKind::NotFound || is_gone(&e)) => return Ok(found),
        // A threaded group at the top lists its processes above it; then this process is not found either.
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(found),
        other => other?,
    };
    // A process of another PID namespace is shown as 0: it counts, and nobody here can kill it by signal.
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(dir)?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        found.extend(members(&entry.path(), false)?);
    }
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
        || error.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32)
}

/// In one stroke what no fork outruns. `.control` holds this process.
fn kill_groups_below(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) && entry.file_name() != ".control" {
            // Not allowed, or not there: the signals do it.
            let _ = fs::write(entry.path().join("cgroup.kill"), "1");
        }
    }
}

/// True if it was there and still of this unit.
fn kill_member(pid: i32, unit: &str) -> bool {
    let Some(proc) = tree::read(pid) else { return false };
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let is_its = groups.lines().any(|line| {
        let rest = line.splitn(3, ':').nth(2).and_then(|path| path.strip_prefix(unit));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    is_its && tree::signal(&proc, Signal::SIGKILL) == Delivery::Delivered
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    const LEGACY: &str = "40 31 0:37 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                          41 31 0:38 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";

    #[test]
    fn the_units_group_is_found_on_every_layout() {
        let dir = |groups, mounts| find_unit(groups, mounts).map(|unit| unit.dir.display().to_string());
        let here = "/sys/fs/cgroup/system.slice/r.service";
        assert_eq!(dir("0::/system.slice/r.service\n", UNIFIED).unwrap(), here);
        assert_eq!(dir("0::/system.slice/r.service/.control\n", UNIFIED).unwrap(), here);
        let old = "4:memory:/\n1:name=systemd:/system.slice/r.service\n0::/\n";
        assert_eq!(dir(old, LEGACY).unwrap(), "/sys/fs/cgroup/systemd/system.slice/r.service");
    }

    #[test]
    fn of_several_mounts_the_last_is_looked_into() {
        let two = UNIFIED.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified") + UNIFIED;
        let unit = find_unit("0::/r.service\n", &two).unwrap();
        assert_eq!(unit.dir, Path::new("/sys/fs/cgroup/r.service"));
    }

    #[test]
    fn a_group_that_is_not_there_is_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(members(&dir.path().join("r.service"), true).is_err());
        fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        assert_eq!(members(dir.path(), true).unwrap(), Vec::<i32>::new());
    }

    #[test]
    fn outside_of_a_service_it_refuses() {
        for groups in
            ["0::/\n", "0::/user.slice/user-0.slice/session-1.scope\n", "0::/../r.service\n", "1:cpu:/r.service\n"]
        {
            assert!(matches!(find_unit(groups, UNIFIED), Err(UnitError::NoService(_))), "{groups}");
        }
        assert!(matches!(find_unit("0::/r.service\n", LEGACY), Err(UnitError::NoService(_))));
    }
}
