//! Migrations and what they leave: only for databases with a schema.

use std::time::Duration;

use rekindle::store::sql::Sql;
use rekindle::store::{SchemaProblem, StoreError, mysql, postgres};

use crate::support::builders::*;
use crate::support::databases::{Connection, Rig};

pub fn an_empty_database_says_that_everything_is_pending(rig: &Rig) {
    let status = rig.store.schema_status().unwrap();
    assert_eq!((status.found.as_deref(), status.is_current()), (None, false));
    assert_eq!(status.pending.last(), Some(&status.wanted));
    let refused = rig.store.register(&engine("a").0);
    assert!(matches!(refused, Err(StoreError::Schema(SchemaProblem::Missing))), "{refused:?}");
}

pub fn migrating_twice_finds_nothing_to_do(rig: &Rig) {
    let done = rig.store.migrate().unwrap();
    assert!(!done.is_empty());
    let first = rig.store.meta().unwrap();
    assert_eq!(rig.store.migrate().unwrap(), Vec::<String>::new());
    assert!(rig.store.schema_status().unwrap().is_current());
    assert_eq!(rig.store.meta().unwrap().cluster_id, first.cluster_id);
    assert!(first.identity_matches);
}

pub fn eight_engines_that_migrate_at_once_all_succeed(rig: &Rig) {
    let stores: Vec<_> = (0..8).map(|_| rig.another()).collect();
    let start = std::sync::Barrier::new(stores.len());
    let ran: usize = std::thread::scope(|scope| {
        let run = |store| {
            let start = &start;
            scope.spawn(move || {
                let store: std::sync::Arc<dyn rekindle::store::Store> = store;
                start.wait();
                store.migrate().unwrap().len()
            })
        };
        let threads: Vec<_> = stores.into_iter().map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(ran, rig.rows("SELECT version FROM __diesel_schema_migrations").len(), "each migration ran once");
    assert!(rig.store.schema_status().unwrap().is_current());
    engine("a").on(rig);
}

/// Somebody else's migration: its lock is held, and all but its last step was done.
struct UnderWay {
    connection: Connection,
    last: String,
}

impl UnderWay {
    fn on(rig: &Rig) -> Self {
        rig.store.migrate().unwrap();
        let last = rig.store.schema_status().unwrap().wanted;
        rig.sql(&format!("DELETE FROM __diesel_schema_migrations WHERE version = '{last}'"));
        let mut connection = rig.connection();
        let lock = match &connection {
            Connection::Sqlite(_) => "SELECT 1".to_owned(),
            Connection::Postgres(_) => format!("SELECT pg_advisory_xact_lock({})", postgres::backend::MIGRATION_LOCK),
            Connection::Mariadb(_) => format!("SELECT GET_LOCK({}, 1)", mysql::MIGRATION_LOCK),
        };
        let patience = match &connection {
            Connection::Postgres(_) => Some("SET LOCAL idle_in_transaction_session_timeout = 0".to_owned()),
            _ => None,
        };
        if !matches!(connection, Connection::Mariadb(_)) {
            connection.db().begin("a test").unwrap();
        }
        for text in patience.into_iter().chain([lock]) {
            connection.db().query("a test", &sql(text)).unwrap();
        }
        Self { connection, last }
    }

    fn finish(mut self) {
        let db = self.connection.db();
        let last = format!("INSERT INTO __diesel_schema_migrations (version) VALUES ('{}')", self.last);
        db.execute("a test", &sql(last)).unwrap();
        if !matches!(self.connection, Connection::Mariadb(_)) {
            self.connection.db().commit("a test").unwrap();
        }
    }
}

fn sql(text: String) -> Sql {
    Sql { text, binds: Vec::new() }
}

pub fn a_migration_that_is_under_way_is_waited_for(rig: &Rig) {
    let other = UnderWay::on(rig);
    let store = rig.another();
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || said.send(store.schema_status()).unwrap());
        // An answer that comes now is wrong; the right one cannot come before the migration is finished.
        let early = heard.recv_timeout(Duration::from_millis(300));
        assert!(early.is_err(), "{early:?}");
        other.finish();
        let status = heard.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
        assert!(status.is_current() && !status.is_migrating, "{status:?}");
    });
    engine("a").on(rig);
}

