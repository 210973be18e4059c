//! One engine process with its guard on its host: starts, deaths, freezes, and how systemd starts it again.

use std::sync::Arc;
use std::time::Duration;

use super::clocks::HostClock;
use super::commands::PlayedCommands;
use super::guard::{Guard, Link, bury, hear, look};
use super::net;
use super::process;
use super::store::SimStore;
use super::world::{MS, S, World, now, trace, with};
use super::{fiber, plan};
use crate::clock::lease_time;
use crate::engine::remember::Memory;
use crate::engine::run::{Place, beat_loop, finish_loop, share};
use crate::engine::shared::Shared;
use crate::engine::{dispatcher, ending, guard_watch, over, sweeper};
use crate::protocol::ids::EngineName;
use crate::store::memory::State;

/// See the module.
pub(super) struct Unit {
    pub(super) name: EngineName,
    pub(super) host: usize,
    pub(super) state_id: String,
    /// Counts the processes that were started.
    pub(super) life: u32,
    pub(super) is_running: bool,
    pub(super) is_frozen: bool,
    /// When it was last frozen, suspended, or had a loop that stood still.
    pub(super) disturbed_at: Option<u64>,
    /// When a call of it last met a bad link.
    pub(super) unlinked_at: Option<u64>,
    pub(super) started_at: u64,
    pub(super) is_wanted: bool,
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) guard: Guard,
    pub(super) net: net::Link,
    /// True time of the sending of its last answered beat.
    pub(super) beat_sent_at: Option<u64>,
    /// Since when a loop of it stands still.
    pub(super) stuck_since: Option<u64>,
    pub(super) memory: Memory,
    pub(super) is_duplicate: bool,
    /// What its sweeps read instead of the present.
    pub(super) stale: Option<State>,
}

impl World {
    /// Whether nothing of this process turns now.
    pub(super) fn is_still(&self, unit: usize) -> bool {
        let unit = &self.units[unit];
        unit.is_frozen || self.hosts[unit.host].suspended_at.is_some()
    }
}

/// systemd starts it again.
pub(super) fn restart_later(w: &mut World, u: usize, after: u64) {
    let life = w.units[u].life;
    let pause = after + w.rng.range(S / 5, 2 * S);
    w.after(pause, move || {
        let starts = with(|w| {
            let unit = &w.units[u];
            unit.life == life && !unit.is_running && unit.is_wanted && w.hosts[unit.host].suspended_at.is_none()
        });
        if starts {
            start(u);
        } else {
            with(|w| {
                if w.units[u].life == life && !w.units[u].is_running && w.units[u].is_wanted {
                    restart_later(w, u, S);
                }
            });
        }
    });
}

/// Ends the engine's own process: all its loops are gone.
pub(super) fn end_process(u: usize) {
    let fibers = with(|w| {
        let unit = &mut w.units[u];
        if let Some(shared) = &unit.shared {
            // What its state file holds.
            unit.memory.epoch = shared.known_epoch.lock().clone();
            unit.memory.last_beat = shared.kept_beat.lock().last.clone().or(unit.memory.last_beat.take());
        }
        unit.is_running = false;
        unit.is_frozen = false;
        unit.stuck_since = None;
        w.take_fibers(u)
    });
    fibers.into_iter().for_each(fiber::end);
}

/// kill -9 of the engine. Its guard sees it at once, unless that is dead or frozen too.
pub(super) fn kill_engine(u: usize) {
    if !with(|w| w.units[u].is_running) {
        return;
    }
    trace!("{} engine is killed", with(|w| w.units[u].name.clone()));
    end_process(u);
    // Death signals end the tasks with the thread that started them.
    let alone = with(|w| process::continuing(w, u));
    process::kill_all_of(u, &alone, 2 * MS);
    let (has_guard, life) = with(|w| (w.units[u].guard.is_alive, w.units[u].life));
    if has_guard {
        with(|w| {
            let delay = w.rng.range(MS, 4 * MS);
            w.after(delay, move || when_thawed(u, life));
        });
    } else {
        with(|w| restart_later(w, u, 0));
    }
}

