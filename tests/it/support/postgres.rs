//! A fresh PostgreSQL database for each test, copied from one migrated template per process.
//!
//! The server comes from `REKINDLE_TEST_POSTGRES` (a URL with the right to create databases;
//! `scripts/databases run` starts one). Databases of processes that are gone are dropped at the start.

use std::sync::OnceLock;

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection, RunQueryDsl, sql_query};
use rekindle::clock::{Clock, SystemClock};
use rekindle::config::DatabaseUrl;
use rekindle::store::{Settings, open};

/// A database of its own, dropped with it.
pub struct Database {
    pub settings: Settings,
    pub name: String,
}

const PREFIX: &str = "rekindle_it_";

/// The server, or `None` where tests run without one. Panics if it is required.
pub fn server() -> Option<String> {
    named("postgres", "REKINDLE_TEST_POSTGRES")
}

/// A pooler before it, in transaction mode; the same way.
pub fn pooler() -> Option<String> {
    named("pgbouncer", "REKINDLE_TEST_PGBOUNCER")
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
        static TEMPLATE: OnceLock<String> = OnceLock::new();
        let template = TEMPLATE.get_or_init(|| {
            sweep(server);
            let database = Self::create(server, "template0");
            let store = open(vec![database.settings.clone()], vec![database.settings.clone()], 2).unwrap();
            store.migrate().unwrap();
            let name = database.name.clone();
            // It is copied by all tests of this process; the next process drops it.
            std::mem::forget(database);
            name
        });
        Self::create(server, template)
    }

    /// Without any table.
    pub fn empty(server: &str) -> Self {
        Self::create(server, "template0")
    }

    /// By way of a pooler.
    pub fn through(&self, pooler: &str) -> Settings {
        let (base, _) = pooler.rsplit_once('/').unwrap();
        Settings::new(DatabaseUrl::parse(&format!("{base}/{}", self.name)).unwrap())
    }

    pub fn create(server: &str, template: &str) -> Self {
        let name = format!("{PREFIX}{}_{:08x}", std::process::id(), fastrand::u32(..));
        let sql = format!("CREATE DATABASE {name} TEMPLATE {template}");
        // The template may still have a session that is just going.
        let mut result = admin(server).batch_execute(&sql);
        for _ in 0..100 {
            match &result {
                Err(error) if error.to_string().contains("being accessed") => {
                    SystemClock.pause(std::time::Duration::from_millis(50));
                    result = admin(server).batch_execute(&sql);
                }
                _ => break,
            }
        }
        result.unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        Self { settings: Settings::new(DatabaseUrl::parse(&format!("{base}/{name}")).unwrap()), name }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(server) = server() {
            let _ = admin(&server).batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

fn admin(server: &str) -> PgConnection {
    PgConnection::establish(server).expect("REKINDLE_TEST_POSTGRES names a server that lets us in")
}

#[derive(diesel::QueryableByName)]
struct Name {
    #[diesel(sql_type = diesel::sql_types::Text)]
    datname: String,
}

/// Drops what processes left that were killed.
fn sweep(server: &str) {
    let mut admin = admin(server);
    let query = format!("SELECT datname::text AS datname FROM pg_database WHERE datname LIKE '{PREFIX}%'");
    for Name { datname } in sql_query(query).load::<Name>(&mut admin).unwrap() {
        let pid = datname.trim_start_matches(PREFIX).split('_').next().unwrap_or_default();
        if !std::path::Path::new("/proc").join(pid).exists() {
            let _ = admin.batch_execute(&format!("DROP DATABASE IF EXISTS {datname} WITH (FORCE)"));
        }
    }
}
