//! Takeover in memory.

use std::collections::BTreeMap;

use super::state::State;
use crate::protocol::engine::{EngineState, Proof};
use crate::protocol::ids::{Incarnation, KindName, Nonce, TaskId, Token};
use crate::protocol::takeover::{Next, Orphan, take_over as decide};
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::audit::Counts;
use crate::store::queries::takeover::OwnerRow;
use crate::store::types::{AttemptRow, TakeoverReport};

impl State {
    pub(super) fn take_over(
        &mut self,
        owner: Incarnation,
        limit: usize,
        now: Timestamp,
    ) -> StoreResult<TakeoverReport> {
        let Some((end, name)) = self.owner_end(owner) else { return Ok(TakeoverReport::default()) };
        let mut ids: Vec<TaskId> = self.owned(owner).into_iter().map(|held| held.task).collect();
        let more = ids.len() > limit;
        ids.truncate(limit);
        if !ids.is_empty() {
            self.must_be_recorded()?;
        }
        let mut counts: BTreeMap<KindName, Counts> = BTreeMap::new();
        let mut report = TakeoverReport { more, ..TakeoverReport::default() };
        for id in &ids {
            match self.take_one_over(*id, owner, &end, &name, now, &mut counts) {
                Some(Next::Ready(_)) => report.ready += 1,
                Some(_) => report.parked += 1,
                None => report.skipped += 1,
            }
        }
        self.add_hours(&counts, now);
        if !more {
            self.free_strays(owner);
        }
        if let Some(engine) = self.engines.get_mut(&owner) {
            engine.taken_over += report.ready as u64;
        }
        Ok(report)
    }

    /// How an owner ended; `None`: it is live.
    fn owner_end(&self, owner: Incarnation) -> Option<(OwnerRow, String)> {
        let Some(e) = self.engines.get(&owner) else { return Some((OwnerRow::unknown(owner), "?".into())) };
        let (beat_at, ended_at) = (Some(e.last_beat_at.as_us()), e.ended_at.map(Timestamp::as_us));
        let proof = e.proof.unwrap_or(Proof::Expiry);
        let row = OwnerRow::new(owner, e.state, proof, beat_at, ended_at, e.ended_by.clone());
        (e.state != EngineState::Live).then(|| (row, e.said.name.to_string()))
    }

    fn take_one_over(
        &mut self,
        id: TaskId,
        owner: Incarnation,
        end: &OwnerRow,
        name: &str,
        now: Timestamp,
        counts: &mut BTreeMap<KindName, Counts>,
    ) -> Option<Next> {
        let task = self.tasks.get_mut(&id)?;
        let held = task.held(id)?;
        let orphan = Orphan {
            lost: task.lost,
            handed_back: task.handed_back,
            charged: task.charged,
            policy: task.policy,
            wish: task.wish,
        };
        let plan = decide(&orphan, &end.end);
        (task.lost, task.handed_back, task.charged) = (plan.lost, plan.handed_back, plan.charged);
        task.engine = Some(name.to_owned());
        let of_kind = counts.entry(task.kind.clone()).or_default();
        of_kind.claimed(None);
        of_kind.ended(plan.result, &plan.next, None);
        let row = AttemptRow {
            attempt: task.attempt,
            engine: name.to_owned(),
            incarnation: owner,
            token: held.token,
            nonce: Nonce::new(0),
            started_at: task.claimed_at.unwrap_or(now),
            ended_at: Some(now),
            result: Some(plan.result),
            exit_code: None,
            detail: Some(end.evidence.clone()),
        };
        self.attempts.entry(id).or_default().push(row);
        self.move_on(id, &plan.next, plan.result, Some(end.evidence.clone()), now);
        Some(plan.next)
    }

    /// Resources whose owner ended but whose task is not its any more: no step leaves such.
    fn free_strays(&mut self, owner: Incarnation) {
        let mut freed = Vec::new();
        for (name, resource) in &mut self.resources {
            if resource.owner.is_some_and(|(_, incarnation)| incarnation == owner) {
                resource.owner = None;
                resource.token = Token::new(resource.token.as_i64() + 1);
                freed.push(name.clone());
            }
        }
        self.wake_heads(&freed);
    }
}
