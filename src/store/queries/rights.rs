//! Whether the database user may do all that an engine does, asked before there is a row of it.
//!
//! Failure that this is for: a user who may claim (UPDATE) but not end (DELETE). Its engine would beat, claim
//! and run tasks whose ends it can never write, and its peers would see nothing wrong. A server checks rights
//! although no row matches, so it is asked with statements that match none: all rights in one statement, or a
//! few where a server cannot join them, and one by one only to name what is missing. Outside of a transaction,
//! because the first refusal would end it; nothing is written, so there is nothing to roll back.
//! A right that is taken away later is noticed by the finisher, which then stops new claims.

use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::StoreError;

const STEP: &str = "check the rights";

/// A table, a column of it, and what engines do to it besides reading.
struct Needed {
    table: &'static str,
    column: &'static str,
    inserts: bool,
    updates: bool,
    deletes: bool,
}

const fn needed(table: &'static str, column: &'static str, rights: [bool; 3]) -> Needed {
    let [inserts, updates, deletes] = rights;
    Needed { table, column, inserts, updates, deletes }
}

/// In the order insert, update, delete.
const NEEDED: [Needed; 12] = [
    needed("meta", "protocol", [false, true, false]),
    needed("engine", "mode", [true, true, true]),
    needed("engine_info", "taken_over", [true, true, true]),
    needed("engine_wish", "wanted", [false, false, true]),
    needed("task", "version", [false, true, true]),
    needed("task_resource", "in_line", [false, true, true]),
    needed("resource", "version", [true, true, true]),
    needed("task_archive", "state", [true, false, true]),
    needed("attempt", "result", [true, false, true]),
    needed("attempt_output", "dropped", [true, false, true]),
    needed("history", "part", [false, false, true]),
    needed("hour", "done", [true, true, true]),
];

impl Needed {
    fn select(&self) -> String {
        format!("SELECT {} FROM {} WHERE 1 = 0", self.column, self.table)
    }
    fn insert(&self) -> Option<String> {
        self.inserts.then(|| format!("INSERT INTO {0} SELECT * FROM {0} WHERE 1 = 0", self.table))
    }
    fn update(&self) -> Option<String> {
        self.updates.then(|| format!("UPDATE {} SET {1} = {1} WHERE 1 = 0", self.table, self.column))
    }
    fn delete(&self) -> Option<String> {
        // Names a column, because every DELETE of an engine reads some.
        self.deletes.then(|| format!("DELETE FROM {} WHERE {} = 0 AND 1 = 0", self.table, self.column))
    }
}

/// See `Store::check_rights`.
pub fn check(db: &mut dyn Db) -> StoreResult<()> {
    let statements = if db.dialect().has_writing_cte { vec![one_statement()] } else { few_statements() };
    for text in statements {
        match run(db, text) {
            Err(error) if is_refusal(&error) => return Err(name_missing(db, error)?),
            // What a server says in a language of its own is sorted as busy: its catalog knows no language.
            Err(StoreError::Busy { step, source }) if db.dialect().has_writing_cte => {
                return match missing_in_catalog(db)? {
                    missing if missing.is_empty() => Err(StoreError::Busy { step, source }),
                    missing => Err(StoreError::Rights { missing: missing.join(", "), source }),
                };
            }
            other => other?,
        }
    }
    Ok(())
}

/// Where only some columns are granted, this names more than is missing.
fn missing_in_catalog(db: &mut dyn Db) -> StoreResult<Vec<String>> {
    let mut missing = Vec::new();
    for n in &NEEDED {
        let rights = [("SELECT", true), ("INSERT", n.inserts), ("UPDATE", n.updates), ("DELETE", n.deletes)];
        for (right, _) in rights.into_iter().filter(|(_, is_needed)| *is_needed) {
            let mut s = db.stmt();
            let (table, what) = (s.text(n.table), s.text(right));
            // No such table: that is no matter of rights, and the schema's check says it.
            let sql = s.sql(format!("SELECT COALESCE(has_table_privilege(to_regclass({table}), {what}), true)"));
            if db.first(STEP, &sql)?.is_some_and(|mut row| row.int() == 0) {
                missing.push(format!("{right} on {}", n.table));
            }
        }
    }
    Ok(missing)
}

fn one_statement() -> String {
    let all = NEEDED.iter().flat_map(|n| [n.insert(), n.update(), n.delete()]).flatten();
    let parts: Vec<String> = all.enumerate().map(|(at, text)| format!("w{at} AS ({text})")).collect();
    format!("WITH {} SELECT 1 WHERE 1 = 0", parts.join(", "))
}

/// An UPDATE and a DELETE may name many tables there, an INSERT only one.
fn few_statements() -> Vec<String> {
    let updated = || NEEDED.iter().filter(|n| n.updates);
    let deleted: Vec<&str> = NEEDED.iter().filter(|n| n.deletes).map(|n| n.table).collect();
    let tables: Vec<&str> = updated().map(|n| n.table).collect();
    let sets: Vec<String> = updated().map(|n| format!("{0}.{1} = {0}.{1}", n.table, n.column)).collect();
    let update = format!("UPDATE {} SET {} WHERE 1 = 0", tables.join(", "), sets.join(", "));
    let delete = format!("DELETE {} FROM {} WHERE 1 = 0", deleted.join(", "), deleted.join(" JOIN "));
    [update, delete].into_iter().chain(NEEDED.iter().filter_map(Needed::insert)).collect()
}

fn run(db: &mut dyn Db, text: String) -> StoreResult<()> {
    let sql = db.stmt().sql(text);
    db.execute(STEP, &sql).map(|_| ())
}

/// A right is missing; a server that takes no writes at all says something else.
fn is_refusal(error: &StoreError) -> bool {
    let StoreError::Forbidden { source, .. } = error else { return false };
    ["permission denied", "command denied to user"].iter().any(|words| source.0.contains(words))
}

/// What the first refusal left open: which rights, on which tables.
fn name_missing(db: &mut dyn Db, first: StoreError) -> StoreResult<StoreError> {
    let mut missing = Vec::new();
    for n in &NEEDED {
        // Without it all others are refused too.
        let may_select = is_allowed(db, n.select())?;
        if !may_select {
            missing.push(format!("SELECT on {}", n.table));
            continue;
        }
        for (right, text) in [("INSERT", n.insert()), ("UPDATE", n.update()), ("DELETE", n.delete())] {
            if let Some(text) = text
                && !is_allowed(db, text)?
            {
                missing.push(format!("{right} on {}", n.table));
            }
        }
    }
    Ok(match first {
        StoreError::Forbidden { source, .. } if !missing.is_empty() => {
            StoreError::Rights { missing: missing.join(", "), source }
        }
        other => other,
    })
}

fn is_allowed(db: &mut dyn Db, text: String) -> StoreResult<bool> {
    match run(db, text) {
        Err(error) if is_refusal(&error) => Ok(false),
        other => other.map(|()| true),
    }
}
