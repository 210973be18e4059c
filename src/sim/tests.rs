//! The fixed set of seeds, and that one seed is one run.

use super::*;

/// Played in every test run, by two threads; `scripts/soak` plays as many as wanted.
const SEEDS: u64 = 300;

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
    let some = |from: u64| {
        (from..SEEDS).step_by(2).fold(Stats::default(), |stats, seed| {
            let outcome = play(seed, false);
            assert_eq!(outcome.violation, None, "seed {seed}: scripts/soak --replay {seed} shows it");
            stats.and(outcome.stats)
        })
    };
    let all = std::thread::scope(|scope| {
        let odd = scope.spawn(|| some(1));
        some(0).and(odd.join().expect("its panic says which seed"))
    });
    assert!(all.refused > 0, "no zombie tried to write: the set proves nothing");
    assert!(all.wishes > 0, "nobody asked anything of a running task");
    assert!(all.takeovers > 0 && all.failovers > 0 && all.fences > 0 && all.proofs > 0);
}
