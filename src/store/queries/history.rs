//! The history: rows that the transaction of a change writes, and reading them.

use super::rows::micros;
use crate::protocol::ids::TaskId;
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::audit::{Affected, Change, HistoryEntry, HistoryFilter, holds, pack, span};
use crate::store::db::{Db, Inside};
use crate::store::sql::Row;

/// Runs a step that has (or would have) a transaction of its own together with its row of history in one
/// transaction, which errors call `name`. The step says what it changed; nothing means that there is nothing to tell.
pub fn with_history<T>(
    db: &mut dyn Db,
    name: &'static str,
    change: &Change,
    step: impl FnOnce(&mut dyn Db) -> StoreResult<(T, Option<Affected>)>,
) -> StoreResult<T> {
    db.transaction(name, |db| {
        let (value, affected) = step(&mut Inside(db))?;
        if let Some(affected) = affected {
            write(db, change, &affected)?;
        }
        Ok(value)
    })
}

/// Writes a row in the caller's transaction.
pub fn write(db: &mut dyn Db, change: &Change, affected: &Affected) -> StoreResult<()> {
    let now = db.dialect().now;
    let mut s = db.stmt();
    let (command, part) = (s.int(change.command), s.int(i64::from(change.part)));
    let (by, host, program) = (s.text(&change.by), s.text(&change.host), s.text(&change.program));
    let (version, verb, object) = (s.text(&change.version), s.text(&change.verb), s.text(&affected.object));
    let (first, last) = (affected.tasks.first(), affected.tasks.last());
    let (first, last) = (s.opt_int(first.map(|t| t.as_i64())), s.opt_int(last.map(|t| t.as_i64())));
    let tasks = s.opt_text((!affected.tasks.is_empty()).then(|| pack(&affected.tasks)));
    let count = s.int(i64::try_from(affected.count).unwrap_or(i64::MAX));
    let (old, new) = (s.opt_text(affected.old.clone()), s.opt_text(affected.new.clone()));
    let (reason, lasts) = (s.opt_text(change.reason.clone()), s.opt_int(affected.lasts.map(micros)));
    let sql = s.sql(format!(
        "INSERT INTO history (command, part, made_at, made_by, host, program, version, verb, object, task_first, \
         task_last, tasks, object_count, old_value, new_value, reason, until_at) \
         VALUES ({command}, {part}, {now}, {by}, {host}, {program}, {version}, {verb}, {object}, {first}, {last}, {tasks}, \
         {count}, {old}, {new}, {reason}, {now} + {lasts})"
    ));
    db.execute("write the history", &sql).map(|_| ())
}

/// See `Store::record`.
pub fn record(db: &mut dyn Db, change: &Change, affected: &Affected) -> StoreResult<()> {
    db.transaction("write the history", |db| write(db, change, affected))
}

/// A row as it is stored.
struct Stored {
    command: i64,
    tasks: Option<String>,
    entry: HistoryEntry,
}

const COLUMNS: &str = "command, tasks, made_at, made_by, host, program, version, verb, object, task_first, task_last, \
     object_count, old_value, new_value, reason, until_at";

fn read(mut row: Row) -> Stored {
    let (command, tasks) = (row.int(), row.opt_text());
    let at = Timestamp::from_us(row.int());
    let (by, host, program, version) = (row.text(), row.text(), row.text(), row.text());
    let (verb, object) = (row.text(), row.text());
    let span = row.opt_int().map(TaskId::new).zip(row.opt_int().map(TaskId::new));
    let entry = HistoryEntry {
        at,
        by,
        host,
        program,
        version,
        verb,
        object,
        tasks: span,
        count: row.int().unsigned_abs(),
        old: row.opt_text(),
        new: row.opt_text(),
        reason: row.opt_text(),
        until: row.opt_int().map(Timestamp::from_us),
    };
    Stored { command, tasks, entry }
}

/// Rows that a question about one task looks at: those of other commands whose span covers its number are
/// passed over, so the question must end somewhere.
const LOOK_MAX: i64 = 10_000;

