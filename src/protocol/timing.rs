//! The timing of one engine: h, q, L, K, T, S, and the two inequalities, checked once where a
//! [`Timing`] is made. A `Timing` that exists is safe.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// All spans of one incarnation, fixed for its life and published in its row. Peers judge an engine by
/// the values of its row, so profiles may mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timing {
    heartbeat_ms: u32,
    query_ms: u32,
    lease_ms: u32,
    kill_ms: u32,
    takeover_ms: u32,
    sweep_ms: u32,
}

/// A named set of spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Fenced without proof after 4.1 s; a database outage of 1.0 s is ridden out.
    Fast,
    /// Fenced without proof after 16 s; a database outage of 4.5 s is ridden out.
    #[default]
    Balanced,
    /// Fenced without proof after 63.5 s; a database outage of 17.7 s is ridden out.
    Tolerant,
}

impl Profile {
    /// All profiles with their names.
    pub const ALL: [(&'static str, Self); 3] =
        [("fast", Self::Fast), ("balanced", Self::Balanced), ("tolerant", Self::Tolerant)];

    /// The spans of this profile.
    pub const fn spans(self) -> Spans {
        let (h, q, l, k, t, s) = match self {
            Self::Fast => (500, 400, 2_500, 500, 3_200, 250),
            Self::Balanced => (2_000, 1_500, 10_000, 2_000, 12_500, 1_000),
            Self::Tolerant => (10_000, 5_000, 40_000, 5_000, 46_000, 5_000),
        };
        Spans { heartbeat_ms: h, query_ms: q, lease_ms: l, kill_ms: k, takeover_ms: t, sweep_ms: s }
    }
}

/// Spans that were not checked yet; single values may be replaced before [`Timing::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spans {
    /// h: heartbeat interval (±10 % jitter).
    pub heartbeat_ms: u32,
    /// q: timeout of one heartbeat, connect and transaction together.
    pub query_ms: u32,
    /// L: lease, counted from before sending the last accepted beat.
    pub lease_ms: u32,
    /// K: everything the engine started is dead by L + K.
    pub kill_ms: u32,
    /// T: a peer may fence after the beat stood still this long.
    pub takeover_ms: u32,
    /// S: sweep interval, at least.
    pub sweep_ms: u32,
}

/// Why timing was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// A span is zero or over an hour.
    #[error("timing.{name} must be between 10 ms and 1 h, it is {ms} ms")]
    OutOfRange {
        /// Which span.
        name: &'static str,
        /// Its value.
        ms: u32,
    },
    /// A peer could fence before this engine has killed everything.
    #[error(
        "T = {takeover_ms} ms is too short: T >= 1.02 * (L + K) = {needed_ms} ms must hold (L = {lease_ms} ms, K = {kill_ms} ms)"
    )]
    TakeoverTooShort {
        /// T.
        takeover_ms: u32,
        /// L.
        lease_ms: u32,
        /// K.
        kill_ms: u32,
        /// The smallest T that is allowed.
        needed_ms: u64,
    },
    /// One lost beat would end the lease.
    #[error(
        "L = {lease_ms} ms is too short: 1.1 * h + 2 * q = {needed_ms} ms <= L must hold (h = {heartbeat_ms} ms, q = {query_ms} ms)"
    )]
    LeaseTooShort {
        /// L.
        lease_ms: u32,
        /// h.
        heartbeat_ms: u32,
        /// q.
        query_ms: u32,
        /// The smallest L that is allowed.
        needed_ms: u64,
    },
}

const fn ms(value: u32) -> Duration {
    Duration::from_millis(value as u64)
}

