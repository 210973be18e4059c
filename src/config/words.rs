//! Settings that are one word out of a few.

use super::setting::Word;
use crate::protocol::task::{OnFailure, OnLeaseLoss, OnRetry, Rerun};
use crate::protocol::timing::Profile;

/// How what an attempt left behind is found and killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillMeans {
    /// The best that the host allows.
    Auto,
    /// A delegated cgroup's `cgroup.kill`.
    Cgroup,
    /// A PID namespace of its own.
    Pidns,
    /// Process groups, death signals and a subreaper's sweep.
    Tree,
}

/// Which log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// A human should look.
    Error,
    /// Degraded but going on.
    Warn,
    /// Life-cycle changes.
    Info,
    /// Each healthy beat.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// For the log crate.
    pub const fn filter(self) -> log::LevelFilter {
        match self {
            Self::Error => log::LevelFilter::Error,
            Self::Warn => log::LevelFilter::Warn,
            Self::Info => log::LevelFilter::Info,
            Self::Debug => log::LevelFilter::Debug,
            Self::Trace => log::LevelFilter::Trace,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Priority prefixes under systemd, text on a terminal, else JSON.
    Auto,
    /// `<N>` priority prefixes for journald.
    Journal,
    /// Sentence and fields.
    Text,
    /// One object per line.
    Json,
}

macro_rules! words {
    ($($kind:ty { $($word:literal => $variant:ident),+ })+) => {$(
        impl Word for $kind {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }
    )+};
}

words! {
    KillMeans { "auto" => Auto, "cgroup" => Cgroup, "pidns" => Pidns, "tree" => Tree }
    LogLevel { "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace }
    LogFormat { "auto" => Auto, "journal" => Journal, "text" => Text, "json" => Json }
    Rerun { "always" => Always, "never" => Never }
    OnRetry { "keep" => Keep, "pass" => Pass }
    OnFailure { "pass" => Pass, "block" => Block }
    OnLeaseLoss { "stop" => Stop, "continue" => Continue }
    Profile { "fast" => Fast, "balanced" => Balanced, "tolerant" => Tolerant }
}
