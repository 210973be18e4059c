//! Claims in memory: the same order, conditions and decisions as the statements of `queries::claim`.

use std::collections::BTreeMap;

use super::state::State;
use crate::planted::{Bug, planted};
use crate::protocol::engine::EngineState;
use crate::protocol::ids::{KindName, ResourceName, TaskId, Token};
use crate::protocol::line::{LockedResource, Place, Round};
use crate::protocol::takeover::ALONE_FROM;
use crate::protocol::task::{Reason, TaskState};
use crate::protocol::time::Timestamp;
use crate::store::queries::claim_keyed::{LOOK_AHEAD, LOOK_MIN, ROUNDS_MAX, is_behind};
use crate::store::types::{Claim, ClaimScope, Claimed, Held, KindWork};

impl State {
    pub(super) fn probe(&self, kinds: &[KindName], host: &str) -> Vec<KindWork> {
        let some = |kind: &KindName, keyed: Option<bool>, alone: bool| {
            let mut ids = self.ready_of(kind, host, alone);
            ids.any(|id| keyed.is_none_or(|keyed| keyed != self.tasks[&id].resources.is_empty()))
        };
        let work = |kind: &KindName| KindWork {
            kind: kind.clone(),
            plain: some(kind, Some(false), false),
            keyed: some(kind, Some(true), false),
            alone: some(kind, None, true),
        };
        kinds.iter().map(work).filter(|work| work.plain || work.keyed || work.alone).collect()
    }

    fn ready_of(&self, kind: &KindName, host: &str, alone: bool) -> impl Iterator<Item = TaskId> {
        let fits = move |task: &super::TaskEntry| {
            task.state == TaskState::Ready
                && task.kind == *kind
                && (task.lost >= ALONE_FROM) == alone
                && task.not_on.as_deref() != Some(host)
        };
        self.tasks.iter().filter(move |(_, task)| fits(task)).map(|(id, _)| *id)
    }

    pub(super) fn claim(&mut self, c: &Claim, now: Timestamp) -> Vec<Claimed> {
        let is_live = self.engines.get(&c.incarnation).is_some_and(|e| e.state == EngineState::Live);
        if !is_live || !self.is_recorded() || self.meta.settled_epoch < self.meta.raised_epoch {
            return Vec::new();
        }
        match c.scope {
            ClaimScope::Plain => self.claim_plain(c, false, c.limit, now),
            ClaimScope::Keyed => self.claim_keyed(c, false, c.limit, now),
            ClaimScope::Alone => {
                let plain = self.claim_plain(c, true, 1, now);
                if plain.is_empty() { self.claim_keyed(c, true, 1, now) } else { plain }
            }
        }
    }

    fn candidates(&self, c: &Claim, keyed: bool, alone: bool) -> Vec<TaskId> {
        let ready = self.ready_of(&c.kind, &c.host, alone);
        let mut ids: Vec<TaskId> = ready.filter(|id| self.tasks[id].resources.is_empty() != keyed).collect();
        ids.sort_by_key(|id| (std::cmp::Reverse(self.tasks[id].priority), *id));
        ids
    }

    fn claim_plain(&mut self, c: &Claim, alone: bool, limit: usize, now: Timestamp) -> Vec<Claimed> {
        let mut ids = self.candidates(c, false, alone);
        ids.truncate(limit);
        ids.sort();
        ids.into_iter().filter_map(|id| self.take(c, id, Token::ZERO, now)).collect()
    }

    fn claim_keyed(&mut self, c: &Claim, alone: bool, limit: usize, now: Timestamp) -> Vec<Claimed> {
        for _ in 0..ROUNDS_MAX {
            let (claimed, blocked) = self.keyed_round(c, alone, limit, now);
            if !claimed.is_empty() || blocked == 0 {
                return claimed;
            }
        }
        Vec::new()
    }

    fn keyed_round(&mut self, c: &Claim, alone: bool, limit: usize, now: Timestamp) -> (Vec<Claimed>, usize) {
        let mut blocked = 0;
        let (mut take, mut round) = (Vec::new(), Round::default());
        let locked = self.all_lines();
        let candidates =
            self.candidates(c, true, alone).into_iter().take(limit.saturating_mul(LOOK_AHEAD).max(LOOK_MIN));
        for id in candidates {
            let names = &self.tasks[&id].resources;
            if take.len() >= limit && !is_behind(id, names, &locked) {
                continue;
            }
            match round.place(id, names, &locked) {
                Place::Take { stored } => take.push((id, stored)),
                Place::Behind(_) | Place::Unknown => {
                    blocked += 1;
                    self.block(id);
                }
            }
        }
        (take.into_iter().filter_map(|(id, stored)| self.take(c, id, stored, now)).collect(), blocked)
    }

    fn block(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(&id) {
            (task.state, task.was_free) = (TaskState::Blocked, false);
        }
    }

    /// Every resource with its line; nobody else is in the middle of a step.
    fn all_lines(&mut self) -> BTreeMap<ResourceName, LockedResource> {
        let names: Vec<ResourceName> = self.lines.keys().cloned().collect();
        for name in names {
            self.resources.entry(name).or_default();
        }
        let line = |(name, r): (&ResourceName, &super::ResourceEntry)| {
            let owner_task = r.owner.map(|(task, _)| task);
            (name.clone(), LockedResource { owner_task, token: r.token, head: self.head(name) })
        };
        self.resources.iter().map(line).collect()
    }

    fn take(&mut self, c: &Claim, id: TaskId, stored: Token, now: Timestamp) -> Option<Claimed> {
        let epoch = self.meta.epoch;
        let task = self.tasks.get_mut(&id)?;
        let is_first = std::mem::take(&mut task.was_free) && task.reason == Reason::First;
        let waited = is_first.then(|| now.since(task.created_at));
        task.token = Token::next(task.token.max(stored), epoch);
        (task.state, task.owner, task.nonce) = (TaskState::Running, Some(c.incarnation), Some(c.nonce));
        (task.policy, task.attempt, task.claimed_at, task.ended_at) =
            (c.policy, task.attempt + u32::from(!planted(Bug::AttemptAtEnd)), Some(now), None);
        for name in &task.resources {
            let resource = self.resources.entry(name.clone()).or_default();
            (resource.owner, resource.token, resource.used_at) = (Some((id, c.incarnation)), task.token, now);
        }
        Some(Claimed {
            held: Held { task: id, token: task.token, nonce: c.nonce },
            kind: c.kind.clone(),
            attempt: task.attempt,
            failures: task.failures,
            lost: task.lost,
            handed_back: task.handed_back,
            reason: task.reason,
            was_elsewhere: task.was_elsewhere,
            payload: task.payload.to_vec(),
            resources: task.resources.clone(),
            waited,
        })
    }
}
