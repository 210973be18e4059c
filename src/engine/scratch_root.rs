//! Whose the directory is below which an engine's attempts have theirs: `<scratch_dir>/<state id>`.
//!
//! A cloned machine may share both the id and, on a network, the file system with its live original, and would
//! clear what that one works on. So the name is locked, by a file beside the directory, for as long as its engine
//! lives, and one that is taken is left alone for another. What a dead engine left under another name (an id
//! lasts for one boot) goes with its lock; without a lock nobody knows whose it is, and it stays.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::guard::try_lock;

const LOCK: &str = ".lock";

/// More copies than this of one machine do not share a file system.
const COPIES_MAX: u32 = 64;

/// A name that is its engine's as long as this lives.
#[derive(Debug)]
pub struct ScratchLock {
    path: PathBuf,
    _file: File,
}

impl ScratchLock {
    /// At the end of an engine: the next one need not find and clear it. The lock itself ends with the process.
    pub(super) fn clear(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// Takes a name in `dir`.
pub(super) fn take(dir: &Path, state_id: &str) -> io::Result<(String, ScratchLock)> {
    fs::create_dir_all(dir)?;
    for copy in 0..COPIES_MAX {
        let name = if copy == 0 { state_id.to_owned() } else { format!("{state_id}-{copy}") };
        let path = dir.join(format!("{name}{LOCK}"));
        match lock(&path) {
            Ok(Some(file)) => {
                clear_dead(dir);
                return Ok((name, ScratchLock { path, _file: file }));
            }
            Ok(None) => log::warn!("{}/{name} belongs to a live engine, of which this one is a copy", dir.display()),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, format!("{state_id} is taken by {COPIES_MAX} other engines")))
}

/// `None`: somebody has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match try_lock(&file) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            // A file system without locks is no worse than it was.
            Err(error) => {
                log::warn!("could not lock {}: {error}", path.display());
                return Ok(Some(file));
            }
        }
        // Another engine may have cleared it away before it was locked here.
        let its = |meta: fs::Metadata| (meta.dev(), meta.ino());
        if fs::metadata(path).map(its).ok() == Some(its(file.metadata()?)) {
            return Ok(Some(file));
        }
    }
}

/// Removes what engines left that are dead: their locks are free.
fn clear_dead(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(LOCK)).map(str::to_owned) else {
            continue;
        };
        // Also this engine's own name is taken, by this engine.
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else { continue };
        if !matches!(try_lock(&file), Ok(true)) {
            continue;
        }
        let removed = match fs::remove_dir_all(dir.join(&name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            // The lock last: as long as it is there, somebody will try again.
            _ => fs::remove_file(entry.path()),
        };
        if let Err(error) = removed {
            log::warn!("could not clear {}/{name}: {error}", dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_leaves_what_its_original_has_and_what_the_dead_left_goes() {
        let tmp = tempfile::tempdir().unwrap();
        let there = |name: &str| tmp.path().join(name).exists();
        let (first, lock) = take(tmp.path(), "id").unwrap();
        fs::create_dir_all(tmp.path().join("id/7-1")).unwrap();
        fs::create_dir_all(tmp.path().join("foreign/7-1")).unwrap();
        let (second, other) = take(tmp.path(), "id").unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("id", "id-1"));
        assert!(there("id/7-1"));
        other.clear();
        assert!(!there("id-1.lock") && there("id.lock"));
        drop((lock, other));
        let (third, _lock) = take(tmp.path(), "of-the-next-boot").unwrap();
        assert_eq!(third, "of-the-next-boot");
        assert!(!there("id") && !there("id.lock") && !there("id-1.lock") && there("of-the-next-boot.lock"));
        assert!(there("foreign/7-1"), "nobody knows whose it is");
    }
}
