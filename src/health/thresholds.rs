//! From what was typed or configured to what a mode judges against. Refuses whatever could only seem to
//! judge: a multiple of nothing, a count where time is measured, a limit that counting never reaches.

use std::str::FromStr;

use super::check::Mode;
use super::limits::{Limit, Limits};
use super::range::{Range, RangeSpec, Unit, plain};
use super::snapshot::COUNT_CAP;

/// Fewer failed tasks than this never alert where limits are multiples of normal: from 0 to 3 is
/// "infinitely" more.
pub const MIN_DEFAULT: u32 = 50;

/// What is normal, as the flags and the configuration say it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Normal {
    /// This many.
    Number(f64),
    /// Nothing is.
    None,
}

/// Why a normal number was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NormalError {
    /// Statistics are not used yet.
    #[error("auto is not available in this version, give the number that is normal")]
    Auto,
    /// Neither a number nor a word.
    #[error("write a whole number, or none")]
    NotANumber,
}

impl FromStr for Normal {
    type Err = NormalError;

    fn from_str(text: &str) -> Result<Self, NormalError> {
        match text {
            "none" => Ok(Self::None),
            _ if text == "auto" || text.starts_with("auto:") => Err(NormalError::Auto),
            // Through u32, which knows no sign, no exponent and no infinity.
            _ => text.parse().map(|number: u32| Self::Number(number.into())).map_err(|_| NormalError::NotANumber),
        }
    }
}

/// Thresholds as typed or configured, for one mode.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// `-w`.
    pub warning: Option<RangeSpec>,
    /// `-c`.
    pub critical: Option<RangeSpec>,
    /// `--normal`.
    pub normal: Option<Normal>,
    /// `--min`.
    pub min: Option<u32>,
}

impl Settings {
    /// Flags first, then the configuration.
    pub fn or(self, others: Self) -> Self {
        Self {
            warning: self.warning.or(others.warning),
            critical: self.critical.or(others.critical),
            normal: self.normal.or(others.normal),
            min: self.min.or(others.min),
        }
    }
}

/// Which engine the mode `engine` is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineRef {
    /// The one with this name.
    Named(String),
    /// All of this host.
    Local {
        /// Its host name, as engines register it.
        host: String,
    },
}

/// Everything a snapshot is judged against.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Thresholds {
    /// For the value the mode is about. Empty in `overall`, which has [`ProblemLimits`].
    pub limits: Limits,
    /// What is normal, for the text.
    pub normal: Option<f64>,
    /// Below this number nothing alerts (`--min`), and the limits as they would be without it, for the text.
    pub floor: Option<(u32, Limits)>,
    /// For the mode `engine`.
    pub engine: Option<EngineRef>,
    /// For the mode `overall`.
    pub problems: ProblemLimits,
}

/// What `overall` and `rekindle status` call a problem.
#[derive(Debug, Clone, PartialEq)]
pub struct ProblemLimits {
    /// Tasks in `failed`; with a normal number 1.5 and 2 times that.
    pub failed: Limits,
    /// Tasks in `quarantined`.
    pub quarantined: Limits,
    /// Tasks in `interrupted`: each needs a decision, so what is normal for `failed` hides none.
    pub interrupted: Limits,
    /// Tasks in `held`.
    pub held: Limits,
    /// Age of the oldest ready task in seconds.
    pub oldest_ready: Limits,
    /// Engines that are fenced, late or paused, each kind by itself.
    pub engines: Limits,
    /// Difference between this host's and the database's clock in seconds.
    pub clock_skew: Limits,
}

impl Default for ProblemLimits {
    fn default() -> Self {
        Self {
            failed: Limits::warn_of_any(),
            quarantined: Limits::critical_of_any(),
            interrupted: Limits::warn_of_any(),
            held: Limits::warn_of_any(),
            oldest_ready: built_in(Mode::Latency),
            engines: Limits::warn_of_any(),
            clock_skew: Limits {
                warning: Some(Limit { typed: "2s".to_owned(), range: Range::at_most(2.0) }),
                critical: None,
            },
        }
    }
}

/// Why thresholds do not fit the mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A multiple of an unknown number.
    #[error("limit {typed} is a multiple of what is normal; give that with --normal N, or give a plain number")]
    NoNormal {
        /// The mode.
        mode: &'static str,
        /// The limit.
        typed: String,
    },
    /// Nothing to judge against.
    #[error("mode {mode} needs a limit; give -w and -c, or --normal N")]
    NoLimit {
        /// The mode.
        mode: &'static str,
    },
    /// A time where the mode counts, or a multiple where nothing is normal.
    #[error("mode {mode} {what}, so '{typed}' does not fit; {hint}")]
    WrongUnit {
        /// The mode.
        mode: &'static str,
        /// What the mode does.
        what: &'static str,
        /// The limit.
        typed: String,
        /// What to do.
        hint: &'static str,
    },
    /// Counting stops before.
    #[error("counts stop at {COUNT_CAP}, so limit {typed} ({largest}) would never be seen; give a smaller one")]
    AboveCap {
        /// The limit.
        typed: String,
        /// Its absolute value.
        largest: String,
    },
    /// `overall` judges many things.
    #[error("mode overall has built-in limits; -w and -c belong to the other modes")]
    BuiltIn,
}

