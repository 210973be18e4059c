//! What a seed plays: how many engines, what they can run, which faults, when.

use std::sync::Arc;
use std::time::Duration;

use super::net::Link;
use super::rng::Rng;
use super::unit::{self, Unit};
use super::world::{Host, MS, Outage, S, World, now, trace, with};
use super::{faults, store};
use crate::engine::remember::Memory;
use crate::engine::{EngineOptions, Kind, Work};
use crate::handlers::CommandSpec;
use crate::protocol::engine::Wanted;
use crate::protocol::ids::{EngineName, KindName, ResourceName};
use crate::protocol::retry::RetryPolicy;
use crate::protocol::stand::{KeptBy, Stand};
use crate::protocol::task::{OnFailure, OnLeaseLoss, OnRetry, Policy, Rerun, TaskState};
use crate::protocol::timing::{Profile, Timing};
use crate::store::{NewTask, Store, Wish4Engine};

/// Kinds of tasks; `behave` says what they do.
const KINDS: [&str; 9] = ["quick", "long", "long", "deaf", "flaky", "broken", "hangs", "poison", "keep"];

/// States that are kept, some ten seconds of them: what a failover brings back, and what a read may lag behind to.
const HISTORY_MAX: usize = 80;

/// When the faults are over.
pub(super) const HEAL_AT: u64 = 31 * S;

/// What may go wrong in a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// Units run under systemd's watchdog.
    pub(super) systemd: bool,
    /// Calls of a thousand that fare badly.
    pub(super) loss: u64,
    /// Calls of a thousand that are slow.
    pub(super) slow: u64,
    /// Calls of a hundred that come out of a cut late.
    pub(super) late: u64,
    /// Claims of a hundred that stay open for a while.
    pub(super) late_claims: u64,
    /// Plain reads may lag.
    pub(super) lag: bool,
    /// Rows may be locked.
    pub(super) locks: bool,
    pub(super) steps_db_clock: bool,
    /// Sweeps may be answered by a node that stands still.
    pub(super) stale_sweeps: bool,
    /// Classes of faults that are played.
    pub(super) faults: Vec<Fault>,
    /// An older state comes back as another database.
    pub(super) fails_over: bool,
    /// An older state comes back, and nothing says so.
    pub(super) is_restored: bool,
    kinds: Vec<&'static str>,
}

/// A class of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    KillEngine,
    KillGuard,
    KillBoth,
    Freeze,
    FreezeGuard,
    FreezeBoth,
    Net,
    CutMany,
    Outage,
    Suspend,
    Reboot,
    Stuck,
    FailOver,
    Restore,
    Twin,
    DbClock,
    Operator,
    People,
    Namesake,
    Stop,
}

const FAULTS: [Fault; 18] = [
    Fault::KillEngine,
    Fault::KillGuard,
    Fault::KillBoth,
    Fault::Freeze,
    Fault::FreezeGuard,
    Fault::FreezeBoth,
    Fault::Net,
    Fault::CutMany,
    Fault::Outage,
    Fault::Suspend,
    Fault::Reboot,
    Fault::Stuck,
    Fault::FailOver,
    Fault::DbClock,
    Fault::Operator,
    Fault::People,
    Fault::Namesake,
    Fault::Stop,
];

/// T of the profile that is played.
pub(super) fn takeover_ns() -> u64 {
    Timing::of(Profile::Fast).takeover_after().as_nanos() as u64
}

/// How long a database call may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// No loop may stand still for longer while its engine beats: twice a call, its slack, and a wait.
pub(super) fn standing_ns() -> u64 {
    (STATEMENT_TIMEOUT * 3 + Duration::from_secs(4)).as_nanos() as u64
}

