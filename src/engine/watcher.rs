//! The watcher's loop: turns changes in the database into wake-ups. Nothing depends on it but speed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lane::Lane;
use super::shared::Shared;
use super::stop::Ending;
use crate::protocol::time::LeaseInstant;

/// Between two looks of the watcher where nobody tells it of a change, and the longest pause after a change: a busy
/// database changes all the time. A look sends no statement, but each change that it sees costs one.
const WATCH_INTERVAL: Duration = Duration::from_millis(150);

/// The pause after a change that was worth it: what one event writes comes in several commits. A proof of death is
/// one, what the dead engine left is ready again with the next. Doubles with each change that follows and brought
/// this engine nothing, so that a flood of them that is about others costs it few statements.
const EAGER_INTERVAL: Duration = Duration::from_millis(5);

/// So many changes that bring nothing are paid for by one that brought work: on SQLite the engines' own commits are
/// changes too, and of two engines the other one may be faster.
const CREDIT: u32 = 6;

/// The most that is saved up.
const CREDIT_MAX: u32 = 2 * CREDIT;

/// The same where the kernel tells: a change is then acted on at once, and this only finds one that it kept
/// to itself.
const BELL_INTERVAL: Duration = Duration::from_secs(2);

/// How long it pauses after a change.
struct Patience {
    next: Duration,
    credit: u32,
    changed_at: LeaseInstant,
    with_work: u64,
}

impl Patience {
    fn new(now: LeaseInstant) -> Self {
        Self { next: EAGER_INTERVAL, credit: 0, changed_at: now, with_work: 0 }
    }

    /// The pause after a change at `now`; `with_work` counts the looks for tasks that found some.
    fn after_change(&mut self, now: LeaseInstant, with_work: u64) -> Duration {
        let is_worth_it = with_work != std::mem::replace(&mut self.with_work, with_work);
        let is_first = now.since(std::mem::replace(&mut self.changed_at, now)) > WATCH_INTERVAL * 2;
        if is_worth_it {
            self.credit = (self.credit + CREDIT).min(CREDIT_MAX);
        }
        let is_paid = self.credit > 0;
        self.credit = self.credit.saturating_sub(1);
        self.next = if is_paid || is_first { EAGER_INTERVAL } else { (self.next * 2).min(WATCH_INTERVAL) };
        self.next
    }
}

/// See the module.
pub fn watch_loop(shared: &Arc<Shared>) {
    // Connecting may hang, like every other call.
    let mut lane = Lane::new("watch", Arc::clone(&shared.store), Arc::clone(&shared.abandoned));
    let mut watcher = None;
    // The first look waits for no bell: what came while the watcher was set up may have rung already.
    let mut is_new = true;
    let mut pause = WATCH_INTERVAL;
    let mut patience = Patience::new(shared.clock.lease_now());
    while !shared.stop.wait(Ending::Loops, pause) {
        pause = WATCH_INTERVAL;
        let Some(open) = &mut watcher else {
            let timeout = shared.options.timing.query_timeout().max(Duration::from_secs(1));
            watcher = lane.call("watch", timeout, |store| store.watcher()).ok();
            (is_new, pause) = (true, Duration::ZERO);
            if watcher.is_none() {
                shared.stop.wait(Ending::Loops, Duration::from_secs(2));
            }
            continue;
        };
        if let Some(bell) = open.bell().filter(|_| !std::mem::take(&mut is_new))
            && shared.stop.wait_readable(bell, BELL_INTERVAL)
        {
            return;
        }
        match open.has_changed() {
            Ok(true) => {
                shared.wake_dispatcher();
                if open.bell().is_some() {
                    pause = patience
                        .after_change(shared.clock.lease_now(), shared.passes_with_work.load(Ordering::Relaxed));
                }
            }
            // It rang for something else, or did not ring: one that rings for ever must not make this spin.
            Ok(false) if open.bell().is_some() => pause = EAGER_INTERVAL,
            Ok(false) => {}
            Err(error) => {
                log::debug!("the watcher lost its connection: {}", error.chain());
                watcher = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> LeaseInstant {
        LeaseInstant::from_ns(0).after(Duration::from_millis(ms))
    }

    #[test]
    fn changes_that_bring_work_are_acted_on_at_once_however_many() {
        let mut patience = Patience::new(at(0));
        let worst = (1..500).map(|n| patience.after_change(at(n * 20), n)).max();
        assert_eq!(worst, Some(EAGER_INTERVAL));
    }

    #[test]
    fn what_follows_each_new_task_does_not_make_the_next_one_wait() {
        let mut patience = Patience::new(at(0));
        // It is added, claimed and ended, and the other engine takes every other one: six changes, one brings work.
        let worst = (1..500).map(|n| patience.after_change(at(n * 10), n / 6)).skip(6).max();
        assert_eq!(worst, Some(EAGER_INTERVAL));
    }

    #[test]
    fn a_flood_of_changes_for_others_is_looked_at_seldom() {
        let mut patience = Patience::new(at(0));
        let (mut now, mut looks) = (0, 0);
        while now < 10_000 {
            now += u64::try_from(patience.after_change(at(now), 0).as_millis()).unwrap();
            looks += 1;
        }
        assert!(looks <= 72, "{looks} statements in ten seconds");
        // And after a quiet while the next one is a first one again.
        assert_eq!(patience.after_change(at(now + 1_000), 0), EAGER_INTERVAL);
    }
}
