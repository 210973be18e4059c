//! The seeded simulator: a cluster of engines over a database that fails, in one thread and in no time.
//!
//! What runs here is the real thing: the engine's loops as they are, the store in memory (which passes the same
//! conformance suite as the databases), the guard's memory, the gate that every start passes, the countdown of
//! signals, the arithmetic of the lease clock. Played are only the operating system (threads, processes,
//! signals, clocks) and the network. Loops are coroutines ([`crate::turns`] says where they give their turn
//! back), and a seed decides who goes on when, which call is lost, and what breaks.
//!
//! One seed is one run, always the same: own dice, no wall clock, no order of a hash map.
//!
//! After every step the promises of the design are checked ([`check`]) on the history of the database and on
//! the processes, by code that shares nothing with what it checks. After half a minute of faults everything is
//! healed, and then every task must end within [`QUIET_WITHIN`].
//!
//! What it does not play: Rust handlers, escaped grandchildren (`setsid`), the statements of the SQL backends
//! (the conformance suite holds them against the memory store), and two primaries at once.

mod check;
mod clocks;
mod commands;
mod failover;
mod faults;
mod fiber;
mod guard;
mod locks;
mod net;
mod plan;
mod process;
mod rng;
mod store;
mod twin;
mod unit;
mod world;

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

pub use world::Stats;
use world::{S, World, now, with};

use crate::store::MemoryStore;
use crate::turns;

/// Seconds by which every task has ended after all was healed.
pub const QUIET_WITHIN: u64 = 240;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What it counted.
    pub stats: Stats,
    /// The first promise that was broken.
    pub violation: Option<String>,
    /// What happened, where it was asked for.
    pub trace: String,
}

/// Plays a seed to its end, or to the first broken promise.
pub fn play(seed: u64, tracing: bool) -> Outcome {
    fastrand::seed(seed);
    let mut dice = rng::Rng::new(seed);
    let plan = plan::Plan::draw(&mut dice);
    let mut world = World::new(seed, plan, tracing);
    world.store = Some(MemoryStore::new(Arc::new(clocks::DbClock)));
    world::begin(world);
    turns::set_player(Some(Rc::new(net::Sim)));
    plan::set_up();
    let violation = run();
    turns::set_player(None);
    let mut world = world::end();
    world.stats.tasks = world.store.take().map_or(0, |store| store.edit(|s| s.last_id)) as u64;
    Outcome { stats: world.stats, violation, trace: world.trace }
}

fn run() -> Option<String> {
    if let Some(found) = until(S + plan::HEAL_AT, || false) {
        return Some(found);
    }
    plan::heal();
    let limit = now() + QUIET_WITHIN * S;
    let mut calm = 0;
    while now() < limit {
        let found = until(now() + S / 2, || false);
        if found.is_some() {
            return found;
        }
        // Seen twice: what is quiet stays so.
        calm = if plan::unfinished().is_none() { calm + 1 } else { 0 };
        if calm == 3 {
            return None;
        }
    }
    plan::unfinished().map(|what| format!("I6: {what}, {QUIET_WITHIN} s after all was healed"))
}

/// Plays until then; the first broken promise.
fn until(end: u64, stops: impl Fn() -> bool) -> Option<String> {
    while !stops() && world::step(end) {
        let violation = with(|w| {
            process::check(w);
            w.check.violation.take()
        });
        if violation.is_some() {
            return violation;
        }
    }
    None
}
