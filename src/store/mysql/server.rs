//! What the server is: its product and version, its session settings, its identity, and what could lose
//! commits.

use std::collections::BTreeMap;

use super::MysqlDb;
use super::connect::{self, Tls};
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::{Cause, StoreError};
use crate::store::pool::{SERVER_PATIENCE, Settings};
use crate::store::sql::Sql;
use crate::store::types::{ServerConnections, ServerInfo};

/// Which of the two it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Product {
    /// MariaDB.
    #[default]
    MariaDb,
    /// MySQL.
    Mysql,
}

impl Product {
    const fn word(self) -> &'static str {
        match self {
            Self::MariaDb => "MariaDB",
            Self::Mysql => "MySQL",
        }
    }

    /// The first release with SKIP LOCKED and JSON_TABLE (and, on MySQL, a collation without padding).
    const fn oldest(self) -> (u32, u32, u32) {
        match self {
            Self::MariaDb => (10, 6, 0),
            Self::Mysql => (8, 0, 17),
        }
    }
}

/// What a connection has to know of its server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// Which one.
    pub product: Product,
    version: (u32, u32, u32),
    has_uid: bool,
    is_galera: bool,
    /// `max_allowed_packet`: a statement with more ends the connection, and says nothing.
    packet: usize,
}

type Variables = BTreeMap<String, String>;

fn variables(db: &mut MysqlDb, step: &'static str, names: &[&str]) -> StoreResult<Variables> {
    let list: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    let text = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})", list.join(", "));
    let rows = db.query(step, &Sql { text, binds: Vec::new() })?;
    Ok(rows.into_iter().map(|mut row| (row.text().to_ascii_lowercase(), row.text())).collect())
}

fn is_on(value: Option<&String>) -> bool {
    value.is_some_and(|v| !matches!(v.to_ascii_uppercase().as_str(), "OFF" | "0" | "NO" | ""))
}

/// One of them is enough. MariaDB 12 knows four words for the first, all but OFF take writes away.
const READ_ONLY: [&str; 3] = ["read_only", "super_read_only", "innodb_read_only"];

/// Whether the server takes writes now; who may write in spite of that is not asked for.
pub fn takes_writes(db: &mut MysqlDb) -> StoreResult<bool> {
    let found = variables(db, "look for the server that takes writes", &READ_ONLY)?;
    Ok(!READ_ONLY.iter().any(|name| is_on(found.get(*name))))
}

/// Before anything is asked: a server may be set to give no more than some rows, to answer nothing that might read
/// many or takes long, and in any language. `DEFAULT` would be its own setting. Nobody knows yet which product it is:
/// each reads its own of the two comments.
fn first_words(settings: &Settings) -> String {
    let ms = settings.statement_timeout.as_millis().max(1);
    format!(
        "SET SESSION sql_select_limit = 18446744073709551615, sql_big_selects = 1, lc_messages = 'en_US' \
         /*M!100600 , max_statement_time = {}.{:03} */ /*!80000 , max_execution_time = {ms} */",
        ms / 1_000,
        ms % 1_000
    )
}

const LOOKED_AT: [&str; 7] =
    ["version", "server_uid", "wsrep_on", "max_allowed_packet", READ_ONLY[0], READ_ONLY[1], READ_ONLY[2]];

