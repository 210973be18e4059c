//! What operators ask of engines.

use rekindle::protocol::engine::{Mode, Proof};
use rekindle::store::{Beat, BeatOutcome};

use super::{Desk, Running, live};
use crate::support::builders::Engine;
use crate::support::wait_until;

fn beat(desk: &Desk, engine: &Engine, mode: Mode) -> rekindle::store::BeatAnswer {
    let beat = Beat { incarnation: engine.incarnation, mode, running: 0 };
    match desk.store().beat(&beat).unwrap() {
        BeatOutcome::Accepted(answer) => answer,
        BeatOutcome::Gone => panic!("gone"),
    }
}

#[test]
fn engines_are_listed_with_their_state_and_what_is_wanted() {
    let desk = Desk::new();
    let store = desk.store();
    live(&*store, "app1");
    let dead = live(&*store, "app2");
    dead.dies(&*store);
    live(&*store, "app2").dies(&*store);
    desk.args(&["engine", "pause", "app1", "--for", "1h", "--reason", "disk full"]).code(0);
    let list = desk.run("engine list").code(0).out;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[0], "ENGINE  STATE   BEAT  RUN/SLOTS  VERSION  NOTE");
    assert!(lines[1].starts_with("app1    active  0s    0/4        0.1.0    wanted pause by "), "{list}");
    assert!(lines[1].contains(": disk full, until "), "{list}");
    assert!(lines[2].starts_with("app2    fenced  "), "{list}");
    assert_eq!(lines[3], "2 engines: 1 active, 1 fenced");
    assert_eq!(desk.run("service list --all -o name").out, "app1\napp2\napp2\n");
    assert_eq!(desk.run("engine list -s fenced -o name").out, "app2\n");
}

#[test]
fn a_wish_tells_when_it_takes_effect_and_how_to_undo_it() {
    let desk = Desk::new();
    let app = live(&*desk.store(), "app1");
    let said = desk.run("engine pause app1").code(0).out;
    assert_eq!(
        said,
        "app1: pause requested; app1 sees it with its next heartbeat (at most 3.7s)\nundo: rekindle engine resume app1\n"
    );
    assert_eq!(beat(&desk, &app, Mode::Active).wanted.word(), "pause");
    let said = desk.run("engine resume --self").code(0).out;
    assert!(said.ends_with("undo: rekindle engine pause app1\n"), "{said}");
    let unknown = desk.run("engine pause app1 ap1").code(4);
    assert!(unknown.err.starts_with("error[E401]: engine ap1 not found; did you mean app1?\n"), "{}", unknown.err);
    assert_eq!(beat(&desk, &app, Mode::Active).wanted.word(), "run", "the known one was not paused either");
}

#[test]
fn a_weaker_wish_does_not_end_a_stronger_one_without_consent() {
    let desk = Desk::new();
    let store = desk.store();
    let (app1, app2) = (live(&*store, "app1"), live(&*store, "app2"));
    desk.args(&["engine", "drain", "app1", "--reason", "kernel update"]).code(0);
    // None of several is changed.
    for line in ["engine pause app2 app1", "engine pause --all"] {
        let said = desk.run(line).code(3);
        assert!(said.err.starts_with("error[E102]: pause app1 instead of the drain of "), "{said:?}");
        assert!(said.err.contains(": kernel update") && said.err.contains("add --yes"), "{said:?}");
    }
    assert_eq!(beat(&desk, &app1, Mode::Draining).wanted.word(), "drain");
    assert_eq!(beat(&desk, &app2, Mode::Active).wanted.word(), "run");
    desk.run("engine pause app2").code(0);
    desk.run("engine stop app2").code(0);
    desk.run("engine drain app2").code(3);
    assert_eq!(beat(&desk, &app2, Mode::Drained).wanted.word(), "stop");

    let said = desk.run("engine pause app1 --yes").code(0).out;
    assert!(said.contains("\nit was to drain before of ") && said.contains(": kernel update\n"), "{said}");
    assert!(said.ends_with("undo: rekindle engine drain app1\n"), "{said}");
    desk.args(&["engine", "drain", "app1", "--reason", "again"]).code(0);
    let said = desk.run("engine resume app1").code(0).out;
    assert!(said.contains("\nundid: drain of ") && said.contains(": again\n"), "{said}");
    assert_eq!(beat(&desk, &app1, Mode::Drained).wanted.word(), "run");
}

#[test]
fn a_drain_is_watched_until_nothing_runs() {
    let desk = Desk::new();
    let app = live(&*desk.store(), "app1");
    let said = desk.run("engine drain app1 --wait --timeout 200ms").code(5);
    assert!(said.err.contains("the request stays in force"), "{said:?}");
    assert!(said.out.contains("app1: active, has not seen it yet; 0 running"), "{said:?}");
    assert_eq!(beat(&desk, &app, Mode::Drained).wanted.word(), "drain");
    let said = desk.run("engine drain app1 --wait --timeout 5s").code(0).out;
    assert!(
        said.contains("app1: drained after 0s. It keeps beating and takes nothing.\nnext: work on the host"),
        "{said}"
    );
}

