//! A failover: an older state comes back as another database.

use super::world::{S, now, trace, with};
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