pub fn a_migration_that_takes_too_long_is_told_from_a_schema_that_is_older(rig: &Rig) {
    let other = UnderWay::on(rig);
    let status = rig.store.schema_status().unwrap();
    assert!(status.is_migrating && !status.is_current(), "{status:?}");
    let refused = rig.store.register(&engine("a").0);
    assert!(matches!(refused, Err(StoreError::Busy { .. })), "{refused:?}");
    // Whoever migrated is gone, and left it half done.
    drop(other);
    let refused = rig.store.register(&engine("a").0);
    assert!(matches!(refused, Err(StoreError::Schema(SchemaProblem::Older(_)))), "{refused:?}");
}

pub fn a_database_that_is_newer_is_refused(rig: &Rig) {
    rig.store.migrate().unwrap();
    rig.sql("INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')");
    assert_eq!(rig.store.schema_status().unwrap().unknown, ["29990101000000"]);
    let newer =
        |error| matches!(error, StoreError::Schema(SchemaProblem::Newer(version)) if version == "29990101000000");
    assert!(newer(rig.store.migrate().unwrap_err()));
    assert!(newer(rig.store.register(&engine("a").0).unwrap_err()));
}

pub fn an_older_database_is_refused_until_it_is_migrated(rig: &Rig) {
    rig.store.migrate().unwrap();
    engine("a").on(rig);
    crate::support::schema::revert_newest(rig);
    let status = rig.store.schema_status().unwrap();
    assert_eq!((status.is_current(), status.pending.len(), status.unknown.len()), (false, 1, 0), "{status:?}");
    let refused = rig.store.register(&engine("b").0);
    assert!(matches!(&refused, Err(StoreError::Schema(SchemaProblem::Older(v))) if *v == status.wanted), "{refused:?}");
    assert_eq!(rig.store.migrate().unwrap(), [status.wanted]);
    assert_eq!(rig.store.engines().unwrap().1.len(), 1, "what was there is still there");
    engine("b").on(rig);
}

pub fn a_lost_meta_row_is_made_again_by_the_next_migration(rig: &Rig) {
    rig.store.migrate().unwrap();
    rig.sql("DELETE FROM meta");
    assert!(matches!(rig.store.meta(), Err(StoreError::Refused(_))));
    rig.store.migrate().unwrap();
    engine("a").on(rig);
}

pub fn the_schema_goes_down_and_up_again(rig: &Rig) {
    rig.store.migrate().unwrap();
    engine("a").on(rig);
    crate::support::schema::revert_all(rig);
    let status = rig.store.schema_status().unwrap();
    assert_eq!(status.found, None, "{status:?}");
    assert_eq!(rig.store.migrate().unwrap().len(), status.pending.len());
    assert!(rig.store.engines().unwrap().1.is_empty());
    engine("a").on(rig);
}

pub fn every_column_of_every_table_can_be_selected(rig: &Rig) {
    rig.store.migrate().unwrap();
    let known = crate::support::schema::select_all(rig);
    assert_eq!(known, crate::support::schema::columns(rig), "src/store/schema.rs names what the migrations made");
}

pub fn a_database_refuses_timing_that_breaks_the_inequalities(rig: &Rig) {
    rig.store.migrate().unwrap();
    engine("a").on(rig);
    for set in ["takeover_ms = 12239", "lease_ms = 5199, takeover_ms = 13000"] {
        let sql = rekindle::store::sql::Sql { text: format!("UPDATE engine SET {set}"), binds: Vec::new() };
        assert!(rig.connection().db().execute("a test", &sql).is_err(), "{set}");
    }
}
