//! A write whose rows come back, also where the database has no `RETURNING`.
//!
//! There it takes three statements in one transaction: the rows are picked and locked, written under the
//! same conditions, and read. What is picked is locked, so nobody changes it in between; only what does
//! not lie in the rows (`guard`) can turn, and then it turns for all of them and nothing is written.

use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::{Cause, StoreError};
use crate::store::sql::{Dialect, Row, Stmt};

/// See the module.
pub struct Change<'a> {
    /// What is done, for messages.
    pub step: &'static str,
    /// Which table.
    pub table: &'a str,
    /// Its key, an integer.
    pub key: &'a str,
    /// The assignments of an `UPDATE`; `None` is a `DELETE`, of which only the key comes back.
    pub set: Option<String>,
    /// Conditions on the rows.
    pub which: String,
    /// Conditions that lie elsewhere.
    pub guard: String,
    /// `ORDER BY …` of what is picked, or nothing.
    pub order: String,
    /// `LIMIT …` of what is picked, or nothing.
    pub limit: String,
    /// A column, and how many bytes of it are picked at most, though at least one row; only where rows are picked by a
    /// statement of their own.
    pub bytes: Option<(&'a str, i64)>,
    /// How rows are locked that others hold: `skip_locked` or `for_update` of the dialect.
    pub lock: &'static str,
    /// What comes back.
    pub columns: &'a str,
}

impl Change<'_> {
    fn verb(&self) -> String {
        match &self.set {
            Some(set) => format!("UPDATE {} SET {set}", self.table),
            None => format!("DELETE FROM {}", self.table),
        }
    }

    /// The same for rows that are named by their key.
    fn verb_by_key(&self, dialect: &Dialect) -> String {
        match &self.set {
            Some(set) => format!("UPDATE {} {} SET {set}", self.table, dialect.by("PRIMARY")),
            None => dialect.delete_by_key(self.table),
        }
    }

    fn pick(&self, key: &str, limit: &str) -> String {
        let Self { table, which, guard, order, lock, .. } = self;
        format!("SELECT {key} FROM {table} WHERE {which} AND {guard} {order} {limit} {lock}")
    }
}

/// Runs it on the rows that its conditions pick; `s` holds the binds of all its parts. The caller begins a
/// transaction where the database gives no rows back (see [`in_one`]).
pub fn change(db: &mut dyn Db, s: &Stmt, c: &Change<'_>) -> StoreResult<Vec<Row>> {
    if !db.dialect().has_returning {
        return change_in_three(db, s, c);
    }
    let which = match c.order.is_empty() {
        true => format!("{} AND {}", c.which, c.guard),
        false => format!("{} {}", c.key, s.one_of(&c.pick(c.key, &c.limit))),
    };
    let sql = s.clone().sql(format!("{} WHERE {which} RETURNING {}", c.verb(), c.columns));
    db.query(c.step, &sql)
}

fn change_in_three(db: &mut dyn Db, s: &Stmt, c: &Change<'_>) -> StoreResult<Vec<Row>> {
    let picked = pick_in_bytes(db, s, c)?;
    if picked.is_empty() {
        return Ok(Vec::new());
    }
    let mut binds = s.clone();
    let list = format!("{} {}", c.key, binds.in_ints(picked.iter().copied()));
    let sql = binds.clone().sql(format!("{} WHERE {list} AND {}", c.verb_by_key(db.dialect()), c.guard));
    match db.execute(c.step, &sql)? {
        0 => return Ok(Vec::new()),
        all if all == picked.len() => {}
        some => {
            let source = Cause(format!("{some} of {} locked rows could be written", picked.len()));
            return Err(StoreError::Busy { step: c.step, source });
        }
    }
    if c.set.is_none() {
        return Ok(picked.into_iter().map(Row::of_int).collect());
    }
    db.query(
        c.step,
        &binds.sql(format!("SELECT {} FROM {} {} WHERE {list}", c.columns, c.table, db.dialect().by("PRIMARY"))),
    )
}

/// A LIMIT is a number there, so rows are picked, locked and given up again at the end of the transaction.
fn pick_in_bytes(db: &mut dyn Db, s: &Stmt, c: &Change<'_>) -> StoreResult<Vec<i64>> {
    let (key, most) = match c.bytes {
        Some((column, most)) => (format!("{}, length({column})", c.key), most),
        None => (c.key.to_owned(), i64::MAX),
    };
    let mut bytes = 0_i64;
    let mut picked = Vec::new();
    for mut row in db.query(c.step, &s.clone().sql(c.pick(&key, &c.limit)))? {
        let id = row.int();
        bytes = bytes.saturating_add(row.int());
        if bytes > most && !picked.is_empty() {
            break;
        }
        picked.push(id);
    }
    Ok(picked)
}

/// The same for the one row that `row` names, which this transaction holds already.
pub fn change_held(db: &mut dyn Db, s: &Stmt, c: &Change<'_>, row: &str) -> StoreResult<Option<Row>> {
    let text = format!("{} WHERE {row} AND {} AND {}", c.verb(), c.which, c.guard);
    if db.dialect().has_returning {
        return db.first(c.step, &s.clone().sql(format!("{text} RETURNING {}", c.columns)));
    }
    match db.execute(c.step, &s.clone().sql(text))? {
        0 => Ok(None),
        _ => db.first(c.step, &s.clone().sql(format!("SELECT {} FROM {} WHERE {row}", c.columns, c.table))),
    }
}

/// Runs a step that is one statement where the database gives rows back, and one transaction elsewhere.
pub fn in_one<T>(
    db: &mut dyn Db,
    step: &'static str,
    body: impl FnOnce(&mut dyn Db) -> StoreResult<T>,
) -> StoreResult<T> {
    if db.dialect().has_returning { body(db) } else { db.transaction(step, body) }
}
