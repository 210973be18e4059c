//! Connections: how they are opened, pooled and thrown away.
//!
//! r2d2 keeps the connections of everything but the heartbeat. It is built without connecting, so that
//! an engine starts while its database is down.
//!
//! An engine never has more connections than its *seats*: `max_connections` of the pool, [`BEATS`] for heartbeats,
//! [`WATCHERS`] for the watcher. A call that hangs keeps its seat, because the server counts its session: a cut of the
//! network must not use up the connections of a server. What the client has given up the server gives up as early: it
//! is told by each session how long to believe in a silent client ([`SERVER_PATIENCE`], [`SILENCE`]).
//!
//! Where several places are named, the first that takes writes is used. A server that is found to take none any more
//! (a switch-over) ends the *turn* of all connections that were opened before, also of those to it that would only be
//! read: heartbeats, pool and watcher move together.

use std::sync::Arc;
use std::time::Duration;

use diesel::r2d2::{ManageConnection, Pool};
use parking_lot::Mutex;

use super::api::StoreResult;
use super::db::Db;
use super::error::{Cause, StoreError};
use super::language::Learnt;
use super::pooler::Pooler;
use super::seats::{Seated, Seats, Tenure, Turns};
use crate::clock::{Clock, SystemClock};
use crate::config::DatabaseUrl;

/// Heartbeats: the one that beats, and two that a broken network may have left hanging.
pub const BEATS: u32 = 3;

/// The one that watches, and one whose server was given up.
pub const WATCHERS: u32 = 2;

/// A server that cannot probe its clients ends a session that has not asked for anything for so long, at least.
pub const SILENCE: Duration = Duration::from_secs(6);

/// A silent client that does not answer probes is given up by its server after this: about as early as the client
/// gives the server up (keepalives of 5 s and three times 2 s).
pub const SERVER_PATIENCE: Duration = Duration::from_secs(11);

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
    /// None of the others takes writes either.
    pub may_be_read_only: bool,
    /// A session that has not asked for anything for so long is ended by a server that cannot probe its clients.
    pub silence: Duration,
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
            may_be_read_only: false,
            silence: SILENCE,
        }
    }

    /// One place for each host that the URL names.
    fn split(self) -> Vec<Self> {
        let urls = self.url.split_hosts();
        // What was learnt of one of them holds for the others, too: they are named in one breath.
        urls.into_iter().map(|url| Self { url, ..self.clone() }).collect()
    }

    /// Whether a server that takes no writes is turned away.
    pub fn wants_writes(&self) -> bool {
        self.has_others && !self.may_be_read_only
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
    /// Whether its server takes writes now.
    fn takes_writes(&self, _connection: &mut Self::Connection) -> StoreResult<bool> {
        Ok(true)
    }
    /// How long a connection may be silent before it must not be used again, where the server ends those that are.
    fn silence(&self, _settings: &Settings) -> Option<Duration> {
        None
    }
}

/// Several places of one database, tried in their order.
pub struct Manager<O: Opener> {
    opener: O,
    places: Arc<Vec<Settings>>,
    seats: Arc<Seats>,
    turns: Arc<Turns>,
    // A connection that was opened outside of the pool, for the pool to take next.
    spare: Arc<Mutex<Option<Seated<O::Connection>>>>,
}

// Derived, it would ask connections to be cloned too.
impl<O: Opener> Clone for Manager<O> {
    fn clone(&self) -> Self {
        Self {
            opener: self.opener.clone(),
            places: Arc::clone(&self.places),
            seats: Arc::clone(&self.seats),
            turns: Arc::clone(&self.turns),
            spare: Arc::clone(&self.spare),
        }
    }
}

impl<O: Opener> Manager<O> {
    /// For these places (at least one), with so many connections at once. A URL with several hosts is several places.
    pub fn new(opener: O, places: Vec<Settings>, connections: u32, turns: Arc<Turns>) -> Self {
        let mut places: Vec<Settings> = places.into_iter().flat_map(Settings::split).collect();
        let has_others = places.len() > 1;
        places.iter_mut().for_each(|place| place.has_others = has_others);
        let seats = Seats::new(connections);
        Self { opener, places: Arc::new(places), seats, turns, spare: Arc::default() }
    }

    /// The same places with seats of their own.
    pub fn beside(&self, connections: u32) -> Self {
        Self { seats: Seats::new(connections), spare: Arc::default(), ..self.clone() }
    }

    /// The places, for messages.
    pub fn place(&self) -> String {
        self.places.iter().map(Settings::place).collect::<Vec<_>>().join(", ")
    }

    /// Whether another place may take the writes that this one refuses.
    pub fn has_others(&self) -> bool {
        self.places.len() > 1
    }

