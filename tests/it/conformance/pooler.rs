//! PostgreSQL behind a pooler in transaction mode: what differs from a session of one's own.

use std::time::Duration;

use diesel::{Connection as _, PgConnection, RunQueryDsl as _};
use rekindle::store::db::Db as _;
use rekindle::store::postgres::Postgres;
use rekindle::store::sql::Sql;
use rekindle::store::{Settings, StoreError};

use crate::support::databases::Rig;
use crate::support::postgres::{self, Database};
use crate::support::wait_until;

/// A database, and the way to it through the pooler.
fn pooled() -> Option<(Database, Settings)> {
    let (Some(server), Some(pooler)) = (postgres::server(), postgres::pooler()) else {
        println!("skipped: REKINDLE_TEST_PGBOUNCER is not set");
        return None;
    };
    let database = Database::migrated(&server);
    let way = database.through(&pooler);
    Some((database, way))
}

fn sql(text: &str) -> Sql {
    Sql { text: text.into(), binds: Vec::new() }
}

#[test]
fn a_pooler_is_recognised_and_a_server_is_not_taken_for_one() {
    let Some((database, way)) = pooled() else { return };
    Postgres::open(&way).unwrap();
    Postgres::open(&database.settings).unwrap();
    assert!(way.pooler.is_known() && !database.settings.pooler.is_known());
}

pub fn it_says_that_it_is_behind_one(rig: &Rig) {
    let product = rig.store.server_info().unwrap().product;
    assert!(product.starts_with("PostgreSQL ") && product.ends_with(" behind a pooler"), "{product}");
}

/// The server ends the transaction, whatever session it runs in.
#[test]
fn a_transaction_of_a_silent_client_ends_by_itself() {
    let Some((database, way)) = pooled() else { return };
    let silent = Settings { idle_timeout: Duration::from_millis(300), ..way };
    let (mut silent, mut other) = (Postgres::open(&silent).unwrap(), Postgres::open(&database.settings).unwrap());
    silent.begin("a test").unwrap();
    let mine = sql("UPDATE meta SET cluster = 'mine' WHERE one = 1");
    assert_eq!(silent.execute("a test", &mine).unwrap(), 1);
    let open =
        sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()");
    let mut is_over = || other.query("a test", &open).unwrap()[0].int() == 0;
    assert!(!is_over());
    wait_until(Duration::from_secs(5), is_over);
    let error = silent.commit("a test").unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }) && silent.is_broken(), "{error:?}");
    assert_ne!(other.query("a test", &sql("SELECT cluster FROM meta")).unwrap()[0].text(), "mine");
}

/// Others are given the same sessions: whoever comes next finds them as the server made them.
pub fn nothing_is_left_in_the_sessions_of_the_pool(rig: &Rig) {
    rig.store.meta().unwrap();
    let left = "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name IN \
         ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'synchronous_commit')";
    let mut ours = rig.connection();
    assert_eq!(ours.db().query("a test", &sql(left)).unwrap()[0].int(), 4, "a step brings its settings along");
    let mut stranger = PgConnection::establish(&rig.url()).unwrap();
    for _ in 0..3 {
        rig.store.wake().unwrap();
        let count = diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>(&format!("({left})")));
        assert_eq!(count.get_result::<i64>(&mut stranger).unwrap(), 0);
    }
}

#[test]
fn options_of_the_url_that_a_pooler_does_not_pass_on_are_refused() {
    let Some((_database, way)) = pooled() else { return };
    let url = format!("{}?options=-c%20work_mem%3D8MB", way.url.expose());
    let settings = Settings::new(rekindle::config::DatabaseUrl::parse(&url).unwrap());
    let refused = Postgres::open(&settings).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, StoreError::Refused(text) if text.contains("startup parameter")), "{refused:?}");
}
