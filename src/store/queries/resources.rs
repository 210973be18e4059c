//! Resources as people see them.

use super::people::SEEN;
use crate::protocol::ids::{ResourceName, TaskId, Token};
use crate::protocol::task::TaskState;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::sql::Row;
use crate::store::types::ResourceRow;

/// Names in a line are listed up to this many; a line of a million is shown as "1000+".
const LINE_MAX: i64 = 1_000;

/// See `Store::resources`.
pub fn resources(db: &mut dyn Db, limit: usize) -> StoreResult<Vec<ResourceRow>> {
    let mut s = db.stmt();
    let limit = s.int(i64::try_from(limit).unwrap_or(i64::MAX));
    let sql = s.sql(format!(
        "SELECT n.name, r.owner_task, i.name, r.token FROM (SELECT resource AS name FROM task_resource UNION SELECT name FROM resource WHERE owner_task IS NOT NULL) n \
         LEFT JOIN resource r ON r.name = n.name LEFT JOIN engine_info i ON i.incarnation = r.owner ORDER BY n.name LIMIT {limit}"
    ));
    let mut rows: Vec<ResourceRow> = db.query("list resources", &sql)?.into_iter().map(read_resource).collect();
    for some in rows.chunks_mut(COUNTED) {
        count_lines(db, some)?;
    }
    Ok(rows)
}

/// Lines that are counted by one statement. Its text is always the same: prepared statements are kept by it.
const COUNTED: usize = 32;

/// A count that stops needs a subquery with a LIMIT, and into that no backend but SQLite and PostgreSQL lets
/// the name of an outer row.
fn count_lines(db: &mut dyn Db, rows: &mut [ResourceRow]) -> StoreResult<()> {
    let mut s = db.stmt();
    let mut parts = Vec::with_capacity(COUNTED);
    for at in 0..COUNTED {
        let name = s.text(rows.get(at).map_or("", |row| row.name.as_str()));
        parts.push(format!(
            "SELECT {at}, count(*) FROM (SELECT 1 FROM task_resource WHERE resource = {name} AND in_line = 1 \
             LIMIT {LINE_MAX}) c{at}"
        ));
    }
    for mut row in db.query("count lines", &s.sql(parts.join(" UNION ALL ")))? {
        let at = usize::try_from(row.int()).unwrap_or(usize::MAX);
        if let Some(found) = rows.get_mut(at) {
            found.line_count = row.int().unsigned_abs();
        }
    }
    Ok(())
}

fn read_resource(mut row: Row) -> ResourceRow {
    ResourceRow {
        name: ResourceName::from_stored(row.text()),
        owner_task: row.opt_int().map(TaskId::new),
        engine: row.opt_text(),
        token: Token::new(row.int()),
        line_count: 0,
        line: Vec::new(),
    }
}

/// See `Store::resource`.
pub fn resource(db: &mut dyn Db, name: &ResourceName) -> StoreResult<Option<ResourceRow>> {
    let mut s = db.stmt();
    let at = s.text(name.as_str());
    let sql = s.sql(format!(
        "SELECT n.name, r.owner_task, i.name, r.token FROM (SELECT resource AS name FROM task_resource WHERE resource = {at} UNION SELECT name FROM resource WHERE name = {at}) n \
         LEFT JOIN resource r ON r.name = n.name LEFT JOIN engine_info i ON i.incarnation = r.owner"
    ));
    let Some(row) = db.first("read a resource", &sql)? else { return Ok(None) };
    let mut found = read_resource(row);
    let mut s = db.stmt();
    let at = s.text(name.as_str());
    let sql = s.sql(format!(
        "SELECT t.id, {SEEN} FROM task_resource tr JOIN task t ON t.id = tr.task \
         WHERE tr.resource = {at} AND tr.in_line = 1 ORDER BY tr.task LIMIT {LINE_MAX}"
    ));
    let read = |mut row: Row| Some((TaskId::new(row.int()), TaskState::from_code(row.int())?));
    found.line = db.query("read a line", &sql)?.into_iter().filter_map(read).collect();
    found.line_count = u64::try_from(found.line.len()).unwrap_or(0);
    Ok(Some(found))
}
