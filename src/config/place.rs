//! Directories that the configuration names: whether a program can work there, and how it ends where it
//! cannot.
//!
//! Looking at modes is not enough: a read-only mount, a full disk, a quota, a file in the place of a
//! directory or a network that maps root to nobody each say no in their own way, and only a try hears
//! all of them.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::sys::stat::{Mode, umask};

/// Makes a file in a directory, writes to it and removes it again.
pub fn try_out(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!(".rekindle-try-{:016x}", fastrand::u64(..)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let written = file.write_all(b"rekindle\n");
    drop(file);
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

/// What a program and its children make is not for every user of the host. A stricter mask stays.
pub fn keep_private() {
    let private = Mode::from_bits_truncate(0o027);
    let before = umask(private);
    umask(before | private);
}

/// Whether every user of this host may look into a directory.
pub fn is_open_to_all(dir: &Path) -> bool {
    std::fs::metadata(dir).is_ok_and(|data| data.permissions().mode() & 0o007 != 0)
}

/// What a program exits with that cannot use one: 77 where it is not permitted, 78 where the place itself is
/// wrong (so that systemd does not start it again and again), 1 where it may be better later.
pub fn exit_code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => 77,
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::AlreadyExists
        | ErrorKind::InvalidInput
        | ErrorKind::InvalidData => 78,
        kind if kind == io::Error::from_raw_os_error(nix::libc::ELOOP).kind() => 78,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(dir: &Path) -> i32 {
        exit_code(try_out(dir).unwrap_err().kind())
    }

    #[test]
    fn a_try_leaves_nothing_behind_and_hears_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        try_out(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(code_of(&dir.path().join("file")), 78);
        assert_eq!(code_of(&dir.path().join("file/below")), 78);
        assert_eq!(code_of(&dir.path().join("missing")), 78);
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert_eq!(code_of(&dir.path().join("loop")), 78);
        // Root may not make files there either.
        assert_eq!(code_of(Path::new("/sys")), 77);
    }
}
