//! A database user who has what an engine needs, and may lose a right of it.

use rekindle::config::Backend;
use rekindle::store::Settings;
use rekindle::store::db::Db;
use rekindle::store::mysql::MysqlDb;
use rekindle::store::postgres::Postgres;
use rekindle::store::sql::{Row, Sql};

/// Its user goes with it.
pub struct Login<'s> {
    settings: &'s Settings,
    user: String,
    /// The database by way of this user.
    pub url: String,
}

impl<'s> Login<'s> {
    /// With every right on every table.
    pub fn new(settings: &'s Settings) -> Self {
        let name = format!("rekindle_it_{:08x}", fastrand::u32(..));
        let own = settings.url.expose().to_string();
        let (scheme, place) = (own.split_once("://").unwrap().0, own.rsplit_once('@').unwrap().1);
        let is_mysql = settings.url.backend() == Backend::Mysql;
        let user = if is_mysql { format!("{name}@'127.0.0.1'") } else { name.clone() };
        let login = Self { settings, user, url: format!("{scheme}://{name}:p@{place}") };
        let user = &login.user;
        if is_mysql {
            login.run(&format!("CREATE USER {user} IDENTIFIED BY 'p'"));
            let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()";
            for mut row in login.rows(tables) {
                login.run(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {user}", row.text()));
            }
        } else {
            login.run(&format!("CREATE ROLE {user} LOGIN PASSWORD 'p'"));
            login.run(&format!("GRANT USAGE ON SCHEMA public TO {user}"));
            login.run(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}"));
        }
        login
    }

    /// Gives back what was taken, `DELETE on task` for example.
    pub fn grant(&self, right: &str) {
        self.run(&format!("GRANT {right} TO {}", self.user));
    }

    /// Takes a right away.
    pub fn revoke(&self, right: &str) {
        self.run(&format!("REVOKE {right} FROM {}", self.user));
    }

    fn run(&self, sql: &str) {
        self.rows(sql);
    }

    fn rows(&self, text: &str) -> Vec<Row> {
        let sql = Sql { text: text.into(), binds: Vec::new() };
        let is_read = text.starts_with("SELECT");
        let on = |db: &mut dyn Db| match is_read {
            true => db.query("a test", &sql).unwrap(),
            false => db.execute("a test", &sql).map(|_| Vec::new()).unwrap(),
        };
        match self.settings.url.backend() {
            Backend::Mysql => on(&mut MysqlDb::open(self.settings).unwrap()),
            _ => on(&mut Postgres::open(self.settings).unwrap()),
        }
    }
}

impl Drop for Login<'_> {
    fn drop(&mut self) {
        if self.settings.url.backend() != Backend::Mysql {
            self.run(&format!("DROP OWNED BY {}", self.user));
        }
        let word = if self.settings.url.backend() == Backend::Mysql { "USER" } else { "ROLE" };
        self.run(&format!("DROP {word} {}", self.user));
    }
}
