//! A fresh MariaDB database for each test.
//!
//! The server comes from `REKINDLE_TEST_MARIADB` (a URL with the right to create databases;
//! `scripts/databases run` starts one). Databases of processes that are gone are dropped at the start.

use std::sync::Once;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, MysqlConnection, RunQueryDsl, sql_query};
use rekindle::config::DatabaseUrl;
use rekindle::store::{Settings, open};

/// A database of its own, dropped with it.
pub struct Database {
    pub settings: Settings,
    pub name: String,
    server: String,
}

const PREFIX: &str = "rekindle_it_";

/// The server, or `None` where tests run without one. Panics if it is required.
pub fn server() -> Option<String> {
    named("mariadb", "REKINDLE_TEST_MARIADB")
}

/// The nodes of a Galera cluster, with commas between them; the same way.
pub fn galera() -> Option<Vec<String>> {
    named("galera", "REKINDLE_TEST_GALERA").map(|urls| urls.split(',').map(str::to_owned).collect())
}

fn named(word: &str, variable: &str) -> Option<String> {
    let url = std::env::var(variable).ok();
    let required = std::env::var("REKINDLE_TEST_REQUIRE").unwrap_or_default();
    assert!(
        url.is_some() || !required.split(',').any(|each| each.trim() == word),
        "REKINDLE_TEST_REQUIRE names {word}, but {variable} is not set"
    );
    url
}

impl Database {
    /// With the schema.
    pub fn migrated(server: &str) -> Self {
        let database = Self::empty(server);
        open(vec![database.settings.clone()], vec![database.settings.clone()], 2).unwrap().migrate().unwrap();
        database
    }

    /// Without any table.
    pub fn empty(server: &str) -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| sweep(server));
        let name = format!("{PREFIX}{}_{:08x}", std::process::id(), fastrand::u32(..));
        admin(server).batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        let settings = Settings::new(DatabaseUrl::parse(&format!("{base}/{name}")).unwrap());
        Self { settings, name, server: server.to_owned() }
    }

    /// The same by way of another node, as soon as it knows the database.
    pub fn by_node(&self, node: &str) -> Settings {
        let (base, _) = node.rsplit_once('/').unwrap();
        let url = format!("{base}/{}", self.name);
        super::wait_until(Duration::from_secs(10), || MysqlConnection::establish(&url).is_ok());
        Settings::new(DatabaseUrl::parse(&url).unwrap())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // An abandoned transaction may still hold a table's lock; the next process drops what stays.
        let Ok(mut admin) = MysqlConnection::establish(&self.server) else { return };
        let _ = admin.batch_execute(&format!("SET lock_wait_timeout = 5; DROP DATABASE IF EXISTS {}", self.name));
    }
}

/// A connection with the right to do what tests need.
pub fn admin(server: &str) -> MysqlConnection {
    MysqlConnection::establish(server).expect("REKINDLE_TEST_MARIADB names a server that lets us in")
}

#[derive(diesel::QueryableByName)]
struct Name {
    #[diesel(sql_type = diesel::sql_types::Text)]
    name: String,
}

/// Drops what processes left that were killed.
fn sweep(server: &str) {
    let mut admin = admin(server);
    let query =
        format!("SELECT schema_name AS name FROM information_schema.schemata WHERE schema_name LIKE '{PREFIX}%'");
    for Name { name } in sql_query(query).load::<Name>(&mut admin).unwrap() {
        let pid = name.trim_start_matches(PREFIX).split('_').next().unwrap_or_default();
        if !std::path::Path::new("/proc").join(pid).exists() {
            let _ = admin.batch_execute(&format!("SET lock_wait_timeout = 5; DROP DATABASE IF EXISTS {name}"));
        }
    }
}
