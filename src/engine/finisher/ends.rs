//! Ends on their way to the database: what is written for an attempt, and what of it if the database takes it not.

use std::time::Duration;

use crate::engine::running::Entry;
use crate::engine::shared::{Phase, Shared};
use crate::handlers::{Ended, StopKind};
use crate::protocol::ids::{Incarnation, KindName};
use crate::protocol::takeover::{Budget, Next, Request, after_attempt, uses_budget};
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
    let elsewhere = ended.elsewhere && !task.was_elsewhere && matches!(next, Next::Ready(_) | Next::Wait { .. });
    Some(Finish {
        held: task.held,
        keyed: !task.resources.is_empty(),
        result: ended.result,
        next,
        uses_budget: uses_budget(ended.result, &request),
        not_on: elsewhere.then(|| shared.host.clone()),
        exit_code: ended.exit_code.or(ended.signal.map(|signal| 128 + signal)),
        detail: ended.detail,
        value: ended.value,
        output: ended.output,
        output_dropped: ended.output_dropped,
        unstarted,
    })
}
