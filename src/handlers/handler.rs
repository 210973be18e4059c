//! Tasks done by Rust code inside the engine.
//!
//! A handler must be idempotent (an attempt may be repeated), bounded (it is asked to stop, but it
//! cannot be killed: a thread that still runs at L + K/2 costs the whole process), and it knows its
//! token, which it hands to every system it writes to.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::control::AttemptControl;
use super::ended::Ended;
use crate::clock::{Clock, SystemClock};
use crate::protocol::ids::{EngineName, KindName, PAYLOAD_MAX, ResourceName, TaskId, Token};
use crate::protocol::task::{AttemptResult, Reason};
use crate::protocol::time::LeaseInstant;

/// Everything an attempt is told about itself, whoever runs it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The task.
    pub task: TaskId,
    /// What it does.
    pub kind: KindName,
    /// Where it was queued.
    pub queue: String,
    /// What it owns while it runs.
    pub resources: Vec<ResourceName>,
    /// Which attempt this is; the first is 1.
    pub attempt: u32,
    /// After how many counted attempts it fails for good.
    pub attempts_max: u32,
    /// Why this attempt exists.
    pub reason: Reason,
    /// Its fencing token.
    pub token: Token,
    /// As enqueued; shared, because a megabyte is not copied for each reader.
    pub payload: Arc<[u8]>,
    /// Who runs it.
    pub engine: EngineName,
    /// For which cluster.
    pub cluster: String,
}

/// What a handler gets.
#[derive(Debug, Clone)]
pub struct Context {
    attempt: Attempt,
    control: Arc<AttemptControl>,
    deadline: Option<LeaseInstant>,
}

impl Context {
    /// Binds an attempt to the handle that stops it.
    pub fn new(attempt: Attempt, control: Arc<AttemptControl>) -> Self {
        Self { attempt, control, deadline: None }
    }

    /// The same, to be done by then.
    #[must_use]
    pub fn until(self, deadline: Option<LeaseInstant>) -> Self {
        Self { deadline, ..self }
    }

    /// The whole attempt.
    pub fn attempt_info(&self) -> &Attempt {
        &self.attempt
    }
    /// The task's number.
    pub fn task(&self) -> TaskId {
        self.attempt.task
    }
    /// What the task does.
    pub fn kind(&self) -> &KindName {
        &self.attempt.kind
    }
    /// Which attempt this is; the first is 1.
    pub fn attempt(&self) -> u32 {
        self.attempt.attempt
    }
    /// After how many counted attempts it fails for good.
    pub fn attempts_max(&self) -> u32 {
        self.attempt.attempts_max
    }
    /// Why this attempt exists; `lost` means that someone may have done part of it.
    pub fn reason(&self) -> Reason {
        self.attempt.reason
    }
    /// Grows with each owner: pass it to the systems you write to, let them refuse smaller ones.
    pub fn token(&self) -> Token {
        self.attempt.token
    }
    /// The payload's bytes as enqueued.
    pub fn payload(&self) -> &[u8] {
        &self.attempt.payload
    }
    /// The payload decoded from JSON.
    pub fn payload_json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.attempt.payload)
    }
    /// What the task owns while it runs.
    pub fn resources(&self) -> &[ResourceName] {
        &self.attempt.resources
    }
    /// Who runs it.
    pub fn engine(&self) -> &EngineName {
        &self.attempt.engine
    }
    /// For which cluster.
    pub fn cluster(&self) -> &str {
        &self.attempt.cluster
    }
    /// How long it may still run before it is told to stop; `None` where its kind has no timeout.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.since(SystemClock.lease_now()))
    }
    /// Whether to stop: the lease was lost, somebody canceled it, or its time is over. Look often.
    pub fn is_canceled(&self) -> bool {
        self.control.is_canceled()
    }
    /// The flag itself, for code that does not know this type.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.control.cancel_flag()
    }
}

/// The longest result that is kept, in bytes; as long as a payload may be. A longer one fails the task, for a person:
/// cut short it would be another result, and written whole it could be more than the server takes at once.
pub const VALUE_MAX: usize = PAYLOAD_MAX;

/// What a handler says about its attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, perhaps with a result to keep, of at most [`VALUE_MAX`] bytes.
    Done(Option<String>),
    /// Not now; the next attempt is not before this and costs no retry.
    RetryAfter(Duration),
    /// Failed for now; uses the retry budget.
    Tempfail(String),
    /// Failed for good.
    Failed(String),
    /// Nothing to do yet; the task sleeps this long and it was no failure.
    Snooze(Duration),
}

