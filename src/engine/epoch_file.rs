//! The largest epoch this engine has seen, kept in its state directory: a database that comes back from
//! an old backup may know only a smaller one.

use std::io::Write;
use std::path::Path;

use crate::protocol::ids::Epoch;

const NAME: &str = "epoch";

/// Reads it; 0 if there is none. A file that cannot be read as a number is an error, not a new start.
pub fn read(dir: &Path) -> std::io::Result<Epoch> {
    match std::fs::read_to_string(dir.join(NAME)) {
        Ok(text) => text
            .trim()
            .parse()
            .map(Epoch::new)
            .map_err(|e| std::io::Error::other(format!("{} holds no number: {e}", dir.join(NAME).display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Epoch::new(0)),
        Err(error) => Err(error),
    }
}

/// Writes it atomically.
pub fn write(dir: &Path, epoch: Epoch) -> std::io::Result<()> {
    let new = dir.join("epoch.new");
    let mut file = std::fs::File::create(&new)?;
    writeln!(file, "{}", epoch.as_i64())?;
    file.sync_all()?;
    std::fs::rename(new, dir.join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_garbage_is_loud() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Epoch::new(0));
        write(dir.path(), Epoch::new(7)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Epoch::new(7));
        std::fs::write(dir.path().join(NAME), "x").unwrap();
        assert!(read(dir.path()).is_err());
    }
}
