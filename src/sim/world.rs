//! One run's world: time, dice, what happens next, and who is in it. Everything lives on one thread; the
//! loops reach it through [`with`], never across a turn.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;

use corosensei::Yielder;

use super::check::Checker;
use super::fiber::{self, Fiber};
use super::plan::Plan;
use super::process::Process;
use super::rng::Rng;
use super::unit::Unit;
use crate::protocol::ids::Incarnation;
use crate::store::MemoryStore;
use crate::store::memory::State;

/// Nanoseconds of a millisecond.
pub(super) const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub(super) const S: u64 = 1_000 * MS;

/// What happens at an instant.
enum Event {
    /// A loop that waited goes on, if it still waits for this.
    Wake(usize, u64),
    /// Something else.
    Do(Box<dyn FnOnce()>),
}

/// One loop of one process.
pub(super) struct Slot {
    fiber: Option<Fiber>,
    yielder: Option<*const Yielder<(), ()>>,
    pub(super) unit: usize,
    pub(super) life: u32,
    pub(super) name: &'static str,
    /// Counts its waits.
    wait: u64,
    listens: bool,
    is_due: bool,
    /// It does not turn until then, though its process does.
    pub(super) stuck_until: u64,
}

/// A host: its clocks and whether it sleeps.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) boot: u32,
    pub(super) base: u64,
    /// Parts in 100,000 by which its clock is fast (or slow).
    pub(super) ppm: i64,
    pub(super) slewed_ppm: i64,
    pub(super) suspended_at: Option<u64>,
    pub(super) suspended: u64,
    pub(super) woke_at: Option<u64>,
}

/// What the run counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Turns of loops.
    pub turns: u64,
    /// Calls that reached the database.
    pub calls: u64,
    /// Calls whose caller got no answer.
    pub ambiguous: u64,
    /// Calls done after their caller had given up.
    pub late: u64,
    /// Fences won by peers.
    pub fences: u64,
    /// Deaths proved.
    pub proofs: u64,
    /// Tasks taken over.
    pub takeovers: u64,
    /// Results refused.
    pub refused: u64,
    /// Databases that came back older.
    pub failovers: u64,
    /// Attempts that started.
    pub attempts: u64,
    /// Tasks that ended.
    pub tasks: u64,
    /// What people asked of running tasks.
    pub wishes: u64,
    /// Attempts that overlapped with a successor in a class that is not covered.
    pub uncovered: u64,
}

impl Stats {
    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            turns: self.turns + other.turns,
            calls: self.calls + other.calls,
            ambiguous: self.ambiguous + other.ambiguous,
            late: self.late + other.late,
            fences: self.fences + other.fences,
            proofs: self.proofs + other.proofs,
            takeovers: self.takeovers + other.takeovers,
            refused: self.refused + other.refused,
            failovers: self.failovers + other.failovers,
            attempts: self.attempts + other.attempts,
            tasks: self.tasks + other.tasks,
            wishes: self.wishes + other.wishes,
            uncovered: self.uncovered + other.uncovered,
        }
    }
}

/// See the module.
pub(super) struct World {
    pub(super) rng: Rng,
    seq: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    bodies: Vec<Option<Event>>,
    free: Vec<usize>,
    pub(super) slots: Vec<Slot>,
    pub(super) units: Vec<Unit>,
    pub(super) hosts: Vec<Host>,
    pub(super) processes: Vec<Process>,
    pub(super) store: Option<MemoryStore>,
    pub(super) history: Vec<(u64, State)>,
    pub(super) plan: Plan,
    pub(super) check: Checker,
    pub(super) stats: Stats,
    pub(super) tracing: bool,
    pub(super) trace: String,
    /// What the database's clock is ahead, in microseconds.
    pub(super) db_ahead_us: i64,
    /// Counts failovers: what was under way to the database before one is lost.
    pub(super) db_life: u32,
    pub(super) outage: Outage,
    pub(super) outage_ended_at: Option<u64>,
    pub(super) outage_lasted: u64,
    pub(super) outage_began_at: u64,
    pub(super) frozen_calls: Vec<Box<dyn FnOnce()>>,
    changed: Vec<usize>,
    /// Lives that a copy beats too, with the beats of the original that were answered since.
    pub(super) twins: BTreeMap<Incarnation, u64>,
}