fn when_thawed(u: usize, life: u32) {
    let is_frozen = with(|w| {
        let guard = &w.units[u].guard;
        guard.is_alive
            && w.units[u].life == life
            && (guard.is_frozen || w.hosts[w.units[u].host].suspended_at.is_some())
    });
    if is_frozen {
        with(|w| w.after(50 * MS, move || when_thawed(u, life)));
    } else if with(|w| w.units[u].guard.is_alive && w.units[u].life == life) {
        bury(u, life, Vec::new());
    }
}

/// kill -9 of the guard.
pub(super) fn kill_guard(u: usize) {
    trace!("{} guard is killed", with(|w| w.units[u].name.clone()));
    let (was_running, has_systemd, is_still, life) = with(|w| {
        let (is_still, systemd) = (w.is_still(u), w.plan.systemd);
        let unit = &mut w.units[u];
        unit.guard.is_alive = false;
        (unit.is_running, systemd, is_still, unit.life)
    });
    if !was_running {
        process::kill_all_of(u, &[], 2 * MS);
        with(|w| restart_later(w, u, 0));
    } else if has_systemd && is_still {
        // The unit's main process is gone: systemd ends the rest of its cgroup.
        with(|w| {
            w.after(5 * MS, move || {
                if with(|w| w.units[u].life == life && w.units[u].is_running) {
                    kill_engine(u);
                }
            })
        });
    } else if is_still {
        process::uncover(u);
    }
    with(|w| w.changed(u));
}

/// A loop says that the process must end; called from one.
pub(super) fn die(u: usize, why: &'static str) -> ! {
    let life = with(|w| {
        trace!(w, "{} dies: {why}", w.units[u].name);
        w.units[u].life
    });
    if why == "lost its guard" {
        process::kill_all_of(u, &[], 5 * MS);
    }
    with(|w| {
        w.after(5 * MS, move || {
            if with(|w| w.units[u].life == life && w.units[u].is_running) {
                kill_engine(u);
            }
        });
    });
    loop {
        with(|w| w.sleep(fiber::current().expect("a loop dies"), None, false));
        fiber::suspend();
    }
}

/// SIGSTOP.
pub(super) fn freeze(u: usize, engine: bool, guard: bool) {
    with(|w| {
        trace!(w, "{} freezes: engine {engine}, guard {guard}", w.units[u].name);
        let systemd = w.plan.systemd;
        let unit = &mut w.units[u];
        unit.is_frozen |= engine && unit.is_running;
        unit.guard.is_frozen |= guard && unit.guard.is_alive;
        unit.disturbed_at = Some(now());
        if unit.is_frozen && (unit.guard.is_frozen || !unit.guard.is_alive) {
            let life = unit.life;
            if systemd {
                // The watchdog, fed by accepted beats only.
                let timing = unit.shared.as_ref().map(|s| s.options.timing);
                let span = timing.map_or(0, |t| (t.dead_after() - t.query_timeout() * 2).as_nanos() as u64);
                let due = unit.beat_sent_at.unwrap_or(now()) + span;
                w.after(due.saturating_sub(now()), move || watchdog(u, life));
            } else {
                process::uncover_in(w, u);
            }
        }
    });
}

fn watchdog(u: usize, life: u32) {
    let bites = with(|w| {
        let unit = &w.units[u];
        unit.life == life && unit.is_frozen && (unit.guard.is_frozen || !unit.guard.is_alive)
    });
    if bites {
        trace!("{} systemd's watchdog bites", with(|w| w.units[u].name.clone()));
        with(|w| w.units[u].guard = Guard::default());
        kill_engine(u);
    }
}

