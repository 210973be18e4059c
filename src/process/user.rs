//! Running something as another user: who that is, whether this process may, and what that user may read.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, getgroups};

/// A user of this host, looked up: numbers, because a directory service may be away when a task starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// As it is called.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group, or the one that was asked for.
    pub gid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
    /// Its home.
    pub home: PathBuf,
}

impl RunAs {
    /// Looks a user up, with its own group or another one. The error says what is not there.
    pub fn find(user: &str, group: Option<&str>) -> Result<Self, String> {
        let asked = |error: nix::Error| format!("user {user} cannot be looked up: {}", error.desc());
        let found = User::from_name(user).map_err(asked)?;
        let found = found.ok_or_else(|| format!("there is no user {user} on this host"))?;
        let gid = match group {
            None => found.gid,
            Some(group) => {
                let other = Group::from_name(group).map_err(asked)?;
                other.ok_or_else(|| format!("there is no group {group} on this host"))?.gid
            }
        };
        let name = CString::new(user).map_err(|_| "a zero byte in the user's name".to_owned())?;
        let groups = getgrouplist(&name, gid).map_err(asked)?;
        let groups = groups.into_iter().map(Gid::as_raw).collect();
        Ok(Self { name: user.to_owned(), uid: found.uid.as_raw(), gid: gid.as_raw(), groups, home: found.dir })
    }

    /// The user that this process is.
    pub fn here() -> Self {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        let known = User::from_uid(uid).ok().flatten();
        let groups = getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).chain([gid.as_raw()]).collect();
        Self {
            name: known.as_ref().map_or_else(|| uid.to_string(), |user| user.name.clone()),
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            groups,
            home: known.map_or_else(|| "/".into(), |user| user.dir),
        }
    }

    /// Whether its permission bits let this user do `wanted` (4 read, 1 enter) with a file. Lists of access
    /// rights beyond the bits are not looked at.
    fn has_bits(&self, path: &Path, wanted: u32) -> io::Result<bool> {
        let data = std::fs::metadata(path)?;
        let shift = match data {
            _ if self.uid == 0 => return Ok(true),
            _ if data.uid() == self.uid => 6,
            _ if self.groups.contains(&data.gid()) => 3,
            _ => 0,
        };
        Ok(data.mode() >> shift & wanted == wanted)
    }

    /// The first directory above `path` that this user may not enter. What is not there yet does not count.
    pub fn barred_at<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.reverse();
        above.into_iter().find(|dir| matches!(self.has_bits(dir, 1), Ok(false)))
    }

    /// Whether this user can read a file, or list a directory, that is there.
    pub fn reads(&self, path: &Path) -> bool {
        self.barred_at(path).is_none() && matches!(self.has_bits(path, 4), Ok(true))
    }
}

/// Rights by their number in the kernel: CAP_CHOWN and so on. The first five are what it takes to become
/// somebody, to give him his directory, and to end what he runs.
const NEEDED: [(u32, &str); 5] =
    [(7, "CAP_SETUID"), (6, "CAP_SETGID"), (5, "CAP_KILL"), (0, "CAP_CHOWN"), (1, "CAP_DAC_OVERRIDE")];

/// To find by its environment what a former life left running as somebody else.
const TO_FIND: (u32, &str) = (19, "CAP_SYS_PTRACE");

/// The rights that an engine may have been given for this, and that its tasks must not inherit.
pub const NOT_FOR_TASKS: [u32; 6] = [NEEDED[0].0, NEEDED[1].0, NEEDED[2].0, NEEDED[3].0, NEEDED[4].0, TO_FIND.0];

/// The rights that this process lacks for running something as another user.
pub fn missing_rights() -> Vec<&'static str> {
    let held = held_rights();
    NEEDED.iter().filter(|(bit, _)| held >> bit & 1 == 0).map(|(_, name)| *name).collect()
}

/// The right to find what a former life left running as another user, if it is missing.
pub fn missing_right_to_find() -> Option<&'static str> {
    (held_rights() >> TO_FIND.0 & 1 == 0).then_some(TO_FIND.1)
}

/// The effective set of this process; none where it cannot be read.
fn held_rights() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_user_is_found_with_its_groups_or_said_to_be_missing() {
        let root = RunAs::find("root", None).unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        let nobody = RunAs::find("nobody", Some("daemon")).unwrap();
        assert_eq!(nobody.groups.first(), Some(&nobody.gid));
        assert_eq!(RunAs::find("no-such-user", None).unwrap_err(), "there is no user no-such-user on this host");
        assert_eq!(RunAs::find("root", Some("nogr")).unwrap_err(), "there is no group nogr on this host");
    }

    #[test]
    fn what_a_user_can_read_is_told_by_the_bits_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let stranger = RunAs { name: "s".into(), uid: 4_000_000, gid: 4_000_000, groups: vec![], home: "/".into() };
        mode(dir.path(), 0o755);
        mode(&file, 0o644);
        assert!(stranger.reads(&file));
        mode(&file, 0o640);
        assert!(!stranger.reads(&file));
        mode(&file, 0o644);
        mode(dir.path(), 0o750);
        assert_eq!((stranger.reads(&file), stranger.barred_at(&file)), (false, Some(dir.path())));
        assert!(RunAs { uid: 0, ..stranger.clone() }.reads(&file));
        assert!(!stranger.reads(&dir.path().join("missing")));
        assert!(RunAs::here().reads(&file));
    }
}
