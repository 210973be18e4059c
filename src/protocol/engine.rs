//! The words of an engine's life: how it ended, what operators want of it, what it reports.

use super::task::stored_enum;
use serde::{Deserialize, Serialize};

stored_enum!(
    /// Whether an incarnation may still act. It never goes back to `live` (I3).
    EngineState {
        /// It may.
        Live = 1, "live";
        /// It was declared dead, by a peer or with a proof.
        Fenced = 2, "fenced";
        /// It said goodbye, and nothing it started runs any more.
        Stopped = 3, "stopped";
    }
);

stored_enum!(
    /// What operators want of a name; it survives the incarnation.
    Wanted {
        /// Take tasks.
        Run = 0, "run";
        /// Take nothing new.
        Pause = 1, "pause";
        /// Take nothing new, and report when nothing runs any more.
        Drain = 2, "drain";
        /// Drain, then exit 0.
        Stop = 3, "stop";
    }
);

stored_enum!(
    /// What an engine reports of itself with each beat.
    Mode {
        /// Registered, not yet taking tasks.
        Starting = 0, "starting";
        /// Taking tasks.
        Active = 1, "active";
        /// Wanted `pause`, seen and obeyed.
        Paused = 2, "paused";
        /// Still running tasks.
        Draining = 3, "draining";
        /// Nothing runs; the process is up.
        Drained = 4, "drained";
        /// Would take tasks, but cannot write how those it has ended.
        Stuck = 5, "stuck";
        /// Takes fewer tasks than it has slots, because its host could not start more.
        Starved = 6, "starved";
    }
);

stored_enum!(
    /// Why an incarnation was ended.
    Proof {
        /// No proof: its beat stood still for T.
        Expiry = 0, "expiry";
        /// Its guard killed everything it had started and saw that nothing was left.
        Guard = 1, "guard";
        /// A successor held the lock of its state directory, on the same boot, and killed what was left.
        Lock = 2, "lock";
        /// It ended itself after a lost lease and came back.
        Itself = 3, "self";
        /// systemd ended its unit, and the unit's cgroup is empty.
        Unit = 4, "unit";
        /// An operator said so.
        Operator = 5, "operator";
    }
);

impl Proof {
    /// Whether the owner gave its tasks back by itself: those count as `handed-back`, not as `lost`.
    pub const fn is_hand_back(self) -> bool {
        matches!(self, Self::Itself)
    }
}

/// Whether an engine could take tasks if it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// It has not had its first accepted beat.
    Starting,
    /// It could.
    Fit,
    /// Ends of attempts cannot be written: what it claimed would only wait with them.
    Stuck,
    /// The host could not start as many commands as there are slots.
    Starved,
}

/// What an engine should report, from what is wanted, what runs, and what it could do. What people want comes
/// first: whoever drains an engine waits for `drained`, and its unwritten ends count as running.
pub const fn mode(wanted: Wanted, running: usize, fitness: Fitness) -> Mode {
    match wanted {
        Wanted::Run => match fitness {
            Fitness::Starting => Mode::Starting,
            Fitness::Fit => Mode::Active,
            Fitness::Stuck => Mode::Stuck,
            Fitness::Starved => Mode::Starved,
        },
        Wanted::Pause => Mode::Paused,
        Wanted::Drain | Wanted::Stop if running > 0 => Mode::Draining,
        Wanted::Drain | Wanted::Stop => Mode::Drained,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_ends_when_nothing_runs() {
        assert_eq!(mode(Wanted::Drain, 1, Fitness::Fit), Mode::Draining);
        assert_eq!(mode(Wanted::Drain, 1, Fitness::Stuck), Mode::Draining);
        assert_eq!(mode(Wanted::Drain, 0, Fitness::Fit), Mode::Drained);
        assert_eq!(mode(Wanted::Stop, 0, Fitness::Starting), Mode::Drained);
        assert_eq!(mode(Wanted::Pause, 3, Fitness::Fit), Mode::Paused);
    }

    #[test]
    fn an_engine_that_should_run_says_whether_it_can() {
        assert_eq!(mode(Wanted::Run, 0, Fitness::Starting), Mode::Starting);
        assert_eq!(mode(Wanted::Run, 2, Fitness::Fit), Mode::Active);
        assert_eq!(mode(Wanted::Run, 2, Fitness::Stuck), Mode::Stuck);
        assert_eq!(mode(Wanted::Run, 2, Fitness::Starved), Mode::Starved);
    }
}
