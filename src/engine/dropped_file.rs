//! How many lines of its log this engine had to drop because nobody read them, kept in its state directory for
//! `rekindle doctor`: the log itself tells it only when lines flow again.

use std::io::{self, ErrorKind};
use std::path::Path;

const NAME: &str = "log-dropped";

/// Writes it; an engine that dropped nothing has no such file.
pub fn write(dir: &Path, count: u64) -> io::Result<()> {
    match count {
        0 => match std::fs::remove_file(dir.join(NAME)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        _ => std::fs::write(dir.join(NAME), format!("{count}\n")),
    }
}

/// Reads it; 0 where it is not there, or cannot be read.
pub fn read(dir: &Path) -> u64 {
    std::fs::read_to_string(dir.join(NAME)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_is_gone_where_nothing_was_dropped() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), 0);
        write(dir.path(), 7).unwrap();
        assert_eq!(read(dir.path()), 7);
        write(dir.path(), 0).unwrap();
        write(dir.path(), 0).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