/// Looks at a server that has just let us in, and turns away what cannot be used.
pub fn look(db: &mut MysqlDb, settings: &Settings) -> StoreResult<Server> {
    db.batch("set up the session", &first_words(settings))?;
    let found = variables(db, "look at the server", &LOOKED_AT)?;
    let text = found.get("version").cloned().unwrap_or_default();
    let server = Server {
        product: if text.to_ascii_lowercase().contains("mariadb") { Product::MariaDb } else { Product::Mysql },
        version: parse_version(&text),
        has_uid: found.contains_key("server_uid"),
        is_galera: is_on(found.get("wsrep_on")),
        packet: found.get("max_allowed_packet").and_then(|text| text.parse().ok()).unwrap_or(1 << 20),
    };
    if server.version < server.product.oldest() {
        let (name, (major, minor, patch)) = (server.product.word(), server.product.oldest());
        return Err(StoreError::Refused(format!(
            "the server at {} is {name} {text}; {name} {major}.{minor}.{patch} or newer is needed",
            settings.place()
        )));
    }
    if settings.wants_writes() && READ_ONLY.iter().any(|name| is_on(found.get(*name))) {
        // Another place of the list may be the one that takes writes by now.
        let source = Cause(format!("{} is read-only", settings.place()));
        return Err(StoreError::ReadOnly { step: "connect", source });
    }
    if connect::tls(settings)? == Tls::Required && !is_encrypted(db)? {
        return Err(StoreError::Refused(format!(
            "the connection to {} is not encrypted, but its URL says ssl_mode=required: add ssl_ca=FILE",
            settings.place()
        )));
    }
    Ok(server)
}

fn is_encrypted(db: &mut MysqlDb) -> StoreResult<bool> {
    let sql = Sql { text: "SHOW SESSION STATUS LIKE 'Ssl_cipher'".into(), binds: Vec::new() };
    let mut rows = db.query("look at the connection", &sql)?;
    Ok(rows.first_mut().is_some_and(|row| {
        row.text();
        !row.text().is_empty()
    }))
}

