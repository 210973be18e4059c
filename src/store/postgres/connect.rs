//! Connecting to PostgreSQL: what is added to the URL, what a session tells the server, and what an answer means.

use crate::config::DatabaseUrl;
use crate::store::error::{Cause, StoreError};
use crate::store::pool::{SERVER_PATIENCE, Settings};

/// How long the server believes in a client that is silent: as long as the client believes in it. By itself it would
/// keep what a cut of the network left for two hours. What older servers do not know, and those whose system cannot
/// look at a socket that way, is left out. Behind a pooler these are the pooler's sessions, and its settings.
pub(super) fn patience() -> String {
    let known = |name: &str| format!("current_setting('{name}', true) IS NOT NULL");
    format!(
        "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; \
         SET tcp_user_timeout = {}; SELECT set_config('idle_session_timeout', '0', false) WHERE {}; \
         SELECT set_config('client_connection_check_interval', '2s', false) WHERE {} AND version() LIKE '%linux%'",
        SERVER_PATIENCE.as_millis(),
        known("idle_session_timeout"),
        known("client_connection_check_interval"),
    )
}

/// The URL with the timeouts that end what a dead network left; what the URL itself says goes first.
pub(super) fn conninfo(settings: &Settings) -> String {
    let secs = settings.connect_timeout.as_secs().max(1).to_string();
    let user_timeout = settings.statement_timeout.as_millis().to_string();
    let defaults = [
        ("connect_timeout", secs.as_str()),
        ("keepalives_idle", "5"),
        ("keepalives_interval", "2"),
        ("keepalives_count", "3"),
        ("tcp_user_timeout", &user_timeout),
        ("application_name", &settings.application),
    ];
    let with_default = |url: DatabaseUrl, (key, value)| url.with_default(key, value);
    defaults.into_iter().fold(settings.url.clone(), with_default).expose()
}

pub(super) fn sort_connect(settings: &Settings, text: String) -> StoreError {
    let source = Cause(settings.redact(&one_line(&text)));
    if MALFORMED.iter().any(|words| text.contains(words)) {
        return StoreError::Refused(format!(
            "the client library does not take the URL of {}: {source}",
            settings.place()
        ));
    }
    let text = answers(&text);
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if text.contains("database \"") && text.contains("does not exist") {
        return StoreError::Refused(format!("there is no such database at {}: {source}", settings.place()));
    }
    if has(&["startup parameter"]) {
        return StoreError::Refused(format!(
            "the pooler at {} does not pass the URL's options on: {source}",
            settings.place()
        ));
    }
    if has(&DENIED) {
        return StoreError::Denied { place: settings.place(), source };
    }
    StoreError::Unreachable { place: settings.place(), source }
}

/// What was answered, without the hosts and paths that were asked: those are chosen by people and may hold any words.
fn answers(text: &str) -> String {
    let answer = |line: &str| match line.trim_start().starts_with("connection to server ") {
        true => line.rsplit_once(" failed: ").map_or(String::new(), |(_, answer)| answer.to_owned()),
        false => line.to_owned(),
    };
    text.lines().map(answer).collect::<Vec<_>>().join("\n")
}

/// What the library says of a URL that it will never take; nothing was sent.
const MALFORMED: [&str; 13] = [
    "in URI:",
    "URI query parameter",
    "percent-encoded",
    "use percent-encoded spaces",
    " value: \"",
    " invalid when ",
    "invalid integer value",
    "invalid port number",
    "invalid connection option",
    "could not match",
    "may not be used with",
    "connection info string",
    "definition of service",
];

/// A login that was refused: no restart mends it, and waiting neither.
const DENIED: [&str; 6] = [
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "role \"",
    "permission denied",
    "not permitted to log in",
];