impl Timing {
    /// Checks the spans and the two inequalities.
    pub fn new(spans: Spans) -> Result<Self, TimingError> {
        let Spans { heartbeat_ms, query_ms, lease_ms, kill_ms, takeover_ms, sweep_ms } = spans;
        for (name, ms) in
            [("h", heartbeat_ms), ("q", query_ms), ("L", lease_ms), ("K", kill_ms), ("T", takeover_ms), ("S", sweep_ms)]
        {
            if !(10..=3_600_000).contains(&ms) {
                return Err(TimingError::OutOfRange { name, ms });
            }
        }
        // In hundredths of a millisecond, so that the products are exact.
        let needed = 102 * (u64::from(lease_ms) + u64::from(kill_ms));
        if u64::from(takeover_ms) * 100 < needed {
            return Err(TimingError::TakeoverTooShort {
                takeover_ms,
                lease_ms,
                kill_ms,
                needed_ms: needed.div_ceil(100),
            });
        }
        let needed = 110 * u64::from(heartbeat_ms) + 200 * u64::from(query_ms);
        if needed > u64::from(lease_ms) * 100 {
            return Err(TimingError::LeaseTooShort {
                lease_ms,
                heartbeat_ms,
                query_ms,
                needed_ms: needed.div_ceil(100),
            });
        }
        Ok(Self { heartbeat_ms, query_ms, lease_ms, kill_ms, takeover_ms, sweep_ms })
    }

    /// The spans of a profile.
    pub fn of(profile: Profile) -> Self {
        Self::new(profile.spans()).expect("a test checks every profile")
    }

    /// The longest T that is allowed: nobody has to be given longer.
    pub fn longest() -> Self {
        let spans = Spans {
            heartbeat_ms: 10_000,
            query_ms: 5_000,
            lease_ms: 3_000_000,
            kill_ms: 500_000,
            takeover_ms: 3_600_000,
            sweep_ms: 5_000,
        };
        Self::new(spans).expect("a test checks it")
    }

    /// The raw spans, for the row and for messages.
    pub const fn spans(&self) -> Spans {
        Spans {
            heartbeat_ms: self.heartbeat_ms,
            query_ms: self.query_ms,
            lease_ms: self.lease_ms,
            kill_ms: self.kill_ms,
            takeover_ms: self.takeover_ms,
            sweep_ms: self.sweep_ms,
        }
    }

