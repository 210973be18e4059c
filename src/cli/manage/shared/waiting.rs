//! Waiting for tasks to end: transitions are printed, and the exit code tells how it went.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::cli::GlobalFlags;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{age, one_line, plural, shorten, took};
use crate::cli::output::{self, List, Table};
use crate::cli::session::Session;
use crate::clock::{Clock, SystemClock};
use crate::protocol::engine::{EngineState, Wanted};
use crate::protocol::ids::TaskId;
use crate::protocol::task::TaskState;
use crate::protocol::time::LeaseInstant;
use crate::store::{EngineRow, StoreResult, TaskState4Wait};

/// The first look comes soon, for short tasks; later ones cost less.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// Transitions of more tasks than this are not told one by one.
const TOLD_MAX: usize = 20;
/// A database that is away for longer ends the waiting; until then it is asked again.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// A task that is ready for so long is waited for in vain, most likely.
const WONDER_AFTER: Duration = Duration::from_secs(5);
/// Tasks of one question.
const BATCH: usize = 10_000;

/// Looks again and again, with growing pauses, until a time.
pub struct Patience {
    until: Option<LeaseInstant>,
    began: LeaseInstant,
    pause: Duration,
    away_since: Option<LeaseInstant>,
}

impl Patience {
    /// For this long; without end where no time is given.
    pub fn new(limit: Option<Duration>) -> Self {
        let began = SystemClock.lease_now();
        Self { until: limit.map(|limit| began.after(limit)), began, pause: LOOK_FIRST, away_since: None }
    }

    /// How long it has been.
    pub fn waited(&self) -> Duration {
        SystemClock.lease_now().since(self.began)
    }

    /// Pauses until the next look. False if the time is over.
    pub fn pause(&mut self) -> bool {
        let left = self.until.map_or(self.pause, |until| until.since(SystemClock.lease_now()));
        SystemClock.pause(self.pause.min(left));
        self.pause = (self.pause * 3 / 2).min(LOOK_MAX);
        !left.is_zero()
    }

    /// An answer, or nothing if the database is away for the moment.
    pub fn bear<T>(&mut self, session: &Session, answer: StoreResult<T>) -> Result<Option<T>, CliError> {
        let now = SystemClock.lease_now();
        match answer {
            Ok(value) => {
                self.away_since = None;
                Ok(Some(value))
            }
            Err(error) if error.is_transient() => {
                let since = *self.away_since.get_or_insert(now);
                if since == now {
                    log::warn!("the database does not answer ({}); waiting goes on", session.error(&error).what);
                }
                if now.since(since) > AWAY_MAX { Err(session.error(&error)) } else { Ok(None) }
            }
            Err(error) => Err(session.error(&error)),
        }
    }
}

/// Waits until all have ended. 0 all are done, 1 some are not, 4 one is not known, 5 the time is over.
pub fn wait(session: &Session, ids: &[TaskId], flags: &GlobalFlags) -> Result<Exit, CliError> {
    wait_from(session, ids, BTreeMap::new(), flags)
}

/// As [`wait`], for tasks of which somebody was already told how they stand.
pub fn wait_from(
    session: &Session,
    ids: &[TaskId],
    mut seen: BTreeMap<TaskId, TaskState4Wait>,
    flags: &GlobalFlags,
) -> Result<Exit, CliError> {
    let mut patience = Patience::new(flags.timeout);
    let tells = flags.output.is_for_people() && ids.len() <= TOLD_MAX;
    let mut said = flags.quiet;
    loop {
        let open: Vec<TaskId> =
            ids.iter().copied().filter(|id| seen.get(id).is_none_or(|now| !now.state.is_end())).collect();
        if let Some(states) = look(session, &mut patience, &open)? {
            let states: BTreeMap<TaskId, TaskState4Wait> = states.into_iter().collect();
            if let Some(unknown) = open.iter().find(|id| !states.contains_key(id)) {
                return Err(CliError::no_task(unknown));
            }
            for (id, now) in states {
                let before = seen.insert(id, now.clone());
                if tells && before.as_ref() != Some(&now) {
                    flags.say(&told(session, id, &now))?;
                }
            }
        }
        let left = ids.iter().filter(|id| seen.get(id).is_none_or(|now| !now.state.is_end())).count();
        if left == 0 {
            break;
        }
        if !said && patience.waited() >= WONDER_AFTER {
            said = true;
            let stuck =
                ids.iter().filter_map(|id| Some((*id, seen.get(id)?))).find(|(_, now)| now.state == TaskState::Ready);
            if let Some(why) = stuck.and_then(|(id, _)| why_ready(session, id)) {
                output::print_error(&why);
            }
        }
        if !patience.pause() {
            summary(ids, &seen, flags, tells)?;
            let span = age(patience.waited());
            return Err(CliError::timeout(format!("{} of {} not ended after {span}", plural(left, "task"), ids.len()))
                .effect("the tasks go on")
                .next("rekindle task list"));
        }
    }
    summary(ids, &seen, flags, tells)?;
    let is_done = |id: &TaskId| seen.get(id).is_some_and(|now| now.state == TaskState::Done);
    Ok(if ids.iter().all(is_done) { Exit::Ok } else { Exit::Failed })
}

