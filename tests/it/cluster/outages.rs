//! The database goes away: stopped (nobody answers) or frozen (nobody answers and nothing is refused).

use std::collections::BTreeMap;
use std::time::Duration;

use rekindle::clock::{Clock, SystemClock};
use rekindle::config::Backend;
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::ids::{Incarnation, TaskId};
use rekindle::protocol::task::{AttemptResult, TaskState};

use rekindle::store::sql::Sql;

use super::engine::Engine;
use super::rig::{Rig, SOON, uptime, wait_or};
use crate::support::databases::Connection;
use crate::support::login::Login;

/// How the database is away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Away {
    Stopped,
    Frozen,
    /// The server stays, and the pooler before it does not.
    Unpooled,
}

/// Keeps it away until it is told to come back.
struct Outage<'r> {
    rig: &'r Rig,
    away: Away,
    held: Option<Connection>,
}

impl<'r> Outage<'r> {
    fn begin(rig: &'r Rig, away: Away) -> Self {
        let mut held = None;
        match (&rig.server, away) {
            (Some(server), Away::Stopped) => server.stop(),
            (Some(server), Away::Frozen) => server.freeze(),
            (Some(server), Away::Unpooled) => server.stop_pooler(),
            (None, _) => {
                // Of SQLite: somebody holds the write lock.
                let mut connection = rig.connection();
                connection.db().begin("hold the lock").unwrap();
                held = Some(connection);
            }
        }
        Self { rig, away, held }
    }

    fn end(mut self) {
        match (&self.rig.server, self.away) {
            (Some(server), Away::Stopped) => server.resume(),
            (Some(server), Away::Frozen) => server.thaw(),
            (Some(server), Away::Unpooled) => server.resume_pooler(),
            (None, _) => self.held.take().unwrap().db().rollback(),
        }
        self.rig.reopen();
    }
}

fn pids(engines: &[&Engine]) -> Vec<i32> {
    engines.iter().flat_map(|engine| [engine.guard, engine.proper()]).collect()
}

fn lives(rig: &Rig) -> BTreeMap<String, Incarnation> {
    ["a", "b"].into_iter().map(|name| (name.to_owned(), rig.life(name).incarnation)).collect()
}

fn short(rig: &Rig, profile: &str, away: Away, span: Duration) {
    let engines = ["a", "b"].map(|name| rig.engine(name).timing(profile).start());
    let task = rig.add(&format!("ticks {}", (span.as_millis() + 3_000) / 60));
    rig.wait_starts(task, 1, SOON);
    let before = (lives(rig), pids(&engines.each_ref()));
    let outage = Outage::begin(rig, away);
    SystemClock.pause(span);
    outage.end();
    rig.wait_state(task, TaskState::Done, span + SOON);
    assert_eq!(rig.results(task), [AttemptResult::Done]);
    assert_eq!((lives(rig), pids(&engines.each_ref())), before, "somebody came back as a new life");
    let next = rig.add("ticks 1");
    rig.wait_state(next, TaskState::Done, SOON);
    engines.iter().for_each(Engine::stop);
}

pub fn a_frozen_second_disturbs_nothing(rig: &Rig) {
    short(rig, "fast", Away::Frozen, Duration::from_millis(900));
}

pub fn a_database_that_is_away_for_4_seconds_disturbs_no_balanced_engine(rig: &Rig) {
    // What the server needs to come up counts, too.
    short(rig, "balanced", Away::Stopped, Duration::from_millis(3_300));
}

pub fn a_pooler_that_is_started_again_disturbs_nothing(rig: &Rig) {
    short(rig, "fast", Away::Unpooled, Duration::from_millis(400));
}

pub fn a_pooler_that_is_away_for_long_kills_what_runs_and_the_work_goes_on_by_itself(rig: &Rig) {
    long(rig, Away::Unpooled, Duration::from_secs(8));
}

/// Heartbeats have a way of their own, so the lease holds and the task runs on.
pub fn a_pooler_that_is_away_stops_nothing_where_beats_go_round_it(rig: &Rig) {
    let a = rig.engine("a").beats(&rig.settings.url.expose()).start();
    let before = (rig.life("a").incarnation, pids(&[&a]));
    let task = rig.add_to("sh", "alone r; ticks 40", &["r"]);
    rig.wait_starts(task, 1, SOON);
    let outage = Outage::begin(rig, Away::Unpooled);
    SystemClock.pause(Duration::from_secs(5));
    assert_eq!(rig.state(task), TaskState::Running, "its end was written without a pooler");
    outage.end();
    rig.wait_state(task, TaskState::Done, SOON);
    let next = rig.add_to("sh", "ticks 1", &["r"]);
    rig.wait_state(next, TaskState::Done, SOON);
    assert_eq!((rig.results(task), rig.task(task).attempt), (vec![AttemptResult::Done], 1));
    assert_eq!((rig.life("a").incarnation, pids(&[&a])), before, "{}", a.log());
    a.stop();
}

