//! What a command kind says about its tasks (`[kind.NAME]`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::retry::RetryPolicy;
use crate::protocol::task::{OnFailure, OnLeaseLoss, OnRetry, Policy, Rerun};

/// One kind of external command.
#[derive(Clone, PartialEq)]
pub struct KindConfig {
    /// `command`: program and arguments, no shell.
    pub command: Vec<String>,
    /// `timeout` of an attempt, 1h; `"none"` is `None`.
    pub timeout: Option<Duration>,
    /// `grace` between SIGTERM and SIGKILL, 30s.
    pub grace: Duration,
    /// `env_pass`: variables of the engine that the command gets too, `PATH`, `LANG`, `TZ`.
    pub env_pass: Vec<String>,
    /// `env`: more variables.
    pub env: BTreeMap<String, String>,
    /// `env_file`: more variables, read at the start of each attempt.
    pub env_file: Option<PathBuf>,
    /// `cwd`: working directory; default: a private empty one.
    pub cwd: Option<PathBuf>,
    /// `output.keep`: bytes of output that are kept, 64KiB.
    pub output_keep: usize,
    /// `retry`
    pub retry: RetryPolicy,
    /// `max_lost`: engines it may lose before it is quarantined, 3.
    pub max_lost: u8,
    /// `rerun` after an interruption, always.
    pub rerun: Rerun,
    /// Whether `rerun` was written by someone; where not, every start says so once.
    pub rerun_written: bool,
    /// `on_retry`, keep.
    pub on_retry: OnRetry,
    /// `on_failure`, pass.
    pub on_failure: OnFailure,
    /// `on_lease_loss`, stop.
    pub on_lease_loss: OnLeaseLoss,
    /// `nice`, 0.
    pub nice: i8,
    /// `user` that the command runs as, the engine's own.
    pub user: Option<String>,
    /// `group` that it runs with, the user's own.
    pub group: Option<String>,
    /// `new_privileges`: whether setuid programs (sudo, ping) work in it, false.
    pub new_privileges: bool,
    /// `exit_codes`
    pub exit_codes: ExitCodes,
    /// `redact`: payload keys that are never shown.
    pub redact: Vec<String>,
}

// Values of `env` may be secret.
impl std::fmt::Debug for KindConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KindConfig")
            .field("command", &self.command)
            .field("timeout", &self.timeout)
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

/// What a command's exit code means; codes in none of the lists are temporary failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitCodes {
    /// It did its work: 0.
    pub done: Vec<u8>,
    /// Try again: 75.
    pub retry: Vec<u8>,
    /// Never try again: 64, 65, 66, 77, 78.
    pub fail: Vec<u8>,
    /// Try again on another host: 71.
    pub elsewhere: Vec<u8>,
}

impl Default for ExitCodes {
    fn default() -> Self {
        Self { done: vec![0], retry: vec![75], fail: vec![64, 65, 66, 77, 78], elsewhere: vec![71] }
    }
}

impl Default for KindConfig {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            timeout: Some(Duration::from_secs(3_600)),
            grace: Duration::from_secs(30),
            env_pass: ["PATH", "LANG", "TZ"].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            env_file: None,
            cwd: None,
            output_keep: 64 << 10,
            retry: RetryPolicy::default(),
            max_lost: Policy::default().max_lost,
            rerun: Rerun::default(),
            rerun_written: false,
            on_retry: OnRetry::default(),
            on_failure: OnFailure::default(),
            on_lease_loss: OnLeaseLoss::default(),
            nice: 0,
            user: None,
            group: None,
            new_privileges: false,
            exit_codes: ExitCodes::default(),
            redact: Vec::new(),
        }
    }
}

impl KindConfig {
    /// What goes into the task's row at each claim.
    pub const fn policy(&self) -> Policy {
        Policy {
            max_lost: self.max_lost,
            rerun: self.rerun,
            on_retry: self.on_retry,
            on_failure: self.on_failure,
            on_lease_loss: self.on_lease_loss,
        }
    }
}
