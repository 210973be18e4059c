//! Adding, listing, showing, retrying, canceling and waiting.

use std::time::Duration;

use rekindle::protocol::ids::TaskId;
use rekindle::protocol::takeover::Next;
use rekindle::protocol::task::{AttemptResult, Policy, Rerun};
use rekindle::store::Finish;

use super::{Desk, Running, live};
use crate::support::builders::{done, failed};

#[test]
fn a_task_is_added_listed_and_shown() {
    let desk = Desk::new();
    let added = desk.args(&[
        "task",
        "add",
        "mail",
        "--payload",
        "{\"invoice\": 7, \"to\": \"bob\"}",
        "--resource",
        "b",
        "--resource",
        "a",
        "--resource",
        "b",
    ]);
    assert_eq!(added.code(0).out, "#1 added, ready\n");
    assert_eq!(desk.run("task add mail --delay 10m --priority -3").out, "#2 added, waiting for 10m\n");
    let list = desk.run("task list").code(0).out;
    assert_eq!(
        list,
        "ID  KIND  STATE    ATTEMPT  AGE  ENGINE  RESOURCES  ERROR\n\
         #2  mail  waiting  0/5      0s\n\
         #1  mail  ready    0/5      0s           a +1\n\
         2 tasks\n"
    );
    let shown = desk.run("task show #1").code(0).out;
    assert!(shown.starts_with("Task #1    mail   priority 0\nState      ready\n"), "{shown}");
    assert!(shown.contains("Resources  a, b\n") && shown.contains("JSON: invoice=7, to=[redacted]\n"), "{shown}");
    assert!(desk.run("task show 1 --payload").out.ends_with("payload:\n{\"invoice\": 7, \"to\": \"bob\"}\n"));
}

/// A payment must not be made twice because somebody tried many again.
#[test]
fn an_interrupted_task_says_that_it_may_have_done_its_work_and_waits_for_a_decision() {
    let desk = Desk::new();
    let (store, app) = (desk.store(), live(&*desk.store(), "app1"));
    desk.run("task add mail").code(0);
    desk.run("task add mail").code(0);
    let never = Policy { rerun: Rerun::Never, ..Policy::default() };
    let claimed = app.claim().policy(never).run(&*store);
    app.ends(&*store, failed(&claimed[1]));
    app.dies(&*store);
    app.takeover(&*store);
    live(&*store, "app2");
    let shown = desk.run("task show 1").code(0).out;
    assert!(shown.contains("State     interrupted on app1 since "), "{shown}");
    let decide = "Decide    it may have done its work (rerun = never): check that first, then `rekindle task retry 1` or \
                  `rekindle task cancel 1`\n";
    assert!(shown.contains(decide), "{shown}");
    assert!(shown.ends_with("next: rekindle task retry 1\nnext: rekindle task cancel 1\n"), "{shown}");
    let words = "1 task needs a decision: it was interrupted and may have done its work";
    let status = desk.run("status").code(0).out;
    assert!(status.contains(&format!("{words}\n            -> rekindle task list -s interrupted\n")), "{status}");
    assert!(!status.contains("1 task was taken over") && status.contains("0 taken over"), "{status}");
    assert!(status.contains("1 failed   1 interrupted"), "{status}");
    let check = desk.check("").code(1).out;
    assert!(
        check.contains(words) && check.contains(" failed=1;0;;0 quarantined=0;;0;0 interrupted=1;0;;0 "),
        "{check}"
    );
    assert_eq!(desk.run("task list -s interrupted -o name").out, "1\n");
    // What takes many along leaves it out, unless it is named.
    let rehearsed = |line: &str| desk.run(&format!("task retry {line} --all --dry-run")).code(0).out;
    assert_eq!(rehearsed("-s failed"), "#2 failed -> ready   (dry run)\n");
    assert_eq!(rehearsed("-k mail"), "#2 failed -> ready   (dry run)\n");
    assert_eq!(rehearsed("-s interrupted"), "#1 interrupted -> ready   (dry run)\n");
    assert_eq!(desk.run("task retry 1").code(0).out, "#1 interrupted -> ready\n");
}

