//! How running commands are stopped: at their timeout, on request, and with a lost lease.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::guard::tree;
use crate::handlers::testing::{attempt, bench, shell, wait_until};
use crate::handlers::{AttemptControl, CommandSpec, Commands, Ended, Lease, StopKind};
use crate::protocol::task::{AttemptResult, OnLeaseLoss};
use crate::protocol::time::LeaseInstant;

const SOON: Duration = Duration::from_millis(200);
/// Far more than any of these tests needs, so that only a missing wake-up reaches it.
const LATE: Duration = Duration::from_secs(20);
const DEAF: &str = "trap '' TERM; : > \"$READY\"; while :; do sleep 0.05; done";

fn now() -> LeaseInstant {
    SystemClock.lease_now()
}

/// Runs a script, does something once it has made the file `$READY`, and returns its end.
fn run_and(spec: &CommandSpec, act: impl FnOnce(&crate::handlers::testing::Bench, &AttemptControl)) -> Ended {
    let bench = bench();
    let ready = bench.dir.path().join("ready");
    let mut spec = spec.clone();
    spec.env.insert("READY".to_owned(), ready.to_str().unwrap().to_owned());
    let control = AttemptControl::new().unwrap();
    let attempt = attempt("");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| bench.runner.run(&spec, &attempt, &control));
        wait_until("the command to be ready", || ready.exists().then_some(()));
        act(&bench, &control);
        let ended = running.join().unwrap();
        assert_eq!(control.main_pid(), None);
        ended
    })
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_after_its_grace() {
    let bench = bench();
    let began = now();
    let spec = CommandSpec {
        timeout: Some(SOON),
        grace: SOON,
        ..shell("trap '' TERM; echo 'still busy' >&2; while :; do sleep 0.05; done")
    };
    let ended = bench.run(&spec, "");
    assert_eq!((ended.result, ended.signal, ended.exit_code), (AttemptResult::Timeout, Some(9), None));
    assert_eq!(ended.detail.as_deref(), Some("timeout after 200ms: still busy"));
    let took = now().since(began);
    assert!(took >= SOON * 2 && took < LATE, "{took:?}");
}

#[test]
fn exit_0_upon_sigterm_is_no_proof_of_finished_work() {
    let spec = CommandSpec { timeout: Some(SOON), ..shell("trap 'exit 0' TERM; while :; do sleep 0.05; done") };
    let ended = bench().run(&spec, "");
    assert_eq!((ended.result, ended.exit_code), (AttemptResult::Timeout, Some(0)));
}

#[test]
fn a_stop_wakes_the_supervisor_at_once() {
    for (kind, result) in [
        (StopKind::Cancel, AttemptResult::Canceled),
        (StopKind::HandBack, AttemptResult::HandedBack),
        (StopKind::LeaseLost, AttemptResult::HandedBack),
        (StopKind::Requeue, AttemptResult::HandedBack),
        (StopKind::Hold, AttemptResult::HandedBack),
    ] {
        let began = now();
        let ended = run_and(&shell(": > \"$READY\"; exec sleep 60"), |_, control| {
            wait_until("the pid", || control.main_pid());
            control.stop(kind, now(), now().after(LATE));
        });
        assert_eq!((ended.result, ended.signal), (result, Some(15)), "{kind:?}");
        assert_eq!(ended.detail.as_deref(), Some(kind.word()));
        assert!(now().since(began) < LATE);
    }
}

#[test]
fn kill_at_is_obeyed_and_an_earlier_one_replaces_it() {
    let began = now();
    let ended = run_and(&shell(DEAF), |_, control| {
        control.stop(StopKind::HandBack, now(), now().after(LATE * 2));
        control.stop(StopKind::LeaseLost, now(), now().after(SOON));
    });
    assert_eq!((ended.result, ended.signal), (AttemptResult::HandedBack, Some(9)));
    assert!(now().since(began) < LATE);
}

#[test]
fn a_stopped_process_still_obeys() {
    let ended = run_and(&shell(": > \"$READY\"; kill -STOP $$; exit 3"), |_, control| {
        let pid = wait_until("the pid", || control.main_pid());
        wait_until("the stop", || tree::read(pid).filter(|p| p.state == b'T'));
        control.stop(StopKind::Cancel, now(), now().after(LATE));
    });
    assert_eq!(ended.signal, Some(15));
}

