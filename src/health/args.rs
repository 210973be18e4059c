//! The command line of `rekindle-check`. Parsing ends in arguments or in one line for the monitor: a
//! usage error must not look like a state of the cluster, so clap's exit 2 (CRITICAL) becomes 3 (UNKNOWN).

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};

use super::check::{Mode, Status};
use super::range::{RangeSpec, read_seconds};
use super::render::{Output, Style, plugin_text};
use super::thresholds::{EngineRef, LimitError, Normal, Settings, Thresholds};
use super::trouble::{OnDbError, usage_result};
use super::words::without_passwords;

const EXAMPLES: &str = "Examples:
  rekindle-check --quiet-ok
  rekindle-check -m failed --normal 500 -w 1.5x -c 2x";

const EXIT_CODES: &str = "\
RANGE is [@]start:end as in all monitoring plugins: 10, 10:, ~:10, 10:20, @10:20 (inside).
A bare number counts, in latency and db seconds; ms s m h d w make it a time, x a multiple of --normal.

Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (also wrong usage, --help and --version)";

/// Checks a rekindle cluster for Nagios, Icinga, Sensu or cron. Reads only.
#[derive(Debug, Clone, Parser)]
#[command(name = "rekindle-check", version, before_help = EXAMPLES, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Args {
    /// What to check
    #[arg(short, long, value_enum, default_value_t)]
    pub mode: Mode,
    /// WARNING outside of this range
    #[arg(short, long, value_name = "RANGE")]
    pub warning: Option<RangeSpec>,
    /// CRITICAL outside of this range
    #[arg(short, long, value_name = "RANGE")]
    pub critical: Option<RangeSpec>,
    /// What is normal: a number, or none
    #[arg(long, value_name = "N")]
    pub normal: Option<Normal>,
    /// Do not alert below this number [default: 50 where a limit is a multiple]
    #[arg(long, value_name = "N")]
    pub min: Option<u32>,
    /// Only tasks of this kind (modes latency and failed)
    #[arg(short, long)]
    pub kind: Option<String>,
    /// The engine of mode engine
    #[arg(short, long, value_name = "NAME", conflicts_with = "is_local")]
    pub engine: Option<String>,
    /// The engines of this host, in mode engine
    #[arg(long = "local")]
    pub is_local: bool,

    /// Give up after this long; a bare number is seconds
    #[arg(short, long, value_name = "DUR", default_value = "10s", value_parser = read_timeout, help_heading = "Timing")]
    pub timeout: Duration,

    /// Configuration file [env: REKINDLE_CONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Database")]
    pub config: Option<PathBuf>,
    /// Database, without a password, which all would see (ps) [env: REKINDLE_DATABASE_URL]
    #[arg(long, value_name = "URL", help_heading = "Database")]
    pub database_url: Option<String>,
    /// File that holds the database URL; best with a read-only role [env: REKINDLE_DATABASE_URL_FILE]
    #[arg(long, value_name = "FILE", conflicts_with = "database_url", help_heading = "Database")]
    pub database_url_file: Option<PathBuf>,
    /// What a database that cannot be asked means [default: critical in overall and db, else unknown]
    #[arg(long, value_name = "STATUS", value_enum, help_heading = "Database")]
    pub on_db_error: Option<OnDbError>,

    /// Print nothing when OK
    #[arg(long = "quiet-ok", help_heading = "Output")]
    pub is_quiet_ok: bool,
    /// Show details also when OK
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
    /// Exit 0 whatever was found
    #[arg(long = "exit-ok", help_heading = "Output")]
    pub is_exit_ok: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t, hide = true)]
    pub output: Output,
}

impl Args {
    /// Thresholds of the command line.
    pub fn settings(&self) -> Settings {
        Settings { warning: self.warning.clone(), critical: self.critical.clone(), normal: self.normal, min: self.min }
    }

    /// What to judge against: flags, then the configuration's `[check.MODE]`, then the defaults. `host` is
    /// this host's name as engines register it.
    pub fn thresholds(&self, configured: Settings, host: &str) -> Result<Thresholds, LimitError> {
        let local = || self.is_local.then(|| EngineRef::Local { host: host.to_owned() });
        let engine = self.engine.clone().map(EngineRef::Named).or_else(local);
        Thresholds::resolve(self.mode, &self.settings().or(configured), engine)
    }

