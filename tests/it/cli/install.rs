//! The README's lines for the administrator of a database server, run as they stand there.

use rekindle::config::DatabaseUrl;
use rekindle::store::db::Db;
use rekindle::store::mysql::MysqlDb;
use rekindle::store::postgres::Postgres;
use rekindle::store::sql::Sql;
use rekindle::store::{Settings, open};

use super::Desk;
use crate::support::{mariadb, postgres};

/// The SQL block of the README whose first line begins like this.
fn block(first: &str) -> Vec<String> {
    let readme = include_str!("../../../README.md");
    let blocks = readme.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let block = blocks.into_iter().find(|block| block.starts_with(first)).unwrap_or_else(|| panic!("{first} ..."));
    block.lines().map(str::to_owned).collect()
}

/// A server with a database of its own, gone with the test.
struct Site {
    admin: String,
    name: String,
}

impl Site {
    fn new(admin: &str) -> Self {
        Self { admin: admin.to_owned(), name: format!("rekindle_it_{:08x}", fastrand::u32(..)) }
    }

    fn is_postgres(&self) -> bool {
        self.admin.starts_with("postgres")
    }

    /// The same server, as another user or in another database.
    fn url(&self, user: Option<&str>, database: &str) -> String {
        let (scheme, rest) = self.admin.split_once("://").unwrap();
        let (login, place) = rest.rsplit_once('@').unwrap();
        let (hosts, tail) = place.split_once('/').unwrap();
        let query = tail.split_once('?').map_or_else(String::new, |(_, query)| format!("?{query}"));
        let login = user.map_or_else(|| login.to_owned(), |user| format!("{user}:choose-one"));
        format!("{scheme}://{login}@{hosts}/{database}{query}")
    }

    /// As the administrator, in this database.
    fn run(&self, url: &str, line: &str) {
        let settings = Settings::new(DatabaseUrl::parse(url).unwrap());
        let sql = Sql { text: line.trim_end_matches(';').to_owned(), binds: Vec::new() };
        match self.is_postgres() {
            true => Postgres::open(&settings).unwrap().execute("a test", &sql).map(drop),
            false => MysqlDb::open(&settings).unwrap().execute("a test", &sql).map(drop),
        }
        .unwrap_or_else(|error| panic!("{line}: {}", error.chain()));
    }

    /// A line of the README with names of this test.
    fn line(&self, line: &str) -> String {
        line.replace("rekindle", &self.name)
    }

    fn owner(&self) -> String {
        self.name.clone()
    }

    fn engine(&self) -> String {
        format!("{}_engine", self.name)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let word = if self.is_postgres() { "ROLE" } else { "USER" };
        let force = if self.is_postgres() { " WITH (FORCE)" } else { "" };
        self.run(&self.admin, &format!("DROP DATABASE IF EXISTS {}{force}", self.name));
        for user in [self.engine(), self.owner()] {
            self.run(&self.admin, &format!("DROP {word} IF EXISTS {user}"));
        }
    }
}

/// Owner migrates; the engine's role may do what an engine does, and not change the schema.
fn holds(site: &Site, owner_lines: &[String], engine_lines: &[String]) {
    for line in owner_lines {
        site.run(&site.admin, &site.line(line));
    }
    let desk = Desk::bare();
    let as_owner = desk.url_file(&site.url(Some(&site.owner()), &site.name));
    desk.args(&["--database-url-file", &as_owner, "db", "migrate"]).code(0);
    // Before it has its rights, each refusal names the statement.
    let (create, grants) = engine_lines.split_first().unwrap();
    site.run(&site.admin, &site.line(create));
    let url = site.url(Some(&site.engine()), &site.name);
    let as_engine = desk.url_file(&url);
    if site.is_postgres() {
        let refused = desk.args(&["--database-url-file", &as_engine, "status"]).code(77);
        assert!(refused.err.starts_with("error[E320]: the database user lacks a right\n"), "{refused:?}");
        let grant =
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {};", site.engine());
        assert!(refused.err.contains(&grant), "{refused:?}");
    }
    for line in grants {
        site.run(&site.url(None, &site.name), &site.line(line));
    }
    let settings = Settings::new(DatabaseUrl::parse(&url).unwrap());
    open(vec![settings.clone()], vec![settings], 1).unwrap().check_rights().unwrap();
    desk.args(&["--database-url-file", &as_engine, "task", "add", "mail"]).code(0);
    let doctor = desk.args(&["--database-url-file", &as_engine, "doctor"]);
    assert!(doctor.out.contains("the database user may do all that an engine does"), "{doctor:?}");
}

#[test]
fn the_lines_of_the_readme_are_enough_on_postgres() {
    let Some(server) = postgres::server() else { return println!("skipped: REKINDLE_TEST_POSTGRES is not set") };
    let owner = block("CREATE ROLE rekindle LOGIN");
    holds(&Site::new(&server), &owner, &block("CREATE ROLE rekindle_engine"));
    // In a database that somebody else owns a plain role may not make tables, and hears what would help.
    let site = Site::new(&server);
    site.run(&site.admin, &site.line(&owner[0]));
    site.run(&site.admin, &site.line("CREATE DATABASE rekindle;"));
    let here = site.url(None, &site.name);
    site.run(&here, "REVOKE CREATE ON SCHEMA public FROM PUBLIC;");
    let desk = Desk::bare();
    let url = desk.url_file(&site.url(Some(&site.owner()), &site.name));
    let refused = desk.args(&["--database-url-file", &url, "db", "migrate"]).code(77);
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA public TO {};", site.owner());
    assert!(refused.err.starts_with("error[E320]: ") && refused.err.contains(&grant), "{refused:?}");
    let program = env!("CARGO_BIN_EXE_rekindle-engine");
    let engine = super::said(desk.command(program).args(["--database-url-file", &url])).code(77);
    assert!(engine.err.contains(&grant), "{engine:?}");
    // Either the grant, or a schema of its own, as the README says.
    let readme = include_str!("../../../README.md");
    assert!(readme.contains("`CREATE SCHEMA rekindle AUTHORIZATION rekindle;`"));
    site.run(&here, &site.line("CREATE SCHEMA rekindle AUTHORIZATION rekindle;"));
    desk.args(&["--database-url-file", &url, "db", "migrate"]).code(0);
}

#[test]
fn the_lines_of_the_readme_are_enough_on_mariadb() {
    let Some(server) = mariadb::server() else { return println!("skipped: REKINDLE_TEST_MARIADB is not set") };
    let site = Site::new(&server);
    holds(&site, &block("CREATE DATABASE rekindle"), &block("CREATE USER rekindle_engine"));
    let desk = Desk::bare();
    let url = desk.url_file(&site.url(Some(&site.owner()), &site.name));
    // The grant is in backticks, whatever the server says of the user's host.
    site.run(&site.admin, &site.line("REVOKE ALL ON rekindle.* FROM rekindle;"));
    site.run(&site.admin, &site.line("GRANT INSERT ON rekindle.* TO rekindle;"));
    let refused = desk.args(&["--database-url-file", &url, "status"]).code(77);
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON `{}`.* TO '{}'@", site.name, site.owner());
    assert!(refused.err.contains(&grant), "{refused:?}");
}
