//! What the store tells about a cluster at one moment of the database's clock. Plain values; the queries
//! live in the store, the judging in `problems` and `judge`.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::protocol::ids::{Epoch, Incarnation, TaskId};
use crate::protocol::task::TaskState;
use crate::protocol::time::Timestamp;

/// Counting stops here, so that a check costs the same with a million tasks (`count ... limit 100001`).
pub const COUNT_CAP: u32 = 100_000;

/// A number that was counted up to [`COUNT_CAP`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Capped {
    /// At most [`COUNT_CAP`].
    pub count: u32,
    /// Whether there are more.
    pub is_capped: bool,
}

impl Capped {
    /// From what a query counted, with or without a limit of its own.
    pub fn new(counted: u64) -> Self {
        let is_capped = counted > u64::from(COUNT_CAP);
        Self { count: u32::try_from(counted).unwrap_or(COUNT_CAP).min(COUNT_CAP), is_capped }
    }

    /// Whether there are none.
    pub const fn is_zero(self) -> bool {
        self.count == 0
    }

    /// The number that limits judge: "more than the cap" is one more than the cap.
    pub fn judged(self) -> f64 {
        f64::from(self.count) + f64::from(u8::from(self.is_capped))
    }
}

impl fmt::Display for Capped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.count, if self.is_capped { "+" } else { "" })
    }
}

/// Declares an enum of fixed words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word shown to people.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// From the word.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.word()) }
        }
    };
}

words!(
    /// What an engine is seen to be.
    EngineState {
        /// Registered, not yet taking tasks.
        Starting = "starting";
        /// Taking tasks.
        Active = "active";
        /// Wanted `pause`, seen and obeyed.
        Paused = "paused";
        /// Takes nothing, still runs tasks.
        Draining = "draining";
        /// Nothing runs, process up.
        Drained = "drained";
        /// Would take tasks, but cannot write how those it has ended.
        Stuck = "stuck";
        /// Takes fewer tasks than it has slots: its host cannot start more.
        Starved = "starved";
        /// Missed beats, not yet fenced.
        Late = "late";
        /// Declared dead.
        Fenced = "fenced";
        /// Said goodbye; not a problem.
        Stopped = "stopped";
    }
);

words!(
    /// What an operator wants of an engine.
    Wanted {
        /// Take tasks.
        Run = "run";
        /// Take nothing new.
        Pause = "pause";
        /// Take nothing new, and say when nothing runs any more.
        Drain = "drain";
        /// Drain, then exit.
        Stop = "stop";
    }
);

/// One incarnation, as its row and the one rule of liveness show it.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineView {
    /// The name people chose.
    pub name: String,
    /// This life of it.
    pub incarnation: Incarnation,
    /// Its host.
    pub host: String,
    /// What it is.
    pub state: EngineState,
    /// What it should be.
    pub wanted: Wanted,
    /// Neither fenced nor stopped.
    pub is_alive: bool,
    /// Since its last beat, by the database's clock.
    pub beat_age: Duration,
    /// L of its row.
    pub lease: Duration,
    /// h of its row.
    pub heartbeat_interval: Duration,
    /// Tasks it may run at once.
    pub slots: u32,
    /// Tasks it runs.
    pub running: u32,
    /// When it was fenced.
    pub fenced_at: Option<Timestamp>,
    /// The engine or operator that fenced it.
    pub fenced_by: Option<String>,
    /// The kind of proof of its death.
    pub proof: Option<String>,
    /// Tasks that were taken over from it.
    pub taken_over: u32,
    /// Why its wanted state was set.
    pub note: Option<String>,
    /// Who set its wanted state.
    pub set_by: Option<String>,
    /// Since when.
    pub set_at: Option<Timestamp>,
    /// When that ends by itself.
    pub set_until: Option<Timestamp>,
    /// Its program version.
    pub version: String,
}

/// Unfinished tasks and those that wait for a person, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCounts {
    /// May run now.
    pub ready: Capped,
    /// Not before a time.
    pub waiting: Capped,
    /// Behind a line or dependencies.
    pub blocked: Capped,
    /// Owned by an engine.
    pub running: Capped,
    /// Put aside.
    pub held: Capped,
    /// Needs a person.
    pub failed: Capped,
    /// Lost too many engines.
    pub quarantined: Capped,
    /// May have done its work, and is not to run again by itself.
    pub interrupted: Capped,
}

impl TaskCounts {
    /// Whether any task would move by itself if engines were there.
    pub const fn has_work(&self) -> bool {
        !(self.ready.is_zero() && self.waiting.is_zero() && self.blocked.is_zero() && self.running.is_zero())
    }

    /// The number in one of the states that wait for a person.
    pub fn stuck(&self, state: TaskState) -> Capped {
        match state {
            TaskState::Held => self.held,
            TaskState::Failed => self.failed,
            TaskState::Interrupted => self.interrupted,
            TaskState::Quarantined => self.quarantined,
            _ => Capped::default(),
        }
    }
}

