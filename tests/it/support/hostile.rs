//! Databases whose servers are set up by somebody who never thought of rekindle: a user without any special right, and
//! settings that change what statements mean, how long they may take, and in which language they fail.

use std::sync::OnceLock;

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, MysqlConnection, PgConnection};
use rekindle::config::DatabaseUrl;
use rekindle::store::{Settings, open};

use super::{mariadb, postgres};

/// A user with no right but that of owning a database.
const PLAIN: &str = "rekindle_it_plain";

/// What is set for each database. Each is a value that some server somewhere has, and none is one that takes a
/// database out of service (`default_transaction_read_only` does).
const POSTGRES: [&str; 20] = [
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "statement_timeout = '20ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "standard_conforming_strings = off",
    "escape_string_warning = on",
    "array_nulls = off",
    "transform_null_equals = on",
    "bytea_output = 'escape'",
    "extra_float_digits = 0",
    "timezone = 'Asia/Kathmandu'",
    "datestyle = 'SQL, DMY'",
    "intervalstyle = 'sql_standard'",
    "client_encoding = 'LATIN1'",
    "plan_cache_mode = 'force_generic_plan'",
    "from_collapse_limit = 1",
    "join_collapse_limit = 1",
    "synchronous_commit = off",
    "quote_all_identifiers = on",
];

/// Since PostgreSQL 14.
const IDLE: &str = "idle_session_timeout = '300ms'";

/// A language, where the server has it (`scripts/databases` makes it where it can).
const LANGUAGE: &str = "lc_messages = 'de_DE.UTF-8'";

/// With the schema, migrated by the plain user under these very settings.
pub fn postgres_migrated(server: &str) -> postgres::Database {
    static TEMPLATE: OnceLock<String> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let database = postgres_empty(server);
        open(vec![database.settings.clone()], vec![database.settings.clone()], 2).unwrap().migrate().unwrap();
        let name = database.name.clone();
        // It is copied by all tests of this process; the next process drops it.
        std::mem::forget(database);
        name
    });
    postgres_over(server, template)
}

/// Without any table.
pub fn postgres_empty(server: &str) -> postgres::Database {
    postgres_over(server, "template0")
}

fn postgres_over(server: &str, template: &str) -> postgres::Database {
    make_plain(server);
    let database = postgres::Database::create(server, template);
    let mut admin = PgConnection::establish(server).unwrap();
    let name = &database.name;
    admin.batch_execute(&format!("ALTER DATABASE {name} OWNER TO {PLAIN}")).unwrap();
    for setting in POSTGRES {
        admin.batch_execute(&format!("ALTER DATABASE {name} SET {setting}")).unwrap();
    }
    for setting in [IDLE, LANGUAGE] {
        if let Err(error) = admin.batch_execute(&format!("ALTER DATABASE {name} SET {setting}")) {
            println!("left out: {setting}: {error}");
        }
    }
    plain(database, server)
}

/// A database that cannot keep every text.
pub fn postgres_latin1(server: &str) -> postgres::Database {
    make_plain(server);
    let database = postgres::Database::create(server, "template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    let mut admin = PgConnection::establish(server).unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {} OWNER TO {PLAIN}", database.name)).unwrap();
    plain(database, server)
}

fn plain(mut database: postgres::Database, server: &str) -> postgres::Database {
    let (_, place) = server.rsplit_once('@').unwrap();
    let (place, _) = place.rsplit_once('/').unwrap();
    let url = format!("postgres://{PLAIN}:{PLAIN}@{place}/{}", database.name);
    database.settings = Settings::new(DatabaseUrl::parse(&url).unwrap());
    database
}

fn make_plain(server: &str) {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut admin = PgConnection::establish(server).unwrap();
        // It is there where another process was faster.
        let _ = admin.batch_execute(&format!("CREATE ROLE {PLAIN} LOGIN PASSWORD '{PLAIN}'"));
    });
}

/// What every new session of a user without special rights is told first (`init_connect`); others are spared it.
const MARIADB: &str = "SET sql_mode = 'ANSI,NO_AUTO_VALUE_ON_ZERO,IGNORE_SPACE,HIGH_NOT_PRECEDENCE', \
    lc_messages = 'de_DE', lc_time_names = 'de_DE', time_zone = '+05:45', autocommit = 0, completion_type = 'CHAIN', \
    tx_isolation = 'SERIALIZABLE', innodb_lock_wait_timeout = 1, lock_wait_timeout = 1, max_statement_time = 0.02, \
    idle_transaction_timeout = 1, sql_select_limit = 3, sql_safe_updates = 1, sql_big_selects = 0, max_join_size = 1, \
    sql_auto_is_null = 1, group_concat_max_len = 4, foreign_key_checks = 0, unique_checks = 0, \
    check_constraint_checks = 0, character_set_client = latin1, character_set_results = latin1, \
    collation_connection = latin1_german1_ci, character_set_connection = latin1, net_write_timeout = 1, \
    join_cache_level = 0, in_predicate_conversion_threshold = 2";

/// A fresh database, whose user's sessions begin so.
pub fn mariadb(server: &str, database: fn(&str) -> mariadb::Database) -> mariadb::Database {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut admin = MysqlConnection::establish(server).unwrap();
        let user = format!("'{PLAIN}'@'127.0.0.1'");
        admin.batch_execute(&format!("CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{PLAIN}'")).unwrap();
        admin.batch_execute(&format!("GRANT ALL ON `rekindle\\_it\\_%`.* TO {user}")).unwrap();
        admin.batch_execute(&format!("SET GLOBAL init_connect = \"{MARIADB}\"")).unwrap();
    });
    let mut database = database(server);
    let (_, place) = server.rsplit_once('@').unwrap();
    let (place, _) = place.rsplit_once('/').unwrap();
    let url = format!("mysql://{PLAIN}:{PLAIN}@{place}/{}", database.name);
    database.settings = Settings::new(DatabaseUrl::parse(&url).unwrap());
    database
}
