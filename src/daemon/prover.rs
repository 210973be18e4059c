//! The prover: writes a proof of death and hands the tasks to whoever is alive.
//!
//! Short-lived: it has q. It takes over in the same pass, so that peers find the tasks ready at once instead
//! of at their next sweep; if it dies half way, their sweep goes on. Where the database cannot be reached it
//! tries again until its time is over: what kills an engine often shakes its database too, and a proof that
//! comes half a second late still saves T. Writing it twice changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::engine::fork_file;
use crate::guard::state_id;
use crate::process::place;
use crate::protocol::engine::Proof;
use crate::protocol::ids::Incarnation;
use crate::protocol::time::LeaseInstant;
use crate::store::error::{Cause, StoreError};
use crate::store::{Fence, FenceOutcome, LifePlace, Store, StoreResult, open};

/// Tasks of one takeover transaction.
const BATCH: usize = 100;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs it for the guard; the exit code.
pub fn run(config: &Config, arguments: &[String]) -> i32 {
    let parsed = match arguments {
        [incarnation, proof] => Incarnation::parse(incarnation).zip(Proof::from_word(proof)),
        _ => None,
    };
    let Some((incarnation, proof)) = parsed else {
        log::error!("wants an incarnation and a proof, got {arguments:?}");
        return 2;
    };
    match prove_within(config, &[incarnation], proof) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("could not write the proof: {}", error.chain());
            69
        }
    }
}

/// Proves these deaths within q. A call that hangs is left behind: the process ends.
pub fn prove_within(config: &Config, incarnations: &[Incarnation], proof: Proof) -> StoreResult<()> {
    // A little less: the guard gives q from the start of this process, and the error is worth hearing.
    let q = config.engine.timing.query_timeout() * 9 / 10;
    let until = SystemClock.lease_now().after(q);
    let place = own_place(&config.engine.state_dir)?;
    let store = connect(config, q)?;
    let (by, incarnations) = (config.engine.name.to_string(), incarnations.to_vec());
    let (reply, answer) = bounded(1);
    std::thread::spawn(move || {
        let prove_all = || incarnations.iter().try_for_each(|id| prove(&*store, &by, *id, proof, &place));
        let _ = reply.send(again_until(until, prove_all));
    });
    answer.recv_timeout(q).unwrap_or_else(|_| {
        let source = Cause(format!("no answer within {q:?}"));
        Err(StoreError::Unknown { step: "prove a death", source })
    })
}

/// Half of the time for connecting, so that there is a second try.
fn connect(config: &Config, q: Duration) -> StoreResult<Arc<dyn Store>> {
    let (mut work, beats) = super::settings::places(config, &format!("rekindle {} prover", config.engine.name));
    for place in &mut work {
        (place.create, place.connect_timeout, place.statement_timeout) = (false, q / 2, q);
    }
    open(work, beats, 1)
}

fn again_until(until: LeaseInstant, mut attempt: impl FnMut() -> StoreResult<()>) -> StoreResult<()> {
    loop {
        match attempt() {
            // In a switch-over nobody takes writes for a while.
            Err(error)
                if (error.is_transient() || matches!(error, StoreError::ReadOnly { .. }))
                    && SystemClock.lease_now().after(PAUSE) < until =>
            {
                log::warn!("could not write the proof, trying again: {}", error.chain());
                SystemClock.pause(PAUSE);
            }
            other => return other,
        }
    }
}

/// What was killed and waited for ran here, so only a life that has said so of itself can be proved dead: the
/// number of another host's may stand in a file that tasks can write, or be typed by hand.
fn own_place(dir: &Path) -> StoreResult<LifePlace> {
    let unreadable = |e: &dyn std::error::Error| StoreError::Refused(format!("whose life it was is not known: {e}"));
    let id = state_id(dir)
        .map_err(|e| unreadable(&e))?
        .ok_or_else(|| StoreError::Refused(format!("whose life it was is not known: {} has no id", dir.display())))?;
    let word = fork_file::read(dir).map_err(|e| unreadable(&e))?;
    let state_ids = word.map(|word| format!("{id}.{word}")).into_iter().chain([id.clone()]).collect();
    Ok(LifePlace { state_ids, boot_id: place::boot_id() })
}

fn prove(store: &dyn Store, by: &str, incarnation: Incarnation, proof: Proof, place: &LifePlace) -> StoreResult<()> {
    let place = Some(place.clone());
    let fence = Fence { incarnation, beat: None, proof, by: by.to_owned(), place };
    let is_new = store.fence(&fence)? == FenceOutcome::Won;
    let mut taken = 0;
    // Also of one that was fenced before: by this very prover, whose answer was lost, or by an operator, whose
    // fence waits for an acknowledgement that nobody can give any more.
    loop {
        let report = store.take_over(incarnation, by, BATCH)?;
        taken += report.ready + report.parked;
        if !report.more || report.ready + report.parked == 0 {
            break;
        }
    }
    if is_new {
        log::info!("proved the death of {incarnation} ({proof}); {taken} tasks are ready for others");
    } else {
        log::info!("engine {incarnation} is not live any more: nothing to prove; {taken} tasks are ready for others");
    }
    if is_new || taken > 0 { store.wake() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> StoreError {
        StoreError::Unknown { step: "fence", source: Cause("away".into()) }
    }

    #[test]
    fn a_database_that_comes_back_in_time_gets_the_proof() {
        let mut tries = 0;
        let until = SystemClock.lease_now().after(Duration::from_secs(30));
        let result = again_until(until, || {
            tries += 1;
            if tries < 3 { Err(away()) } else { Ok(()) }
        });
        assert!(result.is_ok() && tries == 3);
    }

    #[test]
    fn the_tries_end_in_time_and_what_cannot_mend_is_not_tried_again() {
        let mut tries = 0;
        let until = SystemClock.lease_now().after(PAUSE * 3);
        let mut count = |error: fn() -> StoreError| {
            tries = 0;
            assert!(
                again_until(until, || {
                    tries += 1;
                    Err(error())
                })
                .is_err()
            );
            tries
        };
        assert!((2..=4).contains(&count(away)));
        assert_eq!(count(|| StoreError::Refused("no".into())), 1);
        assert!(SystemClock.lease_now() < until.after(PAUSE));
    }
}
