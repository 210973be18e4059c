//! The address of a database. What is shown never holds the password: [`DatabaseUrl`] has no way to
//! print it but [`DatabaseUrl::expose`], and no error of this file repeats what it was given.

use std::fmt;
use std::path::{Path, PathBuf};

use super::guess;

/// Which database a URL names. All are understood here; whether one can be opened is the store's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// One file on this host.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MariaDB or MySQL.
    Mysql,
}

impl Backend {
    /// Those that this program was built with, by the features of the same names.
    pub const BUILT_IN: &'static [Self] = &[
        #[cfg(feature = "sqlite")]
        Self::Sqlite,
        #[cfg(feature = "postgres")]
        Self::Postgres,
        #[cfg(feature = "mysql")]
        Self::Mysql,
    ];

    /// What its URLs start with.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite:",
            Self::Postgres => "postgres://",
            Self::Mysql => "mysql://",
        }
    }

    /// Says what this program was built for, if this is none of it.
    pub fn missing(self) -> Option<String> {
        if Self::BUILT_IN.contains(&self) {
            return None;
        }
        let known: Vec<&str> = Self::BUILT_IN.iter().map(|backend| backend.scheme()).collect();
        let known = known.join(" and ");
        Some(format!("this program was built without support for {self} ({}); it knows {known}", self.scheme()))
    }

    /// Its name as people write it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
            Self::Mysql => "MariaDB",
        }
    }

    /// The port where none is written.
    const fn port(self) -> u16 {
        match self {
            Self::Sqlite => 0,
            Self::Postgres => 5_432,
            Self::Mysql => 3_306,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

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
    #[error("user and password must be percent-encoded in the database URL (/ as %2F, ? as %3F, # as %23)")]
    Encoding,
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
const MYSQL_PARAMETERS: [&str; 5] = ["ssl_mode", "ssl_ca", "ssl_cert", "ssl_key", "unix_socket"];

/// The address of a database, with or without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(Parts);

#[derive(Clone, PartialEq, Eq)]
enum Parts {
    Sqlite(PathBuf),
    Server { backend: Backend, user: Option<String>, password: Option<String>, hosts: String, tail: String },
}

/// What stands where a password was.
const MASK: &str = "***";

impl DatabaseUrl {
    /// Takes a URL: `sqlite:PATH`, `sqlite:///abs`, `postgres://`, `postgresql://`, `mysql://`, `mariadb://`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(UrlError::Empty);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UrlError::Scheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "sqlite" => parse_sqlite(rest).map(Self),
            "postgres" | "postgresql" => parse_server(Backend::Postgres, rest).map(Self),
            "mysql" | "mariadb" => parse_server(Backend::Mysql, rest).map(Self),
            _ => Err(UrlError::Scheme),
        }
    }

    /// A file on this host.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Parts::Sqlite(path.into()))
    }

    /// A parameter behind the question mark, as it is written.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let Parts::Server { tail, .. } = &self.0 else { return None };
        let (_, query) = tail.split_once('?')?;
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
    }

    /// The same address without a parameter.
    #[must_use]
    pub fn without_parameter(&self, name: &str) -> Self {
        let mut parts = self.0.clone();
        if let Parts::Server { tail, .. } = &mut parts
            && let Some((path, query)) = tail.split_once('?')
        {
            let is_other = |pair: &&str| pair.split('=').next() != Some(name);
            let rest: Vec<&str> = query.split('&').filter(is_other).collect();
            *tail = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
        }
        Self(parts)
    }

    /// Which database it is.
    pub const fn backend(&self) -> Backend {
        match &self.0 {
            Parts::Sqlite(_) => Backend::Sqlite,
            Parts::Server { backend, .. } => *backend,
        }
    }

    /// The file, if it is SQLite.
    pub fn sqlite_path(&self) -> Option<&Path> {
        match &self.0 {
            Parts::Sqlite(path) => Some(path),
            Parts::Server { .. } => None,
        }
    }

    /// The first host and its port, if a network host is named.
    pub fn host_port(&self) -> Option<(String, u16)> {
        let Parts::Server { backend, hosts, .. } = &self.0 else { return None };
        let first = hosts.split(',').next().unwrap_or_default();
        let (host, port) = split_port(first);
        let port = port.and_then(|p| p.parse().ok()).unwrap_or(backend.port());
        (!host.is_empty()).then(|| (host.trim_matches(['[', ']']).to_owned(), port))
    }

    /// Whether a password is in it.
    pub fn has_password(&self) -> bool {
        match &self.0 {
            Parts::Sqlite(_) => false,
            Parts::Server { password, tail, .. } => password.is_some() || *tail != mask_query(tail),
        }
    }

    /// The same address with this password, unless it has one or needs none.
    #[must_use]
    pub fn with_password(&self, secret: &str) -> Self {
        let mut parts = self.0.clone();
        if let Parts::Server { password, .. } = &mut parts
            && !self.has_password()
        {
            *password = Some(encode(secret));
        }
        Self(parts)
    }

    /// The URL with its password, for the one place that opens connections. Never print it.
    pub fn expose(&self) -> String {
        self.render(|password| password.to_owned(), str::to_owned)
    }

    fn render(&self, show_password: impl Fn(&str) -> String, show_tail: impl Fn(&str) -> String) -> String {
        let (backend, user, password, hosts, tail) = match &self.0 {
            Parts::Sqlite(path) => return format!("sqlite:{}", path.display()),
            Parts::Server { backend, user, password, hosts, tail } => (backend, user, password, hosts, tail),
        };
        let scheme = if *backend == Backend::Postgres { "postgres" } else { "mysql" };
        let password = password.as_ref().map(|p| format!(":{}", show_password(p))).unwrap_or_default();
        let user = user.as_deref().unwrap_or_default();
        let at = if user.is_empty() && password.is_empty() { "" } else { "@" };
        format!("{scheme}://{user}{password}{at}{hosts}{}", show_tail(tail))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.render(|_| MASK.to_owned(), mask_query))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

