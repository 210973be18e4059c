//! How long a new task waits for two engines that have nothing else to do.
//!
//! A task is added every 20 to 120 ms and told of (`Store::wake`), as a submitter does. Its payload is the lease
//! clock just before; the handler reads the same clock. So a figure is adding, telling, claiming and starting.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use rekindle::clock::{Clock, SystemClock};
use rekindle::engine::{Engine, EngineOptions, Kind};
use rekindle::handlers::{Context, Outcome};
use rekindle::protocol::engine::EngineState;
use rekindle::protocol::ids::{EngineName, KindName};
use rekindle::store::NewTask;

use crate::database::{Database, store};
use crate::drain::start_process;
use crate::figure::{Figure, Goal, percentile};
use crate::programs::wait_for;

const KIND: &str = "pickup";

const NAMES: [&str; 2] = ["pickup-1", "pickup-2"];

/// Measures one database, `runs` times, so many tasks a run.
pub fn measure(make: &dyn Fn() -> Result<Database>, tasks: usize, runs: usize) -> Result<Vec<Figure>> {
    let (mut p50, mut p99, mut max) = (Vec::new(), Vec::new(), Vec::new());
    let mut word = "";
    for run in 1..=runs {
        let database = make()?;
        word = database.word;
        let waits = once(&database, tasks)?;
        p50.push(percentile(&waits, 50.0));
        p99.push(percentile(&waits, 99.0));
        max.push(percentile(&waits, 100.0));
        eprintln!(
            "pickup {word} run {run}: p50 {:.1} ms, p99 {:.1} ms",
            percentile(&waits, 50.0),
            percentile(&waits, 99.0)
        );
    }
    let name = |what| format!("{tasks} tasks, one every 20-120 ms, 2 engines: {what}");
    // MariaDB tells of nothing: it is asked.
    let goals = if word == "mariadb" { [Goal::AtMost(150.0), Goal::None] } else { [5.0, 15.0].map(Goal::AtMost) };
    Ok(vec![
        Figure::median_of("pickup", word, name("p50"), p50).in_unit("ms").with_goal(goals[0]),
        Figure::median_of("pickup", word, name("p99"), p99).in_unit("ms").with_goal(goals[1]),
        Figure::largest_of("pickup", word, name("max"), max).in_unit("ms"),
    ])
}

fn once(database: &Database, tasks: usize) -> Result<Vec<f64>> {
    let store = database.store()?;
    let engines =
        [start_process("picker", &database.url, NAMES[0])?, start_process("picker", &database.url, NAMES[1])?];
    wait_for("both engines to be live", Duration::from_millis(10), || {
        let (_, rows) = store.engines()?;
        let live = rows.iter().filter(|row| row.state == EngineState::Live && row.beat > 0).count();
        Ok((live == engines.len()).then_some(()))
    })?;
    let kind = KindName::new(KIND)?;
    for _ in 0..tasks {
        SystemClock.pause(Duration::from_millis(fastrand::u64(20..=120)));
        let payload = SystemClock.lease_now().as_ns().to_string().into_bytes();
        store.add(
            &[NewTask { kind: kind.clone(), payload, resources: Vec::new(), priority: 0, delay: None }],
            "bench",
        )?;
        store.wake()?;
    }
    wait_for("the last task", Duration::from_millis(20), || {
        let left = store.status()?.counts.iter().map(|(_, count)| count).sum::<u64>();
        Ok((left == 0).then_some(()))
    })?;
    let mut waits = Vec::with_capacity(tasks);
    for engine in engines {
        for word in engine.end()?.split_whitespace() {
            waits.push(word.parse::<f64>()? / 1e6);
        }
    }
    ensure!(waits.len() == tasks, "{} calls of the handler for {tasks} tasks", waits.len());
    Ok(waits)
}

static WAITS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn note(context: &Context) -> Outcome {
    let now = SystemClock.lease_now().as_ns();
    let added = std::str::from_utf8(context.payload()).ok().and_then(|text| text.parse::<u64>().ok());
    match added {
        Some(added) => WAITS.lock().push(now.saturating_sub(added)),
        None => return Outcome::Failed("no instant".into()),
    }
    Outcome::Done(None)
}

/// The body of one engine process: runs until its standard input ends, then says how long each task waited.
pub fn engine(url: &str, name: &str) -> Result<()> {
    let options = EngineOptions::new(EngineName::new(name)?).kind(KindName::new(KIND)?, Kind::handler(note));
    let engine = Engine::start(store(url, 4)?, options)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    engine.stop();
    engine.wait()?;
    let words: Vec<String> = WAITS.lock().iter().map(u64::to_string).collect();
    writeln!(std::io::stdout(), "{}", words.join(" ")).context("could not say what was seen")
}
