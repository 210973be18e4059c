//! States of a task, results of an attempt, and what a kind wants to happen: the words that code, SQL,
//! CLI and docs share. The numbers are stored; they never change their meaning.

use serde::{Deserialize, Serialize};

/// Declares an enum whose variants are stored as small numbers and shown as fixed words.
macro_rules! stored_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $num:literal, $word:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant = $num,)+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The number that is stored.
            pub const fn code(self) -> i16 { self as i16 }

            /// From the stored number; `None` if a later version wrote it.
            pub const fn from_code(code: i64) -> Option<Self> {
                match code { $($num => Some(Self::$variant),)+ _ => None }
            }

            /// The word shown to people and in JSON.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// From the word.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.word()) }
        }
    };
}
pub(crate) use stored_enum;

stored_enum!(
    /// Where a task is. `ready`, `waiting`, `blocked` and `running` move by themselves; `failed`,
    /// `interrupted`, `quarantined` and `held` wait for a person; `done` and `canceled` are over (and live in the
    /// archive).
    TaskState {
        /// May run now.
        Ready = 0, "ready";
        /// Not before a time.
        Waiting = 1, "waiting";
        /// Behind the line of a resource.
        Blocked = 2, "blocked";
        /// Owned by one incarnation.
        Running = 3, "running";
        /// An operator put it aside.
        Held = 4, "held";
        /// Retries used up, or a permanent failure.
        Failed = 5, "failed";
        /// Lost too many engines.
        Quarantined = 6, "quarantined";
        /// Finished well.
        Done = 7, "done";
        /// Stopped on request.
        Canceled = 8, "canceled";
        /// Its attempt was cut off, and its kind says `rerun = "never"`: it may have done its work. Never stored;
        /// see [`TaskState::seen`].
        Interrupted = 9, "interrupted";
    }
);

impl TaskState {
    /// What people are told of a row in this state whose last attempt ended so.
    ///
    /// An interrupted task is stored as a failed one whose attempt was lost or handed back: only `rerun = "never"`
    /// makes such rows. A number of its own was weighed. Programs of an earlier release would have counted,
    /// purged and listed such a task nowhere; so they take it for a failed one, and tasks that were interrupted
    /// before this release are told apart as well.
    pub const fn seen(self, result: Option<AttemptResult>) -> Self {
        match (self, result) {
            (Self::Failed, Some(AttemptResult::Lost | AttemptResult::HandedBack)) => Self::Interrupted,
            _ => self,
        }
    }

    /// How it stands in its row.
    pub const fn stored(self) -> Self {
        match self {
            Self::Interrupted => Self::Failed,
            _ => self,
        }
    }

    /// Whether nothing but a person moves it on.
    pub const fn needs_human(self) -> bool {
        matches!(self, Self::Held | Self::Failed | Self::Interrupted | Self::Quarantined)
    }

    /// Whether it has ended, well or not.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Interrupted | Self::Canceled | Self::Quarantined)
    }

    /// Whether it stands in the lines of its resources. `failed` does only where its kind says
    /// `on_failure = "block"`; that is decided when it fails.
    pub const fn is_in_line(self) -> bool {
        matches!(self, Self::Ready | Self::Blocked | Self::Running)
    }
}

stored_enum!(
    /// How an attempt ended.
    AttemptResult {
        /// Well.
        Done = 0, "done";
        /// Exit 75 or another retryable end; uses the retry budget.
        Tempfail = 1, "tempfail";
        /// Permanently.
        Failed = 2, "failed";
        /// Over its time; uses the retry budget.
        Timeout = 3, "timeout";
        /// By a signal that was not ours, or a panic; uses the retry budget.
        Crash = 4, "crash";
        /// Its engine was fenced by a peer or with a proof of death.
        Lost = 5, "lost";
        /// Its engine gave it back: stop, drain deadline, or a lost lease that the engine itself saw.
        HandedBack = 6, "handed-back";
        /// On request.
        Canceled = 7, "canceled";
        /// A stale owner tried to write and was refused.
        Fenced = 8, "fenced";
    }
);

stored_enum!(
    /// Why the next attempt exists; the task sees it as `REKINDLE_REASON`.
    Reason {
        /// The first attempt.
        First = 0, "first";
        /// A temporary failure came before.
        Retry = 1, "retry";
        /// Its engine was lost: someone may have done part of it.
        Lost = 2, "lost";
        /// Its engine gave it back.
        HandedBack = 3, "handed-back";
        /// An operator moved it.
        Requeued = 4, "requeued";
    }
);