pub fn a_minute_without_database_kills_what_runs_and_the_work_goes_on_by_itself(rig: &Rig) {
    long(rig, Away::Stopped, Duration::from_secs(60));
}

pub fn a_long_freeze_kills_what_runs_and_the_work_goes_on_by_itself(rig: &Rig) {
    long(rig, Away::Frozen, Duration::from_secs(12));
}

fn long(rig: &Rig, away: Away, span: Duration) {
    let spec = |name| rig.engine(name).kind("on", "on_lease_loss = \"continue\"").start();
    let a = spec("a");
    let stopped = rig.add("if first; then escape; forever; fi; ticks 2");
    let continued = rig.add_to("on", &format!("ticks {}", (span.as_millis() + 4_000) / 55), &["r"]);
    rig.wait_starts(stopped, 1, SOON);
    rig.wait_starts(continued, 1, SOON);
    let b = spec("b");
    let (before, processes) = (lives(rig), pids(&[&a, &b]));

    let gone_at = uptime();
    let outage = Outage::begin(rig, away);
    wait_or(span, || uptime() - gone_at >= 5.0, String::new);
    let last = rig.last_line(stopped).unwrap();
    assert!(last.at - gone_at <= 3.0, "{:.2}s after the last possible beat a task ran: {last:?}", last.at - gone_at);
    wait_or(span, || uptime() - gone_at >= span.as_secs_f64(), String::new);
    assert!(uptime() - rig.last_line(continued).unwrap().at < 1.0, "the continuing task was stopped\n{}", a.log());
    assert_eq!(pids(&[&a, &b]), processes, "a process was started again");
    for engine in [&a, &b] {
        // Sixteen calls may hang, each of them with a thread that connects.
        assert!(threads(engine.proper()) < 64, "{} threads", threads(engine.proper()));
    }
    outage.end();

    let back_at = uptime();
    rig.wait_starts(stopped, 2, SOON);
    let took = rig.said(stopped, "START")[1].at - back_at;
    println!("work went on after {took:.2}s");
    assert!(took <= 3.0, "work went on after {took:.2}s\n{}\n{}", a.log(), b.log());
    rig.wait_state(stopped, TaskState::Done, SOON);
    rig.wait_state(continued, TaskState::Done, span);
    assert_eq!(rig.results(stopped), [AttemptResult::HandedBack, AttemptResult::Done]);
    assert_eq!((rig.results(continued), rig.task(continued).attempt), (vec![AttemptResult::Done], 1));
    nobody_is_blamed(rig, &before, &[stopped, continued]);
    assert_eq!(pids(&[&a, &b]), processes, "a process was started again");
    a.stop();
    b.stop();
}

/// Its result cannot be written: it ends all the same, and says so; a peer runs the task again.
pub fn an_engine_that_is_stopped_while_the_database_is_away_ends(rig: &Rig) {
    for away in [Away::Stopped, Away::Frozen] {
        let a = rig.engine("a").with("[database]\nstatement_timeout = \"2s\"\nconnect_timeout = \"1s\"").start();
        let (short, long) = (rig.add("if first; then ticks 12; fi"), rig.add("if first; then forever; fi"));
        rig.wait_starts(short, 1, SOON);
        rig.wait_starts(long, 1, SOON);
        let outage = Outage::begin(rig, away);
        a.signal(nix::sys::signal::Signal::SIGTERM);
        let code = a.wait(Duration::from_secs(25));
        assert!((0..=1).contains(&code) && a.log().contains("could not be written"), "{code}\n{}", a.log());
        assert!(!a.log().contains("neither renewed its lease"), "the guard had to kill it\n{}", a.log());
        assert_eq!(rig.processes(), Vec::<i32>::new());
        outage.end();
        let b = rig.engine("b").start();
        for task in [short, long] {
            rig.wait_state(task, TaskState::Done, SOON);
            assert_eq!(rig.task(task).attempt, 2, "{:?}", rig.attempts(task));
        }
        b.stop();
    }
}

