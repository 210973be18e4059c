//! A task that kills its engine, beside tasks that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::clock::{Clock, SystemClock};
use rekindle::protocol::task::{AttemptResult, Reason, TaskState};

use super::engine::EngineSpec;
use super::rig::{Rig, SOON, wait_or};

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

/// It says `engine stop` of its own engine, which is started again each time.
pub fn a_task_that_stops_its_own_engine_waits_longer_each_time_and_is_set_aside(rig: &Rig) {
    let over = AtomicBool::new(false);
    let spec = rig.engine("a").slots(8).with("stop_deadline = \"300ms\"");
    let url = rig.path("url");
    std::fs::write(&url, rig.way().expose()).unwrap();
    std::fs::set_permissions(&url, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (program, config) = (env!("CARGO_BIN_EXE_rekindle"), rig.path("state-a.toml"));
    let stop =
        format!("{program} -c {} --database-url-file {} engine stop a; forever", config.display(), url.display());
    let poison = rig.add(&stop);
    let innocent = rig.add("ticks 4");
    std::thread::scope(|scope| {
        scope.spawn(|| unit(&spec, &over));
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // At once, at once, and then after 5 s.
            wait_or(Duration::from_secs(60), || rig.results(poison).len() == 3, || format!("{:?}", rig.task(poison)));
            rig.wait_state(poison, TaskState::Waiting, SOON);
            let row = rig.task(poison);
            assert_eq!(row.reason, Reason::HandedBack);
            let wait = row.due_at.unwrap().since(row.ended_at.unwrap());
            assert!(wait >= Duration::from_secs(4) && wait <= Duration::from_secs(6), "{wait:?}");
            let says = "3 times in a row within a minute of its start: it may be what stops its engines";
            assert!(row.error.as_ref().unwrap().contains(says), "{row:?}");
            rig.wait_state(innocent, TaskState::Done, Duration::from_secs(30));
            // The last of eleven; the wait before it is what a test cannot wait for.
            rig.sql(&format!("UPDATE task SET handed_back = 10, due_at = 0 WHERE id = {}", poison.as_i64()));
            rig.wait_state(poison, TaskState::Quarantined, Duration::from_secs(30));
        }));
        over.store(true, Ordering::Release);
        end.unwrap();
    });
    assert_eq!(rig.results(poison), [AttemptResult::HandedBack; 4]);
    assert!(rig.details(poison).contains("11 times in a row"), "{}", rig.details(poison));
    assert_eq!(rig.task(poison).lost, 0);
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
