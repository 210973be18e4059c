//! The end of an engine, in its order: finish what runs, hand back the rest, end the loops, say goodbye,
//! and the heartbeat last.

use std::sync::Arc;
use std::time::Duration;

use super::heartbeat::is_told_to_stop;
use super::lane::Lane;
use super::running::Entry;
use super::shared::Shared;
use super::stop::Ending;
use crate::handlers::StopKind;
use crate::protocol::time::LeaseInstant;

/// Waits until the engine was asked to end, and ends it. `beats` says whether the heartbeat still turns;
/// `join` waits for the other loops, at most until then. What came of the goodbye: `None` without one.
pub fn end(shared: &Arc<Shared>, beats: &dyn Fn() -> bool, join: impl FnOnce(LeaseInstant)) -> Option<bool> {
    let conclusion = Conclusion { shared, beats };
    let heartbeat_ended = conclusion.until_asked();
    let _ = shared.told_at.set(shared.clock.lease_now());
    if !heartbeat_ended {
        conclusion.let_finish();
        conclusion.hand_back_all();
    }
    conclusion.let_handlers_end();
    shared.stop.ask(Ending::Loops);
    shared.wake_dispatcher();
    // The database may be away or frozen: what cannot be written now is handed back by a peer's takeover.
    let limit = shared.options.timing.dead_after() + shared.options.timing.query_timeout() * 3;
    join(shared.clock.lease_now().after(limit));
    let said = if heartbeat_ended { None } else { conclusion.say_goodbye() };
    shared.stop.ask(Ending::All);
    said
}

struct Conclusion<'a> {
    shared: &'a Arc<Shared>,
    beats: &'a dyn Fn() -> bool,
}

impl Conclusion<'_> {
    /// True if the heartbeat ended by itself.
    fn until_asked(&self) -> bool {
        loop {
            let seen = self.shared.stop.nudges();
            if self.shared.stop.ending() >= Ending::Finish {
                return false;
            }
            if !(self.beats)() {
                return true;
            }
            if is_told_to_stop(self.shared) {
                log::info!("operators want this engine to stop");
                self.shared.stop.ask(Ending::Finish);
            }
            self.shared.stop.wait_nudged(Ending::Finish, self.shared.look_again(), seen);
        }
    }

    fn let_finish(&self) {
        let clock = &self.shared.clock;
        let until = clock.lease_now().after(self.shared.options.stop_deadline);
        log::info!("stopping: {} tasks still run", self.shared.running.count(|_| true));
        loop {
            let idle = self.shared.running.wait_empty(Duration::from_millis(200));
            let over = clock.lease_now() >= until || deadline_passed(self.shared);
            if idle || over || self.shared.stop.ending() >= Ending::HandBack {
                return;
            }
        }
    }

    /// Stops what still runs; returns when nothing does.
    fn hand_back_all(&self) {
        self.shared.stop.ask(Ending::HandBack);
        if let Some(commands) = &self.shared.commands {
            commands.gate().close();
        }
        let now = self.shared.clock.lease_now();
        let kill_at = now.after(self.shared.options.timing.kill_budget());
        self.shared.running.for_each(|entry| {
            if let Some(control) = &entry.control {
                control.stop(StopKind::HandBack, now, kill_at);
            }
        });
        let limit = self.shared.options.timing.dead_after();
        if !self.shared.running.wait_empty(limit) {
            log::error!("some attempts did not end: {}", self.shared.running.count(|_| true));
        }
    }

    /// A handler is a thread that nobody can kill. While one runs, the engine goes on beating, or a peer would
    /// run its task beside it; if the lease is lost meanwhile, the lease watch ends the process.
    fn let_handlers_end(&self) {
        let runs = |entry: &Entry| !entry.takes_slot && entry.control.is_some();
        let mut said = false;
        while self.shared.running.count(runs) > 0 && (self.beats)() {
            if !std::mem::replace(&mut said, true) {
                log::error!("a handler does not end although it was told to: the engine goes on beating until it does");
            }
            self.shared.clock.pause(Duration::from_millis(50));
        }
    }

    /// Writes `stopped`, which makes peers act at once; only when nothing is left. False if it could not
    /// be written: then peers wait for T, or for the guard's proof.
    fn say_goodbye(&self) -> Option<bool> {
        let life = self.shared.life();
        // After a self-fence the former life still has its row, and what it owns waits for its end.
        let Some(incarnation) = life.incarnation.or(*self.shared.former.lock()) else { return Some(true) };
        if self.shared.running.count(|_| true) > 0 {
            return Some(false);
        }
        let mut lane = Lane::new("stop", Arc::clone(&self.shared.store), Arc::clone(&self.shared.abandoned));
        let timeout = self.shared.options.timing.query_timeout().max(Duration::from_secs(1));
        for _ in 0..3 {
            match lane.call("stop", timeout, move |store| store.stop(incarnation)) {
                Ok(_) => {
                    log::info!("engine {} has stopped", self.shared.options.name);
                    let _ = lane.call("wake", timeout, |store| store.wake());
                    return Some(true);
                }
                Err(error) => log::warn!("could not write the goodbye: {}", error.chain()),
            }
        }
        Some(false)
    }
}

/// A drain or stop with a deadline that is over, by the database's clock as of the last beat.
fn deadline_passed(shared: &Shared) -> bool {
    let life = shared.life();
    let now = life.meta.as_ref().map(|meta| meta.now);
    matches!((life.wanted_deadline, now), (Some(deadline), Some(now)) if now >= deadline)
}