/// Work done by Rust code.
pub trait Handler: Send + Sync {
    /// Runs one attempt. Must return soon after [`Context::is_canceled`] turns true.
    fn run(&self, ctx: &Context) -> Outcome;
}

impl<F> Handler for F
where
    F: Fn(&Context) -> Outcome + Send + Sync,
{
    fn run(&self, ctx: &Context) -> Outcome {
        self(ctx)
    }
}

/// Runs a handler to its end; a panic is its own `crash` and nobody else's.
///
/// `Done` and `Failed` count even after a stop was asked for: unlike an exit code of 0 upon SIGTERM
/// they are statements about the work. Anything else after a stop is the stop's doing, not the task's.
pub fn run_caught(handler: &dyn Handler, ctx: &Context) -> Ended {
    // A handler's own state after its panic is the handler's affair: it must be idempotent anyway.
    let ended = match catch_unwind(AssertUnwindSafe(|| handler.run(ctx))) {
        Ok(outcome) => ended_of(outcome),
        Err(panic) => Ended::new(AttemptResult::Crash).with_detail(&format!("panic: {}", panic_text(&*panic))),
    };
    match ctx.control.requested() {
        Some(stop) if !matches!(ended.result, AttemptResult::Done | AttemptResult::Failed) => {
            Ended::new(stop.kind.result()).with_detail(stop.kind.word())
        }
        _ => ended,
    }
}

fn ended_of(outcome: Outcome) -> Ended {
    match outcome {
        Outcome::Done(Some(value)) if value.len() > VALUE_MAX => Ended::new(AttemptResult::Failed).with_detail(&format!(
            "the handler returned {} bytes; a result of at most {VALUE_MAX} is kept: put it elsewhere and return its place",
            value.len()
        )),
        Outcome::Done(value) => Ended { value, ..Ended::new(AttemptResult::Done) },
        Outcome::RetryAfter(span) => Ended { retry_after: Some(span), ..Ended::new(AttemptResult::Tempfail) },
        Outcome::Tempfail(error) => Ended::new(AttemptResult::Tempfail).with_detail(&error),
        Outcome::Failed(error) => Ended::new(AttemptResult::Failed).with_detail(&error),
        Outcome::Snooze(span) => Ended { retry_after: Some(span), ..Ended::new(AttemptResult::HandedBack) },
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::StopKind;
    use crate::handlers::testing::attempt;

    fn run(handler: impl Handler) -> Ended {
        run_caught(&handler, &Context::new(attempt("{\"n\": 7}"), AttemptControl::new().unwrap()))
    }

    #[test]
    fn outcomes_become_ends() {
        let done = run(|ctx: &Context| {
            let value: serde_json::Value = ctx.payload_json().unwrap();
            Outcome::Done(Some(value["n"].to_string()))
        });
        assert_eq!((done.result, done.value.as_deref()), (AttemptResult::Done, Some("7")));
        let long = run(|_: &Context| Outcome::Done(Some("x".repeat(VALUE_MAX + 1))));
        assert!(long.result == AttemptResult::Failed && long.detail.unwrap().contains("1048577 bytes"));
        let span = Duration::from_secs(9);
        let later = run(move |_: &Context| Outcome::RetryAfter(span));
        assert_eq!((later.result, later.retry_after), (AttemptResult::Tempfail, Some(span)));
        let snooze = run(move |_: &Context| Outcome::Snooze(span));
        assert_eq!((snooze.result, snooze.retry_after), (AttemptResult::HandedBack, Some(span)));
        let failed = run(|_: &Context| Outcome::Failed("no\naddress".to_owned()));
        assert_eq!((failed.result, failed.detail.as_deref()), (AttemptResult::Failed, Some("no address")));
    }

    #[test]
    fn panic_in_a_handler_is_a_crash() {
        let ended = run(|_: &Context| panic!("index {} out of range", 3));
        assert_eq!(ended.result, AttemptResult::Crash);
        assert_eq!(ended.detail.as_deref(), Some("panic: index 3 out of range"));
    }

    #[test]
    fn a_stop_explains_a_failure_but_takes_no_finished_work_away() {
        let control = AttemptControl::new().unwrap();
        let ctx = Context::new(attempt(""), Arc::clone(&control));
        control.stop(StopKind::LeaseLost, LeaseInstant::from_ns(1), LeaseInstant::from_ns(2));
        let seen = run_caught(
            &|ctx: &Context| Outcome::Tempfail(if ctx.is_canceled() { "canceled" } else { "" }.to_owned()),
            &ctx,
        );
        assert_eq!(seen.result, AttemptResult::HandedBack);
        assert_eq!(run_caught(&|_: &Context| Outcome::Done(None), &ctx).result, AttemptResult::Done);
    }
}
