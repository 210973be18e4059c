//! Runs attempts: commands on a thread each, Rust handlers on a few threads that live as long as the
//! engine.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::options::{Kind, Work};
use super::running::Entry;
use super::shared::{Report, Shared};
use super::stop::Ending;
use crate::handlers::{Attempt, AttemptControl, CommandSpec, Context, Ended, Handler, StopKind, run_caught};
use crate::protocol::engine::Wanted;
use crate::protocol::task::{AttemptResult, Wish};
use crate::protocol::time::LeaseInstant;
use crate::store::Held;

/// A supervisor's stack holds no buffers; those lie on the heap.
const STACK: usize = 256 << 10;

/// Grace of a kind's commands.
pub fn grace(kind: Option<&Kind>) -> Duration {
    match kind.map(|kind| &kind.work) {
        Some(Work::Command(spec)) => spec.grace,
        _ => Duration::ZERO,
    }
}

fn attempt(shared: &Shared, entry: &Entry, kind: &Kind) -> Attempt {
    let task = &entry.task;
    Attempt {
        task: task.held.task,
        kind: task.kind.clone(),
        queue: kind.queue.clone(),
        resources: task.resources.clone(),
        attempt: task.attempt,
        attempts_max: kind.retry.max.max(1),
        reason: task.reason,
        token: task.held.token,
        payload: Arc::from(task.payload.as_slice()),
        engine: shared.options.name.clone(),
        cluster: shared.options.cluster.clone(),
    }
}

/// The attempt leaves the table here, where it ended: whether a life is clear must not wait for a
/// finisher that waits for the database.
fn report(shared: &Shared, held: Held, ended: Ended) {
    if ended.starved {
        // Before the task is ready again, or this engine would claim it at once.
        let running = shared.commands.as_ref().map_or(0, |commands| commands.gate().running_count());
        let why = ended.detail.as_deref().unwrap_or_default();
        shared.appetite.starved(shared.clock.lease_now(), running, why);
    }
    let Some(entry) = shared.running.end(&held) else { return };
    if entry.takes_slot {
        shared.wake_dispatcher();
    }
    // The finisher ends after the last report, so there is a receiver.
    let ran = entry.began_at.map(|began_at| shared.clock.lease_now().since(began_at));
    let _ = shared.reports.0.send(Report { entry, ended, ran });
    crate::turns::changed();
}

/// Starts the attempt of a command on a thread of its own.
pub fn start_command(shared: &Arc<Shared>, held: Held, spec: Arc<CommandSpec>) {
    let for_thread = Arc::clone(shared);
    let spawned = crate::turns::spawn("attempt", STACK, move || {
        // With its supervisor gone the task would be held for ever, under an engine that beats.
        crate::turns::or_abort("the supervisor of a task", || run_command(&for_thread, held, &spec));
    });
    if let Err(error) = spawned {
        report(shared, held, Ended::starved(&format!("the host gives no further thread: {error}")));
    }
}

fn run_command(shared: &Arc<Shared>, held: Held, spec: &CommandSpec) {
    let ended = match AttemptControl::new() {
        Ok(control) => command(shared, &held, spec, &control),
        Err(error) => Ended::starved(&format!("no file descriptor: {error}")),
    };
    log::info!("task {} attempt ended: {}{}", held.task, ended.result, detail(&ended));
    report(shared, held, ended);
}

fn detail(ended: &Ended) -> String {
    ended.detail.as_ref().map_or_else(String::new, |detail| format!(" ({detail})"))
}

fn command(shared: &Arc<Shared>, held: &Held, spec: &CommandSpec, control: &Arc<AttemptControl>) -> Ended {
    let Some(entry) = shared.running.begin(held, control, shared.clock.lease_now()) else {
        return Ended::not_started(AttemptResult::HandedBack, "taken away before it started");
    };
    let Some(kind) = shared.options.kinds.get(&entry.task.kind) else {
        return Ended::not_started(AttemptResult::HandedBack, "its kind is not known here");
    };
    apply_early(shared, &entry, control);
    log::info!("task {} {} attempt {} starts", held.task, entry.task.kind, entry.task.attempt);
    match &shared.commands {
        Some(commands) => commands.run(spec, &attempt(shared, &entry, kind), control),
        None => Ended::not_started(AttemptResult::HandedBack, "this engine runs no commands"),
    }
}

/// Wishes and ends of life that came between the claim and the start.
fn apply_early(shared: &Shared, entry: &Entry, control: &AttemptControl) {
    let now = shared.clock.lease_now();
    let over = shared.life().phase.has_ended() || shared.life().incarnation != Some(entry.incarnation);
    let kind = match entry.wish {
        _ if over => StopKind::LeaseLost,
        // A claim whose answer came after the hand-back.
        _ if shared.stop.ending() >= Ending::HandBack => StopKind::HandBack,
        Wish::Cancel => StopKind::Cancel,
        Wish::Hold => StopKind::Hold,
        Wish::Requeue => StopKind::Requeue,
        Wish::None => return,
    };
    control.stop(kind, now, now);
}

/// The loop of one handler thread.
pub fn handler_loop(shared: &Arc<Shared>) {
    let jobs = shared.jobs.1.clone();
    loop {
        match jobs.recv_timeout(Duration::from_millis(200)) {
            Ok(held) => run_handler(shared, held),
            Err(_) if shared.stop.ends_loops() => return,
            Err(_) => {}
        }
    }
}

