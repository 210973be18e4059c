//! The address of a database. What is shown never holds the password: [`DatabaseUrl`] has no way to
//! print it but [`DatabaseUrl::expose`], and no error of this file repeats what it was given.

use std::fmt;
use std::path::{Path, PathBuf};

use super::backend::Backend;
use super::secret::{self, MASK};
use super::url_error::{MYSQL_PARAMETERS, UrlError};

/// The address of a database, with or without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(Parts);

#[derive(Clone, PartialEq, Eq)]
enum Parts {
    Sqlite(PathBuf),
    Server { backend: Backend, user: Option<String>, password: Option<String>, hosts: String, tail: String },
}

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
        let has_name = |key: &str| secret::decode(key) == name;
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| has_name(key))).map(|(_, value)| value)
    }

    /// The same address with this parameter, unless it sets it itself. The value is plain text: whatever characters
    /// it has, it becomes one value.
    #[must_use]
    pub fn with_default(&self, name: &str, value: &str) -> Self {
        let mut parts = self.0.clone();
        if let Parts::Server { tail, .. } = &mut parts
            && self.parameter(name).is_none()
        {
            let sign = if tail.contains('?') { '&' } else { '?' };
            tail.push_str(&format!("{sign}{name}={}", secret::encode(value.as_bytes())));
        }
        Self(parts)
    }

    /// One address for each host that is named. One that says itself which of them it means stays as it is.
    pub fn split_hosts(&self) -> Vec<Self> {
        const CHOOSES: [&str; 4] = ["target_session_attrs", "load_balance_hosts", "hostaddr", "port"];
        match &self.0 {
            Parts::Server { hosts, .. }
                if hosts.contains(',') && CHOOSES.iter().all(|name| self.parameter(name).is_none()) =>
            {
                let only = |host: &str| {
                    let mut parts = self.0.clone();
                    if let Parts::Server { hosts, .. } = &mut parts {
                        host.clone_into(hosts);
                    }
                    Self(parts)
                };
                hosts.split(',').map(only).collect()
            }
            _ => vec![self.clone()],
        }
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

    /// Who logs in, if the URL says it before the host.
    pub fn user(&self) -> Option<String> {
        let Parts::Server { user, .. } = &self.0 else { return None };
        user.as_deref().filter(|user| !user.is_empty()).map(|user| secret::decode(user).into_owned())
    }

    /// The database's name on its server.
    pub fn database(&self) -> Option<String> {
        let Parts::Server { tail, .. } = &self.0 else { return None };
        let name = tail.split(['?', '#']).next()?.trim_start_matches('/');
        (!name.is_empty()).then(|| secret::decode(name).into_owned())
    }

    /// The first host and its port, if a network host is named.
    pub fn host_port(&self) -> Option<(String, u16)> {
        let Parts::Server { backend, hosts, .. } = &self.0 else { return None };
        let first = hosts.split(',').next().unwrap_or_default();
        let (host, port) = split_port(first);
        let port = port.and_then(|p| p.parse().ok()).unwrap_or(backend.port());
        (!host.is_empty()).then(|| (host.trim_matches(['[', ']']).to_owned(), port))
    }

    /// Whether the password of the login is in it.
    pub fn has_password(&self) -> bool {
        match &self.0 {
            Parts::Sqlite(_) => false,
            Parts::Server { password, tail, .. } => password.is_some() || secret::has_password(tail),
        }
    }

    /// Whether anything secret is in it, so that nobody but its user may read it.
    pub fn has_secret(&self) -> bool {
        match &self.0 {
            Parts::Sqlite(_) => false,
            Parts::Server { password, tail, .. } => password.is_some() || secret::has_secret(tail),
        }
    }

    /// Takes the secrets of this URL out of a text that a client library wrote, in whatever form.
    pub fn redact(&self, text: &str) -> String {
        let Parts::Server { password, tail, .. } = &self.0 else { return text.to_owned() };
        let text = text.replace(&self.expose(), &self.to_string());
        secret::without(&text, &secret::forms(password.as_deref(), tail))
    }

    /// The same address with this password, unless it has one or needs none.
    #[must_use]
    pub fn with_password(&self, given: &str) -> Self {
        let mut parts = self.0.clone();
        if let Parts::Server { password, .. } = &mut parts
            && !self.has_password()
        {
            *password = Some(secret::encode(given.as_bytes()));
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
        f.pad(&self.render(|_| MASK.to_owned(), secret::mask_query))
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
    // An '@' behind the hosts is most likely the one that ends a password with a / or ? in it, whose rest
    // would be shown as a path or a parameter.
    if tail.contains(['@', '#']) {
        return Err(UrlError::Encoding);
    }
    if !secret::is_encoded_well(rest) {
        return Err(UrlError::Percent);
    }
    if !hosts.split(',').all(|host| host.matches('[').count() == host.matches(']').count()) {
        return Err(UrlError::Brackets);
    }
    if !ports_fit(hosts) {
        return Err(UrlError::Port);
    }
    check_target(backend, hosts, path)?;
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    if query.split('&').any(|pair| !pair.is_empty() && pair.matches('=').count() != 1) {
        return Err(UrlError::Pair);
    }
    if backend == Backend::Mysql {
        check_parameters(query)?;
    }
    let (user, password) = match userinfo.map(|u| u.split_once(':').map_or((u, None), |(u, p)| (u, Some(p)))) {
        Some((user, password)) => (Some(user.replace('@', "%40")), password.map(secret::encode_anew)),
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

fn check_parameters(query: &str) -> Result<(), UrlError> {
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

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
