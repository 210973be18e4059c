//! A task that kills its engine, beside tasks that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::clock::{Clock, SystemClock};
use rekindle::protocol::task::{AttemptResult, TaskState};

use super::engine::EngineSpec;
use super::rig::{Rig, SOON};

/// Starts an engine again whenever it ends badly, as systemd does, until `over`.
fn unit(spec: &EngineSpec<'_>, over: &AtomicBool) {
    let mut engine = spec.launch();
    while !over.load(Ordering::Acquire) {
        if engine.ended().is_some() {
            SystemClock.pause(Duration::from_millis(100));
            engine = spec.launch();
        }
        SystemClock.pause(Duration::from_millis(20));
    }
    // It may be dying of the poison at this moment, or not have begun.
    engine.signal(Signal::SIGTERM);
    engine.wait(SOON);
}

pub fn a_poison_task_is_quarantined_after_three_engines_and_its_neighbours_never(rig: &Rig) {
    let over = Arc::new(AtomicBool::new(false));
    let specs: Vec<_> = ["a", "b", "c"].map(|name| rig.engine(name).slots(8)).into();
    let innocent: Vec<_> = (0..7).map(|_| rig.add("ticks 8")).collect();
    let poison = rig.add("ticks 2; kill -9 $PPID; ticks 100");
    std::thread::scope(|scope| {
        for spec in &specs {
            let over = Arc::clone(&over);
            scope.spawn(move || unit(spec, &over));
        }
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            rig.wait_state(poison, TaskState::Quarantined, Duration::from_secs(60));
            for task in &innocent {
                rig.wait_state(*task, TaskState::Done, Duration::from_secs(60));
            }
        }));
        over.store(true, Ordering::Release);
        end.unwrap();
    });
    assert_eq!(rig.results(poison), [AttemptResult::Lost; 3]);
    assert_eq!(rig.details(poison).matches("its engine died").count(), 3, "{}", rig.details(poison));
    let mut lives: Vec<_> = rig.attempts(poison).into_iter().map(|attempt| attempt.incarnation).collect();
    lives.dedup();
    assert_eq!((lives.len(), rig.task(poison).lost), (3, 3));
    for task in innocent {
        assert!(rig.task(task).lost <= 2, "{:?}", rig.task(task));
        assert_eq!(rig.said(task, "END").len(), 1);
    }
}
