//! What a seed plays: how many engines, what they can run, which faults, when.

use std::sync::Arc;
use std::time::Duration;

use super::net::Link;
use super::rng::Rng;
use super::unit::{self, Unit};
use super::world::{Host, MS, Outage, S, World, now, trace, with};
use super::{process, store};
use crate::engine::{EngineOptions, Kind, Work};
use crate::handlers::CommandSpec;
use crate::protocol::engine::{Proof, Wanted};
use crate::protocol::ids::{EngineName, Epoch, KindName, ResourceName, TaskId};
use crate::protocol::retry::RetryPolicy;
use crate::protocol::task::{OnFailure, OnLeaseLoss, OnRetry, Policy, Rerun, TaskState};
use crate::protocol::timing::{Profile, Timing};
use crate::store::{Fence, NewTask, Store, TaskVerb, Wish4Engine};

/// Kinds of tasks; `behave` says what they do.
const KINDS: [&str; 9] = ["quick", "long", "long", "deaf", "flaky", "broken", "hangs", "poison", "keep"];

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
    /// Classes of faults that are played.
    faults: Vec<Fault>,
    /// An older state comes back.
    pub(super) fails_over: bool,
    kinds: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
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
        Self {
            systemd: rng.percent(50),
            loss: if rng.percent(50) { rng.range(1, 60) } else { 0 },
            slow: if rng.percent(40) { rng.range(1, 80) } else { 0 },
            late: if rng.percent(50) { 40 } else { 0 },
            late_claims: if rng.percent(40) { rng.range(5, 40) } else { 0 },
            lag: rng.percent(25),
            locks: rng.percent(40),
            steps_db_clock: faults.contains(&Fault::DbClock),
            fails_over: faults.contains(&Fault::FailOver),
            kinds: KINDS.into_iter().filter(|kind| *kind == "quick" || rng.percent(50)).collect(),
            faults,
        }
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
    Kind { work: Work::Command(Arc::new(spec)), retry, policy, queue: "default".into() }
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
            w.after(after, play);
        }
        if w.plan.lag || w.plan.fails_over {
            w.after(MS, remember);
        }
    });
}

fn new_unit(name: &str, host: usize, state_id: &str) -> Unit {
    Unit {
        name: EngineName::from_stored(name.to_owned()),
        host,
        state_id: state_id.to_owned(),
        life: 0,
        is_running: false,
        is_frozen: false,
        disturbed_at: None,
        is_wanted: true,
        shared: None,
        guard: unit::Guard::default(),
        net: Link::Up,
        cut_at: None,
        beat_sent_at: None,
        stuck_since: None,
        known_epoch: Epoch::new(0),
        is_duplicate: false,
    }
}

fn remember() {
    let state = with(|w| w.store()).snapshot();
    with(|w| {
        w.history.push((now(), state));
        if w.history.len() > 40 {
            w.history.remove(0);
        }
        let pause = w.rng.range(50 * MS, 200 * MS);
        w.after(pause, remember);
    });
}

fn people(body: impl FnOnce(&store::SimStore)) {
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

/// How long a disturbance lasts: less than L, more than L, more than T.
fn span(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.range(100 * MS, 2_400 * MS),
        1 => rng.range(2_400 * MS, 3_300 * MS),
        2 => rng.range(3_300 * MS, 5_000 * MS),
        _ => rng.range(5 * S, 12 * S),
    }
}