    /// Connects to the first place that takes writes; where none does, to one that can be read at least.
    pub fn open(&self) -> StoreResult<Seated<O::Connection>> {
        let Some(seat) = self.seats.take() else {
            let source = Cause(format!("all {} connections are in use, or hang", self.seats.all()));
            return Err(StoreError::Unreachable { place: self.place(), source });
        };
        let turn = self.turns.now();
        let (connection, settings) = self.open_any()?;
        let silence = self.opener.silence(settings);
        Ok(Seated::new(connection, seat, turn, silence))
    }

    fn open_any(&self) -> StoreResult<(O::Connection, &Settings)> {
        let (mut failed, mut read_only) = (None, None);
        for settings in self.places.iter() {
            match self.opener.open(settings) {
                Ok(connection) => return Ok((connection, settings)),
                Err(StoreError::ReadOnly { .. }) if settings.has_others => read_only = Some(settings),
                // One that may come back says more than one that never lets us in.
                Err(error) if error.is_transient() || failed.is_none() => failed = Some(error),
                Err(_) => {}
            }
        }
        if let Some(settings) = read_only {
            let reader = Settings { may_be_read_only: true, ..settings.clone() };
            return Ok((self.opener.open(&reader)?, settings));
        }
        Err(failed.unwrap_or_else(|| StoreError::Refused("no database URL is configured".into())))
    }

    /// Opens a connection for the pool to take next. The pool itself would try again until its time is
    /// over and then hide the cause; this one attempt tells it at once.
    pub fn open_spare(&self) -> StoreResult<()> {
        // One that nobody took keeps a seat that the next needs.
        let former = self.spare.lock().take();
        drop(former);
        let connection = self.open()?;
        *self.spare.lock() = Some(connection);
        Ok(())
    }

    /// Whether a connection must not be used again.
    pub fn is_broken(&self, connection: &Seated<O::Connection>) -> bool {
        self.opener.is_broken(connection)
    }

    /// Whether an idle connection may be used again: its server has not ended it for its silence, and is the one that
    /// takes the writes.
    pub fn is_good(&self, connection: &mut Seated<O::Connection>) -> bool {
        let now = SystemClock.lease_now();
        if connection.silence.is_some_and(|longest| now.since(connection.used_at) > longest) {
            return false;
        }
        if !self.has_others() {
            return true;
        }
        if connection.turn == self.turns.now() && now.since(connection.looked_at) > LOOK_EVERY {
            connection.looked_at = now;
            match self.opener.takes_writes(connection) {
                Ok(true) => {}
                Ok(false) => self.turns.note_read_only(connection.turn),
                Err(_) => return false,
            }
        }
        connection.turn == self.turns.now()
    }

    /// A connection for whoever keeps it as long as he lives, with its seat and the turn it belongs to.
    pub fn open_for_life(&self) -> StoreResult<(O::Connection, Tenure)> {
        let connection = self.open()?;
        let (turn, turns) = (connection.turn, self.has_others().then(|| Arc::clone(&self.turns)));
        let (connection, seat) = connection.into_parts();
        Ok((connection, Tenure::new(turn, turns, seat)))
    }

    /// What a step came to: a server that takes no writes is left where there are others.
    pub fn note<T>(&self, connection: &Seated<O::Connection>, result: &StoreResult<T>) {
        if self.has_others() && matches!(result, Err(StoreError::ReadOnly { .. })) {
            self.turns.note_read_only(connection.turn);
        }
    }
}

/// How often an idle connection is asked whether its server still takes writes, where there are several.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl<O: Opener> ManageConnection for Manager<O> {
    type Connection = Seated<O::Connection>;
    type Error = StoreError;

    fn connect(&self) -> Result<Self::Connection, StoreError> {
        let spare = self.spare.lock().take();
        spare.map_or_else(|| self.open(), Ok)
    }

    fn is_valid(&self, connection: &mut Self::Connection) -> Result<(), StoreError> {
        if self.is_good(connection) {
            return Ok(());
        }
        Err(StoreError::Unreachable {
            place: self.place(),
            source: Cause("an idle connection is not used again".into()),
        })
    }

    fn has_broken(&self, connection: &mut Self::Connection) -> bool {
        connection.used_at = SystemClock.lease_now();
        self.opener.is_broken(connection)
    }
}

/// Idle connections of the pool are closed after this; a pass a second keeps the one that it uses.
const IDLE: Duration = Duration::from_secs(60);

