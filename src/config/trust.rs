//! What root takes for configuration: only what nobody but root can write.
//!
//! A configuration names commands. Root who reads one of another user (`sudo` that kept HOME, a file that
//! was copied with its owner) would run whatever that user writes into it.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A text that decides what is run. Root refuses a file that others could write.
pub fn read_to_string(path: &Path, is_root: bool) -> io::Result<String> {
    let mut file = File::open(path)?;
    // Asked of the open file, so that what was looked at is what is read.
    let fault = if is_root { fault(&file.metadata()?) } else { None };
    if let Some(fault) = fault {
        let text = format!("{fault}, and root takes only what nobody else can write: chown root, chmod go-w");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn fault(data: &Metadata) -> Option<String> {
    let mode = data.mode();
    match data.uid() {
        0 if mode & 0o002 != 0 => Some("everyone may write it".to_owned()),
        0 if mode & 0o020 != 0 && data.gid() != 0 => Some(format!("group {} may write it", data.gid())),
        0 => None,
        user => Some(format!("it belongs to user {user}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn root_takes_only_what_nobody_else_can_write() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "a = 1").unwrap();
        let read = |is_root| read_to_string(file.path(), is_root).map_err(|error| error.to_string());
        assert_eq!(read(false).as_deref(), Ok("a = 1"));
        if !nix::unistd::geteuid().is_root() {
            assert!(read(true).unwrap_err().starts_with("it belongs to user "));
            return println!("skipped: only root can give files away");
        }
        for (owner, group, mode, fault) in [
            (0, 0, 0o640, None),
            (0, 1, 0o640, None),
            (0, 0, 0o660, None),
            (0, 1, 0o660, Some("group 1 may write it")),
            (0, 0, 0o646, Some("everyone may write it")),
            (1, 0, 0o640, Some("it belongs to user 1")),
        ] {
            chown(&file, Some(owner), Some(group)).unwrap();
            set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            match (read(true), fault) {
                (Ok(_), None) => {}
                (Err(said), Some(fault)) => assert!(said.starts_with(fault) && said.contains("chown root"), "{said}"),
                (read, fault) => panic!("{owner} {group} {mode:o}: {read:?} {fault:?}"),
            }
        }
    }
}
