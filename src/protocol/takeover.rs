//! What follows the end of an attempt: of one that its owner ended, and of one that was interrupted.
//! Pure: the store writes it, the engine and every sweeper ask here.

use std::time::Duration;

use super::engine::{EngineState, Proof};
use super::ids::Incarnation;
use super::retry::{Retry, RetryPolicy};
use super::task::{AttemptResult, Policy, Reason, Rerun, Wish};
use crate::planted::{Bug, planted};

/// From how many lost engines on a task runs alone on its engine, so that only it is charged if that
/// one is lost too.
pub const ALONE_FROM: u32 = 2;

/// A task handed back more often in a row than this, by self-fences or by stops soon after its start, is
/// quarantined: it may be what stalls or stops its engines.
pub const HAND_BACK_MAX: u32 = 10;

/// A stop that comes sooner than this after the start of an attempt may be the attempt's own doing: a task can
/// say `rekindle engine stop`, or send SIGTERM to whom it finds. One that comes later is not, and ends the row.
///
/// Ordinary restarts must not set a long task aside, however many there are. Twelve rollouts in a day are two hours
/// apart, and the attempt between two of them ends the row. Within one rollout a task that was handed back runs
/// on some other engine, and would have to meet the next one to be restarted within a minute of its start, ten
/// times on end; and from the third time on it waits, longer each time ([`after_stop`]), so that eleven in a row
/// take a quarter of an hour. A task whose fuse is longer than a minute is not found so: it costs a restart of its
/// engine now and then, which is what its supervisor counts.
pub const SOON: Duration = Duration::from_secs(60);

/// From this hand-back in a row on a task waits before its next attempt.
const WAIT_FROM: u32 = 3;
/// The first of these waits; each further one is twice as long, up to [`WAIT_MAX`].
const WAIT_FIRST: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(300);

/// What becomes of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Over, well: to the archive.
    Done,
    /// Ready again in its old place.
    Ready(Reason),
    /// Not before a time.
    Wait {
        /// From the database's now.
        delay: Duration,
        /// Why the next attempt exists.
        reason: Reason,
    },
    /// Needs a human.
    Failed,
    /// Killed too many engines, or stalled them: needs a human.
    Quarantined,
    /// Over, on request.
    Canceled,
    /// Put aside on request.
    Held,
}

/// A running task whose owner is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// Engines lost under it so far.
    pub lost: u32,
    /// Self-fences in a row that handed it back.
    pub handed_back: u32,
    /// Whom it was last charged for.
    pub charged: Option<Incarnation>,
    /// What its kind said at the claim.
    pub policy: Policy,
    /// What an operator asked for while it ran.
    pub wish: Wish,
}

/// How its owner ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerEnd {
    /// Who.
    pub incarnation: Incarnation,
    /// Fenced or stopped (an owner whose row is closed ended as one of the two).
    pub state: EngineState,
    /// With which proof.
    pub proof: Proof,
}

/// What a sweep writes for one orphan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    /// How the attempt ended.
    pub result: AttemptResult,
    /// What becomes of the task.
    pub next: Next,
    /// The new counters.
    pub lost: u32,
    /// The new count of self-fences in a row.
    pub handed_back: u32,
    /// Whom it has been charged for.
    pub charged: Option<Incarnation>,
}

/// Decides over one orphan.
pub fn take_over(orphan: &Orphan, owner: &OwnerEnd) -> Takeover {
    let by_itself = owner.state == EngineState::Stopped || owner.proof.is_hand_back();
    let mut plan = Takeover {
        result: if by_itself { AttemptResult::HandedBack } else { AttemptResult::Lost },
        next: Next::Ready(if by_itself { Reason::HandedBack } else { Reason::Lost }),
        lost: orphan.lost,
        handed_back: orphan.handed_back,
        charged: orphan.charged,
    };
    if by_itself {
        plan.handed_back += u32::from(owner.proof.is_hand_back());
    } else if orphan.charged != Some(owner.incarnation) {
        // An incarnation is charged once per task: a claim of it that commits late is taken over again.
        plan.lost += 1;
        plan.charged = Some(owner.incarnation);
    }
    let kills = plan.lost > orphan.lost && plan.lost >= u32::from(orphan.policy.max_lost.max(1));
    if kills || plan.handed_back > HAND_BACK_MAX {
        plan.next = Next::Quarantined;
    } else if orphan.policy.rerun == Rerun::Never {
        plan.next = Next::Failed;
    }
    plan.next = obeyed(orphan.wish, plan.next);
    plan
}

