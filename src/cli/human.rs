//! Numbers and times as people read them, and durations as they type them.

use std::time::Duration;

use chrono::{DateTime, Local, SecondsFormat, Utc};

use crate::config::units;
use crate::protocol::ids::is_invisible;
use crate::protocol::time::Timestamp;

/// A duration of a flag; a bare number is refused with a guess.
pub fn duration_flag(text: &str) -> Result<Duration, String> {
    units::parse_duration(text)
}

/// How old something is, in whole seconds and at most two units: `2s`, `4m10s`, `3h02m`, `1d04h`, `9d`.
pub fn age(span: Duration) -> String {
    let s = span.as_secs();
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small:02}{small_unit}"),
    };
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => two(s / 60, "m", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", s % 3_600 / 60, "m"),
        86_400..172_800 => two(1, "d", (s - 86_400) / 3_600, "h"),
        _ => format!("{}d", s / 86_400),
    }
}

/// How long something took: as [`age`], but with a tenth below ten seconds (`2.1s`, `20ms`).
pub fn took(span: Duration) -> String {
    match span.as_millis() {
        ms @ 0..100 => format!("{ms}ms"),
        ms @ 100..10_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        _ => age(span),
    }
}

/// Seconds for JSON fields that end in `_s`.
pub fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000.0).round() / 1_000.0
}

fn utc(time: Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(time.as_us())
}

/// RFC 3339 in UTC, for JSON; `null` where a time lies outside of the calendar.
pub fn rfc3339(time: Timestamp) -> Option<String> {
    utc(time).map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// `2026-11-20 14:02:11 +01:00`, or `2026-11-20 13:02:11 UTC`.
pub fn when(time: Timestamp, in_utc: bool) -> String {
    match utc(time) {
        None => "?".to_owned(),
        Some(time) if in_utc => time.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Some(time) => time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S %:z").to_string(),
    }
}

/// `14:02:11`, for times of today.
pub fn clock_time(time: Timestamp, in_utc: bool) -> String {
    match utc(time) {
        None => "?".to_owned(),
        Some(time) if in_utc => time.format("%H:%M:%S").to_string(),
        Some(time) => time.with_timezone(&Local).format("%H:%M:%S").to_string(),
    }
}

/// `1 task`, `3 tasks`.
pub fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A count that was not counted beyond a ceiling: `100000+`.
pub fn capped(count: u64, cap: u64) -> String {
    if count > cap { format!("{cap}+") } else { count.to_string() }
}

/// A blank instead of what would drive a terminal, or turn the direction of what follows.
pub fn harmless(c: char) -> char {
    if c.is_control() || is_invisible(c) { ' ' } else { c }
}

/// One line without control or invisible characters, for text that came from elsewhere.
pub fn one_line(text: &str) -> String {
    text.trim().chars().map(harmless).collect()
}

/// At most so many characters; what is cut shows as `...`.
pub fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit.saturating_sub(3)).collect();
    format!("{kept}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        for (s, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (62, "1m02s"),
            (250, "4m10s"),
            (3_599, "59m59s"),
            (3_600, "1h"),
            (10_920, "3h02m"),
            (86_399, "23h59m"),
            (86_400, "1d"),
            (100_800, "1d04h"),
            (172_800, "2d"),
            (9 * 86_400 + 5, "9d"),
        ] {
            assert_eq!(age(Duration::from_secs(s)), text);
        }
    }

    #[test]
    fn short_spans_show_a_tenth() {
        let ms = |ms| took(Duration::from_millis(ms));
        assert_eq!(
            [ms(0), ms(20), ms(420), ms(2_199), ms(9_999), ms(10_000), ms(62_500)].join(" "),
            "0ms 20ms 0.4s 2.1s 9.9s 10s 1m02s"
        );
        assert_eq!(seconds(Duration::from_micros(250_400_499)), 250.4);
    }

    #[test]
    fn json_times_are_utc() {
        let time = Timestamp::from_us(1_795_179_731_000_000);
        assert_eq!(rfc3339(time).unwrap(), "2026-11-20T13:02:11Z");
        assert_eq!(rfc3339(time.after(Duration::from_micros(5))).unwrap(), "2026-11-20T13:02:11.000005Z");
        assert_eq!(when(time, true), "2026-11-20 13:02:11 UTC");
        assert_eq!(clock_time(time, true), "13:02:11");
        assert_eq!(rfc3339(Timestamp::from_us(i64::MAX)), None);
        assert_eq!(when(Timestamp::from_us(i64::MAX), false), "?");
    }

    #[test]
    fn counts_and_texts() {
        assert_eq!((plural(1, "task"), plural(0, "task")), ("1 task".into(), "0 tasks".into()));
        assert_eq!((capped(100_001, 100_000), capped(5, 100_000)), ("100000+".into(), "5".into()));
        assert_eq!(one_line(" a\nb\x1b[31m\t"), "a b [31m");
        assert_eq!(one_line("a\u{202e}b"), "a b");
        assert_eq!((shorten("äöü", 3), shorten("abcdefgh", 5)), ("äöü".into(), "ab...".into()));
        assert!(duration_flag("5").unwrap_err().contains("did you mean 5s?"));
    }
}
