//! How fast two engines empty a backlog of tasks that do nothing.
//!
//! Three processes: this one adds the tasks and watches, two others are engines with a Rust handler and
//! the defaults of a library user. The clock runs from the first call of the handler, in whichever
//! engine, until the database knows of no unfinished task.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rekindle::clock::{Clock, SystemClock};
use rekindle::engine::{Engine, EngineOptions, Kind};
use rekindle::handlers::{Context, Outcome};
use rekindle::protocol::ids::{EngineName, KindName};
use rekindle::store::Store;

use crate::database::{Database, feed, store};
use crate::figure::{Figure, Goal};

const KIND: &str = "noop";

/// Bound of one run; at the goal of 20,000/s it takes 5 s.
const LIMIT: Duration = Duration::from_secs(300);

/// Resources of a keyed backlog.
const KEYS: usize = 1_000;

/// What waits when the engines start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// Tasks without resources.
    Plain,
    /// The same, and then the database looks at its tables: every task is ready, none runs.
    Analysed,
    /// Each task on one of [`KEYS`] resources.
    Keyed,
}

impl Backlog {
    const fn word(self) -> &'static str {
        match self {
            Self::Plain => "drain",
            Self::Analysed => "analysed",
            Self::Keyed => "keyed",
        }
    }
}

/// One drain.
struct Drain {
    /// Tasks a second.
    rate: f64,
    /// The part of the engine that ran fewer tasks.
    smaller_part: f64,
}

/// Measures one database, `runs` times.
pub fn measure(make: &dyn Fn() -> Result<Database>, tasks: usize, runs: usize) -> Result<Vec<Figure>> {
    let mut rates = Vec::new();
    let mut word = "";
    for run in 1..=runs {
        let database = make()?;
        word = database.word;
        rates.push(once(&database, Backlog::Plain, tasks, run)?.rate);
    }
    let name = format!("{tasks} no-op tasks, 2 engines");
    Ok(vec![Figure::median_of("drain", word, name, rates).in_unit("tasks/s").with_goal(Goal::AtLeast(20_000.0))])
}

/// Measures another backlog beside a plain one, in turns: on a shared machine only their ratio tells.
pub fn compare(
    make: &dyn Fn() -> Result<Database>,
    backlog: Backlog,
    tasks: usize,
    runs: usize,
) -> Result<Vec<Figure>> {
    let (mut rates, mut ratios, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let mut word = "";
    for run in 1..=runs {
        let plain = once(&make()?, Backlog::Plain, tasks, run)?;
        let database = make()?;
        word = database.word;
        let other = once(&database, backlog, tasks, run)?;
        rates.push(other.rate);
        ratios.push(other.rate / plain.rate);
        parts.push(other.smaller_part);
    }
    let (name, goal) = match backlog {
        Backlog::Keyed => (format!("{tasks} no-op tasks on {KEYS} resources, 2 engines"), 0.5),
        _ => (format!("{tasks} no-op tasks, analysed, 2 engines"), 0.9),
    };
    let figure = |what: &str, runs| Figure::median_of(backlog.word(), word, format!("{name}{what}"), runs);
    Ok(vec![
        figure("", rates).in_unit("tasks/s"),
        figure(": part of a plain drain", ratios).with_goal(Goal::AtLeast(goal)),
        figure(": run by the slower engine", parts),
    ])
}

fn once(database: &Database, backlog: Backlog, tasks: usize, run: usize) -> Result<Drain> {
    let kind = KindName::new(KIND)?;
    let store = database.store()?;
    feed(&*store, &kind, tasks, None, if backlog == Backlog::Keyed { KEYS } else { 0 })?;
    if backlog == Backlog::Analysed {
        database.analyse()?;
    }
    let engines = [start_engine(&database.url, "drain-1")?, start_engine(&database.url, "drain-2")?];
    let end = wait_until_done(&*store, &kind);
    let mut first = u64::MAX;
    let (mut calls, mut fewest) = (0, u64::MAX);
    for engine in engines {
        let (its_first, its_calls) = engine.stop()?;
        first = first.min(its_first);
        fewest = fewest.min(its_calls);
        calls += its_calls;
    }
    let end = end?;
    ensure!(calls >= tasks as u64, "{calls} calls of the handler for {tasks} tasks");
    let rate = tasks as f64 / ((end.saturating_sub(first)) as f64 / 1e9);
    let smaller_part = fewest as f64 / calls as f64;
    eprintln!("{} {} run {run}: {rate:.0} tasks/s, {smaller_part:.2} by one", backlog.word(), database.word);
    Ok(Drain { rate, smaller_part })
}

/// The lease clock when nothing is unfinished. Looks seldom and cheaply: it shares the host with what it
/// measures.
fn wait_until_done(store: &dyn Store, kind: &KindName) -> Result<u64> {
    let clock = SystemClock;
    let until = clock.lease_now().after(LIMIT);
    loop {
        ensure!(clock.lease_now() < until, "the backlog was not empty within {LIMIT:?}");
        clock.pause(Duration::from_millis(10));
        if !store.probe(std::slice::from_ref(kind), "bench")?.is_empty() || is_owned(store)? {
            continue;
        }
        let at = clock.lease_now().as_ns();
        let left = store.status()?.counts.iter().map(|(_, count)| count).sum::<u64>();
        ensure!(left == 0, "{left} tasks are neither ready nor owned");
        return Ok(at);
    }
}

fn is_owned(store: &dyn Store) -> Result<bool> {
    let (_, engines) = store.engines()?;
    for engine in engines {
        if !store.owned(engine.incarnation)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A process of this program that is an engine.
pub struct EngineProcess(Option<Child>);

fn start_engine(url: &str, name: &str) -> Result<EngineProcess> {
    start_process("engine", url, name)
}

/// Starts one whose body is this word of the command line.
pub fn start_process(word: &str, url: &str, name: &str) -> Result<EngineProcess> {
    let child = Command::new(std::env::current_exe()?)
        .args([word, url, name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("could not start an engine process")?;
    Ok(EngineProcess(Some(child)))
}

impl EngineProcess {
    /// Ends it; the line that it says then.
    pub fn end(mut self) -> Result<String> {
        let mut child = self.0.take().context("it is stopped once")?;
        drop(child.stdin.take());
        let out = child.stdout.take().context("its output is read once")?;
        let line = BufReader::new(out).lines().next().context("it said nothing")??;
        child.wait()?;
        Ok(line)
    }

    /// Ends it; when its handler was called first, and how often.
    fn stop(self) -> Result<(u64, u64)> {
        let line = self.end()?;
        let (first, calls) = line.split_once(' ').context("it said something else")?;
        Ok((first.parse()?, calls.parse()?))
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

static FIRST: OnceLock<u64> = OnceLock::new();
static CALLS: AtomicU64 = AtomicU64::new(0);

fn noop(_: &Context) -> Outcome {
    FIRST.get_or_init(|| SystemClock.lease_now().as_ns());
    CALLS.fetch_add(1, Ordering::Relaxed);
    Outcome::Done(None)
}

/// The body of one engine process: runs until its standard input ends, then says what it did.
pub fn engine(url: &str, name: &str) -> Result<()> {
    let options = EngineOptions::new(EngineName::new(name)?).kind(KindName::new(KIND)?, Kind::handler(noop));
    let engine = Engine::start(store(url, 4)?, options)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    engine.stop();
    engine.wait()?;
    writeln!(std::io::stdout(), "{} {}", FIRST.get().copied().unwrap_or(u64::MAX), CALLS.load(Ordering::Relaxed))?;
    Ok(())
}
