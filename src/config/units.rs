//! Durations and sizes as people write them (`2h30m`, `64KiB`), and back. A bare number is refused
//! everywhere: nobody remembers whether it meant seconds.

use std::time::Duration;

/// Units with their length in nanoseconds, longest first, so that showing picks the largest.
const UNITS: [(&str, u64); 7] = [
    ("w", 7 * 86_400_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// Reads `90s`, `5m`, `2h30m`, `3d`, `1w`, `500ms`, `2.5s`. Months and years are not units: `5M` would
/// otherwise turn a typing slip into five months.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a duration must not be empty; write for example 30s".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("{text:?} has no unit; did you mean {text}s?"));
    }
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (ns, tail) = parse_part(rest).ok_or_else(|| bad_duration(text))?;
        total = total.checked_add(ns).ok_or_else(|| format!("{text:?} is too long"))?;
        rest = tail;
    }
    Ok(Duration::from_nanos(total))
}

fn bad_duration(text: &str) -> String {
    format!("{text:?} is not a duration; write for example 500ms, 90s, 5m, 2h30m, 3d or 1w")
}

/// One number with its unit from the front, in nanoseconds, and what follows.
fn parse_part(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(digits);
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(letters);
    let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some((scale(number, *length)?, tail))
}

/// `number` (decimal digits, at most one dot) times `length`, exactly, rounded down.
fn scale(number: &str, length: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let numerator: u128 = fraction.parse().ok()?;
    let part = numerator * u128::from(length) / 10_u128.pow(fraction.len() as u32);
    whole.checked_mul(length)?.checked_add(u64::try_from(part).ok()?)
}

/// Writes a duration so that [`parse_duration`] reads the same back: `1h30m`, `500ms`, `14d`.
pub fn show_duration(span: Duration) -> String {
    let mut left = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let mut text = String::new();
    // Weeks are left out: people think of 14d and 60d.
    for (unit, length) in &UNITS[1..] {
        let rest = left % length;
        if *unit == "s" && left > *length && rest > 0 && rest.is_multiple_of(1_000_000) {
            let fraction = format!("{:03}", rest / 1_000_000);
            text.push_str(&format!("{}.{}s", left / length, fraction.trim_end_matches('0')));
            break;
        }
        let count = left / length;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            left %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Units of sizes; the decimal ones are refused with a hint, because half of the world means the other.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads `64KiB`, `1MiB`, `512B` into bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let help = || format!("{text:?} is not a size; write for example 512B, 64KiB or 1MiB");
    let count: u64 = number.parse().map_err(|_| help())?;
    match SIZES.iter().find(|(name, _)| *name == unit.trim_start()) {
        Some((_, length)) => count.checked_mul(*length).ok_or_else(|| format!("{text:?} is too large")),
        None if unit.is_empty() => Err(format!("{text:?} has no unit; did you mean {number}KiB?")),
        None if matches!(unit.trim_start(), "K" | "k" | "KB" | "kB" | "M" | "MB" | "G" | "GB") => {
            let letter = unit.trim_start().to_ascii_uppercase();
            Err(format!("{text:?} is ambiguous; did you mean {number}{}iB?", &letter[..1]))
        }
        None => Err(help()),
    }
}

/// Writes a size so that [`parse_size`] reads the same back.
pub fn show_size(bytes: u64) -> String {
    let (unit, length) = SIZES.iter().find(|(_, l)| bytes >= *l && bytes.is_multiple_of(*l)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, ms) in [
            ("90s", 90_000),
            ("5m", 300_000),
            ("2h30m", 9_000_000),
            ("3d", 259_200_000),
            ("1w", 604_800_000),
            ("500ms", 500),
            ("2.5s", 2_500),
            ("0s", 0),
            ("1m30.5s", 90_500),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_refused_with_a_guess() {
        assert_eq!(parse_duration("30").unwrap_err(), "\"30\" has no unit; did you mean 30s?");
        assert_eq!(parse_duration("1.5").unwrap_err(), "\"1.5\" has no unit; did you mean 1.5s?");
    }

    #[test]
    fn slips_are_not_durations() {
        for text in
            ["", "5M", "1y", "-3s", "s", "3 s", "3s ago", "1..2s", "1.s", "99999999999w", "5minutes", "٣s", "1s2"]
        {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn shown_durations_read_back() {
        for ms in [0, 1, 500, 2_500, 75_000, 90_061_001, 14 * 86_400_000] {
            let span = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(span)), Ok(span));
        }
        assert_eq!(show_duration(Duration::from_secs(14 * 86_400)), "14d");
        assert_eq!(show_duration(Duration::from_millis(2_500)), "2.5s");
    }

    #[test]
    fn sizes_carry_a_binary_unit() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("512B"), Ok(512));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("64").unwrap_err(), "\"64\" has no unit; did you mean 64KiB?");
        assert_eq!(parse_size("64kB").unwrap_err(), "\"64kB\" is ambiguous; did you mean 64KiB?");
        assert!(parse_size("KiB").is_err() && parse_size("99999999999GiB").is_err());
        assert_eq!((show_size(65_536), show_size(0), show_size(1_500)), ("64KiB".into(), "0B".into(), "1500B".into()));
    }
}
