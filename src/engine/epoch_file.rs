//! The largest epoch this engine has seen, kept in its state directory: a database that comes back from
//! an old backup may know only a smaller one. With it the identity of the database that it was raised for: two
//! failovers in a row may each raise the same number.

use std::io::{Error, ErrorKind};
use std::path::Path;

use super::durable;
use crate::protocol::ids::Epoch;
use crate::store::Meta;

const NAME: &str = "epoch";

/// The largest epoch that was ever seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Its number.
    pub epoch: Epoch,
    /// The database it was raised for, as `meta` records it; `None` where that is not known.
    pub identity: Option<String>,
}

impl Remembered {
    /// Nothing yet.
    pub const NOTHING: Self = Self { epoch: Epoch::new(0), identity: None };

    /// Whether `meta` speaks of another epoch of the same number.
    pub fn is_twin(&self, meta: &Meta) -> bool {
        meta.epoch == self.epoch && self.identity.as_ref().is_some_and(|identity| *identity != meta.identity)
    }
}

/// Reads it; 0 if there is none. A file that holds anything but an epoch is an error (`InvalidData`), not a
/// new start. So is the last epoch there is: a raise above it would be refused by the database again and
/// again, for no token could carry it.
pub fn read(dir: &Path) -> std::io::Result<Remembered> {
    let path = dir.join(NAME);
    let with_path = |kind: ErrorKind, why: &str| Error::new(kind, format!("{} {why}", path.display()));
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Remembered::NOTHING),
        Err(error) => return Err(with_path(error.kind(), &format!("cannot be read: {error}"))),
    };
    let (number, identity) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
    match number.trim().parse::<i64>() {
        Ok(number) if (0..Epoch::MAX).contains(&number) => {
            let identity = Some(identity.trim().to_owned()).filter(|identity| !identity.is_empty());
            Ok(Remembered { epoch: Epoch::new(number), identity })
        }
        Ok(_) => Err(with_path(ErrorKind::InvalidData, &format!("holds no epoch from 0 to {}{MEND}", Epoch::MAX - 1))),
        Err(_) => Err(with_path(ErrorKind::InvalidData, &format!("holds no number{MEND}"))),
    }
}

/// What to do about a file that holds something else.
const MEND: &str = ": write the epoch into it that `rekindle db status` shows; remove it only if the database was \
     neither restored nor failed over since this engine ran last";

/// Writes it atomically.
pub fn write(dir: &Path, known: &Remembered) -> std::io::Result<()> {
    let identity = known.identity.as_ref().map(|identity| format!("{identity}\n")).unwrap_or_default();
    durable::write(dir, NAME, &format!("{}\n{identity}", known.epoch.as_i64()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn it_reads_back_and_garbage_is_loud() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Remembered::NOTHING);
        for identity in [None, Some("7412/2".to_owned())] {
            let known = Remembered { epoch: Epoch::new(7), identity };
            write(dir.path(), &known).unwrap();
            assert_eq!(read(dir.path()).unwrap(), known);
        }
        for text in ["x", "", "-1", "8388607", "9223372036854775807", "9223372036854775808"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            let error = read(dir.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{text}");
            assert!(error.to_string().contains("/epoch holds no "), "{error}");
        }
        std::fs::write(dir.path().join(NAME), "8388606").unwrap();
        assert_eq!(read(dir.path()).unwrap().epoch, Epoch::new(Epoch::MAX - 1));
        std::fs::write(dir.path().join(NAME), b"\xff").unwrap();
        assert_eq!(read(dir.path()).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    /// Two failovers in a row: the first raise was lost with its database, and who raised the second had not
    /// seen it (a seed of the simulator: 35829; tokens were given out twice).
    #[test]
    fn an_epoch_of_the_same_number_that_was_raised_for_another_database_is_another_one() {
        let store = crate::store::MemoryStore::new(std::sync::Arc::new(crate::clock::SystemClock));
        let raise = |identity: &str| {
            store.set_identity(identity);
            let meta = store.meta().unwrap();
            store.raise_epoch(meta.epoch, Epoch::new(meta.epoch.as_i64() + 1), "a test").unwrap();
            store.meta().unwrap()
        };
        let older = store.snapshot();
        let first = raise("promoted");
        let known = Remembered { epoch: first.epoch, identity: Some(first.identity.clone()) };
        assert!(!known.is_twin(&first));
        store.restore(older);
        let second = raise("promoted again");
        assert_eq!(second.epoch, first.epoch);
        assert!(known.is_twin(&second));
        assert!(!known.is_twin(&raise("promoted again")), "a larger one is above all of its tokens");
        assert!(!Remembered { identity: None, ..known }.is_twin(&second), "an old state file tells no identity");
    }
}
