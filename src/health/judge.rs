//! From a snapshot to the answer of one mode. Pure: the same snapshot and thresholds give the same line.

mod engines;

use std::time::Duration;

use super::check::{CheckResult, Mode, Status};
use super::limits::{Limit, Limits};
use super::perf::Perf;
use super::problems::{latency_command, latency_words, problems, stuck_command, takes_tasks};
use super::range::plain;
use super::snapshot::{ClusterSnapshot, EngineState, StuckGroup};
use super::thresholds::{ProblemLimits, Thresholds};
use super::words::{capped, clean, cut, fine_span, plural, span};
use crate::protocol::task::TaskState;

/// Answers one mode.
pub fn judge(mode: Mode, snapshot: &ClusterSnapshot, thresholds: &Thresholds) -> CheckResult {
    match mode {
        Mode::Overall => overall(snapshot, thresholds),
        Mode::Engines => engines::engines(snapshot, thresholds),
        Mode::Engine => engines::engine(snapshot, thresholds),
        Mode::Latency => latency(snapshot, thresholds),
        Mode::Failed => failed(snapshot, thresholds),
        Mode::Db => db(snapshot, thresholds),
    }
}

fn overall(snapshot: &ClusterSnapshot, thresholds: &Thresholds) -> CheckResult {
    let found = problems(snapshot, &thresholds.problems);
    let status = Status::worst(found.iter().map(|problem| problem.severity));
    let text = match found.as_slice() {
        [] => healthy_text(snapshot, thresholds.normal),
        [only] => only.text.clone(),
        // The number stands first, where no cut can reach it.
        [worst, ..] => format!("{} problems, first: {}", found.len(), worst.text),
    };
    let result = CheckResult::new(Mode::Overall, status, text).perf(overall_perf(snapshot, thresholds));
    let Some(worst) = found.first().map(|problem| problem.next.clone()) else {
        return result;
    };
    let details = found.into_iter().map(|problem| (problem.severity, problem.text));
    let is_one = details.len() == 1;
    result.details(details.filter(|_| !is_one)).next(worst)
}

fn healthy_text(snapshot: &ClusterSnapshot, normal: Option<f64>) -> String {
    let alive = snapshot.current_engines().iter().filter(|engine| engine.is_alive).count();
    let oldest = snapshot.oldest_ready_age.map_or_else(String::new, |age| format!(" (oldest {})", span(age)));
    let failures = if snapshot.failures_1h == 1 { "failure" } else { "failures" };
    let mut text = format!(
        "{} alive, {} ready{oldest}, {} {failures}/h",
        plural(alive as u64, "engine"),
        snapshot.tasks.ready,
        snapshot.failures_1h
    );
    if let Some(normal) = normal {
        text += &format!(", {} failed (normal {})", snapshot.tasks.failed, plain(normal));
    }
    text
}

fn overall_perf(snapshot: &ClusterSnapshot, thresholds: &Thresholds) -> Vec<Perf> {
    let limits = &thresholds.problems;
    let current = snapshot.current_engines();
    let in_state = |state| current.iter().filter(|engine| engine.state == state).count() as f64;
    let alive = current.iter().filter(|engine| engine.is_alive);
    let slots: f64 = alive.clone().map(|engine| f64::from(engine.slots)).sum();
    let tasks = &snapshot.tasks;
    vec![
        Perf::count("engines_alive", alive.count() as f64),
        Perf::count("engines_dead", in_state(EngineState::Fenced)).limits(&limits.engines),
        Perf::count("engines_late", in_state(EngineState::Late)).limits(&limits.engines),
        Perf::count("engines_paused", in_state(EngineState::Paused)).limits(&limits.engines),
        Perf::count("ready", tasks.ready.judged()),
        oldest_ready_perf(snapshot, &limits.oldest_ready),
        Perf::count("failed", tasks.failed.judged()).limits(&limits.failed),
        Perf::count("quarantined", tasks.quarantined.judged()).limits(&limits.quarantined),
        Perf::count("interrupted", tasks.interrupted.judged()).limits(&limits.interrupted),
        Perf::count("held", tasks.held.judged()).limits(&limits.held),
        Perf::count("done_1h", snapshot.done_1h as f64),
        Perf::count("failures_1h", snapshot.failures_1h as f64),
        Perf::count("takeovers_1h", snapshot.takeovers_1h as f64),
        Perf::count("running", tasks.running.judged()).max(slots),
        clock_skew_perf(snapshot, limits),
    ]
}

fn oldest_ready_perf(snapshot: &ClusterSnapshot, limits: &Limits) -> Perf {
    Perf::span("oldest_ready", snapshot.oldest_ready_age.unwrap_or_default()).limits(limits)
}

fn clock_skew_perf(snapshot: &ClusterSnapshot, limits: &ProblemLimits) -> Perf {
    Perf::span("clock_skew", snapshot.db.clock_skew).limits(&limits.clock_skew)
}

/// The status of a span, and ` (limit 4s)` where that is broken.
fn status_and_words(limits: &Limits, value: Duration) -> (Status, String) {
    let value = value.as_secs_f64();
    (limits.status(value), limits.broken(value).map_or_else(String::new, |limit| format!(" ({limit})")))
}

