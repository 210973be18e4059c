//! Performance data: `label=value[unit];warn;crit;min;max`, for graphs.
//!
//! Labels are lower case without quotes, values are plain decimals, and nothing ends in `;`: parsers do
//! complain. The thresholds are those that judged the value.

use std::fmt;
use std::time::Duration;

use super::limits::{Limit, Limits};
use super::range::{Range, plain};

/// What a value is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerfUnit {
    /// A number of things.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A number that only grows.
    Counter,
    /// Percent.
    Percent,
}

impl PerfUnit {
    /// As perfdata writes it.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Seconds => "s",
            Self::Bytes => "B",
            Self::Counter => "c",
            Self::Percent => "%",
        }
    }
}

/// One value of a check.
#[derive(Debug, Clone, PartialEq)]
pub struct Perf {
    label: String,
    value: f64,
    unit: PerfUnit,
    warning: Option<Range>,
    critical: Option<Range>,
    min: Option<f64>,
    max: Option<f64>,
}

impl Perf {
    /// A value; what a label may not hold becomes `_`.
    pub fn new(label: &str, value: f64, unit: PerfUnit) -> Self {
        Self { label: clean_label(label), value, unit, warning: None, critical: None, min: None, max: None }
    }

    /// A number of things, from 0 up.
    pub fn count(label: &str, value: f64) -> Self {
        Self { min: Some(0.0), ..Self::new(label, value, PerfUnit::None) }
    }

    /// A span, from 0 up.
    pub fn span(label: &str, value: Duration) -> Self {
        Self { min: Some(0.0), ..Self::new(label, value.as_secs_f64(), PerfUnit::Seconds) }
    }

    /// With the limits that judged it.
    pub fn limits(self, limits: &Limits) -> Self {
        let range = |limit: &Option<Limit>| limit.as_ref().map(|limit| limit.range);
        Self { warning: range(&limits.warning), critical: range(&limits.critical), ..self }
    }

    /// With the largest value there can be.
    pub fn max(self, max: f64) -> Self {
        Self { max: Some(max), ..self }
    }

    /// The label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The value.
    pub const fn value(&self) -> f64 {
        self.value
    }

    /// Its unit.
    pub const fn unit(&self) -> PerfUnit {
        self.unit
    }

    /// Warning range, critical range.
    pub const fn ranges(&self) -> (Option<Range>, Option<Range>) {
        (self.warning, self.critical)
    }

    /// Smallest and largest value there can be.
    pub const fn bounds(&self) -> (Option<f64>, Option<f64>) {
        (self.min, self.max)
    }
}

fn clean_label(label: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
    let clean: String = label.to_ascii_lowercase().chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    if clean.is_empty() { "_".to_owned() } else { clean }
}

