//! What tells one SQLite file from another: its inode and when that was born.
//!
//! A restore into a new file system often meets the old inode number: files are made there in the same order. The time
//! of birth is set by the kernel and by nobody else, so `cp`, `.backup`, `tar` and `rsync` make a file of another one.
//! It stays over renames, restarts and reboots. The number of the device does not, and is no part of it: it may be
//! another one after every boot.
//!
//! What it cannot tell is an older state in the same file (a copy written over it, a snapshot of the file system or
//! of the block device put back): that is seen by the heartbeats that are missing (`protocol::last_beat`).
//!
//! Where the file system or a sandbox does not tell the birth, the inode alone has to do, and a program that sees less
//! than the one that recorded it says that it is the same file.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// Identifies the file, so that a replaced one is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    /// Nanoseconds since 1970, where it is told.
    born: Option<u128>,
}

impl FileId {
    /// Of the file that lies there now.
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        let born = meta.created().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        Ok(Self { device: meta.dev(), inode: meta.ino(), born: born.map(|span| span.as_nanos()) })
    }

    /// Without the birth, as a program writes it that is not told.
    pub(super) fn weak(&self) -> String {
        format!("inode:{}", self.inode)
    }

    /// As `meta` records it.
    pub(super) fn words(&self) -> String {
        self.born.map_or_else(|| self.weak(), |born| format!("{} born:{born}", self.weak()))
    }

    /// The same as an SQL expression: what is recorded, if that may be this file.
    pub(super) fn expression(&self) -> String {
        let (weak, words) = (self.weak(), self.words());
        let or_born = if self.born.is_none() { format!(" OR w.identity LIKE '{weak} born:%'") } else { String::new() };
        format!(
            "COALESCE((SELECT w.identity FROM meta w WHERE w.one = 1 AND (w.identity = '{weak}'{or_born})), '{words}')"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_identity_and_a_copy_has_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("a"), "1").unwrap();
        let first = FileId::of(&path("a")).unwrap();
        assert!(first.born.is_some(), "this file system tells no birth: the test proves nothing");
        std::fs::write(path("a"), "another text").unwrap();
        std::fs::rename(path("a"), path("b")).unwrap();
        assert_eq!(FileId::of(&path("b")).unwrap().words(), first.words());
        std::fs::copy(path("b"), path("a")).unwrap();
        assert_ne!(FileId::of(&path("a")).unwrap().words(), first.words());
        // A new file system gives the same number; the kernel's clock is another one by then.
        let same_number = FileId { born: first.born.map(|born| born + 1), device: 7, ..first };
        assert_ne!(same_number.words(), first.words());
        // The same file under another device number, after a reboot.
        assert_eq!(FileId { device: 8, ..first }.words(), first.words());
    }
}
