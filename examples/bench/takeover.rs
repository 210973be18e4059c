//! How long a task waits for its next attempt after its engine was killed.
//!
//! Two real engines with one slot each. A task runs on one of them, which is killed with SIGKILL; the
//! clock runs from just before that signal until the command of the task's next attempt, on the other
//! engine, has started and read the same clock. Then the killed engine is started again with the same
//! state directory, and the next trial begins.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rekindle::clock::{Clock, SystemClock};
use rekindle::protocol::ids::{Incarnation, KindName, TaskId};
use rekindle::protocol::task::TaskState;
use rekindle::store::{NewTask, Store};

use crate::database::Database;
use crate::figure::{Figure, Goal, percentile};
use crate::programs::{EngineProgram, Setup, wait_for};

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The engine proper: its guard proves the death.
    Engine,
    /// Guard and engine: peers wait until the heartbeat has stood still for T.
    Both,
}

impl Victim {
    const fn word(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Both => "engine and guard",
        }
    }

    /// Without a guard T has to pass; the fast profile keeps that short.
    const fn timing(self) -> &'static str {
        match self {
            Self::Engine => "balanced",
            Self::Both => "fast",
        }
    }
}

/// Measures one database, `runs` times.
pub fn measure(
    make: &dyn Fn() -> Result<Database>,
    programs: &Path,
    victim: Victim,
    trials: usize,
    runs: usize,
) -> Result<Vec<Figure>> {
    let mut samples = Vec::new();
    let mut word = "";
    for run in 1..=runs {
        let database = make()?;
        word = database.word;
        let got = Cluster::start(&database, programs, victim)?.trials(trials)?;
        eprintln!("takeover of {} on {word}, run {run}: p50 {:.0} ms", victim.word(), percentile(&got, 50.0));
        samples.push(got);
    }
    let of = |percent| samples.iter().map(|run| percentile(run, percent)).collect::<Vec<_>>();
    let name = |what: &str| format!("{} killed, {}, {trials} trials: {what}", victim.word(), victim.timing());
    let (p50, p99, max) = match victim {
        Victim::Engine => (Goal::AtMost(300.0), Goal::AtMost(1_000.0), Goal::None),
        Victim::Both => (Goal::None, Goal::None, Goal::AtMost(5_000.0)),
    };
    Ok(vec![
        Figure::median_of("takeover", word, name("p50"), of(50.0)).in_unit("ms").with_goal(p50),
        Figure::median_of("takeover", word, name("p90"), of(90.0)).in_unit("ms"),
        Figure::median_of("takeover", word, name("p99"), of(99.0)).in_unit("ms").with_goal(p99),
        Figure::largest_of("takeover", word, name("max"), of(100.0)).in_unit("ms").with_goal(max),
    ])
}

struct Cluster<'a> {
    database: &'a Database,
    programs: &'a Path,
    victim: Victim,
    store: std::sync::Arc<dyn Store>,
    kind: KindName,
    command: Vec<String>,
    marks: PathBuf,
    engines: Vec<(EngineProgram, Incarnation)>,
    // The last field: it goes when the engines have ended.
    dir: tempfile::TempDir,
}

/// What the command of an attempt wrote down.
struct Mark {
    task: TaskId,
    attempt: u32,
    engine: String,
    at: u64,
}

