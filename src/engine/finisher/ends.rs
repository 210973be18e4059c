//! Ends on their way to the database: what is written for an attempt, and what of it if the database takes it not.

use std::time::Duration;

use crate::engine::running::Entry;
use crate::engine::shared::{Phase, Shared};
use crate::handlers::{Ended, StopKind, one_line};
use crate::protocol::ids::{Incarnation, KindName};
use crate::protocol::takeover::{Budget, Next, Request, after_attempt, after_stop, in_a_row, uses_budget};
use crate::protocol::task::AttemptResult;
use crate::protocol::time::LeaseInstant;
use crate::store::Finish;

/// An end on its way.
pub(super) struct Pending {
    pub(super) incarnation: Incarnation,
    pub(super) end: Finish,
    pub(super) kind: KindName,
    /// How long it waited for an engine, where that is known.
    pub(super) waited: Option<Duration>,
    /// How long it ran.
    pub(super) ran: Option<Duration>,
    /// How often the database called it wrong, alone, and since when.
    pub(super) broken: Option<(u32, LeaseInstant)>,
    /// An earlier try had an unknown outcome: it may still be applied, before or after the next one.
    pub(super) is_doubted: bool,
}

/// An end that the database calls wrong more often than this, and for longer, is written without what people
/// or programs put into it: the state of the task matters more than its texts.
const PLAIN_AFTER: (u32, Duration) = (3, Duration::from_secs(30));

impl Pending {
    pub(super) fn broken_at(mut self, now: LeaseInstant) -> Self {
        let (times, since) = self.broken.unwrap_or((0, now));
        self.broken = Some((times + 1, since));
        if times >= PLAIN_AFTER.0 && now.since(since) >= PLAIN_AFTER.1 {
            log::error!("task {}: leaving out the texts that the database does not take", self.end.held.task);
            self.end = without_texts(&self.end);
        }
        self
    }
}

fn without_texts(end: &Finish) -> Finish {
    let detail = end.detail.is_some().then(|| "its texts could not be stored".to_owned());
    Finish { detail, value: None, output: Vec::new(), ..end.clone() }
}

/// What is written for an end; `None` if the next registration does it.
pub(super) fn to_finish(shared: &Shared, entry: &Entry, ended: Ended) -> Option<Finish> {
    let was_stopped_for = entry.control.as_ref().and_then(|control| control.requested()).map(|stop| stop.kind);
    let is_over = {
        let life = shared.life();
        life.phase.has_ended() || life.phase == Phase::Out || life.incarnation != Some(entry.incarnation)
    };
    if is_over && was_stopped_for == Some(StopKind::LeaseLost) && ended.result == AttemptResult::HandedBack {
        return None;
    }
    let task = &entry.task;
    let kind = shared.options.kinds.get(&task.kind);
    let policy = kind.map_or_else(Default::default, |kind| kind.policy);
    let retry = kind.map_or_else(Default::default, |kind| kind.retry);
    let budget = Budget { retry, failures: task.failures, roll: fastrand::f64() };
    let request =
        Request { retry_after: ended.retry_after, elsewhere: ended.elsewhere, was_elsewhere: task.was_elsewhere };
    let unstarted = !ended.started && ended.result == AttemptResult::HandedBack;
    // What a person has asked for meanwhile stands in the task's row, and the store reads it there: this engine
    // may not have heard of it yet.
    let next = match unstarted {
        // What never started was not interrupted: `rerun = "never"` does not hold it.
        true => Next::Ready(task.reason),
        false => after_attempt(ended.result, &policy, &budget, &request),
    };
    let handed_back = match (ended.result, was_stopped_for) {
        (AttemptResult::HandedBack, Some(StopKind::HandBack)) if !unstarted => {
            Some(in_a_row(task.handed_back, lasted(shared, entry)))
        }
        // A person took it away, or it put itself off.
        (AttemptResult::HandedBack, _) => None,
        _ => Some(0),
    };
    let stops = handed_back.filter(|count| *count > 0);
    let next = stops.map_or_else(|| next.clone(), |count| after_stop(count, next.clone()));
    let detail = match (stops, &next) {
        (Some(count), Next::Wait { .. } | Next::Quarantined) => Some(may_stop_engines(count, ended.detail)),
        _ => ended.detail,
    };
    let elsewhere = ended.elsewhere && !task.was_elsewhere && matches!(next, Next::Ready(_) | Next::Wait { .. });
    Some(Finish {
        held: task.held,
        keyed: !task.resources.is_empty(),
        result: ended.result,
        next,
        uses_budget: uses_budget(ended.result, &request),
        handed_back,
        not_on: elsewhere.then(|| shared.host.clone()),
        exit_code: ended.exit_code.or(ended.signal.map(|signal| 128 + signal)),
        detail,
        value: ended.value,
        output: ended.output,
        output_dropped: ended.output_dropped,
        unstarted,
    })
}

/// How long an attempt had run when its engine was told to end, or to hand it back: what it is given to finish in
/// after that says nothing about who asked.
fn lasted(shared: &Shared, entry: &Entry) -> Duration {
    let Some(began_at) = entry.began_at else { return Duration::ZERO };
    let told_at = shared.told_at.get().copied().filter(|at| *at >= began_at);
    let stopped_at = entry.control.as_ref().and_then(|control| control.requested()).map(|stop| stop.term_at);
    told_at.or(stopped_at).map_or(Duration::ZERO, |at| at.since(began_at))
}

fn may_stop_engines(count: u32, detail: Option<String>) -> String {
    let detail = detail.unwrap_or_default();
    one_line(&format!(
        "{detail}, {count} times in a row within a minute of its start: it may be what stops its engines"
    ))
}