#[test]
fn payloads_come_from_files_and_standard_input_byte_by_byte() {
    let desk = Desk::new();
    std::fs::write(desk.path("p"), "{\"a\":  1.50}\n").unwrap();
    desk.args(&["task", "add", "mail", "--payload", &format!("@{}", desk.path("p").display())]).code(0);
    desk.feed("task add mail --payload -", b"\xff\x00raw").code(0);
    let store = desk.store();
    let payload = |id| store.task(TaskId::new(id)).unwrap().unwrap().1;
    assert_eq!(payload(1), b"{\"a\":  1.50}\n");
    assert_eq!(payload(2), b"\xff\x00raw");
}

#[test]
fn many_tasks_are_added_in_one_go() {
    let desk = Desk::new();
    let lines = "{\"payload\": {\"n\":  1}, \"resources\": [\"x\", \"x\"]}\n{\"payload\": \"two\"}\n";
    assert_eq!(desk.feed("task add mail --many -", lines.as_bytes()).code(0).out, "added 2 tasks: #1 to #2\n");
    assert_eq!(desk.feed("task add mail --many - -o name", lines.as_bytes()).code(0).out, "3\n4\n");
    let (row, payload) = desk.store().task(TaskId::new(1)).unwrap().unwrap();
    assert_eq!((payload, row.resources.len()), (b"{\"n\":  1}".to_vec(), 1));
}

#[test]
fn an_unknown_kind_is_added_with_a_note_and_a_guess() {
    let desk = Desk::new();
    let said = desk.run("task add mial").code(0);
    assert_eq!(said.out, "#1 added, ready\n");
    assert!(said.err.contains("left for engines that know it; did you mean mail?"), "{}", said.err);
    assert_eq!(desk.run("task add mail").err, "");
}

#[test]
fn waiting_tells_how_a_task_went() {
    let desk = Desk::new();
    desk.run("task add mail").code(0);
    desk.run("task add mail").code(0);
    let said = desk.run("task wait 1 --timeout 100ms").code(5);
    assert!(said.err.starts_with("error[E404]: 1 task of 1 not ended after"), "{}", said.err);
    let store = desk.store();
    let app = live(&*store, "app1");
    let held = app.claim().run(&*store);
    app.ends(&*store, done(&held[0]));
    let failed = Finish {
        result: AttemptResult::Failed,
        next: Next::Failed,
        detail: Some("exit 65: no".into()),
        exit_code: Some(65),
        ..done(&held[1])
    };
    app.ends(&*store, failed);
    assert!(desk.run("task wait 1").code(0).out.starts_with("#1 done in "));
    assert_eq!(desk.run("task wait 2").code(1).out, "#2 failed after 1 attempt: exit 65: no\n");
    let both = desk.run("task wait 1 2 -o json").code(1).json();
    assert_eq!((&both["items"][0]["state"], &both["items"][1]["state"]), (&"done".into(), &"failed".into()));
    desk.run("task wait 1 99 --timeout 5s").code(4);
}

#[test]
fn a_selection_of_several_needs_consent() {
    let desk = Desk::new();
    desk.feed("task add mail --many -", b"{\"payload\":1}\n{\"payload\":2}\n{\"payload\":3}\n").code(0);
    let refused = desk.run("task cancel -k mail").code(3);
    assert!(
        refused.err.contains("cancel 3 tasks (3 ready mail) needs your consent")
            && refused.err.contains("add --yes, better --yes --expect 3"),
        "{refused:?}"
    );
    assert_eq!(
        desk.run("task cancel -k mail --dry-run").code(0).out,
        "#1 ready -> canceled   (dry run)\n#2 ready -> canceled   (dry run)\n#3 ready -> canceled   (dry run)\n\
         cancel: 3 tasks   (dry run)\n"
    );
    assert_eq!(desk.run("task cancel -k mail --limit 1").code(0).out, "#3 ready -> canceled\n");
    let all = desk.run("task cancel --all --yes").code(0).out;
    assert_eq!(all, "#1 ready -> canceled\n#2 ready -> canceled\ncancel: 2 tasks\n");
    assert_eq!(desk.feed("task retry -", b"#1\n2 3\n").code(0).out.lines().last(), Some("retry: 3 tasks"));
    desk.run("task cancel").code(2);
}

