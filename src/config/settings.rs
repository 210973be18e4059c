//! Every setting with its meaning, unit and default. The defaults live here and nowhere else; how they
//! are read from files, environment and flags is in `read.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::host::Host;
use super::kind::KindConfig;
use super::url::DatabaseUrl;
use super::words::{KillMeans, LogFormat, LogLevel};
use crate::protocol::ids::{EngineName, KindName};
use crate::protocol::timing::{Profile, Timing};

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `cluster`: shown in every output; fences off a wrong database. Default `rekindle`.
    pub cluster: String,
    /// `[database]`
    pub database: DatabaseConfig,
    /// `[engine]`
    pub engine: EngineConfig,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[check.MODE]`: thresholds of `rekindle-check`.
    pub check: BTreeMap<String, CheckConfig>,
    /// `[kind.NAME]`, with `[defaults.kind]` beneath each.
    pub kinds: BTreeMap<KindName, KindConfig>,
}

/// `[database]`
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    /// `url`: one URL or a list that is tried in order. Default: [`DEFAULT_DATABASE`], for every user and
    /// whatever the state directory is. The password of `password_file` is in it already.
    pub urls: Vec<DatabaseUrl>,
    /// `beat_url`: the heartbeat's own way where a pooler sits in the other; default: as `url`.
    pub beat_url: Option<DatabaseUrl>,
    /// `password_file`: its first line is the password. Default: the systemd credential `db-password`.
    pub password_file: Option<PathBuf>,
    /// `connect_timeout`, 5s.
    pub connect_timeout: Duration,
    /// `statement_timeout`, 10s.
    pub statement_timeout: Duration,
    /// `max_connections` of the pool, 4; those of the heartbeat and of the watcher are not among them.
    pub max_connections: u32,
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// `name`: default the short host name.
    pub name: EngineName,
    /// `slots`: commands at once, 4.
    pub slots: u32,
    /// `kinds` it runs, all.
    pub kinds: KindFilter,
    /// `timing`: `fast`, `balanced` or `tolerant`, or a table with `profile` and single spans; balanced.
    pub timing: Timing,
    /// `poll` for ready tasks, 1s.
    pub poll: Duration,
    /// `stop_deadline`: what runs so long after SIGTERM is handed back, 75s. Below systemd's TimeoutStopSec.
    pub stop_deadline: Duration,
    /// `state_dir`: identity, epoch and lock.
    pub state_dir: PathBuf,
    /// `scratch_dir`: private directories of attempts.
    pub scratch_dir: PathBuf,
    /// `kill`: means of killing what an attempt left, auto.
    pub kill: KillMeans,
}

/// Which kinds an engine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KindFilter {
    /// `["*"]`
    All,
    /// These only.
    Only(Vec<KindName>),
}

impl KindFilter {
    /// Whether this kind is among them.
    pub fn includes(&self, kind: &KindName) -> bool {
        match self {
            Self::All => true,
            Self::Only(kinds) => kinds.contains(kind),
        }
    }
}

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// `"keep"`: until a person deletes it.
    Forever,
    /// This long after its end.
    For(Duration),
}

/// `[retention]`, and how long `[statistics]` keeps
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionConfig {
    /// `done` tasks, 14d.
    pub done: Keep,
    /// `canceled` tasks, 14d.
    pub canceled: Keep,
    /// `failed` and quarantined tasks, `"keep"`.
    pub failed: Keep,
    /// `logs`: captured output, 30d.
    pub logs: Keep,
    /// `engines`: stopped and fenced rows, 7d.
    pub engines: Keep,
    /// `history`: who changed what, 365d.
    pub history: Keep,
    /// `[statistics]` `keep_hourly`: what became of attempts per hour, 60d.
    pub hours: Keep,
    /// `resources`: rows of resources that nobody has used, 30d.
    pub resources: Keep,
}

/// `[log]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// `level`, info.
    pub level: LogLevel,
    /// `format`, auto.
    pub format: LogFormat,
}

/// `[check.MODE]`: as written; `rekindle-check` knows how to read its own ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckConfig {
    /// `normal`: a number, `auto`, `auto:28d` or `none`.
    pub normal: Option<String>,
    /// `warning` range.
    pub warning: Option<String>,
    /// `critical` range.
    pub critical: Option<String>,
    /// `min`: no alert below this number.
    pub min: Option<String>,
}

const fn days(count: u64) -> Keep {
    Keep::For(Duration::from_secs(count * 86_400))
}

impl Config {
    /// What holds where nothing is written, on this host.
    pub fn defaults(host: &Host) -> Self {
        Self {
            cluster: "rekindle".to_owned(),
            database: DatabaseConfig::default(),
            engine: EngineConfig::defaults(host),
            retention: RetentionConfig::default(),
            log: LogConfig { level: LogLevel::Info, format: LogFormat::Auto },
            check: BTreeMap::new(),
            kinds: BTreeMap::new(),
        }
    }
}

/// The database where no URL is given. It hangs neither on the user nor on a flag: two programs that are told
/// nothing about a database must not work on two of them, each without a word.
pub const DEFAULT_DATABASE: &str = "/var/lib/rekindle/rekindle.db";

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            urls: vec![DatabaseUrl::sqlite(DEFAULT_DATABASE)],
            beat_url: None,
            password_file: None,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            max_connections: 4,
        }
    }
}

impl EngineConfig {
    fn defaults(host: &Host) -> Self {
        let state_dir = host.state_dir();
        Self {
            name: host.engine_name(),
            slots: 4,
            kinds: KindFilter::All,
            timing: Timing::of(Profile::Balanced),
            poll: Duration::from_secs(1),
            stop_deadline: Duration::from_secs(75),
            scratch_dir: host.scratch_dir(&state_dir),
            state_dir,
            kill: KillMeans::Auto,
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            done: days(14),
            canceled: days(14),
            failed: Keep::Forever,
            logs: days(30),
            engines: days(7),
            history: days(365),
            hours: days(60),
            resources: days(30),
        }
    }
}
