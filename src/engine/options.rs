//! What an engine is told before it starts, and what it can run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::handlers::{CommandSpec, Handler};
use crate::process::user::RunAs;
use crate::protocol::ids::{EngineName, KindName};
use crate::protocol::retry::RetryPolicy;
use crate::protocol::stand::Stand;
use crate::protocol::task::Policy;
use crate::protocol::timing::{Profile, Timing};

/// How a kind's tasks are done.
#[derive(Clone)]
pub enum Work {
    /// By an external command, one slot each.
    Command(Arc<CommandSpec>),
    /// By Rust code in this process, claimed ahead in batches.
    Handler(Arc<dyn Handler>),
}

/// One kind of task.
#[derive(Clone)]
pub struct Kind {
    /// How it is done.
    pub work: Work,
    /// Backoff of temporary failures.
    pub retry: RetryPolicy,
    /// What happens on interruptions.
    pub policy: Policy,
    /// Shown to the task.
    pub queue: String,
    /// A Rust handler that runs longer is told to stop, at most half of K late; `None` is never. It cannot be
    /// killed, so one that does not listen keeps its thread. A command's own stands in its [`CommandSpec`].
    pub timeout: Option<Duration>,
}

impl Kind {
    /// A kind of Rust handler with the defaults.
    pub fn handler(handler: impl Handler + 'static) -> Self {
        Self {
            work: Work::Handler(Arc::new(handler)),
            retry: RetryPolicy::default(),
            policy: Policy::default(),
            queue: "default".into(),
            timeout: None,
        }
    }

    /// Tells a handler to stop that runs longer than this; see [`crate::handlers::Context::time_left`].
    #[must_use]
    pub fn timeout(self, span: Duration) -> Self {
        Self { timeout: Some(span), ..self }
    }

    /// A kind of command.
    pub fn command(spec: CommandSpec, policy: Policy, retry: RetryPolicy, queue: String) -> Self {
        Self { work: Work::Command(Arc::new(spec)), retry, policy, queue, timeout: None }
    }

    /// Who its commands run as, if that is not the engine's user.
    pub fn own_user(&self) -> Option<&RunAs> {
        match &self.work {
            Work::Command(spec) => spec.run_as.as_ref(),
            Work::Handler(_) => None,
        }
    }

    /// Whether it is done in this process.
    pub fn is_handler(&self) -> bool {
        matches!(self.work, Work::Handler(_))
    }
}

/// Everything an engine is told.
#[derive(Clone)]
pub struct EngineOptions {
    /// Its name; unique among live engines.
    pub name: EngineName,
    /// Shown to tasks.
    pub cluster: String,
    /// Timing, fixed for each incarnation.
    pub timing: Timing,
    /// Tasks at once: commands, and threads for handlers.
    pub slots: u32,
    /// How many handler tasks are claimed ahead of the threads.
    pub ahead: usize,
    /// Looks for ready tasks at least this often.
    pub poll: Duration,
    /// Ceiling of one database call.
    pub statement_timeout: Duration,
    /// What still runs this long after a stop was asked for is handed back.
    pub stop_deadline: Duration,
    /// What it can run.
    pub kinds: BTreeMap<KindName, Kind>,
    /// Where the private directories of attempts are made, in one of this engine's own; `None` makes a new one
    /// where this host keeps such, closed to others, and takes it away at the end.
    pub scratch_dir: Option<PathBuf>,
    /// Where the largest epoch is remembered; `None` remembers it in memory only.
    pub state_dir: Option<PathBuf>,
    /// Random id of the state directory. Empty: each engine that is started with these options draws its own.
    pub state_id: String,
    /// Where exactly it stands, so that a next life of it can be told from a copy; `None` without a state directory.
    pub stand: Option<Stand>,
    /// Deletes finished rows that are older, in the sweeps of the engines.
    pub retention: crate::config::RetentionConfig,
}

impl EngineOptions {
    /// For a library user: a name, no commands, no state directory.
    pub fn new(name: EngineName) -> Self {
        Self {
            name,
            cluster: "rekindle".into(),
            timing: Timing::of(Profile::Balanced),
            slots: 4,
            ahead: 1_000,
            poll: Duration::from_secs(1),
            statement_timeout: Duration::from_secs(10),
            stop_deadline: Duration::from_secs(75),
            kinds: BTreeMap::new(),
            scratch_dir: None,
            state_dir: None,
            state_id: String::new(),
            stand: None,
            retention: crate::config::RetentionConfig::default(),
        }
    }

    /// Adds a kind.
    #[must_use]
    pub fn kind(mut self, name: KindName, kind: Kind) -> Self {
        self.kinds.insert(name, kind);
        self
    }
}
