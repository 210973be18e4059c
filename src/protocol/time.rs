//! Points in time. Two kinds that cannot be mixed up: [`LeaseInstant`] for leases on one host, and
//! [`Timestamp`] for what people see and what the database finds due.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point of one host's lease clock, in nanoseconds from an arbitrary start. Only differences on
/// one host and one boot mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseInstant(u64);

impl LeaseInstant {
    /// From nanoseconds of the lease clock.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds of the lease clock.
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This point plus `span`, saturating.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// UTC in whole microseconds since 1970, from the database's clock unless a name says otherwise.
/// Shown to people; decides when something is due; never decides that an engine is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since 1970-01-01T00:00:00Z.
    pub const fn from_us(us: i64) -> Self {
        Self(us)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn as_us(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        let us = self.0.saturating_sub(earlier.0);
        Duration::from_micros(if us < 0 { 0 } else { us as u64 })
    }

    /// This time plus `span`, saturating.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This time minus `span`, saturating.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        let t = Timestamp::from_us(i64::MAX - 1);
        assert_eq!(t.after(Duration::from_secs(1)).as_us(), i64::MAX);
        assert_eq!(Timestamp::from_us(5).since(Timestamp::from_us(9)), Duration::ZERO);
        assert_eq!(LeaseInstant::from_ns(u64::MAX).after(Duration::from_nanos(9)).as_ns(), u64::MAX);
    }
}
