//! An operator says that commits may be lost: `rekindle db epoch raise` over engines that work.

use std::process::Command;
use std::time::Duration;

use rekindle::protocol::ids::Token;
use rekindle::protocol::task::{AttemptResult, TaskState};
use serde_json::Value;

use super::rig::{Rig, SOON, wait_or};

/// `rekindle` on the rig's database, as a program reads it.
fn rekindle(rig: &Rig, args: &[&str], code: i32) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rekindle"));
    command.args(args).args(["-o", "json"]).env_clear();
    command.env("REKINDLE_DATABASE_URL", rig.settings.url.expose()).env("REKINDLE_CLUSTER", "it");
    command.env("REKINDLE_ENGINE__STATE_DIR", rig.path("state-a"));
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(code), "{out:?}");
    serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
}

pub fn an_operators_raise_of_the_epoch_holds_claims_until_it_is_settled(rig: &Rig) {
    let a = rig.engine("a").start();
    let b = rig.engine("b").start();
    let running = rig.add("wait_go; ticks 1");
    rig.wait_starts(running, 1, SOON);
    let before = rig.store().meta().unwrap();
    // A dry run and one without consent change nothing.
    rekindle(rig, &["db", "epoch", "raise", "--dry-run"], 0);
    rekindle(rig, &["db", "epoch", "raise"], 3);
    assert_eq!(rig.store().meta().unwrap().epoch, before.epoch);

    let raised = rekindle(rig, &["db", "epoch", "raise", "--yes", "--at-least", "7", "--reason", "restored"], 0);
    assert_eq!((&raised["from"], &raised["to"], &raised["raised"]), (&1.into(), &7.into(), &true.into()));
    assert_eq!((&raised["live_engines"], &raised["claims_wait_s"]), (&2.into(), &3.2.into()));
    let next = rig.add("ticks 1");
    let status = || rekindle(rig, &["db", "status"], 0);
    let held = status();
    assert_eq!((&held["epoch"], &held["claims_wait"]), (&7.into(), &true.into()), "{held}");
    assert!(held["raised_reason"].as_str().unwrap().ends_with(": restored"), "{held}");
    assert_eq!(rig.state(next), TaskState::Ready);
    wait_or(Duration::from_secs(20), || status()["claims_wait"] == Value::Bool(false), || a.log() + &b.log());

    // Claims go on with tokens that outrank all of before; who ran meanwhile kept what was his.
    rig.wait_state(next, TaskState::Done, SOON);
    assert!(rig.task(next).token > Token::floor(rig.store().meta().unwrap().epoch), "{:?}", rig.task(next));
    rig.go();
    rig.wait_state(running, TaskState::Done, SOON);
    assert_eq!(rig.results(running), [AttemptResult::Done]);
    assert_eq!((rig.lives("a").len(), rig.lives("b").len()), (1, 1), "nobody was fenced for it");
    // Both remember it: the next raise goes above what this host's engine knows.
    a.stop();
    b.stop();
    std::fs::write(rig.path("state-a/epoch"), "41\n").unwrap();
    assert_eq!(rekindle(rig, &["db", "epoch", "raise", "--yes"], 0)["to"], 42);
}