fn parse_version(text: &str) -> (u32, u32, u32) {
    // Replication once made MariaDB call itself "5.5.5-10.6.12-MariaDB".
    let text = text.strip_prefix("5.5.5-").unwrap_or(text);
    let mut numbers = text.split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl Server {
    /// Whether it is a node of a Galera cluster.
    pub const fn is_galera(&self) -> bool {
        self.is_galera
    }

    /// The most bytes that one statement may bring, with room for what stands around them.
    pub const fn bytes_max(&self) -> usize {
        match self.packet {
            // Not looked at yet.
            0 => usize::MAX,
            packet => packet - packet / 16,
        }
    }

    /// The statements that set a session up; each setting only where the server knows it.
    pub fn session(&self, settings: &Settings) -> String {
        let ms = settings.statement_timeout.as_millis().max(1);
        let (lock_s, idle_s) = (settings.statement_timeout.as_secs().max(1), settings.idle_timeout.as_secs().max(1));
        let mut words = vec![
            "autocommit = 1".to_owned(),
            // COMMIT ends a transaction, begins none and keeps the session.
            "completion_type = 'NO_CHAIN'".into(),
            // What somebody set for people at a prompt.
            "sql_safe_updates = 0, sql_big_selects = 1, sql_auto_is_null = 0".into(),
            "foreign_key_checks = 1, unique_checks = 1, default_storage_engine = InnoDB".into(),
            // `||` joins texts and "x" is a name, as on the other backends; what does not fit is an error.
            "sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT,ANSI_QUOTES,NO_BACKSLASH_ESCAPES'"
                .into(),
            "time_zone = '+00:00'".into(),
            "lc_messages = 'en_US'".into(),
            format!("innodb_lock_wait_timeout = {lock_s}"),
            format!("lock_wait_timeout = {lock_s}"),
            "group_concat_max_len = 1048576".into(),
            // What a cut of the network left is let go about as early as the client gives it up.
            format!("wait_timeout = {}", settings.silence.as_secs().max(2)),
            format!("net_read_timeout = {0}, net_write_timeout = {0}", SERVER_PATIENCE.as_secs()),
        ];
        match self.product {
            Product::MariaDb => {
                words.push(format!("max_statement_time = {}.{:03}", ms / 1_000, ms % 1_000));
                words.push(format!("idle_transaction_timeout = {idle_s}"));
                words.push("check_constraint_checks = 1".into());
                // A long list of words stays one; it would become a subquery, and read the whole table.
                words.push("in_predicate_conversion_threshold = 0".into());
                // A filter would be built from all that waits or is ready, for the ten rows that are asked for.
                words.push("optimizer_switch = 'rowid_filter=off'".into());
                if self.is_galera {
                    words.push("wsrep_sync_wait = 7".into());
                }
            }
            Product::Mysql => words.push(format!("max_execution_time = {ms}")),
        }
        format!("SET SESSION {}; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE", words.join(", "))
    }

    /// For a session that waits for another one's migration.
    pub fn patient(&self, wait_s: u32) -> String {
        let limit = match self.product {
            Product::MariaDb => "max_statement_time = 0, idle_transaction_timeout = 0",
            Product::Mysql => "max_execution_time = 0",
        };
        format!("SET SESSION lock_wait_timeout = {wait_s}, {limit}")
    }

    /// An SQL expression for the identity. The state of a Galera cluster has one id on all its nodes; a server
    /// of its own is known by what it made of its host and port (`server_uid`), by what it drew at its first
    /// start (`server_uuid`), or by its host, port and directory where it is older than that.
    pub fn identity(&self) -> String {
        let parts = match (self.product, self.is_galera, self.has_uid) {
            (Product::Mysql, ..) => "'mysql:', @@global.server_uuid",
            (_, true, _) => {
                "'galera:', (SELECT variable_value FROM information_schema.global_status \
                 WHERE variable_name = 'WSREP_CLUSTER_STATE_UUID')"
            }
            (_, _, true) => "'mariadb:', @@global.server_uid",
            _ => "'mariadb:', @@global.hostname, ':', @@global.port, ':', @@global.datadir",
        };
        format!("CONVERT(CONCAT({parts}) USING utf8mb4) COLLATE utf8mb4_bin")
    }
}

/// A payload of the largest size with what stands around it, and room for the list of a batch.
const PACKET_MIN: u64 = 8 << 20;

/// See `Backend::server_info`.
pub fn info(db: &mut MysqlDb, place: String) -> StoreResult<ServerInfo> {
    let names = [
        "version",
        "innodb_flush_log_at_trx_commit",
        "sync_binlog",
        "log_bin",
        "innodb_doublewrite",
        "binlog_format",
        "read_only",
        "super_read_only",
        "innodb_read_only",
        "max_allowed_packet",
        "max_prepared_stmt_count",
        "max_connections",
    ];
    let found = variables(db, "read the server's settings", &names)?;
    let identity = format!("SELECT {}", db.server.identity());
    let identity = db.query("read the identity", &Sql { text: identity, binds: Vec::new() })?;
    let version = found.get("version").cloned().unwrap_or_default();
    let read_only = READ_ONLY.iter().any(|name| is_on(found.get(*name)));
    Ok(ServerInfo {
        product: format!("{} {}", db.server.product.word(), version.split('-').next().unwrap_or_default()),
        place,
        identity: identity.into_iter().next().map_or_else(String::new, |mut row| row.text()),
        durability_problems: problems(db.server.product, &found),
        read_only,
        nobody_writes: read_only,
        connections: connections(db, &found)?,
    })
}

fn connections(db: &mut MysqlDb, found: &Variables) -> StoreResult<Option<ServerConnections>> {
    let sql = Sql { text: "SHOW GLOBAL STATUS LIKE 'Threads_connected'".into(), binds: Vec::new() };
    let open = db.query("count the connections", &sql)?.first_mut().and_then(|row| {
        row.text();
        row.text().parse().ok()
    });
    let limit = found.get("max_connections").and_then(|text| text.parse().ok());
    Ok(limit.zip(open).map(|(limit, open)| ServerConnections { limit, open }))
}

fn problems(product: Product, found: &Variables) -> Vec<String> {
    let text = |name: &str| found.get(name).map_or("", String::as_str);
    let number = |name: &str| text(name).parse::<u64>().ok();
    let mut out = Vec::new();
    if number("innodb_flush_log_at_trx_commit").is_some_and(|value| value != 1) {
        out.push(format!(
            "innodb_flush_log_at_trx_commit = {}: a crash can lose commits",
            text("innodb_flush_log_at_trx_commit")
        ));
    }
    if is_on(found.get("log_bin")) {
        if number("sync_binlog").is_some_and(|value| value != 1) {
            out.push(format!("sync_binlog = {}: a crash can lose commits of replicas", text("sync_binlog")));
        }
        if text("binlog_format").eq_ignore_ascii_case("STATEMENT") {
            out.push("binlog_format = STATEMENT: nothing can be written with it; set ROW or MIXED".into());
        }
    }
    if !text("innodb_doublewrite").is_empty() && text("innodb_doublewrite").eq_ignore_ascii_case("OFF") {
        out.push("innodb_doublewrite = OFF: a power cut can tear pages".into());
    }
    if number("max_allowed_packet").is_some_and(|value| value < PACKET_MIN) {
        out.push(format!(
            "max_allowed_packet = {}: payloads of 1 MiB need {PACKET_MIN} in batches",
            text("max_allowed_packet")
        ));
    }
    if number("max_prepared_stmt_count").is_some_and(|value| value < 1_000) {
        let name = product.word();
        out.push(format!(
            "max_prepared_stmt_count = {}: each connection keeps its statements prepared ({name}'s default is 16382)",
            text("max_prepared_stmt_count")
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn versions_are_read_whatever_stands_behind_them() {
        assert_eq!(parse_version("10.11.19-MariaDB-0+deb12u1"), (10, 11, 19));
        assert_eq!(parse_version("5.5.5-10.6.12-MariaDB"), (10, 6, 12));
        assert_eq!(parse_version("8.0.36"), (8, 0, 36));
        assert_eq!(parse_version(""), (0, 0, 0));
        assert!(parse_version("10.5.9-MariaDB") < Product::MariaDb.oldest());
    }

    #[test]
    fn each_server_is_set_only_what_it_knows() {
        let url = crate::config::DatabaseUrl::parse("mysql://h/d").unwrap();
        let settings = Settings { idle_timeout: Duration::from_millis(1_900), ..Settings::new(url) };
        let maria = Server { is_galera: true, ..Server::default() };
        let text = maria.session(&settings);
        assert!(text.contains("idle_transaction_timeout = 1,") && text.contains("wsrep_sync_wait = 7"), "{text}");
        assert!(text.contains("max_statement_time = 10.000") && !text.contains("max_execution_time"), "{text}");
        let text = Server { product: Product::Mysql, ..Server::default() }.session(&settings);
        assert!(text.contains("max_execution_time = 10000") && !text.contains("idle_transaction_timeout"), "{text}");
        assert!(!text.contains("in_predicate") && !text.contains("wsrep"), "{text}");
    }

    #[test]
    fn settings_that_could_lose_commits_are_named() {
        let all_well = [
            ("innodb_flush_log_at_trx_commit", "1"),
            ("log_bin", "ON"),
            ("sync_binlog", "1"),
            ("binlog_format", "ROW"),
            ("innodb_doublewrite", "ON"),
            ("max_allowed_packet", "16777216"),
            ("max_prepared_stmt_count", "16382"),
        ];
        let with = |name: &str, value: &str| {
            let mut found: Variables = all_well.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
            found.insert(name.into(), value.into());
            problems(Product::MariaDb, &found)
        };
        assert_eq!(with("log_bin", "ON"), Vec::<String>::new());
        for (name, value) in [
            ("innodb_flush_log_at_trx_commit", "2"),
            ("sync_binlog", "0"),
            ("binlog_format", "STATEMENT"),
            ("innodb_doublewrite", "OFF"),
            ("max_allowed_packet", "1048576"),
            ("max_prepared_stmt_count", "100"),
        ] {
            let found = with(name, value);
            assert!(found.len() == 1 && found[0].starts_with(name), "{name}: {found:?}");
        }
    }
}
