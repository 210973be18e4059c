//! Arguments of `rekindle-engine`.

use std::path::PathBuf;

use clap::Parser;

use crate::config::{Host, LoadOptions, Override};
use crate::health::words::{place_flags, shell_word};

const EXAMPLES: &str = "Examples:
  rekindle-engine                                   the configuration decides
  rekindle-engine --name app1 --database-url-file /etc/rekindle/url

Signals: TERM or INT stop (finish what runs, at most engine.stop_deadline, then hand back), a second
one or QUIT hand back at once, USR1 writes the engine's state to the log.

Exit codes: 0 stopped, 1 died (start it again), 2 wrong usage, 3 refused (a live engine has this name,
or another one has this state directory), 69 database unreachable, 75 something that is left does not
die, 77 no permission, 78 configuration or schema wrong.";

/// The rekindle engine: beats, runs tasks, and finishes those of dead peers. One per host.
#[derive(Debug, Parser)]
#[command(name = "rekindle-engine", version, after_long_help = EXAMPLES)]
pub struct Args {
    /// Configuration file [default: /etc/rekindle/rekindle.toml, env REKINDLE_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of this engine; a live one of this name elsewhere is refused [default: host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Database, without a password, which all would see (ps) [env REKINDLE_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// File with the database URL [env REKINDLE_DATABASE_URL_FILE]
    #[arg(long, value_name = "FILE")]
    database_url_file: Option<String>,
    /// Where identity, lock and epoch are kept [default: /var/lib/rekindle]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// Commands at once [default: 4]
    #[arg(long, value_name = "N")]
    slots: Option<String>,
    /// Timing profile: fast, balanced or tolerant [default: balanced]
    #[arg(long, value_name = "PROFILE")]
    timing: Option<String>,
    /// For ExecStopPost of the systemd unit: once nothing of the unit runs any more, proves its engine dead
    #[arg(long, conflicts_with_all = ["engine_proper", "prove"])]
    pub prove_stopped: bool,
    #[arg(long, hide = true)]
    engine_proper: bool,
    /// Incarnation and proof.
    #[arg(long, hide = true, num_args = 2, value_names = ["INCARNATION", "PROOF"])]
    pub prove: Option<Vec<String>>,
}

impl Args {
    /// Whether this process was started by its guard.
    pub fn is_engine_proper(&self) -> bool {
        self.engine_proper
    }

    /// Who speaks, for the log.
    pub fn role_word(&self) -> &'static str {
        match (&self.prove, self.engine_proper) {
            _ if self.prove_stopped => "prover",
            (Some(_), _) => "prover",
            (None, true) => "engine",
            (None, false) => "guard",
        }
    }

    /// For what a person types next.
    pub fn hints(&self) -> super::Hints {
        let config = self.config.as_ref().map(|path| format!("-c {}", shell_word(&path.display().to_string())));
        let file = self.database_url_file.as_ref().map(|path| format!("--database-url-file {}", shell_word(path)));
        super::Hints { flags: place_flags(config, self.database_url.as_deref(), file), ..super::Hints::default() }
    }

    /// Flags as overrides of the configuration.
    pub fn load_options(&self, host: Host) -> LoadOptions {
        let flags = [
            ("engine.name", &self.name, "--name"),
            ("database.url", &self.database_url, "--database-url"),
            ("database.url_file", &self.database_url_file, "--database-url-file"),
            ("engine.state_dir", &self.state_dir, "--state-dir"),
            ("engine.slots", &self.slots, "--slots"),
            ("engine.timing", &self.timing, "--timing"),
        ];
        let overrides = flags
            .into_iter()
            .filter_map(|(key, value, flag)| value.clone().map(|value| Override { key, value, flag }))
            .collect();
        LoadOptions { config: self.config.clone(), overrides, host }
    }
}
