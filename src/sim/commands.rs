//! Runs the commands of a played engine: the gate and the countdown of signals are the real ones, the
//! processes are played.

use std::time::Duration;

use super::clocks::HostClock;
use super::process::{self, Process};
use super::world::{MS, now, trace, with};
use crate::clock::Clock;
use crate::handlers::{
    Attempt, AttemptControl, CommandSpec, Commands, Countdown, Dies, End, Ended, Gate, Limits, Step, verdict,
};
use crate::protocol::task::{AttemptResult, OnLeaseLoss};
use crate::turns;

/// See the module.
pub(super) struct PlayedCommands {
    unit: usize,
    life: u32,
    clock: HostClock,
    gate: Gate,
}

impl PlayedCommands {
    /// For one life of an engine process.
    pub(super) fn new(unit: usize, life: u32, clock: HostClock) -> Self {
        Self { unit, life, clock, gate: Gate::default() }
    }

    /// Forks, so to speak.
    fn spawn(&self, spec: &CommandSpec, attempt: &Attempt) -> Option<usize> {
        let entry = with(|w| w.units[self.unit].shared.clone())?;
        let held = entry.running.entries().into_iter().find(|e| e.task.held.task == attempt.task)?;
        // Read before the gate is locked: the clock is the world's too.
        let mut inside = self.gate.enter(&self.clock).ok()?;
        let p = with(|w| {
            w.check.starts(attempt, now(), w.units[self.unit].beat_sent_at, &entry.options.timing);
            let new = Process {
                unit: self.unit,
                incarnation: Some(held.incarnation),
                held: held.task.held,
                resources: attempt.resources.clone(),
                is_alive: true,
                continues: spec.on_lease_loss == OnLeaseLoss::Continue,
                is_uncovered: false,
                is_deaf: false,
                was_signaled: false,
                exit_code: 0,
            };
            let p = process::start(w, new);
            behave(w, p, attempt);
            p
        });
        let dies = if spec.on_lease_loss == OnLeaseLoss::Continue { Dies::Alone } else { Dies::WithEngine };
        inside.admit(process::pid(p), dies);
        Some(p)
    }
}

/// What a task of this kind does, and for how long.
fn behave(w: &mut super::world::World, p: usize, attempt: &Attempt) {
    let (mut span, mut code) = (w.rng.range(5 * MS, 1_500 * MS), 0);
    match attempt.kind.as_str() {
        "long" | "keep" => span = w.rng.range(500 * MS, 12_000 * MS),
        "deaf" => {
            span = w.rng.range(200 * MS, 9_000 * MS);
            w.processes[p].is_deaf = true;
        }
        "flaky" => code = if attempt.attempt <= 2 { 75 } else { 0 },
        "broken" => code = 64,
        "hangs" => span = 10_000_000 * MS,
        "poison" => {
            let (u, life) = (w.processes[p].unit, w.units[w.processes[p].unit].life);
            let after = w.rng.range(5 * MS, 400 * MS);
            w.after(after, move || {
                if with(|w| w.processes[p].is_alive && w.units[u].life == life && !w.is_still(u)) {
                    super::unit::kill_engine(u);
                }
            });
            span = 10_000_000 * MS;
        }
        _ => {}
    }
    w.processes[p].exit_code = code;
    process::ends_after(w, p, span, false);
}

impl Commands for PlayedCommands {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn run(&self, spec: &CommandSpec, attempt: &Attempt, control: &AttemptControl) -> Ended {
        let at = self.clock.lease_now();
        if let Some(stop) = control.requested().filter(|stop| at >= stop.term_at) {
            return Ended::not_started(stop.kind.result(), stop.kind.word());
        }
        let Some(p) = self.spawn(spec, attempt) else {
            trace!("{} the gate lets task {} not in", with(|w| w.units[self.unit].name.clone()), attempt.task);
            return Ended::not_started(AttemptResult::HandedBack, "not started: the gate is closed");
        };
        control_loop(self, spec, control, p)
    }
}

fn control_loop(commands: &PlayedCommands, spec: &CommandSpec, control: &AttemptControl, p: usize) -> Ended {
    let lease = (spec.on_lease_loss == OnLeaseLoss::Stop).then_some(&commands.gate);
    let timeout_at = spec.timeout.map(|span| commands.clock.lease_now().after(span));
    let mut countdown = Countdown::new(Limits { timeout_at, grace: spec.grace, lease });
    while with(|w| w.processes[p].is_alive && w.units[commands.unit].life == commands.life) {
        let at = commands.clock.lease_now();
        match countdown.step(at, control) {
            Step::Term => with(|w| {
                trace!(w, "SIGTERM to task {}", w.processes[p].held.task);
                if !w.processes[p].is_deaf {
                    let after = w.rng.range(MS, 40 * MS);
                    process::ends_after(w, p, after, true);
                }
            }),
            Step::Kill => with(|w| {
                trace!(w, "SIGKILL to task {}", w.processes[p].held.task);
                let after = w.rng.range(MS / 10, 8 * MS);
                process::ends_after(w, p, after, true);
            }),
            Step::Wait(until) => {
                let span = until.map_or(Duration::from_secs(3_600), |until| until.since(at));
                // At least the clock's own step, or rounding would make it spin.
                let span = span.max(Duration::from_micros(50));
                let _ = turns::player().map(|player| player.wait(span));
            }
        }
    }
    commands.gate.lock().forget(process::pid(p));
    let end = with(|w| match &w.processes[p] {
        process if process.was_signaled => End::Signal(9),
        process => End::Exit(process.exit_code),
    });
    let judged = verdict(end, countdown.stopped(control), &spec.exit_codes);
    Ended { elsewhere: judged.elsewhere, ..Ended::new(judged.result) }
}
