//! `rekindle config check`: all problems at once, without a database and without starting anything.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::cli::GlobalFlags;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{List, Table, plural};
use crate::clock::{Clock, SystemClock};
use crate::config::{
    Host, LoadOptions, Loaded, Origin, Problem, command_problems, descriptor_problem, load, stop_problem,
    unknown_users, user_problems,
};
use crate::process::limits;

/// Check the configuration: all problems at once, without a database
///
/// Exit codes: 0 fine (warnings included), 78 wrong.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(before_help = "Examples:\n  rekindle config check\n  rekindle -c new.toml config check -o json")]
pub struct ConfigCheckArgs {}

/// What was found.
struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    files: String,
}

/// Prints every problem and warning; 78 if there is a problem.
pub fn run(_args: &ConfigCheckArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let findings = examine(&flags.load_options(Host::here()), &unit());
    let exit = if findings.problems.is_empty() { Exit::Ok } else { Exit::Config };
    let list = findings.list();
    match (exit, flags.output) {
        (Exit::Ok, format) if flags.quiet && format.is_for_people() => {}
        _ => list.print(flags)?,
    }
    Ok(exit)
}

fn examine(options: &LoadOptions, unit: &Unit) -> Findings {
    match load(options) {
        Err(errors) => {
            let mut problems = errors.problems;
            problems.extend(errors.rest.iter().flat_map(|rest| host_problems(rest, unit)));
            Findings { problems, warnings: errors.warnings, files: String::new() }
        }
        Ok(loaded) => {
            let problems = host_problems(&loaded, unit);
            let files = loaded.files_in_words();
            // Whoever checks a configuration need not be the user that the engine runs as, so this is no error
            // here; the engine refuses to start with it.
            let rights = user_problems(&loaded).into_iter();
            let warnings = loaded.warnings.iter().cloned().chain(rights).collect();
            Findings { problems, warnings, files }
        }
    }
}

/// What only this host can say.
fn host_problems(loaded: &Loaded, unit: &Unit) -> Vec<Problem> {
    let mut problems = command_problems(loaded);
    problems.extend(unknown_users(loaded));
    problems.extend(unit.stop_timeout.and_then(|timeout| stop_problem(loaded, timeout)));
    let most = unit.descriptors.unwrap_or_else(limits::most_descriptors);
    problems.extend(descriptor_problem(loaded, most));
    problems
}

impl Findings {
    fn list(&self) -> List {
        let errors = self.problems.iter().map(|problem| ("error", problem));
        let mut all: Vec<_> = errors.chain(self.warnings.iter().map(|warning| ("warning", warning))).collect();
        // In the order of the file, as somebody mends it; what is of another source comes first or last.
        all.sort_by_key(|(_, problem)| match &problem.origin {
            Origin::File { path, line } => (path.display().to_string(), *line),
            other => (other.to_string(), 0),
        });
        let mut table = Table::new(&[""]);
        for (severity, problem) in &all {
            table.row([format!("{}: {severity}: {}", problem.origin, problem.text)]);
        }
        let item = |(severity, problem): &(&str, &Problem)| json!({"severity": severity, "origin": problem.origin.to_string(), "text": problem.text});
        List {
            items: all.iter().map(item).collect(),
            names: all.iter().map(|(_, problem)| problem.origin.to_string()).collect(),
            table: table.without_headers(),
            footer: Some(self.verdict()),
            ..List::new("rekindle.config-check/1", SystemClock.wall_now())
        }
    }

    fn verdict(&self) -> String {
        let warnings = plural(self.warnings.len(), "warning");
        match (self.problems.len(), self.files.as_str()) {
            (0, files) => format!("ok: {files}; {warnings}"),
            (count, _) => format!("wrong: {}, {warnings}", plural(count, "problem")),
        }
    }
}

/// What systemd says of the engine's unit, where it runs this host and knows the unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unit {
    /// `TimeoutStopSec`; nothing where there is no limit.
    stop_timeout: Option<Duration>,
    /// The hard `LimitNOFILE`; nothing where there is no limit.
    descriptors: Option<u64>,
}

fn unit() -> Unit {
    if !Path::new("/run/systemd/system").is_dir() {
        return Unit::default();
    }
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=LoadState,TimeoutStopUSec,LimitNOFILE", "rekindle-engine.service"]);
    command.output().map_or_else(|_| Unit::default(), |output| parse_unit(&String::from_utf8_lossy(&output.stdout)))
}