/// See `Store::history`.
pub fn history(db: &mut dyn Db, filter: &HistoryFilter) -> StoreResult<(Timestamp, Vec<HistoryEntry>)> {
    let task = filter.object.as_deref().and_then(TaskId::parse);
    let found = heads(db, filter, task)?;
    let batched: Vec<i64> = found.iter().filter(|row| row.entry.tasks.is_some()).map(|row| row.command).collect();
    let mut parts = parts(db, &batched)?;
    let mut entries = Vec::new();
    for row in found {
        if row.entry.tasks.is_none() {
            entries.push(row.entry);
        } else if let Some(at) = parts.iter().position(|part| part.command == row.command) {
            // The first part stands for its command; the others are added to it, here and only once.
            let mut whole = parts.remove(at).entry;
            parts.retain(|part| {
                let is_more = part.command == row.command;
                if is_more {
                    join(&mut whole, &part.entry);
                }
                !is_more
            });
            entries.push(whole);
        }
    }
    entries.truncate(filter.limit);
    let sql = db.stmt().sql(format!("SELECT {}", db.dialect().now));
    let now = Timestamp::from_us(db.first("read the clock", &sql)?.map_or(0, |mut row| row.int()));
    Ok((now, entries))
}

fn join(whole: &mut HistoryEntry, part: &HistoryEntry) {
    whole.count += part.count;
    if let (Some((first, last)), Some((from, to))) = (whole.tasks, part.tasks) {
        let (first, last) = (first.min(from), last.max(to));
        whole.tasks = Some((first, last));
        whole.object = span(&[first, last]);
    }
}

/// What matches, newest first: of a command in batches one row is enough.
fn heads(db: &mut dyn Db, filter: &HistoryFilter, task: Option<TaskId>) -> StoreResult<Vec<Stored>> {
    let now = db.dialect().moment;
    let mut s = db.stmt();
    let mut wheres = Vec::new();
    match (&filter.object, task) {
        (Some(object), Some(id)) => {
            let (object, id) = (s.text(object), s.int(id.as_i64()));
            wheres.push(format!("(object = {object} OR (task_first <= {id} AND task_last >= {id}))"));
        }
        (Some(object), None) => wheres.push(format!("object = {}", s.text(object))),
        (None, _) => wheres.push("(part = 0 OR task_first IS NULL)".to_owned()),
    }
    if let Some(by) = &filter.by {
        let (exact, user) = (s.text(by), s.text(format!("{by}@")));
        // Counted here: what `length` counts differs between databases.
        let length = by.chars().count() + 1;
        wheres.push(format!("(made_by = {exact} OR substr(made_by, 1, {length}) = {user})"));
    }
    if let Some(since) = filter.since {
        wheres.push(format!("made_at >= {now} - {}", s.int(micros(since))));
    }
    let limit = if task.is_some() { LOOK_MAX } else { i64::try_from(filter.limit).unwrap_or(i64::MAX) };
    let limit = s.int(limit);
    let sql =
        s.sql(format!("SELECT {COLUMNS} FROM history WHERE {} ORDER BY id DESC LIMIT {limit}", wheres.join(" AND ")));
    let mut found: Vec<Stored> = db.query("read the history", &sql)?.into_iter().map(read).collect();
    if let Some(task) = task {
        found.retain(|row| row.tasks.as_deref().is_none_or(|tasks| holds(tasks, task)));
        found.truncate(filter.limit);
    }
    Ok(found)
}

/// All transactions of commands that work in batches, in their order.
fn parts(db: &mut dyn Db, commands: &[i64]) -> StoreResult<Vec<Stored>> {
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let mut s = db.stmt();
    let list = s.in_ints(commands.iter().copied());
    let sql = s.sql(format!(
        "SELECT {COLUMNS} FROM history WHERE command {list} AND task_first IS NOT NULL ORDER BY command, part"
    ));
    Ok(db.query("read the history", &sql)?.into_iter().map(read).collect())
}
