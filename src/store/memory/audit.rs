//! History, hours and batches of verbs, in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::state::State;
use crate::config::{Keep, RetentionConfig};
use crate::protocol::ids::{Incarnation, KindName, TaskId};
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::audit::{Affected, Change, Counts, HistoryEntry, HistoryFilter, HourRow, span};
use crate::store::error::{Cause, StoreError};
use crate::store::queries::bulk::affected;
use crate::store::types::{TaskVerb, VerbOutcome};

const HOUR_US: i64 = 3_600_000_000;

/// A row of history.
#[derive(Debug, Clone)]
pub struct HistoryRow {
    /// Who and why.
    pub change: Change,
    /// What.
    pub affected: Affected,
    /// When.
    pub at: Timestamp,
}

impl State {
    /// The pair of a command and its part is unique.
    pub(super) fn must_be_new(&self, change: &Change) -> StoreResult<()> {
        let is_same = |row: &HistoryRow| (row.change.command, row.change.part) == (change.command, change.part);
        if !self.history.iter().any(is_same) {
            return Ok(());
        }
        Err(StoreError::Broken { step: "write the history", source: Cause("this was written before".into()) })
    }

    pub(super) fn record(&mut self, change: &Change, affected: Option<Affected>, now: Timestamp) {
        let row = |affected| HistoryRow { change: change.clone(), affected, at: now };
        self.history.extend(affected.map(row));
    }

    pub(super) fn task_verbs(
        &mut self,
        tasks: &[TaskId],
        verb: TaskVerb,
        change: &Change,
        now: Timestamp,
    ) -> StoreResult<Vec<VerbOutcome>> {
        self.must_be_new(change)?;
        let ids: BTreeSet<TaskId> = tasks.iter().copied().collect();
        if verb == TaskVerb::Cancel && ids.iter().any(|id| self.tasks.get(id).is_some_and(|t| t.owner.is_none())) {
            self.must_be_recorded()?;
        }
        let mut outcomes = BTreeMap::new();
        // What each is told is decided from the states before the batch: to cancel a head wakes the next,
        // which may be of the batch too.
        let before: BTreeMap<TaskId, VerbOutcome> = ids
            .iter()
            .filter_map(|id| self.tasks.get(id).map(|task| (*id, VerbOutcome::Applied(task.seen()))))
            .collect();
        for id in ids {
            let outcome = match (self.task_verb(id, verb, now)?, before.get(&id)) {
                (VerbOutcome::Applied(_), Some(before)) => *before,
                (other, _) => other,
            };
            outcomes.insert(id, outcome);
        }
        self.record(change, affected(&outcomes, verb), now);
        Ok(tasks.iter().map(|id| outcomes[id]).collect())
    }

    pub(super) fn history(&self, filter: &HistoryFilter, now: Timestamp) -> Vec<HistoryEntry> {
        let task = filter.object.as_deref().and_then(TaskId::parse);
        let matches = |row: &&HistoryRow| {
            let named = filter.object.as_ref().is_none_or(|object| {
                row.affected.object == *object || task.is_some_and(|task| row.affected.tasks.contains(&task))
            });
            let by = filter.by.as_ref().is_none_or(|by| {
                row.change.by == *by || row.change.by.strip_prefix(by.as_str()).is_some_and(|r| r.starts_with('@'))
            });
            named && by && filter.since.is_none_or(|since| now.since(row.at) <= since)
        };
        let mut seen = BTreeSet::new();
        let mut entries = Vec::new();
        for row in self.history.iter().rev().filter(matches) {
            if row.affected.tasks.is_empty() {
                entries.push(entry(row));
            } else if seen.insert(row.change.command) {
                entries.push(self.whole(row.change.command));
            }
        }
        entries.truncate(filter.limit);
        entries
    }

    fn whole(&self, command: i64) -> HistoryEntry {
        let is_part = |row: &&HistoryRow| row.change.command == command && !row.affected.tasks.is_empty();
        let rows: Vec<&HistoryRow> = self.history.iter().filter(is_part).collect();
        let all: BTreeSet<TaskId> = rows.iter().flat_map(|row| row.affected.tasks.iter().copied()).collect();
        let all: Vec<TaskId> = all.into_iter().collect();
        let count = rows.iter().map(|row| row.affected.count).sum();
        let tasks = all.first().copied().zip(all.last().copied());
        HistoryEntry { count, tasks, object: span(&all), ..entry(rows[0]) }
    }

    pub(super) fn add_hours(&mut self, counts: &BTreeMap<KindName, Counts>, now: Timestamp) {
        let hour = Timestamp::from_us(now.as_us() - now.as_us().rem_euclid(HOUR_US));
        for (kind, counts) in counts {
            self.hours.entry((hour, kind.clone())).or_default().add(counts);
        }
    }

    /// What an engine has counted; of one whose row was closed it was counted then.
    pub(super) fn add_hours_of(&mut self, by: Incarnation, counts: &BTreeMap<KindName, Counts>, now: Timestamp) {
        if counts.is_empty() {
            return;
        }
        if let Some(engine) = self.engines.get_mut(&by) {
            engine.uncounted.clear();
            if engine.closed {
                return;
            }
        }
        self.add_hours(counts, now);
    }

    pub(super) fn hours(&self, starts: &[Timestamp]) -> Vec<HourRow> {
        let row = |((starts_at, kind), counts): (&(Timestamp, KindName), &Counts)| HourRow {
            starts_at: *starts_at,
            kind: kind.clone(),
            counts: *counts,
        };
        self.hours.iter().filter(|((at, _), _)| starts.contains(at)).map(row).collect()
    }

    /// Rows of history and hours that are older than they are kept.
    pub(super) fn purge_audit(&mut self, retention: &RetentionConfig, now: Timestamp) -> usize {
        let before = self.history.len() + self.hours.len();
        if let Keep::For(span) = retention.history {
            self.history.retain(|row| now.since(row.at) <= span);
        }
        if let Keep::For(span) = retention.hours {
            self.hours.retain(|(at, _), _| now.since(*at) <= span);
        }
        before - self.history.len() - self.hours.len()
    }
}

fn entry(row: &HistoryRow) -> HistoryEntry {
    let (change, affected) = (&row.change, &row.affected);
    HistoryEntry {
        at: row.at,
        by: change.by.clone(),
        host: change.host.clone(),
        program: change.program.clone(),
        version: change.version.clone(),
        verb: change.verb.clone(),
        object: affected.object.clone(),
        tasks: affected.tasks.first().copied().zip(affected.tasks.last().copied()),
        count: affected.count,
        old: affected.old.clone(),
        new: affected.new.clone(),
        reason: change.reason.clone(),
        until: affected.lasts.map(|span| row.at.after(span)),
    }
}
