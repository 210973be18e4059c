//! Who changed what.

use super::{Desk, live};

#[test]
fn everything_that_people_change_is_told_in_order() {
    let desk = Desk::new();
    let store = desk.store();
    live(&*store, "app1");
    live(&*store, "app2").dies(&*store);
    desk.feed("task add mail --many -", "{\"payload\":1}\n".repeat(3).as_bytes()).code(0);
    desk.args(&["engine", "pause", "app1", "--for", "1h", "--reason", "disk full"]).code(0);
    desk.run("engine resume app1").code(0);
    desk.run("engine drain app1 --deadline 30m").code(0);
    desk.run("task cancel 1 3").code(0);
    desk.run("task retry 3").code(0);
    desk.run("engine clean app2 --older-than 0s --yes").code(0);
    let line = |item: &serde_json::Value| {
        let word = |key: &str| item[key].as_str().unwrap_or("-").to_owned();
        format!(
            "{} {} x{} {}->{} {}",
            word("verb"),
            word("object"),
            item["count"],
            word("old"),
            word("new"),
            word("reason")
        )
    };
    let json = desk.run("history -o json").json();
    let lines: Vec<String> = json["items"].as_array().unwrap().iter().map(line).collect();
    assert_eq!(
        lines[..7],
        [
            "engine clean app2 x1 app2->forgotten -",
            "task retry #3 x1 canceled->ready -",
            "task cancel #1..#3 x2 ready->canceled -",
            "engine drain app1 x1 run->drain, deadline 1800s -",
            "engine resume app1 x1 pause->run -",
            "engine pause app1 x1 run->pause disk full",
            "task add #1..#3 x3 -->- -",
        ]
    );
    assert!(lines[7].starts_with("db migrate schema x1 none->"), "{lines:?}");
    let pause = &json["items"][5];
    assert!(pause["until"].is_string() && pause["by"].as_str().unwrap().contains('@'), "{pause}");
    assert_eq!(pause["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn it_is_asked_by_object_person_and_time() {
    let desk = Desk::new();
    live(&*desk.store(), "app1");
    desk.feed("task add mail --many -", "{\"payload\":1}\n".repeat(3).as_bytes()).code(0);
    desk.run("engine pause app1").code(0);
    desk.run("task cancel 1 3").code(0);
    let names = |line: &str| desk.run(line).code(0).out.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names("history --object app1 -o name"), ["app1"]);
    assert_eq!(names("history --object 3 -o name"), ["#1..#3", "#1..#3"]);
    assert_eq!(names("history --object #2 -o name"), ["#1..#3"], "only the one that added it");
    assert_eq!(names("history --by nobody -o name"), Vec::<String>::new());
    assert_eq!(names("history --since 1h -o name").len(), 4);
    assert_eq!(names("history --limit 2 -o name").len(), 2);
    assert!(desk.run("history --limit 2").out.ends_with("showing the newest 2 changes; there are more: --limit\n"));
    let table = desk.run("history").out;
    assert!(table.starts_with("WHEN ") && table.contains("  engine pause  app1    1      run -> pause"), "{table}");
}

#[test]
fn what_did_not_happen_is_not_told() {
    let desk = Desk::new();
    desk.run("engine pause nobody").code(4);
    desk.run("task cancel 9").code(4);
    desk.run("task cancel --all --yes").code(0);
    desk.feed("task add mail --many -", b"oops\n").code(2);
    desk.run("db migrate").code(0);
    assert_eq!(desk.run("history -o name").out, "schema\n");
}

#[test]
fn the_last_hour_is_told_from_the_hourly_numbers() {
    use rekindle::protocol::takeover::Next;
    use rekindle::protocol::task::AttemptResult;
    let desk = Desk::new();
    let app = live(&*desk.store(), "app1");
    assert!(!desk.run("status").out.contains("HOURS"), "nothing was counted");
    let mut counts = rekindle::store::Counts::default();
    counts.claimed(Some(std::time::Duration::from_millis(500)));
    counts.ended(AttemptResult::Done, &Next::Done, Some(std::time::Duration::from_secs(2)));
    let kind = crate::support::builders::kind("mail");
    desk.store().add_hours(app.incarnation, &[(kind, counts)].into()).unwrap();
    let status = desk.run("status").code(0).out;
    assert!(
        status.contains("LAST 1h   0 done   0 failed   0 taken over   0 fenced\nHOURS     since ")
            && status.contains(":00: 1 attempt ended; waited 0.5s on average, 0.5s at most; ran 2.0s on average"),
        "{status}"
    );
    let json = desk.run("status -o json").json();
    assert_eq!((&json["hours"][0]["kind"], &json["hours"][0]["results"]["done"]), (&"mail".into(), &1.into()));
    assert!(json["last_hour"]["normal_failed"].is_null() && json["last_hour"]["fenced"] == 0);
}
