//! What a life under systemd leaves for its unit's prover: which invocation it is, and which incarnations
//! it has registered.
//!
//! The prover runs after the unit has ended (`ExecStopPost`). It must not touch another life: one that was
//! started by hand with the same state directory, or the unit's next one. systemd gives every start of a
//! unit a random `INVOCATION_ID`, the same to all its processes; the prover proves only what was written
//! under its own.
//!
//! Written before a registration is sent, because the row may exist although its answer never came. The
//! incarnation before it stays named beside it until then, as with the guard. Not flushed to disk: it only
//! has to outlive processes, and after a crash of the host every invocation is another one.

use std::io;
use std::path::Path;

use crate::protocol::ids::Incarnation;

const NAME: &str = "unit";

/// A life as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitLife {
    /// systemd's id of this start of the unit.
    pub invocation: String,
    /// Whose death there may be to prove.
    pub incarnations: Vec<Incarnation>,
}

/// systemd's id of this start, where a unit started this process.
pub fn invocation() -> Option<String> {
    std::env::var("INVOCATION_ID").ok().filter(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Reads it; `None` if no life of a unit is written there. What cannot be understood is an error: nothing
/// may be proved on a guess.
pub fn read(dir: &Path) -> io::Result<Option<UnitLife>> {
    let path = dir.join(NAME);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bad = || io::Error::other(format!("{} does not name a life", path.display()));
    let mut lines = text.lines();
    let invocation = lines.next().filter(|line| !line.is_empty()).ok_or_else(bad)?.to_owned();
    let incarnations = lines.map(Incarnation::parse).collect::<Option<Vec<_>>>().ok_or_else(bad)?;
    Ok(Some(UnitLife { invocation, incarnations }))
}

/// Writes it in one piece.
pub fn write(dir: &Path, life: &UnitLife) -> io::Result<()> {
    let mut text = format!("{}\n", life.invocation);
    life.incarnations.iter().for_each(|incarnation| text.push_str(&format!("{incarnation}\n")));
    let new = dir.join("unit.new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, dir.join(NAME))
}

/// After a goodbye, and before a new life: nothing is left to prove.
pub fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_nothing_is_proved_on_a_guess() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let life =
            UnitLife { invocation: "ab12".into(), incarnations: vec![Incarnation::new(-7), Incarnation::new(9)] };
        write(dir.path(), &life).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(life));
        for text in ["", "\n", "ab12\nnonsense\n"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            assert!(read(dir.path()).is_err(), "{text:?}");
        }
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
    }
}
