//! Fresh databases: a SQLite file in a temporary directory, or a database of its own on the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use diesel::connection::SimpleConnection;
use diesel::{Connection, MysqlConnection, PgConnection, SqliteConnection};
use rekindle::config::DatabaseUrl;
use rekindle::protocol::ids::{KindName, ResourceName};
use rekindle::store::{NewTask, Settings, Store, open};

/// Where a measurement keeps its tasks. Dropped with everything in it.
pub struct Database {
    /// `sqlite`, `postgres` or `mariadb`.
    pub word: &'static str,
    /// For engines.
    pub url: String,
    server: Option<(String, String)>,
    _dir: Option<tempfile::TempDir>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Database {
    /// A file in a directory of its own.
    pub fn sqlite() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rekindle-bench.").tempdir()?;
        let url = format!("sqlite://{}/bench.db", dir.path().display());
        Ok(Self { word: "sqlite", url, server: None, _dir: Some(dir) })
    }

    /// A new database on the server of this URL.
    pub fn on(word: &'static str, server: &str) -> Result<Self> {
        let name = format!("bench_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        on_server(server, &format!("CREATE DATABASE {name}"))?;
        let (front, _) = server.rsplit_once('/').context("the server's URL names no database")?;
        Ok(Self { word, url: format!("{front}/{name}"), server: Some((server.to_owned(), name)), _dir: None })
    }

    /// The server's URL and this database's name on it; `None` for a file.
    pub fn server(&self) -> Option<(&str, &str)> {
        self.server.as_ref().map(|(server, name)| (server.as_str(), name.as_str()))
    }

    /// Its store, with the schema set up.
    pub fn store(&self) -> Result<Arc<dyn Store>> {
        let store = store(&self.url, 4)?;
        store.migrate()?;
        Ok(store)
    }

    /// Lets the database look at its tables, as it does by itself where much was written.
    pub fn analyse(&self) -> Result<()> {
        const TABLES: &str = "task, task_resource, resource, task_archive, engine, engine_info, attempt";
        match self.word {
            "sqlite" => {
                let path = self.url.trim_start_matches("sqlite://");
                Ok(SqliteConnection::establish(path)?.batch_execute("ANALYZE")?)
            }
            "mariadb" => on_server(&self.url, &format!("ANALYZE TABLE {TABLES}")),
            _ => on_server(&self.url, "VACUUM ANALYZE"),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some((server, name)) = &self.server
            && let Err(error) = on_server(server, &drop_statement(server, name))
        {
            eprintln!("could not drop {name}: {error:#}");
        }
    }
}

/// Whether a server is MariaDB.
pub fn is_mariadb(url: &str) -> bool {
    url.starts_with("mysql://")
}

fn drop_statement(server: &str, name: &str) -> String {
    let force = if is_mariadb(server) { "" } else { " WITH (FORCE)" };
    format!("DROP DATABASE {name}{force}")
}

fn on_server(url: &str, statement: &str) -> Result<()> {
    if is_mariadb(url) {
        let mut server = MysqlConnection::establish(url).context("could not connect to the MariaDB server")?;
        server.batch_execute(statement)?;
    } else {
        let mut server = PgConnection::establish(url).context("could not connect to the PostgreSQL server")?;
        server.batch_execute(statement)?;
    }
    Ok(())
}

/// The store of a URL, with the same settings as an engine's.
pub fn store(url: &str, connections: u32) -> Result<Arc<dyn Store>> {
    let url = DatabaseUrl::parse(url)?;
    let work = Settings { create: true, application: "bench".into(), ..Settings::new(url) };
    let q = Duration::from_millis(1_500);
    let beats = Settings { connect_timeout: q, statement_timeout: q, cache_kib: 64, ..work.clone() };
    Ok(open(vec![work], vec![beats], connections)?)
}

/// Adds so many tasks of one kind; with `keys`, each names the next of so many resources.
pub fn feed(store: &dyn Store, kind: &KindName, count: usize, delay: Option<Duration>, keys: usize) -> Result<()> {
    let mut added = 0;
    while added < count {
        let batch = added..count.min(added + 5_000);
        let tasks: Vec<NewTask> = batch.clone().map(|at| task(kind, delay, at, keys)).collect::<Result<_>>()?;
        store.add(&tasks, "bench")?;
        added = batch.end;
    }
    Ok(())
}

fn task(kind: &KindName, delay: Option<Duration>, at: usize, keys: usize) -> Result<NewTask> {
    let resource = (keys > 0).then(|| ResourceName::new(format!("resource-{}", at % keys))).transpose()?;
    let resources = resource.into_iter().collect();
    Ok(NewTask { kind: kind.clone(), payload: b"{}".to_vec(), resources, priority: 0, delay })
}
