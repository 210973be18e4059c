//! The command line's shared base: flags that every verb takes, configuration, logging, and how an error
//! becomes an exit code. One verb lives in one file below `manage/`.

pub mod codes;
pub mod consent;
pub mod error;
pub mod exit;
pub mod explain;
pub mod human;
pub mod manage;
pub mod output;
pub mod program;
pub mod session;
pub mod table;
pub mod who;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

pub use error::CliError;
pub use exit::Exit;
pub use output::Format;
pub use program::main;

use crate::config::{Host, LoadOptions, Loaded, Origin, Override, load};
use crate::health::words::{place_flags, shell_word, with_flags};
use crate::outlet::{STDERR, ToStderr};

/// Text of a flag that may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// How long a whole command may take where nothing else is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

/// Flags that every verb takes, before and after it.
///
/// The environment's `REKINDLE_DATABASE_URL` and `REKINDLE_CONFIG` are read with the configuration, not
/// by clap, which would call them flags and could show their values in a help text.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Everywhere", about = None, long_about = None)]
pub struct GlobalFlags {
    /// Configuration [env: REKINDLE_CONFIG] [default: /etc/rekindle/rekindle.toml, then the user's]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Database, without a password, which all would see (ps) [env: REKINDLE_DATABASE_URL]
    #[arg(long, global = true, value_name = "URL", value_parser = clap::builder::ValueParser::from(secret_text))]
    pub database_url: Option<SecretText>,
    /// File that holds the database URL [env: REKINDLE_DATABASE_URL_FILE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "database_url")]
    pub database_url_file: Option<PathBuf>,
    /// table, wide, tsv, json, jsonl or name [env: REKINDLE_OUTPUT] [default: table]
    #[arg(short, long, global = true, value_name = "FORMAT", env = "REKINDLE_OUTPUT", default_value = "table")]
    #[arg(hide_possible_values = true, hide_env = true, hide_default_value = true)]
    pub output: Format,
    /// Tables without their first line
    #[arg(long, global = true)]
    pub no_headers: bool,
    /// Only these columns of a list, in this order (table, wide, tsv)
    #[arg(long, global = true, value_name = "A,B", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Lists by this column, by value; -COL or COL:desc: the largest first
    #[arg(long, global = true, value_name = "COL", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// Say nothing when it worked; errors are still printed
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Times in UTC instead of local time
    #[arg(long, global = true)]
    pub utc: bool,
    /// How long the whole command may take [default: 15s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = human::duration_flag)]
    pub timeout: Option<Duration>,
    /// Consent to what would otherwise be asked
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Refuse unless so many would be changed; in scripts, with the number of a dry run
    #[arg(long, global = true, value_name = "N")]
    pub expect: Option<usize>,
    /// Consent to what is hard to undo, by its name
    #[arg(long, global = true, value_name = "NAME")]
    pub confirm: Option<String>,
    /// Never ask; implied where standard input is no terminal
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Why; kept in the history and shown next to the state
    #[arg(long, global = true, value_name = "TEXT")]
    pub reason: Option<String>,
}

fn secret_text(text: &str) -> Result<SecretText, std::convert::Infallible> {
    Ok(SecretText(text.to_owned()))
}

impl GlobalFlags {
    /// How long the whole command may take.
    pub fn timeout(&self) -> Duration {
        // Nothing can be done in no time; a pool even refuses it.
        self.timeout.unwrap_or(TIMEOUT_DEFAULT).max(Duration::from_millis(1))
    }

    /// Whether a question may be asked: a person sits at standard input and did not forbid it.
    pub fn may_ask(&self) -> bool {
        use std::io::IsTerminal;
        !self.no_input && std::io::stdin().is_terminal()
    }

    /// A text whose commands have the flags of this call that say where to look.
    pub fn command(&self, text: &str) -> String {
        let config = self.config.as_ref().map(|path| format!("-c {}", shell_word(&path.display().to_string())));
        let file = self.database_url_file.as_ref();
        let file = file.map(|path| format!("--database-url-file {}", shell_word(&path.display().to_string())));
        with_flags(text, &place_flags(config, self.database_url.as_ref().map(|url| url.0.as_str()), file))
    }

    /// Prints what tells of success, unless `--quiet`.
    pub fn say(&self, text: &str) -> Result<(), CliError> {
        if self.quiet { Ok(()) } else { output::print(text) }
    }

    fn overrides(&self) -> Vec<Override> {
        let url = self.database_url.as_ref().map(|url| ("database.url", url.0.clone(), "--database-url"));
        let file = self.database_url_file.as_ref();
        let file = file.map(|path| ("database.url_file", path.display().to_string(), "--database-url-file"));
        url.into_iter().chain(file).map(|(key, value, flag)| Override { key, value, flag }).collect()
    }

