//! What of a URL is secret, and how it is kept out of every text.
//!
//! A client library that cannot read a URL quotes the part that it stumbled over, in the form that it had
//! just then: as it was written, decoded, or in one of the parameters. So a text of a driver is searched
//! for all of these. What is *shown* of parameters is a list of the harmless ones: a list of the secret
//! ones would have to know what the next release of a client library invents.

use std::borrow::Cow;

/// What stands where a secret was.
pub(super) const MASK: &str = "***";

/// Parameters whose values are shown.
const HARMLESS: [&str; 37] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "passfile",
    "require_auth",
    "channel_binding",
    "connect_timeout",
    "client_encoding",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "gssencmode",
    "krbsrvname",
    "sslmode",
    "sslnegotiation",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "sslsni",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "service",
    "target_session_attrs",
    "load_balance_hosts",
    "ssl_mode",
    "ssl_ca",
    "ssl_cert",
    "ssl_key",
    "unix_socket",
];

/// Parameters that are known to be secret: nobody may write them on a command line.
const SECRET: [&str; 7] =
    ["password", "passwd", "pwd", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"];

/// Whether this text can be decoded: each `%` stands before two hexadecimal digits, and none of them means
/// the byte zero. libpq quotes a password for which this does not hold.
pub(super) fn is_encoded_well(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit) && two != b"00")
    })
}

/// What a well encoded text means. Bytes that are no UTF-8 come as the replacement character.
pub(super) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(String::from_utf8_lossy(&decode_bytes(text)).into_owned())
}

fn decode_bytes(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// Percent-encodes everything but unreserved characters.
pub(super) fn encode(bytes: &[u8]) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    bytes.iter().map(|&b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The same text in the one spelling that every client library reads alike.
pub(super) fn encode_anew(text: &str) -> String {
    encode(&decode_bytes(text))
}

/// The parameters behind the question mark, as they are written.
fn parameters(tail: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| match pair.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (pair, None),
    })
}

fn is_harmless(key: &str) -> bool {
    HARMLESS.contains(&&*decode(key))
}

/// Whether a parameter of this name is a login's password.
pub(super) fn has_password(tail: &str) -> bool {
    parameters(tail).any(|(key, _)| decode(key).eq_ignore_ascii_case("password"))
}

/// Whether a parameter is known to be secret.
pub(super) fn has_secret(tail: &str) -> bool {
    parameters(tail).any(|(key, _)| SECRET.contains(&decode(key).to_ascii_lowercase().as_str()))
}

/// Path and parameters with only the harmless values.
pub(super) fn mask_query(tail: &str) -> String {
    let Some((path, _)) = tail.split_once('?') else { return tail.to_owned() };
    let shown = parameters(tail).map(|(key, value)| match value {
        Some(value) if is_harmless(key) => format!("{key}={value}"),
        Some(_) => format!("{key}={MASK}"),
        None => MASK.to_owned(),
    });
    format!("{path}?{}", shown.collect::<Vec<_>>().join("&"))
}

/// Every form in which a secret of this URL may turn up in a text, the longest first, so that a short one
/// does not tear a long one in two.
pub(super) fn forms(password: Option<&str>, tail: &str) -> Vec<String> {
    let values = parameters(tail).filter(|(key, _)| !is_harmless(key)).map(|(key, value)| value.unwrap_or(key));
    let written: Vec<&str> = password.into_iter().chain(values).filter(|text| !text.is_empty()).collect();
    let forms = written.iter().flat_map(|text| [(*text).to_owned(), decode(text).into_owned(), encode_anew(text)]);
    // Some libraries squeeze or escape white space and quotes before they quote a text.
    let mut forms: Vec<String> = forms.flat_map(|form| [one_line(&form), form]).filter(|f| !f.is_empty()).collect();
    forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    forms.dedup();
    forms
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text without these secrets. One of up to three letters is taken out only where it stands as a word:
/// else it would be taken out of other words, and the gaps would tell what it is.
pub(super) fn without(text: &str, forms: &[String]) -> String {
    let mut text = text.to_owned();
    for form in forms {
        let is_short = form.chars().count() <= 3;
        text = if is_short { without_word(&text, form) } else { text.replace(form, MASK) };
    }
    text
}

fn without_word(text: &str, word: &str) -> String {
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    for (at, found) in text.match_indices(word) {
        let before = text[..at].chars().next_back();
        let after = text[at + found.len()..].chars().next();
        let is_word = [before, after].into_iter().all(|c| c.is_none_or(|c| !c.is_alphanumeric()));
        if is_word {
            out.push_str(&text[from..at]);
            out.push_str(MASK);
            from = at + found.len();
        }
    }
    out + &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_decoded_is_known() {
        for (text, is_well) in [("", true), ("a%20b", true), ("%fF", true), ("%", false), ("a%2", false)] {
            assert_eq!(is_encoded_well(text), is_well, "{text}");
        }
        for text in ["ge%heim", "%00", "a%0", "%zz", "%ä1", "%%41"] {
            assert!(!is_encoded_well(text), "{text}");
        }
        assert_eq!(decode("a%20%C3%A4%FF"), "a ä\u{fffd}");
        assert_eq!(encode_anew("a b%2f%FF:"), "a%20b%2F%FF%3A");
    }

    #[test]
    fn a_parameter_that_nobody_knows_is_masked_and_a_harmless_one_is_shown() {
        let tail = "/d?sslmode=require&p%61ssword=x&scram_client_key=y&later=z&options=o&alone";
        assert_eq!(
            mask_query(tail),
            "/d?sslmode=require&p%61ssword=***&scram_client_key=***&later=***&options=***&***"
        );
        assert!(has_password(tail) && has_secret(tail));
        assert!(has_secret("/d?scram_server_key=y") && !has_password("/d?sslpassword=y"));
        assert!(!has_secret("/d?later=z&sslmode=require"));
    }

    #[test]
    fn short_secrets_leave_other_words_alone() {
        let without = |text: &str, secret: &str| without(text, &forms(Some(secret), ""));
        assert_eq!(without("host \"st\" of st", "st"), "host \"***\" of ***");
        assert_eq!(without("token: \"a%20b\" a b", "a%20b"), "token: \"***\" ***");
        assert_eq!(without("geheim", "geheim"), MASK);
    }
}
