//! Several servers, one of which takes writes: engines find it, and follow it.

use std::sync::Arc;
use std::time::Duration;

use rekindle::config::DatabaseUrl;
use rekindle::protocol::ids::TaskId;
use rekindle::protocol::task::TaskState;
use rekindle::store::{Settings, Store, StoreError, open};

use super::engine::Engine;
use super::rig::{Rig, SOON, wait_or};
use super::server::{self, Server};
use crate::support::builders::task;
use crate::support::login::Login;

/// A switch-over is another database, perhaps with fewer commits: nobody claims for T. The rest is for starting servers.
const AFTER_A_SWITCH: Duration = Duration::from_secs(20);

/// Both servers as one database, as a client has it.
struct Pair {
    urls: [String; 2],
    store: Arc<dyn Store>,
}

impl Pair {
    fn new(urls: [String; 2]) -> Self {
        let places = || urls.each_ref().map(|url| Settings::new(DatabaseUrl::parse(url).unwrap())).to_vec();
        Self { store: open(places(), places(), 2).unwrap(), urls: urls.clone() }
    }

    /// Adds a task as soon as somebody takes it.
    fn add(&self, body: &str) -> TaskId {
        let new = task().of("sh").payload(body.as_bytes()).0;
        let mut added = None;
        let what = || "nobody takes a task".to_owned();
        wait_or(
            AFTER_A_SWITCH,
            || match self.store.add(std::slice::from_ref(&new), "a test") {
                Ok(ids) => {
                    added = Some(ids[0]);
                    true
                }
                Err(error) => {
                    assert!(error.is_transient() || matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
                    false
                }
            },
            what,
        );
        added.unwrap()
    }

    /// The task gets done although the server changed, and no engine has ended.
    fn does(&self, task: TaskId, engines: &[&Engine]) {
        let is_done = || self.store.task(task).is_ok_and(|found| found.unwrap().0.state == TaskState::Done);
        let logs = || engines.iter().map(|engine| engine.log()).collect::<String>();
        wait_or(AFTER_A_SWITCH, is_done, logs);
        assert!(engines.iter().all(|engine| engine.ended().is_none()), "{}", logs());
    }
}

pub fn engines_follow_the_postgres_that_takes_writes(rig: &Rig) {
    let first = rig.server.as_ref().unwrap();
    let other = first.standby();
    // The standby is the first of the list: it is passed over.
    let pair = Pair::new([other.url().to_owned(), first.url().to_owned()]);
    let (a, b) = (rig.engine("a").urls(&pair.urls).start(), rig.engine("b").urls(&pair.urls).start());
    pair.does(pair.add("ticks 1"), &[&a, &b]);
    let running = pair.add("ticks 20");
    rig.wait_starts(running, 1, SOON);
    for (old, new) in [(first, &other), (&other, first)] {
        old.stop_well();
        promote(new);
        // What was a primary comes back as a standby, where new connections find it.
        old.follow(new);
        pair.does(pair.add("ticks 1"), &[&a, &b]);
    }
    pair.does(running, &[&a, &b]);
    for engine in [&a, &b] {
        engine.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(engine.wait(SOON), 0, "{}", engine.log());
    }
}

fn promote(server: &Server) {
    use diesel::{Connection, PgConnection, connection::SimpleConnection};
    let mut admin = PgConnection::establish(server.url()).unwrap();
    admin.batch_execute("SELECT pg_promote(true, 30)").unwrap();
}

/// Two servers, the second of which follows the first and takes no writes.
pub fn on_replicated_mariadb(case: fn(&Rig, &Server)) {
    if crate::support::mariadb::server().is_none() {
        return println!("skipped: REKINDLE_TEST_MARIADB is not set");
    }
    let start = |id: u32| {
        let settings = format!("log_bin = bin\nserver_id = {id}\nlog_slave_updates = ON\nbinlog_format = ROW");
        let server = Server::start_with(server::MARIADB, |command| {
            command.env("REKINDLE_MARIADB_SETTINGS", settings);
        });
        // What was done so far was done on both.
        at(&server, &["RESET MASTER"]);
        server
    };
    let (first, other) = (start(1), start(2));
    follow(&other, &first);
    super::rig::on_this(first, |rig| case(rig, &other));
}

fn at(server: &Server, texts: &[&str]) {
    use diesel::{Connection, MysqlConnection, connection::SimpleConnection};
    let mut admin = MysqlConnection::establish(server.url()).unwrap();
    texts.iter().for_each(|text| admin.batch_execute(text).unwrap_or_else(|error| panic!("{text}: {error}")));
}

/// The sessions that there are stay, as where people or a tool switch over.
fn follow(replica: &Server, primary: &Server) {
    let (login, _) = primary.url().split_once("://").unwrap().1.rsplit_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let change = format!(
        "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = '{user}', \
         MASTER_PASSWORD = '{password}', MASTER_USE_GTID = current_pos",
        primary.port()
    );
    at(replica, &["SET GLOBAL read_only = 1", &change, "START SLAVE"]);
}

/// Waits until the replica has all that the primary had.
fn catch_up(replica: &Server, primary: &Server) {
    use rekindle::store::mysql::MysqlDb;
    use rekindle::store::{db::Db as _, sql::Sql};
    let ask = |server: &Server, text: String| {
        let mut db = MysqlDb::open(&Settings::new(DatabaseUrl::parse(server.url()).unwrap())).unwrap();
        db.query("a test", &Sql { text, binds: Vec::new() }).unwrap().remove(0)
    };
    let place = ask(primary, "SELECT @@global.gtid_binlog_pos".into()).text();
    assert_eq!(
        ask(replica, format!("SELECT MASTER_GTID_WAIT('{place}', 8)")).int(),
        0,
        "the replica is behind {place}"
    );
}

pub fn engines_follow_the_mariadb_that_takes_writes(rig: &Rig, other: &Server) {
    let first = rig.server.as_ref().unwrap();
    // One who may write in spite of read_only would not be a user of rekindle's.
    let login = Login::new(&rig.settings);
    catch_up(other, first);
    let url = login.url.replace(&format!(":{}/", first.port()), &format!(":{}/", other.port()));
    let pair = Pair::new([url, login.url.clone()]);
    let (a, b) = (rig.engine("a").urls(&pair.urls).start(), rig.engine("b").urls(&pair.urls).start());
    pair.does(pair.add("ticks 1"), &[&a, &b]);
    let running = pair.add("ticks 20");
    rig.wait_starts(running, 1, SOON);
    for (old, new) in [(first, other), (other, first)] {
        at(old, &["SET GLOBAL read_only = 1"]);
        catch_up(new, old);
        at(new, &["STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = 0"]);
        follow(old, new);
        pair.does(pair.add("ticks 1"), &[&a, &b]);
    }
    pair.does(running, &[&a, &b]);
    for engine in [&a, &b] {
        engine.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(engine.wait(SOON), 0, "{}", engine.log());
    }
}
