//! Adding tasks, making them due, and what people ask of them, in memory.

use std::collections::BTreeSet;

use super::state::{EngineEntry, State, TaskEntry};
use crate::protocol::engine::{EngineState, Mode, Wanted};
use crate::protocol::ids::{ResourceName, TaskId, Token};
use crate::protocol::takeover::Next;
use crate::protocol::task::{AttemptResult, Policy, Reason, TaskState, Wish};
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::error::{Cause, StoreError};
use crate::store::types::{NewTask, TaskVerb, VerbOutcome};

impl State {
    pub(super) fn add(&mut self, new: &[NewTask], _: &str, now: Timestamp) -> StoreResult<Vec<TaskId>> {
        let repeats = |task: &NewTask| task.resources.iter().collect::<BTreeSet<_>>().len() < task.resources.len();
        if new.iter().any(repeats) {
            let source = Cause("a resource is named twice".into());
            return Err(StoreError::Broken { step: "add tasks", source });
        }
        Ok(new.iter().map(|task| self.add_one(task, now)).collect())
    }

    fn add_one(&mut self, new: &NewTask, now: Timestamp) -> TaskId {
        self.last_id += 1;
        let id = TaskId::new(self.last_id);
        self.place_in_line(id, &new.resources, new.delay.is_none());
        self.tasks.insert(id, TaskEntry::new(new, now));
        id
    }

    pub(super) fn promote_due(&mut self, limit: usize, now: Timestamp) -> usize {
        let is_due = |task: &TaskEntry| task.state == TaskState::Waiting && task.due_at.is_some_and(|at| at <= now);
        let due = self.tasks.iter().filter(|(_, task)| is_due(task));
        let mut due: Vec<_> = due.map(|(id, task)| (task.due_at, *id)).collect();
        due.sort();
        due.truncate(limit);
        for (_, id) in &due {
            self.make_ready(*id);
        }
        due.len()
    }

    pub(super) fn free_lines(&mut self, limit: usize, now: Timestamp) -> usize {
        self.wake_free_lines(limit) + self.lift_bars(now)
    }

    /// Whether an engine takes tasks now, as `queries::finish::takes` says it.
    pub(super) fn takes(&self, engine: &EngineEntry, now: Timestamp) -> bool {
        let wish = self.wishes.get(&engine.said.name).filter(|wish| wish.is_on(now));
        engine.state == EngineState::Live
            && matches!(engine.mode, Mode::Starting | Mode::Active)
            && wish.is_none_or(|wish| wish.wanted == Wanted::Run)
    }

    fn lift_bars(&mut self, now: Timestamp) -> usize {
        let takers: Vec<_> = self.engines.values().filter(|e| self.takes(e, now)).map(|e| e.said.clone()).collect();
        let mut lifted = 0;
        for task in self.tasks.values_mut().filter(|t| matches!(t.state, TaskState::Ready | TaskState::Waiting)) {
            let other = |host: &String| takers.iter().any(|e| e.host != *host && e.kinds.contains(&task.kind));
            if task.not_on.as_ref().is_some_and(|host| !other(host)) {
                task.not_on = None;
                lifted += 1;
            }
        }
        lifted
    }

    fn make_ready(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        (task.state, task.due_at, task.was_free) = (TaskState::Ready, None, false);
        let names = task.resources.clone();
        self.place_in_line(id, &names, true);
    }

    fn wake_free_lines(&mut self, limit: usize) -> usize {
        let stands = |name: &ResourceName| {
            let head = self.head(name).and_then(|id| self.tasks.get(&id));
            head.is_some_and(|task| task.state == TaskState::Blocked)
        };
        let free = self.resources.iter().filter(|(_, r)| r.owner.is_none()).map(|(name, _)| name);
        let names: Vec<ResourceName> = free.filter(|name| stands(name)).take(limit).cloned().collect();
        self.wake_heads(&names);
        names.len()
    }

    pub(super) fn task_verb(&mut self, id: TaskId, verb: TaskVerb, now: Timestamp) -> StoreResult<VerbOutcome> {
        let Some(task) = self.tasks.get_mut(&id) else { return Ok(self.archived_verb(id, verb)) };
        let state = task.seen();
        match (verb, state) {
            (TaskVerb::Cancel, TaskState::Running) => {
                task.wish = Wish::Cancel;
                return Ok(VerbOutcome::Asked);
            }
            (TaskVerb::Cancel, _) => {
                self.must_be_recorded()?;
                self.move_on(id, &Next::Canceled, AttemptResult::Canceled, None, now);
            }
            (TaskVerb::Retry, _) if matches!(verb.on(state), VerbOutcome::Applied(_)) => {
                task.start_again();
                self.make_ready(id);
            }
            (TaskVerb::Retry, _) => return Ok(VerbOutcome::WrongState(state)),
        }
        Ok(VerbOutcome::Applied(state))
    }

    fn archived_verb(&mut self, id: TaskId, verb: TaskVerb) -> VerbOutcome {
        let Some(state) = self.archive.get(&id).map(|task| task.state) else { return VerbOutcome::NotFound };
        if verb != TaskVerb::Retry || state != TaskState::Canceled {
            return VerbOutcome::WrongState(state);
        }
        if let Some(mut task) = self.archive.remove(&id) {
            task.start_again();
            (task.owner, task.nonce, task.claimed_at, task.ended_at) = (None, None, None, None);
            (task.result, task.error, task.value, task.engine) = (None, None, None, None);
            self.tasks.insert(id, task);
            self.make_ready(id);
        }
        VerbOutcome::Applied(state)
    }
}

impl TaskEntry {
    fn new(new: &NewTask, now: Timestamp) -> Self {
        Self {
            kind: new.kind.clone(),
            state: if new.delay.is_some() { TaskState::Waiting } else { TaskState::Ready },
            priority: new.priority,
            reason: Reason::First,
            attempt: 0,
            failures: 0,
            lost: 0,
            handed_back: 0,
            wish: Wish::None,
            result: None,
            policy: Policy::default(),
            token: Token::ZERO,
            owner: None,
            was_free: new.delay.is_none(),
            nonce: None,
            due_at: new.delay.map(|delay| now.after(delay)),
            claimed_at: None,
            ended_at: None,
            charged: None,
            created_at: now,
            not_on: None,
            was_elsewhere: false,
            engine: None,
            error: None,
            value: None,
            payload: new.payload.clone().into(),
            resources: new.resources.clone(),
        }
    }

    /// The retry budget starts again; the count of lost engines does too, because a person has looked.
    fn start_again(&mut self) {
        (self.failures, self.lost, self.handed_back) = (0, 0, 0);
        (self.not_on, self.was_elsewhere) = (None, false);
        (self.wish, self.reason) = (Wish::None, Reason::Retry);
    }
}