/// SIGCONT.
pub(super) fn thaw(u: usize) {
    with(|w| {
        let unit = &mut w.units[u];
        if unit.is_frozen || unit.guard.is_frozen {
            unit.disturbed_at = Some(now());
            trace!(w, "{} goes on", w.units[u].name);
        }
        w.units[u].is_frozen = false;
        w.units[u].guard.is_frozen = false;
    });
    go_on(u);
}

/// What is neither frozen nor on a host that sleeps goes on.
pub(super) fn go_on(u: usize) {
    let life = with(|w| {
        let host = w.units[u].host;
        let at = lease_time(|id| HostClock::read(w, host, id));
        if w.hosts[host].suspended_at.is_some() {
            return u32::MAX;
        }
        let unit = &mut w.units[u];
        if !unit.guard.is_frozen {
            for notice in std::mem::take(&mut unit.guard.unread) {
                hear(unit, notice, at);
            }
        }
        if !unit.is_frozen {
            w.thaw(u);
        }
        w.units[u].life
    });
    look(u, life);
}

/// Starts the process of a unit, guard first.
pub(super) fn start(u: usize) {
    // What a former life with the same state directory left is killed first.
    process::kill_now(u);
    let store = Arc::new(SimStore { unit: u, inner: with(|w| w.store()) });
    let (life, host, options, memory) = with(|w| {
        let unit = &mut w.units[u];
        unit.life += 1;
        unit.is_running = true;
        unit.is_frozen = false;
        unit.beat_sent_at = None;
        unit.started_at = now();
        unit.guard = Guard { is_alive: true, last_tick: now(), ..Guard::default() };
        let (life, host, memory) = (unit.life, unit.host, unit.memory.clone());
        (life, host, plan::options(w, u), memory)
    });
    let clock = HostClock(host);
    let place = with(|w| Place {
        clock: Arc::new(clock),
        host: w.hosts[host].name.clone(),
        boot_id: format!("{}-{}", w.hosts[host].name, w.hosts[host].boot),
    });
    let commands = Arc::new(PlayedCommands::new(u, life, clock));
    let guard = Arc::new(Link { unit: u, life });
    let shared = Arc::new(share(store, options, place, memory, Some(commands), Some(guard)));
    shared.pulses.begin(crate::clock::Clock::lease_now(&clock));
    with(|w| {
        trace!(w, "{} starts, life {life}", w.units[u].name);
        w.units[u].shared = Some(Arc::clone(&shared));
        let mut spawn = |name, body: fn(&Arc<Shared>)| {
            let shared = Arc::clone(&shared);
            w.spawn(u, name, move || body(&shared));
        };
        spawn("dispatcher", dispatcher::dispatch_loop);
        spawn("sweeper", sweeper::sweep_loop);
        spawn("finisher", finish_loop);
        spawn("lease", over::lease_loop);
        spawn("guard", guard_watch::guard_loop);
        let for_beat = Arc::clone(&shared);
        w.spawn(u, "heartbeat", move || {
            if let Err(error) = beat_loop(&for_beat) {
                trace!("{} gives up: {error}", for_beat.options.name);
            }
        });
        let shared = Arc::clone(&shared);
        w.spawn(u, "main", move || main(u, life, &shared));
    });
}

/// The main thread: waits for the end and concludes it.
fn main(u: usize, life: u32, shared: &Arc<Shared>) {
    let beats = || !with(|w| w.has_ended(u, life, &["heartbeat"]));
    let said = ending::end(shared, &beats, |until| {
        while shared.clock.lease_now() < until
            && !with(|w| w.has_ended(u, life, &["dispatcher", "sweeper", "finisher"]))
        {
            shared.clock.pause(Duration::from_millis(5));
        }
    });
    if said == Some(true) {
        shared.nothing_to_prove();
    }
    with(|w| {
        trace!(w, "{} ends, said {said:?}", w.units[u].name);
        w.after(MS, move || {
            if with(|w| w.units[u].life == life && w.units[u].is_running) {
                with(|w| w.units[u].is_wanted &= !w.units[u].is_duplicate);
                kill_engine(u);
            }
        });
    });
}
