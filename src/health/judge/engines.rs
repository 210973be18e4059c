//! The modes `engines` (how many) and `engine` (does this one beat).

use std::time::Duration;

use super::status_and_words;
use crate::health::check::{CheckResult, Mode, Status};
use crate::health::limits::{Limit, Limits};
use crate::health::perf::Perf;
use crate::health::problems::state_words;
use crate::health::range::Range;
use crate::health::snapshot::{ClusterSnapshot, EngineState, EngineView};
use crate::health::thresholds::{EngineRef, Thresholds};
use crate::health::words::{plural, shell_word, span};

/// So many engines are described in the first line; the others follow in the details.
const NAMED_MAX: usize = 3;

pub(super) fn engines(snapshot: &ClusterSnapshot, thresholds: &Thresholds) -> CheckResult {
    let current = snapshot.current_engines();
    let alive = current.iter().filter(|engine| engine.is_alive).count();
    let in_state = |state| current.iter().copied().filter(move |engine: &&EngineView| engine.state == state);
    let (dead, late, stuck) =
        (in_state(EngineState::Fenced), in_state(EngineState::Late), in_state(EngineState::Stuck));
    let (dead_count, late_count, stuck_count) = (dead.clone().count(), late.clone().count(), stuck.clone().count());
    let any = &thresholds.problems.engines;
    let status = Status::worst([
        thresholds.limits.status(alive as f64),
        any.status(dead_count as f64),
        any.status(late_count as f64),
        any.status(stuck_count as f64),
    ]);
    let bad: Vec<_> = dead.chain(late).chain(stuck).collect();
    let next = match bad.as_slice() {
        [only] => format!("rekindle engine show {}", shell_word(&only.name)),
        _ => "rekindle engine list".to_owned(),
    };
    let words = |engine: &EngineView| format!("{} {}", engine.name, state_words(engine, snapshot));
    let details = bad.iter().map(|engine| (any.status(1.0), words(engine)));
    CheckResult::new(Mode::Engines, status, engines_text(alive, dead_count, &thresholds.limits, &bad, words))
        .perf([
            Perf::count("engines_alive", alive as f64).limits(&thresholds.limits),
            Perf::count("engines_dead", dead_count as f64).limits(any),
            Perf::count("engines_late", late_count as f64).limits(any),
            Perf::count("engines_stuck", stuck_count as f64).limits(any),
            Perf::count("takeovers_1h", snapshot.takeovers_1h as f64),
        ])
        .details(details.filter(|_| bad.len() > 1))
        .next(next)
}

fn engines_text(
    alive: usize,
    dead: usize,
    limits: &Limits,
    bad: &[&EngineView],
    words: impl Fn(&EngineView) -> String,
) -> String {
    let mut text = format!("{alive} of {} alive", plural((alive + dead) as u64, "engine"));
    if let Some(limit) = limits.broken(alive as f64) {
        text += &format!(" ({limit})");
    }
    for engine in bad.iter().take(NAMED_MAX) {
        text += &format!("; {}", words(engine));
    }
    if bad.len() > NAMED_MAX {
        text += &format!("; and {} more", bad.len() - NAMED_MAX);
    }
    text
}

pub(super) fn engine(snapshot: &ClusterSnapshot, thresholds: &Thresholds) -> CheckResult {
    let result = |status, text| CheckResult::new(Mode::Engine, status, text);
    let current = snapshot.current_engines();
    let found: Vec<_> = match &thresholds.engine {
        Some(EngineRef::Named(name)) => current.iter().filter(|engine| engine.name == *name).collect(),
        Some(EngineRef::Local { host }) => current.iter().filter(|engine| engine.host == *host).collect(),
        None => return result(Status::Unknown, "no engine was named".to_owned()).next("rekindle-check --help"),
    };
    match found.as_slice() {
        // A host that should run an engine and has none is as bad as a dead one, also after its row was cleaned.
        [] => result(Status::Critical, unknown_engine(&current, thresholds)).next("rekindle engine list"),
        [only] => {
            let (status, text) = engine_words(only, snapshot, &thresholds.limits);
            let next = format!("rekindle engine show {}", shell_word(&only.name));
            result(status, text).perf(engine_perf(only, &thresholds.limits, "")).next(next)
        }
        several => several_engines(several, snapshot, &thresholds.limits),
    }
}