impl std::str::FromStr for DatabaseUrl {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

fn parse_sqlite(rest: &str) -> Result<Parts, UrlError> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some("") => return Err(UrlError::NoFile),
        Some(_) => return Err(UrlError::SqliteHost),
        None => rest,
    };
    match path {
        "" => Err(UrlError::NoFile),
        ":memory:" => Err(UrlError::Memory),
        _ if path.contains('?') => Err(UrlError::SqliteOptions),
        _ if path.chars().any(char::is_control) => Err(UrlError::Blank),
        _ => Ok(Parts::Sqlite(PathBuf::from(path))),
    }
}

fn parse_server(backend: Backend, rest: &str) -> Result<Parts, UrlError> {
    let rest = rest.strip_prefix("//").ok_or(UrlError::Scheme)?;
    if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(UrlError::Blank);
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // The last '@' ends the password, so that one which holds '@' is neither shown nor cut; libpq would
    // cut at the first, hence `expose` writes the others as %40.
    let (userinfo, hosts) = match authority.rsplit_once('@') {
        Some((userinfo, hosts)) => (Some(userinfo), hosts),
        None => (None, authority),
    };
    let path = tail.split(['?', '#']).next().unwrap_or_default();
    if path.contains('@') || tail.contains('#') || (userinfo.is_none() && tail.contains('@') && !ports_fit(hosts)) {
        return Err(UrlError::Encoding);
    }
    if !ports_fit(hosts) {
        return Err(UrlError::Port);
    }
    check_target(backend, hosts, path)?;
    if backend == Backend::Mysql {
        check_parameters(tail)?;
    }
    let (user, password) = match userinfo.map(|u| u.split_once(':').map_or((u, None), |(u, p)| (u, Some(p)))) {
        Some((user, password)) => (Some(user.replace('@', "%40")), password.map(|p| p.replace('@', "%40"))),
        None => (None, None),
    };
    Ok(Parts::Server { backend, user, password, hosts: hosts.to_owned(), tail: tail.to_owned() })
}

fn check_target(backend: Backend, hosts: &str, path: &str) -> Result<(), UrlError> {
    if backend == Backend::Mysql && hosts.is_empty() {
        return Err(UrlError::NoHost);
    }
    let name = path.trim_start_matches('/');
    if backend == Backend::Mysql && (hosts.contains(',') || name.contains('/')) {
        return Err(UrlError::OneHost);
    }
    // libpq falls back to the user's name, which is hardly ever the database that is meant.
    if path.len() < 2 { Err(UrlError::NoDatabase) } else { Ok(()) }
}

fn check_parameters(tail: &str) -> Result<(), UrlError> {
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    let keys: Vec<&str> =
        query.split('&').filter(|pair| !pair.is_empty()).filter_map(|p| p.split('=').next()).collect();
    if let Some(unknown) = keys.iter().find(|key| !MYSQL_PARAMETERS.contains(key)) {
        return Err(UrlError::Parameter((*unknown).to_owned()));
    }
    let has_file = keys.iter().any(|key| ["ssl_ca", "ssl_cert", "ssl_key"].contains(key));
    if has_file && !keys.contains(&"ssl_mode") { Err(UrlError::NoSslMode) } else { Ok(()) }
}

fn ports_fit(hosts: &str) -> bool {
    hosts.split(',').all(|host| split_port(host).1.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0)))
}

/// `host:port`, where an IPv6 address stands in brackets.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Query parameters whose values are secret.
const SECRET_PARAMETERS: [&str; 5] = ["password", "sslpassword", "passwd", "pwd", "oauth_client_secret"];

fn mask_query(tail: &str) -> String {
    let Some((path, query)) = tail.split_once('?') else { return tail.to_owned() };
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((key, _)) if SECRET_PARAMETERS.contains(&key.to_ascii_lowercase().as_str()) => format!("{key}={MASK}"),
        _ => parameter.to_owned(),
    });
    format!("{path}?{}", parameters.collect::<Vec<_>>().join("&"))
}

