//! The database comes back older as the same database, after an outage that is longer than every lease: nothing but
//! the beats that engines remember shows it.

use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::clock::{Clock, SystemClock};
use rekindle::protocol::ids::Token;
use rekindle::protocol::task::TaskState;
use rekindle::protocol::timing::{Profile, Timing};
use rekindle::store::sql::Sql;

use super::engine::Engine;
use super::rig::{Rig, SOON, wait_or};

/// Runs a task on the resource of the case; its token.
fn use_resource(rig: &Rig) -> Token {
    let task = rig.add_to("sh", "ticks 1", &["r"]);
    rig.wait_state(task, TaskState::Done, Duration::from_secs(30));
    rig.task(task).token
}

/// Every engine has beaten so often since.
fn wait_beats(rig: &Rig, names: &[&str], count: i64) {
    let beat = |name: &&str| rig.life(name).beat;
    let before: Vec<i64> = names.iter().map(beat).collect();
    let have = || names.iter().zip(&before).all(|(name, had)| beat(name) >= had + count);
    wait_or(SOON, have, || format!("{:?}", rig.store().engines()));
}

/// Longer than every lease of the fast profile.
fn past_the_lease() -> Duration {
    Timing::of(Profile::Fast).lease() + Duration::from_secs(5)
}

fn is_noticed(rig: &Rig, lost: Token, engines: &[&Engine]) {
    let log = || engines.iter().map(|engine| engine.log()).collect::<String>();
    let meta = || rig.store().meta().unwrap();
    wait_or(SOON, || meta().raised_epoch > lost.epoch(), || format!("{:?}\n{}", meta(), log()));
    assert_eq!(meta().raised_reason.as_deref(), Some("a heartbeat counter went back"));
    let next = use_resource(rig);
    assert!(next > lost, "{next} was given out after {lost}\n{}", log());
    assert_eq!(meta().raised_epoch.as_i64(), lost.epoch().as_i64() + 1, "one loss is one raise\n{}", log());
}

/// Puts the rows of an attached copy back, as `.restore` does: in one transaction, in the same file.
fn put_back(connection: &mut crate::support::databases::Connection) {
    let db = connection.db();
    let mut run = |text: String| db.execute("a test", &Sql { text, binds: Vec::new() }).unwrap();
    run("PRAGMA defer_foreign_keys = ON".into());
    for table in TABLES {
        run(format!("DELETE FROM main.{table}"));
        run(format!("INSERT INTO main.{table} SELECT * FROM old.{table}"));
    }
}

/// Those that hold what engines and tasks do.
const TABLES: [&str; 8] =
    ["meta", "engine", "engine_info", "task", "task_resource", "resource", "attempt", "task_archive"];

pub fn a_copy_that_is_put_back_in_place_during_a_long_outage_raises_the_epoch(rig: &Rig) {
    let (a, b) = (rig.engine("a").start(), rig.engine("b").start());
    use_resource(rig);
    wait_beats(rig, &["a", "b"], 1);
    rig.sql(&format!("VACUUM INTO '{}'", rig.path("copy.db").display()));
    let lost = use_resource(rig);
    wait_beats(rig, &["a", "b"], 2);
    let mut connection = rig.connection();
    let attach = format!("ATTACH '{}' AS old", rig.path("copy.db").display());
    connection.db().execute("a test", &Sql { text: attach, binds: Vec::new() }).unwrap();
    connection.db().begin("hold the lock").unwrap();
    SystemClock.pause(past_the_lease());
    put_back(&mut connection);
    connection.db().commit("put the copy back").unwrap();
    is_noticed(rig, lost, &[&a, &b]);
    a.stop();
    b.stop();
}

/// Nobody is left who remembers it in memory.
pub fn engines_that_were_started_again_notice_a_copy_that_was_put_back(rig: &Rig) {
    rig.sql(&format!("VACUUM INTO '{}'", rig.path("copy.db").display()));
    let a = rig.engine("a").start();
    let lost = use_resource(rig);
    let kept = || std::fs::read_to_string(rig.path("state-a/last-beat")).is_ok();
    wait_or(SOON, kept, || a.log());
    a.signal(Signal::SIGKILL);
    a.wait(SOON);
    wait_or(SOON, || rig.processes().is_empty(), || "it lives on".into());
    let mut connection = rig.connection();
    let attach = format!("ATTACH '{}' AS old", rig.path("copy.db").display());
    connection.db().execute("a test", &Sql { text: attach, binds: Vec::new() }).unwrap();
    connection.db().begin("hold the lock").unwrap();
    put_back(&mut connection);
    connection.db().commit("put the copy back").unwrap();
    let next = rig.engine("a").start();
    is_noticed(rig, lost, &[&next]);
    next.stop();
    // The same again, but after a good end and a life that was forgotten: nothing is missing.
    let epoch = rig.store().meta().unwrap().epoch;
    wait_or(SOON, || rig.number("SELECT count(*) FROM engine") == 0 || close(rig), || "it owns something".into());
    assert!(!rig.store().forget_engines(Duration::ZERO, &[], false).unwrap().is_empty());
    let last = rig.engine("a").start();
    use_resource(rig);
    assert_eq!(rig.store().meta().unwrap().epoch, epoch, "{}", last.log());
    last.stop();
}

/// No engine is left to do it.
fn close(rig: &Rig) -> bool {
    let ended = rig.lives("a");
    ended.iter().all(|row| rig.store().close(row.incarnation).unwrap())
}

pub fn a_data_directory_that_is_put_back_under_a_stopped_server_raises_the_epoch(rig: &Rig) {
    let server = rig.server.as_ref().unwrap();
    server.stop();
    server.copy_data();
    server.resume();
    rig.reopen();
    let (a, b) = (rig.engine("a").start(), rig.engine("b").start());
    let lost = use_resource(rig);
    wait_beats(rig, &["a", "b"], 2);
    let identity = rig.store().meta().unwrap().identity;
    server.stop();
    // One is started again while the database is away, and waits for it.
    b.signal(Signal::SIGKILL);
    b.wait(SOON);
    let b = rig.engine("b").launch();
    SystemClock.pause(past_the_lease());
    server.put_data_back();
    server.resume();
    rig.reopen();
    is_noticed(rig, lost, &[&a, &b]);
    assert_eq!(rig.store().meta().unwrap().identity, identity, "nothing else has told it");
    a.stop();
    b.stop();
}
