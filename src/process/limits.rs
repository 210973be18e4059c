//! The limits that this program was started with.

use std::io;
use std::sync::OnceLock;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit};

/// The limits that this program changes for itself, as it found them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    core: libc::rlimit,
}

static FOUND: OnceLock<Limits> = OnceLock::new();

/// Notes the limits as they are now, once.
pub(super) fn remember() -> io::Result<()> {
    let found = Limits { core: read(Resource::RLIMIT_CORE)? };
    FOUND.get_or_init(|| found);
    Ok(())
}

/// What this program found; `None` where it has changed nothing.
pub fn found() -> Option<Limits> {
    FOUND.get().copied()
}

impl Limits {
    /// Makes them this process's again. Async-signal-safe, for a child before its exec.
    pub fn restore(&self) -> Result<(), nix::errno::Errno> {
        // SAFETY: a valid structure; the call reads it.
        nix::errno::Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const self.core) }).map(drop)
    }
}

fn read(resource: Resource) -> nix::Result<libc::rlimit> {
    let (soft, hard) = getrlimit(resource)?;
    Ok(libc::rlimit { rlim_cur: soft, rlim_max: hard })
}
