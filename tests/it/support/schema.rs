//! The schema as the migrations made it, beside the one that `src/store/schema.rs` describes.

use std::collections::BTreeMap;

use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::sqlite::Sqlite;
use diesel::{QueryDsl, RunQueryDsl, Table};
use diesel_migrations::MigrationHarness;
use rekindle::store::migrate;

use super::databases::{Connection, Rig};

/// Columns of tables, in order.
pub type Columns = BTreeMap<String, Vec<String>>;

/// Runs every `down.sql`.
pub fn revert_all(rig: &Rig) {
    match rig.connection() {
        Connection::Sqlite(mut db) => {
            MigrationHarness::<Sqlite>::revert_all_migrations(db.raw(), migrate::SQLITE).unwrap();
        }
        Connection::Postgres(mut db) => {
            MigrationHarness::<Pg>::revert_all_migrations(db.raw(), migrate::POSTGRES).unwrap();
        }
        Connection::Mariadb(mut db) => {
            MigrationHarness::<Mysql>::revert_all_migrations(db.raw(), migrate::MYSQL).unwrap();
        }
    }
}

/// Runs the `down.sql` of the newest migration: the database is one release behind.
pub fn revert_newest(rig: &Rig) {
    match rig.connection() {
        Connection::Sqlite(mut db) => {
            MigrationHarness::<Sqlite>::revert_last_migration(db.raw(), migrate::SQLITE).unwrap();
        }
        Connection::Postgres(mut db) => {
            MigrationHarness::<Pg>::revert_last_migration(db.raw(), migrate::POSTGRES).unwrap();
        }
        Connection::Mariadb(mut db) => {
            MigrationHarness::<Mysql>::revert_last_migration(db.raw(), migrate::MYSQL).unwrap();
        }
    }
}

/// Selects every column that `src/store/schema.rs` names; returns them.
pub fn select_all(rig: &Rig) -> Columns {
    let mut known = Columns::new();
    macro_rules! select {
        ($($table:ident)+) => {$({
            use rekindle::store::schema::$table;
            let query = $table::table.select($table::table::all_columns());
            let text = diesel::debug_query::<Pg, _>(&query).to_string();
            match rig.connection() {
                Connection::Sqlite(mut db) => query.execute(db.raw()).map(|_| ()).unwrap(),
                Connection::Postgres(mut db) => query.execute(db.raw()).map(|_| ()).unwrap(),
                Connection::Mariadb(mut db) => query.execute(db.raw()).map(|_| ()).unwrap(),
            }
            let list = text.split(" FROM ").next().unwrap().trim_start_matches("SELECT ").split(", ");
            let columns = list.map(|column| column.rsplit('.').next().unwrap().trim_matches('"').to_owned());
            known.insert(stringify!($table).to_owned(), columns.collect());
        })+};
    }
    select!(attempt attempt_output engine engine_info engine_wish history hour meta resource task task_archive task_resource);
    known
}

/// Every column that is there.
pub fn columns(rig: &Rig) -> Columns {
    let query = match rig.connection() {
        Connection::Sqlite(_) => {
            "SELECT t.name, c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c \
             WHERE t.type = 'table' ORDER BY t.name, c.cid"
        }
        Connection::Postgres(_) => {
            "SELECT table_name::text, column_name::text FROM information_schema.columns \
             WHERE table_schema = current_schema() ORDER BY table_name, ordinal_position"
        }
        Connection::Mariadb(_) => {
            "SELECT table_name, column_name FROM information_schema.columns \
             WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position"
        }
    };
    let mut found = Columns::new();
    for mut row in rig.rows(query) {
        let (table, column) = (row.text(), row.text());
        if !table.starts_with("sqlite_") && !table.starts_with("__diesel") {
            found.entry(table).or_default().push(column);
        }
    }
    found
}
