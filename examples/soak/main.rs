//! Plays seeds of the simulator until told to stop: `scripts/soak`.
//!
//! Exit 0: all promises held and some zombie was refused. 1: a promise was broken (the seeds are named, with the
//! command that replays each). 2: no zombie ever tried to write, so the run proved nothing.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use rekindle::sim::{self, Stats};

/// Plays seeds of the simulator.
#[derive(Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads; each plays one seed at a time.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Plays one seed and prints all that happened.
    #[arg(long)]
    replay: Option<u64>,
    /// Ends with the first broken promise and prints how many seeds it took.
    #[arg(long)]
    first: bool,
    /// Lists the bugs that can be planted.
    #[cfg(feature = "planted")]
    #[arg(long)]
    planted: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(feature = "planted")]
    if args.planted {
        for (_, name) in rekindle::planted::Bug::ALL {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    if let Some(seed) = args.replay {
        let outcome = sim::play(seed, true);
        println!("{}", outcome.trace);
        print_stats(1, &outcome.stats);
        return outcome.violation.map_or(ExitCode::SUCCESS, |what| {
            println!("seed {seed}: {what}");
            ExitCode::FAILURE
        });
    }
    let next = AtomicU64::new(args.from);
    let bad = AtomicU64::new(0);
    let stats: Vec<Stats> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(|| work(&args, &next, &bad))).collect();
        threads.into_iter().map(|t| t.join().expect("a seed panicked; it is named above")).collect()
    });
    let total = stats.into_iter().fold(Stats::default(), Stats::and);
    let played = next.load(Ordering::Acquire).min(args.from + args.seeds) - args.from;
    print_stats(played, &total);
    match (bad.load(Ordering::Acquire), total.refused) {
        (0, 0) if args.first => ExitCode::SUCCESS,
        (0, 0) => {
            println!("INVALID: no zombie tried to write");
            ExitCode::from(2)
        }
        (0, _) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn work(args: &Args, next: &AtomicU64, bad: &AtomicU64) -> Stats {
    let mut total = Stats::default();
    loop {
        let seed = next.fetch_add(1, Ordering::AcqRel);
        if seed >= args.from + args.seeds || (args.first && bad.load(Ordering::Acquire) > 0) {
            next.fetch_sub(1, Ordering::AcqRel);
            return total;
        }
        let outcome = std::panic::catch_unwind(|| sim::play(seed, false)).unwrap_or_else(|panic| {
            println!("seed {seed}: panicked");
            std::panic::resume_unwind(panic)
        });
        total = total.and(outcome.stats);
        if let Some(what) = outcome.violation {
            bad.fetch_add(1, Ordering::AcqRel);
            println!("seed {seed}: {what}\n    replay: scripts/soak --replay {seed}");
        }
    }
}

fn print_stats(seeds: u64, s: &Stats) {
    println!("seeds               {seeds}");
    for (what, count) in [
        ("turns of loops", s.turns),
        ("database calls", s.calls),
        ("without an answer", s.ambiguous),
        ("done late", s.late),
        ("attempts", s.attempts),
        ("tasks", s.tasks),
        ("fences by expiry", s.fences),
        ("proofs of death", s.proofs),
        ("tasks taken over", s.takeovers),
        ("refused writes", s.refused),
        ("failovers", s.failovers),
        ("uncovered overlaps", s.uncovered),
    ] {
        println!("{what:<19} {count}");
    }
}
