//! Bugs planted on purpose, one at a time, to see that the tests bite: `scripts/planted`.
//!
//! Each of them is a mistake that a system of this kind has made somewhere. It sits at its real place, behind
//! [`planted`], which without the feature of the same name is a constant `false` and leaves no trace. With the
//! feature, a build without debug assertions is refused, and one bug is chosen by `REKINDLE_PLANTED=name`.
//!
//! The pure rules of `protocol` ask here too: it is the one thing of ours that they know.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("planted bugs are for tests: a build without debug assertions must not contain them");

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal;)+) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug { $($(#[$doc])* $bug,)+ }

        #[cfg(feature = "planted")]
        impl Bug {
            /// All of them with their names.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$bug, $name)),+];
        }
    };
}

bugs! {
    /// A result is written under the task's number alone.
    NoToken = "no-token";
    /// The token is compared in a read, which on Galera may lag, and then not written.
    TokenRead = "token-read";
    /// The lease counts from the answer to a beat.
    LeaseFromAnswer = "lease-from-answer";
    /// A beat that looks old by the database's clock is enough.
    WallClock = "wall-clock";
    /// The lease clock stands still in suspend.
    MonotonicClock = "monotonic-clock";
    /// Nothing happens at L.
    NoSelfFence = "no-self-fence";
    /// "All clear" is said while something still runs.
    AllClearEarly = "all-clear-early";
    /// Only the direct child is killed.
    DirectChildOnly = "direct-child-only";
    /// The fence does not compare the beat.
    FenceBlind = "fence-blind";
    /// A beat is written to whoever has the name.
    BeatByName = "beat-by-name";
    /// Tokens do not start anew with an epoch.
    TokenWithoutEpoch = "token-without-epoch";
    /// A finish of unknown outcome is simply sent again.
    BlindRetry = "blind-retry";
    /// An observer that had no contact itself goes on counting.
    OwnLapseIgnored = "own-lapse-ignored";
    /// Many that look dead are fenced at once.
    NoBrake = "no-brake";
    /// The beat waits for a connection of the pool that tasks use.
    BeatFromPool = "beat-from-pool";
    /// Beats are sent although a loop stands still.
    BeatAnyway = "beat-anyway";
    /// The attempt is counted when it ends.
    AttemptAtEnd = "attempt-at-end";
    /// The thread that forked a task, and its death signal with it, ends at once.
    DeathSignalOfWorker = "death-signal-of-worker";
    /// A takeover leaves the token as it was.
    TokenKept = "token-kept";
    /// A finish does not look at the line it leaves.
    WakeupLost = "wakeup-lost";
    /// An engine is closed although its takeover passed over locked rows.
    ClosedAfterSkip = "closed-after-skip";
    /// The lease grows past a raised epoch although what is held was not compared (found by the simulator: an
    /// engine whose other calls hung ran its tasks beside their successors after a failover).
    RaiseUnverified = "raise-unverified";
    /// A result that is refused after an unknown outcome is not read back (found by the simulator: the first
    /// try had been applied late, and the engine called its own result refused).
    RefusedUnread = "refused-unread";
    /// A claim whose answer comes after a raised epoch was compared is begun (found by the simulator: its commit
    /// had been lost by the failover, and the task ran beside its successor).
    ClaimUnverified = "claim-unverified";
    /// A sweep of a database that came back older goes on counting (found by the simulator: two failovers between
    /// two sweeps, and a peer that beat all the time was fenced with the counter it had had before).
    RaiseUnseen = "raise-unseen";
    /// Two epochs with one number are taken for one (found by the simulator: the first was raised, given out and
    /// lost with its database, and who raised the second had not seen it).
    EpochTwin = "epoch-twin";
    /// An engine that comes back waits for its registration as for any statement (found by the simulator: one
    /// that was sent into the end of an outage, and the former life was fenced by a peer meanwhile).
    SlowReturn = "slow-return";
    /// An engine whose name is taken keeps what it remembers to itself (found by the simulator: two failovers, and
    /// the only one left that had seen the epoch between them was waiting for its name; tokens were given out again).
    MemoryUnheard = "memory-unheard";
    /// A task that a person canceled, held or requeued while it ran is retried or fails as if nobody had asked,
    /// where its attempt ended by itself first (rekindle had this one).
    WishForgotten = "wish-forgotten";
    /// A database that lost beats while all engines were away is believed.
    LossUnseen = "loss-unseen";
    /// Nobody minds beats of its row that it has not sent.
    TwinUnseen = "twin-unseen";
}

/// Whether this bug is planted. It never is.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}

/// What a test looks for in programs that must not have it.
#[cfg(feature = "planted")]
static MARK: &str = "rekindle was built with planted bugs";

/// Whether this bug is planted.
#[cfg(feature = "planted")]
pub fn planted(bug: Bug) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let wanted = std::env::var("REKINDLE_PLANTED").ok().filter(|name| !name.is_empty())?;
        let found = Bug::ALL.iter().find(|(_, name)| *name == wanted);
        log::warn!("{MARK}: {wanted}");
        Some(found.expect("REKINDLE_PLANTED names a bug").0)
    });
    *chosen == Some(bug)
}