    /// How to show the result.
    pub const fn style(&self) -> Style {
        Style { is_quiet_ok: self.is_quiet_ok, is_verbose: self.verbose > 0, output: self.output }
    }

    /// What clap cannot say about single flags.
    fn complaint(&self) -> Option<String> {
        let word = self.mode.word();
        let has_engine = self.engine.is_some() || self.is_local;
        let has_limit = self.warning.is_some() || self.critical.is_some();
        let has_normal = self.normal.is_some() || self.min.is_some();
        match self.mode {
            Mode::Engine if !has_engine => Some("mode engine needs -e NAME or --local".to_owned()),
            Mode::Overall if has_limit => Some(LimitError::BuiltIn.to_string()),
            mode if has_engine && mode != Mode::Engine => {
                Some(format!("-e and --local belong to mode engine, not {word}"))
            }
            mode if self.kind.is_some() && !matches!(mode, Mode::Latency | Mode::Failed) => {
                Some(format!("-k belongs to the modes latency and failed, not {word}"))
            }
            mode if has_normal && !matches!(mode, Mode::Overall | Mode::Failed) => {
                Some(format!("--normal and --min belong to the modes failed and overall, not {word}"))
            }
            _ => None,
        }
    }
}

/// What to print and how to exit instead of checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For standard output, with its last newline.
    pub text: String,
    /// Always 3.
    pub exit_code: u8,
}

/// Reads a command line, the program's name first.
pub fn parse<I, T>(args: I) -> Result<Args, Refusal>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let typed: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mode = typed_mode(&typed);
    let args = Args::try_parse_from(typed).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => refusal(error.to_string()),
        // What was typed in the wrong place may be a URL with a password.
        _ => usage_refusal(mode, &without_passwords(&with_hint(one_line(&error.to_string())))),
    })?;
    match args.complaint() {
        Some(complaint) => Err(usage_refusal(mode, &complaint)),
        None => Ok(args),
    }
}

/// The mode of a command line that may be wrong elsewhere, so that its line has the title that the monitor knows.
fn typed_mode(args: &[OsString]) -> Mode {
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    let next = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).copied();
    let glued = || words.iter().find_map(|word| word.strip_prefix("--mode=").or_else(|| word.strip_prefix("-m")));
    let word = next("-m").or_else(|| next("--mode")).or_else(glued);
    word.and_then(|word| Mode::from_str(word.trim_start_matches('='), false).ok()).unwrap_or_default()
}

/// `-c` means another thing in the other two programs.
fn with_hint(complaint: String) -> String {
    let is_file =
        complaint.contains("'--critical <RANGE>'") && (complaint.contains(".toml") || complaint.contains('/'));
    if is_file { complaint + "; the configuration is --config FILE" } else { complaint }
}

const fn refusal(text: String) -> Refusal {
    Refusal { text, exit_code: Status::Unknown.exit_code() }
}

fn usage_refusal(mode: Mode, complaint: &str) -> Refusal {
    refusal(plugin_text(&usage_result(mode, format!("{complaint} (see rekindle-check --help)")), false))
}