fn latency(snapshot: &ClusterSnapshot, thresholds: &Thresholds) -> CheckResult {
    let limits = &thresholds.limits;
    let status = limits.status(snapshot.oldest_ready_age.unwrap_or_default().as_secs_f64());
    let ready = snapshot.tasks.ready;
    let mut text = match latency_words(snapshot, limits) {
        Some(words) => format!("{words}; {ready} ready"),
        None => format!("no {} is ready", snapshot.kind.as_deref().unwrap_or("task")),
    };
    if status != Status::Ok && !snapshot.current_engines().into_iter().any(takes_tasks) {
        text += ", no engine is active";
    }
    CheckResult::new(Mode::Latency, status, text)
        .perf([oldest_ready_perf(snapshot, limits), Perf::count("ready", ready.judged())])
        .details(latency_details(snapshot, limits, status))
        .next(latency_command(snapshot))
}

/// What the line was judged by, and who could take the tasks: for `-v`, and where it is not fine.
fn latency_details(snapshot: &ClusterSnapshot, limits: &Limits, status: Status) -> Vec<(Status, String)> {
    let typed = |limit: &Option<Limit>| limit.as_ref().map_or_else(|| "none".to_owned(), |limit| limit.typed.clone());
    let engines = snapshot.current_engines();
    let takers: Vec<_> = engines.iter().filter(|engine| takes_tasks(engine)).collect();
    let (busy, slots) = takers.iter().fold((0, 0), |(busy, all), engine| (busy + engine.running, all + engine.slots));
    vec![
        (status, format!("limits: warning {}, critical {}", typed(&limits.warning), typed(&limits.critical))),
        (Status::Ok, format!("{} of {} engines take tasks, {busy} of {slots} slots busy", takers.len(), engines.len())),
    ]
}

fn failed(snapshot: &ClusterSnapshot, thresholds: &Thresholds) -> CheckResult {
    let count = snapshot.tasks.failed;
    let limits = &thresholds.limits;
    let groups: Vec<_> = snapshot.stuck.iter().filter(|group| group.state == TaskState::Failed).collect();
    let mut text = capped(count, "failed task");
    text += &normal_words(count.judged(), thresholds);
    text += &format!("; {} in 1h", plural(snapshot.failures_1h, "failure"));
    if let Some(top) = groups.first() {
        text += &format!(", {} of them: {}", top.count, top_words(top));
    }
    let mut perf = vec![Perf::count("failed", count.judged()).limits(limits)];
    perf.extend(thresholds.normal.map(|normal| Perf::count("failed_normal", normal)));
    let detail = |group: &&StuckGroup| {
        // By the same limits, as if there were no other kind: it shows which kind alone is enough.
        let text = format!("{} {}, newest {} ago", group.kind, group.count, span(group.newest_age));
        (limits.status(group.count.judged()), text)
    };
    let top = groups.first().filter(|top| top.count.judged() * 2.0 > count.judged()).map(|top| top.kind.as_str());
    CheckResult::new(Mode::Failed, limits.status(count.judged()), text)
        .perf(perf)
        .details(groups.iter().map(detail))
        .next(stuck_command(TaskState::Failed, snapshot.kind.as_deref().or(top)))
}

/// `, normal 498 (2.0x, limit 2x)`, `, normal 1 (5.0x, below --min 50)`.
fn normal_words(value: f64, thresholds: &Thresholds) -> String {
    let ratio = |normal: f64| (normal > 0.0).then(|| format!("{:.1}x", value / normal));
    let ratio = thresholds.normal.and_then(ratio);
    let broken = thresholds.limits.broken(value);
    let hidden = || {
        let (min, limits) = thresholds.floor.as_ref()?;
        limits.broken(value).map(|_| format!("below --min {min}"))
    };
    let parts: Vec<_> = ratio.into_iter().chain(broken.or_else(hidden)).collect();
    let normal = thresholds.normal.map_or_else(String::new, |normal| format!(", normal {}", plain(normal)));
    if parts.is_empty() { normal } else { format!("{normal} ({})", parts.join(", ")) }
}

fn top_words(group: &StuckGroup) -> String {
    let example = group.example.as_deref().map_or_else(String::new, |e| format!(": {}", cut(&clean(e), 100)));
    format!("{}{example}", group.kind)
}

fn db(snapshot: &ClusterSnapshot, thresholds: &Thresholds) -> CheckResult {
    let (db, skew_limits) = (&snapshot.db, &thresholds.problems.clock_skew);
    let (by_time, slow) = status_and_words(&thresholds.limits, db.round_trip);
    let (by_clock, skewed) = status_and_words(skew_limits, db.clock_skew);
    let (by_schema, schema) = match db.is_schema_ok {
        true => (Status::Ok, format!("schema {} ok", db.schema)),
        false => (Status::Critical, format!("schema does not fit: {}", db.schema)),
    };
    let (by_writes, read_only) = match db.is_read_only {
        true => (Status::Critical, ", but takes no writes"),
        false => (Status::Ok, ""),
    };
    let text = format!(
        "{} answers in {}{slow}{read_only}, {schema}, clock skew {}{skewed}",
        db.backend,
        fine_span(db.round_trip),
        fine_span(db.clock_skew)
    );
    let next = if db.is_schema_ok { "rekindle doctor" } else { "rekindle db status" };
    CheckResult::new(Mode::Db, Status::worst([by_time, by_clock, by_schema, by_writes]), text)
        .perf([
            Perf::span("db_roundtrip", db.round_trip).limits(&thresholds.limits),
            clock_skew_perf(snapshot, &thresholds.problems),
        ])
        .next(next)
}

#[cfg(test)]
mod tests;