fn threads(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

/// Every engine ended its former life itself.
fn nobody_is_blamed(rig: &Rig, before: &BTreeMap<String, Incarnation>, tasks: &[TaskId]) {
    for (name, incarnation) in before {
        wait_or(SOON, || rig.life(name).state == EngineState::Live, || format!("{:?}", rig.lives(name)));
        let former = rig.lives(name).into_iter().find(|row| row.incarnation == *incarnation).unwrap();
        assert_eq!((former.state, former.proof), (EngineState::Fenced, Some(Proof::Itself)), "{former:?}");
        // A registration that was given up during the outage may still have been done when it was over: a life
        // that never beat, ended by the engine itself.
        let lives = rig.lives(name);
        let others = lives.iter().filter(|row| row.state != EngineState::Live && row.incarnation != *incarnation);
        let is_given_up = |row: &rekindle::store::EngineRow| row.beat == 0 && row.proof == Some(Proof::Itself);
        assert!(others.clone().all(is_given_up), "{lives:?}");
        assert_eq!(lives.len(), 2 + others.count(), "{lives:?}");
    }
    for task in tasks {
        assert_eq!(rig.task(*task).lost, 0, "{:?}", rig.task(*task));
    }
}

pub fn a_database_that_is_read_only_for_a_while_ends_no_engine(rig: &Rig) {
    let set = |statements: &[&str]| {
        let mut connection = rig.connection();
        for text in statements {
            connection.db().execute("a test", &Sql { text: (*text).into(), binds: Vec::new() }).unwrap();
        }
    };
    let a = rig.engine("a").start();
    let (former, processes) = (rig.life("a").incarnation, pids(&[&a]));
    let task = rig.add("if first; then forever; fi; ticks 1");
    rig.wait_starts(task, 1, SOON);
    set(&["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"]);
    wait_or(SOON, || a.log().contains("could not come back yet"), || a.log());
    assert_eq!(rig.task_processes(task), Vec::<i32>::new());
    let writable = "SET default_transaction_read_only = off";
    set(&[writable, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"]);
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.results(task), [AttemptResult::HandedBack, AttemptResult::Done]);
    assert!(rig.life("a").incarnation != former && pids(&[&a]) == processes);
    a.stop();
}

pub fn an_engine_that_starts_while_nothing_takes_writes_waits(rig: &Rig) {
    let (off, on): (&[&str], &[&str]) = match rig.settings.url.backend() {
        Backend::Postgres => (
            &["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"],
            &[
                "SET default_transaction_read_only = off",
                "ALTER SYSTEM RESET default_transaction_read_only",
                "SELECT pg_reload_conf()",
            ],
        ),
        _ => (&["SET GLOBAL read_only = 1"], &["SET GLOBAL read_only = 0"]),
    };
    let set = |statements: &[&str]| {
        let mut connection = rig.connection();
        for text in statements {
            let sql = Sql { text: (*text).into(), binds: Vec::new() };
            connection.db().execute("a test", &sql).unwrap();
        }
    };
    let login = Login::new(&rig.settings);
    set(off);
    let engine = rig.engine("a").url(&login.url).launch();
    wait_or(SOON, || engine.log().contains("waiting for the database: the database refuses to write"), || engine.log());
    assert_eq!((engine.ended(), rig.lives("a").len()), (None, 0), "{}", engine.log());
    set(on);
    wait_or(SOON, || rig.lives("a").first().is_some_and(|row| row.beat > 1), || engine.log());
    engine.stop();
}

fn end_connections(rig: &Rig) {
    if rig.settings.url.backend() == Backend::Postgres {
        rig.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
             AND pid <> pg_backend_pid()",
        );
        return;
    }
    let all = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
    for mut row in rig.rows(all) {
        let text = format!("KILL {}", row.int());
        // It may have gone by itself.
        let _ = rig.connection().db().execute("a test", &Sql { text, binds: Vec::new() });
    }
}

pub fn connections_that_are_ended_disturb_nothing(rig: &Rig) {
    let engines = ["a", "b"].map(|name| rig.engine(name).start());
    let before = (lives(rig), pids(&engines.each_ref()));
    let tasks: Vec<_> = (0..40).map(|n| rig.add_to("sh", "ticks 3", &[["r", "s", "t"][n % 3]])).collect();
    rig.wait_starts(tasks[0], 1, SOON);
    for _ in 0..12 {
        end_connections(rig);
        SystemClock.pause(Duration::from_millis(150));
    }
    // Some of them were the rig's own.
    rig.reopen();
    for task in &tasks {
        rig.wait_state(*task, TaskState::Done, Duration::from_secs(30));
        assert_eq!((rig.said(*task, "END").len(), rig.task(*task).lost), (1, 0), "{:?}", rig.attempts(*task));
    }
    let words =
        ["terminating connection", "server closed the connection", "gone away", "Lost connection", "was killed"];
    let has_noticed = |engine: &Engine| words.iter().any(|word| engine.log().contains(word));
    // Behind a pooler the connections that were ended may have been nobody's in that moment, but not all.
    assert!(engines.iter().any(has_noticed), "nothing was disturbed\n{}", engines[0].log());
    assert_eq!((lives(rig), pids(&engines.each_ref())), before, "somebody came back as a new life");
    engines.iter().for_each(Engine::stop);
}
