//! What a deadline came to: the tasks that were seen to run on the engines that were asked, and whose
//! attempts then ended by being handed back.

use std::collections::BTreeMap;

use super::engine_wish::Asked;
use crate::cli::human::plural;
use crate::cli::session::Session;
use crate::protocol::ids::TaskId;
use crate::protocol::task::{AttemptResult, TaskState};
use crate::protocol::time::Timestamp;
use crate::store::TaskFilter;

/// More tasks than this are counted, and not named.
const NAMED_MAX: usize = 10;
/// No engine has more slots.
const SLOTS_MAX: usize = 1_024;

/// See the module.
#[derive(Default)]
pub(super) struct HandedBack {
    seen: BTreeMap<TaskId, (String, Timestamp)>,
}

impl HandedBack {
    /// Remembers what runs now. What cannot be asked is seen with the next look.
    pub(super) fn look(&mut self, session: &Session, asked: &[Asked]) {
        for one in asked {
            let filter = TaskFilter {
                states: vec![TaskState::Running],
                engine: Some(one.name.clone()),
                limit: SLOTS_MAX,
                ..TaskFilter::default()
            };
            let answer = session.try_read("listing its tasks", move |store| store.tasks(&filter));
            let Ok(Ok((_, rows))) = answer else { continue };
            self.seen.extend(rows.into_iter().map(|row| (row.id, (one.name.to_string(), one.now))));
        }
    }

    /// `2 tasks were handed back: #4, #7`, or nothing if there was none.
    pub(super) fn words(&self, session: &Session) -> Option<String> {
        let ids: Vec<String> = self.seen.keys().filter(|id| self.was(session, **id)).map(ToString::to_string).collect();
        let shown = ids.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let more = if ids.len() > NAMED_MAX { ", ..." } else { "" };
        let were = if ids.len() == 1 { "was" } else { "were" };
        (!ids.is_empty()).then(|| format!("{} {were} handed back: {shown}{more}\n", plural(ids.len(), "task")))
    }

    fn was(&self, session: &Session, id: TaskId) -> bool {
        let Some((engine, since)) = self.seen.get(&id) else { return false };
        let answer = session.try_read("reading its attempts", move |store| store.attempts(id));
        let Ok(Ok(attempts)) = answer else { return false };
        attempts.iter().any(|attempt| {
            attempt.engine == *engine
                && attempt.result == Some(AttemptResult::HandedBack)
                && attempt.ended_at.is_some_and(|at| at >= *since)
        })
    }
}
