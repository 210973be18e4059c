//! One cluster for one test: a database of its own, real engines, and an oracle file outside the database
//! to which every task's processes write what they do.
//!
//! A task's payload is a piece of shell that [`PROBE`] runs: `ticks 20` (20 × 50 ms), `forever`,
//! `alone NAME` (says OVERLAP if a process of another attempt that said so lives), `wait_go` (until [`Rig::go`]), `escape` (a grandchild in a session of its own that ticks on and ignores TERM), `deaf` (ignore TERM).
//! Everything that a test starts carries `IT_RIG` in its environment, so that leftovers are found.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rekindle::config::{Backend, DatabaseUrl};
use rekindle::guard::tree;
use rekindle::protocol::ids::{KindName, ResourceName, TaskId};
use rekindle::protocol::task::{AttemptResult, TaskState};
use rekindle::store::db::Db as _;
use rekindle::store::mysql::MysqlDb;
use rekindle::store::postgres::Postgres;
use rekindle::store::sql::{Row, Sql};
use rekindle::store::sqlite::SqliteDb;
use rekindle::store::{AttemptRow, EngineRow, NewTask, Settings, Store, TaskRow, open};

use super::engine::EngineSpec;
use super::server::{self, Server};
use crate::support::databases::Connection;
use crate::support::island::Island;
use crate::support::proxy::Proxy;
pub use crate::support::wait_or;
use crate::support::wait_until;
use crate::support::{mariadb, postgres};

const PROBE: &str = r#"#!/bin/sh
say() { read -r up rest < /proc/uptime; echo "$1 $REKINDLE_TASK $REKINDLE_TOKEN $$ $up" >> "$ORACLE"; }
forever() { while :; do say TICK; sleep 0.05; done; }
ticks() { n=$1; while [ "$n" -gt 0 ]; do say TICK; sleep 0.05; n=$((n - 1)); done; }
escape() { setsid /bin/sh "$PROBE" forever < /dev/null > /dev/null 2>&1 & }
alone() { exec 9>>"$PROBE.alone.$1"; flock -n 9 || say OVERLAP; }
wait_go() { while [ ! -e "$PROBE.go" ]; do sleep 0.05; done; }
deaf() { trap '' TERM INT HUP; }
first() { [ "$REKINDLE_ATTEMPT" = 1 ]; }
if [ "$1" = forever ]; then deaf; forever; fi
body=$(cat)
say START
eval "$body"
code=$?
say END
exit $code
"#;

/// The variable that marks every process of a rig.
const MARK: &str = "IT_RIG";

/// A few seconds: for what happens at once on a quiet host.
pub const SOON: Duration = Duration::from_secs(10);

/// See the module.
pub struct Rig {
    store: parking_lot::Mutex<Arc<dyn Store>>,
    pub settings: Settings,
    pub server: Option<Server>,
    /// How engines reach the database where that is not the rig's own way.
    way: Option<DatabaseUrl>,
    pub mark: String,
    dir: tempfile::TempDir,
    // Dropped with the rig, whatever database it is.
    _database: Option<Box<dyn std::any::Any + Send + Sync>>,
}

/// A case over one cluster.
pub type Case = fn(&Rig);

pub fn on_sqlite(case: Case) {
    let dir = tempfile::tempdir().unwrap();
    let url = DatabaseUrl::sqlite(dir.path().join("rekindle.db"));
    Rig::new(dir, Settings { create: true, ..Settings::new(url) }, None, None).run(case);
}

pub fn on_postgres(case: Case) {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    let database = postgres::Database::migrated(&server);
    Rig::new(tempfile::tempdir().unwrap(), database.settings.clone(), Some(Box::new(database)), None).run(case);
}

pub fn on_mariadb(case: Case) {
    let Some(server) = mariadb::server() else { return println!("skipped: REKINDLE_TEST_MARIADB is not set") };
    let database = mariadb::Database::migrated(&server);
    Rig::new(tempfile::tempdir().unwrap(), database.settings.clone(), Some(Box::new(database)), None).run(case);
}

/// Over a PostgreSQL server of the test's own, which it may stop and freeze.
pub fn on_own_postgres(case: Case) {
    if postgres::server().is_none() {
        return println!("skipped: REKINDLE_TEST_POSTGRES is not set");
    }
    on_own(case, server::POSTGRES);
}

