//! The guard of a unit. Its memory ([`Heard`]) is the real one; its loop is played by events: it hears, looks at
//! its deadline, kills, waits until nothing is left, has the death proved, and ends.

use std::time::Duration;

use super::clocks::HostClock;
use super::unit::{Unit, end_process, restart_later};
use super::world::{MS, World, now, trace, with};
use super::{net, process};
use crate::clock::{Clock, lease_time};
use crate::guard::{GuardState, GuardTalk, Heard, Notice};
use crate::protocol::engine::Proof;
use crate::protocol::ids::Incarnation;
use crate::protocol::time::LeaseInstant;
use crate::store::{Fence, Store};
use crate::turns;

/// The guard of a unit.
#[derive(Default)]
pub(super) struct Guard {
    pub(super) is_alive: bool,
    pub(super) is_frozen: bool,
    pub(super) heard: Heard,
    pub(super) unread: Vec<Notice>,
    /// Processes it spares: those of `continue` tasks that were named.
    pub(super) spared: Vec<usize>,
    pub(super) has_expired: bool,
    /// Counts its looks at the deadline; only the last one that was planned counts.
    pub(super) looks: u64,
    pub(super) last_tick: u64,
}

/// What an engine tells its guard.
pub(super) struct Link {
    pub(super) unit: usize,
    pub(super) life: u32,
}

impl Link {
    fn tell(&self, notice: Notice) -> std::io::Result<()> {
        let clock = HostClock(with(|w| w.units[self.unit].host));
        let at = clock.lease_now();
        with(|w| {
            let unit = &mut w.units[self.unit];
            if !unit.guard.is_alive || unit.life != self.life {
                return Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
            }
            if unit.guard.is_frozen {
                unit.guard.unread.push(notice);
            } else {
                hear(unit, notice, at);
                watch(w, self.unit);
            }
            Ok(())
        })
    }
}

/// Takes one notice in.
pub(super) fn hear(unit: &mut Unit, notice: Notice, at: LeaseInstant) {
    let kill_budget = unit.shared.as_ref().map_or(Duration::ZERO, |s| s.options.timing.kill_budget());
    if let Notice::AllClear(pids) | Notice::Continue(pids) = &notice {
        unit.guard.spared = pids.iter().map(|pid| process::of_pid(*pid)).collect();
    }
    unit.guard.heard.hear(notice, at, kill_budget);
}

/// Has the guard look again when its deadline is due.
fn watch(w: &mut World, u: usize) {
    let (host, life) = (w.units[u].host, w.units[u].life);
    let Some(due) = w.units[u].guard.heard.deadline() else { return };
    let left = due.since(lease_time(|id| HostClock::read(w, host, id)));
    // Its clock may be slow: it looks again if it came too early.
    let span = left.as_nanos() as u64 + MS + w.rng.below(MS);
    let guard = &mut w.units[u].guard;
    guard.looks += 1;
    let planned = guard.looks;
    w.after(span, move || {
        if with(|w| w.units[u].life == life && w.units[u].guard.looks == planned) {
            look(u, life);
        }
    });
}

/// Looks at the deadline.
pub(super) fn look(u: usize, life: u32) {
    let is_due = with(|w| {
        let unit = &w.units[u];
        let guard = &unit.guard;
        let asleep = w.hosts[unit.host].suspended_at.is_some();
        if unit.life != life || !guard.is_alive || guard.is_frozen || asleep || guard.has_expired || !unit.is_running {
            return false;
        }
        let host_now = lease_time(|id| HostClock::read(w, unit.host, id));
        unit.guard.heard.deadline().is_some_and(|due| host_now >= due)
    });
    if is_due {
        expire(u, life);
    } else {
        with(|w| {
            let asleep = w.hosts[w.units[u].host].suspended_at.is_some();
            let unit = &w.units[u];
            if unit.life == life && unit.guard.is_alive && !unit.guard.is_frozen && !asleep && unit.is_running {
                watch(w, u);
            }
        });
    }
}

