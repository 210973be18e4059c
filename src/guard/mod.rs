//! The parent process of an engine: it outlives it, kills what it left running, and has its death
//! proved, so that peers take over at once instead of after T.

mod cgroup;
mod envfd;
mod heard;
mod kill;
mod leftovers;
mod link;
mod means;
mod probe;
mod proof;
mod spawn;
pub mod tree;
mod watch;

#[cfg(test)]
mod tests;

pub use kill::{KillReport, Root, kill_below, kill_strays, kill_tree};
pub use leftovers::{
    LOCK_FD_ENV, STATE_ID_ENV, StateDir, StateDirError, inherited_state_dir, kill_marked, take_state_dir,
};
pub use link::{GUARD_FD_ENV, GuardLink, GuardState, PIDS_MAX};
pub use means::{Means, MeansChoice};
pub use probe::available_means;
pub use watch::{GuardOptions, run};
