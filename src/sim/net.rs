//! The way to the database: how long a call takes, whether it arrives, whether its answer does.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::fiber;
use super::store::SimStore;
use super::unit::{self};
use super::world::{MS, Outage, World, now, trace, with};
use crate::turns::{Called, Job, Player};

/// How an engine's own link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Link {
    /// Well.
    #[default]
    Up,
    /// Nothing arrives.
    Cut,
    /// Requests arrive, answers do not.
    Mute,
    /// Only its beats arrive, which have a connection and perhaps a way of their own.
    OnlyBeats,
    /// Slow: many calls take longer than q.
    Slow,
}

/// What becomes of one call.
struct Fate {
    /// It reaches the database after this.
    arrives: Option<u64>,
    /// Its answer comes this long after the call.
    answered: Option<u64>,
    refused: bool,
}

fn fate(w: &mut World, u: usize, step: &str, timeout: u64) -> Fate {
    let there = w.rng.range(MS / 5, 3 * MS);
    let back = w.rng.range(MS / 5, 3 * MS);
    let plain = Fate { arrives: Some(there), answered: Some(there + back), refused: false };
    let loss = w.plan.loss;
    if w.units[u].net != Link::Up {
        w.units[u].unlinked_at = Some(now());
    }
    match (w.outage, w.units[u].net) {
        (Outage::Down, _) => {
            let is_fast = w.rng.percent(70);
            return Fate { arrives: None, answered: None, refused: is_fast };
        }
        // When it thaws the server answers those who still wait.
        (Outage::Frozen, _) => return Fate { answered: Some(u64::MAX), ..plain },
        (_, Link::Cut) => {
            // What was sent into a cut may still come out of it, much later.
            let arrives = w.rng.percent(w.plan.late).then(|| timeout + w.rng.below(8_000 * MS));
            return Fate { arrives, answered: None, refused: false };
        }
        (_, Link::Mute) => return Fate { answered: None, ..plain },
        (_, Link::Slow) => {
            let (there, back) = (w.rng.below(timeout), w.rng.below(timeout));
            return Fate { arrives: Some(there), answered: Some(there + back), refused: false };
        }
        (_, Link::OnlyBeats) if step != "beat" => return Fate { arrives: None, answered: None, refused: false },
        (_, Link::Up | Link::OnlyBeats) => {}
    }
    match w.rng.below(1_000) {
        roll if roll < loss => match w.rng.below(5) {
            0 => Fate { refused: true, arrives: None, answered: None },
            1 => Fate { arrives: None, ..lost(plain) },
            2 => Fate { arrives: Some(timeout + w.rng.below(8_000 * MS)), ..lost(plain) },
            3 => Fate { arrives: Some(w.rng.below(timeout * 2)), ..lost(plain) },
            _ => lost(plain),
        },
        roll if roll < loss + w.plan.slow => {
            let (there, back) = (w.rng.below(timeout * 3 / 4), w.rng.below(timeout * 3 / 4));
            Fate { arrives: Some(there), answered: Some(there + back), refused: false }
        }
        _ => plain,
    }
}

/// A claim reads that its engine is live and commits a moment later: it may be fenced in between. Such a
/// transaction stays open for as long as the server lets silent clients, 1 s.
fn open_claim(w: &mut World, u: usize, fate: &mut Fate) -> Option<Rc<Cell<bool>>> {
    let after = fate.arrives.filter(|_| w.rng.percent(w.plan.late_claims))?;
    let was_live = Rc::new(Cell::new(false));
    let flag = Rc::clone(&was_live);
    w.after(after, move || flag.set(super::store::is_live(u)));
    let open_for = w.rng.below(1_000 * MS);
    fate.arrives = Some(after + open_for);
    fate.answered = fate.answered.filter(|at| *at != u64::MAX).map(|at| at + open_for);
    Some(was_live)
}

const fn lost(fate: Fate) -> Fate {
    Fate { answered: None, ..fate }
}

/// Has a body done in the database, unless that changed meanwhile.
fn deliver(w: &mut World, u: usize, after: u64, body: Box<dyn FnOnce()>) {
    let db_life = w.db_life;
    w.after(after, move || {
        let body = with(|w| {
            if w.db_life != db_life {
                return None;
            }
            match w.outage {
                Outage::Down => None,
                Outage::Frozen => {
                    w.frozen_calls.push(body);
                    None
                }
                Outage::No => {
                    w.stats.calls += 1;
                    Some(body)
                }
            }
        });
        if let Some(body) = body {
            super::store::with_lag(u, body);
        }
    });
}

