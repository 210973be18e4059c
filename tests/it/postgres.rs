//! What only PostgreSQL does. The rest is in the conformance suite, which it runs as well.

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use rekindle::store::db::Db;
use rekindle::store::open;
use rekindle::store::postgres::Postgres;
use rekindle::store::sql::Sql;

use crate::support::builders::*;
use crate::support::postgres::{Database, server};

/// A fresh database that is set so for all its sessions, if there is a server.
fn fresh_with(settings: &[&str]) -> Option<Database> {
    let Some(server) = server() else {
        println!("skipped: REKINDLE_TEST_POSTGRES is not set");
        return None;
    };
    let database = Database::migrated(&server);
    let mut admin = PgConnection::establish(&database.settings.url.expose()).unwrap();
    for set in settings {
        let alter = format!("DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET {set}'; END $$");
        admin.batch_execute(&alter).unwrap();
    }
    Some(database)
}

fn shown(db: &mut Postgres, name: &str) -> String {
    let text = format!("SELECT current_setting('{name}', true)");
    db.query("a test", &Sql { text, binds: Vec::new() }).unwrap().remove(0).text()
}

#[test]
fn a_session_tells_the_server_how_long_to_wait_for_its_client() {
    let Some(database) = fresh_with(&["tcp_keepalives_idle = 7200", "tcp_user_timeout = 0"]) else { return };
    let mut db = Postgres::open(&database.settings).unwrap();
    let version: u32 = shown(&mut db, "server_version_num").parse().unwrap();
    for (name, value) in [
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "11000"),
    ] {
        assert_eq!(shown(&mut db, name), value, "{name}");
    }
    if version >= 140_000 {
        assert_eq!(shown(&mut db, "client_connection_check_interval"), "2s");
        assert_eq!(shown(&mut db, "idle_session_timeout"), "0");
    }
}

#[test]
fn a_role_that_is_set_to_serializable_claims_and_beats_like_any_other() {
    let Some(database) = fresh_with(&["default_transaction_isolation = serializable"]) else { return };
    let mut db = Postgres::open(&database.settings).unwrap();
    assert_eq!(shown(&mut db, "transaction_isolation"), "read committed");
    db.begin("a test").unwrap();
    assert_eq!(shown(&mut db, "transaction_isolation"), "read committed");
    db.rollback();
    // Others see each commit at once, and no beat fails for the claims beside it.
    let places = || vec![database.settings.clone()];
    let stores = [(); 3].map(|()| open(places(), places(), 4).unwrap());
    let engines = ["a", "b", "c"].map(engine);
    task().add_many(&*stores[0], 60);
    let got: usize = std::thread::scope(|scope| {
        let work = |(store, engine): (_, EngineBuilder)| {
            scope.spawn(move || {
                let store: &std::sync::Arc<dyn rekindle::store::Store> = store;
                engine.register(&**store);
                let engine = Engine { incarnation: engine.0.incarnation, name: engine.0.name, host: engine.0.host };
                let mut got = 0;
                for _ in 0..10 {
                    engine.accepted(&**store);
                    got += engine.claim().limit(2).run(&**store).len();
                }
                got
            })
        };
        let threads: Vec<_> = stores.iter().zip(engines).map(work).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(got, 60);
}
