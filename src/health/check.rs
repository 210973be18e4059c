//! The outcome of a check: mode, status, text and values, before anyone decides how to show it.

use serde::Serialize;

use super::perf::Perf;

/// How bad it is. Ordered by how much it asks of a person: what could not be judged might be critical,
/// so it outranks a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing to do.
    Ok,
    /// Look at it today.
    Warning,
    /// Could not be judged.
    Unknown,
    /// Look at it now.
    Critical,
}

impl Status {
    /// The exit code of the monitoring plugins.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    /// The word of the monitoring plugins.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The worst of several; OK if there are none.
    pub fn worst(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().max().unwrap_or(Self::Ok)
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Whether `rekindle status` shows a problem.
    #[default]
    Overall,
    /// How many engines are alive, fenced and late.
    Engines,
    /// Whether one engine beats (-e NAME or --local).
    Engine,
    /// How long the oldest ready task waits.
    Latency,
    /// How many tasks have failed and wait for a person.
    Failed,
    /// Whether the database answers fast, with the right schema and clock.
    Db,
}

impl Mode {
    /// The name on the command line and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Overall => "overall",
            Self::Engines => "engines",
            Self::Engine => "engine",
            Self::Latency => "latency",
            Self::Failed => "failed",
            Self::Db => "db",
        }
    }

    /// What the plugin line starts with.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Overall => "REKINDLE",
            Self::Engines => "REKINDLE ENGINES",
            Self::Engine => "REKINDLE ENGINE",
            Self::Latency => "REKINDLE LATENCY",
            Self::Failed => "REKINDLE FAILED",
            Self::Db => "REKINDLE DB",
        }
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckResult {
    /// What was asked.
    pub mode: Mode,
    /// How bad it is.
    pub status: Status,
    /// One sentence; may hold free text of tasks and people.
    pub text: String,
    /// Values for graphs.
    pub perf: Vec<Perf>,
    /// The parts, each with its own status.
    pub details: Vec<(Status, String)>,
    /// The next command to type.
    pub next: Option<String>,
}

impl CheckResult {
    /// A result without values or parts.
    pub fn new(mode: Mode, status: Status, text: impl Into<String>) -> Self {
        Self { mode, status, text: text.into(), perf: Vec::new(), details: Vec::new(), next: None }
    }

    /// With the next command, which a result that is fine does not need.
    pub fn next(mut self, command: impl Into<String>) -> Self {
        if self.status != Status::Ok {
            self.next = Some(command.into());
        }
        self
    }

    /// With values.
    pub fn perf(mut self, perf: impl IntoIterator<Item = Perf>) -> Self {
        self.perf.extend(perf);
        self
    }

    /// With parts.
    pub fn details(mut self, details: impl IntoIterator<Item = (Status, String)>) -> Self {
        self.details.extend(details);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_exit_codes_are_those_of_the_monitoring_plugins() {
        let all = [Status::Ok, Status::Warning, Status::Critical, Status::Unknown];
        assert_eq!(all.map(Status::exit_code), [0, 1, 2, 3]);
        assert_eq!(all.map(Status::word), ["OK", "WARNING", "CRITICAL", "UNKNOWN"]);
    }

    #[test]
    fn the_worst_part_decides() {
        assert_eq!(Status::worst([]), Status::Ok);
        assert_eq!(Status::worst([Status::Ok, Status::Warning]), Status::Warning);
        assert_eq!(Status::worst([Status::Warning, Status::Unknown]), Status::Unknown);
        assert_eq!(Status::worst([Status::Unknown, Status::Critical, Status::Ok]), Status::Critical);
    }

    #[test]
    fn a_fine_result_names_no_next_command() {
        assert_eq!(CheckResult::new(Mode::Db, Status::Ok, "fine").next("rekindle doctor").next, None);
    }
}
