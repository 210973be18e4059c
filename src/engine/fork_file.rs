//! What tells a copied state directory from its original: a random word that an engine writes when it finds that
//! somebody else beats its row.
//!
//! Two machines resumed from one snapshot have one boot id, one state id and equal inodes, and in each the lock of the
//! dead process is free. Without this word either would take the other's living engine for its own former life.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use super::durable;

const NAME: &str = "fork";

/// Reads it; `None` where nobody ever found a copy.
pub fn read(dir: &Path) -> Result<Option<String>> {
    let path = dir.join(NAME);
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::new(error.kind(), format!("{} cannot be read: {error}", path.display()))),
    };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        let text = format!("{} holds no word: write another one into it", path.display());
        return Err(Error::new(ErrorKind::InvalidData, text));
    }
    Ok(Some(text))
}

/// Writes it atomically.
pub fn write(dir: &Path, word: &str) -> Result<()> {
    durable::write(dir, NAME, &format!("{word}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_garbage_is_loud() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        write(dir.path(), "4711abc").unwrap();
        assert_eq!(read(dir.path()).unwrap().as_deref(), Some("4711abc"));
        for text in ["", "\n", "a b", "\u{fe}"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            assert_eq!(read(dir.path()).unwrap_err().kind(), ErrorKind::InvalidData, "{text:?}");
        }
    }
}