/// The deadline passed: the guard kills a process that neither renewed nor said that all is clear.
fn expire(u: usize, life: u32) {
    with(|w| {
        trace!(w, "{} guard: deadline passed, killing", w.units[u].name);
        let unit = &mut w.units[u];
        unit.guard.has_expired = true;
        let timing = unit.shared.as_ref().map(|s| s.options.timing);
        let patience = timing.map_or(0, |t| (t.dead_after() * 2).as_nanos() as u64);
        let is_excused = unit.is_frozen || unit.disturbed_at.is_some_and(|at| now() - at < patience);
        if !is_excused && unit.guard.heard.goodbye().is_none() {
            let name = unit.name.clone();
            w.check.fail(format!("self-fence: the guard had to kill {name}, whose loops turned"));
        }
    });
    let spared = with(|w| {
        let guard = &w.units[u].guard;
        if guard.heard.goodbye().is_none() { guard.spared.clone() } else { Vec::new() }
    });
    bury(u, life, spared);
}

/// The engine process is over (or is ended now); its guard kills what it left, proves it, and ends too.
pub(super) fn bury(u: usize, life: u32, spared: Vec<usize>) {
    end_process(u);
    let delay = with(|w| w.rng.range(MS, 25 * MS));
    process::kill_all_of(u, &spared, delay);
    with(|w| w.after(delay + MS, move || prove_when_clean(u, life)));
}

fn prove_when_clean(u: usize, life: u32) {
    let again = with(|w| {
        if w.units[u].life != life || !w.units[u].guard.is_alive {
            return None;
        }
        let is_dirty = w.processes.iter().any(|p| p.is_alive && p.unit == u);
        if is_dirty || w.units[u].guard.is_frozen || w.hosts[w.units[u].host].suspended_at.is_some() {
            w.after(20 * MS, move || prove_when_clean(u, life));
            return None;
        }
        let proved: Vec<Incarnation> = w.units[u].guard.heard.to_prove().collect();
        Some(proved)
    });
    let Some(proved) = again else { return };
    let wait = with(|w| w.units[u].shared.as_ref().map_or(0, |s| s.options.timing.query_timeout().as_nanos() as u64));
    for incarnation in proved {
        let name = with(|w| w.units[u].name.to_string());
        let fence = Fence { incarnation, beat: None, proof: Proof::Guard, by: name, place: None };
        net::send(u, "prove", move |store| drop(store.fence(&fence)));
    }
    with(|w| {
        w.units[u].guard.is_alive = false;
        let is_late = w.rng.percent(20);
        let after = if is_late { wait } else { 20 * MS };
        restart_later(w, u, after);
    });
}

impl GuardTalk for Link {
    fn registered(&self, incarnation: Incarnation) -> std::io::Result<()> {
        self.tell(Notice::Registered(incarnation))
    }
    fn renew(&self, deadline: LeaseInstant) -> std::io::Result<()> {
        self.tell(Notice::Renew(deadline))
    }
    fn all_clear(&self, spared: &[i32]) -> std::io::Result<()> {
        self.tell(Notice::AllClear(spared.to_vec()))
    }
    fn continuing(&self, pids: &[i32]) -> std::io::Result<()> {
        self.tell(Notice::Continue(pids.to_vec()))
    }
    fn goodbye(&self, exit_code: i32) -> std::io::Result<()> {
        self.tell(Notice::Goodbye(exit_code))
    }
    fn tell_unit(&self, watchdog_at: LeaseInstant, status: &str) -> std::io::Result<()> {
        self.tell(Notice::Unit(watchdog_at, status.to_owned()))
    }

    fn wait_tick(&self, timeout: Duration) -> GuardState {
        let began = now();
        let limit = timeout.as_nanos() as u64;
        loop {
            let seen = with(|w| {
                let asleep = w.hosts[w.units[self.unit].host].suspended_at.is_some();
                let guard = &mut w.units[self.unit].guard;
                if !guard.is_alive {
                    return Some(GuardState::Gone);
                }
                if !guard.is_frozen && !asleep {
                    guard.last_tick = now();
                }
                (now() - guard.last_tick.max(began) >= limit).then_some(GuardState::Silent)
            });
            if let Some(state) = seen {
                return state;
            }
            let left = turns::player().map(|player| player.wait(timeout / 8));
            let is_fresh = with(|w| {
                let guard = &w.units[self.unit].guard;
                guard.is_alive && !guard.is_frozen
            });
            if is_fresh && left == Some(Duration::ZERO) {
                return GuardState::Alive;
            }
        }
    }
}
