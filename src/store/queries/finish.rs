//! The end of an attempt: finish, retry, fail, hand back; and the wake-up of those who wait in line.
//!
//! The first *write* is the task's row under `id, token, nonce`: whoever has lost the claim changes
//! nothing. Before it, the rows of its resources are locked in name order. After it: the attempt, the
//! output, what becomes of the task, and the heads of the lines it left. Resource rows are written
//! even where only their line changed: a claim that is just moving its task to `blocked` writes the
//! same row, so one of the two sees the other, and no wake-up is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Change, change_held};
use super::done::{finish_short, free_all, is_short};
use super::ends::{Ended, write_next};
use super::engines;
use super::fit;
use super::lines::{leave_lines, wake};
use super::rows::{COUNT_CEILING, NEXT_VERSION, Names, resources_of};
use super::takeover::lock_resources_waiting;
use crate::protocol::engine::{Mode, Wanted};
use crate::protocol::ids::{ResourceName, TaskId, Token};
use crate::protocol::takeover::{Next, obeyed};
use crate::protocol::task::{AttemptResult, TaskState, Wish};
use crate::store::api::{FinishState, StoreResult};
use crate::store::db::Db;
use crate::store::types::{Finish, FinishOutcome, Finisher, Held};

/// See `Store::finish`. One transaction, whatever the ends are: of a step that is repeated nothing may
/// have been committed, or the repetition would find its own writes and call them refused.
pub fn finish(db: &mut dyn Db, who: &Finisher, ends: &[Finish]) -> StoreResult<Vec<FinishOutcome>> {
    let ends = &*fit::without_values_too_large(ends, db.bytes_max());
    let (short, long): (Vec<&Finish>, Vec<&Finish>) = ends.iter().partition(|end| is_short(end));
    let is_keyed = ends.iter().any(|end| end.keyed);
    let written: BTreeSet<Held> = if long.is_empty() && !is_keyed && db.dialect().has_writing_cte {
        let written = finish_short(db, who, &short, &Names::new())?.into_iter().collect();
        // A statement of its own after what is committed: it must not make the whole step fail.
        if let Err(error) = count_refused(db, who, ends, &written) {
            log::warn!("could not count refused results: {}", error.chain());
        }
        written
    } else {
        db.transaction("finish", |db| {
            // The resources of all first: they come before tasks.
            let keyed: Vec<TaskId> = ends.iter().filter(|end| end.keyed).map(|end| end.held.task).collect();
            let wants = resources_of(db, &keyed)?;
            let locked = lock_resources_waiting(db, wants.values().flatten())?;
            let (mut written, mut left) = finish_long(db, who, &long, &wants, &locked)?;
            let mut done = Vec::new();
            for batch in fit::batches(&short, db.bytes_max()) {
                done.extend(finish_short(db, who, batch, &wants)?);
            }
            let freed = free_all(db, &done, &wants)?;
            left.retain(|name| !freed.contains(name));
            leave_lines(db, &left)?;
            left.extend(freed);
            wake(db, &left)?;
            written.extend(done);
            count_refused(db, who, ends, &written)?;
            Ok(written)
        })?
    };
    let outcome = |end: &Finish| match written.contains(&end.held) {
        true => FinishOutcome::Written,
        false => FinishOutcome::Refused,
    };
    Ok(ends.iter().map(outcome).collect())
}

/// By the database, not by the engine: an engine whose results are refused is often one that ends.
/// What never started has no result.
fn count_refused(db: &mut dyn Db, who: &Finisher, ends: &[Finish], written: &BTreeSet<Held>) -> StoreResult<()> {
    let count = ends.iter().filter(|end| !end.unstarted && !written.contains(&end.held)).count();
    if count == 0 { Ok(()) } else { engines::count_refused(db, who.incarnation, count) }
}

