//! How long the programs take to start, and `rekindle status` over a long queue.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rekindle::clock::{Clock, SystemClock};
use rekindle::protocol::ids::KindName;

use crate::database::{Database, feed};
use crate::figure::{Figure, Goal, median, millis};
use crate::programs::Setup;

/// Starts of one run; their median counts.
const STARTS: usize = 20;

/// The programs alone.
pub fn measure_programs(programs: &Path, runs: usize) -> Result<Vec<Figure>> {
    let dir = tempfile::Builder::new().prefix("rekindle-bench.").tempdir()?;
    let url = format!("sqlite://{}/none.db", dir.path().display());
    let config = setup(programs, &url, dir.path()).write()?.display().to_string();
    let commands: [(&str, &[&str]); 4] = [
        ("rekindle", &["--version"]),
        ("rekindle", &["-c", &config, "config", "show"]),
        ("rekindle-check", &["--help"]),
        ("rekindle-engine", &["--version"]),
    ];
    let mut figures = Vec::new();
    for (program, arguments) in commands {
        let values = (0..runs).map(|_| median_start(programs, program, arguments)).collect::<Result<Vec<_>>>()?;
        let shown: Vec<&str> = arguments.iter().map(|word| if *word == config { "FILE" } else { word }).collect();
        let name = format!("{program} {}", shown.join(" "));
        figures.push(Figure::median_of("start", "", name, values).in_unit("ms").with_goal(Goal::AtMost(50.0)));
    }
    Ok(figures)
}

/// `rekindle status` where so many tasks wait.
pub fn measure_status(database: &Database, programs: &Path, tasks: usize, runs: usize) -> Result<Vec<Figure>> {
    let dir = tempfile::Builder::new().prefix("rekindle-bench.").tempdir()?;
    let config = setup(programs, &database.url, dir.path()).write()?.display().to_string();
    let store = database.store()?;
    // Half of them may run now, half have to wait: both are counted.
    let kind = KindName::new("mark")?;
    feed(&*store, &kind, tasks / 2, None, 0)?;
    feed(&*store, &kind, tasks - tasks / 2, Some(Duration::from_secs(3_600)), 0)?;
    let status = ["-c", &config, "status"];
    let values = (0..runs).map(|_| median_start(programs, "rekindle", &status)).collect::<Result<Vec<_>>>()?;
    let name = format!("rekindle status, {tasks} tasks waiting");
    let figure = Figure::median_of("start", database.word, name, values);
    Ok(vec![figure.in_unit("ms").with_goal(Goal::AtMost(200.0))])
}

fn setup<'a>(programs: &'a Path, url: &'a str, dir: &'a Path) -> Setup<'a> {
    Setup { programs, url, dir, name: "bench-start", timing: "balanced", command: &[] }
}

fn median_start(programs: &Path, program: &str, arguments: &[&str]) -> Result<f64> {
    let clock = SystemClock;
    let mut samples = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let mut command = Command::new(programs.join(program));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let from = clock.lease_now();
        let output = command.output().with_context(|| format!("could not start {program}"))?;
        samples.push(millis(clock.lease_now().since(from)));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // A check's help ends with 3 (unknown), as monitoring systems want it.
        let right = if program == "rekindle-check" { 3 } else { 0 };
        ensure!(output.status.code() == Some(right), "{program} {arguments:?}: {}: {said}", output.status);
    }
    Ok(median(&samples))
}
