//! The JSON contract: a named schema, UTC times, `null` for what is unknown, nothing but JSON on standard
//! output.

use serde_json::Value;

use super::{Desk, live};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn busy() -> Desk {
    let desk = Desk::new();
    desk.run("task add mail --resource r").code(0);
    live(&*desk.store(), "app1");
    desk
}

#[test]
fn every_document_names_its_schema_and_time() {
    let desk = busy();
    for (line, schema) in [
        ("status", "rekindle.status/1"),
        ("engine list", "rekindle.engine-list/1"),
        ("engine show app1", "rekindle.engine/1"),
        ("engine pause app1", "rekindle.engine-wish/1"),
        ("engine clean", "rekindle.engine-clean/1"),
        ("task add mail", "rekindle.task-add/1"),
        ("task list", "rekindle.task-list/1"),
        ("task show 1", "rekindle.task/1"),
        ("task log 1", "rekindle.task-log/1"),
        ("task cancel 2", "rekindle.task-cancel/1"),
        ("task retry 2", "rekindle.task-retry/1"),
        ("resource list", "rekindle.resource-list/1"),
        ("resource show r", "rekindle.resource/1"),
        ("history", "rekindle.history/1"),
        ("db status", "rekindle.db-status/1"),
        ("db migrate", "rekindle.db-migrate/1"),
        ("doctor", "rekindle.doctor/1"),
        ("version", "rekindle.version/1"),
        ("config check", "rekindle.config-check/1"),
        ("config show", "rekindle.config-show/1"),
    ] {
        let said = desk.run(&format!("{line} -o json -vv"));
        let json = said.json();
        assert_eq!(json["schema"], schema, "{line}");
        let now = json["now"].as_str().unwrap();
        assert!(now.ends_with('Z') && now.contains('T'), "{line}: {now}");
        let lines = desk.run(&format!("{line} -o jsonl"));
        assert!(lines.out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{line}: {lines:?}");
    }
}

#[test]
fn fields_are_never_missing() {
    let desk = busy();
    let engine = desk.run("engine list -o json").json()["items"][0].clone();
    for key in [
        "engine",
        "incarnation",
        "state",
        "wanted",
        "alive",
        "last_beat",
        "beat_age_s",
        "fenced_at",
        "proof",
        "slots",
        "running",
        "taken_over",
        "version",
        "proto",
        "release",
        "host",
        "note",
        "set_by",
        "set_at",
        "set_until",
    ] {
        assert!(keys(&engine).contains(&key), "{key}");
    }
    assert!(engine["fenced_at"].is_null() && engine["note"].is_null() && engine["beat_age_s"].is_number());
    let task = desk.run("task show 1 -o json").json()["task"].clone();
    for key in [
        "task",
        "kind",
        "state",
        "reason",
        "priority",
        "attempt",
        "failures",
        "lost",
        "engine",
        "token",
        "wish",
        "not_on",
        "resources",
        "created_at",
        "age_s",
        "due_at",
        "started_at",
        "ended_at",
        "result",
        "error",
        "value",
        "payload_bytes",
    ] {
        assert!(keys(&task).contains(&key), "{key}");
    }
    assert!(task["engine"].is_null() && task["ended_at"].is_null());
    let status = desk.run("status -o json").json();
    assert_eq!(
        keys(&status),
        ["cluster", "database", "engines", "hours", "last_hour", "now", "problems", "schema", "status", "tasks"]
    );
    assert_eq!(status["tasks"]["ready"], 1);
}
