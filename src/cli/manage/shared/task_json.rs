//! A task in JSON.

use serde_json::{Value, json};

use crate::cli::human::{rfc3339, seconds};
use crate::protocol::task::Wish;
use crate::protocol::time::Timestamp;
use crate::store::{AttemptRow, TaskRow};

/// One item of `rekindle.task-list/1`; `rekindle.task/1` has the same fields and more.
pub fn item(row: &TaskRow, now: Timestamp) -> Value {
    let time = |at: Option<Timestamp>| at.and_then(rfc3339);
    json!({
        "task": row.id,
        "kind": row.kind,
        "state": row.state,
        "reason": row.reason,
        "priority": row.priority,
        "attempt": row.attempt,
        "failures": row.failures,
        "lost": row.lost,
        "engine": row.engine,
        "incarnation": row.owner.map(|owner| owner.to_string()),
        "token": row.token,
        "wish": (row.wish != Wish::None).then_some(row.wish),
        "not_on": row.not_on,
        "resources": row.resources,
        "created_at": rfc3339(row.created_at),
        "age_s": seconds(now.since(row.created_at)),
        "due_at": time(row.due_at),
        "started_at": time(row.started_at),
        "ended_at": time(row.ended_at),
        "result": row.result,
        "error": row.error,
        "value": row.value,
        "payload_bytes": row.payload_len,
    })
}

/// One attempt.
pub fn attempt(row: &AttemptRow, now: Timestamp) -> Value {
    let took = row.ended_at.unwrap_or(now).since(row.started_at);
    json!({
        "attempt": row.attempt,
        "engine": row.engine,
        "incarnation": row.incarnation.to_string(),
        "token": row.token,
        "started_at": rfc3339(row.started_at),
        "ended_at": row.ended_at.and_then(rfc3339),
        "took_s": seconds(took),
        "result": row.result,
        "exit_code": row.exit_code,
        "detail": row.detail,
    })
}
