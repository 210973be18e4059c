//! What systemd hears of an engine: that it is up, what it does, and that its watchdog may wait. Below a guard the
//! guard says it, as the unit's main process (`guard/notify.rs`); an engine without one says it itself.
//!
//! The watchdog covers what nobody inside can: guard and engine frozen at once. Everything the engine runs
//! must be dead by L + K after its last accepted beat was sent, so a beat moves the watchdog to K/4 before
//! that: the guard acts at L + K/2, and the last quarter is systemd's own for the killing. The time is told
//! with every beat (`WATCHDOG_USEC`), because the unit's `WatchdogSec` cannot know the profile, and because a
//! fixed one that is safe after the slowest beat (L + K − 2q) would be over before L after a quick one: each
//! outage that long would kill the engine instead of letting it fence itself and come back, and with it the
//! `continue` tasks that are to run through. `WatchdogSec` holds until the first message.
//!
//! Where no lease is held (before the first, after "all clear") nothing runs that has to be dead by some
//! time: there the watchdog is for a process that hangs, not for a database that is away, and is fed about
//! once a second. Between L and "all clear" nobody feeds it.

use std::time::Duration;

use parking_lot::Mutex;
use sd_notify::NotifyState;

use super::shared::Shared;
use crate::clock::{Clock, SystemClock};
use crate::guard::GuardTalk;
use crate::protocol::time::LeaseInstant;

/// Between two feedings while no lease is held.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Before there is an engine one call to the database may take as long as connecting and a statement may.
const STARTING: Duration = Duration::from_secs(300);

/// Of an engine.
#[derive(Debug, Default)]
pub struct Unit {
    fed_at: Mutex<Option<LeaseInstant>>,
}

impl Unit {
    /// A beat was accepted: the engine is up, and what it runs is dead at the latest K/4 after `watchdog_at`.
    pub fn lease_renewed(shared: &Shared, watchdog_at: LeaseInstant) {
        if !is_listening() {
            return;
        }
        let running = shared.running.count(|entry| entry.takes_slot);
        let lease = shared.options.timing.lease().as_secs_f64();
        let status = format!("{}, {running}/{} slots, lease {lease}s", shared.mode(), shared.options.slots);
        tell(shared.guard.as_deref(), shared.clock.lease_now(), watchdog_at, &status);
    }

    /// No lease is held, and the loop that says so turns.
    pub fn without_lease(&self, shared: &Shared) {
        if !is_listening() {
            return;
        }
        let now = shared.clock.lease_now();
        let mut fed_at = self.fed_at.lock();
        if fed_at.is_some_and(|at| now.since(at) < IDLE_INTERVAL) {
            return;
        }
        *fed_at = Some(now);
        let until = now.after(shared.options.timing.dead_after() + IDLE_INTERVAL * 2);
        tell(shared.guard.as_deref(), now, until, "no lease: nothing runs until the database answers");
    }
}

/// Up, but there is no engine yet: nothing runs until the database answers for the first time.
pub fn starting(guard: Option<&dyn GuardTalk>) {
    if is_listening() {
        let now = SystemClock.lease_now();
        tell(guard, now, now.after(STARTING), "waiting for the database");
    }
}

fn is_listening() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn tell(guard: Option<&dyn GuardTalk>, now: LeaseInstant, watchdog_at: LeaseInstant, status: &str) {
    let result = match guard {
        Some(guard) => guard.tell_unit(watchdog_at, status),
        None => {
            // Zero would switch the watchdog off.
            let left = u32::try_from(watchdog_at.since(now).as_micros()).unwrap_or(u32::MAX).max(1);
            let status = NotifyState::Status(status);
            sd_notify::notify(&[NotifyState::Ready, NotifyState::WatchdogUsec(left), NotifyState::Watchdog, status])
        }
    };
    if let Err(error) = result {
        log::debug!("could not notify systemd: {error}");
    }
}
