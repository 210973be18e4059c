//! Rows that another transaction holds while a takeover passes.

use std::cell::Cell;

use super::store::SimStore;
use super::world::with;
use crate::protocol::ids::{Incarnation, ResourceName, TaskId};

impl SimStore {
    /// Tasks whose rows another transaction holds: a takeover passes over them (`SKIP LOCKED`).
    pub(super) fn hide_some(&self, owner: Incarnation) -> Vec<(TaskId, Vec<ResourceName>)> {
        if !with(|w| w.plan.locks && w.rng.percent(20)) {
            return Vec::new();
        }
        let mut hidden = Vec::new();
        self.inner.edit(|s| {
            let running: Vec<TaskId> =
                s.tasks.iter().filter(|(_, t)| t.owner == Some(owner)).map(|(id, _)| *id).collect();
            for id in running {
                if !with(|w| w.rng.percent(50)) {
                    continue;
                }
                let Some(task) = s.tasks.get_mut(&id) else { continue };
                task.owner = None;
                let names = task.resources.clone();
                for name in &names {
                    if let Some(resource) = s.resources.get_mut(name) {
                        // Somebody else's for this moment, so that nobody frees it.
                        resource.owner = resource.owner.map(|(task, _)| (task, Incarnation::new(1)));
                    }
                }
                hidden.push((id, names));
            }
            hidden.iter_mut().for_each(|(_, names)| names.shrink_to_fit());
        });
        // The owner is put back by `unhide`, which needs it.
        HIDDEN_OWNER.set(Some(owner));
        hidden
    }

    pub(super) fn unhide(&self, hidden: Vec<(TaskId, Vec<ResourceName>)>) {
        let Some(owner) = HIDDEN_OWNER.take() else { return };
        self.inner.edit(|s| {
            for (id, names) in hidden {
                if let Some(task) = s.tasks.get_mut(&id) {
                    task.owner = Some(owner);
                }
                for name in names {
                    if let Some(resource) = s.resources.get_mut(&name) {
                        resource.owner = resource.owner.map(|(task, _)| (task, owner));
                    }
                }
            }
        });
    }
}

thread_local! {
    static HIDDEN_OWNER: Cell<Option<Incarnation>> = const { Cell::new(None) };
}
