//! Databases that are not there, not ours, not fit, or frozen.

use std::net::TcpListener;
use std::time::Duration;

use rekindle::clock::{Clock, SystemClock};
use rekindle::config::DatabaseUrl;
use rekindle::store::Settings;
use rekindle::store::db::Db;
use rekindle::store::sql::Sql;
use rekindle::store::sqlite::SqliteDb;

use super::{Desk, versions};

pub fn sql(desk: &Desk, text: &str) {
    let settings = Settings::new(DatabaseUrl::sqlite(desk.path("a.db")));
    SqliteDb::open(&settings).unwrap().execute("test", &Sql { text: text.into(), binds: Vec::new() }).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_not_made_but_by_migrate() {
    let desk = Desk::bare();
    let said = desk.run("task list").code(69);
    assert!(said.err.contains("error[E301]: cannot reach the database of cluster \"desk\"\n"), "{}", said.err);
    assert!(said.err.contains("there is no such file") && said.err.contains("rekindle db migrate"), "{}", said.err);
    desk.run("db status").code(69);
    desk.run("db migrate --dry-run").code(69);
    desk.run("status").code(69);
    assert_eq!(desk.check("").code, 2);
    assert!(!desk.path("a.db").exists());
    let (newest, count) = (versions().pop().unwrap(), versions().len());
    let made = format!("schema none -> {newest}: {count} migrations run\n");
    assert_eq!(desk.run("db sync").code(0).out, made);
    assert_eq!(desk.run("db migrate").code(0).out, format!("schema {newest} is up to date: nothing to do\n"));
    desk.run("db migrate --dry-run").code(0);
}

#[test]
fn an_empty_database_is_to_be_migrated() {
    let desk = Desk::bare();
    std::fs::write(desk.path("a.db"), "").unwrap();
    desk.run("db migrate --dry-run").code(3);
    desk.run("db status").code(3);
    let said = desk.run("task add mail").code(78);
    assert!(said.err.starts_with("error[E310]: ") && said.err.contains("rekindle db migrate"), "{}", said.err);
    let check = desk.check("").code(2).out;
    assert!(check.starts_with("REKINDLE CRITICAL - database schema does not fit: no tables yet"), "{check}");
    assert!(desk.check("-m latency").code(3).out.starts_with("REKINDLE LATENCY UNKNOWN - "));
}

#[test]
fn a_newer_schema_is_left_alone() {
    let desk = Desk::new();
    sql(&desk, "INSERT INTO __diesel_schema_migrations (version) VALUES ('20991231000000')");
    for line in ["task add mail", "status", "db migrate", "engine list"] {
        let said = desk.run(line).code(78);
        assert!(said.err.starts_with("error[E311]: ") && said.err.contains("20991231000000"), "{line}: {}", said.err);
    }
    desk.run("db status").code(78);
    assert_eq!(desk.check("").code, 2);
    assert!(desk.run("doctor").code(1).out.contains("FAIL  schema"));
}

#[test]
fn an_older_schema_is_left_alone_until_it_is_migrated() {
    let desk = Desk::new();
    desk.run("task add mail").code(0);
    desk.go_back_one_release();
    let mut known = versions();
    let (newest, before) = (known.pop().unwrap(), known.pop().unwrap());
    for line in ["task list", "task add mail", "status", "engine list", "engine clean --yes"] {
        let said = desk.run(line).code(78);
        assert!(said.err.starts_with("error[E310]: ") && said.err.contains(&newest), "{line}: {}", said.err);
        assert!(said.err.contains("rekindle db migrate"), "{line}: {}", said.err);
    }
    let status = desk.run("db status").code(3).out;
    assert!(status.ends_with("next: rekindle db migrate\n"), "{status}");
    let dry = desk.run("db migrate --dry-run").code(3).out;
    assert_eq!(dry, format!("schema {before} -> {newest}: 1 migration would be run   (dry run)\n"));
    let check = desk.check("").code(2).out;
    assert!(check.starts_with("REKINDLE CRITICAL - database schema does not fit: "), "{check}");
    assert!(desk.run("doctor").code(1).out.contains("FAIL  schema"));
    // An engine does not change the schema either: engines of the former release may still run.
    let engine = desk.engine().code(78);
    assert!(engine.err.contains(&newest), "{engine:?}");
    assert_eq!(desk.run("db migrate").code(0).out, format!("schema {before} -> {newest}: 1 migration run\n"));
    assert_eq!(desk.run("task list -o name").code(0).out, "1\n");
}

#[test]
fn a_file_that_is_something_else_is_not_touched() {
    let desk = Desk::bare();
    std::fs::write(desk.path("a.db"), "my diary\n").unwrap();
    for line in ["status", "db migrate", "task add mail"] {
        let said = desk.run(line).code(78);
        assert!(said.err.starts_with("error[E312]: this database cannot be used\n"), "{line}: {}", said.err);
    }
    assert_eq!(std::fs::read_to_string(desk.path("a.db")).unwrap(), "my diary\n");
}

#[test]
fn a_file_that_somebody_else_writes_to_is_busy() {
    let desk = Desk::new();
    let settings = Settings::new(DatabaseUrl::sqlite(desk.path("a.db")));
    let mut other = SqliteDb::open(&settings).unwrap();
    other.begin("test").unwrap();
    let said = desk.run("task add mail --timeout 3s").code(75);
    assert!(said.err.starts_with("error[E303]: the database is busy (add tasks)\n"), "{}", said.err);
    assert!(said.err.contains("nothing was changed"), "{}", said.err);
    // Reading goes on.
    desk.run("status --timeout 5s").code(0);
    other.rollback();
    assert_eq!(desk.run("task add mail").code(0).out, "#1 added, ready\n");
}

#[test]
fn a_server_that_never_answers_holds_nobody() {
    let desk = Desk::bare();
    for scheme in ["postgres", "mysql"] {
        // It accepts connections by its backlog and says nothing, like a server that was stopped.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://u@127.0.0.1:{}/d", silent.local_addr().unwrap().port());
        let began = SystemClock.lease_now();
        let said = desk.args(&["status", "--database-url", &url, "--timeout", "700ms"]).code(69);
        assert!(said.err.contains("no answer within 0s while connecting (--timeout)"), "{}", said.err);
        let check = desk.check(&format!("-t 700ms -m latency --database-url {url}")).code(3);
        assert_eq!(
            check.out,
            format!(
                "REKINDLE LATENCY UNKNOWN - timeout after 0.7s while connecting\nnext: rekindle --database-url {url} doctor\n"
            )
        );
        let check = desk.check(&format!("-t 700ms --database-url {url}")).code(2);
        assert_eq!(
            check.out,
            format!(
                "REKINDLE CRITICAL - timeout after 0.7s while connecting\nnext: rekindle --database-url {url} doctor\n"
            )
        );
        assert!(SystemClock.lease_now().since(began) < Duration::from_secs(10));
    }
}

/// What a failed write or flush left in the log may be found there by the next recovery: nobody knows yet. A limit on
/// the size of files stands for the disk.
#[test]
fn a_commit_that_the_disk_fails_has_an_unknown_outcome() {
    let desk = Desk::new();
    desk.run("task add mail").code(0);
    // The shared memory beside the file stays, so that only the log has to grow.
    let open = SqliteDb::open(&Settings::new(DatabaseUrl::sqlite(desk.path("a.db")))).unwrap();
    let mut command = desk.command("sh");
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" task add mail --payload x";
    let said = super::said(command.args(["-c", script, env!("CARGO_BIN_EXE_rekindle")]));
    assert!(said.err.contains("disk I/O error"), "{said:?}");
    assert!(said.err.contains("the outcome of \"add tasks\" is not known"), "{said:?}");
    assert_eq!(said.code, 69, "{said:?}");
    drop(open);
}

/// The restore that is done wrong most often: the copy beside the old log.
#[test]
fn a_damaged_file_says_what_must_not_lie_beside_a_copy() {
    let desk = Desk::new();
    std::fs::write(desk.path("a.db"), "no database at all, but as long as one\n".repeat(500)).unwrap();
    let said = desk.run("task list").code(78);
    assert!(said.err.contains("the -wal and -shm files of the old one must not lie beside it"), "{said:?}");
}