/// Percent-encodes everything but unreserved characters.
fn encode(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> DatabaseUrl {
        DatabaseUrl::parse(text).unwrap()
    }

    #[test]
    fn schemes_name_their_backend() {
        assert_eq!(url("sqlite:a.db").sqlite_path(), Some(Path::new("a.db")));
        assert_eq!(url("sqlite:///var/a b.db").sqlite_path(), Some(Path::new("/var/a b.db")));
        assert_eq!(url("sqlite:/var/a.db").to_string(), "sqlite:/var/a.db");
        assert_eq!(url("postgresql://h/d").backend(), Backend::Postgres);
        assert_eq!(url("mariadb://h/d").expose(), "mysql://h/d");
        assert_eq!(url("postgres:///d?host=/run/postgresql").host_port(), None);
        assert_eq!(url("postgres://u@db1,db2:5433/d").host_port(), Some(("db1".into(), 5_432)));
        assert_eq!(url("mysql://u@[::1]:3307/d").host_port(), Some(("::1".into(), 3_307)));
    }

    #[test]
    fn no_way_of_printing_shows_a_password() {
        for text in [
            "postgres://u:geheim@h/d",
            "postgres://u:a@geheim@h:5432/d",
            "postgres://:geheim@h/d",
            "postgres://u@h/d?sslmode=require&password=geheim",
            "postgres://h/d?PASSWORD=geheim&x=1",
            "mysql://u:geheim:x@h/d",
        ] {
            let url = url(text);
            assert!(url.has_password(), "{text}");
            for shown in [url.to_string(), format!("{url:?}"), format!("{url:#?}"), format!("{:?}", Some(&url))] {
                assert!(!shown.contains("geheim"), "{shown}");
            }
            assert!(url.expose().contains("geheim"));
        }
        assert_eq!(url("postgres://u:geheim@h/d").to_string(), "postgres://u:***@h/d");
        assert_eq!(url("postgres://u:a@b@h/d").expose(), "postgres://u:a%40b@h/d");
        assert_eq!(url("postgres://h/d?password=x&a=b").to_string(), "postgres://h/d?password=***&a=b");
    }

    #[test]
    fn a_parameter_is_read_and_left_out() {
        let with = url("mysql://u@h/d?ssl_mode=required&ssl_ca=/a");
        assert_eq!((with.parameter("ssl_mode"), with.parameter("ssl")), (Some("required"), None));
        assert_eq!(with.without_parameter("ssl_mode").expose(), "mysql://u@h/d?ssl_ca=/a");
        assert_eq!(with.without_parameter("ssl_mode").without_parameter("ssl_ca").expose(), "mysql://u@h/d");
        assert_eq!(url("sqlite:/a").parameter("x"), None);
    }

    #[test]
    fn a_password_from_a_file_is_inserted_only_where_none_is() {
        let with = url("postgres://u@h/d").with_password("a b@/");
        assert_eq!(with.expose(), "postgres://u:a%20b%40%2F@h/d");
        assert_eq!(with.to_string(), "postgres://u:***@h/d");
        assert_eq!(url("postgres://u:x@h/d").with_password("y").expose(), "postgres://u:x@h/d");
        assert_eq!(url("sqlite:/a").with_password("y").expose(), "sqlite:/a");
    }

    #[test]
    fn wrong_urls_are_refused_without_repeating_them() {
        for (text, error) in [
            ("", UrlError::Empty),
            ("geheim", UrlError::Scheme),
            ("oracle://u:geheim@h/d", UrlError::Scheme),
            ("postgres:geheim", UrlError::Scheme),
            ("postgres://u:ge heim@h/d", UrlError::Blank),
            ("postgres://u:geheim/x@h/d", UrlError::Encoding),
            ("postgres://u:geheim?x@h/d", UrlError::Encoding),
            ("postgres://u:geheim#x@h/d", UrlError::Encoding),
            ("postgres://h:geheim/d", UrlError::Port),
            ("postgres://h:0/d", UrlError::Port),
            ("postgres://u:geheim@h", UrlError::NoDatabase),
            ("postgres://u:geheim@h/", UrlError::NoDatabase),
            ("mysql:///d", UrlError::NoHost),
            ("mysql://u:geheim@h1,h2/d", UrlError::OneHost),
            ("mysql://u:geheim@h/d/e", UrlError::OneHost),
            ("mysql://u:geheim@h/d?ssl-mode=required", UrlError::Parameter("ssl-mode".into())),
            ("mysql://u:geheim@h/d?ssl_mode=required&tls=true", UrlError::Parameter("tls".into())),
            ("mysql://u:geheim@h/d?ssl_ca=/a.pem", UrlError::NoSslMode),
            ("sqlite:", UrlError::NoFile),
            ("sqlite://", UrlError::NoFile),
            ("sqlite://a.db", UrlError::SqliteHost),
            ("sqlite::memory:", UrlError::Memory),
            ("sqlite:/a?mode=ro", UrlError::SqliteOptions),
        ] {
            let refused = DatabaseUrl::parse(text).unwrap_err();
            assert_eq!(refused, error, "{text}");
            assert!(!format!("{refused} {refused:?}").contains("geheim"));
        }
    }
}
