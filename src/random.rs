//! What must be unique: incarnations, nonces, ids. The only source of them.
//!
//! A generator inside the process is copied with it: two machines resumed from one snapshot would draw the same
//! numbers, and call different claims by one name. So every number comes from the kernel. Where the hypervisor
//! tells the kernel of the copy (vmgenid), its generator starts anew at once; elsewhere a copied kernel repeats
//! itself for a while too, so the lease clock is mixed in, whose nanoseconds two copies hardly share. Where even
//! that is equal, the registration decides: a name and an incarnation exist once in the database.
//!
//! Jitter and backoff need none of this and use `fastrand`.

use crate::clock::{Clock, SystemClock};
use crate::turns;

/// A number.
pub fn number() -> u64 {
    // In the simulator a seed draws everything.
    if turns::player().is_some() {
        return fastrand::u64(..);
    }
    let mut bytes = [0; 8];
    let drawn = match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => fastrand::u64(..) ^ u64::from(std::process::id()),
    };
    drawn ^ mix(SystemClock.lease_now().as_ns())
}

/// A number that is not 0 and has 63 bits, as a column holds it.
pub fn positive() -> i64 {
    loop {
        let drawn = (number() >> 1) as i64;
        if drawn != 0 {
            return drawn;
        }
    }
}

/// 32 hex digits.
pub fn id() -> String {
    format!("{:016x}{:016x}", number(), number())
}

/// Spreads the few bits in which two instants differ over all of them (the finalizer of SplitMix64); one to one,
/// so nothing of what was drawn is lost.
const fn mix(instant: u64) -> u64 {
    let mut z = instant.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_do_not_repeat_and_fit_their_columns() {
        let drawn: BTreeSet<i64> = (0..10_000).map(|_| positive()).collect();
        assert_eq!((drawn.len(), drawn.iter().all(|n| *n > 0)), (10_000, true));
        assert_ne!(id(), id());
        assert!(id().len() == 32 && id().bytes().all(|b| b.is_ascii_hexdigit()));
    }

    /// A copied process would go on with the same numbers.
    #[test]
    fn the_generator_of_the_process_decides_nothing() {
        let draw = || {
            fastrand::seed(7);
            (number(), positive(), id())
        };
        assert_ne!(draw(), draw());
    }
}
