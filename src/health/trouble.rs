//! Results of checks that could not ask the database: unreachable, too slow, or called wrongly.

use std::time::Duration;

use super::check::{CheckResult, Mode, Status};
use super::words::{clean, cut, span, without_passwords};

/// An error text longer than this would push the explanation behind it off the first line.
const ERROR_MAX: usize = 140;

/// What a database that cannot be asked means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnDbError {
    /// UNKNOWN: some other check pages for it.
    Unknown,
    /// CRITICAL.
    Critical,
}

impl OnDbError {
    /// CRITICAL in `overall` and `db` only, so that a database outage pages once, not ten times.
    pub const fn of(mode: Mode) -> Self {
        match mode {
            Mode::Overall | Mode::Db => Self::Critical,
            Mode::Engines | Mode::Engine | Mode::Latency | Mode::Failed => Self::Unknown,
        }
    }
}

fn status_of(mode: Mode, on_db_error: Option<OnDbError>) -> Status {
    match on_db_error.unwrap_or(OnDbError::of(mode)) {
        OnDbError::Unknown => Status::Unknown,
        OnDbError::Critical => Status::Critical,
    }
}

/// The database did not answer. Passwords in the error are hidden.
pub fn db_error_result(mode: Mode, error: &str, on_db_error: Option<OnDbError>) -> CheckResult {
    let status = status_of(mode, on_db_error);
    let error = cut(&clean(&without_passwords(error)), ERROR_MAX);
    let text = format!("database unreachable: {error} (engines keep running tasks until their leases end)");
    CheckResult::new(mode, status, text).next("rekindle doctor")
}

/// The check ran out of time: a frozen database is one that cannot be asked. `stage` says where:
/// `counting ready tasks (connected to db1 in 0.1s)`.
pub fn timeout_result(mode: Mode, timeout: Duration, stage: &str, on_db_error: Option<OnDbError>) -> CheckResult {
    let text = format!("timeout after {} while {stage}", span(timeout));
    CheckResult::new(mode, status_of(mode, on_db_error), text).next("rekindle doctor")
}

/// The check was called wrongly, or its configuration cannot be used.
pub fn usage_result(mode: Mode, text: impl Into<String>) -> CheckResult {
    CheckResult::new(mode, Status::Unknown, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::render::plugin_text;

    #[test]
    fn an_unreachable_database_pages_once() {
        let line = |mode, on| plugin_text(&db_error_result(mode, "db1:5432 connection refused", on), false);
        assert_eq!(
            line(Mode::Overall, None),
            "REKINDLE CRITICAL - database unreachable: db1:5432 connection refused \
             (engines keep running tasks until their leases end)\nnext: rekindle doctor\n"
        );
        assert!(line(Mode::Db, None).starts_with("REKINDLE DB CRITICAL - "));
        for mode in [Mode::Engines, Mode::Engine, Mode::Latency, Mode::Failed] {
            assert!(line(mode, None).starts_with(&format!("{} UNKNOWN - ", mode.title())));
        }
        assert!(line(Mode::Failed, Some(OnDbError::Critical)).starts_with("REKINDLE FAILED CRITICAL - "));
        assert!(line(Mode::Overall, Some(OnDbError::Unknown)).starts_with("REKINDLE UNKNOWN - "));
    }

    #[test]
    fn a_long_error_with_a_password_keeps_the_explanation_and_not_the_password() {
        let error = format!("postgres://bob:s3cret@db1/x | {}", "refused\n".repeat(90));
        let text = plugin_text(&db_error_result(Mode::Db, &error, None), false);
        assert!(text.contains("bob:***@db1/x / refused refused"), "{text}");
        assert!(text.lines().next().is_some_and(|line| line.ends_with("until their leases end)")), "{text}");
    }

    #[test]
    fn a_timeout_names_its_stage() {
        let stage = "counting ready tasks (connected to db1 in 0.1s)";
        let result = timeout_result(Mode::Latency, Duration::from_secs(5), stage, None);
        assert_eq!(
            plugin_text(&result, false),
            "REKINDLE LATENCY UNKNOWN - timeout after 5s while counting ready tasks (connected to db1 in 0.1s)\n\
             next: rekindle doctor\n"
        );
        assert_eq!(result.status.exit_code(), 3);
        assert_eq!(timeout_result(Mode::Overall, Duration::from_secs(5), stage, None).status, Status::Critical);
    }
}