fn run_handler(shared: &Arc<Shared>, held: Held) {
    let ended = handle(shared, &held, &AttemptControl::of_handler());
    report(shared, held, ended);
    if shared.wants_ahead() {
        shared.wake_dispatcher();
    }
}

fn handle(shared: &Arc<Shared>, held: &Held, control: &Arc<AttemptControl>) -> Ended {
    let back = |why: &str| Ended::not_started(AttemptResult::HandedBack, why);
    let drains = shared.stop.ending() != Ending::No || shared.life.lock().wanted != Wanted::Run;
    if drains {
        return back("the engine takes nothing new");
    }
    let now = shared.clock.lease_now();
    let Some(entry) = shared.running.begin(held, control, now) else { return back("taken away before it started") };
    if shared.live() != Some(entry.incarnation) {
        // Without a lease nothing new starts; the next registration hands it back.
        let now = shared.clock.lease_now();
        control.stop(StopKind::LeaseLost, now, now);
        return back("the lease was over");
    }
    let Some(kind) = shared.options.kinds.get(&entry.task.kind) else { return back("its kind is not known here") };
    let Work::Handler(handler) = &kind.work else { return back("its kind is a command here") };
    apply_early(shared, &entry, control);
    let deadline = kind.timeout.map(|span| now.after(span));
    run_one(&**handler, attempt(shared, &entry, kind), control, deadline)
}

fn run_one(
    handler: &dyn Handler,
    attempt: Attempt,
    control: &Arc<AttemptControl>,
    deadline: Option<LeaseInstant>,
) -> Ended {
    if control.cancel_flag().load(Ordering::Acquire)
        && let Some(stop) = control.requested()
    {
        return Ended::not_started(stop.kind.result(), stop.kind.word());
    }
    run_caught(handler, &Context::new(attempt, Arc::clone(control)).until(deadline))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;
    use crate::clock::{Clock, ManualClock, SystemClock};
    use crate::engine::options::EngineOptions;
    use crate::engine::run::{Role, build};
    use crate::handlers::{Commands, Gate};
    use crate::protocol::ids::{EngineName, Incarnation, KindName, Nonce, TaskId, Token};
    use crate::protocol::retry::RetryPolicy;
    use crate::protocol::task::{OnLeaseLoss, Policy, Reason};
    use crate::store::{Claimed, MemoryStore};

    /// What it is told to do, it does.
    struct Played(Gate, fn() -> Ended);

    impl Commands for Played {
        fn run(&self, _: &CommandSpec, _: &Attempt, _: &AttemptControl) -> Ended {
            self.1()
        }
        fn gate(&self) -> &Gate {
            &self.0
        }
    }

    /// Starts a task whose command ends like this.
    fn start(ends: fn() -> Ended) -> Arc<Shared> {
        let store = MemoryStore::new(Arc::new(ManualClock::new()));
        let (name, incarnation, nonce) = (KindName::new("k").unwrap(), Incarnation::new(0), Nonce::new(7));
        let claimed = Claimed {
            held: Held { task: TaskId::new(1), token: Token::new(1), nonce },
            kind: name.clone(),
            attempt: 1,
            failures: 0,
            lost: 0,
            handed_back: 0,
            reason: Reason::First,
            was_elsewhere: false,
            payload: vec![],
            resources: vec![],
            waited: None,
        };
        let kind = Kind::command(CommandSpec::default(), Policy::default(), RetryPolicy::default(), "q".into());
        let options = EngineOptions::new(EngineName::new("e").unwrap()).kind(name, kind);
        let mut shared = build(Arc::new(store), options, Role::Library, None).unwrap();
        shared.commands.take().unwrap().tidy();
        shared.commands = Some(Arc::new(Played(Gate::default(), ends)));
        let shared = Arc::new(shared);
        let held = claimed.held;
        let entry = Entry {
            task: Arc::new(claimed),
            incarnation,
            control: None,
            began_at: None,
            wish: Wish::None,
            on_lease_loss: OnLeaseLoss::Stop,
            takes_slot: true,
            is_alone: false,
        };
        shared.running.expect(nonce);
        assert!(shared.running.settle(nonce, vec![entry]));
        start_command(&shared, held, Arc::new(CommandSpec::default()));
        shared
    }

    #[test]
    fn what_the_host_could_not_start_goes_back_free_and_the_engine_takes_less() {
        let shared = start(|| Ended::starved("no memory"));
        let report = shared.reports.1.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!((report.ended.result, report.ended.started), (AttemptResult::HandedBack, false));
        assert_eq!(shared.appetite.room(SystemClock.lease_now(), 4), 0);
    }

    #[test]
    fn a_panic_of_a_tasks_supervisor_ends_the_process() {
        const INSIDE: &str = "REKINDLE_TEST_INSIDE";
        const TEST: &str = "engine::worker::tests::a_panic_of_a_tasks_supervisor_ends_the_process";
        if std::env::var(INSIDE).is_ok() {
            let shared = start(|| panic!("a supervisor that is wrong"));
            drop(shared.reports.1.recv_timeout(Duration::from_secs(30)));
            return;
        }
        let mut again = Command::new(std::env::current_exe().unwrap());
        let output = again.args([TEST, "--exact", "--nocapture"]).env(INSIDE, TEST).output().unwrap();
        assert_eq!(output.status.signal(), Some(nix::libc::SIGABRT), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