/// The driver's advice comes in lines of its own; a log entry has one.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pooler;
    use crate::store::postgres::Postgres;

    #[test]
    fn timeouts_of_the_url_go_first() {
        let url = DatabaseUrl::parse("postgres://u:p@h/d?connect_timeout=9").unwrap();
        let text = conninfo(&Settings::new(url));
        assert!(text.contains("connect_timeout=9") && !text.contains("connect_timeout=5"));
        assert!(text.contains("tcp_user_timeout=10000"));
        let url = DatabaseUrl::parse("postgres://u:connect_timeout=@h/tcp_user_timeout=").unwrap();
        let text = conninfo(&Settings::new(url));
        assert!(text.contains("&tcp_user_timeout=10000") && text.contains("?connect_timeout=5"), "{text}");
    }

    /// libpq 17 and later refuse a blank, which is in every engine's name for the server.
    #[test]
    fn what_is_added_to_the_url_stays_one_value_whatever_it_holds() {
        for name in ["rekindle app1 prover", "a&b=c?d#e/f%20", "ä \"'\\:@[]", ""] {
            let url = DatabaseUrl::parse("postgres://u:p@h/d?sslmode=prefer").unwrap();
            let text = pooler::marked(&conninfo(&Settings { application: name.into(), ..Settings::new(url) }));
            assert!(!text.contains(|c: char| c.is_whitespace() || !c.is_ascii()), "{text}");
            let (_, query) = text.split_once('?').unwrap();
            let pairs: Vec<(String, String)> =
                query.split('&').map(|pair| pair.split_once('=').unwrap()).map(plain).collect();
            let found: Vec<_> =
                pairs.iter().filter(|(key, _)| key == "application_name").map(|(_, v)| v.as_str()).collect();
            assert_eq!(found, [name], "{text}");
            assert_eq!(pairs.len(), 8, "{text}");
        }
    }

    fn plain((key, value): (&str, &str)) -> (String, String) {
        let mut parts = value.split('%');
        let mut bytes = parts.next().unwrap().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        (key.to_owned(), String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn why_connecting_failed_is_sorted_by_what_was_answered() {
        let url = DatabaseUrl::parse("postgres://u:geheim@h/d").unwrap();
        let sort = |text: &str| sort_connect(&Settings::new(url.clone()), text.to_owned());
        let at = |place: &str, answer: &str| format!("connection to server {place} failed: {answer}\n");
        let (host, socket) =
            ("at \"h\" (192.0.2.1), port 5432", "on socket \"/permission denied/role \"x/.s.PGSQL.5432\"");
        for answer in [
            "Connection refused",
            "No such file or directory",
            "timeout expired",
            "FATAL:  the database system is starting up",
        ] {
            for place in [host, socket, "at \"pg_hba.conf\" (192.0.2.1), port 5432"] {
                assert!(matches!(sort(&at(place, answer)), StoreError::Unreachable { .. }), "{place} {answer}");
            }
        }
        for answer in [
            "FATAL:  password authentication failed for user \"u\"",
            "fe_sendauth: no password supplied",
            "FATAL:  role \"u\" does not exist",
        ] {
            assert!(matches!(sort(&at(socket, answer)), StoreError::Denied { .. }), "{answer}");
        }
        assert!(matches!(sort(&at(host, "FATAL:  database \"d\" does not exist")), StoreError::Refused(_)));
    }

    /// The library's own words, whatever release of it is here.
    #[test]
    fn a_url_that_the_library_does_not_take_is_refused() {
        for url in [
            "h/d?foo=bar",
            "h/d?sslmode=bogus",
            "h/d?target_session_attrs=x",
            "h/d?channel_binding=x",
            "a,b/d?hostaddr=192.0.2.1",
            "h/d?service=no-such-service",
        ] {
            let settings = Settings::new(DatabaseUrl::parse(&format!("postgres://u:geheim@{url}")).unwrap());
            let error = Postgres::open(&settings).err().unwrap();
            assert!(matches!(error, StoreError::Refused(_)), "{url}: {error:?}");
            assert!(!error.chain().contains("geheim"), "{}", error.chain());
        }
    }
}
