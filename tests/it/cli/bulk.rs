//! Verbs for many tasks: what selects them, what must be consented to, what a rehearsal says.

use rekindle::clock::{Clock, SystemClock};
use rekindle::store::db::Db;
use rekindle::store::sql::Sql;
use rekindle::store::sqlite::SqliteDb;
use rekindle::store::{Finish, Settings};

use super::{Desk, live};
use crate::support::builders::failed;

/// Five tasks: #1 and #2 failed with different errors on two engines, #3 to #5 are ready; #4 and #5 are
/// reports on a resource.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.feed("task add mail --many -", "{\"payload\":1}\n".repeat(2).as_bytes()).code(0);
    let store = desk.store();
    for (name, error) in [("app1", "exit 75: smtp: Connection refused"), ("app2", "exit 65: no address")] {
        let app = live(&*store, name);
        let held = app.claim().limit(1).one(&*store);
        app.ends(&*store, Finish { detail: Some(error.to_owned()), ..failed(&held) });
    }
    desk.run("task add mail").code(0);
    desk.feed("task add report --many -", "{\"payload\":1,\"resources\":[\"r\"]}\n".repeat(2).as_bytes()).code(0);
    desk
}

fn dump(desk: &Desk) -> Vec<String> {
    let settings = Settings::new(rekindle::config::DatabaseUrl::sqlite(desk.path("a.db")));
    let mut db = SqliteDb::open(&settings).unwrap();
    let mut rows = |text: &str| db.query("test", &Sql { text: text.into(), binds: Vec::new() }).unwrap();
    let tables: Vec<String> = rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .into_iter()
        .map(|mut row| row.text())
        .collect();
    let mut lines = Vec::new();
    for table in tables {
        lines.extend(rows(&format!("SELECT * FROM {table}")).into_iter().map(|row| format!("{table}: {row:?}")));
    }
    lines
}

#[test]
fn every_selector_narrows_down_in_every_verb() {
    let desk = desk();
    for (selector, ids) in [
        ("-s failed", "2 1"),
        ("-k report", "5 4"),
        ("-e app2", "2"),
        ("--host host-of-app1", "1"),
        ("--resource r", "5 4"),
        ("--error-like CONNECTION", "1"),
        ("--error-like %", ""),
        ("--older-than 1h", ""),
        ("--newer-than 1h -k mail", "3 2 1"),
        ("-s failed -k mail -e app1", "1"),
        ("-s ready --limit 2", "5 4"),
    ] {
        let listed = desk.run(&format!("task list {selector} -o name")).code(0).out;
        assert_eq!(listed.split_whitespace().collect::<Vec<_>>().join(" "), ids, "list {selector}");
        let rehearsed = desk.run(&format!("task cancel {selector} --dry-run -o json")).code(0).json();
        let mut got: Vec<String> =
            rehearsed["items"].as_array().unwrap().iter().map(|item| item["task"].to_string()).collect();
        got.reverse();
        // A cancel without -s leaves alone what has ended.
        let open: Vec<&str> = ids.split_whitespace().filter(|id| *id > "2").collect();
        let wanted = if selector.contains("-s ") { ids.to_owned() } else { open.join(" ") };
        assert_eq!(got.join(" "), wanted, "cancel {selector}");
    }
    assert_eq!(desk.run("task retry --error-like refused").code(0).out, "#1 failed -> ready\n");
    assert_eq!(desk.feed("task list - -o name", b"#2\n4 99\n").code(0).out, "4\n2\n");
}

#[test]
fn a_rehearsal_prints_the_lines_of_the_real_run_and_changes_nothing() {
    for line in [
        "task retry -s failed --yes",
        "task cancel 1 3 --yes",
        "task cancel --all --yes",
        "engine pause app1 app2 --for 1h",
        "engine drain --all",
        "engine stop app1 --deadline 5m",
        "engine resume app1",
        "engine clean --older-than 0s --yes",
    ] {
        let desk = desk();
        let before = dump(&desk);
        let rehearsed = desk.run(&format!("{line} --dry-run")).code(0).out;
        assert_eq!(desk.run(&format!("{line} --dry-run -o json")).json()["dry_run"], true, "{line}");
        assert_eq!(dump(&desk), before, "a byte-identical dump: {line}");
        assert_eq!(rehearsed, desk.run(line).code(0).out.replace('\n', "   (dry run)\n"), "{line}");
    }
    let desk = desk();
    let before = dump(&desk);
    for line in ["task add mail", "db migrate"] {
        desk.run(&format!("{line} --dry-run")).code(0);
        assert_eq!(desk.run(&format!("{line} --dry-run -o json")).json()["dry_run"], true, "{line}");
    }
    assert!(desk.run("config init --dry-run").code(0).out.contains(" written.   (dry run)\n"));
    desk.run("task retry 99 --dry-run").code(4);
    assert_eq!(dump(&desk), before);
}