fn unknown_engine(current: &[&EngineView], thresholds: &Thresholds) -> String {
    let name = match &thresholds.engine {
        Some(EngineRef::Named(name)) => name,
        Some(EngineRef::Local { host }) => return format!("no engine is registered for this host ({host})"),
        None => "",
    };
    let likeness = |engine: &&&EngineView| strsim::jaro_winkler(&engine.name, name);
    let closest = current.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let guess = closest.filter(|engine| likeness(engine) > 0.8);
    let hint = guess.map_or_else(String::new, |engine| format!("; did you mean {}?", engine.name));
    format!("no engine is called {name}{hint}")
}

/// Several engines share this host: the worst one speaks, all are listed.
fn several_engines(several: &[&&EngineView], snapshot: &ClusterSnapshot, limits: &Limits) -> CheckResult {
    let mut judged: Vec<_> = several.iter().map(|engine| (engine_words(engine, snapshot, limits), *engine)).collect();
    judged.sort_by_key(|((status, _), _)| std::cmp::Reverse(*status));
    let (status, text, next) = match judged.first() {
        Some(((status, text), worst)) if *status != Status::Ok => {
            (*status, format!(": {text}"), format!("rekindle engine show {}", shell_word(&worst.name)))
        }
        _ => (Status::Ok, " beat".to_owned(), String::new()),
    };
    let text = format!("{} on this host{text}", plural(several.len() as u64, "engine"));
    CheckResult::new(Mode::Engine, status, text)
        .perf(several.iter().flat_map(|engine| engine_perf(engine, limits, &format!("_{}", engine.name))))
        .details(judged.into_iter().map(|(words, _)| words))
        .next(next)
}

/// What was typed, else two heartbeats and one lease of its own row.
fn beat_limits(engine: &EngineView, limits: &Limits) -> Limits {
    let limit = |age: Duration| Some(Limit { typed: span(age), range: Range::at_most(age.as_secs_f64()) });
    let own = Limits { warning: limit(engine.heartbeat_interval * 2), critical: limit(engine.lease) };
    limits.clone().or(own)
}

fn engine_words(engine: &EngineView, snapshot: &ClusterSnapshot, limits: &Limits) -> (Status, String) {
    if !engine.is_alive {
        return (Status::Critical, format!("{} {}", engine.name, state_words(engine, snapshot)));
    }
    let age = engine.beat_age;
    let (by_age, broken) = status_and_words(&beat_limits(engine, limits), age);
    let by_state = match engine.state {
        // It does no work, however well it beats.
        EngineState::Stuck => Status::Critical,
        EngineState::Late | EngineState::Starved => Status::Warning,
        _ => Status::Ok,
    };
    let lease = match engine.lease.checked_sub(age) {
        Some(left) => format!("lease {}", span(left)),
        None => format!("lease over for {}", span(age - engine.lease)),
    };
    let text = format!(
        "{} {}, beat {} ago{broken}, {lease}, {} of {} slots busy",
        engine.name,
        engine.state,
        span(age),
        engine.running,
        engine.slots
    );
    (Status::worst([by_age, by_state]), text)
}

fn engine_perf(engine: &EngineView, limits: &Limits, suffix: &str) -> [Perf; 2] {
    let running = Perf::count(&format!("running{suffix}"), engine.running.into());
    [
        Perf::span(&format!("beat_age{suffix}"), engine.beat_age).limits(&beat_limits(engine, limits)),
        running.max(engine.slots.into()),
    ]
}
