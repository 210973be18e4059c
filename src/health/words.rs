//! Wording: spans, clock times, counts, and cleaning of free text that tasks and people wrote.

use std::time::Duration;

use chrono::{DateTime, FixedOffset, Utc};

use super::range::plain;
use super::snapshot::Capped;
use crate::config::DatabaseUrl;
use crate::protocol::ids::is_invisible;
use crate::protocol::time::Timestamp;

/// A span as people read it: `0.4s`, `42s`, `4m10s`, `11m`, `3h02m`, `2d4h`.
pub fn span(span: Duration) -> String {
    let tenths = (span.as_millis() + 50) / 100;
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..10 => format!("{}s", plain(tenths as f64 / 10.0)),
        10..60 => format!("{seconds}s"),
        60..3_600 if seconds.is_multiple_of(60) => format!("{minutes}m"),
        60..3_600 => format!("{minutes}m{:02}s", seconds % 60),
        3_600..86_400 if minutes.is_multiple_of(60) => format!("{hours}h"),
        3_600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ if hours.is_multiple_of(24) => format!("{days}d"),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// A short span to the millisecond: `0.012s`. Rounded up, so that what broke a limit looks like it.
pub fn fine_span(span: Duration) -> String {
    format!("{}s", plain(span.as_micros().div_ceil(1_000) as f64 / 1_000.0))
}

/// `13:58 (4m10s)`; with the date where the time alone would be read as today's.
pub fn since(at: Timestamp, now: Timestamp, utc_offset_s: i32) -> String {
    let age = now.since(at);
    let zone = FixedOffset::east_opt(utc_offset_s);
    let local = |time: Timestamp| Some(DateTime::<Utc>::from_timestamp_micros(time.as_us())?.with_timezone(&zone?));
    let Some((at, now)) = local(at).zip(local(now)) else {
        return format!("{} ago", span(age));
    };
    let format = if at.date_naive() == now.date_naive() { "%H:%M" } else { "%Y-%m-%d %H:%M" };
    format!("{} ({})", at.format(format), span(age))
}

/// `1 task`, `3 tasks`.
pub fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `1 held task`, `100000+ held tasks`.
pub fn capped(count: Capped, noun: &str) -> String {
    let plural = if count == Capped::new(1) { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Free text that cannot break a plugin line: `|` would start perfdata, a newline would start details.
pub fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' => clean.push('/'),
            '\n' | '\r' | '\t' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => clean.push(' '),
            ' '..='~' => clean.push(c),
            _ if c.is_control() => {}
            _ => clean.push('?'),
        }
    }
    clean.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// JSON whose texts reach a terminal without driving it: serde escapes the control characters of ASCII, and
/// leaves those above (U+009B begins a sequence too) and the invisible ones. They can only stand in texts.
pub fn armor(json: String) -> String {
    let is_bare = |c: char| ('\u{7f}'..='\u{9f}').contains(&c) || is_invisible(c);
    if !json.contains(is_bare) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match is_bare(c) {
            true => out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
            false => out.push(c),
        }
    }
    out
}

/// At most `limit` bytes of a cleaned text; what was cut shows as `...`.
pub fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub(3);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", text[..end].trim_end())
}

/// Verbs of `rekindle` that ask a database or a configuration; `explain` and `version` ask neither.
const PLACED: [&str; 7] = ["status", "engine", "task", "resource", "db", "config", "doctor"];

/// A text in whose commands stand the flags that said where to look: pasted without them, a command would
/// look at another database.
pub fn with_flags(text: &str, flags: &str) -> String {
    const PROGRAM: &str = "rekindle ";
    if flags.is_empty() {
        return text.to_owned();
    }
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(PROGRAM) {
        let (before, after) = rest.split_at(at + PROGRAM.len());
        let verb = after.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
        out.push_str(before);
        if PLACED.contains(&verb) {
            out.push_str(flags);
            out.push(' ');
        }
        rest = after;
    }
    out + rest
}

/// The flags to repeat. A URL with a password is not repeated: it would end in logs and histories.
pub fn place_flags(config: Option<String>, url: Option<&str>, url_file: Option<String>) -> String {
    let url = url.map(|url| match DatabaseUrl::parse(url) {
        Ok(parsed) if !parsed.has_password() => format!("--database-url {}", shell_word(url)),
        _ => "--database-url URL".to_owned(),
    });
    config.into_iter().chain(url).chain(url_file).collect::<Vec<_>>().join(" ")
}

/// A name as one word of a shell, so that a `next:` line can be pasted whatever someone called a thing.
pub fn shell_word(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+@/:".contains(c);
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain) {
        return name.to_owned();
    }
    format!("'{}'", name.replace('\'', r"'\''"))
}

