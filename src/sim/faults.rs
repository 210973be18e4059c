//! The faults of a run, each as it happens and as it ends.

use std::time::Duration;

use super::net::Link;
use super::plan::{Fault, HEAL_AT, new_unit, people};
use super::rng::Rng;
use super::store::SimStore;
use super::world::{MS, Outage, S, now, trace, with};
use super::{failover, process, twin, unit};
use crate::protocol::engine::{EngineState, Proof, Wanted};
use crate::protocol::task::{TaskState, Wish};
use crate::store::{Fence, Store, TaskVerb, Wish4Engine};

/// How long a disturbance lasts: less than L, more than L, more than T.
fn span(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.range(100 * MS, 2_400 * MS),
        1 => rng.range(2_400 * MS, 3_300 * MS),
        2 => rng.range(3_300 * MS, 5_000 * MS),
        _ => rng.range(5 * S, 12 * S),
    }
}

/// Something breaks.
pub(super) fn play() {
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
            with(|w| w.units[u].guard = super::guard::Guard::default());
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
            let link = with(|w| *w.rng.pick(&[Link::Cut, Link::Mute, Link::Slow, Link::OnlyBeats]));
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
        Fault::FailOver => {
            failover::fail_over();
            // One that follows closely loses also what the engines made of the first.
            if let Some(after) = with(|w| w.rng.percent(30).then(|| w.rng.range(100 * MS, 4 * S))) {
                with(|w| w.after(after.min(HEAL_AT - now()), failover::fail_over));
            }
            if with(|w| w.rng.percent(40)) {
                cut(u, Link::OnlyBeats, span.max(6 * S).min(HEAL_AT - now()));
            }
        }
        Fault::Restore => failover::restore_in_an_outage(),
        Fault::Twin => twin::begin(u, span),
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
        w.after(span, move || {
            with(|w| {
                trace!(w, "{} is connected again", w.units[u].name);
                w.units[u].net = Link::Up;
            });
        });
    });
}

pub(super) fn outage(span: u64) {
    with(|w| {
        if w.outage != Outage::No {
            return;
        }
        w.outage = if w.rng.percent(50) { Outage::Down } else { Outage::Frozen };
        let kind = w.outage;
        w.outage_began_at = now();
        trace!(w, "the database is away: {kind:?}");
        w.after(span, end_outage);
    });
}

/// The database is back.
pub(super) fn end_outage() {
    let calls = with(|w| {
        if w.outage == Outage::No {
            return Vec::new();
        }
        trace!(w, "the database is back");
        w.outage = Outage::No;
        w.outage_ended_at = Some(now());
        w.outage_lasted = now() - w.outage_began_at;
        std::mem::take(&mut w.frozen_calls)
    });
    // One after the other, as a server does them: no two at the same microsecond.
    with(|w| {
        for (place, call) in calls.into_iter().enumerate() {
            w.stats.calls += 1;
            w.after(place as u64 * 150_000, call);
        }
    });
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

/// A host goes on.
pub(super) fn wake_host(host: usize) {
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
        w.units[u].guard = super::guard::Guard::default();
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
        let live = s.engines.iter().filter(|(_, e)| e.state == EngineState::Live);
        live.map(|(id, _)| *id).collect::<Vec<_>>()
    });
    if live.is_empty() {
        return;
    }
    let incarnation = with(|w| *w.rng.pick(&live));
    let fence = Fence { incarnation, beat: None, proof: Proof::Operator, by: "somebody".into(), place: None };
    people(|store| drop(store.fence(&fence)));
}

fn wish(u: usize) {
    let (wanted, name, cancel, last) = with(|w| {
        let wanted = *w.rng.pick(&[Wanted::Run, Wanted::Pause, Wanted::Drain]);
        (wanted, w.units[u].name.clone(), w.rng.percent(70), w.rng.next())
    });
    people(|store| {
        if cancel {
            ask(store, last);
            return;
        }
        let deadline = Some(Duration::from_secs(1)).filter(|_| wanted == Wanted::Drain);
        let wish = Wish4Engine { name, wanted, reason: None, by: "somebody".into(), deadline, lasts: None };
        let _ = store.set_wanted(&wish);
    });
}

/// A person wants something of one task, or of all that run at this moment.
fn ask(store: &SimStore, dice: u64) {
    let runs = |state: TaskState| state == TaskState::Running;
    let tasks = store.inner.edit(|s| s.tasks.iter().map(|(id, task)| (*id, task.state)).collect::<Vec<_>>());
    if dice.is_multiple_of(2) {
        let wish = Wish::ALL[1 + (dice >> 8) as usize % (Wish::ALL.len() - 1)];
        tasks.iter().filter(|(_, state)| runs(*state)).for_each(|(id, _)| store.ask(*id, wish));
        return;
    }
    if let Some((id, _)) = tasks.get((dice % (tasks.len().max(1) as u64)) as usize) {
        let verb = if dice.is_multiple_of(3) { TaskVerb::Retry } else { TaskVerb::Cancel };
        let _ = store.task_verb(*id, verb);
    }
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
