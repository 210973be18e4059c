//! The daemon's log: to stderr, one line per event, with the part of the program that speaks.

use std::io::{IsTerminal, Write};

use env_logger::fmt::Formatter;
use log::{Level, Record};

use crate::config::{LogConfig, LogFormat};

/// Sets the log up.
pub fn init(config: &LogConfig, role: &'static str) {
    let format = chosen(config.format);
    let mut builder = env_logger::Builder::new();
    builder.filter_level(config.level.filter());
    if let Ok(filter) = std::env::var("REKINDLE_LOG") {
        builder.parse_filters(&filter);
    }
    builder.format(move |out, record| match format {
        LogFormat::Journal => journal(out, record, role),
        LogFormat::Json => json(out, record, role),
        LogFormat::Auto | LogFormat::Text => text(out, record, role),
    });
    // A second call (in tests) leaves the first logger in place.
    let _ = builder.try_init();
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
    let now = out.timestamp_millis();
    writeln!(out, "{now} {:<5} {role}[{}] {}", record.level(), std::process::id(), record.args())
}

fn json(out: &mut Formatter, record: &Record<'_>, role: &str) -> std::io::Result<()> {
    let line = serde_json::json!({
        "at": out.timestamp_millis().to_string(),
        "level": record.level().as_str().to_ascii_lowercase(),
        "role": role,
        "pid": std::process::id(),
        "text": record.args().to_string(),
    });
    writeln!(out, "{line}")
}