    /// h.
    pub const fn heartbeat_interval(&self) -> Duration {
        ms(self.heartbeat_ms)
    }
    /// q.
    pub const fn query_timeout(&self) -> Duration {
        ms(self.query_ms)
    }
    /// L.
    pub const fn lease(&self) -> Duration {
        ms(self.lease_ms)
    }
    /// K.
    pub const fn kill_budget(&self) -> Duration {
        ms(self.kill_ms)
    }
    /// T.
    pub const fn takeover_after(&self) -> Duration {
        ms(self.takeover_ms)
    }
    /// S.
    pub const fn sweep_interval(&self) -> Duration {
        ms(self.sweep_ms)
    }
    /// When SIGKILL follows the SIGTERM of a lost lease, counted from the last accepted beat: L + K/4.
    pub fn kill_after(&self) -> Duration {
        self.lease() + self.kill_budget() / 4
    }
    /// When the guard acts if it heard neither a renewal nor "all clear": L + K/2.
    pub fn guard_after(&self) -> Duration {
        self.lease() + self.kill_budget() / 2
    }
    /// When everything must be dead: L + K.
    pub fn dead_after(&self) -> Duration {
        self.lease() + self.kill_budget()
    }
    /// How long after the sweep filter sees a beat as recent: 1.25 h.
    pub fn recent(&self) -> Duration {
        self.heartbeat_interval() * 5 / 4
    }
    /// After a failed beat the next one is sent this long after its own sending: h/2, then h/4, then h/8.
    pub fn retry_after(&self, failed_in_a_row: u32) -> Duration {
        match failed_in_a_row {
            0 => self.heartbeat_interval(),
            1 => self.heartbeat_interval() / 2,
            2 => self.heartbeat_interval() / 4,
            _ => self.heartbeat_interval() / 8,
        }
    }
    /// The heartbeat interval with jitter; `roll` in 0..=1 is drawn by the caller (±10 %).
    pub fn jittered_interval(&self, roll: f64) -> Duration {
        self.heartbeat_interval().mul_f64(0.9 + 0.2 * roll.clamp(0.0, 1.0))
    }
    /// max(S, N/20 s): with many engines each sweeps less often, so that the database's load stays flat.
    pub fn sweep_after(&self, live_count: usize) -> Duration {
        self.sweep_interval().max(Duration::from_millis(live_count as u64 * 50))
    }
    /// The longest database outage that disturbs no task: L − 1.1 h − 2 q − h/8.
    pub fn outage_ridden_out(&self) -> Duration {
        let h = self.heartbeat_interval();
        self.lease().saturating_sub(h * 11 / 10 + self.query_timeout() * 2 + h / 8)
    }
    /// The latest fence of an engine that died without proof, after its last beat: 1.25 h + S + T.
    pub fn fenced_within(&self) -> Duration {
        self.recent() + self.sweep_interval() + self.takeover_after()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_keeps_both_inequalities() {
        for (_, profile) in Profile::ALL {
            Timing::new(profile.spans()).unwrap();
        }
    }

    #[test]
    fn profiles_ride_out_what_the_design_says() {
        let ms = |p| Timing::of(p).outage_ridden_out().as_millis();
        assert_eq!((ms(Profile::Fast), ms(Profile::Balanced), ms(Profile::Tolerant)), (1_087, 4_550, 17_750));
        let fenced = |p| Timing::of(p).fenced_within().as_millis();
        assert_eq!((fenced(Profile::Fast), fenced(Profile::Balanced)), (4_075, 16_000));
    }

    #[test]
    fn takeover_below_102_percent_of_lease_and_kill_is_refused() {
        let mut spans = Profile::Balanced.spans();
        spans.takeover_ms = 12_240;
        assert!(Timing::new(spans).is_ok());
        spans.takeover_ms = 12_239;
        assert_eq!(
            Timing::new(spans),
            Err(TimingError::TakeoverTooShort {
                takeover_ms: 12_239,
                lease_ms: 10_000,
                kill_ms: 2_000,
                needed_ms: 12_240
            })
        );
    }

    #[test]
    fn lease_that_one_lost_beat_would_end_is_refused() {
        let mut spans = Profile::Balanced.spans();
        (spans.lease_ms, spans.takeover_ms) = (5_200, 8_000);
        assert!(Timing::new(spans).is_ok());
        spans.lease_ms = 5_199;
        assert!(matches!(Timing::new(spans), Err(TimingError::LeaseTooShort { needed_ms: 5_200, .. })));
    }

    #[test]
    fn zero_and_absurd_spans_are_refused() {
        let mut spans = Profile::Fast.spans();
        spans.sweep_ms = 0;
        assert!(matches!(Timing::new(spans), Err(TimingError::OutOfRange { name: "S", .. })));
        spans = Profile::Fast.spans();
        spans.lease_ms = 3_600_001;
        assert!(matches!(Timing::new(spans), Err(TimingError::OutOfRange { name: "L", .. })));
    }

    #[test]
    fn failed_beats_come_sooner_and_sooner() {
        let t = Timing::of(Profile::Balanced);
        let after: Vec<_> = (0..5).map(|n| t.retry_after(n).as_millis()).collect();
        assert_eq!(after, [2_000, 1_000, 500, 250, 250]);
        assert_eq!(t.jittered_interval(0.0), Duration::from_millis(1_800));
        assert_eq!(t.jittered_interval(1.0), Duration::from_millis(2_200));
    }

    #[test]
    fn sweeps_thin_out_with_many_engines() {
        let t = Timing::of(Profile::Balanced);
        assert_eq!(t.sweep_after(3), Duration::from_secs(1));
        assert_eq!(t.sweep_after(1_000), Duration::from_secs(50));
    }
}
