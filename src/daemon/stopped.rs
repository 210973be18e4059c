//! `--prove-stopped`: what systemd runs after the unit has ended (`ExecStopPost`), for the one case that
//! nobody inside covers: guard and engine killed or frozen together.
//!
//! A proof of death says that nothing of that life runs any more, so three things are looked at first:
//! 1. The life that is written in the state directory is of this very invocation of the unit. Another one's
//!    is left alone.
//! 2. Nothing is left in the unit's control group but this process; what is, is killed.
//! 3. The lock of the state directory is free (guard and engine are dead), and what carries its mark outside
//!    of the group is killed.
//!
//! After a goodbye, and where the guard has proved the death already, there is nothing to do. Whatever goes
//! wrong, nothing is lost but time: peers fence after T.

use super::prover;
use crate::config::Config;
use crate::engine::unit_file;
use crate::guard::{clear_own_unit, take_state_dir};
use crate::protocol::engine::Proof;

/// Runs it; the exit code. Killing takes at most K and the time that leftovers get at a start, proving q.
pub fn run(config: &Config) -> i32 {
    // systemd sets it for ExecStop and ExecStopPost only: by hand inside of a healthy
    // unit this would kill the living engine and prove it dead.
    if std::env::var_os("SERVICE_RESULT").is_none() {
        log::error!(
            "--prove-stopped is for ExecStopPost of a systemd unit: there is no SERVICE_RESULT, nothing is proved"
        );
        return 2;
    }
    let Some(invocation) = unit_file::invocation() else {
        log::error!("--prove-stopped is for ExecStopPost of a systemd unit: there is no INVOCATION_ID");
        return 2;
    };
    let dir = &config.engine.state_dir;
    let life = match unit_file::read(dir) {
        Ok(Some(life)) => life,
        Ok(None) => {
            log::info!("no life of a unit is written in {}: nothing to prove", dir.display());
            return 0;
        }
        Err(error) => {
            log::error!("could not read which life has ended: {error}");
            return 1;
        }
    };
    if life.invocation != invocation {
        log::warn!("the life in {} is of another invocation than {invocation}: nothing is proved", dir.display());
        return 0;
    }
    match clear_own_unit(config.engine.timing.kill_budget()) {
        Ok(0) => {}
        Ok(count) => log::warn!("killed {count} processes that were left in the unit's control group"),
        Err(error) => {
            log::error!("no proof is written, peers wait for T: {}", super::chain(&error));
            return 75;
        }
    }
    let _state = match take_state_dir(dir) {
        Ok(state) => state,
        Err(error) => {
            log::error!("no proof is written, peers wait for T: {}", super::chain(&error));
            return error.exit_code();
        }
    };
    match prover::prove_within(config, &life.incarnations, Proof::Unit) {
        Ok(()) => {
            if let Err(error) = unit_file::remove(dir) {
                log::warn!("could not forget the life that was proved dead: {error}");
            }
            0
        }
        Err(error) => {
            log::error!("could not write the proof, peers wait for T: {}", error.chain());
            69
        }
    }
}