/// `TimeoutStopUSec=1min 30s` and `LimitNOFILE=524288` of a unit that is loaded; `infinity` sets no limit.
fn parse_unit(text: &str) -> Unit {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    if value("LoadState=") != Some("loaded") {
        return Unit::default();
    }
    Unit {
        stop_timeout: value("TimeoutStopUSec=").and_then(|span| humantime::parse_duration(span).ok()),
        descriptors: value("LimitNOFILE=").and_then(|count| count.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output;
    use crate::config::Backend;

    fn examine_text(text: &str) -> Findings {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, text).unwrap();
        examine(
            &LoadOptions { config: Some(path), ..LoadOptions::default() },
            &Unit { stop_timeout: Some(Duration::from_secs(90)), descriptors: Some(1_024) },
        )
    }

    #[test]
    fn a_good_file_is_ok_and_warnings_do_not_change_that() {
        let found = examine_text("[kind.a]\ncommand = [\"/bin/sh\"]\n");
        assert!(found.problems.is_empty());
        let text = found.list().render(output::Format::Table, true);
        assert!(text.contains("a.toml:1: warning: kind.a.rerun: not written"), "{text}");
        assert!(text.ends_with("; 1 warning\n"), "{text}");
    }

    #[test]
    fn a_command_that_is_not_there_is_an_error() {
        let found =
            examine_text("[engine]\nstop_deadline = \"90s\"\n[kind.a]\ncommand = [\"/no/such\"]\nrerun = \"never\"\n");
        let text = found.list().render(output::Format::Table, true);
        assert!(text.contains("a.toml:4: error: kind.a.command: /no/such cannot be run"), "{text}");
        assert!(text.contains("a.toml:2: error: engine.stop_deadline: 1m30s is not below"), "{text}");
        assert!(text.contains("wrong: 2 problems, 1 warning"), "{text}");
    }

    #[test]
    fn a_wrong_key_hides_no_wrong_command() {
        let found = examine_text(
            "[database]\nurl = \"mysql://u@h/d\"\n[kind.a]\ncommand = [\"/no/such\"]\ntimeout = \"soon\"\n\
             [kind.b]\ncommand = [\"sh\"]\n[kind.c]\ncommand = []\n[kind.d]\ncommand = [\"/bin/sh\"]\ncwd = \"/no/dir\"\n",
        );
        let text = found.list().render(output::Format::Table, true);
        for part in [
            "kind.a.timeout: ",
            "kind.a.command: /no/such cannot be run",
            "kind.b.command: sh is not an absolute path",
            "kind.c.command: must name a program",
            "kind.d.cwd: /no/dir is no directory",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mysql = Backend::Mysql.missing().map(|why| format!("a.toml:2: error: database.url: {why}"));
        assert!(mysql.is_none_or(|line| text.contains(&line)), "{text}");
    }

    #[test]
    fn json_lists_every_finding() {
        let text = examine_text("slotz = 1\n").list().render(output::Format::Json, true);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["items"][0]["severity"], "error");
        assert_eq!(value["items"][0]["text"], "unknown key slotz");
    }

    #[test]
    fn the_units_timeout_is_read_as_systemd_prints_it() {
        let text = "LoadState=loaded\nTimeoutStopUSec=1min 30s\nLimitNOFILE=524288\n";
        let unit = Unit { stop_timeout: Some(Duration::from_secs(90)), descriptors: Some(524_288) };
        assert_eq!(parse_unit(text), unit);
        assert_eq!(parse_unit(&text.replace("1min 30s", "infinity")).stop_timeout, None);
        assert_eq!(parse_unit(&text.replace("524288", "infinity")).descriptors, None);
        assert_eq!(parse_unit(&text.replace("=loaded", "=not-found")), Unit::default());
    }

    #[test]
    fn more_slots_than_the_units_descriptors_allow_are_an_error() {
        let found = examine_text("[engine]\nslots = 256\n[kind.a]\ncommand = [\"/bin/sh\"]\nrerun = \"never\"\n");
        let text = found.list().render(output::Format::Table, true);
        assert!(text.contains("a.toml:2: error: engine.slots: 256 commands at once need 2880 descriptors"), "{text}");
    }
}
