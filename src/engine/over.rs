//! The end of an incarnation: what happens at L without an accepted beat, or when it was fenced.
//!
//! ```text
//!  last accepted beat sent
//!  │←──────────── L ───────────►│← K/4 →│← K/4 →│← K/2 →│
//!  │          trusted           │SIGTERM│SIGKILL│ guard │ everything is dead
//! ```
//!
//! The lease watch sleeps until the next of these instants, whatever the database does. At L it closes
//! the gate and stops what runs (the supervisors of commands count down by themselves too); when
//! nothing is left but `continue` tasks it says "all clear" to the guard, which would otherwise kill the
//! process at L + K/2. In-process handlers cannot be killed: if one still runs then, the process aborts.

use std::sync::Arc;
use std::time::Duration;

use super::shared::{Life, Phase, Shared};
use super::stop::Ending;
use crate::guard::GuardTalk;
use crate::handlers::{StopKind, TellContinuing};
use crate::planted::{Bug, planted};
use crate::protocol::ids::Incarnation;
use crate::protocol::lease::LeasePhase;
use crate::protocol::task::OnLeaseLoss;
use crate::protocol::time::LeaseInstant;

/// Between two looks while no lease is held: nothing is due then, and a change of the phase nudges.
const WITHOUT_LEASE: Duration = Duration::from_millis(250);

/// Why a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No accepted beat for L.
    LeaseLost,
    /// Zero rows: a peer or a proof has declared it dead.
    Fenced,
}

/// Ends the life of `incarnation`: no claim, no spawn, and what runs is told to stop. Idempotent.
pub fn end_life(shared: &Arc<Shared>, incarnation: Incarnation, why: Why) {
    {
        let mut life = shared.life.lock();
        if life.incarnation != Some(incarnation) || life.phase.has_ended() || life.phase == Phase::Out {
            return;
        }
        life.phase = Phase::Over;
    }
    shared.stop.nudge();
    if let Some(commands) = &shared.commands {
        commands.gate().close();
    }
    let now = shared.clock.lease_now();
    let kill_at = match why {
        Why::LeaseLost => shared.life().lease.kill_at().unwrap_or(now),
        Why::Fenced => now.after(shared.options.timing.kill_budget() / 4),
    };
    let mut stopped = 0;
    shared.running.for_each(|entry| {
        if entry.on_lease_loss == OnLeaseLoss::Continue && why == Why::LeaseLost {
            return;
        }
        stopped += 1;
        if let Some(control) = &entry.control {
            control.stop(StopKind::LeaseLost, now, kill_at);
        }
    });
    // Said after the deed, which comes first.
    if why == Why::LeaseLost {
        log::error!(
            "no heartbeat was accepted for {:?}: engine {incarnation} stops everything it runs",
            shared.options.timing.lease()
        );
    }
    log::info!("{stopped} tasks are being stopped");
}

/// Whether nothing of an ended life runs any more, but `continue` tasks that nobody has told to stop.
pub fn is_clear(shared: &Shared) -> bool {
    let stops = |control: &crate::handlers::AttemptControl| control.requested().is_some();
    shared
        .running
        .count(|entry| entry.control.as_ref().is_some_and(|c| entry.on_lease_loss == OnLeaseLoss::Stop || stops(c)))
        == 0
}

/// Says "all clear" to the guard. Only when [`is_clear`].
fn say_all_clear(shared: &Shared) {
    let pids = shared.commands.as_ref().map_or_else(Vec::new, |c| c.gate().continuing());
    if let Some(guard) = &shared.guard
        && let Err(error) = guard.all_clear(&pids)
    {
        log::error!("could not say all clear to the guard: {error}");
    }
    log::info!("all clear: nothing of this life runs any more{}", spared(pids.len()));
}

/// Names the running `continue` tasks to the guard, with each beat.
pub fn tell_continuing(shared: &Shared) {
    let (Some(guard), Some(commands)) = (&shared.guard, &shared.commands) else { return };
    commands.gate().tell_continuing(|pids| name_to(&**guard, pids));
}

/// What the spawner tells the guard each time a `continue` task starts. That one has ended is told with the
/// next beat: the guard forgets the dead by itself.
pub fn naming(guard: &Arc<dyn GuardTalk>) -> TellContinuing {
    let guard = Arc::clone(guard);
    Arc::new(move |pids| name_to(&*guard, pids))
}

fn name_to(guard: &dyn GuardTalk, pids: &[i32]) {
    if let Err(error) = guard.continuing(pids) {
        log::error!("could not name the continuing tasks to the guard: {error}");
    }
}