impl fmt::Display for Perf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |range: Option<Range>| range.map_or_else(String::new, |range| range.to_string());
        let bound = |bound: Option<f64>| bound.map_or_else(String::new, plain);
        // `U` is what the guidelines have for a value that could not be measured.
        let value = if self.value.is_finite() { plain(self.value) + self.unit.suffix() } else { "U".to_owned() };
        let all = format!(
            "{}={value};{};{};{};{}",
            self.label,
            range(self.warning),
            range(self.critical),
            bound(self.min),
            bound(self.max)
        );
        f.write_str(all.trim_end_matches(';'))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A parser that follows the grammar to the letter and owes nothing to the code above.
    pub(crate) fn strict_perfdata(text: &str) -> Result<Vec<(String, f64)>, String> {
        text.split(' ').map(strict_item).collect()
    }

    fn strict_item(item: &str) -> Result<(String, f64), String> {
        let (label, data) = item.split_once('=').ok_or_else(|| format!("no = in {item:?}"))?;
        if label.is_empty() || !label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-')) {
            return Err(format!("label {label:?}"));
        }
        if data.ends_with(';') || data.matches(';').count() > 4 {
            return Err(format!("semicolons in {item:?}"));
        }
        let mut fields = data.split(';');
        let value = fields.next().unwrap_or_default();
        let digits = value.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).unwrap_or(value.len());
        if !["", "s", "B", "c", "%"].contains(&&value[digits..]) {
            return Err(format!("unit in {item:?}"));
        }
        let value = strict_number(&value[..digits])?;
        for (at, field) in fields.enumerate().filter(|(_, field)| !field.is_empty()) {
            if at < 2 { strict_range(field)? } else { strict_number(field).map(drop)? }
        }
        Ok((label.to_owned(), value))
    }

    fn strict_number(text: &str) -> Result<f64, String> {
        let body = text.strip_prefix('-').unwrap_or(text);
        let (whole, places) = body.split_once('.').map_or((body, None), |(w, p)| (w, Some(p)));
        let is_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let has_places = places.is_none_or(is_digits);
        if !is_digits(whole) || !has_places || text == "-0" {
            return Err(format!("number {text:?}"));
        }
        text.parse().map_err(|_| format!("number {text:?}"))
    }

    fn strict_range(text: &str) -> Result<(), String> {
        let body = text.strip_prefix('@').unwrap_or(text);
        let Some((start, end)) = body.split_once(':') else {
            return strict_number(body).map(drop);
        };
        let low = if start == "~" { f64::NEG_INFINITY } else { strict_number(start)? };
        let high = if end.is_empty() { f64::INFINITY } else { strict_number(end)? };
        if low <= high { Ok(()) } else { Err(format!("range {text:?}")) }
    }

    fn limits(warning: &str, critical: &str) -> Limits {
        let limit = |typed: &str| {
            let range = typed.parse::<super::super::range::RangeSpec>().unwrap().absolute(None).unwrap();
            Some(Limit { typed: typed.to_owned(), range })
        };
        Limits { warning: limit(warning), critical: limit(critical) }
    }

    #[test]
    fn items_look_as_the_samples_do() {
        let shown = [
            Perf::count("engines_alive", 5.0).limits(&limits("2:", "1:")).to_string(),
            Perf::count("ready", 128.0).to_string(),
            Perf::span("oldest_ready", Duration::from_secs(42)).limits(&limits("5m", "30m")).to_string(),
            Perf::count("running", 17.0).max(20.0).to_string(),
            Perf::new("clock_skew", 0.02, PerfUnit::Seconds).to_string(),
            Perf::new("Last Success='Nächtlich'", 1e3, PerfUnit::Bytes).to_string(),
            Perf::new("", f64::NAN, PerfUnit::Percent).to_string(),
        ];
        let want = [
            "engines_alive=5;2:;1:;0",
            "ready=128;;;0",
            "oldest_ready=42s;300;1800;0",
            "running=17;;;0;20",
            "clock_skew=0.02s",
            "last_success__n_chtlich_=1000B",
            "_=U",
        ];
        assert_eq!(shown, want);
    }

    #[test]
    fn the_strict_parser_refuses_what_parsers_complain_about() {
        for bad in ["a=1;", "a=1e3", "A=1", "a=-0", "a=1;2;3;4;5;6", "'a'=1", "a=1ms", "a=1.", "a=1;20:10", "a=1  b=2"]
        {
            assert!(strict_perfdata(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_item_passes_the_strict_parser(
            label in ".{0,20}",
            value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO,
            unit in 0usize..5,
            ranges in (0u8..4, -1e6f64..1e6, 0f64..1e6, any::<bool>()),
            max in proptest::option::of(proptest::num::f64::NORMAL),
        ) {
            let units = [PerfUnit::None, PerfUnit::Seconds, PerfUnit::Bytes, PerfUnit::Counter, PerfUnit::Percent];
            let (low, high) = (plain(ranges.1), plain(ranges.1 + ranges.2));
            let typed = [high.clone(), format!("{low}:"), format!("~:{high}"), format!("{low}:{high}")];
            let at = if ranges.0 == 0 && high.starts_with('-') { "0".to_owned() } else { typed[ranges.0 as usize].clone() };
            let typed = if ranges.3 { format!("@{at}") } else { at };
            let perf = Perf::new(&label, value, units[unit]).limits(&limits(&typed, &typed));
            let shown = Perf { max, ..perf }.to_string();
            let read = strict_perfdata(&shown).map_err(TestCaseError::fail)?;
            let want = value.clamp(-1e15, 1e15);
            prop_assert!((read[0].1 - want).abs() <= 1e-6 + want.abs() * 1e-12, "{} is not {}", shown, value);
        }
    }
}
