//! Whether a peer is dead: the one place that decides it.
//!
//! An observer sees only two things of a peer: the beat counter in its row, and its own clock. A peer
//! becomes a *suspect* when its last beat does not look recent by the database's clock (a cheap filter
//! that decides nothing); from then on the observer measures with its own clock, from *after* the
//! response that brought the counter. Once the counter has stood still for the peer's T, the observer
//! may send the fence, which compares the counter once more in the database: a beat that came first wins.
//!
//! ```text
//!            filter: not recent                    own clock: seen + T          UPDATE … AND beat = seen
//!   unseen ───────────────────────► suspect(beat) ─────────────────────► due ─────────────────────────► fenced
//!      ▲                             │    ▲   │                                     │
//!      └── recent again ─────────────┘    └───┘ another beat: timer restarts ◄──────┘ zero rows: it lives
//! ```
//!
//! What goes wrong, and why it fences nobody wrongly:
//! * The observer was frozen or cut off: its own accepted beats lie more than L/2 apart, so all timers
//!   start again. A database outage stops everybody's beats alike, and so all timers.
//! * The database's clock was stepped: the filter lets nobody or everybody through. Nobody: every tenth
//!   sweep reads without the filter, and what only that one finds becomes a suspect when the next such
//!   sweep reads the same counter. Everybody: each is measured for T, and its beats restart the timer.
//! * A failover brought an older state back: the epoch was raised, and all timers start again.
//! * Many look dead at once: the brake spreads the fences out, so that a common cause which heals is
//!   noticed after the first ones. It never stops for good.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ids::Incarnation;
use super::time::LeaseInstant;
use super::timing::Timing;
use crate::planted::{Bug, planted};

/// A live peer as one sweep read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerBeat {
    /// Who.
    pub incarnation: Incarnation,
    /// Its counter.
    pub beat: i64,
    /// The values of *its* row.
    pub timing: Timing,
    /// Whether its last beat looks recent by the database's clock; a filtered sweep returns only those
    /// that do not.
    pub is_recent: bool,
}

/// How a sweep read the engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepKind {
    /// Only those whose last beat does not look recent.
    Filtered,
    /// All of them.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Suspect {
    beat: i64,
    /// Set when the brake took hold: its own instant, which no fence of another one moves.
    braked_until: Option<LeaseInstant>,
    seen_at: LeaseInstant,
    takeover_after: Duration,
    /// Found by full sweeps only: a filtered one that does not list it says nothing about it.
    only_full: bool,
}

impl Suspect {
    fn due_at(&self) -> LeaseInstant {
        self.braked_until.unwrap_or(self.seen_at.after(self.takeover_after))
    }
}

/// A fence that is due: what the conditional write must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueFence {
    /// Whom.
    pub incarnation: Incarnation,
    /// The counter that stood still.
    pub beat: i64,
    /// For how long it was watched.
    pub stood_for: Duration,
}

/// What the observer remembers between sweeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Observer {
    lapse_limit: Duration,
    last_own_beat: Option<LeaseInstant>,
    suspects: BTreeMap<Incarnation, Suspect>,
    only_full: BTreeMap<Incarnation, i64>,
}

/// From how many suspects on the brake may hold.
const BRAKE_MIN: usize = 3;

impl Observer {
    /// An observer with its own timing (for its own lapses).
    pub fn new(own: &Timing) -> Self {
        Self {
            lapse_limit: own.lease() / 2,
            last_own_beat: None,
            suspects: BTreeMap::new(),
            only_full: BTreeMap::new(),
        }
    }

    /// Forgets all observations: after an own lapse or a raised epoch.
    pub fn restart(&mut self) {
        self.suspects.clear();
        self.only_full.clear();
    }

    /// The observer's own beat, sent at `sent_at`, was accepted.
    pub fn own_beat(&mut self, sent_at: LeaseInstant) {
        let has_lapsed = self.last_own_beat.is_some_and(|last| sent_at.since(last) > self.lapse_limit);
        if has_lapsed && !planted(Bug::OwnLapseIgnored) {
            self.restart();
        }
        self.last_own_beat = Some(self.last_own_beat.map_or(sent_at, |last| last.max(sent_at)));
    }