/// The same with MariaDB.
pub fn on_own_mariadb(case: Case) {
    if mariadb::server().is_none() {
        return println!("skipped: REKINDLE_TEST_MARIADB is not set");
    }
    on_own(case, server::MARIADB);
}

/// Over a server in a network of its own, which can be cut; the rig itself sees it by its socket.
pub fn on_island(kind: &'static server::Kind, case: fn(&Rig, &Island)) {
    let Some(island) = Island::new() else { return println!("skipped: this user may not make a network namespace") };
    let server = Server::start_with(kind, |command| island.enter(command));
    let settings = Settings::new(DatabaseUrl::parse(&server.by_socket()).unwrap());
    let way = DatabaseUrl::parse(server.url()).unwrap();
    let mut rig = Rig::new(tempfile::tempdir().unwrap(), settings, None, Some(server));
    rig.way = Some(way);
    rig.run(|rig| case(rig, &island));
}

fn on_own(case: Case, kind: &'static server::Kind) {
    on_this(Server::start(kind), case);
}

/// Over a server that was started for it.
pub fn on_this(server: Server, case: impl FnOnce(&Rig)) {
    let settings = Settings::new(DatabaseUrl::parse(server.url()).unwrap());
    Rig::new(tempfile::tempdir().unwrap(), settings, None, Some(server)).run(case);
}

const NO_POOLER: &str = "skipped: REKINDLE_TEST_PGBOUNCER is not set";

/// Engines reach PostgreSQL through a pooler.
pub fn on_pgbouncer(case: Case) {
    let (Some(server), Some(pooler)) = (postgres::server(), postgres::pooler()) else { return println!("{NO_POOLER}") };
    let database = postgres::Database::migrated(&server);
    let way = database.through(&pooler).url;
    let mut rig = Rig::new(tempfile::tempdir().unwrap(), database.settings.clone(), Some(Box::new(database)), None);
    rig.way = Some(way);
    rig.run(case);
}

/// The same with a server and a pooler of the test's own, which it may stop.
pub fn on_own_pgbouncer(case: Case) {
    if postgres::pooler().is_none() {
        return println!("{NO_POOLER}");
    }
    let server = Server::start(server::POSTGRES);
    let settings = Settings::new(DatabaseUrl::parse(server.url()).unwrap());
    let way = DatabaseUrl::parse(server.pooler()).unwrap();
    let mut rig = Rig::new(tempfile::tempdir().unwrap(), settings, None, Some(server));
    rig.way = Some(way);
    rig.run(case);
}

impl Rig {
    fn new(
        dir: tempfile::TempDir,
        settings: Settings,
        database: Option<Box<dyn std::any::Any + Send + Sync>>,
        server: Option<Server>,
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let mark = format!("{}-{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        std::fs::write(dir.path().join("probe.sh"), PROBE).unwrap();
        std::fs::write(dir.path().join("oracle"), "").unwrap();
        let store = Self::open(&settings);
        store.migrate().unwrap();
        let settings = Settings { create: false, ..settings };
        Self { store: parking_lot::Mutex::new(store), settings, server, way: None, mark, dir, _database: database }
    }

    fn run(self, case: impl FnOnce(&Self)) {
        case(&self);
        // The engines are gone with the case; what they started must be gone too.
        wait_until(SOON, || self.processes().is_empty());
        self.assert_no_overlap();
    }

    fn open(settings: &Settings) -> Arc<dyn Store> {
        open(vec![settings.clone()], vec![settings.clone()], 4).unwrap()
    }

    /// The database as a client sees it.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store.lock())
    }

    /// From now on by new connections: the file behind the old ones was replaced.
    pub fn reopen(&self) {
        *self.store.lock() = Self::open(&self.settings);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An engine that is about to start.
    pub fn engine(&self, name: &str) -> EngineSpec<'_> {
        EngineSpec::new(self, name)
    }

    /// A way to the database that can be broken.
    pub fn proxy(&self) -> Proxy {
        Proxy::before(self.way())
    }

    /// Ways there and back of one beat, on a connection that is open: a statement, or a transaction.
    pub fn trips_of_a_beat(&self) -> u32 {
        match self.settings.url.backend() {
            Backend::Mysql => 4,
            _ if self.way.is_some() => 3,
            _ => 1,
        }
    }

