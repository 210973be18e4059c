//! The prover: writes a proof of death and hands the tasks to whoever is alive.
//!
//! Short-lived: the guard gives it q. It takes over in the same pass, so that peers find the tasks ready
//! at once instead of at their next sweep; if it dies half way, their sweep goes on.

use super::settings::Missing;
use crate::config::Config;
use crate::protocol::engine::Proof;
use crate::protocol::ids::Incarnation;
use crate::store::{Fence, FenceOutcome, Store, StoreResult};

/// Tasks of one takeover transaction.
const BATCH: usize = 100;

/// Runs it; the exit code.
pub fn run(config: &Config, arguments: &[String]) -> i32 {
    let parsed = match arguments {
        [incarnation, proof] => Incarnation::parse(incarnation).zip(Proof::from_word(proof)),
        _ => None,
    };
    let Some((incarnation, proof)) = parsed else {
        log::error!("wants an incarnation and a proof, got {arguments:?}");
        return 2;
    };
    let proved =
        super::settings::store(config, Missing::Refuse).and_then(|store| prove(&*store, config, incarnation, proof));
    match proved {
        Ok(()) => 0,
        Err(error) => {
            log::error!("could not write the proof: {}", error.chain());
            69
        }
    }
}

fn prove(store: &dyn Store, config: &Config, incarnation: Incarnation, proof: Proof) -> StoreResult<()> {
    let by = config.engine.name.to_string();
    let fence = Fence { incarnation, beat: None, proof, by: by.clone() };
    if store.fence(&fence)? == FenceOutcome::Missed {
        log::info!("engine {incarnation} is not live any more: nothing to prove");
        return Ok(());
    }
    let mut taken = 0;
    loop {
        let report = store.take_over(incarnation, &by, BATCH)?;
        taken += report.ready + report.parked;
        if !report.more || report.ready + report.parked == 0 {
            break;
        }
    }
    log::info!("proved the death of {incarnation} ({proof}); {taken} tasks are ready for others");
    store.wake()
}
