//! When a temporary failure is tried again, and when it is given up.

use std::time::Duration;

/// Exponential backoff of a kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all that may end temporarily, the first included; 0 and 1 both mean "no retry".
    pub max: u32,
    /// Delay after the first failure.
    pub first: Duration,
    /// Each delay is the last one times this (at least 1).
    pub factor: f64,
    /// No delay is longer than this, before jitter.
    pub delay_max: Duration,
    /// Share of the delay that is drawn by lot: 0.2 means ±20 %.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max: 5, first: Duration::from_secs(10), factor: 3.0, delay_max: Duration::from_secs(3_600), jitter: 0.2 }
    }
}

/// What follows a temporary failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Try again after this long.
    After(Duration),
    /// The budget is used up.
    GiveUp,
}

impl RetryPolicy {
    /// What follows the `failed`-th temporary failure (from 1). `roll` in 0..=1 is drawn by the caller.
    pub fn next(&self, failed: u32, roll: f64) -> Retry {
        if failed >= self.max.max(1) {
            return Retry::GiveUp;
        }
        let cap = self.delay_max.as_secs_f64();
        // powi with a large exponent is infinite, which the cap takes care of.
        let exponent = i32::try_from(failed.saturating_sub(1)).unwrap_or(i32::MAX);
        let base = (self.first.as_secs_f64() * self.factor.max(1.0).powi(exponent)).min(cap);
        let jitter = self.jitter.clamp(0.0, 1.0);
        let delay = base * (1.0 - jitter + 2.0 * jitter * roll.clamp(0.0, 1.0));
        Retry::After(Duration::from_secs_f64(delay.clamp(0.0, 2.0 * cap)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(max: u32) -> RetryPolicy {
        RetryPolicy {
            max,
            first: Duration::from_secs(10),
            factor: 3.0,
            delay_max: Duration::from_secs(100),
            jitter: 0.0,
        }
    }

    #[test]
    fn delays_grow_to_the_cap_and_then_give_up() {
        let p = plain(6);
        let after = |n| p.next(n, 0.5);
        assert_eq!(after(1), Retry::After(Duration::from_secs(10)));
        assert_eq!(after(2), Retry::After(Duration::from_secs(30)));
        assert_eq!(after(3), Retry::After(Duration::from_secs(90)));
        assert_eq!(after(4), Retry::After(Duration::from_secs(100)));
        assert_eq!(after(5), Retry::After(Duration::from_secs(100)));
        assert_eq!(after(6), Retry::GiveUp);
    }

    #[test]
    fn zero_and_one_mean_no_retry() {
        assert_eq!(plain(0).next(1, 0.0), Retry::GiveUp);
        assert_eq!(plain(1).next(1, 0.0), Retry::GiveUp);
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let p = RetryPolicy { jitter: 0.2, ..plain(3) };
        assert_eq!(p.next(1, 0.0), Retry::After(Duration::from_secs(8)));
        assert_eq!(p.next(1, 1.0), Retry::After(Duration::from_secs(12)));
    }

    #[test]
    fn absurd_budgets_do_not_overflow() {
        let p = RetryPolicy { max: u32::MAX, factor: 1e300, ..plain(3) };
        assert_eq!(p.next(u32::MAX - 1, 0.5), Retry::After(Duration::from_secs(100)));
    }
}
