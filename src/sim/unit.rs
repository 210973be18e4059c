//! One engine process with its guard on its host: starts, deaths, freezes, and what the guard does about them.
//!
//! The guard's memory ([`Heard`]) is the real one; its loop is played here by events: it hears, looks at its
//! deadline, kills, waits until nothing is left, has the death proved, and ends for systemd to restart.

use std::sync::Arc;
use std::time::Duration;

use nix::time::ClockId;

use super::commands::PlayedCommands;
use super::net;
use super::process;
use super::store::SimStore;
use super::world::{self, MS, S, World, now, trace, with};
use super::{fiber, plan};
use crate::clock::{Clock, lease_time};
use crate::engine::run::{Place, beat_loop, finish_loop, share};
use crate::engine::shared::Shared;
use crate::engine::{dispatcher, ending, guard_watch, over, sweeper};
use crate::guard::{GuardState, GuardTalk, Heard, Notice};
use crate::protocol::engine::Proof;
use crate::protocol::ids::{EngineName, Epoch, Incarnation};
use crate::protocol::time::{LeaseInstant, Timestamp};
use crate::store::{Fence, Store};
use crate::turns;

/// The guard of a unit.
#[derive(Default)]
pub(super) struct Guard {
    pub(super) is_alive: bool,
    pub(super) is_frozen: bool,
    heard: Heard,
    unread: Vec<Notice>,
    /// Processes it spares: those of `continue` tasks that were named.
    spared: Vec<usize>,
    has_expired: bool,
    last_tick: u64,
}

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
    pub(super) is_wanted: bool,
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) guard: Guard,
    pub(super) net: net::Link,
    /// When it last was cut off, or called with faults.
    pub(super) cut_at: Option<u64>,
    /// True time of the sending of its last answered beat.
    pub(super) beat_sent_at: Option<u64>,
    /// Since when a loop of it stands still.
    pub(super) stuck_since: Option<u64>,
    pub(super) known_epoch: Epoch,
    pub(super) is_duplicate: bool,
}

/// A host's clocks.
#[derive(Clone, Copy)]
pub(super) struct HostClock(pub(super) usize);

impl HostClock {
    /// What one of its clocks shows.
    pub(super) fn read(world: &World, host: usize, id: ClockId) -> u64 {
        let host = &world.hosts[host];
        let asleep = host.suspended + host.suspended_at.map_or(0, |at| now() - at);
        let scale = |span: u64, ppm: i64| (span as i128 * (100_000 + ppm) as i128 / 100_000) as u64;
        let awake = now() - asleep.min(now());
        match id {
            ClockId::CLOCK_MONOTONIC_RAW => host.base + scale(awake, host.ppm),
            ClockId::CLOCK_MONOTONIC => host.base / 2 + scale(awake, host.slewed_ppm),
            _ => host.base / 2 + scale(awake, host.slewed_ppm) + scale(asleep, host.slewed_ppm),
        }
    }
}

impl Clock for HostClock {
    fn lease_now(&self) -> LeaseInstant {
        with(|w| lease_time(|id| Self::read(w, self.0, id)))
    }

    fn wall_now(&self) -> Timestamp {
        Timestamp::from_us(1_790_000_000_000_000 + (now() / 1_000) as i64)
    }

    fn pause(&self, span: Duration) {
        let _ = turns::wait_until(span, || false);
    }
}

/// The database's clock.
pub(super) struct DbClock;

impl Clock for DbClock {
    fn lease_now(&self) -> LeaseInstant {
        LeaseInstant::from_ns(now())
    }

    fn wall_now(&self) -> Timestamp {
        let ahead = world::with_any(|w| w.db_ahead_us).unwrap_or(0);
        Timestamp::from_us(1_790_000_000_000_000 + (now() / 1_000) as i64 + ahead)
    }

    fn pause(&self, _: Duration) {}
}

impl World {
    /// Whether nothing of this process turns now.
    pub(super) fn is_still(&self, unit: usize) -> bool {
        let unit = &self.units[unit];
        unit.is_frozen || self.hosts[unit.host].suspended_at.is_some()
    }
}

/// What an engine tells its guard.
struct Link {
    unit: usize,
    life: u32,
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
fn hear(unit: &mut Unit, notice: Notice, at: LeaseInstant) {
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
    w.after(span, move || look(u, life));
}

fn look(u: usize, life: u32) {
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
fn bury(u: usize, life: u32, spared: Vec<usize>) {
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
        let fence = Fence { incarnation, beat: None, proof: Proof::Guard, by: name };
        net::send(u, "prove", move |store| drop(store.fence(&fence)));
    }
    with(|w| {
        w.units[u].guard.is_alive = false;
        let is_late = w.rng.percent(20);
        let after = if is_late { wait } else { 20 * MS };
        restart_later(w, u, after);
    });
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
            unit.known_epoch = unit.known_epoch.max(*shared.known_epoch.lock());
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

/// Starts the process of a unit, guard first.
pub(super) fn start(u: usize) {
    // What a former life with the same state directory left is killed first.
    process::kill_now(u);
    let store = Arc::new(SimStore { unit: u, inner: with(|w| w.store()) });
    let (life, host, options, known) = with(|w| {
        let unit = &mut w.units[u];
        unit.life += 1;
        unit.is_running = true;
        unit.is_frozen = false;
        unit.beat_sent_at = None;
        unit.guard = Guard { is_alive: true, last_tick: now(), ..Guard::default() };
        let (life, host, known) = (unit.life, unit.host, unit.known_epoch);
        (life, host, plan::options(w, u), known)
    });
    let clock = HostClock(host);
    let place = with(|w| Place {
        clock: Arc::new(clock),
        host: w.hosts[host].name.clone(),
        boot_id: format!("{}-{}", w.hosts[host].name, w.hosts[host].boot),
    });
    let commands = Arc::new(PlayedCommands::new(u, life, clock));
    let guard = Arc::new(Link { unit: u, life });
    let shared = Arc::new(share(store, options, place, known, Some(commands), Some(guard)));
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