/// A call whose answer nobody waits for: a prover's.
pub(super) fn send(u: usize, step: &'static str, body: impl FnOnce(&SimStore) + 'static) {
    with(|w| {
        let fate = fate(w, u, step, 400 * MS);
        trace!(w, "{} sends {step}", w.units[u].name);
        if let Some(after) = fate.arrives.filter(|after| *after < 400 * MS) {
            let store = SimStore { unit: u, inner: w.store() };
            deliver(w, u, after, Box::new(move || body(&store)));
        }
    });
}

/// Plays the loops of all engines.
pub(super) struct Sim;

fn loop_of() -> Option<(usize, usize)> {
    let id = fiber::current()?;
    Some((id, with(|w| w.slots[id].unit)))
}

/// In true time; the timers of hosts differ from it as their clocks do.
fn true_span(w: &World, u: usize, span: Duration) -> u64 {
    let ppm = w.hosts[w.units[u].host].slewed_ppm;
    let ns = span.as_nanos().min(u128::from(u64::MAX / 4)) as i128;
    (ns * 100_000 / i128::from(100_000 + ppm)) as u64
}

impl Player for Sim {
    fn wait(&self, span: Duration) -> Duration {
        let Some((id, u)) = loop_of() else { return Duration::ZERO };
        let until = with(|w| {
            let late = if w.rng.percent(2) { w.rng.below(20 * MS) } else { w.rng.below(MS) };
            let until = now() + true_span(w, u, span) + late;
            w.sleep(id, Some(until), true);
            until
        });
        fiber::suspend();
        if now() >= until { Duration::ZERO } else { Duration::from_nanos(until - now()).min(span) }
    }

    fn call(&self, step: &'static str, timeout: Duration, job: Job) -> Called {
        let Some((id, u)) = loop_of() else { return Called::Refused };
        let done = Rc::new(Cell::new(false));
        let began = now();
        let (fate, limit) = with(|w| {
            let limit = true_span(w, u, timeout);
            let mut fate = fate(w, u, step, limit);
            if step == "beat" {
                w.check_loops(u);
            }
            if matches!(step, "beat" | "claim") {
                w.check_lease(u, step);
            }
            let opened = (step == "claim").then(|| open_claim(w, u, &mut fate)).flatten();
            if let (false, Some(after)) = (fate.refused, fate.arrives) {
                let flag = Rc::clone(&done);
                let body: Box<dyn FnOnce()> = Box::new(move || {
                    flag.set(true);
                    if now() > began + limit {
                        with(|w| w.stats.late += 1);
                    }
                    super::store::with_claim(opened.is_some_and(|opened| opened.get()), job);
                });
                deliver(w, u, after, body);
            }
            (fate, limit)
        });
        // An answer that a frozen server owes comes when it thaws; looked for now and then.
        let piece = if fate.answered == Some(u64::MAX) { 20 * MS } else { limit };
        let called = loop {
            let wait = if fate.refused { MS } else { fate.answered.unwrap_or(limit).min(limit).min(piece) };
            with(|w| {
                let until = if fate.answered == Some(u64::MAX) { now() + wait } else { began + wait };
                w.sleep(id, Some(until), false);
            });
            fiber::suspend();
            if fate.refused {
                break Called::Refused;
            }
            if done.get()
                && fate.answered.is_some()
                && (fate.answered == Some(u64::MAX) || fate.answered <= Some(limit))
            {
                break Called::Answered;
            }
            if now() >= began + limit || fate.answered.is_some_and(|at| at != u64::MAX) {
                // The server closed the connection, or nothing came: either way nobody knows.
                break Called::Lost;
            }
        };
        with(|w| {
            if called == Called::Lost {
                w.stats.ambiguous += 1;
            }
            if called != Called::Answered {
                trace!(
                    w,
                    "{} {step}: {called:?}{}",
                    w.units[u].name,
                    if done.get() { ", but it was done" } else { "" }
                );
            }
            if step == "beat" && called == Called::Answered {
                w.units[u].beat_sent_at = Some(began);
            }
        });
        called
    }

    fn spawn(&self, name: &'static str, body: Job) {
        if let Some((_, u)) = loop_of() {
            with(|w| w.spawn(u, name, body));
        }
    }

    fn changed(&self) {
        if let Some((_, u)) = loop_of() {
            with(|w| w.changed(u));
        }
    }

    fn die(&self, why: &str) -> ! {
        let why = if why == "lost its guard" { "lost its guard" } else { "aborts" };
        let Some((_, u)) = loop_of() else { std::process::abort() };
        unit::die(u, why)
    }

    fn refused(&self, task: i64, nonce: i64) {
        with(|w| w.check.says_refused(task, nonce));
    }
}