    /// Where the configuration is, as far as these flags say; programs add their own overrides.
    pub fn load_options(&self, host: Host) -> LoadOptions {
        LoadOptions { config: self.config.clone(), overrides: self.overrides(), host }
    }
}

/// Which files this program has read, for its errors: most often it is the wrong one, or none.
static CONFIG: OnceLock<String> = OnceLock::new();

/// The configuration of this call. Warnings about flags are shown, the others only with `-v`: the engine
/// says them when it starts, and a cron job should not repeat them.
pub fn load_config(flags: &GlobalFlags) -> Result<Loaded, CliError> {
    let options = flags.load_options(Host::here());
    options.secret_flag().map_or(Ok(()), |what| Err(CliError::secret_flag(what)))?;
    let loaded = load(&options).map_err(|errors| CliError::config(&errors))?;
    // Only the first of a process counts, and there is one.
    CONFIG.set(loaded.files_in_words()).unwrap_or(());
    for warning in &loaded.warnings {
        match warning.origin {
            Origin::Flag(_) => log::warn!("{warning}"),
            _ => log::info!("{warning}"),
        }
    }
    Ok(loaded)
}

/// Log lines of a command go to standard error: warnings, with `-v` info, with `-vv` debug.
pub fn init_logging(flags: &GlobalFlags) {
    use std::io::Write;
    let level = match (flags.quiet, flags.verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, _) => log::LevelFilter::Debug,
    };
    let line = |buffer: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        writeln!(buffer, "{}: {}", record.level().as_str().to_lowercase(), record.args())
    };
    // Without a thread lines are written when the program ends.
    STDERR.start().unwrap_or(());
    let mut builder = env_logger::Builder::new();
    builder.target(env_logger::Target::Pipe(Box::new(ToStderr::InOrder)));
    builder.filter_level(level.min(log::LevelFilter::Warn)).filter_module("rekindle", level).format(line);
    // A second call (a library user's own logger was first) changes nothing.
    builder.try_init().unwrap_or(());
}

/// How long a program that ends waits for its words to be read.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// The end of a program: an error goes to standard error, and either way a code comes out.
pub fn finish(result: Result<Exit, CliError>) -> ExitCode {
    let code = match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            let error = match CONFIG.get() {
                Some(files) => error.with_config(files),
                None => error,
            };
            output::print_error(&error.render());
            error.exit.into()
        }
    };
    last_words();
    code
}

/// Waits for what was said to be read, but not for long: a script that waits for the code must not wait for
/// whoever reads the words.
pub fn last_words() {
    STDERR.flush(LAST_WORDS_MAX);
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// A program of its own.
    #[derive(Parser, Debug)]
    struct Program {
        #[command(flatten)]
        flags: GlobalFlags,
        #[command(subcommand)]
        verb: Option<Verb>,
    }

    #[derive(clap::Subcommand, Debug)]
    enum Verb {
        Status,
    }

    fn flags(line: &str) -> GlobalFlags {
        Program::try_parse_from(line.split(' ')).unwrap().flags
    }

    #[test]
    fn flags_are_taken_before_and_after_the_verb() {
        for line in ["rekindle -o json --timeout 1m -vv status", "rekindle status -o json --timeout 1m -vv"] {
            let flags = flags(line);
            assert_eq!((flags.output, flags.timeout(), flags.verbose), (Format::Json, Duration::from_secs(60), 2));
        }
        assert_eq!(flags("rekindle status").timeout(), TIMEOUT_DEFAULT);
    }

    #[test]
    fn shared_flags_leave_the_programs_own_description_alone() {
        use clap::CommandFactory;
        assert_eq!(Program::command().get_about().unwrap().to_string(), "A program of its own");
        Program::command().debug_assert();
    }

    #[test]
    fn a_bare_number_is_refused_with_a_hint() {
        let error = Program::try_parse_from(["rekindle", "--timeout", "30"]).unwrap_err();
        assert!(error.to_string().contains("did you mean 30s?"), "{error}");
    }

    #[test]
    fn flags_become_settings_and_their_debug_text_holds_no_password() {
        let secret = flags("rekindle --database-url postgres://u:geheim@h/d");
        assert!(!format!("{secret:?}").contains("geheim"));
        let refused = load_config(&secret).unwrap_err();
        assert!(refused.exit == Exit::Usage && !refused.render().contains("geheim"), "{}", refused.render());
        let loaded = load(&flags("rekindle --database-url postgres://u@h/d").load_options(Host::default())).unwrap();
        assert_eq!(loaded.config.database.urls[0].to_string(), "postgres://u@h/d");
        assert_eq!(loaded.origin("database.url").to_string(), "flag --database-url");
    }
}
