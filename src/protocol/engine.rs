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

/// What an engine should report, from what is wanted and what runs.
pub const fn mode(wanted: Wanted, running: usize, is_ready: bool) -> Mode {
    match wanted {
        Wanted::Run if is_ready => Mode::Active,
        Wanted::Run => Mode::Starting,
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
        assert_eq!(mode(Wanted::Drain, 1, true), Mode::Draining);
        assert_eq!(mode(Wanted::Drain, 0, true), Mode::Drained);
        assert_eq!(mode(Wanted::Stop, 0, false), Mode::Drained);
        assert_eq!(mode(Wanted::Run, 0, false), Mode::Starting);
        assert_eq!(mode(Wanted::Pause, 3, true), Mode::Paused);
    }
}
