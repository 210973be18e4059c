//! The daemon's log: to stderr, one line per event, with the part of the program that speaks.

use std::io::{IsTerminal, Write};

use crate::config::LogConfig;

/// Sets the log up. Under systemd each line carries its priority; the journal adds the time.
pub fn init(config: &LogConfig, role: &'static str) {
    let under_journal = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(config.level.filter());
    if let Ok(filter) = std::env::var("REKINDLE_LOG") {
        builder.parse_filters(&filter);
    }
    builder.format(move |out, record| {
        if under_journal {
            let priority = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                _ => 7,
            };
            return writeln!(out, "<{priority}>{role}: {}", record.args());
        }
        let now = out.timestamp_millis();
        writeln!(out, "{now} {:<5} {role}[{}] {}", record.level(), std::process::id(), record.args())
    });
    // A second call (in tests) leaves the first logger in place.
    let _ = builder.try_init();
}
