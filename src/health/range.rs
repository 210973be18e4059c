//! Threshold ranges of the monitoring plugins, `[@]start:end`, with units.
//!
//! A [`RangeSpec`] is what someone typed; a [`Range`] is absolute (counts or seconds) and judges. The
//! parser is strict: a range that was misread would page the wrong person, or nobody.

use std::fmt;
use std::str::FromStr;

/// No range is longer than this; it keeps hostile input from growing error lines.
const TYPED_MAX: usize = 64;

/// An absolute range. Alerts outside of it, with `@` inside; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    start: f64,
    end: f64,
    is_inside: bool,
}

impl Range {
    /// Alerts above `end` and below 0, as a bare number does.
    pub const fn at_most(end: f64) -> Self {
        Self { start: 0.0, end, is_inside: false }
    }

    /// Alerts below `start`.
    pub const fn at_least(start: f64) -> Self {
        Self { start, end: f64::INFINITY, is_inside: false }
    }

    /// Whether this value is a reason to alert.
    pub fn is_alert(&self, value: f64) -> bool {
        // A value that is not a number was not measured; it lies outside of every range.
        let is_within = self.start <= value && value <= self.end;
        is_within == self.is_inside
    }

    /// The same range for a value `factor` times as large.
    fn scaled(self, factor: f64) -> Self {
        // An open end times zero would be no number at all. Rounded as it is shown, or 2.9 times 10 would
        // alert at 29 and show 29 as the limit.
        let scale = |bound: f64| if bound.is_infinite() { bound } else { (bound * factor * 1e6).round() / 1e6 };
        Self { start: scale(self.start), end: scale(self.end), ..self }
    }

    /// Alerts of too much need at least `min` whole things. A lower limit is left alone: who asks for
    /// an alert of too few means small numbers.
    pub fn not_below(self, min: f64) -> Self {
        match self.is_inside {
            true if min > self.end => Self { start: f64::NEG_INFINITY, end: f64::INFINITY, is_inside: false },
            true => Self { start: self.start.max(min), ..self },
            // "More than end and at least min" is "more than min - 1", since counts are whole.
            false => Self { end: self.end.max(min - 1.0), ..self },
        }
    }

    /// The largest finite number in it.
    pub fn largest(&self) -> f64 {
        [self.start, self.end].into_iter().filter(|bound| bound.is_finite()).fold(0.0, f64::max)
    }
}

impl fmt::Display for Range {
    /// The canonical form, as perfdata carries it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_inside {
            f.write_str("@")?;
        }
        if self.start.is_infinite() {
            f.write_str("~:")?;
        } else if self.start != 0.0 || self.end.is_infinite() {
            write!(f, "{}:", plain(self.start))?;
        }
        if self.end.is_finite() { f.write_str(&plain(self.end)) } else { Ok(()) }
    }
}

/// A number as a plain decimal with at most six places; never an exponent, never a minus zero.
pub fn plain(value: f64) -> String {
    let value = if value.is_finite() { value.clamp(-1e15, 1e15) } else { 0.0 };
    let rounded = format!("{value:.6}");
    let short = rounded.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".to_owned() } else { short.to_owned() }
}

/// What the numbers of a range count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Time.
    Seconds,
    /// Multiples of what is normal.
    TimesNormal,
}

/// A range as it was typed.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeSpec {
    typed: String,
    /// `None` where only zeros were typed; they fit every unit.
    unit: Option<Unit>,
    range: Range,
}

impl RangeSpec {
    /// The text, for messages.
    pub fn typed(&self) -> &str {
        &self.typed
    }

    /// What its numbers count; `None` if that does not matter.
    pub const fn unit(&self) -> Option<Unit> {
        self.unit
    }

    /// The absolute range; `None` if it is a multiple and no normal value is known.
    pub fn absolute(&self, normal: Option<f64>) -> Option<Range> {
        match self.unit {
            Some(Unit::TimesNormal) => normal.map(|normal| self.range.scaled(normal)),
            _ => Some(self.range),
        }
    }
}

/// Why a range was refused. The hint says what to type instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("range '{typed}' {problem}; {hint}")]
pub struct RangeError {
    /// What was typed, shortened.
    pub typed: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub hint: String,
}

/// Problem and hint, before the whole text is known.
type Fault = (String, String);

fn fault<T>(problem: impl Into<String>, hint: impl Into<String>) -> Result<T, Fault> {
    Err((problem.into(), hint.into()))
}

const FORMS: &str = "write 10, 10:, ~:10, 10:20 or @10:20";
const UNITS: &str = "units are ms, s, m, h, d and w, and x for times normal";

impl FromStr for RangeSpec {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        read_range(text).map_err(|(problem, hint)| {
            let typed = text.chars().take(TYPED_MAX).collect();
            RangeError { typed, problem, hint }
        })
    }
}

