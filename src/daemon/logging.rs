//! The daemon's log: to stderr, one line per event, with the part of the program that speaks. No line is waited
//! for (`outlet.rs`); panics are lines like others.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use env_logger::fmt::Formatter;
use env_logger::{Logger, Target};
use log::{Level, Log, Metadata, Record};

use crate::clock::{Clock, SystemClock};
use crate::config::{LogConfig, LogFormat};
use crate::outlet::{STDERR, ToStderr};

/// How long last lines are waited for, before an end that is about to come.
const FLUSH_MAX: Duration = Duration::from_millis(50);

static HOW: OnceLock<(LogFormat, &'static str)> = OnceLock::new();

/// The logger, with a way to wait for last words.
struct Waitable(Logger);

impl Log for Waitable {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.0.log(record);
    }

    fn flush(&self) {
        STDERR.flush(FLUSH_MAX);
    }
}

/// Sets the log up.
pub fn init(config: &LogConfig, role: &'static str) {
    let format = chosen(config.format);
    let _ = HOW.set((format, role));
    let mut builder = env_logger::Builder::new();
    builder.target(Target::Pipe(Box::new(ToStderr::AtOnce)));
    builder.filter_level(config.level.filter());
    if let Ok(filter) = std::env::var("REKINDLE_LOG") {
        builder.parse_filters(&filter);
    }
    builder.format(move |out, record| match format {
        LogFormat::Journal => journal(out, record, role),
        LogFormat::Json => json(out, record, role),
        LogFormat::Auto | LogFormat::Text => text(out, record, role),
    });
    let logger = builder.build();
    let level = logger.filter();
    // A second call (in tests) leaves the first logger in place.
    if log::set_boxed_logger(Box::new(Waitable(logger))).is_ok() {
        log::set_max_level(level);
        STDERR.on_gap(gap);
        std::panic::set_hook(Box::new(panicked));
    }
}

/// Instead of the standard library's own words, which would wait for whoever reads them.
fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let text = info.to_string().replace('\n', " ");
    log::error!("thread {}: {text}", thread.name().unwrap_or("?"));
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        log::error!("{trace}");
    }
    log::logger().flush();
}

/// The line that stands where others are missing, in the form of the others.
fn gap(count: u64) -> String {
    let text = format!("{count} lines of this log were dropped here: standard error took none");
    let (format, role) = HOW.get().copied().unwrap_or((LogFormat::Text, "?"));
    let since_1970 = Duration::from_micros(SystemClock.wall_now().as_us().max(0).unsigned_abs());
    let at = || humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since_1970);
    match format {
        LogFormat::Journal => format!("<4>{role}: {text}\n"),
        LogFormat::Json => format!("{}\n", json_line(&at().to_string(), Level::Warn, role, &text)),
        LogFormat::Auto | LogFormat::Text => text_line(&at().to_string(), Level::Warn, role, &text),
    }
}

fn chosen(format: LogFormat) -> LogFormat {
    let terminal = std::io::stderr().is_terminal();
    match format {
        LogFormat::Auto if terminal => LogFormat::Text,
        LogFormat::Auto if std::env::var_os("JOURNAL_STREAM").is_some() => LogFormat::Journal,
        LogFormat::Auto => LogFormat::Json,
        written => written,
    }
}

/// The journal adds the time itself.
fn journal(out: &mut Formatter, record: &Record<'_>, role: &str) -> std::io::Result<()> {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    writeln!(out, "<{priority}>{role}: {}", record.args())
}

fn text(out: &mut Formatter, record: &Record<'_>, role: &str) -> std::io::Result<()> {
    let line = text_line(&out.timestamp_millis().to_string(), record.level(), role, &record.args().to_string());
    out.write_all(line.as_bytes())
}

fn text_line(now: &str, level: Level, role: &str, text: &str) -> String {
    format!("{now} {level:<5} {role}[{}] {text}\n", std::process::id())
}

fn json(out: &mut Formatter, record: &Record<'_>, role: &str) -> std::io::Result<()> {
    let line = json_line(&out.timestamp_millis().to_string(), record.level(), role, &record.args().to_string());
    writeln!(out, "{line}")
}

fn json_line(now: &str, level: Level, role: &str, text: &str) -> serde_json::Value {
    serde_json::json!({
        "at": now,
        "level": level.as_str().to_ascii_lowercase(),
        "role": role,
        "pid": std::process::id(),
        "text": text,
    })
}