fn play() {
    if now() >= HEAL_AT {
        return;
    }
    let (fault, u, span, units) = with(|w| {
        let faults = w.plan.faults.clone();
        let fault = *w.rng.pick(&faults);
        let (u, span) = (w.rng.below(w.units.len() as u64) as usize, span(&mut w.rng));
        (fault, u, span.min(HEAL_AT - now()), w.units.len())
    });
    trace!("fault {fault:?} on e{u} for {} ms", span / MS);
    let later = |body: Box<dyn FnOnce()>| with(|w| w.after(span, body));
    match fault {
        Fault::KillEngine => unit::kill_engine(u),
        Fault::KillGuard => unit::kill_guard(u),
        Fault::KillBoth => {
            with(|w| w.units[u].guard = unit::Guard::default());
            unit::kill_engine(u);
        }
        Fault::Freeze => {
            unit::freeze(u, true, false);
            later(Box::new(move || unit::thaw(u)));
        }
        Fault::FreezeGuard => {
            unit::freeze(u, false, true);
            later(Box::new(move || unit::thaw(u)));
        }
        Fault::FreezeBoth => {
            unit::freeze(u, true, true);
            later(Box::new(move || unit::thaw(u)));
        }
        Fault::Net => {
            let link = with(|w| *w.rng.pick(&[Link::Cut, Link::Mute, Link::Slow]));
            cut(u, link, span);
        }
        Fault::CutMany => {
            let first = with(|w| w.rng.below(2)) as usize;
            (first..units - 1).for_each(|u| cut(u, Link::Cut, span.max(8 * S).min(HEAL_AT - now())));
        }
        Fault::Outage => outage(span),
        Fault::Suspend => suspend(u, span),
        Fault::Reboot => reboot(u),
        Fault::Stuck => stick(u, span * 2),
        Fault::FailOver => store::fail_over(),
        Fault::DbClock => with(|w| w.db_ahead_us += w.rng.range(0, 40_000_000) as i64 - 20_000_000),
        Fault::Operator => operator_fence(),
        Fault::People => wish(u),
        Fault::Namesake => namesake(u),
        Fault::Stop => stop(u),
    }
}

fn cut(u: usize, link: Link, span: u64) {
    with(|w| {
        w.units[u].net = link;
        w.units[u].cut_at = Some(now());
        w.after(span, move || {
            with(|w| {
                trace!(w, "{} is connected again", w.units[u].name);
                w.units[u].cut_at = Some(now());
                w.units[u].net = Link::Up;
            });
        });
    });
}

fn outage(span: u64) {
    with(|w| {
        if w.outage != Outage::No {
            return;
        }
        w.outage = if w.rng.percent(50) { Outage::Down } else { Outage::Frozen };
        let kind = w.outage;
        trace!(w, "the database is away: {kind:?}");
        w.after(span, end_outage);
    });
}

fn end_outage() {
    let calls = with(|w| {
        if w.outage == Outage::No {
            return Vec::new();
        }
        trace!(w, "the database is back");
        w.outage = Outage::No;
        w.outage_ended_at = Some(now());
        std::mem::take(&mut w.frozen_calls)
    });
    for call in calls {
        with(|w| w.stats.calls += 1);
        call();
    }
}

fn suspend(u: usize, span: u64) {
    with(|w| {
        let host = w.units[u].host;
        if w.hosts[host].suspended_at.is_some() {
            return;
        }
        w.hosts[host].suspended_at = Some(now());
        w.after(span, move || wake_host(host));
        // The network often comes later.
        if w.rng.percent(50) {
            w.units[u].net = Link::Cut;
            let after = span + w.rng.below(4 * S);
            w.after(after, move || with(|w| w.units[u].net = Link::Up));
        }
    });
}

fn wake_host(host: usize) {
    let units = with(|w| {
        let Some(since) = w.hosts[host].suspended_at.take() else { return Vec::new() };
        w.hosts[host].suspended += now() - since;
        w.hosts[host].woke_at = Some(now());
        trace!(w, "{} wakes", w.hosts[host].name);
        let units: Vec<usize> = (0..w.units.len()).filter(|u| w.units[*u].host == host).collect();
        for u in &units {
            w.units[*u].disturbed_at = Some(now());
        }
        units
    });
    for u in units {
        unit::go_on(u);
    }
}

fn reboot(u: usize) {
    unit::end_process(u);
    process::kill_now(u);
    with(|w| {
        w.units[u].guard = unit::Guard::default();
        let host = w.units[u].host;
        w.hosts[host].boot += 1;
        unit::restart_later(w, u, 3 * S);
    });
}

