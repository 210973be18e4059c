//! The exact lines of `rekindle-check`.

use super::{Desk, live};

/// The text without what changes from run to run: the values.
fn text(said: &str) -> &str {
    said.split(" | ").next().unwrap_or_default()
}

#[test]
fn a_cluster_without_work_is_fine() {
    let desk = Desk::new();
    live(&*desk.store(), "app1");
    let said = desk.check("").code(0);
    assert_eq!(text(&said.out), "REKINDLE OK - 1 engine alive, 0 ready, 0 failures/h");
    assert!(said.out.contains(" | engines_alive=1;;;0 engines_dead=0;0;;0 "), "{}", said.out);
    assert_eq!(desk.check("--quiet-ok").code(0).out, "");
    let db = desk.check("-m db").code(0).out;
    assert!(db.starts_with("REKINDLE DB OK - SQLite 3.") && db.contains(" answers in "), "{db}");
    let engine = desk.check("-m engine -e app1").code(0).out;
    assert!(engine.starts_with("REKINDLE ENGINE OK - app1 active, beat "), "{engine}");
    assert!(engine.contains(", 0 of 4 slots busy | beat_age="), "{engine}");
}

#[test]
fn work_that_nobody_does_is_critical_everywhere() {
    let desk = Desk::new();
    desk.run("task add mail").code(0);
    let said = desk.check("").code(2);
    assert_eq!(text(&said.out), "REKINDLE CRITICAL - no engine is active for 1 ready task");
    assert!(said.out.ends_with("\nnext: rekindle engine list\n"), "{}", said.out);
    let status = desk.run("status").code(0).out;
    assert!(
        status.ends_with(
            "PROBLEMS\n  CRITICAL  no engine is active for 1 ready task\n            -> rekindle engine list\n"
        ),
        "{status}"
    );
    desk.run("status --exit-code").code(2);
    desk.run("status --exit-code -q").code(2);
    assert_eq!(desk.run("status -o json").json()["status"], "critical");
}

#[test]
fn a_cluster_without_engines_is_not_fine() {
    let desk = Desk::new();
    let said = desk.check("").code(1).out;
    assert_eq!(text(&said), "REKINDLE WARNING - no engine is alive: a task that is added now would not run");
    assert!(said.ends_with("\nnext: rekindle engine list\n"), "{said}");
    let said = desk.check("-m engines").code(2).out;
    assert_eq!(text(&said), "REKINDLE ENGINES CRITICAL - 0 of 0 engines alive (limit 1:)");
    let app = live(&*desk.store(), "app1");
    desk.check("").code(0);
    assert!(desk.store().stop(app.incarnation).unwrap());
    desk.check("").code(1);
    desk.check("-m engines").code(2);
}

#[test]
fn a_fenced_engine_is_a_warning() {
    let desk = Desk::new();
    let store = desk.store();
    live(&*store, "app1");
    live(&*store, "app2").dies(&*store);
    let said = desk.check("-m engines -w 1: -c 1:").code(1).out;
    assert!(said.starts_with("REKINDLE ENGINES WARNING - 1 of 2 engines alive; app2 fenced since "), "{said}");
    assert!(said.contains(" by a test (guard) | engines_alive=1;1:;1:;0 engines_dead=1;0;;0 "), "{said}");
    desk.run("status --exit-code").code(1);
    assert!(desk.check("-m engine -e app2").code(2).out.starts_with("REKINDLE ENGINE CRITICAL - app2 fenced since "));
    assert_eq!(
        text(&desk.check("-m engine -e nobody").code(2).out),
        "REKINDLE ENGINE CRITICAL - no engine is called nobody\nnext: rekindle engine list\n"
    );
}

#[test]
fn limits_come_from_flags_then_the_configuration() {
    let desk = Desk::new();
    desk.run("task add mail").code(0);
    live(&*desk.store(), "app1");
    let ok = desk.check("-m latency -k mail").code(0).out;
    assert_eq!(text(&ok).split(" waits ").next(), Some("REKINDLE LATENCY OK - oldest ready mail"));
    desk.configure("[check.latency]\nwarning = \"1ms\"\ncritical = \"1h\"\n");
    let warning = desk.check("-m latency").code(1).out;
    assert!(warning.contains("(limit 1ms)") && warning.contains("next: rekindle task "), "{warning}");
    desk.check("-m latency -w 1h").code(0);
    assert_eq!(
        desk.check("-m latency -k mial").code(3).out,
        "REKINDLE LATENCY UNKNOWN - no engine, task or configuration knows a kind mial; did you mean mail?\n\
         next: rekindle engine list --columns ENGINE,KINDS\n"
    );
    desk.check("-m failed -w 1 -k nothing").code(3);
    desk.configure("[check.latency]\nwarning = \"soon\"\n");
    assert!(
        desk.check("-m latency")
            .code(3)
            .out
            .starts_with("REKINDLE LATENCY UNKNOWN - configuration: check.latency.warning: ")
    );
}

#[test]
fn wrong_usage_is_unknown_and_not_critical() {
    let desk = Desk::bare();
    for line in ["--bogus", "-m nonsense", "-h", "-V", "-m engine"] {
        desk.check(line).code(3);
    }
}

#[test]
fn a_wrong_limit_is_answered_with_the_flag_and_not_with_the_configuration() {
    let desk = Desk::new();
    assert_eq!(
        desk.check("-m failed").code(3).out,
        "REKINDLE FAILED UNKNOWN - mode failed needs a limit; give -w and -c, or --normal N\n\
         next: rekindle-check -m failed --normal N, or -w N -c N\n"
    );
    assert_eq!(
        desk.check("-m engines -w 5m:").code(3).out,
        "REKINDLE ENGINES UNKNOWN - mode engines counts, so '5m:' does not fit; leave the unit out\n\
         next: rekindle-check --help\n"
    );
    // Seconds need no unit where time is measured.
    live(&*desk.store(), "app1");
    let said = desk.check("-m latency -w 300 -c 1800").code(0).out;
    assert_eq!(said, "REKINDLE LATENCY OK - no task is ready | oldest_ready=0s;300;1800;0 ready=0;;;0\n");
    let said = desk.check("-m latency -v").code(0).out;
    let details = "[OK] limits: warning 5m, critical 30m\n[OK] 1 of 1 engines take tasks, ";
    assert!(said.contains(details), "{said}");
}
