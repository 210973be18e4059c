//! A database user who may claim tasks but not end them.

use super::Desk;
use crate::support::login::Login;
use crate::support::{mariadb, postgres};

use rekindle::config::DatabaseUrl;
use rekindle::store::{Settings, StoreError, open};

/// Checks at both places that the right is named, then that the same user with it is let through.
fn refused_then_granted(settings: &Settings) {
    let login = Login::new(settings);
    login.revoke("DELETE ON task");
    let settings = Settings::new(DatabaseUrl::parse(&login.url).unwrap());
    let store = open(vec![settings.clone()], vec![settings], 1).unwrap();
    match store.check_rights().unwrap_err() {
        StoreError::Rights { missing, .. } => assert_eq!(missing, "DELETE on task"),
        other => panic!("{other:?}"),
    }
    let desk = Desk::bare();
    let said = desk.args(&["doctor", "--database-url-file", &desk.url_file(&login.url)]).code(1);
    assert!(said.out.contains("an engine would not start: the database user lacks DELETE on task"), "{said:?}");
    login.grant("DELETE ON task");
    store.check_rights().unwrap();
}

#[test]
fn postgres_names_the_right_that_an_engine_lacks() {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    refused_then_granted(&postgres::Database::migrated(&server).settings);
}

#[test]
fn mariadb_names_the_right_that_an_engine_lacks() {
    let Some(server) = mariadb::server() else { return println!("skipped: REKINDLE_TEST_MARIADB is not set") };
    refused_then_granted(&mariadb::Database::migrated(&server).settings);
}
