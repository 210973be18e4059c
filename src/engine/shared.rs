//! What the engine's loops share.
//!
//! ```text
//!            register                  first accepted beat                L without one, or "gone"
//!   out ─────────────────► registered ─────────────────────► live ─────────────────────────► over
//!    ▲                                                                                          │
//!    └────── the next contact registers anew ◄────── clear ◄────── everything killed ──────────┘
//! ```
//!
//! The phase lives under one lock. `over` is entered by whoever notices first (the lease watch at L, the
//! heartbeat on "gone"), and it is final for that incarnation: a late answer to one of its beats is
//! ignored, because what it ran has been told to die. `clear` is entered by the lease watch when it has
//! told the guard so; without that the guard kills the engine, so nothing may pass over it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use super::appetite::Appetite;
use super::epoch_file::Remembered;
use super::options::EngineOptions;
use super::pulse::Pulses;
use super::remember::KeptBeat;
use super::running::{Entry, Running};
use super::scratch_root::ScratchLock;
use super::stop::{Ending, Stop};
use super::tally::Tally;
use super::unit::Unit;
use super::unit_file::{self, UnitLife};
use crate::clock::Clock;
use crate::guard::GuardTalk;
use crate::handlers::{Commands, Ended};
use crate::protocol::engine::{Fitness, Mode, Wanted, mode};
use crate::protocol::ids::{Epoch, Incarnation};
use crate::protocol::last_beat::LastBeat;
use crate::protocol::lease::{Lease, LeasePhase};
use crate::protocol::time::{LeaseInstant, Timestamp};
use crate::store::{Held, Meta, Store};

/// Where an incarnation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Out,
    /// It has a row; nothing may be claimed before its first accepted beat.
    Registered,
    /// Its lease is trusted.
    Live,
    /// Its lease ended, or it was fenced; what it ran is being stopped.
    Over,
    /// Nothing of it runs any more but `continue` tasks, and the guard knows.
    Clear,
}

impl Phase {
    /// Whether the incarnation has ended.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Over | Self::Clear)
    }
}

/// The present life.
#[derive(Debug, Clone)]
pub struct Life {
    /// Which.
    pub incarnation: Option<Incarnation>,
    /// Where it is.
    pub phase: Phase,
    /// Its lease.
    pub lease: Lease,
    /// What operators want of the name.
    pub wanted: Wanted,
    /// By when what runs is handed back, by the database's clock as of the last beat.
    pub wanted_deadline: Option<Timestamp>,
    /// As of the last beat.
    pub meta: Option<Meta>,
    /// Its last accepted beat.
    pub beat: i64,
}

/// An attempt that ended, on its way to the finisher.
pub struct Report {
    /// The claim, as it was in the table.
    pub entry: Entry,
    /// How it ended.
    pub ended: Ended,
    /// How long it ran.
    pub ran: Option<Duration>,
}

/// See the module.
pub struct Shared {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// What it was told.
    pub options: EngineOptions,
    /// Host name, for the row and for tasks that are barred from a host.
    pub host: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// What is claimed.
    pub running: Running,
    /// How many commands it dares to run at once.
    pub appetite: Appetite,
    /// What became of attempts, for the hourly numbers.
    pub tally: Tally,
    /// Whether the loops turn.
    pub pulses: Pulses,
    /// The wish to end.
    pub stop: Stop,
    /// When it was told to end.
    pub told_at: OnceLock<LeaseInstant>,
    /// Database calls that hang.
    pub abandoned: Arc<AtomicUsize>,
    /// Runs commands; `None` where no kind is a command.
    pub commands: Option<Arc<dyn Commands>>,
    /// The guard; `None` without one.
    pub guard: Option<Arc<dyn GuardTalk>>,
    /// Something may be owned in the database that this engine does not know of.
    pub reconcile: AtomicBool,
    /// The raise of the epoch after which all that is held was compared with the database.
    pub verified: Mutex<Epoch>,
    /// The epoch under which a heartbeat counter went back: in doubt until a larger one is seen.
    pub doubted: Mutex<Option<Epoch>>,
    /// The life before this one, as long as the database does not know that it ended.
    pub former: Mutex<Option<Incarnation>>,
    /// The heartbeat has ended by itself.
    pub heartbeat_over: AtomicBool,
    /// Looks for tasks that found some: whether what the watcher tells is worth it.
    pub passes_with_work: AtomicU64,
    /// Ends of attempts cannot be written at present: what is claimed now would only wait with them.
    pub ends_stuck: AtomicBool,
    /// Keeps copies of this machine out of the directories of its attempts.
    pub scratch_lock: Option<ScratchLock>,
    /// What systemd is told.
    pub unit: Unit,
    /// An epoch is being raised.
    pub raising: AtomicBool,
    /// The largest epoch ever seen, in memory and in the state file.
    pub known_epoch: Mutex<Remembered>,
    /// The last accepted beat of this name, whichever life it was of.
    pub last_beat: Mutex<Option<LastBeat>>,
    /// What of it is in the state file.
    pub kept_beat: Mutex<KeptBeat>,
    /// What tells its state directory from a copy.
    pub fork: Mutex<Option<String>>,
    pub(super) life: Mutex<Life>,
    pub(super) own_beats: (Sender<LeaseInstant>, Receiver<LeaseInstant>),
    pub(super) wake: (Sender<()>, Receiver<()>),
    pub(super) reports: (Sender<Report>, Receiver<Report>),
    pub(super) jobs: (Sender<Held>, Receiver<Held>),
}