/// The lease watch: one pass; says how long to wait for the next.
pub fn watch_lease(shared: &Arc<Shared>) -> Duration {
    let life = shared.life();
    let now = shared.clock.lease_now();
    match life.phase {
        Phase::Out | Phase::Registered | Phase::Clear => {
            shared.unit.without_lease(shared);
            WITHOUT_LEASE
        }
        Phase::Live => {
            let Some(until) = life.lease.until() else { return WITHOUT_LEASE };
            if now < until {
                return until.since(now).min(shared.look_again()).min(stop_overdue(shared, now));
            }
            if let Some(incarnation) = life.incarnation
                && !planted(Bug::NoSelfFence)
            {
                end_life(shared, incarnation, Why::LeaseLost);
            }
            Duration::from_millis(1)
        }
        Phase::Over => {
            if clear_up(shared, &life) {
                // Only this thread leaves `over`, so it still is.
                shared.life.lock().phase = Phase::Clear;
            }
            Duration::from_millis(5)
        }
    }
}

/// Tells Rust handlers to stop whose kind's timeout is over; how long until the next one is. Commands are watched
/// by their supervisors.
fn stop_overdue(shared: &Shared, now: LeaseInstant) -> Duration {
    let mut next = Duration::MAX;
    shared.running.for_each(|entry| {
        let (Some(control), Some(began_at)) = (&entry.control, entry.began_at) else { return };
        let Some(timeout) = shared.options.kinds.get(&entry.task.kind).and_then(|kind| kind.timeout) else { return };
        let deadline = began_at.after(timeout);
        if now < deadline {
            next = next.min(deadline.since(now));
        } else if control.requested().is_none() {
            log::warn!("task {} runs for longer than {timeout:?}: its handler is told to stop", entry.task.held.task);
            control.stop(StopKind::Timeout, now, now);
        }
    });
    next
}

/// Says "all clear" when it is; aborts the process where a handler still runs at L + K/2.
fn clear_up(shared: &Shared, life: &Life) -> bool {
    if is_clear(shared) || planted(Bug::AllClearEarly) {
        say_all_clear(shared);
        return true;
    }
    let handler_runs = shared.running.count(|entry| !entry.takes_slot && entry.control.is_some()) > 0;
    if handler_runs && life.lease.phase(shared.clock.lease_now()) >= LeasePhase::Guard {
        log::error!("a handler still runs after L + K/2: the process aborts, because a thread cannot be killed");
        crate::turns::abort("a handler does not end");
    }
    false
}

fn spared(count: usize) -> String {
    if count == 0 { String::new() } else { format!(", but {count} tasks that continue") }
}

/// The loop of the lease watch.
pub fn lease_loop(shared: &Arc<Shared>) {
    loop {
        // Before the look: a change that comes between the look and the wait ends the wait.
        let seen = shared.stop.nudges();
        let span = watch_lease(shared);
        if shared.stop.wait_nudged(Ending::All, span, seen) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::engine::options::{EngineOptions, Kind};
    use crate::engine::run::Engine;
    use crate::handlers::{Context, Outcome};
    use crate::protocol::ids::{EngineName, KindName};
    use crate::protocol::task::AttemptResult;
    use crate::store::{MemoryStore, NewTask, Store};

    #[test]
    fn a_handler_is_told_to_stop_when_the_time_of_its_kind_is_over() {
        let store = MemoryStore::new(Arc::new(SystemClock));
        let kind = KindName::new("slow").unwrap();
        let slow = |ctx: &Context| {
            assert!(ctx.time_left().unwrap() <= Duration::from_millis(100));
            while !ctx.is_canceled() {
                SystemClock.pause(Duration::from_millis(1));
            }
            assert!(ctx.time_left().unwrap().is_zero());
            Outcome::Tempfail("stopped".to_owned())
        };
        let options = EngineOptions::new(EngineName::new("e").unwrap())
            .kind(kind.clone(), Kind::handler(slow).timeout(Duration::from_millis(100)));
        let engine = Engine::start(Arc::new(store.clone()), options).unwrap();
        let task = NewTask { kind, payload: vec![], resources: vec![], priority: 0, delay: None };
        let task = store.add(&[task], "a test").unwrap()[0];
        let until = SystemClock.lease_now().after(Duration::from_secs(30));
        let results =
            || -> Vec<_> { store.attempts(task).unwrap().iter().filter_map(|attempt| attempt.result).collect() };
        while results().is_empty() && SystemClock.lease_now() < until {
            SystemClock.pause(Duration::from_millis(5));
        }
        engine.stop();
        engine.wait().unwrap();
        assert_eq!(results(), [AttemptResult::Timeout]);
    }
}
