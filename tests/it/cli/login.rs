//! A PostgreSQL server that answers and says no.

use super::Desk;
use crate::support::postgres;

#[test]
fn a_refused_login_exits_77_and_a_missing_database_78_each_with_a_next_step() {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    let desk = Desk::bare();
    let (_, tail) = server.split_once("://").unwrap();
    let (login, place) = tail.rsplit_once('@').unwrap();
    let (hosts, _) = place.split_once('/').unwrap();
    for wrong in ["rekindle:wrong-4711", "nobody:wrong-4711", "rekindle"] {
        let url = format!("postgres://{wrong}@{place}");
        let url = desk.url_file(&url);
        let said = desk.args(&["status", "--database-url-file", &url]).code(77);
        assert!(said.err.contains("error[E322]: the database does not let us in\n"), "{said:?}");
        for part in ["look at user and password: rekindle --database-url-file ", "pg_hba.conf", "rekindle explain E322"]
        {
            assert!(said.err.contains(part), "{part}: {said:?}");
        }
        assert!(!said.err.contains("4711"), "{said:?}");
        let check = desk.check(&format!("--database-url-file {url}")).code(2).out;
        assert!(check.contains("does not let us in") && !check.contains("4711"), "{check}");
    }
    let url = format!("postgres://{login}@{hosts}/rekindle_it_nowhere");
    let said = desk.args(&["status", "--database-url-file", &desk.url_file(&url)]).code(78);
    assert!(said.err.contains("error[E312]: this database cannot be used\n"), "{said:?}");
    assert!(said.err.contains("make it on the server, then: rekindle --database-url-file "), "{said:?}");
}