impl Shared {
    /// The present life, copied.
    pub fn life(&self) -> Life {
        self.life.lock().clone()
    }

    /// The live incarnation, if its lease holds at this moment.
    pub fn live(&self) -> Option<Incarnation> {
        let life = self.life.lock();
        let holds = life.phase == Phase::Live && life.lease.phase(self.clock.lease_now()) == LeasePhase::Valid;
        life.incarnation.filter(|_| holds)
    }

    /// Whether claims are allowed: live, wanted, not ending, the epoch settled, and ends can be written.
    pub fn may_claim(&self) -> Option<Incarnation> {
        if self.stop.ending() != Ending::No || self.ends_stuck.load(Ordering::Acquire) {
            return None;
        }
        let incarnation = self.live()?;
        let life = self.life.lock();
        let settled = life.meta.as_ref().is_some_and(|m| m.settled_epoch >= m.raised_epoch && m.identity_matches);
        (settled && life.wanted == Wanted::Run).then_some(incarnation)
    }

    /// What the next beat reports.
    pub fn mode(&self) -> Mode {
        let life = self.life.lock();
        let wanted = if self.stop.ending() == Ending::No { life.wanted } else { Wanted::Stop };
        let is_live = life.phase == Phase::Live;
        drop(life);
        let fitness = match self.ends_stuck.load(Ordering::Acquire) {
            _ if !is_live => Fitness::Starting,
            true => Fitness::Stuck,
            false if self.appetite.is_starved() => Fitness::Starved,
            false => Fitness::Fit,
        };
        mode(wanted, self.running.count(|_| true) + self.running.unreported_count(), fitness)
    }

    /// The longest wait of a loop that waits for an instant (1 s for the balanced profile). It wakes at that
    /// instant, and at once when the phase or what operators want changes, because those nudge. So this is
    /// only for what gives no sign: a wait does not count the time in which the host was suspended, the lease
    /// does. Half of K: on waking what is over is dealt with in the half that is left, as the guard does.
    pub fn look_again(&self) -> Duration {
        self.options.timing.kill_budget() / 2
    }

    /// Whether the tasks that were claimed ahead for handlers run low.
    pub fn wants_ahead(&self) -> bool {
        self.jobs.1.len() < self.options.ahead / 2 && self.options.kinds.values().any(super::options::Kind::is_handler)
    }

    /// There may be new work.
    pub fn wake_dispatcher(&self) {
        // Full means that it is awake already.
        let _ = self.wake.0.try_send(());
        crate::turns::changed();
    }

    /// Names an incarnation to those who would have to prove its death, before its row can exist.
    pub fn about_to_register(&self, incarnation: Incarnation) {
        if let Some(guard) = &self.guard
            && let Err(error) = guard.registered(incarnation)
        {
            log::error!("could not tell the guard who this is: {error}");
        }
        let (Some(dir), Some(invocation)) = (&self.options.state_dir, unit_file::invocation()) else { return };
        let incarnations = self.former.lock().iter().copied().chain([incarnation]).collect();
        if let Err(error) = unit_file::write(dir, &UnitLife { invocation, incarnations }) {
            log::warn!("could not write down this life for the unit's prover: {error}");
        }
    }

    /// The life has said goodbye to the database.
    pub fn nothing_to_prove(&self) {
        if let Some(guard) = &self.guard
            && let Err(error) = guard.goodbye(0)
        {
            log::error!("could not say goodbye to the guard: {error}");
        }
        if let Some(dir) = &self.options.state_dir
            && let Err(error) = unit_file::remove(dir)
        {
            log::warn!("could not forget the life that has ended: {error}");
        }
    }
}
