//! An engine in JSON, and its note for people.

use serde_json::{Value, json};

use crate::cli::human::{age, clock_time, rfc3339, seconds};
use crate::health::snapshot::EngineState;
use crate::health::view::state;
use crate::protocol::engine::Wanted;
use crate::protocol::time::Timestamp;
use crate::store::EngineRow;

/// One item of `rekindle.engine-list/1`; `rekindle.engine/1` has the same fields.
pub fn item(row: &EngineRow, now: Timestamp) -> Value {
    let time = |at: Option<Timestamp>| at.and_then(rfc3339);
    let is_fenced = row.state == crate::protocol::engine::EngineState::Fenced;
    let spans = row.timing.spans();
    json!({
        "engine": row.name,
        "incarnation": row.incarnation.to_string(),
        "state": state(row, now),
        "wanted": row.wanted.wanted,
        "alive": row.state == crate::protocol::engine::EngineState::Live,
        "beat": row.beat,
        "last_beat": rfc3339(row.last_beat_at),
        "beat_age_s": seconds(now.since(row.last_beat_at)),
        "registered_at": rfc3339(row.registered_at),
        "ended_at": time(row.ended_at),
        "fenced_at": time(row.ended_at.filter(|_| is_fenced)),
        "ended_by": row.ended_by,
        "proof": row.proof,
        "slots": row.slots,
        "running": row.running,
        "refused": row.refused,
        "taken_over": {"tasks": row.taken_over, "by": Value::Null},
        "kinds": row.kinds,
        "version": row.version,
        "proto": [row.protocol.0, row.protocol.1],
        "release": row.release,
        "host": row.host,
        "pid": row.pid,
        "boot_id": row.boot_id,
        "state_id": row.state_id,
        "means": row.means,
        "timing": {
            "heartbeat_s": f64::from(spans.heartbeat_ms) / 1e3,
            "query_timeout_s": f64::from(spans.query_ms) / 1e3,
            "lease_s": f64::from(spans.lease_ms) / 1e3,
            "kill_budget_s": f64::from(spans.kill_ms) / 1e3,
            "takeover_s": f64::from(spans.takeover_ms) / 1e3,
            "sweep_s": f64::from(spans.sweep_ms) / 1e3,
        },
        "note": row.wanted.reason,
        "set_by": row.wanted.by,
        "set_at": time(row.wanted.at),
        "set_until": time(row.wanted.until),
        "deadline": time(row.wanted.deadline),
    })
}

/// `fenced 13:58:14 by app1 (expiry); 3 tasks taken over`, `alice 13:56: kernel update, until 16:04:00`.
pub fn note(row: &EngineRow, now: Timestamp, in_utc: bool) -> String {
    let mut parts = Vec::new();
    if state(row, now) == EngineState::Fenced {
        let at = row.ended_at.map_or_else(String::new, |at| format!(" {}", clock_or_age(at, now, in_utc)));
        let by = row.ended_by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
        let proof = row.proof.map_or_else(String::new, |proof| format!(" ({proof})"));
        parts.push(format!("fenced{at}{by}{proof}"));
    }
    if row.taken_over > 0 {
        parts.push(format!("{} taken over", crate::health::words::plural(row.taken_over, "task")));
    }
    if let Some(by) = row.wanted.by.as_ref().filter(|_| row.wanted.wanted != Wanted::Run) {
        let at = row.wanted.at.map_or_else(String::new, |at| format!(" {}", clock_or_age(at, now, in_utc)));
        let why = row.wanted.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let until = row.wanted.until.map_or_else(String::new, |at| format!(", until {}", clock_time(at, in_utc)));
        parts.push(format!("wanted {} by {by}{at}{why}{until}", row.wanted.wanted));
    }
    parts.join("; ")
}

/// A clock time for what was today, an age for what was longer ago.
pub fn clock_or_age(at: Timestamp, now: Timestamp, in_utc: bool) -> String {
    let span = now.since(at);
    if span.as_secs() < 12 * 3_600 { clock_time(at, in_utc) } else { format!("{} ago", age(span)) }
}