/// Whoever waits for a task that nobody takes is told why, once; most of all a task that waits for its child
/// in the last free slot, which would never end.
fn why_ready(session: &Session, id: TaskId) -> Option<String> {
    let row = session.try_read("reading a task", move |store| store.task(id)).ok()?.ok()??.0;
    let (_, engines) = session.try_read("listing engines", |store| store.engines()).ok()?.ok()?;
    let is_taker = |engine: &&EngineRow| {
        engine.state == EngineState::Live && engine.kinds.iter().any(|kind| kind == row.kind.as_str())
    };
    let takers: Vec<&EngineRow> = engines.iter().filter(is_taker).collect();
    let open: Vec<&&EngineRow> = takers.iter().filter(|engine| engine.wanted.wanted == Wanted::Run).collect();
    let (busy, slots) = open.iter().fold((0, 0), |(busy, all), engine| (busy + engine.running, all + engine.slots));
    let why = match (takers.len(), open.len()) {
        (0, _) => format!("no live engine takes kind {}", row.kind),
        (_, 0) => format!("every engine that takes kind {} is paused or drains", row.kind),
        _ if busy >= slots => format!("all {slots} slots of the engines that take kind {} are busy", row.kind),
        _ => return None,
    };
    let own = std::env::var("REKINDLE_TASK").ok().filter(|_| busy >= slots && slots > 0);
    let own = own.map_or_else(String::new, |own| {
        format!(
            "; this is task #{own}, which holds one of them while it waits: give engines more slots, or do not wait"
        )
    });
    Some(format!("note: {id} is ready and waits: {}{}\n", one_line(&why), one_line(&own)))
}

fn look(
    session: &Session,
    patience: &mut Patience,
    open: &[TaskId],
) -> Result<Option<Vec<(TaskId, TaskState4Wait)>>, CliError> {
    let mut all = Vec::with_capacity(open.len());
    for batch in open.chunks(BATCH) {
        let batch = batch.to_vec();
        let answer = session.try_read("waiting for tasks", move |store| store.task_states(&batch))?;
        match patience.bear(session, answer)? {
            Some(states) => all.extend(states),
            None => return Ok(None),
        }
    }
    Ok(Some(all))
}

/// `#5201 done in 2.1s`.
fn told(session: &Session, id: TaskId, now: &TaskState4Wait) -> String {
    let error = now.error.as_deref().map(|error| format!(": {}", shorten(&one_line(error), 200))).unwrap_or_default();
    let text = match now.state {
        TaskState::Running => {
            format!("{id} running on {} (attempt {})", now.engine.as_deref().unwrap_or("?"), now.attempt)
        }
        TaskState::Done => format!("{id} done{}", duration(session, id)),
        state if state.is_end() => format!("{id} {state} after {}{error}", plural(now.attempt as usize, "attempt")),
        state if now.attempt > 0 => format!("{id} {state} after {}{error}", plural(now.attempt as usize, "attempt")),
        state => format!("{id} {state}"),
    };
    format!("{text}\n")
}

fn duration(session: &Session, id: TaskId) -> String {
    let row = session.try_read("reading a task", move |store| store.task(id)).ok().and_then(Result::ok).flatten();
    let span = row.and_then(|(row, _)| Some(row.ended_at?.since(row.started_at?)));
    span.map_or_else(String::new, |span| format!(" in {}", took(span)))
}

fn summary(
    ids: &[TaskId],
    seen: &BTreeMap<TaskId, TaskState4Wait>,
    flags: &GlobalFlags,
    was_told: bool,
) -> Result<(), CliError> {
    if was_told || (flags.quiet && flags.output.is_for_people()) {
        return Ok(());
    }
    let mut counts: BTreeMap<TaskState, usize> = BTreeMap::new();
    let mut table = Table::new(&["ID", "STATE", "ATTEMPT", "ENGINE", "ERROR"]);
    let mut items = Vec::new();
    for id in ids {
        let now = seen.get(id);
        *counts.entry(now.map_or(TaskState::Waiting, |now| now.state)).or_default() += 1;
        items.push(json!({
            "task": id,
            "state": now.map(|now| now.state),
            "attempt": now.map(|now| now.attempt),
            "engine": now.and_then(|now| now.engine.clone()),
            "error": now.and_then(|now| now.error.clone()),
        }));
        if let Some(now) = now.filter(|now| now.state != TaskState::Done) {
            let error = now.error.as_deref().map(|error| shorten(error, 60)).unwrap_or_default();
            let engine = now.engine.clone().unwrap_or_default();
            table.row([id.to_string(), now.state.to_string(), now.attempt.to_string(), engine, error]);
        }
    }
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let is_bare = counts.len() == 1;
    List {
        items,
        names: ids.iter().map(|id| id.as_i64().to_string()).collect(),
        table: if is_bare { Table::new(&[""]).without_headers() } else { table },
        footer: Some(format!("{}: {}", plural(ids.len(), "task"), counts.join(", "))),
        ..List::new("rekindle.task-wait/1", SystemClock.wall_now())
    }
    .print(flags)
}