/// The limits of a mode where nothing else was said.
const fn default_limits(mode: Mode) -> (&'static str, &'static str) {
    match mode {
        Mode::Engines => ("2:", "1:"),
        Mode::Latency => ("5m", "30m"),
        Mode::Failed => ("1.5x", "2x"),
        Mode::Db => ("0.5s", "2s"),
        // Built in, or taken from the engine's own row.
        Mode::Overall | Mode::Engine => ("", ""),
    }
}

fn built_in(mode: Mode) -> Limits {
    let limit = |typed: &str| {
        let range = typed.parse::<RangeSpec>().ok()?.absolute(None)?;
        Some(Limit { typed: typed.to_owned(), range })
    };
    let (warning, critical) = default_limits(mode);
    Limits { warning: limit(warning), critical: limit(critical) }
}

impl Thresholds {
    /// Works out the absolute limits of a mode. Refuses whatever could only seem to judge.
    pub fn resolve(mode: Mode, settings: &Settings, engine: Option<EngineRef>) -> Result<Self, LimitError> {
        let has_limit = settings.warning.is_some() || settings.critical.is_some();
        if mode == Mode::Overall && has_limit {
            return Err(LimitError::BuiltIn);
        }
        let normal = match settings.normal {
            Some(Normal::Number(normal)) => Some(normal),
            Some(Normal::None) | None => None,
        };
        let mut problems = ProblemLimits::default();
        if mode == Mode::Overall {
            problems.failed = expected_failures(settings, normal)?;
        }
        let limits = resolve_limits(mode, settings, normal)?;
        let floor = floor(mode, settings, normal)?;
        Ok(Self { limits, normal, floor, engine, problems })
    }
}

/// What the smallest number that alerts hides.
fn floor(mode: Mode, settings: &Settings, normal: Option<f64>) -> Result<Option<(u32, Limits)>, LimitError> {
    if mode != Mode::Failed {
        return Ok(None);
    }
    let without = resolve_limits(mode, &Settings { min: Some(0), ..settings.clone() }, normal)?;
    Ok(Some((settings.min.unwrap_or(MIN_DEFAULT), without)))
}

/// How many failed tasks `overall` lives with.
fn expected_failures(settings: &Settings, normal: Option<f64>) -> Result<Limits, LimitError> {
    match (normal, settings.min) {
        (Some(_), _) => resolve_limits(Mode::Failed, settings, normal),
        (None, Some(min)) => {
            let range = Range::at_most(0.0).not_below(min.into());
            Ok(Limits { warning: Some(Limit { typed: format!("--min {min}"), range }), critical: None })
        }
        (None, None) => Ok(Limits::warn_of_any()),
    }
}

fn resolve_limits(mode: Mode, settings: &Settings, normal: Option<f64>) -> Result<Limits, LimitError> {
    let (warning, critical) = default_limits(mode);
    let has_limit = settings.warning.is_some() || settings.critical.is_some();
    // Whoever typed one absolute limit did not ask for a multiple as the other.
    let has_default = |typed: &str| !typed.is_empty() && (normal.is_some() || !typed.ends_with('x'));
    if mode == Mode::Failed && normal.is_none() && !has_limit {
        return Err(LimitError::NoLimit { mode: mode.word() });
    }
    let one = |given: &Option<RangeSpec>, default: &str| {
        let default = has_default(default).then(|| default.parse().ok()).flatten();
        given.clone().or(default).map(|spec| resolve_limit(mode, &spec, settings.min, normal)).transpose()
    };
    Ok(Limits { warning: one(&settings.warning, warning)?, critical: one(&settings.critical, critical)? })
}

fn resolve_limit(mode: Mode, spec: &RangeSpec, min: Option<u32>, normal: Option<f64>) -> Result<Limit, LimitError> {
    check_unit(mode, spec)?;
    let measures_time = !matches!(mode, Mode::Engines | Mode::Failed);
    // A bare number is seconds there, as in every plugin; the text says so.
    let is_bare = measures_time && spec.typed().bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let typed = if is_bare { format!("{}s", spec.typed()) } else { spec.typed().to_owned() };
    let Some(mut range) = spec.absolute(normal) else {
        return Err(LimitError::NoNormal { mode: mode.word(), typed });
    };
    let is_multiple = spec.unit() == Some(Unit::TimesNormal);
    if let Some(min) = min.or(is_multiple.then_some(MIN_DEFAULT)).filter(|_| mode == Mode::Failed) {
        range = range.not_below(min.into());
    }
    if mode == Mode::Failed && range.largest() > f64::from(COUNT_CAP) {
        return Err(LimitError::AboveCap { typed, largest: plain(range.largest()) });
    }
    Ok(Limit { typed, range })
}

