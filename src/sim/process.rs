//! The processes of tasks: they run, whatever becomes of their engine, until they end or are killed.

use super::world::{MS, World, now, trace, with};
use crate::protocol::ids::{Incarnation, ResourceName};
use crate::store::Held;

/// One attempt's process.
pub(super) struct Process {
    pub(super) unit: usize,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) held: Held,
    pub(super) resources: Vec<ResourceName>,
    pub(super) is_alive: bool,
    /// Its kind says `on_lease_loss = "continue"`: it may overlap.
    pub(super) continues: bool,
    /// Nothing covers it: design 4.1 names the cases.
    pub(super) is_uncovered: bool,
    pub(super) is_deaf: bool,
    /// It was ended by a signal.
    pub(super) was_signaled: bool,
    pub(super) exit_code: i32,
}

/// Process numbers begin far above those of the real host.
const PID_BASE: i32 = 1_000_000_000;

/// The number of a process.
pub(super) const fn pid(p: usize) -> i32 {
    PID_BASE + p as i32
}

/// And back.
pub(super) const fn of_pid(pid: i32) -> usize {
    (pid - PID_BASE) as usize
}

/// It ends, `after` nanoseconds from now, by itself or by a signal.
pub(super) fn ends_after(w: &mut World, p: usize, after: u64, by_signal: bool) {
    w.after(after, move || {
        with(|w| {
            let host = w.units[w.processes[p].unit].host;
            if w.hosts[host].suspended_at.is_some() {
                // Nothing runs on a host that sleeps.
                ends_after(w, p, 20 * MS, by_signal);
                return;
            }
            let process = &mut w.processes[p];
            if std::mem::replace(&mut process.is_alive, false) {
                process.was_signaled = by_signal;
                let (unit, held) = (process.unit, process.held);
                trace!(
                    w,
                    "{} process of {} ({}) ends{}",
                    w.units[unit].name,
                    held.task,
                    held.token,
                    if by_signal { " by a signal" } else { "" }
                );
                w.changed(unit);
            }
        });
    });
}

/// SIGKILL to all of a unit but those that are spared; the last one is dead after `within`.
pub(super) fn kill_all_of(u: usize, spared: &[usize], within: u64) {
    with(|w| {
        for p in 0..w.processes.len() {
            if w.processes[p].unit == u && w.processes[p].is_alive && !spared.contains(&p) {
                let after = w.rng.below(within + 1);
                ends_after(w, p, after, true);
            }
        }
    });
}

/// Those that the kernel does not end with their engine.
pub(super) fn continuing(w: &World, u: usize) -> Vec<usize> {
    let alone = |p: &usize| w.processes[*p].unit == u && w.processes[*p].is_alive && w.processes[*p].continues;
    (0..w.processes.len()).filter(alone).collect()
}

/// All of a unit are dead before anything else happens.
pub(super) fn kill_now(u: usize) {
    with(|w| w.processes.iter_mut().filter(|p| p.unit == u).for_each(|p| p.is_alive = false));
}

/// Nothing covers what runs here now.
pub(super) fn uncover(u: usize) {
    with(|w| uncover_in(w, u));
}

/// The same.
pub(super) fn uncover_in(w: &mut World, u: usize) {
    w.processes.iter_mut().filter(|p| p.unit == u && p.is_alive).for_each(|p| p.is_uncovered = true);
}

/// A process that starts while another one works for the same task or resource.
pub(super) fn start(w: &mut World, new: Process) -> usize {
    let name = w.units[new.unit].name.clone();
    trace!(w, "{name} process of {} ({}) starts", new.held.task, new.held.token);
    w.stats.attempts += 1;
    let mut bad = None;
    let mut uncovered = 0;
    for old in w.processes.iter().filter(|p| p.is_alive) {
        let meets = old.held.task == new.held.task || old.resources.iter().any(|r| new.resources.contains(r));
        if meets && (old.continues || old.is_uncovered || is_asleep(w, old.unit)) {
            uncovered += 1;
        } else if meets {
            let at = &w.units[old.unit].name;
            bad = Some(format!(
                "I5: {name} starts task {} ({}) while {at} still runs task {} ({})",
                new.held.task, new.held.token, old.held.task, old.held.token
            ));
        }
    }
    w.stats.uncovered += uncovered;
    if let Some(bad) = bad {
        w.check.fail(bad);
    }
    w.processes.push(new);
    w.processes.len() - 1
}

/// What runs on a host that slept is dead this long after its waking.
fn slept(kill_budget: std::time::Duration) -> u64 {
    kill_budget.as_nanos() as u64 * 102 / 100 + 100 * MS
}

/// A host that sleeps, or has just woken, is not covered.
fn is_asleep(w: &World, u: usize) -> bool {
    let (unit, host) = (&w.units[u], &w.hosts[w.units[u].host]);
    let kill_budget = unit.shared.as_ref().map_or_else(Default::default, |s| s.options.timing.kill_budget());
    host.suspended_at.is_some() || host.woke_at.is_some_and(|at| now() < at + slept(kill_budget))
}

/// I5 at this instant: nothing runs past L + K after the sending of its engine's last accepted beat.
pub(super) fn check(w: &mut World) {
    let mut bad = None;
    for p in w.processes.iter().filter(|p| p.is_alive && !p.continues && !p.is_uncovered) {
        let unit = &w.units[p.unit];
        let host = &w.hosts[unit.host];
        let (Some(shared), Some(sent_at)) = (&unit.shared, unit.beat_sent_at) else { continue };
        // Clocks differ by up to two per cent, and a host that slept is not covered until K after its waking.
        let span = shared.options.timing.dead_after().as_nanos() as u64 * 102 / 100;
        let excuse = host.woke_at.map_or(0, |at| at + slept(shared.options.timing.kill_budget()));
        if host.suspended_at.is_none() && now() > (sent_at + span).max(excuse) {
            bad = Some(format!(
                "I5: task {} still runs on {} {} ms after its last accepted beat",
                p.held.task,
                unit.name,
                (now() - sent_at) / MS
            ));
        }
    }
    if let Some(bad) = bad {
        w.check.fail(bad);
    }
}
