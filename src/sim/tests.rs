//! The fixed set of seeds, and that one seed is one run.

use super::*;

/// Played in every test run; `scripts/soak` plays as many as wanted.
const SEEDS: std::ops::Range<u64> = 0..100;

#[test]
fn a_seed_replays_its_run_exactly() {
    for seed in [3, 7, 11] {
        let (a, b) = (play(seed, true), play(seed, true));
        assert_eq!(a.stats, b.stats);
        assert_eq!(a.trace, b.trace);
    }
}

#[test]
fn the_fixed_seeds_keep_all_promises() {
    let mut refused = 0;
    for seed in SEEDS {
        let outcome = play(seed, false);
        assert_eq!(outcome.violation, None, "seed {seed}: replay with scripts/soak --replay {seed}");
        refused += outcome.stats.refused;
    }
    assert!(refused > 0, "no zombie tried to write: the set proves nothing");
}