    /// Where engines find the database.
    pub fn way(&self) -> &DatabaseUrl {
        self.way.as_ref().unwrap_or(&self.settings.url)
    }

    /// The variables that each engine and task gets.
    pub fn env(&self) -> [(&'static str, String); 3] {
        let path = |name| self.path(name).display().to_string();
        [(MARK, self.mark.clone()), ("ORACLE", path("oracle")), ("PROBE", path("probe.sh"))]
    }

    /// Lets tasks that `wait_go` go on.
    pub fn go(&self) {
        std::fs::write(self.path("probe.sh.go"), "").unwrap();
    }

    /// Living processes of one task's attempts.
    pub fn task_processes(&self, task: TaskId) -> Vec<i32> {
        self.processes_with(&[format!("REKINDLE_TASK={}", task.as_i64())])
    }

    /// Of this attempt only: where a peer may have started the next one, that one does not count as left behind.
    pub fn attempt_processes(&self, task: TaskId, attempt: u32) -> Vec<i32> {
        self.processes_with(&[format!("REKINDLE_TASK={}", task.as_i64()), format!("REKINDLE_ATTEMPT={attempt}")])
    }

    fn processes_with(&self, entries: &[String]) -> Vec<i32> {
        let is_its = |pid: &i32| {
            let text = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            entries.iter().all(|entry| text.split(|b| *b == 0).any(|e| e == entry.as_bytes()))
        };
        self.processes().into_iter().filter(is_its).collect()
    }

    /// Living processes of this rig, engines included.
    pub fn processes(&self) -> Vec<i32> {
        marked(|mark| mark == self.mark)
    }

    // ---- tasks ------------------------------------------------------------------------------------

    pub fn add(&self, body: &str) -> TaskId {
        self.add_to("sh", body, &[])
    }

    pub fn add_to(&self, kind: &str, body: &str, resources: &[&str]) -> TaskId {
        let task = NewTask {
            kind: KindName::new(kind).unwrap(),
            payload: body.as_bytes().to_vec(),
            resources: resources.iter().map(|name| ResourceName::new(*name).unwrap()).collect(),
            priority: 0,
            delay: None,
        };
        let id = self.store().add(&[task], "a test").unwrap()[0];
        self.store().wake().unwrap();
        id
    }

    pub fn task(&self, task: TaskId) -> TaskRow {
        self.store().task(task).unwrap().expect("no task is lost").0
    }

    pub fn state(&self, task: TaskId) -> TaskState {
        self.task(task).state
    }

    pub fn wait_state(&self, task: TaskId, state: TaskState, limit: Duration) {
        let what = || format!("{:?}, attempts {:?}", self.task(task), self.attempts(task));
        wait_or(limit, || self.state(task) == state, || format!("task {task} is not {state}: {}", what()));
    }

    pub fn attempts(&self, task: TaskId) -> Vec<AttemptRow> {
        self.store().attempts(task).unwrap()
    }

    /// How the attempts ended, without one that still runs.
    pub fn results(&self, task: TaskId) -> Vec<AttemptResult> {
        self.attempts(task).into_iter().filter_map(|attempt| attempt.result).collect()
    }

    /// What each ended attempt says.
    pub fn details(&self, task: TaskId) -> String {
        let details: Vec<_> = self.attempts(task).into_iter().filter_map(|attempt| attempt.detail).collect();
        details.join("\n")
    }

    // ---- engines in the database ----------------------------------------------------------------------

    /// All lives of a name, newest first.
    pub fn lives(&self, name: &str) -> Vec<EngineRow> {
        self.store().engines().unwrap().1.into_iter().filter(|row| row.name.as_str() == name).collect()
    }

    /// The newest life of a name.
    pub fn life(&self, name: &str) -> EngineRow {
        self.lives(name).into_iter().next().expect("the engine has registered")
    }

    // ---- the oracle -----------------------------------------------------------------------------------

    pub fn oracle(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(self.path("oracle")).unwrap();
        text.lines().filter_map(Line::parse).collect()
    }

    /// The lines of one task with this word.
    pub fn said(&self, task: TaskId, word: &str) -> Vec<Line> {
        self.oracle().into_iter().filter(|line| line.task == task.as_i64() && line.word == word).collect()
    }

    pub fn wait_starts(&self, task: TaskId, count: usize, limit: Duration) {
        let what = || format!("{} starts of task {task}, {:?}", self.said(task, "START").len(), self.task(task));
        wait_or(limit, || self.said(task, "START").len() >= count, what);
    }

    /// The last sign of life of a task's processes.
    pub fn last_line(&self, task: TaskId) -> Option<Line> {
        self.oracle().into_iter().rfind(|line| line.task == task.as_i64())
    }

    /// Nothing with an older token acts after a newer one began.
    pub fn assert_no_overlap(&self) {
        let overlaps: Vec<_> = self.oracle().into_iter().filter(|line| line.word == "OVERLAP").collect();
        assert_eq!(overlaps, [], "two processes at once of one resource");
        let mut newest = std::collections::BTreeMap::new();
        for line in self.oracle() {
            let token = newest.entry(line.task).or_insert(line.token);
            assert!(line.token >= *token, "an older attempt acts beside its successor (token {token}): {line:?}");
            *token = line.token;
        }
    }

    // ---- behind the store's back ------------------------------------------------------------------------

    pub fn connection(&self) -> Connection {
        match self.settings.url.backend() {
            Backend::Sqlite => Connection::Sqlite(SqliteDb::open(&self.settings).unwrap()),
            Backend::Postgres => Connection::Postgres(Postgres::open(&self.settings).unwrap()),
            Backend::Mysql => Connection::Mariadb(MysqlDb::open(&self.settings).unwrap()),
        }
    }

    /// Whether the database takes writes now: a SQLite file does not while a writer is frozen in the middle
    /// of a write (`design.md` 4.1).
    pub fn takes_writes(&self) -> bool {
        if self.settings.url.sqlite_path().is_none() {
            return true;
        }
        let settings = Settings { statement_timeout: Duration::from_millis(300), ..self.settings.clone() };
        let mut connection = SqliteDb::open(&settings).unwrap();
        let is_free = connection.begin("look for a frozen writer").is_ok();
        if is_free {
            connection.rollback();
        }
        is_free
    }

    pub fn sql(&self, text: &str) {
        self.connection().db().execute("a test", &Sql { text: text.into(), binds: Vec::new() }).unwrap();
    }

    pub fn rows(&self, text: &str) -> Vec<Row> {
        self.connection().db().query("a test", &Sql { text: text.into(), binds: Vec::new() }).unwrap()
    }

    pub fn number(&self, text: &str) -> i64 {
        self.rows(text).remove(0).int()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A failed test leaves nothing behind; a frozen one must go on before it can die of TERM.
        for pid in self.processes() {
            signal(pid, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            let oracle = std::fs::read_to_string(self.path("oracle")).unwrap_or_default();
            let tail: Vec<_> = oracle.lines().rev().take(30).collect();
            println!("---- the oracle's last lines, newest first\n{}", tail.join("\n"));
        }
    }
}

/// What a process of a task wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub word: String,
    pub task: i64,
    pub token: i64,
    pub pid: i32,
    /// Seconds since boot.
    pub at: f64,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let word = next()?.to_owned();
        Some(Self {
            word,
            task: next()?.parse().ok()?,
            token: next()?.parse().ok()?,
            pid: next()?.parse().ok()?,
            at: next()?.parse().ok()?,
        })
    }
}

/// Seconds since boot, as the oracle's lines tell them.
pub fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Sends a signal to one process; that it is gone is no error.
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Those that carry a mark of a rig. Engines hide what they carry from all but root.
fn marked(is_it: impl Fn(&str) -> bool) -> Vec<i32> {
    let prefix = format!("{MARK}=");
    let alive = tree::snapshot().unwrap().into_iter().filter(tree::Proc::is_alive);
    let mark = |pid: i32| {
        let text = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).ok()?;
        let found = text.split(|b| *b == 0).find_map(|e| e.strip_prefix(prefix.as_bytes()))?;
        Some(String::from_utf8_lossy(found).into_owned())
    };
    alive.map(|proc| proc.pid).filter(|pid| mark(*pid).is_some_and(|mark| is_it(&mark))).collect()
}

/// Kills what test programs left that were themselves killed.
fn sweep() {
    let is_orphan = |mark: &str| {
        let pid = mark.split('-').next().unwrap_or_default();
        !pid.is_empty() && !Path::new("/proc").join(pid).exists()
    };
    marked(is_orphan).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
}