/// Takes passwords out of URLs in a text: `postgres://bob:***@db1/x`. A password may hold `/` or `@`, so
/// everything up to the last `@` of the word counts; rather too much is hidden than too little.
pub fn without_passwords(text: &str) -> String {
    let redact = |part: &str| {
        let end = part.find([' ', '"', '\'', '\n']).unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        match authority.rsplit_once('@') {
            Some((user, host)) => match user.split_once(':') {
                Some((user, _)) => format!("{user}:***@{host}{rest}"),
                None => part.to_owned(),
            },
            None => part.to_owned(),
        }
    };
    let mut parts = text.split("://");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |done, part| done + "://" + &redact(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_repeat_where_to_look() {
        let flags = place_flags(Some("-c a.toml".into()), None, Some("--database-url-file /x".into()));
        assert_eq!(flags, "-c a.toml --database-url-file /x");
        for (text, want) in [
            ("rekindle engine list", "rekindle -c a engine list"),
            ("mend it, then: rekindle config check", "mend it, then: rekindle -c a config check"),
            ("sudo -u rekindle rekindle doctor", "sudo -u rekindle rekindle -c a doctor"),
            ("rekindle db status; rekindle db migrate", "rekindle -c a db status; rekindle -c a db migrate"),
            ("rekindle explain E301", "rekindle explain E301"),
            ("add --yes", "add --yes"),
        ] {
            assert_eq!(with_flags(text, "-c a"), want);
            assert_eq!(with_flags(text, ""), text);
        }
        assert_eq!(place_flags(None, Some("postgres://u@h/d"), None), "--database-url postgres://u@h/d");
        assert_eq!(place_flags(None, Some("postgres://u:geheim@h/d"), None), "--database-url URL");
    }

    #[test]
    fn spans_read_as_in_the_samples() {
        let table = [
            (0, "0s"),
            (400, "0.4s"),
            (2_100, "2.1s"),
            (9_940, "9.9s"),
            (9_960, "10s"),
            (42_000, "42s"),
            (59_990, "59s"),
            (250_000, "4m10s"),
            (725_000, "12m05s"),
            (660_000, "11m"),
            (10_920_000, "3h02m"),
            (32_400_000, "9h"),
            (187_200_000, "2d4h"),
            (777_600_000, "9d"),
        ];
        for (ms, want) in table {
            assert_eq!(span(Duration::from_millis(ms)), want);
        }
        assert_eq!(fine_span(Duration::from_micros(11_400)), "0.012s");
    }

    #[test]
    fn clock_times_of_another_day_carry_their_date() {
        let now = Timestamp::from_us(1_795_179_731_000_000); // 2026-11-20 13:02:11 UTC
        let at = now.before(Duration::from_secs(250));
        assert_eq!(since(at, now, 3_600), "13:58 (4m10s)");
        assert_eq!(since(now.before(Duration::from_secs(187_200)), now, 0), "2026-11-18 09:02 (2d4h)");
        assert_eq!(since(at, now, i32::MAX), "4m10s ago");
        assert_eq!(since(Timestamp::from_us(i64::MIN), now, 0), "106751991d4h ago");
    }

    #[test]
    fn free_text_loses_what_would_break_a_line() {
        assert_eq!(clean("a|b\r\nc\td\u{1b}[31me\u{0}  f \u{e4}\u{2028}g\n"), "a/b c d[31me f ? g");
    }

    #[test]
    fn json_says_the_same_without_driving_a_terminal() {
        let text = "a\u{9b}31m\u{7f}\u{202e}b\u{e0001} \u{e4}\n";
        let json = armor(serde_json::to_string(text).unwrap());
        assert_eq!(json, r#""a\u009b31m\u007f\u202eb\udb40\udc01 ä\n""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn passwords_leave_urls() {
        let text = "connect postgres://bob:s3@c/ret@db1:5432/x?y=1 and mysql://eve:pw@h; see http://doc/a:b";
        let want = "connect postgres://bob:***@db1:5432/x?y=1 and mysql://eve:***@h; see http://doc/a:b";
        assert_eq!(without_passwords(text), want);
        assert_eq!(without_passwords("no url: a:b@c"), "no url: a:b@c");
    }

    #[test]
    fn odd_names_are_quoted_for_the_shell() {
        assert_eq!(shell_word("invoice-mail"), "invoice-mail");
        assert_eq!(shell_word("-x; rm 'a'"), r"'-x; rm '\''a'\'''");
        assert_eq!(shell_word(""), "''");
    }

    proptest! {
        #[test]
        fn cleaned_text_is_printable_ascii_in_one_line(text in any::<String>()) {
            let clean = clean(&text);
            prop_assert!(clean.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'|'));
            prop_assert!(cut(&clean, 20).len() <= 20);
        }

        #[test]
        fn any_text_survives_cutting_and_redaction(text in any::<String>(), limit in 0usize..40) {
            prop_assert!(cut(&text, limit).len() <= limit.max(3));
            let _ = without_passwords(&text);
        }
    }
}
