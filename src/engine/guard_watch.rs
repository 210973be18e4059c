//! Watches the guard: if it dies, or is silent for L, nobody would kill what a frozen engine leaves. So
//! the engine kills its tasks and dies.

use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use super::stop::Ending;
use crate::guard::{GuardState, Root, kill_below};

/// What the process exits with: an internal error that a restart mends.
const EXIT_CODE: i32 = 1;

/// The loop. Without a guard there is nothing to watch.
pub fn guard_loop(shared: &Arc<Shared>) {
    let Some(guard) = &shared.guard else { return };
    let lease = shared.options.timing.lease();
    while shared.stop.ending() < Ending::All {
        shared.pulses.guard.turn(shared.clock.lease_now(), lease);
        let began = shared.clock.lease_now();
        match guard.wait_tick(lease) {
            // Ticks come every second or so; the pause keeps the loop from spinning on a flood of them.
            GuardState::Alive => drop(shared.stop.wait(Ending::All, Duration::from_millis(100))),
            // Who stood still himself cannot tell who was silent: the silence is counted anew. What ran is
            // being killed by the lease watch, which has no such doubts.
            GuardState::Silent if shared.clock.lease_now().since(began) > lease + lease / 4 => {
                log::warn!("this process stood still for a while; waiting for the guard once more");
            }
            state if shared.stop.ending() < Ending::All => die(shared, state),
            _ => {}
        }
    }
    shared.pulses.guard.end();
}

fn die(shared: &Arc<Shared>, state: GuardState) -> ! {
    if let Some(commands) = &shared.commands {
        commands.gate().close();
    }
    if let Some(player) = crate::turns::player() {
        player.die("lost its guard");
    }
    let me = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let report = kill_below(me, Root::Excluded, &[], shared.options.timing.kill_budget());
    // Said after the deed, which comes first.
    log::error!("the guard is {}: killed all tasks, dying", if state == GuardState::Gone { "gone" } else { "silent" });
    if !report.is_clean() {
        log::error!("these processes do not die: {:?}{}", report.left, report.refusal());
    }
    log::logger().flush();
    // SAFETY: ends the process at once; no destructor may hang on the database now.
    unsafe { nix::libc::_exit(EXIT_CODE) }
}