stored_enum!(
    /// What an operator wants of a running task; the next beat brings it to the owner.
    Wish {
        /// Nothing.
        None = 0, "none";
        /// Stop it for good.
        Cancel = 1, "cancel";
        /// Put it aside.
        Hold = 2, "hold";
        /// Give it to another attempt.
        Requeue = 3, "requeue";
    }
);

/// Whether an interrupted task runs again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rerun {
    /// Yes: it does no harm twice.
    #[default]
    Always,
    /// No: it may have done its work, so a person decides ([`TaskState::Interrupted`]).
    Never,
}

/// Whether a retrying task keeps its place in its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRetry {
    /// It keeps its place; those behind it wait (order is the promise).
    #[default]
    Keep,
    /// Those behind it may pass while it waits.
    Pass,
}

/// What a final failure does to the lines of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They go on.
    #[default]
    Pass,
    /// They stand until a human acts.
    Block,
}

/// What a lost lease does to a running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLeaseLoss {
    /// It is stopped before a successor can start.
    #[default]
    Stop,
    /// It runs through the outage and may overlap with a successor.
    Continue,
}

/// What a kind says about interruption, written to the task's row at each claim: whoever takes the
/// task over may not know the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Engines it may lose before it is quarantined.
    pub max_lost: u8,
    /// Whether it runs again after an interruption.
    pub rerun: Rerun,
    /// Its place while it waits for a retry.
    pub on_retry: OnRetry,
    /// What its final failure does to its lines.
    pub on_failure: OnFailure,
    /// What a lost lease does to it.
    pub on_lease_loss: OnLeaseLoss,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_lost: 3,
            rerun: Rerun::default(),
            on_retry: OnRetry::default(),
            on_failure: OnFailure::default(),
            on_lease_loss: OnLeaseLoss::default(),
        }
    }
}

impl Policy {
    /// Packs it into the number that the row holds: `max_lost` in the low byte, then a bit each.
    pub const fn code(self) -> i32 {
        self.max_lost as i32
            | ((matches!(self.rerun, Rerun::Never) as i32) << 8)
            | ((matches!(self.on_retry, OnRetry::Pass) as i32) << 9)
            | ((matches!(self.on_failure, OnFailure::Block) as i32) << 10)
            | ((matches!(self.on_lease_loss, OnLeaseLoss::Continue) as i32) << 11)
    }

    /// Unpacks what the row holds; bits of later versions are ignored.
    pub const fn from_code(code: i64) -> Self {
        Self {
            max_lost: (code & 0xff) as u8,
            rerun: if code & (1 << 8) != 0 { Rerun::Never } else { Rerun::Always },
            on_retry: if code & (1 << 9) != 0 { OnRetry::Pass } else { OnRetry::Keep },
            on_failure: if code & (1 << 10) != 0 { OnFailure::Block } else { OnFailure::Pass },
            on_lease_loss: if code & (1 << 11) != 0 { OnLeaseLoss::Continue } else { OnLeaseLoss::Stop },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_read_back() {
        for state in TaskState::ALL {
            assert_eq!(TaskState::from_code(state.code().into()), Some(*state));
            assert_eq!(TaskState::from_word(state.word()), Some(*state));
        }
        assert_eq!(TaskState::from_code(99), None);
        assert_eq!(AttemptResult::HandedBack.to_string(), "handed-back");
    }

    #[test]
    fn only_a_failed_task_whose_attempt_was_cut_off_is_interrupted() {
        for state in TaskState::ALL {
            for result in AttemptResult::ALL {
                let is_cut_off = matches!(result, AttemptResult::Lost | AttemptResult::HandedBack);
                let expected = if *state == TaskState::Failed && is_cut_off { TaskState::Interrupted } else { *state };
                assert_eq!(state.seen(Some(*result)), expected);
                assert_eq!(state.seen(Some(*result)).stored(), state.stored());
            }
            assert_eq!(state.seen(None), *state);
        }
    }

    #[test]
    fn policies_read_back() {
        for bits in 0..16 {
            let policy = Policy::from_code((bits << 8) | 7);
            assert_eq!(Policy::from_code(policy.code().into()), policy);
            assert_eq!(i64::from(policy.code()), (bits << 8) | 7);
        }
    }
}
