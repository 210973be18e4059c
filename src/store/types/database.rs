//! What a database is: how far its schema is, its one row of `meta`, its server.

use std::time::Duration;

use serde::Serialize;

use crate::protocol::ids::Epoch;
use crate::protocol::time::Timestamp;

/// How far the schema of a database is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaStatus {
    /// The newest migration that was run; `None` in an empty database.
    pub found: Option<String>,
    /// The newest that this program knows.
    pub wanted: String,
    /// Known here, but not run there.
    pub pending: Vec<String>,
    /// Run there, but not known here: the database is newer than this program.
    pub unknown: Vec<String>,
    /// Somebody was still changing it when the time for waiting was over, so the rest may be true no more.
    pub is_migrating: bool,
}

impl SchemaStatus {
    /// Whether this program and the database fit.
    pub fn is_current(&self) -> bool {
        self.pending.is_empty() && self.unknown.is_empty()
    }
}

/// The one row of `meta`, with the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Random, made with the database: recognises a wrong one.
    pub cluster_id: String,
    /// The cluster's name, which its first engine wrote.
    pub cluster: Option<String>,
    /// The current epoch.
    pub epoch: Epoch,
    /// The last epoch that was raised because commits may be lost.
    pub raised_epoch: Epoch,
    /// The last epoch after which some engine has watched for the largest T; claims need
    /// `settled_epoch >= raised_epoch`.
    pub settled_epoch: Epoch,
    /// Why the epoch was raised the last time.
    pub raised_reason: Option<String>,
    /// The identity that was recorded with the last raise: with the number it tells an epoch from another one
    /// that was raised in ignorance of it.
    pub identity: String,
    /// Whether the database's identity is the recorded one.
    pub identity_matches: bool,
    /// The latest time of the database that an engine had seen when it found the clock set back.
    pub clock_seen_at: Timestamp,
    /// The database's clock.
    pub now: Timestamp,
}

/// A clock that is set back by less is set right.
const SET_BACK_MIN: Duration = Duration::from_secs(60);

impl Meta {
    /// By how much the database's clock is behind what engines have seen: tasks that wait for a time that was reckoned
    /// before come so much later. `None`: it is not, or not by much.
    pub fn clock_set_back(&self) -> Option<Duration> {
        Some(self.clock_seen_at.since(self.now)).filter(|span| *span > SET_BACK_MIN)
    }
}

/// What the server is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// For example `PostgreSQL 15.18` or `SQLite 3.53.2`.
    pub product: String,
    /// Where, without password.
    pub place: String,
    /// Its identity as `meta` would record it.
    pub identity: String,
    /// Settings that could lose commits, in words; empty when all is well.
    pub durability_problems: Vec<String>,
    /// Whether it refuses writes from here.
    pub read_only: bool,
    /// Whether it refuses those of everybody: a standby, a read-only server or file system. A user who may only
    /// read is no trouble of the cluster.
    pub nobody_writes: bool,
    /// How many connections it has, where it counts them; behind a pooler it counts the pooler's.
    pub connections: Option<ServerConnections>,
}

/// The connections of a server, whoever has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerConnections {
    /// So many may ordinary users have open at once.
    pub limit: u32,
    /// So many are open now.
    pub open: u32,
}

/// A row that another program wrote, and that engines leave alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Which: its table and its key.
    pub row: String,
    /// What is wrong with it.
    pub why: String,
    /// What removes or mends it.
    pub fix: String,
}
