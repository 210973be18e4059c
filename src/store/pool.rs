//! Connections: how they are opened, pooled and thrown away.
//!
//! r2d2 keeps the connections of everything but the heartbeat. It is built without connecting, so that
//! an engine starts while its database is down, and it may grow past what the loops need, because a
//! call that hangs against a frozen server keeps its connection until the server thaws.

use std::sync::Arc;
use std::time::Duration;

use diesel::r2d2::{ManageConnection, Pool};
use parking_lot::Mutex;

use super::api::StoreResult;
use super::db::Db;
use super::error::{Cause, StoreError};
use super::language::Learnt;
use super::pooler::Pooler;
use crate::config::DatabaseUrl;

/// How to open a connection.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to.
    pub url: DatabaseUrl,
    /// Ceiling for connecting.
    pub connect_timeout: Duration,
    /// Ceiling for one statement and for waiting on a lock.
    pub statement_timeout: Duration,
    /// The server ends an open transaction of a silent client after this: max(2q, 1 s).
    pub idle_timeout: Duration,
    /// Shown by the server, for people.
    pub application: String,
    /// Make a SQLite file that is not there.
    pub create: bool,
    /// Page cache of one SQLite connection.
    pub cache_kib: u32,
    /// Whether a pooler was found there.
    pub pooler: Pooler,
    /// In which language a PostgreSQL there says what is wrong, once somebody has asked.
    pub words: Learnt,
    /// Other places are named too: one that takes no writes is passed over for them.
    pub has_others: bool,
}

impl Settings {
    /// For a URL, with the defaults of an engine with the balanced profile.
    pub fn new(url: DatabaseUrl) -> Self {
        Self {
            url,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3),
            application: "rekindle".into(),
            create: false,
            cache_kib: 2_000,
            pooler: Pooler::default(),
            words: Learnt::default(),
            has_others: false,
        }
    }

    /// Where, without password.
    pub fn place(&self) -> String {
        self.url.to_string()
    }

    /// Takes the URL and its secrets out of a driver's message.
    pub fn redact(&self, text: &str) -> String {
        self.url.redact(text)
    }
}

/// A backend's way to open a connection.
pub trait Opener: Clone + Send + Sync + 'static {
    /// What it opens.
    type Connection: Db + 'static;
    /// Connects and sets the session up.
    fn open(&self, settings: &Settings) -> StoreResult<Self::Connection>;
    /// Whether a connection must not be used again.
    fn is_broken(&self, connection: &Self::Connection) -> bool;
}

/// Several places of one database, tried in their order.
pub struct Manager<O: Opener> {
    opener: O,
    places: Arc<Vec<Settings>>,
    // A connection that was opened outside of the pool, for the pool to take next.
    spare: Arc<Mutex<Option<O::Connection>>>,
}

// Derived, it would ask connections to be cloned too.
impl<O: Opener> Clone for Manager<O> {
    fn clone(&self) -> Self {
        Self { opener: self.opener.clone(), places: Arc::clone(&self.places), spare: Arc::clone(&self.spare) }
    }
}

impl<O: Opener> Manager<O> {
    /// For these places (at least one).
    pub fn new(opener: O, mut places: Vec<Settings>) -> Self {
        let has_others = places.len() > 1;
        places.iter_mut().for_each(|place| place.has_others = has_others);
        Self { opener, places: Arc::new(places), spare: Arc::default() }
    }

    /// The first place, for messages.
    pub fn place(&self) -> String {
        self.places.iter().map(Settings::place).collect::<Vec<_>>().join(", ")
    }

    /// Connects to the first place that lets us in.
    pub fn open(&self) -> StoreResult<O::Connection> {
        let (mut last, mut read_only) = (None, None);
        for settings in self.places.iter() {
            match self.opener.open(settings) {
                Ok(connection) => return Ok(connection),
                Err(StoreError::ReadOnly { .. }) if settings.has_others => read_only = Some(settings),
                Err(error) => last = Some(error),
            }
        }
        if let Some(settings) = read_only {
            // None takes writes; this one can at least be read.
            return self.opener.open(&Settings { has_others: false, ..settings.clone() });
        }
        Err(last.unwrap_or_else(|| StoreError::Refused("no database URL is configured".into())))
    }

    /// Opens a connection for the pool to take next. The pool itself would try again until its time is
    /// over and then hide the cause; this one attempt tells it at once.
    pub fn open_spare(&self) -> StoreResult<()> {
        let connection = self.open()?;
        *self.spare.lock() = Some(connection);
        Ok(())
    }

    /// Whether a connection must not be used again.
    pub fn is_broken(&self, connection: &O::Connection) -> bool {
        self.opener.is_broken(connection)
    }
}

impl<O: Opener> ManageConnection for Manager<O> {
    type Connection = O::Connection;
    type Error = StoreError;

    fn connect(&self) -> Result<Self::Connection, StoreError> {
        let spare = self.spare.lock().take();
        spare.map_or_else(|| self.open(), Ok)
    }

    fn is_valid(&self, _: &mut Self::Connection) -> Result<(), StoreError> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut Self::Connection) -> bool {
        self.opener.is_broken(connection)
    }
}

/// Connections that hang may pile up to this many beside the configured ones.
const HANGING_MAX: u32 = 16;

/// Builds a pool without connecting.
pub fn build<O: Opener>(manager: Manager<O>, connections: u32, wait: Duration) -> Pool<Manager<O>> {
    // One thread is enough to open connections; the default of three costs stacks that an idle engine
    // does not need.
    let threads = Arc::new(scheduled_thread_pool::ScheduledThreadPool::builder().num_threads(1).build());
    Pool::builder()
        .max_size(connections.max(1) + HANGING_MAX)
        .min_idle(Some(0))
        .test_on_check_out(false)
        .connection_timeout(wait)
        .thread_pool(threads)
        .error_handler(Box::new(Quiet))
        .build_unchecked(manager)
}

/// The caller gets the error; a second line in the log would only repeat it.
#[derive(Debug)]
struct Quiet;

impl diesel::r2d2::HandleError<StoreError> for Quiet {
    fn handle_error(&self, error: StoreError) {
        log::debug!("could not open a connection: {}", error.chain());
    }
}

/// The pool's own errors are all "no connection within the time".
pub fn pool_error(place: String, error: impl std::fmt::Display) -> StoreError {
    StoreError::Unreachable { place, source: Cause(error.to_string()) }
}
