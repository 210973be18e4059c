//! An older state comes back: as another database (a failover), or as the same one (a restore that nothing tells).

use super::faults;
use super::plan::HEAL_AT;
use super::unit;
use super::world::{MS, S, World, now, trace, with};
use crate::protocol::last_beat::LastBeat;
use crate::protocol::timing::{Profile, Timing};
use crate::store::memory::State;

/// The last seconds are lost; so is every call that was under way.
pub(super) fn fail_over() {
    let restored = with(|w| {
        // Seldom a standby lags by so much that what was raised and settled before is lost with the rest.
        let limit = if w.rng.percent(20) { w.rng.below(9 * S) } else { w.rng.below(3 * S) };
        let from = now().saturating_sub(limit);
        let found = w.history.iter().rev().find(|(at, _)| *at <= from).or(w.history.first()).cloned();
        let (at, state) = found?;
        w.db_life += 1;
        w.stats.failovers += 1;
        w.frozen_calls.clear();
        w.units.iter_mut().for_each(|unit| unit.stale = None);
        trace!(w, "FAILOVER: the last {} ms are lost", (now() - at) / 1_000_000);
        w.history.retain(|(kept, _)| *kept <= at);
        Some((state, w.db_life, w.store()))
    });
    let Some((state, life, store)) = restored else { return };
    store.restore(state);
    store.set_identity(&format!("memory-{life}"));
    store.edit(|s: &mut State| with(|w| w.check.failed_over(s)));
}

/// The database is away for longer than a lease, and comes back older meanwhile. Some engines are started again
/// before it is back.
pub(super) fn restore_in_an_outage() {
    let lease = Timing::of(Profile::Fast).lease().as_nanos() as u64;
    let span = with(|w| lease + w.rng.range(S, 4 * S));
    if with(|w| w.outage != super::world::Outage::No) || now() + span >= HEAL_AT {
        return;
    }
    faults::outage(span);
    // Every lease is over by then: no engine compares a beat of the same life any more.
    with(|w| w.after(lease + 500 * MS, restore));
}

fn restore() {
    let restored = with(|w| {
        let (kills, evidence) = remembered(w);
        let is_older =
            |state: &State| evidence.iter().all(|last| beat_of(state, last).is_none_or(|beat| beat < last.beat));
        let (at, state) = w.history.iter().rev().find(|(_, state)| is_older(state)).cloned()?;
        w.db_life += 1;
        w.stats.failovers += 1;
        w.frozen_calls.clear();
        trace!(w, "RESTORE: the last {} ms are lost", (now() - at) / 1_000_000);
        w.history.retain(|(kept, _)| *kept <= at);
        Some((state, w.store(), kills))
    });
    let Some((state, store, kills)) = restored else { return };
    store.restore(state);
    store.edit(|s: &mut State| with(|w| w.check.failed_over(s)));
    kills.into_iter().for_each(unit::kill_engine);
}

fn beat_of(state: &State, last: &LastBeat) -> Option<i64> {
    state.engines.get(&last.incarnation).map(|engine| engine.beat)
}

/// Who is killed before the database is back, and what each engine will remember then. What is lost after the last
/// beat that an engine remembers shows in nothing (`protocol::last_beat`), so no more than that is brought back.
fn remembered(w: &mut World) -> (Vec<usize>, Vec<LastBeat>) {
    let oldest = w.history.first().map(|(_, state)| state.clone());
    let (mut kills, mut evidence) = (Vec::new(), Vec::new());
    for u in 0..w.units.len() {
        let Some(shared) = w.units[u].shared.clone().filter(|_| w.units[u].is_running) else { continue };
        let kept = shared.kept_beat.lock().last.clone();
        let kept =
            kept.filter(|last| oldest.as_ref().is_some_and(|old| beat_of(old, last).is_none_or(|b| b < last.beat)));
        let dies = w.rng.percent(30);
        match kept.filter(|_| dies) {
            Some(last) => {
                kills.push(u);
                evidence.push(last);
            }
            None => evidence.extend(shared.last_beat.lock().clone()),
        }
    }
    (kills, evidence)
}