/// Tasks of one kind that wait for a person in one state.
#[derive(Debug, Clone, PartialEq)]
pub struct StuckGroup {
    /// `failed`, `quarantined` or `held`.
    pub state: TaskState,
    /// Their kind.
    pub kind: String,
    /// How many.
    pub count: Capped,
    /// Since the newest came.
    pub newest_age: Duration,
    /// The error of one of them (or the reason of a hold).
    pub example: Option<String>,
}

/// The database itself.
#[derive(Debug, Clone, PartialEq)]
pub struct DbView {
    /// One question and its answer.
    pub round_trip: Duration,
    /// Whether this program can work with the schema.
    pub is_schema_ok: bool,
    /// Whether it takes nobody's writes.
    pub is_read_only: bool,
    /// The epoch; 0 where the schema does not fit.
    pub epoch: Epoch,
    /// `7`, or `6, this program needs 7`.
    pub schema: String,
    /// Between this host's clock and the database's, without sign.
    pub clock_skew: Duration,
    /// By how much its clock is behind what engines have seen of it.
    pub clock_set_back: Option<Duration>,
    /// `PostgreSQL 16`.
    pub backend: String,
    /// What the server has for all its users, where it counts.
    pub connections: Option<ConnectionsView>,
}

/// The server's connections, beside what an engine that is configured like this program takes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionsView {
    /// So many may ordinary users have open at once.
    pub limit: u32,
    /// So many are open now.
    pub open: u32,
    /// So many has one engine.
    pub per_engine: u32,
}

impl ConnectionsView {
    /// What so many engines take when they are busy, and whether the server has it.
    pub fn need(&self, engines: usize) -> (u32, bool) {
        let need = self.per_engine.saturating_mul(u32::try_from(engines).unwrap_or(u32::MAX));
        (need, need <= self.limit)
    }
}

/// Everything the checks need, read in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSnapshot {
    /// The database's clock.
    pub now: Timestamp,
    /// For clock times in texts: seconds east of UTC where the reader sits.
    pub utc_offset_s: i32,
    /// The cluster's name.
    pub cluster: String,
    /// Set if tasks were counted for one kind only (`-k`).
    pub kind: Option<String>,
    /// Engines; several lives of one name may be among them.
    pub engines: Vec<EngineView>,
    /// Tasks by state.
    pub tasks: TaskCounts,
    /// How long the oldest ready task waits; `None` if none is ready.
    pub oldest_ready_age: Option<Duration>,
    /// That task.
    pub oldest_ready_id: Option<TaskId>,
    /// How long the oldest running task runs.
    pub oldest_running_age: Option<Duration>,
    /// The largest groups of tasks that wait for a person, largest first in each state.
    pub stuck: Vec<StuckGroup>,
    /// Tasks taken over in the last hour.
    pub takeovers_1h: u64,
    /// Lives that were fenced within the last hour.
    pub fences_1h: u64,
    /// Tasks done in the last hour.
    pub done_1h: u64,
    /// Attempts that failed in the last hour.
    pub failures_1h: u64,
    /// The database itself.
    pub db: DbView,
}

impl ClusterSnapshot {
    /// One view per name, in their order: a dead life is history once its name is alive again.
    pub fn current_engines(&self) -> Vec<&EngineView> {
        let rank = |view: &EngineView| (!view.is_alive, view.beat_age);
        let mut best: HashMap<&str, usize> = HashMap::with_capacity(self.engines.len());
        for (at, view) in self.engines.iter().enumerate() {
            let known = best.entry(&view.name).or_insert(at);
            if rank(view) < rank(&self.engines[*known]) {
                *known = at;
            }
        }
        let is_best = |(at, view): &(usize, &EngineView)| best.get(view.name.as_str()) == Some(at);
        self.engines.iter().enumerate().filter(is_best).map(|(_, view)| view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::fixture::{engine, snapshot};

    #[test]
    fn counts_stop_at_the_cap() {
        let shown = [0, 99_999, 100_000, 100_001, u64::MAX].map(|n| Capped::new(n).to_string());
        assert_eq!(shown, ["0", "99999", "100000", "100000+", "100000+"]);
        assert!(Capped::new(100_001).judged() > Capped::new(100_000).judged());
    }

    #[test]
    fn words_read_back() {
        assert!(EngineState::ALL.iter().all(|state| EngineState::from_word(state.word()) == Some(*state)));
        assert!(Wanted::ALL.iter().all(|wanted| Wanted::from_word(wanted.word()) == Some(*wanted)));
        assert_eq!(EngineState::from_word("down"), None);
    }

    #[test]
    fn a_dead_life_is_history_once_its_name_is_alive_again() {
        let mut snapshot = snapshot();
        let fenced = EngineView { beat_age: Duration::from_secs(9), ..engine("app1").fenced(250) };
        snapshot.engines = vec![fenced.clone(), engine("app1"), engine("app2").fenced(10), engine("app2").fenced(20)];
        let current: Vec<_> = snapshot.current_engines().iter().map(|e| (e.is_alive, e.fenced_at)).collect();
        assert_eq!(current, [(true, None), (false, Some(snapshot.now.before(Duration::from_secs(10))))]);
    }
}
