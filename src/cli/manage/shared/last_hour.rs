//! What `rekindle status` tells of the last hour beside the counts that the database can give exactly: what
//! is normal at this hour of the week, and how attempts went, from the hourly numbers that engines keep.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::human::{clock_time, rfc3339, seconds, took};
use crate::cli::session::Session;
use crate::protocol::task::AttemptResult;
use crate::protocol::time::Timestamp;
use crate::store::{Counts, HourRow, Store, StoreResult};

const HOUR_US: i64 = 3_600_000_000;
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// So many weeks make what is normal, and less than two of them make nothing.
const WEEKS: u32 = 4;
const WEEKS_MIN: usize = 2;

/// This hour, the one before, and the same hour of former weeks.
#[derive(Debug, Clone, Default)]
pub struct LastHour {
    hours: Vec<HourRow>,
    /// Tasks that fail for good at this hour of the week: the median of the last four weeks.
    pub normal_failed: Option<u64>,
}

fn full_hour(at: Timestamp) -> Timestamp {
    Timestamp::from_us(at.as_us() - at.as_us().rem_euclid(HOUR_US))
}

impl LastHour {
    /// Asks for it. Numbers for people: where they cannot be read, the rest of the screen matters more.
    pub fn read(session: &Session, now: Timestamp) -> Self {
        let answer = session.try_read("reading the hourly numbers", move |store| Self::ask(store, now));
        match answer {
            Ok(Ok(last)) => last,
            Ok(Err(error)) => {
                log::warn!("the hourly numbers could not be read: {}", session.error(&error).what);
                Self::default()
            }
            Err(_) => Self::default(),
        }
    }

    fn ask(store: &dyn Store, now: Timestamp) -> StoreResult<Self> {
        let this = full_hour(now);
        let hours = store.hours(&[this.before(Duration::from_secs(3_600)), this])?;
        // Most of the last hour lies in the full hour in which its middle lies.
        let middle = full_hour(now.before(Duration::from_secs(1_800)));
        let weeks: Vec<Timestamp> = (1..=WEEKS).map(|week| middle.before(WEEK * week)).collect();
        let former = store.hours(&weeks)?;
        let first = store.first_hour()?;
        let known = weeks.iter().filter(|at| first.is_some_and(|first| first <= **at));
        let failed = |at: &Timestamp| {
            former.iter().filter(|row| row.starts_at == *at).map(|row| row.counts.failed_for_good).sum::<u64>()
        };
        Ok(Self { hours, normal_failed: median(known.map(failed).collect()) })
    }

    /// `HOURS     since 13:00: 2514 done, 12 retried, ...`; nothing where nothing was counted.
    pub fn line(&self, in_utc: bool) -> Option<String> {
        let since = clock_time(self.hours.first()?.starts_at, in_utc);
        let mut all = Counts::default();
        self.hours.iter().for_each(|row| all.add(&row.counts));
        let retried = all.of(AttemptResult::Tempfail) + all.of(AttemptResult::Timeout) + all.of(AttemptResult::Crash);
        let ended: u64 = all.results.iter().sum();
        let attempts = if ended == 1 { "attempt" } else { "attempts" };
        let mut parts = vec![format!("since {}: {ended} {attempts} ended", since.get(..5).unwrap_or(&since))];
        let more = [(retried, "with a temporary failure"), (all.of(AttemptResult::Fenced), "refused")];
        parts.extend(more.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")));
        let spans = [
            ("waited", all.wait_us.checked_div(all.waited), all.wait_max_us),
            ("ran", all.run_us.checked_div(ended), all.run_max_us),
        ];
        for (word, mean, most) in spans {
            let Some(mean) = mean.filter(|_| most > 0) else { continue };
            let show = |us| took(Duration::from_micros(us));
            parts.push(format!("{word} {} on average, {} at most", show(mean), show(most)));
        }
        Some(parts.join("; "))
    }

    /// For JSON.
    pub fn items(&self) -> Value {
        self.hours.iter().map(item).collect()
    }
}

fn item(row: &HourRow) -> Value {
    let counts = &row.counts;
    let span = |us: u64| seconds(Duration::from_micros(us));
    let mut item = json!({
        "starts_at": rfc3339(row.starts_at),
        "kind": row.kind,
        "claimed": counts.claimed,
        "failed_for_good": counts.failed_for_good,
        "quarantined": counts.quarantined,
        "run_s": span(counts.run_us),
        "run_max_s": span(counts.run_max_us),
        "waited": counts.waited,
        "wait_s": span(counts.wait_us),
        "wait_max_s": span(counts.wait_max_us),
    });
    let results: serde_json::Map<String, Value> =
        AttemptResult::ALL.iter().map(|result| (result.word().to_owned(), json!(counts.of(*result)))).collect();
    item["results"] = Value::Object(results);
    item
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    (values.len() >= WEEKS_MIN).then(|| (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::protocol::ids::{Incarnation, KindName};
    use crate::protocol::takeover::Next;
    use crate::store::MemoryStore;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn fail(store: &MemoryStore, times: u64) {
        let mut counts = Counts::default();
        (0..times).for_each(|_| counts.ended(AttemptResult::Tempfail, &Next::Failed, Some(Duration::from_secs(2))));
        counts.claimed(Some(Duration::from_millis(500)));
        store.add_hours(Incarnation::new(1), &BTreeMap::from([(KindName::new("mail").unwrap(), counts)])).unwrap();
    }

    #[test]
    fn normal_is_the_median_of_the_same_hour_of_former_weeks() {
        let clock = ManualClock::new();
        let store = MemoryStore::new(Arc::new(clock.clone()));
        let ask = || LastHour::ask(&store, store.meta().unwrap().now).unwrap();
        assert_eq!((ask().normal_failed, ask().line(true)), (None, None), "nothing is known");
        // In the middle of an hour, so that the middle of the last hour lies in the hour before.
        let into = u64::try_from(store.meta().unwrap().now.as_us().rem_euclid(HOUR_US)).unwrap();
        clock.advance(Duration::from_micros(HOUR_US as u64 - into + 600_000_000));
        for times in [2, 9, 4] {
            fail(&store, times);
            clock.advance(WEEK);
        }
        fail(&store, 1);
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(ask().normal_failed, Some(4));
        assert_eq!(median(vec![2, 8]), Some(5));
        assert_eq!(median(vec![7]), None, "one week is no rule");
        let line = ask().line(true).unwrap();
        assert!(
            line.ends_with(
                "1 attempt ended; 1 with a temporary failure; waited 0.5s on average, 0.5s at most; ran 2.0s on \
                 average, 2.0s at most"
            ),
            "{line}"
        );
        assert_eq!(ask().items()[0]["results"]["tempfail"], 1);
    }
}