impl Plan {
    /// Of a seed.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| rng.percent(30)).collect();
        if faults.is_empty() {
            faults.push(*rng.pick(&FAULTS));
        }
        let mut plan = Self {
            systemd: rng.percent(50),
            loss: if rng.percent(50) { rng.range(1, 60) } else { 0 },
            slow: if rng.percent(40) { rng.range(1, 80) } else { 0 },
            late: if rng.percent(50) { 40 } else { 0 },
            late_claims: if rng.percent(40) { rng.range(5, 40) } else { 0 },
            lag: rng.percent(25),
            locks: rng.percent(40),
            stale_sweeps: rng.percent(20),
            steps_db_clock: faults.contains(&Fault::DbClock),
            fails_over: faults.contains(&Fault::FailOver),
            is_restored: false,
            kinds: KINDS.into_iter().filter(|kind| *kind == "quick" || rng.percent(50)).collect(),
            faults,
        };
        plan.narrow(rng);
        plan
    }

    /// Some runs play one thing only, because what it breaks hides behind other faults: they excuse too much, or
    /// are too far apart.
    fn narrow(&mut self, rng: &mut Rng) {
        match rng.below(12) {
            // Nothing but outages: nobody may be fenced for one.
            0 => {
                (self.loss, self.slow, self.late, self.late_claims) = (0, 0, 0, 0);
                (self.lag, self.locks, self.stale_sweeps) = (false, false, false);
                self.faults = vec![Fault::Outage];
            }
            // Failovers close together, and calls that are under way while they happen.
            1 => {
                (self.slow, self.late_claims) = (rng.range(80, 250), rng.range(10, 60));
                self.faults = vec![Fault::FailOver, Fault::FailOver, Fault::Net];
                self.fails_over = true;
            }
            // A restore of the same database in an outage that is longer than a lease. Nothing but the beats shows
            // it, so nothing else may keep an engine from having one.
            2 => {
                (self.loss, self.slow, self.late, self.late_claims) = (0, 0, 0, 0);
                (self.lag, self.locks, self.stale_sweeps, self.fails_over) = (false, false, false, false);
                self.faults = vec![Fault::Restore];
                self.is_restored = true;
            }
            // Resumed copies of machines beat rows of the originals. Without lost calls each beat is accounted for.
            3 => {
                (self.loss, self.slow, self.late, self.late_claims) = (0, 0, 0, 0);
                (self.lag, self.locks, self.stale_sweeps, self.fails_over) = (false, false, false, false);
                self.faults = vec![Fault::Twin, Fault::Twin, Fault::KillEngine];
            }
            _ => return,
        }
        self.steps_db_clock = false;
    }
}

fn name(text: &str) -> KindName {
    KindName::from_stored(text.to_owned())
}

fn kind(text: &str) -> Kind {
    let on_lease_loss = if text == "keep" { OnLeaseLoss::Continue } else { OnLeaseLoss::Stop };
    let timeout = if text == "hangs" { Duration::from_secs(3) } else { Duration::from_secs(30) };
    let spec = CommandSpec {
        timeout: Some(timeout),
        grace: Duration::from_millis(300),
        on_lease_loss,
        ..CommandSpec::default()
    };
    let retry = RetryPolicy { max: 4, first: Duration::from_millis(500), factor: 2.0, ..RetryPolicy::default() };
    let policy = Policy {
        max_lost: 3,
        rerun: if text == "broken" { Rerun::Never } else { Rerun::Always },
        on_retry: if text == "flaky" { OnRetry::Pass } else { OnRetry::Keep },
        on_failure: OnFailure::Pass,
        on_lease_loss,
    };
    Kind { work: Work::Command(Arc::new(spec)), retry, policy, queue: "default".into(), timeout: None }
}

/// What an engine is told.
pub(super) fn options(w: &mut World, u: usize) -> EngineOptions {
    let unit = &w.units[u];
    let mut options = EngineOptions {
        timing: Timing::of(Profile::Fast),
        slots: 2 + (u as u32 % 3),
        poll: Duration::from_millis(300),
        statement_timeout: STATEMENT_TIMEOUT,
        stop_deadline: Duration::from_secs(2),
        state_id: unit.state_id.clone(),
        // The guards of this world leave nothing, and every life has a process of its own.
        stand: Some(Stand {
            lock_device: 1,
            lock_inode: u as u64,
            pid_namespace: 1,
            start_ticks: u64::from(unit.life),
            kept_by: KeptBy::Group,
        }),
        ..EngineOptions::new(unit.name.clone())
    };
    for text in KINDS {
        options.kinds.insert(name(text), kind(text));
    }
    options
}

/// Makes hosts, engines, tasks, and the plan of faults.
pub(super) fn set_up() {
    let units = with(|w| {
        let count = if w.plan.faults.contains(&Fault::CutMany) { w.rng.range(5, 6) } else { w.rng.range(2, 5) };
        for u in 0..count as usize {
            let (base, ppm) = (w.rng.below(1_000_000 * S), w.rng.range(0, 2_000) as i64 - 1_000);
            let slewed_ppm = ppm + w.rng.range(0, 100) as i64 - 50;
            let (name, host) = (format!("e{u}"), format!("host-{u}"));
            w.hosts.push(Host {
                name: host,
                boot: 0,
                base,
                ppm,
                slewed_ppm,
                suspended_at: None,
                suspended: 0,
                woke_at: None,
            });
            w.units.push(new_unit(&name, u, &format!("state-{u}")));
        }
        count as usize
    });
    (0..units).for_each(unit::start);
    with(|w| {
        let tasks = w.rng.range(8, 30);
        for _ in 0..tasks {
            let after = if w.rng.percent(50) { 0 } else { w.rng.below(25 * S) };
            w.after(after, add_task);
        }
        let faults = w.rng.range(3, 16);
        for _ in 0..faults {
            let after = w.rng.range(S, 25 * S);
            w.after(after, faults::play);
        }
        if w.plan.stale_sweeps {
            for _ in 0..3 {
                let after = w.rng.range(S, 22 * S);
                w.after(after, stand_still);
            }
        }
        if w.plan.lag || w.plan.fails_over || w.plan.is_restored {
            w.after(MS, remember);
        }
    });
}