/// What becomes of a task of which a person asked something while it ran; `otherwise` is what would become of
/// it without that.
///
/// An accepted wish is obeyed however the attempt ends and whoever ends it, because the person was told so and
/// looks no further: the attempt may end by itself before the wish reaches its engine. So the store asks here
/// with the wish that stands in the row, in the transaction that ends the attempt. How the attempt itself ended
/// stays in its own row. Two things outrank a wish:
///
/// * Work that is done is done. It cannot be canceled or put aside any more, and is not repeated.
/// * A task that has killed or stalled its last engine is not given to another one, only to a person: what asked
///   for that attempt did not know it.
pub fn obeyed(wish: Wish, otherwise: Next) -> Next {
    if planted(Bug::WishForgotten) && matches!(otherwise, Next::Wait { .. } | Next::Failed) {
        return otherwise;
    }
    match (wish, otherwise) {
        (Wish::None, next) | (_, next @ Next::Done) | (Wish::Requeue, next @ Next::Quarantined) => next,
        (Wish::Cancel, _) => Next::Canceled,
        (Wish::Hold, _) => Next::Held,
        (Wish::Requeue, _) => Next::Ready(Reason::Requeued),
    }
}

/// What a kind says about temporary failures, and how often this task has failed so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// The kind's backoff.
    pub retry: RetryPolicy,
    /// Temporary failures so far, this one not included.
    pub failures: u32,
    /// Drawn by the caller, 0..=1.
    pub roll: f64,
}

/// What an attempt said beyond its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    /// It asked for the next attempt after this long; costs no retry.
    pub retry_after: Option<Duration>,
    /// It failed because of this host: another host may try once, at once.
    pub elsewhere: bool,
    /// It was tried elsewhere before.
    pub was_elsewhere: bool,
}

/// What follows an attempt that its own engine ended, where nobody asked for anything else ([`obeyed`]).
pub fn after_attempt(result: AttemptResult, policy: &Policy, budget: &Budget, request: &Request) -> Next {
    match result {
        AttemptResult::Done => Next::Done,
        AttemptResult::Canceled => Next::Canceled,
        AttemptResult::Failed if request.elsewhere && !request.was_elsewhere => Next::Ready(Reason::Retry),
        AttemptResult::Failed => Next::Failed,
        AttemptResult::Tempfail | AttemptResult::Timeout | AttemptResult::Crash => match request.retry_after {
            Some(delay) => Next::Wait { delay, reason: Reason::Retry },
            None => match budget.retry.next(budget.failures + 1, budget.roll) {
                Retry::After(delay) => Next::Wait { delay, reason: Reason::Retry },
                Retry::GiveUp => Next::Failed,
            },
        },
        // It put itself off, which is no interruption.
        AttemptResult::HandedBack if request.retry_after.is_some() => {
            Next::Wait { delay: request.retry_after.unwrap_or_default(), reason: Reason::Retry }
        }
        AttemptResult::HandedBack | AttemptResult::Lost | AttemptResult::Fenced => match policy.rerun {
            Rerun::Never => Next::Failed,
            Rerun::Always => Next::Ready(Reason::HandedBack),
        },
    }
}

/// Hand-backs in a row, with one by a stop that was asked for so long after the start of the attempt.
pub const fn in_a_row(before: u32, lasted: Duration) -> u32 {
    if lasted.as_nanos() < SOON.as_nanos() { before.saturating_add(1) } else { 0 }
}

/// What follows the hand-back of an attempt by a stop; `otherwise` is what would follow without the count.
pub fn after_stop(in_a_row: u32, otherwise: Next) -> Next {
    match otherwise {
        Next::Ready(_) if in_a_row > HAND_BACK_MAX => Next::Quarantined,
        Next::Ready(reason) if in_a_row >= WAIT_FROM => {
            let doubled = 1 << (in_a_row - WAIT_FROM).min(16);
            Next::Wait { delay: (WAIT_FIRST * doubled).min(WAIT_MAX), reason }
        }
        next => next,
    }
}

/// Whether this end uses the retry budget.
pub fn uses_budget(result: AttemptResult, request: &Request) -> bool {
    matches!(result, AttemptResult::Tempfail | AttemptResult::Timeout | AttemptResult::Crash)
        && request.retry_after.is_none()
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
