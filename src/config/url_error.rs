//! Why a database URL is refused, in words that do not repeat it.

use super::guess;

/// Why a URL was refused. None of these repeats the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Nothing there.
    #[error("the database URL is empty")]
    Empty,
    /// No scheme, or one of another system.
    #[error("the database URL must start with sqlite:, postgres:// or mysql://")]
    Scheme,
    /// Spaces, newlines and the like.
    #[error("the database URL holds white space or control characters; write them as %20 and so on")]
    Blank,
    /// `sqlite:` alone.
    #[error("the SQLite URL names no file; write for example sqlite:///var/lib/rekindle/rekindle.db")]
    NoFile,
    /// `:memory:` is private to one connection.
    #[error("a SQLite database in memory belongs to one connection, so no engine could share it; name a file")]
    Memory,
    /// `sqlite://relative`.
    #[error("after sqlite:// an absolute path must follow (three slashes): sqlite:///var/lib/rekindle/rekindle.db")]
    SqliteHost,
    /// `?mode=ro` and the like.
    #[error("a SQLite URL takes no options (found '?')")]
    SqliteOptions,
    /// A `/`, `?` or `#` in user or password cuts the URL in two.
    #[error("user and password must be percent-encoded in the database URL (/ as %2F, ? as %3F, # as %23, @ as %40)")]
    Encoding,
    /// `%zz`, `%4` or `%00`: client libraries refuse it, and quote what may be a password.
    #[error("each % in the database URL must stand before two hexadecimal digits other than 00; a % itself is %25")]
    Percent,
    /// `?name` or `?name=a=b`.
    #[error("behind the ? of the database URL must stand name=value, joined by &; a = in a value is %3D")]
    Pair,
    /// `[::1` and the like.
    #[error("an IPv6 address in the database URL stands in square brackets: [::1]:5432")]
    Brackets,
    /// Not a number from 1 to 65535.
    #[error("the port in the database URL is not a number from 1 to 65535")]
    Port,
    /// No host, which MySQL needs.
    #[error("the database URL names no host")]
    NoHost,
    /// Several hosts in one URL, or more than one name after them.
    #[error("a mysql:// URL names one host and one database: mysql://USER@HOST/DATABASE; give several URLs as a list")]
    OneHost,
    /// One that nobody would obey: whoever asked for TLS must not get a plain connection.
    #[error("a mysql:// URL takes no parameter {0} (known: {known}){hint}", known = MYSQL_PARAMETERS.join(", "), hint = guess::hint(.0, MYSQL_PARAMETERS))]
    Parameter(String),
    /// Certificates alone do not ask for TLS.
    #[error("ssl_ca, ssl_cert and ssl_key need ssl_mode=required in the same database URL")]
    NoSslMode,
    /// No database after the host.
    #[error("the database URL names no database; append /rekindle")]
    NoDatabase,
}

/// What may stand behind the question mark of a `mysql://` URL.
pub(super) const MYSQL_PARAMETERS: [&str; 5] = ["ssl_mode", "ssl_ca", "ssl_cert", "ssl_key", "unix_socket"];
