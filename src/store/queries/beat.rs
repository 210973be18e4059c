//! The beat, and what an accepted one brings back.

use super::rows::{meta_columns, read_meta};
use crate::protocol::engine::Wanted;
use crate::protocol::ids::{TaskId, Token};
use crate::protocol::task::Wish;
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::StoreError;
use crate::store::sql::Row;
use crate::store::types::{Beat, BeatAnswer, BeatOutcome};

const ACCEPT: &str = "UPDATE engine SET beat = beat + 1, last_beat_at = {now}, mode = {mode}, running = {running} \
     WHERE incarnation = {id} AND state = 1";

/// See `Store::beat`. One statement where the backend can write inside a CTE, one short transaction
/// elsewhere: the answer belongs to the same moment as the accepted beat.
pub fn beat(db: &mut dyn Db, b: &Beat) -> StoreResult<BeatOutcome> {
    if db.dialect().has_writing_cte { beat_once(db, b) } else { db.transaction("beat", |db| beat_in_two(db, b)) }
}

fn accept_sql(db: &mut dyn Db, b: &Beat) -> (crate::store::sql::Stmt, String, String) {
    let mut s = db.stmt();
    let id = s.int(b.incarnation.as_i64());
    let text = ACCEPT
        .replace("{now}", db.dialect().now)
        .replace("{id}", &id)
        .replace("{mode}", &s.int(b.mode.code()))
        .replace("{running}", &s.int(b.running));
    (s, text, id)
}

fn beat_once(db: &mut dyn Db, b: &Beat) -> StoreResult<BeatOutcome> {
    let identity = db.identity()?;
    let now = db.dialect().now;
    let (s, accept, id) = accept_sql(db, b);
    let columns = meta_columns(&identity, now);
    let sql = s.sql(format!(
        "WITH b AS ({accept} RETURNING beat, name) SELECT b.beat, w.wanted, w.until_at, w.deadline_at, \
         (SELECT string_agg(id || ':' || token || ':' || wish, ',') FROM task WHERE owner = {id} AND wish <> 0), \
         {columns} FROM b CROSS JOIN meta m LEFT JOIN engine_wish w ON w.name = b.name"
    ));
    match db.first("beat", &sql)? {
        Some(row) => Ok(BeatOutcome::Accepted(read_answer(row))),
        None => Ok(BeatOutcome::Gone),
    }
}

fn beat_in_two(db: &mut dyn Db, b: &Beat) -> StoreResult<BeatOutcome> {
    let (s, accept, _) = accept_sql(db, b);
    if db.execute("beat", &s.sql(accept))? == 0 {
        return Ok(BeatOutcome::Gone);
    }
    let identity = db.identity()?;
    let columns = meta_columns(&identity, db.dialect().now);
    let mut s = db.stmt();
    let id = s.int(b.incarnation.as_i64());
    let sql = s.sql(format!(
        "SELECT e.beat, w.wanted, w.until_at, w.deadline_at, \
         (SELECT group_concat(id || ':' || token || ':' || wish) FROM task WHERE owner = {id} AND wish <> 0), \
         {columns} FROM meta m JOIN engine e ON e.incarnation = {id} LEFT JOIN engine_wish w ON w.name = e.name \
         WHERE m.one = 1"
    ));
    match db.first("beat", &sql)? {
        Some(row) => Ok(BeatOutcome::Accepted(read_answer(row))),
        None => Err(StoreError::Refused("the table meta has no row".into())),
    }
}

fn read_answer(mut row: Row) -> BeatAnswer {
    let beat = row.int();
    let wanted = row.opt_int();
    let until = row.opt_int().map(Timestamp::from_us);
    let deadline = row.opt_int().map(Timestamp::from_us);
    let wishes = row.opt_text().unwrap_or_default();
    let meta = read_meta(&mut row);
    // A wish that ended by itself counts as `run`; the row is only cleaned up by the next writer.
    let over = until.is_some_and(|until| meta.now >= until);
    let wanted = wanted.filter(|_| !over).and_then(Wanted::from_code).unwrap_or(Wanted::Run);
    BeatAnswer {
        beat,
        wanted,
        wanted_deadline: deadline.filter(|_| !over),
        wishes: wishes.split(',').filter_map(read_wish).collect(),
        meta,
    }
}

fn read_wish(text: &str) -> Option<(TaskId, Token, Wish)> {
    let mut parts = text.split(':').map(|part| part.parse::<i64>().ok());
    Some((TaskId::new(parts.next()??), Token::new(parts.next()??), Wish::from_code(parts.next()??)?))
}