/// clap's message without its frame: the paragraphs before "Usage", joined.
fn one_line(error: &str) -> String {
    let is_said = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let said = error.trim_start_matches("error: ").lines().take_while(is_said).map(str::trim);
    said.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Monitors pass `20`, people `20s`; longer than an hour is a typing error.
fn read_timeout(text: &str) -> Result<Duration, String> {
    let is_sane = |seconds: &f64| (0.1..=3_600.0).contains(seconds);
    let seconds = read_seconds(text).filter(is_sane).ok_or("write a time from 100ms to 1h, such as 10s")?;
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, Refusal> {
        parse(std::iter::once("rekindle-check").chain(line.split_whitespace()))
    }

    fn complaint(line: &str) -> String {
        let refusal = read(line).unwrap_err();
        assert_eq!(refusal.exit_code, 3, "{line}");
        assert_eq!(refusal.text.lines().count(), 1, "{line}: {}", refusal.text);
        refusal.text.trim_end().to_owned()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn nothing_said_means_overall_within_ten_seconds() {
        let args = read("").unwrap();
        assert_eq!((args.mode, args.timeout), (Mode::Overall, Duration::from_secs(10)));
        assert_eq!(args.style(), Style::default());
        assert!(args.thresholds(Settings::default(), "h").is_ok());
    }

    #[test]
    fn short_and_long_flags_read_the_same() {
        let short = read("-m failed -w 1.5x -c 2x --normal 500 --min 20 -t 20 -k mail -v -o json").unwrap();
        let long = "--mode=failed --warning=1.5x --critical=2x --normal=500 --min=20 --timeout=20s --kind=mail \
                    --verbose --output=json";
        assert_eq!(format!("{short:?}"), format!("{:?}", read(long).unwrap()));
        let limits = short.thresholds(Settings::default(), "h").unwrap().limits;
        assert_eq!(limits.broken(751.0).as_deref(), Some("limit 1.5x"));
    }

    #[test]
    fn local_means_the_engines_of_this_host() {
        let local = read("-m engine --local").unwrap().thresholds(Settings::default(), "web-2").unwrap();
        assert_eq!(local.engine, Some(EngineRef::Local { host: "web-2".to_owned() }));
        let named = read("-m engine -e app1").unwrap().thresholds(Settings::default(), "web-2").unwrap();
        assert_eq!(named.engine, Some(EngineRef::Named("app1".to_owned())));
    }

    #[test]
    fn wrong_usage_is_one_line_of_unknown() {
        let table = [
            ("--bogus", "REKINDLE UNKNOWN - unexpected argument '--bogus' found (see rekindle-check --help)"),
            (
                "-m failed -w 20:10",
                "REKINDLE FAILED UNKNOWN - invalid value '20:10' for '--warning <RANGE>': range '20:10' starts above its end; \
                 write the smaller number first (see rekindle-check --help)",
            ),
            (
                "-m failed --normal auto",
                "REKINDLE FAILED UNKNOWN - invalid value 'auto' for '--normal <N>': auto is not available in this version, \
                 give the number that is normal (see rekindle-check --help)",
            ),
            (
                "-t 0",
                "REKINDLE UNKNOWN - invalid value '0' for '--timeout <DUR>': write a time from 100ms to 1h, such as 10s \
                 (see rekindle-check --help)",
            ),
            ("-m engine", "REKINDLE ENGINE UNKNOWN - mode engine needs -e NAME or --local (see rekindle-check --help)"),
            (
                "-m engines -e app1",
                "REKINDLE ENGINES UNKNOWN - -e and --local belong to mode engine, not engines (see rekindle-check --help)",
            ),
            (
                "-k mail",
                "REKINDLE UNKNOWN - -k belongs to the modes latency and failed, not overall (see rekindle-check --help)",
            ),
        ];
        for (line, want) in table {
            assert_eq!(complaint(line), want);
        }
        assert_eq!(
            complaint("-m latency -c rekindle.toml"),
            "REKINDLE LATENCY UNKNOWN - invalid value 'rekindle.toml' for '--critical <RANGE>': range 'rekindle.toml' has \
             'rekindle.toml' where a number belongs; write 10, 10:, ~:10, 10:20 or @10:20; the configuration is --config \
             FILE (see rekindle-check --help)"
        );
        assert_eq!(
            complaint("--mode=overall -w 5"),
            "REKINDLE UNKNOWN - mode overall has built-in limits; -w and -c belong to the other modes (see rekindle-check \
             --help)"
        );
        for line in
            ["-m", "-m backlog", "positional", "-m engine -e a --local", "-w", "-w 5", "--min -1", "-t 2h", "-v=x|y"]
        {
            let said = complaint(line);
            assert!(said.starts_with("REKINDLE ") && said.contains("UNKNOWN - "), "{said}");
        }
    }

    #[test]
    fn help_and_version_exit_unknown() {
        for flag in ["-h", "--help"] {
            let help = read(flag).unwrap_err();
            assert_eq!(help.exit_code, 3);
            assert!(help.text.starts_with("Examples:\n  rekindle-check --quiet-ok\n"), "{}", help.text);
            assert!(help.text.contains("Exit codes: 0 OK") && !help.text.contains("--output"));
        }
        let version = read("-V").unwrap_err();
        assert_eq!(version, Refusal { text: format!("rekindle-check {}\n", env!("CARGO_PKG_VERSION")), exit_code: 3 });
    }
}