#[test]
fn what_cannot_be_done_says_why() {
    let desk = Desk::new();
    desk.run("task add mail").code(0);
    let said = desk.run("task retry 1").code(3);
    assert!(said.err.starts_with("error[E503]: #1 is ready, so retry means nothing\n"), "{}", said.err);
    assert!(desk.run("task cancel 9").code(4).err.starts_with("error[E501]: task #9 not found\n"));
    let mixed = desk.run("task cancel 1 9").code(1).out;
    assert_eq!(mixed, "#1 ready -> canceled\n#9 not found\ncancel: 1 task, 1 could not be\n");
}

#[test]
fn the_output_of_an_attempt_is_printed_as_it_was() {
    let desk = Desk::new();
    desk.run("task add mail").code(0);
    let store = desk.store();
    let app = live(&*store, "app1");
    let held = app.claim().one(&*store);
    app.ends(&*store, Finish { output: b"line 1\n\x1b[31mred\n".to_vec(), output_dropped: 12, ..done(&held) });
    let said = desk.run("task log 1").code(0);
    assert_eq!(said.out, "line 1\n\x1b[31mred\n");
    assert!(said.err.contains("12B before this were not kept"), "{}", said.err);
    assert_eq!(desk.run("task log 1 -o json").json()["dropped_bytes"], 12);
    desk.run("task log 2").code(4);
    desk.run("task log 1 --attempt 7").code(4);
}

#[test]
fn a_resource_shows_its_owner_and_its_line() {
    let desk = Desk::new();
    let lines = "{\"payload\":1,\"resources\":[\"r 1\"]}\n".repeat(3);
    desk.feed("task add mail --many -", lines.as_bytes()).code(0);
    let store = desk.store();
    assert_eq!(live(&*store, "app1").claim().keyed().run(&*store).len(), 1);
    let list = desk.run("resource list").code(0).out;
    assert!(list.contains("r 1       #1    app1    3\n"), "{list}");
    let shown = desk.args(&["resource", "show", "r 1"]).code(0).out;
    assert!(shown.contains("Owned by  #1 on app1\n") && shown.contains("    2  #2    "), "{shown}");
    desk.run("resource show nobody").code(4);
}

#[test]
fn a_hundred_thousand_tasks_do_not_slow_the_screen() {
    let desk = Desk::new();
    desk.feed("task add mail --many -", "{\"payload\":1}\n".repeat(100_000).as_bytes()).code(0);
    // The promise is 200 ms; a debug build on a loaded machine gets more, and a scan would take longer still.
    let clock = rekindle::clock::SystemClock;
    let began = rekindle::clock::Clock::lease_now(&clock);
    let said = desk.run("status").code(0);
    assert!(rekindle::clock::Clock::lease_now(&clock).since(began) < Duration::from_secs(2));
    assert!(said.out.contains("100000 ready"), "{}", said.out);
    let refused = desk.feed("task add mail --many -", "{\"payload\":1}\n".repeat(100_001).as_bytes()).code(2);
    assert!(refused.err.contains("add it in parts"), "{}", refused.err);
}

#[test]
fn whoever_waits_for_a_task_that_nobody_takes_is_told_why() {
    let desk = Desk::new();
    let said = desk.run("task add mail --wait --timeout 6s").code(5);
    assert!(said.err.contains("note: #1 is ready and waits: no live engine takes kind mail\n"), "{said:?}");
    // A parent that waits for its child in the only slot.
    let dir = desk.dir.path().display();
    let rekindle = env!("CARGO_BIN_EXE_rekindle");
    desk.configure(&format!(
        "timing = \"fast\"\nslots = 1\n[kind.child]\ncommand = [\"/bin/true\"]\nrerun = \"always\"\n\
         [kind.parent]\ncommand = [\"{rekindle}\", \"-c\", \"{dir}/a.toml\", \"task\", \"add\", \"child\", \"--wait\", \
         \"--timeout\", \"7s\"]\nrerun = \"always\"\nretry = {{ max = 0 }}\n"
    ));
    let _engine = Running::start(desk.command(env!("CARGO_BIN_EXE_rekindle-engine")));
    desk.run("task add parent --wait --timeout 60s").code(1);
    let log = desk.run("task log 2").code(0).out;
    let why = "is ready and waits: all 1 slots of the engines that take kind child are busy; this is task #2, which holds one";
    assert!(log.contains(why), "{log}");
}