    /// Takes in what a sweep read. `now` was taken after the response.
    pub fn observe(&mut self, now: LeaseInstant, kind: SweepKind, peers: &[PeerBeat]) {
        let mut kept = BTreeMap::new();
        for peer in peers {
            let had = self.suspects.get(&peer.incarnation).filter(|s| s.beat == peer.beat);
            if let Some(same) = had {
                kept.insert(peer.incarnation, *same);
            } else if !peer.is_recent || self.only_full.get(&peer.incarnation) == Some(&peer.beat) {
                let only_full = peer.is_recent;
                kept.insert(
                    peer.incarnation,
                    Suspect {
                        beat: peer.beat,
                        braked_until: None,
                        seen_at: now,
                        takeover_after: match planted(Bug::WallClock) && !peer.is_recent {
                            true => Duration::ZERO,
                            false => peer.timing.takeover_after(),
                        },
                        only_full,
                    },
                );
            }
        }
        match kind {
            SweepKind::Full => {
                self.only_full = peers.iter().filter(|p| p.is_recent).map(|p| (p.incarnation, p.beat)).collect();
            }
            SweepKind::Filtered => {
                let unseen = self.suspects.iter().filter(|(id, s)| s.only_full && !kept.contains_key(id));
                let carried: Vec<_> = unseen.map(|(id, s)| (*id, *s)).collect();
                kept.extend(carried);
            }
        }
        self.suspects = kept;
    }

    /// Which fences are due at `now`. `live_count` counts the live engines of the cluster, this one
    /// included.
    pub fn due(&mut self, now: LeaseInstant, live_count: usize) -> Vec<DueFence> {
        let has_lapsed = self.last_own_beat.is_none_or(|last| now.since(last) > self.lapse_limit);
        if has_lapsed && !planted(Bug::OwnLapseIgnored) {
            self.restart();
            return Vec::new();
        }
        let stood = |s: &Suspect| now >= s.seen_at.after(s.takeover_after);
        // Only when somebody would be fenced: many that are late for a moment are no reason to let a dead
        // one wait.
        if self.suspects.values().any(stood) && self.brakes(live_count) {
            self.brake();
        }
        self.suspects
            .iter()
            .filter(|(_, s)| now >= s.due_at())
            .map(|(id, s)| DueFence { incarnation: *id, beat: s.beat, stood_for: now.since(s.seen_at) })
            .collect()
    }

    /// Gives each suspect its instant, once: the fences of the first ones make the rest fewer, and must not
    /// bring them forward.
    fn brake(&mut self) {
        let step = brake_step(self.suspects.len());
        for (rank, suspect) in self.suspects.values_mut().enumerate() {
            let turn = step * u32::try_from(rank).unwrap_or(u32::MAX);
            suspect.braked_until.get_or_insert(suspect.seen_at.after(suspect.takeover_after * 2).after(turn));
        }
    }

    /// Whether so many look dead at once that fencing is slowed down.
    fn brakes(&self, live_count: usize) -> bool {
        !planted(Bug::NoBrake) && self.suspects.len() >= BRAKE_MIN && self.suspects.len() * 2 > live_count
    }

    /// Whether fences are being spread out.
    pub fn is_braking(&self) -> bool {
        self.suspects.values().any(|s| s.braked_until.is_some())
    }

    /// The fence of this incarnation was sent: whatever came of it, its timer starts again.
    pub fn fence_sent(&mut self, incarnation: Incarnation) {
        self.suspects.remove(&incarnation);
    }

    /// When the next fence could become due, so that the sweeper need not wait a whole interval.
    pub fn next_due(&self) -> Option<LeaseInstant> {
        self.suspects.values().map(Suspect::due_at).min()
    }

    /// How many are being watched.
    pub fn suspect_count(&self) -> usize {
        self.suspects.len()
    }
}

fn brake_step(suspects: usize) -> Duration {
    Duration::from_secs(5).min(Duration::from_secs(60) / u32::try_from(suspects.max(1)).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
