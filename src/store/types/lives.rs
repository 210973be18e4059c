//! The life of an engine: registering, beating, and what operators want of its name.

use std::time::Duration;

use super::database::Meta;
use super::sweeps::Fence;
use super::work::Held;
use crate::protocol::engine::{Mode, Proof, Wanted};
use crate::protocol::ids::{EngineName, Incarnation, KindName, TaskId, Token};
use crate::protocol::last_beat::LastBeat;
use crate::protocol::stand::Stand;
use crate::protocol::task::Wish;
use crate::protocol::time::Timestamp;
use crate::protocol::timing::Timing;

/// A new incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Random, never reused.
    pub incarnation: Incarnation,
    /// Chosen by people.
    pub name: EngineName,
    /// Host name.
    pub host: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Process id on that host.
    pub pid: u32,
    /// Random id kept in the state directory.
    pub state_id: String,
    /// Where exactly it stands; `None` for one without a state directory.
    pub stand: Option<Stand>,
    /// Program version.
    pub version: String,
    /// Oldest and newest protocol it speaks.
    pub protocol: (u32, u32),
    /// Where the code runs from.
    pub release: String,
    /// Kinds it takes, for people (`*` for a library's handlers is not allowed: names only).
    pub kinds: Vec<KindName>,
    /// Tasks at once.
    pub slots: u32,
    /// Which means of killing its guard has, or `none`.
    pub means: String,
    /// Its timing, fixed for its life.
    pub timing: Timing,
    /// The life before this one, if it is known to be over: ended in the same transaction.
    pub former: Option<FormerLife>,
    /// The last accepted beat that this name's state directory or process remembers: the row of that life is
    /// compared with it in the same transaction.
    pub last_beat: Option<LastBeat>,
    /// The cluster it belongs to; the first one to register names the database's.
    pub cluster: String,
}

/// A former incarnation that the registering engine ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerLife {
    /// Who.
    pub incarnation: Incarnation,
    /// How it is known to be over: `self` or `lock`. `operator`: a copy of the engine may still run its tasks, so
    /// they are left alone as after an operator's fence.
    pub proof: Proof,
    /// `continue` tasks that still run and are adopted if their token is still current.
    pub adopt: Vec<Held>,
}

impl FormerLife {
    /// Whether nothing of it runs any more but what is adopted.
    pub fn is_over(&self) -> bool {
        self.proof != Proof::Operator
    }

    pub(in crate::store) fn fence(&self, name: &EngineName) -> Fence {
        let by = if self.is_over() { name.to_string() } else { format!("{name}, which found a copy of itself") };
        Fence { incarnation: self.incarnation, beat: None, proof: self.proof, by, place: None }
    }
}

/// A live engine of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namesake {
    /// Who.
    pub incarnation: Incarnation,
    /// Where.
    pub host: String,
    /// The boot it runs in.
    pub boot_id: String,
    /// Its process.
    pub pid: u32,
    /// The id of its state directory.
    pub state_id: String,
    /// Where exactly it stands, as far as its row tells.
    pub stand: Option<Stand>,
    /// By the database's clock.
    pub last_beat_age: Duration,
    /// Its counter.
    pub beat: i64,
    /// Its T.
    pub takeover_after: Duration,
}

/// What came of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterOutcome {
    /// Registered; which `continue` tasks were adopted.
    Registered {
        /// Adopted.
        adopted: Vec<Held>,
        /// The meta row.
        meta: Meta,
        /// The database has lost beats that were accepted; nothing of the former life was handed back.
        is_lost: bool,
    },
    /// A live engine has this name. Nothing was changed, but a former life that was named is ended: it is
    /// over in any case.
    NameTaken(Namesake),
}

/// One heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub incarnation: Incarnation,
    /// What it reports.
    pub mode: Mode,
    /// Tasks that run.
    pub running: u32,
}

/// What came of a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeatOutcome {
    /// Accepted.
    Accepted(BeatAnswer),
    /// Zero rows: this incarnation is not live any more.
    Gone,
}

/// What an accepted beat brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeatAnswer {
    /// The counter after this beat.
    pub beat: i64,
    /// What operators want.
    pub wanted: Wanted,
    /// The deadline of a drain or stop, by the database's clock.
    pub wanted_deadline: Option<Timestamp>,
    /// Wishes on tasks this incarnation runs.
    pub wishes: Vec<(TaskId, Token, Wish)>,
    /// The meta row, identity checked.
    pub meta: Meta,
}

/// What operators want of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish4Engine {
    /// Of whom.
    pub name: EngineName,
    /// What.
    pub wanted: Wanted,
    /// Why.
    pub reason: Option<String>,
    /// Who says so.
    pub by: String,
    /// Kill and hand back what still runs this long from now.
    pub deadline: Option<Duration>,
    /// It ends by itself after this long.
    pub lasts: Option<Duration>,
}
