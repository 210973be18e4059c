//! A quarter of a minute of random kills, freezes and stops (a taste of `scripts/chaos`): afterwards every
//! task is done, and nothing of an older attempt ever acted beside a newer one.

use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::protocol::ids::TaskId;
use rekindle::protocol::liveness::SweepKind;
use rekindle::protocol::task::{AttemptResult, TaskState};
use rekindle::store::Counts;

use super::engine::{Engine, EngineSpec};
use super::rig::{Rig, SOON, signal, uptime, wait_or};

const SPAN_S: f64 = 15.0;

/// One engine that is started again whenever it has ended, as systemd does.
struct Unit<'r> {
    spec: EngineSpec<'r>,
    engine: Engine,
    /// Stopped by SIGSTOP until then.
    frozen: Option<(i32, f64)>,
}

impl Unit<'_> {
    fn tend(&mut self, now: f64) {
        if let Some((pid, _)) = self.frozen.take_if(|(_, until)| now >= *until) {
            signal(pid, Signal::SIGCONT);
        }
        if self.engine.ended().is_some() {
            self.frozen = None;
            self.engine = self.spec.launch();
        }
    }

    fn fault(&mut self, dice: &mut fastrand::Rng, now: f64) {
        let (guard, proper) = (self.engine.guard, self.engine.try_proper());
        let (Some(proper), None) = (proper, self.frozen) else { return };
        let mut freeze = |pid, span| {
            signal(pid, Signal::SIGSTOP);
            self.frozen = Some((pid, now + span));
        };
        match dice.u8(0..8) {
            0 | 1 => signal(proper, Signal::SIGKILL),
            2 => signal(guard, Signal::SIGKILL),
            3 => [guard, proper].into_iter().for_each(|pid| signal(pid, Signal::SIGKILL)),
            4 => freeze(proper, 1.0),
            5 => freeze(proper, 4.0),
            6 => freeze(guard, 3.5),
            _ => signal(guard, Signal::SIGTERM),
        }
    }
}

fn add(rig: &Rig, dice: &mut fastrand::Rng) -> TaskId {
    let body = format!("ticks {}", dice.u8(2..30));
    let names = ["r", "s", "t", "u"];
    let first = dice.usize(0..3);
    let resources = match dice.u8(0..3) {
        0 => &names[..0],
        1 => &names[first..=first],
        _ => &names[first..first + 2],
    };
    rig.add_to("tough", &body, resources)
}

pub fn no_task_is_lost_and_none_runs_twice_at_once_under_random_faults(rig: &Rig) {
    let seed = std::env::var("REKINDLE_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    // Enough to survive what happens here; poison has a test of its own.
    let spec = |name| rig.engine(name).slots(3).kind("tough", "max_lost = 200");
    let mut units = ["a", "b", "c"].map(|name| Unit { spec: spec(name), engine: spec(name).launch(), frozen: None });
    let mut tasks = Vec::new();
    let (began, mut next_fault) = (uptime(), uptime() + 1.0);
    wait_or(
        Duration::from_secs(60),
        || {
            let now = uptime();
            units.iter_mut().for_each(|unit| unit.tend(now));
            if tasks.len() < 60 && dice.u8(0..16) == 0 {
                tasks.push(add(rig, &mut dice));
            }
            if now >= next_fault {
                units[dice.usize(0..3)].fault(&mut dice, now);
                next_fault = now + f64::from(dice.u16(200..900)) / 1_000.0;
            }
            now - began > SPAN_S
        },
        || format!("seed {seed}"),
    );
    let is_done = |task: &TaskId| rig.state(*task) == TaskState::Done;
    let open = || tasks.iter().filter(|task| !is_done(task)).map(|task| rig.task(*task)).collect::<Vec<_>>();
    wait_or(
        Duration::from_secs(60),
        || {
            units.iter_mut().for_each(|unit| unit.tend(f64::INFINITY));
            open().is_empty()
        },
        || format!("seed {seed}: {:#?}", open()),
    );
    let mut repeated = 0;
    for task in &tasks {
        let token = rig.task(*task).token.as_i64();
        let ends: Vec<_> = rig.said(*task, "END").into_iter().map(|line| line.token).collect();
        assert!(ends.contains(&token), "seed {seed}: {task} is done without an end under its token: {ends:?}");
        assert_eq!(rig.results(*task).last(), Some(&AttemptResult::Done), "seed {seed}");
        repeated += usize::from(rig.task(*task).attempt > 1);
    }
    println!("{} tasks, {repeated} of them in more than one attempt", tasks.len());
    // Somebody has to be there to close the rows of the dead.
    let unclosed = || rig.store().sweep(SweepKind::Full).unwrap().ended.len();
    wait_or(SOON, || unclosed() == 0, || format!("seed {seed}: {} rows are not closed", unclosed()));
    for unit in units {
        unit.engine.signal(Signal::SIGTERM);
        unit.engine.wait(SOON);
    }
    compare_hours(rig, &tasks, seed);
}

/// The hourly numbers against the rows of the attempts: what a killed engine had not told is there too, and nothing
/// is there twice.
fn compare_hours(rig: &Rig, tasks: &[TaskId], seed: u64) {
    let now = rig.store().meta().unwrap().now;
    let hour = now.before(Duration::from_micros(now.as_us().rem_euclid(3_600_000_000).unsigned_abs()));
    let mut counted = Counts::default();
    for row in rig.store().hours(&[hour, hour.before(Duration::from_secs(3_600))]).unwrap() {
        counted.add(&row.counts);
    }
    let results: Vec<AttemptResult> = tasks.iter().flat_map(|task| rig.results(*task)).collect();
    let happened = |result| results.iter().filter(|one| **one == result).count() as u64;
    let attempts: Vec<_> = AttemptResult::ALL.iter().filter(|result| **result != AttemptResult::Fenced).collect();
    for result in &attempts {
        assert!(counted.of(**result) <= happened(**result), "seed {seed}: {result} {counted:?}, {results:?}");
    }
    let sum: u64 = attempts.iter().map(|result| counted.of(**result)).sum();
    println!("{sum} of {} ends are in the hourly numbers", results.len());
    assert!(sum as f64 >= 0.97 * results.len() as f64, "seed {seed}: {counted:?} of {results:?}");
    assert_eq!(counted.claimed, sum, "seed {seed}");
}
