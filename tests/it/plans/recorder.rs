//! A backend that remembers every statement that the store sends, with its values.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rekindle::store::api::Watcher;
use rekindle::store::backend::Backend;
use rekindle::store::db::Db;
use rekindle::store::pool::Opener;
use rekindle::store::sql::{Bind, Dialect, Row, Sql};
use rekindle::store::{SchemaStatus, ServerInfo, Settings, StoreResult};

/// One statement.
#[derive(Clone)]
pub struct Said {
    pub step: &'static str,
    pub sql: Sql,
}

impl Said {
    /// Values in all: of two of one text the one with more is remembered, because long lists are the hard ones.
    fn weight(&self) -> usize {
        let of = |bind: &Bind| match bind {
            Bind::Ints(list) => list.len(),
            Bind::Texts(list) => list.len(),
            Bind::Text(Some(text)) => text.len(),
            _ => 1,
        };
        self.sql.text.len() + self.sql.binds.iter().map(of).sum::<usize>()
    }
}

/// What was said, by its text without the words of lists.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<String, Said>>>);

impl Memory {
    fn note(&self, step: &'static str, sql: &Sql) {
        let said = Said { step, sql: sql.clone() };
        let mut known = self.0.lock().unwrap();
        let known = known.entry(format!("{step}: {}", without_lists(&sql.text))).or_insert_with(|| said.clone());
        if said.weight() > known.weight() {
            *known = said;
        }
    }

    pub fn all(&self) -> Vec<Said> {
        self.0.lock().unwrap().values().cloned().collect()
    }
}

/// Lists that are words of the text differ in their length.
fn without_lists(text: &str) -> String {
    let words = text.split(' ').filter(|word| {
        let word = word.trim_matches([',', '(', ')']);
        word.parse::<i64>().is_err() && !(word.starts_with('$') && word[1..].parse::<u32>().is_ok())
    });
    words.collect::<Vec<_>>().join(" ")
}

/// See the module.
#[derive(Clone)]
pub struct Recording<B> {
    pub inner: B,
    pub memory: Memory,
}

/// A connection of it.
pub struct Connection<C> {
    inner: C,
    memory: Memory,
}

impl<B: Backend> Opener for Recording<B> {
    type Connection = Connection<B::Connection>;
    fn open(&self, settings: &Settings) -> StoreResult<Self::Connection> {
        Ok(Connection { inner: self.inner.open(settings)?, memory: self.memory.clone() })
    }
    fn is_broken(&self, connection: &Self::Connection) -> bool {
        self.inner.is_broken(&connection.inner)
    }
}

impl<B: Backend> Backend for Recording<B> {
    const ONE_WRITER: bool = B::ONE_WRITER;
    fn migrate(&self, connection: &mut Self::Connection) -> StoreResult<Vec<String>> {
        self.inner.migrate(&mut connection.inner)
    }
    fn schema_status(&self, connection: &mut Self::Connection) -> StoreResult<SchemaStatus> {
        self.inner.schema_status(&mut connection.inner)
    }
    fn is_migrating(&self, connection: &mut Self::Connection) -> StoreResult<bool> {
        self.inner.is_migrating(&mut connection.inner)
    }
    fn server_info(&self, connection: &mut Self::Connection, place: String) -> StoreResult<ServerInfo> {
        self.inner.server_info(&mut connection.inner, place)
    }
    fn watcher(&self, connection: Self::Connection) -> StoreResult<Box<dyn Watcher>> {
        self.inner.watcher(connection.inner)
    }
    fn wake(&self, connection: &mut Self::Connection) -> StoreResult<()> {
        self.inner.wake(&mut connection.inner)
    }
}

impl<C: Db> Db for Connection<C> {
    fn dialect(&self) -> &'static Dialect {
        self.inner.dialect()
    }
    fn identity(&mut self) -> StoreResult<String> {
        self.inner.identity()
    }
    fn execute(&mut self, step: &'static str, sql: &Sql) -> StoreResult<usize> {
        self.memory.note(step, sql);
        self.inner.execute(step, sql)
    }
    fn query(&mut self, step: &'static str, sql: &Sql) -> StoreResult<Vec<Row>> {
        self.memory.note(step, sql);
        self.inner.query(step, sql)
    }
    fn begin(&mut self, step: &'static str) -> StoreResult<()> {
        self.inner.begin(step)
    }
    fn verify(&mut self, step: &'static str) -> StoreResult<()> {
        self.inner.verify(step)
    }
    fn commit(&mut self, step: &'static str) -> StoreResult<()> {
        self.inner.commit(step)
    }
    fn rollback(&mut self) {
        self.inner.rollback();
    }
}
