//! By which means the guard kills what the engine started.
//!
//! | means | how | what gets away |
//! |---|---|---|
//! | control group | `cgroup.kill` of a group that holds the engine and its tasks | nothing below root |
//! | PID namespace | the engine is its first process; the kernel kills all with it | nothing |
//! | process tree | the guard is a subreaper: orphans become its children and are killed | what someone else starts for a task (`systemd-run`, docker, ssh, at) |
//!
//! With any of them the subreaper's sweep comes last, and nothing is proved before it ends with no
//! child left.

use std::fmt;
use std::fs::File;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use super::cgroup::Cgroup;
use super::kill::own_pid;
use super::leftovers::StateDir;
use crate::protocol::stand::KeptBy;

/// How long one look at a killed group lasts before the caller looks at other things.
const KILL_SLICE: Duration = Duration::from_millis(50);

/// A means of killing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// A control group of the engine's own.
    Cgroup,
    /// A PID namespace of the engine's own.
    PidNamespace,
    /// Parentage, held together by a subreaper.
    ProcessTree,
}

impl Means {
    /// All of them, the best that needs no asking first.
    pub const ALL: [Self; 3] = [Self::Cgroup, Self::PidNamespace, Self::ProcessTree];

    /// What it means for a next life, which wants to know whether anything of this one can still run. In a
    /// container whose first process is the guard everything dies with it, whatever the means.
    pub(super) fn keeps_by(self) -> KeptBy {
        match self {
            _ if own_pid() == 1 => KeptBy::Namespace,
            Self::Cgroup => KeptBy::Group,
            Self::PidNamespace => KeptBy::Namespace,
            Self::ProcessTree => KeptBy::Parentage,
        }
    }

    /// As the configuration spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::PidNamespace => "pidns",
            Self::ProcessTree => "tree",
        }
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "control group",
            Self::PidNamespace => "PID namespace",
            Self::ProcessTree => "process tree",
        })
    }
}

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MeansChoice {
    /// A control group where the host allows it, else the process tree.
    #[default]
    Auto,
    /// This one, or no start.
    Only(Means),
}

impl FromStr for MeansChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Means::ALL.into_iter().find(|m| m.name() == text) {
            Some(means) => Ok(Self::Only(means)),
            None if text == "auto" => Ok(Self::Auto),
            None => Err(format!("{text:?} is none of auto, cgroup, pidns, tree")),
        }
    }
}

/// The means that was chosen, with what it needs.
#[derive(Debug)]
pub(super) enum Cage {
    Cgroup(Cgroup),
    PidNamespace,
    ProcessTree,
}

impl Cage {
    /// Makes ready what the choice needs. With `auto` a host that allows no control group is no error:
    /// the process tree always works.
    pub(super) fn prepare(choice: MeansChoice, state: &StateDir) -> io::Result<Self> {
        match choice {
            MeansChoice::Only(Means::ProcessTree) => Ok(Self::ProcessTree),
            MeansChoice::Only(Means::PidNamespace) => Ok(Self::PidNamespace),
            MeansChoice::Only(Means::Cgroup) => Self::cgroup(state).map_err(io::Error::other),
            MeansChoice::Auto => Ok(Self::cgroup(state).unwrap_or_else(|reason| {
                log::info!("the guard kills by process tree: {reason}");
                Self::ProcessTree
            })),
        }
    }

    fn cgroup(state: &StateDir) -> Result<Self, String> {
        let group = Cgroup::create(state.id())?;
        match state.remember_cgroup(group.path()) {
            Ok(()) => Ok(Self::Cgroup(group)),
            Err(e) => {
                group.remove();
                Err(format!("{} cannot be noted in the state directory ({e})", group.path().display()))
            }
        }
    }

    /// Which means it is.
    pub(super) const fn means(&self) -> Means {
        match self {
            Self::Cgroup(_) => Means::Cgroup,
            Self::PidNamespace => Means::PidNamespace,
            Self::ProcessTree => Means::ProcessTree,
        }
    }

    /// What the engine goes in by.
    pub(super) fn door(&self) -> io::Result<Option<File>> {
        match self {
            Self::Cgroup(group) => group.door().map(Some),
            _ => Ok(None),
        }
    }

    /// Kills all that is in it, in one stroke; true once nothing is. Where something is to be spared
    /// there is no such stroke, and the caller's sweep of the process tree does it alone.
    pub(super) fn kill(&self, is_sparing: bool) -> bool {
        match self {
            Self::Cgroup(group) if !is_sparing => group.clear(KILL_SLICE),
            _ => true,
        }
    }

    /// Takes away what is no longer needed.
    pub(super) fn remove(&self) {
        if let Self::Cgroup(group) = self {
            group.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_every_means() {
        assert_eq!("auto".parse(), Ok(MeansChoice::Auto));
        for means in Means::ALL {
            assert_eq!(means.name().parse(), Ok(MeansChoice::Only(means)));
        }
        assert!("cage".parse::<MeansChoice>().is_err());
    }
}
