//! Ends of tasks that are done, by sets: a batch costs a few statements, whatever its length.

use std::collections::{BTreeMap, BTreeSet};

use super::ends::{ARCHIVED, as_json, of_task};
use super::rows::{NEXT_VERSION, Names, corrupt, held, is_in};
use crate::protocol::ids::{ResourceName, TaskId};
use crate::protocol::takeover::Next;
use crate::protocol::task::{AttemptResult, TaskState};
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::{Bind, ColumnType, Dialect, Sql};
use crate::store::types::{Finish, Finisher, Held};

/// Done, and without output: the path that carries the throughput. A wish does not change what is done.
pub(super) fn is_short(end: &Finish) -> bool {
    end.next == Next::Done && end.output.is_empty()
}

/// Moves a batch from `task` to `task_archive`: one statement where a CTE may write, two elsewhere (three
/// where the first gives no rows back), in the caller's transaction, which holds their resources.
pub(super) fn finish_short(db: &mut dyn Db, who: &Finisher, ends: &[&Finish], wants: &Names) -> StoreResult<Vec<Held>> {
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    // One claim named twice would be archived twice.
    let ends: BTreeMap<Held, &Finish> = ends.iter().map(|end| (end.held, *end)).collect();
    let rows: Vec<Vec<Bind>> = ends
        .values()
        .map(|end| {
            let held = &end.held;
            vec![
                Bind::Int(Some(held.task.as_i64())),
                Bind::Int(Some(held.token.as_i64())),
                Bind::Int(Some(held.nonce.as_i64())),
                Bind::Text(end.value.clone()),
                Bind::Text(wants.get(&held.task).map(|names| as_json(names))),
            ]
        })
        .collect();
    let (int, text) = (ColumnType::Int, ColumnType::Text);
    let columns = [("id", int), ("token", int), ("nonce", int), ("value", text), ("names", text)];
    let Dialect { now, has_writing_cte, has_returning, cross_join, .. } = *db.dialect();
    let locked = if has_returning { Vec::new() } else { lock_held(db, &ends)? };
    let mut s = db.stmt();
    let engine = s.text(who.name.as_str());
    let u = s.table("u", &columns, &rows);
    // Token and nonce say whose it is; the owner does not stand here, because a `continue` task that ends
    // while its engine registers anew has just been given to the new incarnation.
    let mine =
        format!("t.id = u.id AND t.token = u.token AND t.nonce = u.nonce AND {}", is_in("t.state", TaskState::Running));
    let insert = format!("INSERT INTO task_archive ({ARCHIVED}, state, result, ended_at, engine, value, resources)");
    let tail = format!("{}, {}, {now}, {engine}", TaskState::Done.code(), AttemptResult::Done.code());
    if has_writing_cte {
        // The value comes through RETURNING: a second join with the list would be planned for one row, and
        // a batch would cost its square.
        let sql = s.sql(format!(
            "WITH d AS (DELETE FROM task t USING {u} WHERE {mine} RETURNING t.*, u.value, u.names) \
             {insert} SELECT {}, {tail}, d.value, d.names FROM d RETURNING id, token, nonce",
            of_task("d"),
        ));
        return read_held(db, &sql);
    }
    // This join keeps the list on the outside, for the same reason.
    let text =
        format!("{insert} SELECT {}, {tail}, u.value, u.names FROM {u} {cross_join} task t WHERE {mine}", of_task("t"));
    let written = if has_returning {
        read_held(db, &s.sql(format!("{text} RETURNING id, token, nonce")))?
    } else {
        let copied = db.execute("finish", &s.sql(text))?;
        if copied != locked.len() {
            return Err(corrupt("finish", format!("{copied} of {} locked tasks were archived", locked.len())));
        }
        locked
    };
    let mut s = db.stmt();
    let ids = s.in_ints(written.iter().map(|held| held.task.as_i64()));
    let sql = s.sql(format!("{} WHERE id {ids}", db.dialect().delete_by_key("task")));
    db.execute("finish", &sql)?;
    Ok(written)
}

fn read_held(db: &mut dyn Db, sql: &Sql) -> StoreResult<Vec<Held>> {
    Ok(db.query("finish", sql)?.into_iter().map(|mut row| held(&mut row)).collect())
}

/// Locks the rows of these ends in the order of their numbers; those whose claim still stands.
fn lock_held(db: &mut dyn Db, ends: &BTreeMap<Held, &Finish>) -> StoreResult<Vec<Held>> {
    let (lock, by, runs) = (db.dialect().for_update, db.dialect().by("PRIMARY"), is_in("state", TaskState::Running));
    let mut s = db.stmt();
    let ids = s.in_ints(ends.keys().map(|held| held.task.as_i64()));
    let sql = s.sql(format!("SELECT id, token, nonce FROM task {by} WHERE id {ids} AND {runs} ORDER BY id {lock}"));
    let found = read_held(db, &sql)?;
    Ok(found.into_iter().filter(|held| ends.contains_key(held)).collect())
}

/// Takes tasks that are done out of their lines and frees what they owned: the names that were written.
pub(super) fn free_all(db: &mut dyn Db, done: &[Held], wants: &Names) -> StoreResult<BTreeSet<ResourceName>> {
    let keyed: Vec<i64> =
        done.iter().map(|held| held.task).filter(|t| wants.contains_key(t)).map(|t| t.as_i64()).collect();
    if keyed.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut s = db.stmt();
    let ids = s.in_ints(keyed.iter().copied());
    let sql = s.sql(format!("{} WHERE task {ids}", db.dialect().delete_by_key("task_resource")));
    db.execute("finish", &sql)?;
    let names: BTreeSet<ResourceName> =
        keyed.iter().filter_map(|id| wants.get(&TaskId::new(*id))).flatten().cloned().collect();
    let (now, by) = (db.dialect().now, db.dialect().by("PRIMARY"));
    let mut s = db.stmt();
    let list = s.in_texts(names.iter().map(|name| name.as_str()));
    let ids = s.in_ints(keyed);
    // The owner does not stand in the condition: a write that changes every row, also one that is not owned, tells a
    // claim that is just moving somebody behind it.
    let mine = |column: &str| format!("CASE WHEN owner_task {ids} THEN NULL ELSE {column} END");
    let sql = s.sql(format!(
        "UPDATE resource {by} SET owner = {}, owner_task = {}, version = {NEXT_VERSION}, used_at = {now} WHERE name {list}",
        mine("owner"),
        mine("owner_task"),
    ));
    db.execute("free resources", &sql)?;
    Ok(names)
}
