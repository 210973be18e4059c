//! The end of an attempt in memory.

use super::state::State;
use crate::planted::{Bug, planted};
use crate::protocol::ids::{ResourceName, TaskId, Token};
use crate::protocol::takeover::{Next, obeyed};
use crate::protocol::task::{AttemptResult, OnFailure, OnRetry, TaskState, Wish};
use crate::protocol::time::Timestamp;
use crate::store::api::{FinishState, StoreResult};
use crate::store::queries::ends::raises_token;
use crate::store::types::{AttemptRow, Finish, FinishOutcome, Finisher, Held, OutputRow};

/// As the databases store texts.
fn text(value: Option<&String>) -> Option<String> {
    value.map(|text| text.replace('\0', "\u{fffd}"))
}

impl State {
    pub(super) fn finish(
        &mut self,
        who: &Finisher,
        ends: &[Finish],
        now: Timestamp,
    ) -> StoreResult<Vec<FinishOutcome>> {
        let raises = |end: &Finish| {
            let wish = self.tasks.get(&end.held.task).map_or(Wish::None, |task| task.wish);
            self.is_mine(&end.held) && raises_token(&obeyed(wish, end.next.clone()), end.result)
        };
        if ends.iter().any(raises) {
            self.must_be_recorded()?;
        }
        let mut written: Vec<Held> = Vec::new();
        for end in ends {
            if self.is_mine(&end.held) {
                self.finish_one(who, end, now);
                written.push(end.held);
            }
        }
        let outcome = |end: &Finish| match written.contains(&end.held) {
            true => FinishOutcome::Written,
            false => FinishOutcome::Refused,
        };
        let outcomes: Vec<FinishOutcome> = ends.iter().map(outcome).collect();
        let refused =
            outcomes.iter().zip(ends).filter(|(o, end)| **o == FinishOutcome::Refused && !end.unstarted).count();
        if let Some(engine) = self.engines.get_mut(&who.incarnation) {
            engine.refused += refused as u64;
        }
        Ok(outcomes)
    }

    /// What is written when the tokens were compared in a read that lags (a planted bug).
    pub(super) fn finish_as_read(
        &mut self,
        read: &Self,
        who: &Finisher,
        ends: &[Finish],
        now: Timestamp,
    ) -> StoreResult<Vec<FinishOutcome>> {
        let passes = |end: &Finish| read.is_mine(&end.held) && self.tasks.contains_key(&end.held.task);
        let mut outcomes = Vec::new();
        let mine: Vec<bool> = ends.iter().map(passes).collect();
        for (end, mine) in ends.iter().zip(mine) {
            if mine {
                self.finish_one(who, end, now);
            }
            outcomes.push(if mine { FinishOutcome::Written } else { FinishOutcome::Refused });
        }
        Ok(outcomes)
    }

    fn is_mine(&self, held: &Held) -> bool {
        let task = self.tasks.get(&held.task);
        if planted(Bug::NoToken) {
            return task.is_some_and(|task| task.state == TaskState::Running);
        }
        task.is_some_and(|task| task.held(held.task) == Some(*held))
    }

    fn finish_one(&mut self, who: &Finisher, end: &Finish, now: Timestamp) {
        let kind = self.tasks.get(&end.held.task).map(|task| task.kind.clone());
        let takes = |e: &&super::EngineEntry| kind.as_ref().is_some_and(|kind| e.said.kinds.contains(kind));
        let others = self.engines.values().filter(|e| self.takes(e, now)).filter(takes);
        let bar = end.not_on.clone().filter(|host| others.clone().any(|e| e.said.host != *host));
        let next = match (&end.not_on, &bar) {
            (Some(_), None) if end.result == AttemptResult::Failed => Next::Failed,
            _ => end.next.clone(),
        };
        let Some(task) = self.tasks.get_mut(&end.held.task) else { return };
        let next = obeyed(task.wish, next);
        task.failures += u32::from(end.uses_budget);
        task.attempt -= u32::from(end.unstarted && !planted(Bug::AttemptAtEnd));
        task.attempt += u32::from(!end.unstarted && planted(Bug::AttemptAtEnd));
        task.handed_back = end.handed_back.unwrap_or(task.handed_back);
        (task.engine, task.not_on) = (Some(who.name.to_string()), bar);
        task.was_elsewhere |= end.not_on.is_some();
        if !end.unstarted {
            let kind = task.kind.clone();
            if let Some(engine) = self.engines.get_mut(&who.incarnation) {
                let counts = engine.uncounted.entry(kind).or_default();
                counts.claimed(None);
                counts.ended(end.result, &next, None);
            }
            self.write_attempt(who, end, &next, now);
        }
        let detail = text(end.detail.as_ref()).or(text(end.value.as_ref()).filter(|_| next == Next::Done));
        self.move_on(end.held.task, &next, end.result, detail, now);
    }