#[test]
fn consent_counts_and_refuses_another_number() {
    let desk = desk();
    let refused = desk.run("task cancel --all").code(3);
    assert!(refused.err.contains("cancel 3 tasks (2 ready report, 1 ready mail) needs your consent"), "{refused:?}");
    assert!(refused.err.contains("add --yes, better --yes --expect 3"), "{refused:?}");
    let changed = desk.run("task cancel --all --yes --expect 4").code(3);
    assert!(changed.err.starts_with("error[E504]: --expect 4, but it is about 3 tasks now\n"), "{changed:?}");
    assert_eq!(desk.run("task list -s ready -o name").out.lines().count(), 3, "nothing was changed");
    desk.run("task cancel --all --yes --expect 3").code(0);
    desk.run("engine clean --older-than 0s --yes --expect 7").code(3);
    let severe = desk.run("engine stop --all --yes").code(3);
    assert!(severe.err.contains("add --confirm desk"), "--yes is not enough: {severe:?}");
    assert!(desk.run("engine stop --all --confirm other").code(3).err.contains("wants --confirm desk"));
    assert_eq!(desk.run("engine stop --all --confirm desk -o name").code(0).out, "app1\napp2\n");
}

#[test]
fn a_rate_is_kept_and_the_end_of_the_time_leaves_the_rest() {
    let desk = Desk::new();
    desk.feed("task add mail --many -", "{\"payload\":1}\n".repeat(12).as_bytes()).code(0);
    let began = SystemClock.lease_now();
    desk.run("task cancel --all --yes --limit 8 --rate 10/s").code(0);
    let took = SystemClock.lease_now().since(began);
    assert!(took >= std::time::Duration::from_millis(400), "eight in batches of five at ten a second: {took:?}");
    let cut = desk.run("task cancel --all --yes --rate 1/h --timeout 5s").code(5);
    assert!(cut.err.contains("1 of 4 tasks done when the time was over"), "{cut:?}");
    assert_eq!(desk.run("task list -o name").out.lines().count(), 3);
    assert_eq!(desk.run("history --limit 1 -o json").json()["items"][0]["count"], 1);
}

#[test]
fn two_thousand_tasks_are_canceled_and_brought_back_in_batches() {
    let desk = Desk::new();
    desk.feed("task add mail --many -", "{\"payload\":1}\n".repeat(2_000).as_bytes()).code(0);
    let began = SystemClock.lease_now();
    assert_eq!(desk.run("task cancel --all --yes").code(0).out, "cancel: 2000 tasks\n");
    assert_eq!(desk.run("task retry -s canceled --yes").code(0).out, "retry: 2000 tasks\n");
    // One transaction a task took seconds; a debug build on a loaded machine gets a wide limit.
    assert!(SystemClock.lease_now().since(began) < std::time::Duration::from_secs(4));
    assert_eq!(desk.run("status -o json").json()["tasks"]["ready"], 2_000);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_hint() {
    let desk = Desk::new();
    for (line, part) in [
        ("task cancel --all --rate 20", "did you mean 20/s?"),
        ("task cancel --all --rate 0/s", "never end"),
        ("task list --older-than 5", "did you mean 5s?"),
        ("task list --error-like=", "would select everything"),
        ("task retry 1 --host h", "cannot be used with"),
        ("task retry", "which tasks?"),
        ("task wait", "which tasks?"),
        ("history --since 2", "did you mean 2s?"),
        ("task cancel --all --expect x", "invalid value"),
    ] {
        let said = desk.run(line).code(2);
        assert!(said.err.starts_with("error[E101]: ") && said.err.contains(part), "{line}: {}", said.err);
    }
}

#[test]
fn a_selection_is_waited_for() {
    let desk = Desk::new();
    desk.run("task add mail").code(0);
    desk.run("task add report").code(0);
    let store = desk.store();
    let app = live(&*store, "app1");
    let held = app.claim().one(&*store);
    desk.run("task wait -k mail --timeout 100ms").code(5);
    app.ends(&*store, crate::support::builders::done(&held));
    desk.run("task wait -k mail -s done").code(0);
    assert_eq!(desk.run("task wait -k mail --timeout 5s -o json").code(0).json()["items"], serde_json::json!([]));
}
