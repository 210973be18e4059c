//! How many descriptors this process may have, and what its tasks get of what it was started with.
//!
//! An engine needs a good ten descriptors for each command that runs, and where they run out not only tasks
//! suffer: heartbeats cannot connect. So an engine takes all that the host allows, as a service manager means
//! it with a soft limit below the hard one, and runs no more commands at once than fit. Its tasks get the soft
//! limit that the engine was started with: some old programs break with a large one.

use std::io;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a command in a slot takes: the ends of its pipes, timer, wake-up and process; and for a moment at its
/// start the four ends that are the command's own.
const FOR_A_SLOT: u64 = 11;

/// For everything else: connections, the state directory, the guard, the log, looks at /proc.
const FOR_THE_REST: u64 = 64;

/// More is of no use to any engine, and some libraries walk through all that is allowed.
const MOST: u64 = 65_536;

/// The limits that this program changes for itself, as it found them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    core: libc::rlimit,
    files: libc::rlimit,
}

static FOUND: OnceLock<Limits> = OnceLock::new();

/// Notes the limits as they are now, once.
pub(super) fn remember() -> io::Result<()> {
    let found = Limits { core: read(Resource::RLIMIT_CORE)?, files: read(Resource::RLIMIT_NOFILE)? };
    FOUND.get_or_init(|| found);
    Ok(())
}

/// What this program found; `None` where it has changed nothing.
pub fn found() -> Option<Limits> {
    FOUND.get().copied()
}

impl Limits {
    /// Makes them this process's again. Async-signal-safe, for a child before its exec.
    pub fn restore(&self) -> Result<(), Errno> {
        for (which, limit) in [(libc::RLIMIT_CORE, &self.core), (libc::RLIMIT_NOFILE, &self.files)] {
            // SAFETY: a valid structure, which the call only reads.
            Errno::result(unsafe { libc::setrlimit(which, limit) })?;
        }
        Ok(())
    }
}

fn read(resource: Resource) -> nix::Result<libc::rlimit> {
    let (soft, hard) = getrlimit(resource)?;
    Ok(libc::rlimit { rlim_cur: soft, rlim_max: hard })
}

/// Takes as many descriptors as the host allows; how many that are.
pub fn raise_descriptors() -> io::Result<u64> {
    remember()?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(MOST).max(soft);
    if wanted > soft {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(wanted)
}

/// How many descriptors this process could take.
pub fn most_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, hard)| hard.min(MOST).max(soft))
}

/// The descriptors that an engine with so many slots may come to need.
pub fn needed_for(slots: u32) -> u64 {
    u64::from(slots) * FOR_A_SLOT + FOR_THE_REST
}

/// How many slots so many descriptors are enough for.
pub fn slots_within(descriptors: u64) -> u32 {
    u32::try_from(descriptors.saturating_sub(FOR_THE_REST) / FOR_A_SLOT).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;
    use crate::guard::tests::in_child;

    #[test]
    fn descriptors_are_raised_to_the_hard_limit_and_a_child_gets_the_soft_one() {
        let child = in_child(|| {
            setrlimit(Resource::RLIMIT_NOFILE, 256, 900).unwrap();
            assert_eq!(raise_descriptors().unwrap(), 900);
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (900, 900));
            found().unwrap().restore().unwrap();
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (256, 900));
            0
        });
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    }

    #[test]
    fn slots_and_descriptors_fit_each_other() {
        for slots in [0, 1, 64, 1_024] {
            assert_eq!(slots_within(needed_for(slots)), slots);
            assert_eq!(slots_within(needed_for(slots) - 1), slots.saturating_sub(1));
        }
    }
}