fn check_unit(mode: Mode, spec: &RangeSpec) -> Result<(), LimitError> {
    let (mode_word, typed) = (mode.word(), spec.typed().to_owned());
    let wrong = |what, hint| Err(LimitError::WrongUnit { mode: mode_word, what, typed: typed.clone(), hint });
    let is_count = matches!(mode, Mode::Engines | Mode::Failed);
    match spec.unit() {
        Some(Unit::TimesNormal) if mode != Mode::Failed => wrong("knows no normal number", "give an absolute limit"),
        Some(Unit::Seconds) if is_count => wrong("counts", "leave the unit out"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::check::Status;

    fn settings(warning: &str, critical: &str, normal: Option<f64>, min: Option<u32>) -> Settings {
        let spec = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        Settings { warning: spec(warning), critical: spec(critical), normal: normal.map(Normal::Number), min }
    }

    fn ranges(mode: Mode, settings: &Settings) -> [String; 2] {
        let limits = Thresholds::resolve(mode, settings, None).unwrap().limits;
        [limits.warning, limits.critical].map(|limit| limit.map_or_else(String::new, |l| l.range.to_string()))
    }

    fn refusal(mode: Mode, settings: &Settings) -> String {
        Thresholds::resolve(mode, settings, None).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let none = Settings::default();
        assert_eq!(ranges(Mode::Engines, &none), ["2:", "1:"]);
        assert_eq!(ranges(Mode::Latency, &none), ["300", "1800"]);
        assert_eq!(ranges(Mode::Db, &none), ["0.5", "2"]);
        assert_eq!(ranges(Mode::Engine, &none), ["", ""]);
        assert_eq!(ranges(Mode::Failed, &settings("", "", Some(498.0), None)), ["747", "996"]);
    }

    #[test]
    fn a_bare_number_is_seconds_where_time_is_measured() {
        assert_eq!(ranges(Mode::Latency, &settings("300", "1800", None, None)), ["300", "1800"]);
        assert_eq!(ranges(Mode::Db, &settings("@1:2", "0.5", None, None)), ["@1:2", "0.5"]);
        let limits = Thresholds::resolve(Mode::Latency, &settings("300", "", None, None), None).unwrap().limits;
        assert_eq!(limits.broken(301.0).as_deref(), Some("limit 300s"));
    }

    #[test]
    fn small_numbers_do_not_alert_as_multiples() {
        assert_eq!(ranges(Mode::Failed, &settings("", "", Some(3.0), None)), ["49", "49"]);
        assert_eq!(ranges(Mode::Failed, &settings("", "", Some(3.0), Some(0))), ["4.5", "6"]);
        let typed = ranges(Mode::Failed, &settings("10", "20", None, None));
        assert_eq!(typed, ["10", "20"], "who types a number means it");
        assert_eq!(ranges(Mode::Failed, &settings("10", "", None, Some(30))), ["29", ""]);
    }

    #[test]
    fn overall_with_a_normal_number_expects_that_many_failed_tasks() {
        let normal = settings("", "", Some(500.0), None);
        let problems = Thresholds::resolve(Mode::Overall, &normal, None).unwrap().problems;
        assert_eq!(problems.failed.status(750.0), Status::Ok);
        assert_eq!(problems.failed.status(751.0), Status::Warning);
        assert_eq!(ProblemLimits::default().failed.status(1.0), Status::Warning);
    }

    #[test]
    fn limits_that_do_not_fit_are_refused_with_a_hint() {
        assert_eq!(
            refusal(Mode::Failed, &settings("1.5x", "", None, None)),
            "limit 1.5x is a multiple of what is normal; give that with --normal N, or give a plain number"
        );
        assert_eq!(
            refusal(Mode::Failed, &Settings::default()),
            "mode failed needs a limit; give -w and -c, or --normal N"
        );
        assert_eq!(
            refusal(Mode::Engines, &settings("5m:", "", None, None)),
            "mode engines counts, so '5m:' does not fit; leave the unit out"
        );
        assert_eq!(
            refusal(Mode::Db, &settings("", "2x", Some(5.0), None)),
            "mode db knows no normal number, so '2x' does not fit; give an absolute limit"
        );
        assert_eq!(
            refusal(Mode::Failed, &settings("2x", "", Some(90_000.0), None)),
            "counts stop at 100000, so limit 2x (180000) would never be seen; give a smaller one"
        );
        assert_eq!(
            refusal(Mode::Overall, &settings("5", "", None, None)),
            "mode overall has built-in limits; -w and -c belong to the other modes"
        );
    }

    #[test]
    fn flags_win_over_the_configuration() {
        let config = settings("5m", "30m", Some(7.0), Some(9));
        let both = settings("", "1h", None, None).or(config);
        assert_eq!(ranges(Mode::Latency, &both), ["300", "3600"]);
        assert_eq!((both.normal, both.min), (Some(Normal::Number(7.0)), Some(9)));
    }
}
