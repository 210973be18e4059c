//! What one engine sees of the others, and how it ends them and takes over.

use std::time::Duration;

use serde::Serialize;

use super::database::Meta;
use crate::protocol::engine::{EngineState, Proof};
use crate::protocol::ids::{EngineName, Incarnation};
use crate::protocol::liveness::{PeerBeat, SweepKind};
use crate::protocol::time::Timestamp;

/// How the sweeper read.
pub type SweepMode = SweepKind;

/// What one sweep read.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepView {
    /// The meta row.
    pub meta: Meta,
    /// Live engines, this one included.
    pub live_count: usize,
    /// Live peers: the late ones, or all in a full sweep.
    pub peers: Vec<PeerBeat>,
    /// Fenced or stopped incarnations whose row is not closed.
    pub ended: Vec<EndedPeer>,
    /// Rows of `engine` that no release of this program wrote: their number, and what is wrong with them.
    pub unreadable: Vec<(i64, String)>,
    /// When the next waiting task is due.
    pub next_due: Option<Timestamp>,
    /// When the last search for orphans of closed rows was.
    pub orphan_scan_at: Timestamp,
    /// The largest T of live rows.
    pub takeover_max: Duration,
}

/// An incarnation that ended and may still own something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedPeer {
    /// Who.
    pub incarnation: Incarnation,
    /// Its name.
    pub name: EngineName,
    /// Fenced or stopped.
    pub state: EngineState,
    /// How.
    pub proof: Proof,
    /// Its L + K: an operator's fence that was not acknowledged is left alone for that long.
    pub dead_after: Duration,
    /// It has seen that it was fenced, and has stopped everything.
    pub acknowledged: bool,
}

/// How to end an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Whom.
    pub incarnation: Incarnation,
    /// The counter that stood still; `None` with a proof.
    pub beat: Option<i64>,
    /// Why.
    pub proof: Proof,
    /// Who does it, for people.
    pub by: String,
    /// Of a proof from outside of the engine: only a life of this place.
    pub place: Option<LifePlace>,
}

/// What a life must have said of itself for a proof to be about it: a file that names one may name any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifePlace {
    /// The ids that its state directory has, or had before it was found to be one of two.
    pub state_ids: Vec<String>,
    /// The kernel's boot id.
    pub boot_id: String,
}

/// What came of a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceOutcome {
    /// This call won.
    Won,
    /// It beat meanwhile, or somebody else was faster.
    Missed,
}

/// What one pass of a takeover did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TakeoverReport {
    /// Made ready again.
    pub ready: usize,
    /// Quarantined, failed (`rerun = "never"`), canceled or held.
    pub parked: usize,
    /// Another transaction held them.
    pub skipped: usize,
    /// More is left for the next pass.
    pub more: bool,
}
