//! Servers that are set up for others, in what no case of the conformance suite asks. The suite itself runs on them too
//! (`conformance::postgres_hostile`, `conformance::mariadb_hostile`).

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, PgConnection};
use rekindle::protocol::task::TaskState;
use rekindle::store::{Settings, Store, StoreError, open};

use crate::cluster::server::{MARIADB, Server};
use crate::support::builders::*;
use crate::support::databases::Rig;
use crate::support::login::Login;
use crate::support::{hostile, mariadb, postgres};

fn store(settings: &Settings) -> std::sync::Arc<dyn Store> {
    open(vec![settings.clone()], vec![settings.clone()], 4).unwrap()
}

/// One that cannot keep every text would fail at the end of a task whose output it cannot keep, long after it ran.
#[test]
fn a_database_that_is_not_utf8_is_refused_before_anything_is_written() {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    let database = hostile::postgres_latin1(&server);
    let error = store(&database.settings).migrate().unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("is encoded in LATIN1") && text.contains("ENCODING 'UTF8'"), "{text}");
}

/// Sorted by their text, a German deadlock and a German refusal would both be broken statements.
#[test]
fn a_server_that_speaks_german_to_a_user_who_may_not_change_that_is_understood() {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    let database = hostile::postgres_migrated(&server);
    let mut raw = PgConnection::establish(&database.settings.url.expose()).unwrap();
    let said = raw.batch_execute("SELECT * FROM nowhere").unwrap_err().to_string();
    if said.contains("does not exist") {
        return println!("skipped: this server has no German (package locales, and its catalogs of messages)");
    }
    // Locks that two transactions take against each other: one of them is told of the deadlock, in German.
    raw.batch_execute("SET statement_timeout = 0; SET lock_timeout = 0").unwrap();
    raw.batch_execute("SET idle_in_transaction_session_timeout = 0; SET deadlock_timeout = '100ms'").unwrap_or(());
    let mut own = rekindle::store::postgres::Postgres::open(&database.settings).unwrap();
    let sql = |text: &str| rekindle::store::sql::Sql { text: text.into(), binds: Vec::new() };
    let db: &mut dyn rekindle::store::db::Db = &mut own;
    db.execute("a test", &sql("INSERT INTO resource (name) VALUES ('a'), ('b')")).unwrap();
    db.begin("a test").unwrap();
    db.execute("a test", &sql("UPDATE resource SET token = token + 1 WHERE name = 'a'")).unwrap();
    raw.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED; UPDATE resource SET token = 9 WHERE name = 'b'").unwrap();
    let other = std::thread::spawn(move || {
        let done = raw.batch_execute("UPDATE resource SET token = 9 WHERE name = 'a'");
        let _ = raw.batch_execute("ROLLBACK");
        done.map_err(|error| error.to_string())
    });
    let mine = db.execute("a test", &sql("UPDATE resource SET token = token + 1 WHERE name = 'b'"));
    db.rollback();
    match (mine, other.join().unwrap()) {
        (Err(StoreError::Busy { source, .. }), Ok(())) => assert!(!source.0.contains("deadlock"), "{source}"),
        (Ok(_), Err(text)) => assert!(!text.contains("deadlock detected"), "{text}"),
        (mine, theirs) => panic!("one of them must have been thrown out: {mine:?}, {theirs:?}"),
    }
}

#[test]
fn a_right_that_is_missing_is_named_whatever_the_servers_language() {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    let database = hostile::postgres_migrated(&server);
    let url = rekindle::config::DatabaseUrl::parse(&postgres_url(&server, &database.name)).unwrap();
    let admin = Settings::new(url);
    let login = Login::new(&admin);
    let theirs = Settings::new(rekindle::config::DatabaseUrl::parse(&login.url).unwrap());
    assert!(store(&theirs).check_rights().is_ok());
    login.revoke("DELETE ON task");
    match store(&theirs).check_rights() {
        Err(StoreError::Rights { missing, .. }) => assert_eq!(missing, "DELETE on task"),
        other => panic!("{other:?}"),
    }
}

fn postgres_url(server: &str, name: &str) -> String {
    format!("{}/{name}", server.rsplit_once('/').unwrap().0)
}

/// `max_allowed_packet = 1M`, as older servers have it: a statement with more ends the connection without a word.
#[test]
fn what_a_server_does_not_take_at_once_is_refused_by_name_or_cut_and_holds_up_nothing_else() {
    if mariadb::server().is_none() {
        return println!("skipped: REKINDLE_TEST_MARIADB is not set");
    }
    let server = Server::start(MARIADB);
    mariadb::admin(server.url()).batch_execute("SET GLOBAL max_allowed_packet = 1048576").unwrap();
    let rig = Rig::over_mariadb(mariadb::Database::migrated(server.url()));
    let error = rig.store.add(&[task().payload(&[b'x'; 1 << 20]).0], "me").unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)) && error.to_string().contains("max_allowed_packet"), "{error}");
    let many: Vec<_> = (0..40).map(|_| task().payload(&[b'x'; 100_000]).0).collect();
    assert_eq!(rig.store.add(&many, "me").unwrap().len(), 40, "4 MB in statements of less than one");

    let me = engine("me").on(&rig);
    let claimed = me.claim().limit(40).run(&*rig.store);
    let mut ends: Vec<_> = claimed.iter().map(done).collect();
    ends[0].output = vec![b'o'; 1 << 20];
    for end in &mut ends[1..20] {
        end.value = Some("v".repeat(100_000));
    }
    ends[20].value = Some("w".repeat(1 << 20));
    let outcomes = me.finish(&*rig.store, &ends);
    assert!(outcomes.iter().all(|outcome| *outcome == rekindle::store::FinishOutcome::Written), "{outcomes:?}");
    for end in &ends {
        assert_eq!(state(&*rig.store, end.held.task), Some(TaskState::Done));
    }
    let output = rig.store.output(ends[0].held.task, None).unwrap().unwrap();
    let kept = output.output.len();
    assert!(kept > 900_000 && kept as u64 + output.dropped == 1 << 20, "{kept} and {}", output.dropped);
}