/// Builds a pool without connecting. It has as many connections as the manager has seats, those that hang included:
/// what it would open beyond them, when a network is back, the server would count for as long as it believes in what
/// the cut left.
pub fn build<O: Opener>(manager: Manager<O>, wait: Duration) -> Pool<Manager<O>> {
    // One thread is enough to open connections; the default of three costs stacks that an idle engine
    // does not need.
    let threads = Arc::new(scheduled_thread_pool::ScheduledThreadPool::builder().num_threads(1).build());
    Pool::builder()
        .max_size(manager.seats.all())
        .min_idle(Some(0))
        .idle_timeout(Some(IDLE))
        // No question to the server: see `Manager::is_good`.
        .test_on_check_out(true)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::sql::{Dialect, Row, Sql};

    /// What the server of each host does.
    #[derive(Clone, Copy, PartialEq)]
    enum Does {
        Write,
        Read,
        Nothing,
        Refuse,
    }

    type Servers = Arc<Mutex<BTreeMap<String, Does>>>;

    #[derive(Clone)]
    struct Fake(Servers);

    struct Session(String);

    impl Db for Session {
        fn dialect(&self) -> &'static Dialect {
            unreachable!("nothing is asked")
        }
        fn identity(&mut self) -> StoreResult<String> {
            unreachable!("nothing is asked")
        }
        fn execute(&mut self, _: &'static str, _: &Sql) -> StoreResult<usize> {
            unreachable!("nothing is asked")
        }
        fn query(&mut self, _: &'static str, _: &Sql) -> StoreResult<Vec<Row>> {
            unreachable!("nothing is asked")
        }
        fn begin(&mut self, _: &'static str) -> StoreResult<()> {
            unreachable!("nothing is asked")
        }
        fn commit(&mut self, _: &'static str) -> StoreResult<()> {
            unreachable!("nothing is asked")
        }
        fn rollback(&mut self) {}
    }

    impl Opener for Fake {
        type Connection = Session;
        fn open(&self, settings: &Settings) -> StoreResult<Session> {
            let (host, _) = settings.url.host_port().unwrap();
            let (step, source) = ("connect", Cause(host.clone()));
            match self.0.lock()[&host] {
                Does::Read if settings.wants_writes() => Err(StoreError::ReadOnly { step, source }),
                Does::Write | Does::Read => Ok(Session(host)),
                Does::Nothing => Err(StoreError::Unreachable { place: host, source }),
                Does::Refuse => Err(StoreError::Denied { place: host, source }),
            }
        }
        fn is_broken(&self, _: &Session) -> bool {
            false
        }
        fn takes_writes(&self, session: &mut Session) -> StoreResult<bool> {
            Ok(self.0.lock()[&session.0] == Does::Write)
        }
    }

    fn manager(url: &str, servers: [Does; 2]) -> (Manager<Fake>, Servers) {
        let servers: Servers = Arc::new(Mutex::new(["a", "b"].map(str::to_owned).into_iter().zip(servers).collect()));
        let place = Settings::new(DatabaseUrl::parse(url).unwrap());
        (Manager::new(Fake(Arc::clone(&servers)), vec![place], 2, Arc::default()), servers)
    }

    #[test]
    fn the_first_place_that_takes_writes_is_used_and_one_that_can_be_read_where_none_does() {
        use Does::{Nothing, Read, Refuse, Write};
        for (servers, used) in [
            ([Write, Write], Ok("a")),
            ([Read, Write], Ok("b")),
            ([Nothing, Write], Ok("b")),
            ([Refuse, Write], Ok("b")),
            ([Nothing, Read], Ok("b")),
            ([Read, Refuse], Ok("a")),
            // One that may come back is worth waiting for.
            ([Nothing, Refuse], Err(true)),
            ([Refuse, Nothing], Err(true)),
            ([Refuse, Refuse], Err(false)),
        ] {
            let (manager, _) = manager("postgres://a,b/d", servers);
            let opened = manager.open().map(|session| session.0.clone()).map_err(|error| error.is_transient());
            assert_eq!(opened, used.map(str::to_owned));
        }
    }

    #[test]
    fn a_session_is_left_when_its_server_takes_no_writes_any_more() {
        let (manager, servers) = manager("postgres://a,b/d", [Does::Write, Does::Read]);
        let (mut one, mut other) = (manager.open().unwrap(), manager.open().unwrap());
        assert!(manager.is_good(&mut one) && manager.is_good(&mut other));
        // A switch-over, which one of them meets with a write.
        *servers.lock() = [("a".to_owned(), Does::Read), ("b".to_owned(), Does::Write)].into();
        let source = Cause("a".into());
        manager.note(&one, &Err::<(), _>(StoreError::ReadOnly { step: "a test", source }));
        assert!(!manager.is_good(&mut one) && !manager.is_good(&mut other), "the other was not asked");
        drop((one, other));
        assert_eq!(manager.open().unwrap().0, "b");
    }

    #[test]
    fn the_pool_opens_no_more_than_it_has_seats_and_a_hanging_call_keeps_its_own() {
        let (manager, _) = manager("postgres://a/d", [Does::Write, Does::Write]);
        let pool = build(manager.clone(), Duration::from_millis(100));
        manager.open_spare().unwrap();
        let _hanging = [pool.get().unwrap(), pool.get().unwrap()];
        assert!(pool.get().is_err());
        let refused = manager.open().err().unwrap().chain();
        assert!(refused.contains("all 2 connections are in use, or hang"), "{refused}");
    }
}
