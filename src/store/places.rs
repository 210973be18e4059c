//! From the configuration to places that can be opened, for programs that ask and leave again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

use super::pool::Settings;
use crate::config::{Backend, DatabaseConfig};

/// How a program opens its database.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// Shown by the server, for people.
    pub application: &'static str,
    /// No attempt to connect and no statement takes longer.
    pub limit: Duration,
    /// Make a SQLite file that is not there.
    pub create: bool,
}

/// One entry per URL.
pub fn places(database: &DatabaseConfig, visit: Visit) -> Vec<Settings> {
    let place = |url: &crate::config::DatabaseUrl| Settings {
        connect_timeout: database.connect_timeout.min(visit.limit),
        statement_timeout: database.statement_timeout.min(match url.backend() {
            // Here it is the wait for the file's lock, which a step asks for up to four times: "busy" should
            // be heard before the visitor's own time is over.
            Backend::Sqlite => visit.limit / 5,
            _ => visit.limit,
        }),
        application: visit.application.to_owned(),
        create: visit.create,
        ..Settings::new(url.clone())
    };
    database.urls.iter().map(place).collect()
}

/// Root becomes the owner of the SQLite file (or of the directory in which it will be made): files that
/// belong to root beside it would lock the daemon out. Returns the user it became.
pub fn become_owner(database: &DatabaseConfig) -> Option<u32> {
    let path = database.urls.first()?.sqlite_path().filter(|_| geteuid().is_root())?;
    let there = path.ancestors().find(|part| part.exists() && *part != Path::new("/"))?;
    let data = std::fs::metadata(there).ok().filter(|data| data.uid() != 0)?;
    let (user, group) = (Uid::from_raw(data.uid()), Gid::from_raw(data.gid()));
    // The order matters: without root's rights the groups could not be given up.
    setgroups(&[group]).and_then(|()| setgid(group)).and_then(|()| setuid(user)).ok()?;
    Some(data.uid())
}
