//! Absolute limits, which judge one value.
//!
//! The same [`Limits`] give the status, the "(limit 5m)" of the text and the thresholds of the perfdata.

use super::check::Status;
use super::range::Range;

/// One limit: absolute, and as people wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// For texts: `1.5x`, `5m`.
    pub typed: String,
    /// What judges.
    pub range: Range,
}

/// When to warn and when to call.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    /// WARNING.
    pub warning: Option<Limit>,
    /// CRITICAL.
    pub critical: Option<Limit>,
}

impl Limits {
    /// WARNING as soon as there is one.
    pub fn warn_of_any() -> Self {
        Self { warning: Some(Limit { typed: "0".to_owned(), range: Range::at_most(0.0) }), critical: None }
    }

    /// CRITICAL as soon as there is one.
    pub fn critical_of_any() -> Self {
        Self { warning: None, critical: Self::warn_of_any().warning }
    }

    /// The status of a value, and the limit that it broke.
    pub fn judge(&self, value: f64) -> (Status, Option<&Limit>) {
        let broken = |limit: &&Limit| limit.range.is_alert(value);
        match (self.critical.as_ref().filter(broken), self.warning.as_ref().filter(broken)) {
            (Some(limit), _) => (Status::Critical, Some(limit)),
            (None, Some(limit)) => (Status::Warning, Some(limit)),
            (None, None) => (Status::Ok, None),
        }
    }

    /// The status of a value.
    pub fn status(&self, value: f64) -> Status {
        self.judge(value).0
    }

    /// `limit 5m`, or nothing where no limit is broken.
    pub fn broken(&self, value: f64) -> Option<String> {
        self.judge(value).1.map(|limit| format!("limit {}", limit.typed))
    }

    /// These, filled up with others.
    pub fn or(self, others: Self) -> Self {
        Self { warning: self.warning.or(others.warning), critical: self.critical.or(others.critical) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_limit_is_the_one_that_is_named() {
        let limit = |typed: &str, end| Some(Limit { typed: typed.to_owned(), range: Range::at_most(end) });
        let limits = Limits { warning: limit("5m", 300.0), critical: limit("30m", 1_800.0) };
        assert_eq!(limits.broken(300.0), None);
        assert_eq!(limits.broken(301.0).as_deref(), Some("limit 5m"));
        assert_eq!(limits.broken(1_801.0).as_deref(), Some("limit 30m"));
        assert_eq!(limits.status(1_801.0), Status::Critical);
    }
}
