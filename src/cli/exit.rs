//! Exit codes: the programs' API for cron, systemd and scripts. `rekindle-check` has its own (0 to 3).

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was done, or is so; an empty list too.
    Ok = 0,
    /// Tried and failed, also where some of many failed.
    Failed = 1,
    /// Wrong usage (clap's own code too).
    Usage = 2,
    /// Refused: consent missing, precondition not met, migrations pending. Nothing was changed.
    Refused = 3,
    /// No such engine, task or kind.
    NotFound = 4,
    /// Waited too long; the request stays in force.
    Timeout = 5,
    /// The database cannot be reached (sysexits UNAVAILABLE).
    Unavailable = 69,
    /// Try again: a lock is held, retries of serialization are used up (TEMPFAIL).
    TempFail = 75,
    /// `task-api`: not the owner any more, stop (PROTOCOL).
    NotOwner = 76,
    /// The database or a file does not permit it (NOPERM).
    NoPermission = 77,
    /// Configuration wrong, or schema too new or too old (CONFIG); systemd must not restart on it.
    Config = 78,
    /// Ctrl-C.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_manual() {
        let codes = [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Refused, Exit::NotFound, Exit::Timeout].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5]);
        let codes = [Exit::Unavailable, Exit::TempFail, Exit::NotOwner, Exit::NoPermission, Exit::Config];
        assert_eq!(codes.map(Exit::code), [69, 75, 76, 77, 78]);
        assert_eq!([Exit::Interrupted, Exit::Terminated].map(Exit::code), [130, 143]);
    }
}
