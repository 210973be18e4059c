//! Payloads: read from a flag, a file or standard input; shown without what a kind redacts.

use std::fs::File;
use std::io::Read;

use serde_json::Value;

use crate::cli::codes;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{harmless, one_line, shorten};
use crate::config::units::show_size;
use crate::protocol::ids::PAYLOAD_MAX;

/// Refused before anything was added.
pub fn refusal(what: impl Into<String>) -> CliError {
    CliError::new(codes::BAD_TASK, Exit::Usage, what).effect("nothing was added")
}

/// The bytes that `--payload` means: `-` is standard input, `@file` a file, anything else itself.
pub fn read(text: &str) -> Result<Vec<u8>, CliError> {
    let bytes = match text.strip_prefix('@') {
        _ if text == "-" => read_bounded(&mut std::io::stdin().lock(), "standard input")?,
        Some(path) => {
            let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
            read_bounded(&mut file, path)?
        }
        None => text.as_bytes().to_vec(),
    };
    check(&bytes).map_err(|why| refusal(format!("the payload {why}")))?;
    Ok(bytes)
}

fn read_bounded(from: &mut impl Read, name: &str) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = from.take(PAYLOAD_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(name, &error))?;
    Ok(bytes)
}

/// A file that was named and is not there is wrong usage, like any other bad value of a flag; one that this
/// user may not read is a matter of permission.
pub fn unreadable(name: &str, error: &std::io::Error) -> CliError {
    match CliError::file("read", name.as_ref(), error) {
        denied if denied.exit == Exit::NoPermission => denied,
        _ => refusal(format!("cannot read {name}")).cause(error.to_string()),
    }
}

/// Whether a payload may be added. What looks like a JSON object or array has to be one: a payload cut by
/// the shell's quoting would only fail much later, in the task.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() > PAYLOAD_MAX {
        return Err(format!("is over 1 MiB ({PAYLOAD_MAX} bytes); put it elsewhere and name the place in the payload"));
    }
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'{' | b'[') => serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
            .map(|_| ())
            .map_err(|error| format!("looks like JSON but is not: {error}")),
        _ => Ok(()),
    }
}

/// In JSON output: the value itself if it is JSON, else its text.
pub fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

/// For a terminal: as it is, without control characters other than line feeds and tabs, and without invisible ones.
pub fn text(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// Text of a task, made harmless for a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\n' || c == '\t' { c } else { harmless(c) }).collect()
}

/// A value longer than this is cut in a summary.
const VALUE_MAX: usize = 40;

/// `212 B JSON: invoice=99812, to=[redacted]`. Of a kind that this host's configuration does not have nobody
/// knows here what is to be redacted (`None`), so nothing is shown.
pub fn summary(bytes: &[u8], redact: Option<&[String]>) -> String {
    let size = show_size(bytes.len() as u64);
    let Some(redact) = redact.or_else(|| bytes.is_empty().then_some(&[])) else {
        return format!(
            "{size}, hidden: this configuration does not know the kind, nor what of it is secret (--payload)"
        );
    };
    match serde_json::from_slice::<Value>(bytes) {
        _ if bytes.is_empty() => "empty".to_owned(),
        Ok(Value::Object(fields)) => {
            let show = |(key, value): (&String, &Value)| {
                let shown = if redact.contains(key) { "[redacted]".to_owned() } else { plain(value) };
                format!("{}={}", one_line(key), shorten(&one_line(&shown), VALUE_MAX))
            };
            let shown: Vec<String> = fields.iter().take(8).map(show).collect();
            let more = if fields.len() > shown.len() { ", ..." } else { "" };
            format!("{size} JSON: {}{more}", shown.join(", "))
        }
        // As the task reads it: text with its quotes.
        Ok(value) => format!("{size} JSON: {}", shorten(&one_line(&value.to_string()), 2 * VALUE_MAX)),
        Err(_) => match std::str::from_utf8(bytes) {
            Ok(text) => format!("{size} text: {}", shorten(&one_line(text), 2 * VALUE_MAX)),
            Err(_) => format!("{size} binary"),
        },
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_hides_what_the_kind_redacts_and_all_of_an_unknown_kind() {
        let bytes = br#"{"invoice":99812,"to":"bob@example.net"}"#;
        assert_eq!(summary(bytes, Some(&["to".to_owned()])), "40B JSON: invoice=99812, to=[redacted]");
        assert_eq!(summary(b"World", Some(&[])), "5B text: World");
        assert_eq!(summary(b"\"World\"", Some(&[])), "7B JSON: \"World\"");
        assert_eq!(summary(b"\xff", Some(&[])), "1B binary");
        assert_eq!(summary(b"", None), "empty");
        assert!(summary(bytes, None).starts_with("40B, hidden: this configuration does not know the kind"));
    }

    #[test]
    fn what_looks_like_json_must_be_json() {
        assert!(check(b"World").is_ok() && check(b"[1]").is_ok() && check(b"").is_ok());
        assert!(check(b" {\"a\": ").unwrap_err().contains("looks like JSON but is not"));
        assert!(check(&vec![b'x'; PAYLOAD_MAX]).is_ok());
        assert!(check(&vec![b'x'; PAYLOAD_MAX + 1]).unwrap_err().contains("over 1 MiB"));
    }

    #[test]
    fn escape_sequences_do_not_reach_a_terminal() {
        assert_eq!(text(b"a\x1b[31m\tb\n"), "a [31m\tb\n");
    }
}
