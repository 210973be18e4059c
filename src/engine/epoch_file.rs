//! The largest epoch this engine has seen, kept in its state directory: a database that comes back from
//! an old backup may know only a smaller one.

use std::io::{Error, ErrorKind, Write};
use std::path::Path;

use crate::protocol::ids::Epoch;

const NAME: &str = "epoch";

/// Reads it; 0 if there is none. A file that holds anything but an epoch is an error (`InvalidData`), not a
/// new start. So is the last epoch there is: a raise above it would be refused by the database again and
/// again, for no token could carry it.
pub fn read(dir: &Path) -> std::io::Result<Epoch> {
    let path = dir.join(NAME);
    let with_path = |kind: ErrorKind, why: &str| Error::new(kind, format!("{} {why}", path.display()));
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Epoch::new(0)),
        Err(error) => return Err(with_path(error.kind(), &format!("cannot be read: {error}"))),
    };
    match text.trim().parse::<i64>() {
        Ok(number) if (0..Epoch::MAX).contains(&number) => Ok(Epoch::new(number)),
        Ok(_) => Err(with_path(ErrorKind::InvalidData, &format!("holds no epoch from 0 to {}{MEND}", Epoch::MAX - 1))),
        Err(_) => Err(with_path(ErrorKind::InvalidData, &format!("holds no number{MEND}"))),
    }
}

/// What to do about a file that holds something else.
const MEND: &str = ": write the epoch into it that `rekindle db status` shows; remove it only if the database was \
     neither restored nor failed over since this engine ran last";

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
        for text in ["x", "", "-1", "8388607", "9223372036854775807", "9223372036854775808"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            let error = read(dir.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{text}");
            assert!(error.to_string().contains("/epoch holds no "), "{error}");
        }
        std::fs::write(dir.path().join(NAME), "8388606").unwrap();
        assert_eq!(read(dir.path()).unwrap(), Epoch::new(Epoch::MAX - 1));
        std::fs::write(dir.path().join(NAME), b"\xff").unwrap();
        assert_eq!(read(dir.path()).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
