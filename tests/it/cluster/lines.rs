//! Two engines race for one resource, a thousand times.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rekindle::engine::{Engine, EngineOptions, Kind};
use rekindle::handlers::{Context, Outcome};
use rekindle::protocol::ids::{EngineName, KindName, ResourceName, TaskId};
use rekindle::protocol::task::TaskState;
use rekindle::protocol::timing::{Profile, Timing};
use rekindle::store::{NewTask, open};

use super::rig::{Rig, wait_or};

const COUNT: usize = 1_000;

/// What the handlers saw, in the order in which they ran.
#[derive(Default)]
struct Seen {
    inside: usize,
    overlaps: usize,
    runs: Vec<(TaskId, i64, String)>,
}

fn start(rig: &Rig, name: &str, seen: &Arc<Mutex<Seen>>) -> Engine {
    let seen = Arc::clone(seen);
    let handler = move |ctx: &Context| {
        let mut now = seen.lock();
        now.inside += 1;
        now.overlaps += usize::from(now.inside > 1);
        now.runs.push((ctx.task(), ctx.token().as_i64(), ctx.engine().to_string()));
        drop(now);
        std::thread::yield_now();
        seen.lock().inside -= 1;
        Outcome::Done(None)
    };
    let settings = rig.settings.clone();
    let store = open(vec![settings.clone()], vec![settings], 4).unwrap();
    // Balanced: nothing here is about dead engines, and the host is busy.
    let timing = Timing::of(Profile::Balanced);
    let options = EngineOptions { timing, ..EngineOptions::new(EngineName::new(name).unwrap()) };
    Engine::start(store, options.kind(KindName::new("race").unwrap(), Kind::handler(handler))).unwrap()
}

pub fn two_engines_never_own_a_resource_at_once_and_keep_its_order(rig: &Rig) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let task = NewTask {
        kind: KindName::new("race").unwrap(),
        payload: Vec::new(),
        resources: vec![ResourceName::new("one").unwrap()],
        priority: 0,
        delay: None,
    };
    let ids = rig.store().add(&vec![task; COUNT], "a test").unwrap();
    let engines = [start(rig, "a", &seen), start(rig, "b", &seen)];
    let done = || seen.lock().runs.len();
    wait_or(Duration::from_secs(90), || done() >= COUNT, || format!("{} of {COUNT} are done", done()));
    for engine in engines {
        engine.stop();
        engine.wait().unwrap();
    }
    let seen = seen.lock();
    assert_eq!((seen.overlaps, seen.runs.len()), (0, COUNT));
    let order: Vec<_> = seen.runs.iter().map(|run| run.0).collect();
    assert_eq!(order, ids, "not in the order of the line");
    assert!(seen.runs.windows(2).all(|pair| pair[0].1 < pair[1].1), "tokens do not grow: {:?}", seen.runs);
    let share = seen.runs.iter().filter(|run| run.2 == "a").count();
    println!("a ran {share} of {COUNT}");
    assert!(ids.iter().all(|id| rig.state(*id) == TaskState::Done));
}