/// How the database is away for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outage {
    No,
    /// Connections are refused.
    Down,
    /// Statements hang, and are done when it thaws.
    Frozen,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// The true time.
pub(super) fn now() -> u64 {
    NOW.get()
}

/// Looks at or changes the world.
pub(super) fn with<T>(body: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| body(world.as_mut().expect("a run has begun")))
}

/// Like [`with`], where there may be none any more.
pub(super) fn with_any<T>(body: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.with_borrow_mut(|world| world.as_mut().map(body))
}

/// Begins a run.
pub(super) fn begin(world: World) {
    NOW.set(S);
    WORLD.with_borrow_mut(|slot| *slot = Some(world));
}

/// Ends it.
pub(super) fn end() -> World {
    let fibers: Vec<Fiber> = with(|w| w.slots.iter_mut().filter_map(|slot| slot.fiber.take()).collect());
    fibers.into_iter().for_each(fiber::end);
    WORLD.with_borrow_mut(Option::take).expect("a run has begun")
}

/// Writes a line of the trace.
macro_rules! trace {
    ($w:ident, $($arg:tt)*) => {
        if $w.tracing {
            let line = format!($($arg)*);
            $w.note(&line);
        }
    };
    ($($arg:tt)*) => {
        if $crate::sim::world::with_any(|w| w.tracing) == Some(true) {
            let line = format!($($arg)*);
            $crate::sim::world::with_any(|w| w.note(&line));
        }
    };
}
pub(super) use trace;

impl World {
    /// An empty world.
    pub(super) fn new(seed: u64, plan: Plan, tracing: bool) -> Self {
        Self {
            rng: Rng::new(seed ^ 0x5eed_0000_0000_0000),
            seq: 0,
            events: BinaryHeap::new(),
            bodies: Vec::new(),
            free: Vec::new(),
            slots: Vec::new(),
            units: Vec::new(),
            hosts: Vec::new(),
            processes: Vec::new(),
            store: None,
            history: Vec::new(),
            plan,
            check: Checker::default(),
            stats: Stats::default(),
            tracing,
            trace: String::new(),
            db_ahead_us: 0,
            db_life: 0,
            outage: Outage::No,
            outage_ended_at: None,
            outage_lasted: 0,
            outage_began_at: 0,
            frozen_calls: Vec::new(),
            changed: Vec::new(),
            twins: BTreeMap::new(),
        }
    }

    /// Adds a line to the trace.
    pub(super) fn note(&mut self, line: &str) {
        let at = (now() - S) as f64 / S as f64;
        let _ = writeln!(self.trace, "{at:>10.4} {line}");
    }