impl<'a> Cluster<'a> {
    fn start(database: &'a Database, programs: &'a Path, victim: Victim) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rekindle-bench.").tempdir()?;
        let marks = dir.path().join("marks");
        let me = std::env::current_exe()?.display().to_string();
        let mut cluster = Self {
            database,
            programs,
            victim,
            store: database.store()?,
            kind: KindName::new("mark")?,
            command: vec![me, "mark".into(), marks.display().to_string()],
            marks,
            engines: Vec::new(),
            dir,
        };
        for name in ["bench-a", "bench-b"] {
            let engine = cluster.start_engine(name, None)?;
            cluster.engines.push(engine);
        }
        Ok(cluster)
    }

    fn start_engine(&self, name: &str, former: Option<Incarnation>) -> Result<(EngineProgram, Incarnation)> {
        let setup = Setup {
            programs: self.programs,
            url: &self.database.url,
            dir: self.dir.path(),
            name,
            timing: self.victim.timing(),
            command: &self.command,
        };
        let engine = setup.start()?;
        let incarnation = engine.wait_live(&*self.store, former).with_context(|| self.log_tail())?;
        Ok((engine, incarnation))
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("engines.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn trials(mut self, trials: usize) -> Result<Vec<f64>> {
        let mut samples = Vec::with_capacity(trials);
        for trial in 1..=trials {
            let sample = self.trial().with_context(|| format!("trial {trial}\n{}", self.log_tail()))?;
            samples.push(sample);
        }
        Ok(samples)
    }

    /// One takeover, in milliseconds.
    fn trial(&mut self) -> Result<f64> {
        let task = self.add()?;
        let first = self.wait_mark(task, 1)?;
        // Any moment between two beats, sweeps and looks of the watcher is as good as another.
        SystemClock.pause(Duration::from_millis(fastrand::u64(50..1_000)));
        let at = self.engines.iter().position(|(engine, _)| engine.name() == first.engine);
        let (mut killed, former) = self.engines.remove(at.context("an unknown engine ran the task")?);
        let killed_at = match self.victim {
            Victim::Engine => killed.kill_engine()?,
            Victim::Both => killed.kill_both()?,
        };
        let second = self.wait_mark(task, 2)?;
        ensure!(second.engine != first.engine, "the killed engine ran its task again");
        killed.wait_end()?;
        let again = self.start_engine(&first.engine, Some(former))?;
        self.engines.push(again);
        self.wait_done(task)?;
        Ok(second.at.saturating_sub(killed_at) as f64 / 1e6)
    }

    fn add(&self) -> Result<TaskId> {
        let task =
            NewTask { kind: self.kind.clone(), payload: Vec::new(), resources: Vec::new(), priority: 0, delay: None };
        let ids = self.store.add(&[task], "bench")?;
        self.store.wake()?;
        ids.first().copied().context("no task was added")
    }

    fn wait_mark(&self, task: TaskId, attempt: u32) -> Result<Mark> {
        wait_for(&format!("attempt {attempt} of task {task}"), Duration::from_millis(2), || {
            let text = std::fs::read_to_string(&self.marks).unwrap_or_default();
            let mut marks = text.lines().rev().filter_map(read_mark);
            Ok(marks.find(|mark| mark.task == task && mark.attempt == attempt))
        })
    }

    fn wait_done(&self, task: TaskId) -> Result<()> {
        wait_for(&format!("the end of task {task}"), Duration::from_millis(10), || {
            let states = self.store.task_states(&[task])?;
            Ok(states.iter().any(|(_, now)| now.state == TaskState::Done).then_some(()))
        })
    }
}

fn read_mark(line: &str) -> Option<Mark> {
    let mut words = line.split(' ');
    Some(Mark {
        task: TaskId::parse(words.next()?)?,
        attempt: words.next()?.parse().ok()?,
        engine: words.next()?.to_owned(),
        at: words.next()?.parse().ok()?,
    })
}

/// The command of the task: says when it started, and waits for its end if it is the first attempt.
pub fn mark(file: &Path) -> Result<()> {
    let at = SystemClock.lease_now().as_ns();
    let of = |key: &str| std::env::var(key).with_context(|| format!("{key} is not set"));
    let (task, attempt, engine) = (of("REKINDLE_TASK")?, of("REKINDLE_ATTEMPT")?, of("REKINDLE_ENGINE")?);
    let mut out = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    out.write_all(format!("{task} {attempt} {engine} {at}\n").as_bytes())?;
    if attempt != "1" {
        return Ok(());
    }
    SystemClock.pause(Duration::from_secs(120));
    bail!("nobody killed the first attempt of task {task}")
}