/// One loop stands still, the others turn.
fn stick(u: usize, span: u64) {
    with(|w| {
        let which = *w.rng.pick(&["dispatcher", "sweeper", "finisher"]);
        let until = now() + span;
        let life = w.units[u].life;
        let mut found = false;
        for slot in w.slots.iter_mut().filter(|s| s.unit == u && s.life == life && s.name == which) {
            slot.stuck_until = until;
            found = true;
        }
        if found && w.units[u].is_running {
            w.units[u].stuck_since = Some(now());
            w.units[u].disturbed_at = Some(now());
            w.after(span, move || {
                with(|w| {
                    if w.units[u].life == life {
                        w.units[u].stuck_since = None;
                        w.units[u].disturbed_at = Some(now());
                    }
                });
            });
        }
    });
}

fn operator_fence() {
    let store = with(|w| w.store());
    let live = store.edit(|s| {
        let live = s.engines.iter().filter(|(_, e)| e.state == crate::protocol::engine::EngineState::Live);
        live.map(|(id, _)| *id).collect::<Vec<_>>()
    });
    if live.is_empty() {
        return;
    }
    let incarnation = with(|w| *w.rng.pick(&live));
    let fence = Fence { incarnation, beat: None, proof: Proof::Operator, by: "somebody".into() };
    people(|store| drop(store.fence(&fence)));
}

fn wish(u: usize) {
    let (wanted, name, cancel, last) = with(|w| {
        let wanted = *w.rng.pick(&[Wanted::Run, Wanted::Pause, Wanted::Drain]);
        (wanted, w.units[u].name.clone(), w.rng.percent(70), w.rng.next())
    });
    people(|store| {
        if cancel {
            let ids = store.inner.edit(|s| s.tasks.keys().copied().collect::<Vec<TaskId>>());
            if let Some(id) = ids.get((last % (ids.len().max(1) as u64)) as usize) {
                let verb = if last.is_multiple_of(3) { TaskVerb::Retry } else { TaskVerb::Cancel };
                let _ = store.task_verb(*id, verb);
            }
            return;
        }
        let deadline = Some(Duration::from_secs(1)).filter(|_| wanted == Wanted::Drain);
        let wish = Wish4Engine { name, wanted, reason: None, by: "somebody".into(), deadline, lasts: None };
        let _ = store.set_wanted(&wish);
    });
}

/// The same name is started again elsewhere.
fn namesake(u: usize) {
    let new = with(|w| {
        let host = (w.units[u].host + 1) % w.hosts.len();
        let (name, id) = (w.units[u].name.to_string(), format!("state-other-{}", w.units.len()));
        let mut unit = new_unit(&name, host, &id);
        unit.is_duplicate = true;
        w.units.push(unit);
        w.units.len() - 1
    });
    unit::start(new);
    // It may have won the name; the other one is refused as long as it lives.
    with(|w| {
        let after = (HEAL_AT - S).saturating_sub(now());
        w.after(after, move || with(|w| w.units[new].is_wanted = false));
        w.after(after, move || unit::kill_engine(new));
    });
}

fn stop(u: usize) {
    let shared = with(|w| w.units[u].shared.clone().filter(|_| w.units[u].is_running));
    if let Some(shared) = shared {
        shared.stop.ask(crate::engine::stop::Ending::Finish);
        with(|w| w.changed(u));
    }
}

/// Everything is well again.
pub(super) fn heal() {
    trace!("all is healed");
    let units = with(|w| {
        (w.plan.loss, w.plan.slow, w.plan.late_claims, w.plan.lag, w.plan.locks) = (0, 0, 0, false, false);
        w.units.iter_mut().for_each(|unit| {
            if unit.net != Link::Up {
                unit.cut_at = Some(now());
            }
            unit.net = Link::Up;
            unit.stuck_since = None;
        });
        w.slots.iter_mut().for_each(|slot| slot.stuck_until = 0);
        w.units.len()
    });
    end_outage();
    (0..with(|w| w.hosts.len())).for_each(wake_host);
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
