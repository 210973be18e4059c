//! A database user who may claim tasks but not end them.

use diesel::connection::SimpleConnection;

use super::Desk;
use crate::support::{mariadb, postgres};

use rekindle::config::DatabaseUrl;
use rekindle::store::{Settings, StoreError, open};

/// Checks at both places that the right is named, then that the same user with it is let through.
fn refused_then_granted(url: &str, grant: impl FnOnce()) {
    let settings = Settings::new(DatabaseUrl::parse(url).unwrap());
    let store = open(vec![settings.clone()], vec![settings], 1).unwrap();
    match store.check_rights().unwrap_err() {
        StoreError::Rights { missing, .. } => assert_eq!(missing, "DELETE on task"),
        other => panic!("{other:?}"),
    }
    let desk = Desk::bare();
    let said = desk.args(&["doctor", "--database-url", url]).code(1);
    assert!(said.out.contains("an engine would not start: the database user lacks DELETE on task"), "{said:?}");
    grant();
    store.check_rights().unwrap();
}

#[test]
fn postgres_names_the_right_that_an_engine_lacks() {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    let database = postgres::Database::migrated(&server);
    let own = database.settings.url.expose().to_string();
    let (_, place) = own.rsplit_once('@').unwrap();
    let user = format!("rekindle_it_{:08x}", fastrand::u32(..));
    let run = |sql: String| {
        let mut db = rekindle::store::postgres::Postgres::open(&database.settings).unwrap();
        db.raw().batch_execute(&sql).unwrap();
    };
    run(format!(
        "CREATE ROLE {user} LOGIN PASSWORD 'p'; GRANT USAGE ON SCHEMA public TO {user}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}; REVOKE DELETE ON task FROM {user}"
    ));
    refused_then_granted(&format!("postgres://{user}:p@{place}"), || run(format!("GRANT DELETE ON task TO {user}")));
    run(format!("DROP OWNED BY {user}; DROP ROLE {user}"));
}

#[test]
fn mariadb_names_the_right_that_an_engine_lacks() {
    let Some(server) = mariadb::server() else { return println!("skipped: REKINDLE_TEST_MARIADB is not set") };
    let database = mariadb::Database::migrated(&server);
    let own = database.settings.url.expose().to_string();
    let (_, place) = own.rsplit_once('@').unwrap();
    let user = format!("rekindle_it_{:08x}@'127.0.0.1'", fastrand::u32(..));
    let name = user.split('@').next().unwrap();
    let run = |sql: &str| {
        let mut db = rekindle::store::mysql::MysqlDb::open(&database.settings).unwrap();
        db.raw().batch_execute(sql).unwrap();
    };
    run(&format!("CREATE USER {user} IDENTIFIED BY 'p'"));
    for table in [
        "meta",
        "engine",
        "engine_info",
        "engine_wish",
        "task",
        "task_resource",
        "resource",
        "task_archive",
        "attempt",
        "attempt_output",
        "history",
        "hour",
        "__diesel_schema_migrations",
    ] {
        let delete = if table == "task" { "" } else { ", DELETE" };
        run(&format!("GRANT SELECT, INSERT, UPDATE{delete} ON {table} TO {user}"));
    }
    refused_then_granted(&format!("mysql://{name}:p@{place}"), || run(&format!("GRANT DELETE ON task TO {user}")));
    run(&format!("DROP USER {user}"));
}