pub(super) fn new_unit(name: &str, host: usize, state_id: &str) -> Unit {
    Unit {
        name: EngineName::from_stored(name.to_owned()),
        host,
        state_id: state_id.to_owned(),
        life: 0,
        is_running: false,
        is_frozen: false,
        disturbed_at: None,
        unlinked_at: None,
        started_at: 0,
        is_wanted: true,
        shared: None,
        guard: super::guard::Guard::default(),
        net: Link::Up,
        beat_sent_at: None,
        stuck_since: None,
        memory: Memory::NOTHING,
        is_duplicate: false,
        stale: None,
    }
}

fn remember() {
    let state = with(|w| w.store()).snapshot();
    with(|w| {
        w.history.push((now(), state));
        if w.history.len() > HISTORY_MAX {
            w.history.remove(0);
        }
        let pause = w.rng.range(50 * MS, 200 * MS);
        w.after(pause, remember);
    });
}

/// A node stops to follow, and goes on to answer the sweeps of one engine: what they read stands still, and only
/// the comparison in a fence tells a peer that beats from one that does not.
fn stand_still() {
    let state = with(|w| w.store()).snapshot();
    with(|w| {
        let u = w.rng.below(w.units.len() as u64) as usize;
        trace!(w, "what {} sweeps stands still", w.units[u].name);
        w.units[u].stale = Some(state);
        let span = w.rng.range(S, 8 * S);
        w.after(span, move || with(|w| w.units[u].stale = None));
    });
}

pub(super) fn people(body: impl FnOnce(&store::SimStore)) {
    let store = store::SimStore { unit: 0, inner: with(|w| w.store()) };
    if with(|w| w.outage == Outage::No) {
        body(&store);
    }
}

fn add_task() {
    let task = with(|w| {
        let kinds = w.plan.kinds.clone();
        let of = *w.rng.pick(&kinds);
        let mut resources: Vec<ResourceName> = Vec::new();
        let wants = *w.rng.pick(&[0, 1, 1, 1, 2, 3]);
        for _ in 0..wants {
            resources.push(ResourceName::from_stored(format!("r{}", w.rng.below(4))));
        }
        resources.sort();
        resources.dedup();
        let delay = w.rng.percent(15).then(|| Duration::from_millis(w.rng.below(6_000)));
        NewTask { kind: name(of), payload: Vec::new(), resources, priority: 0, delay }
    });
    people(|store| drop(store.add(&[task], "somebody")));
}

/// Everything is well again.
pub(super) fn heal() {
    trace!("all is healed");
    let units = with(|w| {
        (w.plan.loss, w.plan.slow, w.plan.late_claims, w.plan.lag, w.plan.locks) = (0, 0, 0, false, false);
        w.units.iter_mut().for_each(|unit| {
            unit.net = Link::Up;
            if unit.stuck_since.take().is_some() {
                unit.disturbed_at = Some(now());
            }
            unit.stale = None;
        });
        w.slots.iter_mut().for_each(|slot| slot.stuck_until = 0);
        w.units.len()
    });
    faults::end_outage();
    (0..with(|w| w.hosts.len())).for_each(faults::wake_host);
    for u in 0..units {
        unit::thaw(u);
        let name = with(|w| w.units[u].name.clone());
        let wish =
            Wish4Engine { name, wanted: Wanted::Run, reason: None, by: "somebody".into(), deadline: None, lasts: None };
        people(|store| drop(store.set_wanted(&wish)));
        with(|w| {
            let unit = &w.units[u];
            if unit.is_wanted && !unit.is_running && !unit.guard.is_alive {
                unit::restart_later(w, u, 0);
            }
        });
    }
}

/// What is left to do; `None` when every task has ended and nothing runs.
pub(super) fn unfinished() -> Option<String> {
    let store = with(|w| w.store());
    let open = store.edit(|s| {
        let open = s.tasks.iter().find(|(_, task)| !task.state.is_end() && task.state != TaskState::Held);
        let owned = s.resources.iter().find(|(_, resource)| resource.owner.is_some());
        open.map(|(id, task)| format!("task {id} ({}) is {}", task.kind, task.state))
            .or_else(|| owned.map(|(name, _)| format!("{name} is owned")))
    });
    open.or_else(|| {
        with(|w| {
            let left = w.processes.iter().find(|p| p.is_alive && !p.is_uncovered);
            left.map(|p| format!("a process of task {} runs on {}", p.held.task, w.units[p.unit].name))
        })
    })
}