/// One after the other: what was written, and whose lines that left.
fn finish_long(
    db: &mut dyn Db,
    who: &Finisher,
    ends: &[&Finish],
    wants: &Names,
    locked: &BTreeMap<ResourceName, Token>,
) -> StoreResult<(BTreeSet<Held>, BTreeSet<ResourceName>)> {
    let mut order: Vec<&&Finish> = ends.iter().collect();
    order.sort_by_key(|end| end.held.task);
    let (mut written, mut left) = (BTreeSet::new(), BTreeSet::new());
    for end in order {
        let Some(wish) = write_own(db, who, end)? else { continue };
        let names = wants.get(&end.held.task).map_or(&[][..], Vec::as_slice);
        let stored = names.iter().filter_map(|n| locked.get(n)).copied().max().unwrap_or(end.held.token);
        let next = obeyed(wish, somewhere_else(db, end)?);
        if !end.unstarted {
            write_attempt(db, who, end, &next)?;
            write_output(db, end)?;
        }
        let ended = Ended {
            stored: stored.max(end.held.token),
            names,
            result: end.result,
            detail: end.detail.as_deref().or(end.value.as_deref().filter(|_| next == Next::Done)),
        };
        write_next(db, end.held.task, &next, &ended)?;
        written.insert(end.held);
        left.extend(names.iter().cloned());
    }
    Ok((written, left))
}

/// The first write: the row that carries the token. What a person has asked for while the task ran; `None`: the
/// claim is not this engine's any more. The wish is read behind the write, so under its lock: one that was
/// accepted is there, and one that comes later finds that the task does not run.
fn write_own(db: &mut dyn Db, who: &Finisher, end: &Finish) -> StoreResult<Option<Wish>> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let (id, token, nonce) =
        (s.int(end.held.task.as_i64()), s.int(end.held.token.as_i64()), s.int(end.held.nonce.as_i64()));
    let engine = s.text(who.name.as_str());
    let (budget, counted) = (s.int(i64::from(end.uses_budget)), s.int(i64::from(end.unstarted)));
    let in_a_row = end.handed_back.map_or_else(|| "handed_back".to_owned(), |count| s.int(count));
    let (not_on, elsewhere) = (s.opt_text(end.not_on.clone()), s.int(i64::from(end.not_on.is_some())));
    let set = format!(
        "version = {NEXT_VERSION}, \
         failures = CASE WHEN failures < {COUNT_CEILING} THEN failures + {budget} ELSE failures END, \
         attempt = CASE WHEN attempt > 0 THEN attempt - {counted} ELSE attempt END, \
         handed_back = {in_a_row}, engine = {engine}, ended_at = {now}, not_on = {not_on}, \
         was_elsewhere = CASE WHEN {elsewhere} = 1 THEN 1 ELSE was_elsewhere END"
    );
    let row = format!("id = {id}");
    let own = Change {
        step: "finish",
        table: "task",
        key: "id",
        set: Some(set),
        which: format!("token = {token} AND nonce = {nonce} AND state = 3"),
        guard: "1 = 1".into(),
        order: String::new(),
        limit: String::new(),
        bytes: None,
        lock: "",
        columns: "wish",
    };
    let written = change_held(db, &s, &own, &row)?;
    Ok(written.map(|mut row| Wish::from_code(row.int()).unwrap_or(Wish::None)))
}

/// A task that is barred from this host needs another host; where there is none it has failed.
fn somewhere_else(db: &mut dyn Db, end: &Finish) -> StoreResult<Next> {
    let Some(host) = &end.not_on else { return Ok(end.next.clone()) };
    let mut s = db.stmt();
    let (host, id) = (s.text(host), s.int(end.held.task.as_i64()));
    let sql = s.sql(format!(
        "SELECT count(*) FROM task t JOIN engine_info i ON i.host <> {host} JOIN engine e ON i.incarnation = e.incarnation \
         WHERE t.id = {id} AND {}",
        takes("t", db.dialect().now)
    ));
    let others = db.first("look for another host", &sql)?.map_or(0, |mut row| row.int());
    if others > 0 {
        return Ok(end.next.clone());
    }
    let mut s = db.stmt();
    let id = s.int(end.held.task.as_i64());
    let sql = s.sql(format!("UPDATE task SET not_on = NULL WHERE id = {id}"));
    db.execute("finish", &sql)?;
    Ok(if end.result == AttemptResult::Failed { Next::Failed } else { end.next.clone() })
}

