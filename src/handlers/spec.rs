//! What a kind of the configuration says about its command. Plain values; the config room fills and
//! checks them, this room obeys them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::process::user::RunAs;
use crate::protocol::task::OnLeaseLoss;

/// How to run the command of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSpec {
    /// Program and arguments, without a shell. Whole arguments may be `{task.id}`, `{task.attempt}`
    /// or `{payload.FIELD}`.
    pub command: Vec<String>,
    /// Working directory; default is the private directory of the attempt.
    pub cwd: Option<PathBuf>,
    /// Variables that are set.
    pub env: BTreeMap<String, String>,
    /// `KEY=VALUE` lines, read at the start of each attempt and never stored.
    pub env_file: Option<PathBuf>,
    /// Variables of the engine that are passed on; all others are cleared.
    pub env_pass: Vec<String>,
    /// SIGTERM after this; `None` is never.
    pub timeout: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// How many last bytes of stdout and stderr are kept.
    pub output_keep: usize,
    /// File mode creation mask.
    pub umask: u32,
    /// Scheduling priority, 19 (meekest) to -20; `None` leaves the engine's.
    pub nice: Option<i32>,
    /// Who it runs as; `None` is the engine's own user.
    pub run_as: Option<RunAs>,
    /// Whether programs with more rights than their caller (sudo, ping) get them in it. Such a process may be
    /// out of the engine's reach.
    pub new_privileges: bool,
    /// What exit codes mean.
    pub exit_codes: ExitCodes,
    /// What a lost lease does to it.
    pub on_lease_loss: OnLeaseLoss,
}

impl Default for CommandSpec {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            cwd: None,
            env: BTreeMap::new(),
            env_file: None,
            env_pass: ["PATH", "LANG", "TZ"].map(str::to_owned).to_vec(),
            timeout: Some(Duration::from_secs(3_600)),
            grace: Duration::from_secs(30),
            output_keep: 64 << 10,
            umask: 0o027,
            nice: None,
            run_as: None,
            new_privileges: false,
            exit_codes: ExitCodes::default(),
            on_lease_loss: OnLeaseLoss::default(),
        }
    }
}

/// What exit codes mean, from `sysexits.h`. A code in none of the lists is a temporary failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitCodes {
    /// Finished well.
    pub done: Vec<i32>,
    /// Temporary failure, as is every other code; listed to take one out of a default list.
    pub retry: Vec<i32>,
    /// Permanent: bad call, bad data, no input, no permission, bad configuration.
    pub fail: Vec<i32>,
    /// Temporary, and this host's fault: another host should try.
    pub elsewhere: Vec<i32>,
}

impl Default for ExitCodes {
    fn default() -> Self {
        Self { done: vec![0], retry: vec![75], fail: vec![64, 65, 66, 77, 78], elsewhere: vec![71] }
    }
}