/// Long enough that a busy host starts a shell in it.
const SHORT_LEASE: Duration = Duration::from_secs(1);

#[test]
fn a_lost_lease_stops_a_command_though_nobody_asks() {
    let bench = bench();
    let until = now().after(SHORT_LEASE);
    bench.runner.spawner().gate().renew(Lease { until, kill_at: until.after(SOON) });
    let ended = bench.run(&shell("trap '' TERM; while :; do sleep 0.05; done"), "");
    assert_eq!((ended.result, ended.signal), (AttemptResult::HandedBack, Some(9)));
    assert_eq!(ended.detail.as_deref(), Some("handed back: lease lost"));
    let late = now().since(until);
    assert!(late >= SOON && late < LATE, "{late:?}");
}

#[test]
fn a_renewed_lease_lets_a_command_go_on() {
    let bench = bench();
    let until = now().after(SHORT_LEASE);
    bench.runner.spawner().gate().renew(Lease { until, kill_at: until });
    let go = bench.dir.path().join("go");
    let mut spec = shell("while [ ! -e \"$GO\" ]; do sleep 0.02; done");
    spec.env.insert("GO".to_owned(), go.to_str().unwrap().to_owned());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| bench.run(&spec, ""));
        wait_until("the spawn", || (bench.runner.spawner().gate().running_count() == 1).then_some(()));
        bench.runner.spawner().gate().renew(Lease::FOREVER);
        wait_until("the end of the first lease", || (now() > until.after(SOON)).then_some(()));
        std::fs::write(&go, "").unwrap();
        assert_eq!(running.join().unwrap().result, AttemptResult::Done);
    });
}

#[test]
fn a_kind_that_continues_outlives_the_lease() {
    let spec = CommandSpec {
        on_lease_loss: OnLeaseLoss::Continue,
        ..shell(": > \"$READY\"; while [ ! -e \"$READY.go\" ]; do sleep 0.02; done")
    };
    let ended = run_and(&spec, |bench, _| {
        let until = now();
        bench.runner.spawner().gate().renew(Lease { until, kill_at: until });
        assert_eq!(bench.runner.spawner().gate().continuing().len(), 1, "the guard is told to spare it");
        let refused = bench.run(&shell("exit 0"), "");
        assert_eq!((refused.result, refused.started), (AttemptResult::HandedBack, false));
        assert_eq!(refused.detail.as_deref(), Some("not started: the lease was over"));
        std::fs::write(bench.dir.path().join("ready.go"), "").unwrap();
    });
    assert_eq!(ended.result, AttemptResult::Done);
}

#[test]
fn nothing_starts_behind_a_closed_gate_or_after_a_stop() {
    let bench = bench();
    let marker = bench.dir.path().join("marker");
    let spec = CommandSpec { command: vec!["touch".to_owned(), marker.to_str().unwrap().to_owned()], ..shell("") };
    let control = AttemptControl::new().unwrap();
    control.stop(StopKind::Cancel, now(), now());
    let stopped = bench.runner.run(&spec, &attempt(""), &control);
    assert_eq!((stopped.result, stopped.started), (AttemptResult::Canceled, false));
    bench.runner.spawner().close_gate();
    let refused = bench.run(&spec, "");
    assert_eq!((refused.result, refused.started), (AttemptResult::HandedBack, false));
    assert!(!marker.exists());
    bench.runner.spawner().open_gate(Lease::FOREVER);
    assert_eq!(bench.run(&spec, "").result, AttemptResult::Done);
    assert!(marker.exists());
    assert_eq!(bench.runner.spawner().gate().running_count(), 0);
}

#[test]
fn many_threads_share_one_spawner() {
    let bench = Arc::new(bench());
    std::thread::scope(|scope| {
        for n in 0..8 {
            let bench = &bench;
            scope.spawn(move || {
                for round in 0..4 {
                    let mut attempt = attempt("x");
                    attempt.task = crate::protocol::ids::TaskId::new(n * 100 + round);
                    let ended = bench.runner.run(&shell("cat; exit 0"), &attempt, &AttemptControl::new().unwrap());
                    assert_eq!((ended.result, &ended.output[..]), (AttemptResult::Done, &b"x"[..]));
                }
            });
        }
    });
}
