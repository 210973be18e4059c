//! Forgetting idle resources in memory: the same states as `queries/forget.rs`, which tells why.

use std::collections::BTreeSet;
use std::time::Duration;

use super::state::State;
use crate::protocol::engine::EngineState;
use crate::protocol::ids::{Epoch, ResourceName};
use crate::protocol::time::Timestamp;
use crate::store::queries::forget::{ENOUGH, EVERY};

impl State {
    pub(super) fn forget(&mut self, span: Duration, limit: usize, now: Timestamp) -> usize {
        if let Some(epoch) = self.meta.forget_epoch {
            let live = self.engines.values().filter(|e| e.state == EngineState::Live);
            let wait = live.map(|e| e.said.timing.takeover_after()).max().unwrap_or_default();
            return if now >= self.meta.forget_at.after(wait) { self.forget_batch(epoch, span, limit, now) } else { 0 };
        }
        let last = self.meta.forget_at;
        let is_turn = now.since(last) >= EVERY || last.since(now) > EVERY;
        let is_scarce = self.meta.epoch.as_i64() >= Epoch::SCARCE;
        if is_turn && !is_scarce && self.is_recorded() && self.meta.settled_epoch >= self.meta.raised_epoch {
            self.meta.forget_at = now;
            if self.idle(span, now).len() >= ENOUGH {
                self.meta.epoch = Epoch::new(self.meta.epoch.as_i64() + 1);
                self.meta.forget_epoch = Some(self.meta.epoch);
            }
        }
        0
    }

    fn idle(&self, span: Duration, now: Timestamp) -> Vec<ResourceName> {
        let wanted: BTreeSet<&ResourceName> = self.tasks.values().flat_map(|task| &task.resources).collect();
        let is_idle = |name: &ResourceName| !wanted.contains(name);
        let unused = self.resources.iter().filter(|(_, r)| r.owner.is_none() && now.since(r.used_at) > span);
        unused.map(|(name, _)| name).filter(|name| is_idle(name)).cloned().collect()
    }

    fn forget_batch(&mut self, epoch: Epoch, span: Duration, limit: usize, now: Timestamp) -> usize {
        let mut names = self.idle(span, now);
        names.retain(|name| self.resources[name].token.epoch() < epoch);
        if names.len() < limit {
            self.meta.forget_epoch = None;
        }
        names.truncate(limit);
        for name in &names {
            self.resources.remove(name);
        }
        names.len()
    }
}