impl TryFrom<String> for RangeSpec {
    type Error = RangeError;

    fn try_from(text: String) -> Result<Self, RangeError> {
        text.parse()
    }
}

fn read_range(text: &str) -> Result<RangeSpec, Fault> {
    if text.len() > TYPED_MAX {
        return fault("is too long", FORMS);
    }
    let (is_inside, body) = text.strip_prefix('@').map_or((false, text), |rest| (true, rest));
    let (start, end) = body.split_once(':').map_or((None, body), |(start, end)| (Some(start), end));
    let start = match start {
        None => (0.0, None),
        Some("~") => (f64::NEG_INFINITY, None),
        Some("") => return fault("has nothing before the colon", "write 10 or 0:10 for at most 10"),
        Some(number) => read_number(number)?,
    };
    let end = match end {
        "" if body.ends_with(':') => (f64::INFINITY, None),
        "" => return fault("is empty", FORMS),
        "~" => return fault("has a ~ at its end", "leave an open end empty, as in 10:"),
        number => read_number(number)?,
    };
    if start.0 > end.0 {
        return fault("starts above its end", "write the smaller number first");
    }
    let unit = match (start.1, end.1) {
        (Some(one), Some(other)) if one != other => {
            return fault("mixes units", "give both ends the same unit");
        }
        (one, other) => one.or(other),
    };
    let range = Range { start: start.0, end: end.0, is_inside };
    Ok(RangeSpec { typed: text.to_owned(), unit, range })
}

/// Seconds of a span such as `90s` or `2h30m`; a bare number counts as seconds.
pub fn read_seconds(text: &str) -> Option<f64> {
    read_number(text)
        .ok()
        .filter(|(value, unit)| *value >= 0.0 && *unit != Some(Unit::TimesNormal))
        .map(|(value, _)| value)
}

/// A number with its unit; a bare zero has none.
fn read_number(text: &str) -> Result<(f64, Option<Unit>), Fault> {
    let (sign, body) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let parts = split_parts(body)?;
    let (value, unit) = match parts.as_slice() {
        [(value, "")] => (*value, (*value != 0.0).then_some(Unit::Count)),
        [(value, "x")] => (*value, Some(Unit::TimesNormal)),
        parts => (read_span(parts)?, Some(Unit::Seconds)),
    };
    if sign < 0.0 && matches!(unit, Some(Unit::Seconds | Unit::TimesNormal)) {
        return fault(format!("has a negative '{text}'"), "times and multiples start at 0");
    }
    Ok((sign * value, unit))
}

/// `2h30m` as pairs of number and letters.
fn split_parts(text: &str) -> Result<Vec<(f64, &str)>, Fault> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let digits = rest.find(|c| !is_number(c)).unwrap_or(rest.len());
        let Some(value) = read_decimal(&rest[..digits]) else {
            return fault(format!("has '{text}' where a number belongs"), FORMS);
        };
        let unit_end = rest[digits..].find(is_number).map_or(rest.len(), |n| digits + n);
        parts.push((value, &rest[digits..unit_end]));
        rest = &rest[unit_end..];
        if rest.is_empty() {
            return Ok(parts);
        }
    }
}

/// Digits with at most one point between digits; up to 15 characters, so that it is exact enough.
fn read_decimal(text: &str) -> Option<f64> {
    let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (text.len() <= 15 && is_digits(whole) && is_digits(places)).then(|| text.parse().ok())?
}

