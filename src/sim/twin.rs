//! A resumed copy of a machine: it beats the row of the original, once per h.
//!
//! Only its beats are played. Whatever else a copy does, it does as the same incarnation, and so for no longer than
//! the life that both share: it must be over soon.

use super::store::SimStore;
use super::world::{MS, World, now, trace, with};
use crate::protocol::engine::Mode;
use crate::protocol::ids::Incarnation;
use crate::store::{Beat, BeatOutcome, Store};

/// h of the profile that is played.
const H: u64 = 500 * MS;

/// What the original does before its life is over: the beat that finds the copy is answered, and no other.
const ANSWERED_MAX: u64 = 2;

/// A copy of this engine's machine goes on from now, for so long.
pub(super) fn begin(u: usize, span: u64) {
    let life = with(|w| w.units[u].shared.clone().filter(|_| w.units[u].is_running).map(|shared| shared.life()));
    if let Some(id) = life.and_then(|life| life.incarnation) {
        trace!("a copy of {} beats as {id}", with(|w| w.units[u].name.clone()));
        beat(id, now() + span);
    }
}

fn beat(id: Incarnation, until: u64) {
    let store = SimStore { unit: 0, inner: with(|w| w.store()) };
    let beat_of = Beat { incarnation: id, mode: Mode::Active, running: 0 };
    let is_there = store.inner.edit(|s| s.engines.contains_key(&id));
    if !is_there || !matches!(store.inner.beat(&beat_of), Ok(BeatOutcome::Accepted(_))) || now() >= until {
        return;
    }
    with(|w| {
        w.twins.entry(id).or_default();
        w.after(H, move || beat(id, until));
    });
}

impl World {
    /// A beat of this life was answered.
    pub(super) fn check_twin(&mut self, id: Incarnation) {
        let Some(answered) = self.twins.get_mut(&id) else { return };
        *answered += 1;
        if *answered > ANSWERED_MAX {
            let text = format!("twin: {id} beats on although a copy of it beats the same row");
            self.check.fail(text);
        }
    }
}