    fn write_attempt(&mut self, who: &Finisher, end: &Finish, next: &Next, now: Timestamp) {
        let id = end.held.task;
        let Some(task) = self.tasks.get(&id) else { return };
        let row = AttemptRow {
            attempt: task.attempt,
            engine: who.name.to_string(),
            incarnation: who.incarnation,
            token: end.held.token,
            nonce: end.held.nonce,
            started_at: task.claimed_at.unwrap_or(now),
            ended_at: Some(now),
            result: Some(end.result),
            exit_code: end.exit_code,
            detail: text(end.detail.as_ref()),
        };
        if !end.output.is_empty() {
            let output = OutputRow { attempt: task.attempt, dropped: end.output_dropped, output: end.output.clone() };
            self.outputs.insert((id, task.attempt), output);
        }
        if *next != Next::Done {
            self.attempts.entry(id).or_default().push(row);
        }
    }

    /// What becomes of a task: frees its resources, archives it or moves it on, and wakes the lines it
    /// leaves. The caller has made sure that a token may be raised.
    pub(super) fn move_on(
        &mut self,
        id: TaskId,
        next: &Next,
        result: AttemptResult,
        detail: Option<String>,
        now: Timestamp,
    ) {
        let Some(mut task) = self.tasks.remove(&id) else { return };
        let raised = Token::next(self.largest_token(&task), self.meta.epoch);
        let raises = raises_token(next, result);
        let names: Vec<ResourceName> = task.resources.clone();
        for name in &names {
            let owned = self.resources.get_mut(name).filter(|r| r.owner.is_some_and(|(task, _)| task == id));
            if let Some(resource) = owned {
                resource.owner = None;
                resource.token = if raises { raised } else { resource.token };
            }
        }
        (task.result, task.ended_at, task.wish, task.due_at) = (Some(result), Some(now), Wish::None, None);
        let is_over = matches!(next, Next::Done | Next::Canceled);
        if !is_over {
            (task.owner, task.nonce) = (None, None);
            task.token = if raises { raised } else { task.token };
        }
        (task.value, task.error) = if result == AttemptResult::Done { (detail, None) } else { (None, detail) };
        let mut stays = !is_over;
        match next {
            Next::Done => task.state = TaskState::Done,
            Next::Canceled => task.state = TaskState::Canceled,
            Next::Ready(reason) => (task.state, task.reason) = (TaskState::Ready, *reason),
            Next::Wait { delay, reason } => {
                (task.state, task.reason, task.due_at) = (TaskState::Waiting, *reason, Some(now.after(*delay)));
                stays = task.policy.on_retry == OnRetry::Keep;
            }
            Next::Held => (task.state, stays) = (TaskState::Held, false),
            Next::Failed => task.state = TaskState::Failed,
            Next::Quarantined => task.state = TaskState::Quarantined,
        }
        if matches!(next, Next::Failed | Next::Quarantined) {
            stays = task.policy.on_failure == OnFailure::Block;
        }
        self.place_in_line(id, &names, stays);
        if is_over {
            self.archive.insert(id, task)
        } else {
            self.tasks.insert(id, task)
        };
        if !(planted(Bug::WakeupLost) && *next == Next::Done) {
            self.wake_heads(&names);
        }
    }

    pub(super) fn read_finish(&self, held: &Held) -> FinishState {
        if self.tasks.get(&held.task).is_some_and(|task| task.held(held.task) == Some(*held)) {
            return FinishState::Open;
        }
        let archived = self
            .archive
            .get(&held.task)
            .is_some_and(|task| task.nonce == Some(held.nonce) && task.state == TaskState::Done);
        // A takeover's row has no nonce.
        let written = self.attempts.get(&held.task).into_iter().flatten().any(|row| row.nonce == held.nonce);
        if archived || written { FinishState::Written } else { FinishState::Refused }
    }
}
