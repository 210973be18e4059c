//! What people and the health check read, in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use super::state::{EngineEntry, State, TaskEntry};
use crate::config::{Keep, RetentionConfig};
use crate::protocol::engine::{EngineState, Wanted};
use crate::protocol::ids::{EngineName, ResourceName, TaskId, Token};
use crate::protocol::task::{AttemptResult, TaskState};
use crate::protocol::time::Timestamp;
use crate::store::api::TaskState4Wait;
use crate::store::types::*;

const HOUR: Duration = Duration::from_secs(3_600);

/// A line of a million is listed up to here.
const LINE_MAX: usize = 1_000;

impl State {
    pub(super) fn engine_rows(&self, now: Timestamp) -> Vec<EngineRow> {
        let mut rows: Vec<EngineRow> = self.engines.values().map(|e| self.engine_row(e, now)).collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.registered_at), row.incarnation));
        rows
    }

    fn engine_row(&self, e: &EngineEntry, now: Timestamp) -> EngineRow {
        let said = e.said.clone();
        EngineRow {
            incarnation: said.incarnation,
            state: e.state,
            mode: e.mode,
            beat: e.beat,
            last_beat_at: e.last_beat_at,
            running: self.tasks.values().filter(|task| task.owner == Some(said.incarnation)).count() as u32,
            refused: e.refused,
            timing: said.timing,
            host: said.host,
            boot_id: said.boot_id,
            pid: said.pid,
            state_id: said.state_id,
            version: said.version,
            protocol: said.protocol,
            release: said.release,
            kinds: said.kinds.iter().map(ToString::to_string).collect(),
            slots: said.slots,
            means: said.means,
            registered_at: e.registered_at,
            ended_at: e.ended_at,
            proof: e.proof,
            ended_by: e.ended_by.clone(),
            taken_over: e.taken_over,
            wanted: self.wanted_row(&said.name, now),
            name: said.name,
        }
    }

    fn wanted_row(&self, name: &EngineName, now: Timestamp) -> WantedRow {
        let none = WantedRow { wanted: Wanted::Run, reason: None, by: None, at: None, until: None, deadline: None };
        self.wishes.get(name).filter(|wish| wish.is_on(now)).map_or(none, |wish| WantedRow {
            wanted: wish.wanted,
            reason: wish.reason.clone(),
            by: Some(wish.by.clone()),
            at: Some(wish.at),
            until: wish.until,
            deadline: wish.deadline,
        })
    }

    pub(super) fn forget_engines(
        &mut self,
        older_than: Duration,
        names: &[EngineName],
        dry_run: bool,
        now: Timestamp,
    ) -> Vec<EngineRow> {
        let mut rows = self.engine_rows(now);
        rows.retain(|row| {
            let over = row.ended_at.is_some_and(|at| now.since(at) >= older_than);
            over && self.engines[&row.incarnation].closed && (names.is_empty() || names.contains(&row.name))
        });
        if !dry_run {
            let newest = rows.iter().map(EngineRow::forgotten_at).max();
            self.meta.lives_forgotten_at = self.meta.lives_forgotten_at.max(newest.unwrap_or_default());
            self.engines.retain(|id, _| !rows.iter().any(|row| row.incarnation == *id));
        }
        rows
    }

    pub(super) fn purge(&mut self, retention: &RetentionConfig, limit: usize, now: Timestamp) -> usize {
        let is_old = |keep: Keep, at: Option<Timestamp>| match keep {
            Keep::For(span) => at.is_some_and(|at| now.since(at) > span),
            Keep::Forever => false,
        };
        let keep = |task: &TaskEntry| match task.state {
            TaskState::Done => retention.done,
            TaskState::Canceled => retention.canceled,
            TaskState::Failed | TaskState::Quarantined => retention.failed,
            _ => Keep::Forever,
        };
        let all = self.archive.iter().chain(&self.tasks);
        let old: Vec<TaskId> =
            all.filter(|(_, task)| is_old(keep(task), task.ended_at)).map(|(id, _)| *id).take(limit).collect();
        for id in &old {
            self.archive.remove(id);
            self.tasks.remove(id);
            self.attempts.remove(id);
            self.outputs.retain(|(task, _), _| task != id);
        }
        let mut count = old.len() + self.purge_audit(retention, now);
        if let Keep::For(span) = retention.engines {
            count += self.forget_engines(span, &[], false, now).len();
        }
        if let Keep::For(span) = retention.resources {
            count += self.forget(span, limit, now);
        }
        count
    }

    fn find(&self, id: TaskId) -> Option<&TaskEntry> {
        self.tasks.get(&id).or_else(|| self.archive.get(&id))
    }

    fn engine_of(&self, task: &TaskEntry) -> Option<String> {
        let owner = task.owner.filter(|_| task.state == TaskState::Running).and_then(|id| self.engines.get(&id));
        owner.map(|e| e.said.name.to_string()).or_else(|| task.engine.clone())
    }

    fn row_of(&self, id: TaskId, task: &TaskEntry) -> TaskRow {
        TaskRow {
            id,
            kind: task.kind.clone(),
            state: task.seen(),
            reason: task.reason,
            priority: task.priority,
            due_at: task.due_at,
            attempt: task.attempt,
            failures: task.failures,
            lost: task.lost,
            engine: self.engine_of(task),
            owner: task.owner,
            token: task.token,
            nonce: task.nonce,
            wish: task.wish,
            not_on: task.not_on.clone(),
            created_at: task.created_at,
            started_at: task.claimed_at,
            ended_at: task.ended_at,
            result: task.result,
            error: task.error.clone(),
            value: task.value.clone(),
            resources: task.resources.clone(),
            payload_len: task.payload.len() as u64,
        }
    }

    pub(super) fn task_row(&self, id: TaskId) -> Option<(TaskRow, Vec<u8>)> {
        self.find(id).map(|task| (self.row_of(id, task), task.payload.to_vec()))
    }

    pub(super) fn task_rows(&self, filter: &TaskFilter, now: Timestamp) -> Vec<TaskRow> {
        let archive = self.archive.iter().filter(|_| !filter.states.is_empty() || !filter.ids.is_empty());
        let names_on = |host: &String| {
            let lives = self.engines.values().filter(move |e| e.said.host == *host);
            lives.map(|e| e.said.name.to_string()).collect::<Vec<_>>()
        };
        let on_host = filter.host.as_ref().map(names_on);
        let part = filter.error_like.as_ref().map(|part| part.to_lowercase());
        let mut rows: Vec<TaskRow> = self.tasks.iter().chain(archive).map(|(id, t)| self.row_of(*id, t)).collect();
        rows.retain(|row| {
            (filter.states.is_empty() || filter.states.contains(&row.state))
                && (filter.kinds.is_empty() || filter.kinds.contains(&row.kind))
                && filter.resource.as_ref().is_none_or(|name| row.resources.contains(name))
                && filter.engine.as_ref().is_none_or(|name| row.engine.as_deref() == Some(name.as_str()))
                && on_host.as_ref().is_none_or(|names| row.engine.as_ref().is_some_and(|name| names.contains(name)))
                && part.as_ref().is_none_or(|part| row.error.as_ref().is_some_and(|e| e.to_lowercase().contains(part)))
                && filter.older_than.is_none_or(|span| row.created_at < now.before(span))
                && filter.newer_than.is_none_or(|span| row.created_at >= now.before(span))
                && (filter.ids.is_empty() || filter.ids.contains(&row.id))
                && filter.before.is_none_or(|before| row.id < before)
        });
        rows.sort_by_key(|row| std::cmp::Reverse(row.id));
        rows.truncate(filter.limit);
        rows
    }

    pub(super) fn task_states(&self, ids: &[TaskId]) -> Vec<(TaskId, TaskState4Wait)> {
        let state = |id: &TaskId| {
            let task = self.find(*id)?;
            let (engine, error) = (self.engine_of(task), task.error.clone());
            Some((*id, TaskState4Wait { state: task.seen(), attempt: task.attempt, engine, error }))
        };
        ids.iter().filter_map(state).collect()
    }

    pub(super) fn attempt_rows(&self, id: TaskId) -> Vec<AttemptRow> {
        let mut rows = self.attempts.get(&id).cloned().unwrap_or_default();
        let last = self.find(id).filter(|task| task.owner.is_some() && task.state != TaskState::Canceled);
        if let Some(task) = last {
            rows.push(AttemptRow {
                attempt: task.attempt,
                engine: self.engine_of(task).unwrap_or_default(),
                incarnation: task.owner.unwrap_or(crate::protocol::ids::Incarnation::new(0)),
                token: task.token,
                nonce: task.nonce.unwrap_or(crate::protocol::ids::Nonce::new(0)),
                started_at: task.claimed_at.unwrap_or_default(),
                ended_at: task.ended_at,
                result: task.result.filter(|_| task.state == TaskState::Done),
                exit_code: (task.state == TaskState::Done).then_some(0),
                detail: task.value.clone(),
            });
        }
        rows.sort_by_key(|row| (row.attempt, row.token));
        rows
    }

    pub(super) fn output(&self, id: TaskId, attempt: Option<u32>) -> Option<OutputRow> {
        let (from, to) = attempt.map_or((0, u32::MAX), |n| (n, n));
        self.outputs.range((id, from)..=(id, to)).next_back().map(|(_, row)| row.clone())
    }

    pub(super) fn resource_rows(&self, limit: usize) -> Vec<ResourceRow> {
        let named = self.tasks.values().flat_map(|task| &task.resources);
        let owned = self.resources.iter().filter(|(_, r)| r.owner.is_some()).map(|(name, _)| name);
        let names: std::collections::BTreeSet<&ResourceName> = named.chain(owned).collect();
        let row = |name| ResourceRow { line: Vec::new(), ..self.resource_row_of(name) };
        names.into_iter().take(limit).map(row).collect()
    }

    fn resource_row_of(&self, name: &ResourceName) -> ResourceRow {
        let resource = self.resources.get(name);
        let owner = resource.and_then(|r| r.owner);
        let line = self.lines.get(name).into_iter().flatten().take(LINE_MAX);
        let line: Vec<_> = line.filter_map(|id| self.tasks.get(id).map(|task| (*id, task.seen()))).collect();
        ResourceRow {
            name: name.clone(),
            owner_task: owner.map(|(task, _)| task),
            engine: owner.and_then(|(_, id)| self.engines.get(&id)).map(|e| e.said.name.to_string()),
            token: resource.map_or(Token::ZERO, |r| r.token),
            line_count: line.len() as u64,
            line,
        }
    }

    pub(super) fn resource_row(&self, name: &ResourceName) -> Option<ResourceRow> {
        let named = || self.tasks.values().any(|task| task.resources.contains(name));
        (self.resources.contains_key(name) || named()).then(|| self.resource_row_of(name))
    }

    pub(super) fn status(&self, now: Timestamp) -> StatusView {
        let count = |state: TaskState| self.tasks.values().filter(|task| task.seen() == state).count() as u64;
        let lately = |at: Option<Timestamp>| at.is_some_and(|at| at > now.before(HOUR));
        let states = TaskState::ALL.iter().filter(|s| !matches!(s, TaskState::Done | TaskState::Canceled));
        let oldest = |state, at: fn(&TaskEntry) -> Option<Timestamp>| {
            let tasks = self.tasks.values().filter(move |task| task.state == state);
            tasks.filter_map(at).min().map(|at| now.since(at))
        };
        let lost = self.attempts.values().flatten().filter(|row| row.result == Some(AttemptResult::Lost));
        let done = self.archive.values().filter(|task| task.state == TaskState::Done);
        let failed = self.tasks.values().filter(|task| task.seen() == TaskState::Failed);
        let is_cut_off = |task: &&TaskEntry| {
            task.seen() == TaskState::Interrupted && task.result == Some(AttemptResult::Lost) && lately(task.ended_at)
        };
        // What was lost and waits for a person was taken over by nobody.
        let cut_off = self.tasks.values().filter(is_cut_off).count() as u64;
        StatusView {
            meta: self.meta(now),
            engines: self.engine_rows(now),
            counts: states.map(|state| (*state, count(*state))).collect(),
            oldest_ready: oldest(TaskState::Ready, |task| Some(task.created_at)),
            oldest_running: oldest(TaskState::Running, |task| task.claimed_at),
            failed_kinds: self.failed_kinds(now),
            done_1h: done.filter(|task| lately(task.ended_at)).count() as u64,
            failed_1h: failed.filter(|task| lately(task.ended_at)).count() as u64,
            taken_over_1h: (lost.filter(|row| lately(row.ended_at)).count() as u64).saturating_sub(cut_off),
            fenced_1h: self.engines.values().filter(|e| e.state == EngineState::Fenced && lately(e.ended_at)).count()
                as u64,
        }
    }

    fn failed_kinds(&self, now: Timestamp) -> Vec<FailedKind> {
        let mut kinds = BTreeMap::new();
        for task in self.tasks.values().filter(|task| task.seen() == TaskState::Failed) {
            let newest = task.ended_at.map_or(Duration::ZERO, |at| now.since(at));
            let kind = kinds.entry(task.kind.clone()).or_insert_with(|| FailedKind {
                kind: task.kind.clone(),
                count: 0,
                newest,
                error: None,
            });
            (kind.count, kind.newest, kind.error) = (kind.count + 1, kind.newest.min(newest), task.error.clone());
        }
        let mut kinds: Vec<FailedKind> = kinds.into_values().collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        kinds.truncate(20);
        kinds
    }
}