    fn push(&mut self, at: u64, event: Event) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.bodies.push(None);
            self.bodies.len() - 1
        });
        self.bodies[place] = Some(event);
        self.seq += 1;
        self.events.push(Reverse((at.max(now()), self.seq, place)));
    }

    /// Has something happen `after` nanoseconds from now.
    pub(super) fn after(&mut self, after: u64, body: impl FnOnce() + 'static) {
        self.push(now() + after, Event::Do(Box::new(body)));
    }

    /// The memory store.
    pub(super) fn store(&self) -> MemoryStore {
        self.store.clone().expect("made before the first engine")
    }

    /// A new loop of a process.
    pub(super) fn spawn(&mut self, unit: usize, name: &'static str, body: impl FnOnce() + 'static) -> usize {
        let life = self.units[unit].life;
        let id = self.slots.iter().position(|slot| slot.fiber.is_none() && slot.life == u32::MAX);
        let id = id.unwrap_or(self.slots.len());
        let fiber = Some(fiber::new(id, body));
        let wait = self.slots.get(id).map_or(0, |slot| slot.wait + 1);
        let slot = Slot { fiber, yielder: None, unit, life, name, wait, listens: false, is_due: false, stuck_until: 0 };
        if id == self.slots.len() {
            self.slots.push(slot);
        } else {
            self.slots[id] = slot;
        }
        let delay = self.rng.below(MS);
        self.push(now() + delay, Event::Wake(id, wait));
        id
    }

    /// The loop `id` waits until `at`, or for a change of its process where it `listens`.
    pub(super) fn sleep(&mut self, id: usize, at: Option<u64>, listens: bool) {
        let slot = &mut self.slots[id];
        slot.wait += 1;
        slot.listens = listens;
        slot.is_due = false;
        let wait = slot.wait;
        if let Some(at) = at {
            self.push(at, Event::Wake(id, wait));
        }
    }

    /// A process's loops may find what they wait for.
    pub(super) fn changed(&mut self, unit: usize) {
        if !self.changed.contains(&unit) {
            self.changed.push(unit);
        }
    }

    /// Those who listen go on soon, in an order drawn by lot.
    fn wake_listeners(&mut self) {
        while let Some(unit) = self.changed.pop() {
            for id in 0..self.slots.len() {
                let slot = &self.slots[id];
                if slot.unit == unit && slot.listens && slot.fiber.is_some() {
                    let (at, wait) = (now() + 5_000 + self.rng.below(300_000), slot.wait);
                    self.slots[id].listens = false;
                    self.push(at, Event::Wake(id, wait));
                }
            }
        }
    }

    /// Takes the loops of a process out of the world.
    pub(super) fn take_fibers(&mut self, unit: usize) -> Vec<Fiber> {
        let mut fibers = Vec::new();
        for slot in self.slots.iter_mut().filter(|slot| slot.unit == unit && slot.life != u32::MAX) {
            slot.wait += 1;
            slot.listens = false;
            slot.life = u32::MAX;
            fibers.extend(slot.fiber.take());
        }
        fibers
    }

    /// A process that was frozen goes on.
    pub(super) fn thaw(&mut self, unit: usize) {
        for id in 0..self.slots.len() {
            let slot = &self.slots[id];
            if slot.unit == unit && slot.is_due && slot.fiber.is_some() {
                let (at, wait) = (now() + self.rng.below(2 * MS), slot.wait);
                self.slots[id].is_due = false;
                self.push(at, Event::Wake(id, wait));
            }
        }
    }

    /// Whether the loop of this name of this process has ended.
    pub(super) fn has_ended(&self, unit: usize, life: u32, names: &[&str]) -> bool {
        let mut alive = self.slots.iter().filter(|slot| slot.unit == unit && slot.life == life);
        !alive.any(|slot| names.contains(&slot.name))
    }
}

/// Whether the next thing that happens lies before `until`; does it.
pub(super) fn step(until: u64) -> bool {
    let event = with(|w| {
        w.wake_listeners();
        if w.events.peek().is_none_or(|Reverse((at, ..))| *at > until) {
            return None;
        }
        let Reverse((at, _, place)) = w.events.pop()?;
        w.free.push(place);
        NOW.set(at);
        w.bodies[place].take()
    });
    match event {
        None => {
            NOW.set(until);
            return false;
        }
        Some(Event::Do(body)) => body(),
        Some(Event::Wake(id, wait)) => turn(id, wait),
    }
    true
}

fn turn(id: usize, wait: u64) {
    let taken = with(|w| {
        let at = now();
        let slot = &mut w.slots[id];
        if slot.wait != wait || slot.fiber.is_none() {
            return None;
        }
        let unit = slot.unit;
        if slot.stuck_until > at {
            // In pieces: healing ends it early.
            let until = slot.stuck_until.min(at + 50 * MS);
            w.push(until, Event::Wake(id, wait));
            return None;
        }
        if w.is_still(unit) {
            w.slots[id].is_due = true;
            return None;
        }
        let slot = &mut w.slots[id];
        slot.listens = false;
        w.stats.turns += 1;
        slot.fiber.take().map(|fiber| (fiber, slot.yielder, slot.life))
    });
    let Some((mut fiber, mut yielder, life)) = taken else { return };
    let has_ended = fiber::resume(id, &mut fiber, &mut yielder);
    let over = with(|w| {
        let unit = w.slots[id].unit;
        if has_ended {
            w.slots[id].life = u32::MAX;
            w.changed(unit);
        } else if w.slots[id].life == life {
            let slot = &mut w.slots[id];
            (slot.fiber, slot.yielder) = (Some(fiber), yielder);
            return None;
        }
        Some(fiber)
    });
    over.into_iter().for_each(fiber::end);
}