#[test]
fn a_stop_is_watched_until_the_engine_said_goodbye() {
    let desk = Desk::new();
    let store = desk.store();
    let app = live(&*store, "app1");
    desk.run("engine stop app1 --wait --timeout 100ms").code(5);
    assert!(store.stop(app.incarnation).unwrap());
    assert!(desk.run("engine stop app1 --wait --timeout 5s").code(0).out.contains("app1: stopped after 0s\n"));
}

#[test]
fn only_ended_lives_are_forgotten_and_not_without_consent() {
    let desk = Desk::new();
    let store = desk.store();
    live(&*store, "app1");
    let dead = live(&*store, "app2");
    desk.run("engine clean app1").code(3);
    desk.run("engine clean app9").code(4);
    dead.fence(&*store, None, Proof::Guard);
    assert_eq!(desk.run("engine clean").code(0).out, "nothing to forget: no engine ended more than 1h ago\n");
    let dry = desk.run("engine clean --older-than 0s --dry-run").code(0).out;
    assert!(dry.starts_with("would forget 1 life of engines: app2 (fenced 0s ago)   (dry run)"), "{dry}");
    assert!(desk.run("engine clean --older-than 0s").code(3).err.contains("add --yes"));
    assert!(desk.run("service clean --older-than 0s --yes").code(0).out.starts_with("forgot 1 life of engines: app2"));
    assert_eq!(desk.run("engine list -o name").out, "app1\n");
}

#[test]
fn an_engine_that_still_owns_tasks_is_not_forgotten() {
    let desk = Desk::new();
    let store = desk.store();
    desk.run("task add mail").code(0);
    let app = live(&*store, "app1");
    app.claim().one(&*store);
    app.dies(&*store);
    let said = desk.run("engine clean app1 --older-than 0s --yes").code(3);
    assert!(said.err.contains("error[E403]: app1 has ended but its tasks are not taken over yet"), "{said:?}");
}

#[test]
fn one_engine_shows_its_timing_tasks_and_former_lives() {
    let desk = Desk::new();
    let store = desk.store();
    live(&*store, "app1").dies(&*store);
    let app = live(&*store, "app1");
    desk.run("task add mail").code(0);
    app.claim().one(&*store);
    let shown = desk.run("engine show app1").code(0).out;
    for part in [
        "State        active\n",
        "Timing       h 2s, q 1.5s, L 10s, K 2s, T 12.5s, S 1s\n",
        "#1    mail  1        0s",
        "FORMER LIFE",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json = desk.run("engine show app1 -o json").json();
    assert_eq!((&json["schema"], &json["former"][0]["state"]), (&"rekindle.engine/1".into(), &"fenced".into()));
}

#[test]
fn a_deadline_that_did_its_work_is_a_success_and_names_what_was_handed_back() {
    let desk = Desk::new();
    desk.configure(
        "timing = \"fast\"\n[kind.long]\ncommand = [\"/bin/sleep\", \"600\"]\ngrace = \"1s\"\nrerun = \"always\"\n",
    );
    let engine = Running::start(desk.command(env!("CARGO_BIN_EXE_rekindle-engine")));
    desk.run("task add long").code(0);
    let is_running = || desk.run("task list -s running -o name").out == "1\n";
    wait_until(std::time::Duration::from_secs(60), is_running);
    // `drain … --wait && reboot` has to reboot.
    let said = desk.run("engine drain app1 --deadline 1s --wait").code(0);
    assert!(said.out.contains("\n1 task was handed back: #1\n") && said.err.is_empty(), "{said:?}");
    // Nothing runs any more, so nothing is handed back.
    let said = desk.run("engine stop app1 --deadline 1s --wait").code(0);
    assert!(!said.out.contains("were handed back") && !said.out.contains("was handed back"), "{said:?}");
    assert!(
        said.out.contains("until it has stopped, undo: rekindle engine drain app1; then start it again on its host")
    );
    // Only --timeout is a failure.
    drop(engine);
    desk.run("engine resume app1").code(0);
    let _engine = Running::start(desk.command(env!("CARGO_BIN_EXE_rekindle-engine")));
    wait_until(std::time::Duration::from_secs(60), is_running);
    let said = desk.run("engine drain app1 --wait --timeout 1s").code(5);
    assert!(said.err.contains("waited 1s for engines to drain"), "{said:?}");
    desk.run("engine drain app1 --deadline 0s").code(0);
}