/// Whether the engine of the rows `e` and `i` takes tasks of the kind of `task` now: `memory::State::takes` in SQL.
///
/// One that is paused, drains, stops or is stuck takes nothing, whoever told it; a wish that it has not heard of
/// yet counts too. The name of the kind is looked for with its quotes and without a pattern: in LIKE the `_` of
/// one name would match any letter of another one, and SQLite would not tell `A` from `a`.
pub fn takes(task: &str, now: &str) -> String {
    format!(
        "e.state = 1 AND e.mode IN ({}, {}) AND replace(i.kinds, '\"' || {task}.kind || '\"', '') <> i.kinds \
         AND NOT EXISTS (SELECT 1 FROM engine_wish w WHERE w.name = e.name AND w.wanted <> {} \
         AND (w.until_at IS NULL OR w.until_at > {now}))",
        Mode::Starting.code(),
        Mode::Active.code(),
        Wanted::Run.code()
    )
}

fn write_attempt(db: &mut dyn Db, who: &Finisher, end: &Finish, next: &Next) -> StoreResult<()> {
    if *next == Next::Done {
        return Ok(());
    }
    let now = db.dialect().now;
    let mut s = db.stmt();
    let (id, engine, incarnation) =
        (s.int(end.held.task.as_i64()), s.text(who.name.as_str()), s.int(who.incarnation.as_i64()));
    let (result, code) = (s.int(end.result.code()), s.opt_int(end.exit_code.map(i64::from)));
    let detail = s.opt_text(end.detail.clone());
    let sql = s.sql(format!(
        "INSERT INTO attempt (task, attempt, engine, incarnation, token, nonce, started_at, ended_at, result, exit_code, detail) \
         SELECT id, attempt, {engine}, {incarnation}, token, nonce, claimed_at, {now}, {result}, {code}, {detail} \
         FROM task WHERE id = {id} {}",
        db.dialect().or_nothing("attempt", "task")
    ));
    db.execute("write the attempt", &sql).map(|_| ())
}

fn write_output(db: &mut dyn Db, end: &Finish) -> StoreResult<()> {
    if end.output.is_empty() {
        return Ok(());
    }
    // A server that takes less at once gets the end of it: what it does not take would hold up every other end.
    let cut = end.output.len().saturating_sub(db.bytes_max().saturating_sub(1_024));
    let mut s = db.stmt();
    let id = s.int(end.held.task.as_i64());
    let dropped = s.int(i64::try_from(end.output_dropped).unwrap_or(i64::MAX).saturating_add_unsigned(cut as u64));
    let output = s.bytes(end.output[cut..].to_vec());
    let sql = s.sql(format!(
        "INSERT INTO attempt_output (task, attempt, dropped, output) SELECT id, attempt, {dropped}, {output} \
         FROM task WHERE id = {id} {}",
        db.dialect().or_update("task, attempt", &["dropped", "output"])
    ));
    db.execute("write the output", &sql).map(|_| ())
}

/// See `Store::read_finish`.
pub fn read_finish(db: &mut dyn Db, held: &Held) -> StoreResult<FinishState> {
    let mut s = db.stmt();
    let (id, token, nonce) = (s.int(held.task.as_i64()), s.int(held.token.as_i64()), s.int(held.nonce.as_i64()));
    // Only what the engine itself wrote has the claim's nonce: a takeover's row has none. The time of the row does
    // not tell: an end may be written in the instant of its engine's end, or after it, as long as nobody has
    // taken the task over. A canceled task's archive row has the nonce whoever canceled it; its attempt's row tells.
    let done = TaskState::Done.code();
    let sql = s.sql(format!(
        "SELECT (SELECT count(*) FROM task WHERE id = {id} AND token = {token} AND nonce = {nonce} AND state = 3), \
         (SELECT count(*) FROM task_archive WHERE id = {id} AND nonce = {nonce} AND state = {done}) + \
         (SELECT count(*) FROM attempt WHERE task = {id} AND nonce = {nonce})"
    ));
    let Some(mut row) = db.first("read an end back", &sql)? else { return Ok(FinishState::Refused) };
    let (open, written) = (row.int(), row.int());
    Ok(match (open, written) {
        (1.., _) => FinishState::Open,
        (_, 1..) => FinishState::Written,
        _ => FinishState::Refused,
    })
}
