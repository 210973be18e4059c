//! The last accepted beat, kept in the state directory for the next process: about once a minute, and when the engine
//! ends. With it a database that lost commits is noticed also where the engines were started again meanwhile.

use std::io::{Error, ErrorKind};
use std::path::Path;

use super::durable;
use crate::protocol::ids::{Epoch, Incarnation};
use crate::protocol::last_beat::LastBeat;
use crate::protocol::time::Timestamp;

const NAME: &str = "last-beat";

/// Reads it; `None` if there is none. A file that holds anything else is an error (`InvalidData`), not a new start.
pub fn read(dir: &Path) -> std::io::Result<Option<LastBeat>> {
    let path = dir.join(NAME);
    match std::fs::read(&path) {
        Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)).map(Some).ok_or_else(|| {
            let text = "holds no heartbeat: remove it only if the database was neither restored nor failed over since \
                        this engine ran last";
            Error::new(ErrorKind::InvalidData, format!("{} {text}", path.display()))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::new(error.kind(), format!("{} cannot be read: {error}", path.display()))),
    }
}

fn parse(text: &str) -> Option<LastBeat> {
    let mut words = text.split_whitespace();
    let mut next = || words.next();
    let cluster_id = next()?.to_owned();
    let incarnation = Incarnation::parse(next()?)?;
    let mut number = || next()?.parse::<i64>().ok().filter(|number| *number >= 0);
    let (beat, epoch, at) = (number()?, number()?, number()?);
    let last = LastBeat { cluster_id, incarnation, beat, epoch: Epoch::new(epoch), at: Timestamp::from_us(at) };
    words.next().is_none().then_some(last)
}

/// Writes it atomically.
pub fn write(dir: &Path, last: &LastBeat) -> std::io::Result<()> {
    let (epoch, at) = (last.epoch.as_i64(), last.at.as_us());
    durable::write(dir, NAME, &format!("{} {} {} {epoch} {at}\n", last.cluster_id, last.incarnation, last.beat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_garbage_is_loud() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let last = LastBeat {
            cluster_id: "0123abc".into(),
            incarnation: Incarnation::new(-7),
            beat: 1_234,
            epoch: Epoch::new(5),
            at: Timestamp::from_us(1_800_000_000_000_000),
        };
        write(dir.path(), &last).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(last));
        for text in ["", "x", "c 1f 3 4", "c 1f 3 4 5 6", "c 1f -3 4 5", "c 1f 3 4 99999999999999999999"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            let error = read(dir.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{text}");
            assert!(error.to_string().contains("/last-beat holds no heartbeat"), "{error}");
        }
        std::fs::write(dir.path().join(NAME), b"\xff").unwrap();
        assert_eq!(read(dir.path()).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