/// Seconds of `2h30m`; larger units come first, each once.
fn read_span(parts: &[(f64, &str)]) -> Result<f64, Fault> {
    const SPANS: [(&str, f64); 6] =
        [("w", 604_800.0), ("d", 86_400.0), ("h", 3_600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001)];
    let mut total = 0.0;
    let mut last = f64::INFINITY;
    for (value, unit) in parts {
        let Some((_, seconds)) = SPANS.into_iter().find(|(word, _)| word == unit) else {
            return match *unit {
                "" => fault(format!("has '{}' without a unit", plain(*value)), UNITS),
                _ => fault(format!("has the unknown unit '{unit}'"), UNITS),
            };
        };
        if seconds >= last {
            return fault(format!("has '{unit}' out of order"), "write larger units first, as in 2h30m");
        }
        last = seconds;
        total += value * seconds;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Range {
        text.parse::<RangeSpec>().unwrap().absolute(Some(500.0)).unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<RangeSpec>().unwrap_err().to_string()
    }

    #[test]
    fn every_form_alerts_on_both_sides_of_its_boundaries() {
        // Text, values that alert, values that do not.
        let table: [(&str, &[f64], &[f64]); 9] = [
            ("10", &[-0.1, 10.1], &[0.0, 5.0, 10.0]),
            ("10:", &[9.9, -1.0], &[10.0, 1e9]),
            ("~:10", &[10.1], &[-1e9, 10.0]),
            ("10:20", &[9.9, 20.1], &[10.0, 20.0]),
            ("@10:20", &[10.0, 20.0], &[9.9, 20.1]),
            ("-5:5", &[-5.1, 5.1], &[-5.0, 0.0]),
            ("0", &[1.0], &[0.0]),
            ("5m", &[300.1], &[300.0]),
            ("1.5x", &[751.0], &[750.0]),
        ];
        for (text, alerts, quiet) in table {
            assert!(alerts.iter().all(|v| range(text).is_alert(*v)), "{text} must alert");
            assert!(!quiet.iter().any(|v| range(text).is_alert(*v)), "{text} must not alert");
        }
    }

    #[test]
    fn units_become_seconds_and_multiples_become_counts() {
        let shown: Vec<_> = ["500ms", "0.5s", "90s", "5m", "2h30m", "1d", "0:5m", "1x:2x", "@0:1h", "2:", "~:", "1w:"]
            .map(|text| range(text).to_string())
            .into();
        let want = ["0.5", "0.5", "90", "300", "9000", "86400", "300", "500:1000", "@3600", "2:", "~:", "604800:"];
        assert_eq!(shown, want);
    }

    #[test]
    fn a_multiple_judges_by_the_number_that_it_shows() {
        let limit = "2.9x".parse::<RangeSpec>().unwrap().absolute(Some(10.0)).unwrap();
        assert_eq!(limit.to_string(), "29");
        assert!(!limit.is_alert(29.0) && limit.is_alert(30.0));
    }

    #[test]
    fn a_multiple_without_a_normal_value_has_no_absolute_range() {
        let spec: RangeSpec = "2x".parse().unwrap();
        assert_eq!((spec.absolute(None), spec.unit()), (None, Some(Unit::TimesNormal)));
        let open: RangeSpec = "2x:".parse().unwrap();
        assert_eq!(open.absolute(Some(0.0)).unwrap().to_string(), "0:");
    }

    #[test]
    fn refusals_say_what_to_type() {
        assert_eq!(refusal(""), "range '' is empty; write 10, 10:, ~:10, 10:20 or @10:20");
        assert_eq!(refusal("@"), "range '@' is empty; write 10, 10:, ~:10, 10:20 or @10:20");
        assert_eq!(refusal(":10"), "range ':10' has nothing before the colon; write 10 or 0:10 for at most 10");
        assert_eq!(refusal("10:~"), "range '10:~' has a ~ at its end; leave an open end empty, as in 10:");
        assert_eq!(refusal("20:10"), "range '20:10' starts above its end; write the smaller number first");
        assert_eq!(refusal("1h:5"), "range '1h:5' starts above its end; write the smaller number first");
        assert_eq!(refusal("5:1h"), "range '5:1h' mixes units; give both ends the same unit");
        assert_eq!(refusal("-5m"), "range '-5m' has a negative '-5m'; times and multiples start at 0");
        assert_eq!(
            refusal("5min"),
            "range '5min' has the unknown unit 'min'; units are ms, s, m, h, d and w, and x for times normal"
        );
        assert_eq!(refusal("30m2h"), "range '30m2h' has 'h' out of order; write larger units first, as in 2h30m");
        let bad =
            ["~", "x", ".5", "5.", "1e3", "inf", "nan", "1..2", "+5", " 5", "5 m", "1:2:3", "@@5", "5m30", "5m5x"];
        for text in bad.into_iter().chain(["-", "1,5", "10%", "9999999999999999", "5\u{e4}"]) {
            assert!(text.parse::<RangeSpec>().is_err(), "{text} must be refused");
        }
        assert!("1".repeat(1_000).parse::<RangeSpec>().unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn a_floor_of_whole_things_raises_only_the_upper_limit() {
        assert_eq!(range("15").not_below(50.0).to_string(), "49");
        assert_eq!(range("747").not_below(50.0).to_string(), "747");
        assert_eq!(range("10:").not_below(50.0).to_string(), "10:");
        assert_eq!(range("@10:90").not_below(50.0).to_string(), "@50:90");
        assert_eq!(range("@10:20").not_below(50.0).to_string(), "~:", "nothing is left to alert");
    }

    #[test]
    fn a_value_that_is_not_a_number_alerts() {
        assert!(range("10").is_alert(f64::NAN));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[-@~:.0-9smhdwx \u{e4}]{0,12}") {
            let _ = text.parse::<RangeSpec>();
        }

        #[test]
        fn the_canonical_form_reads_back(start in -1000i32..1000, len in 0i32..1000, inside: bool) {
            let typed = format!("{}{start}:{}", if inside { "@" } else { "" }, start + len);
            let first = range(&typed);
            prop_assert_eq!(range(&first.to_string()), first);
        }
    }
}
