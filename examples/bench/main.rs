//! The measuring program behind `scripts/bench`, which builds it, gives it a database and cleans up.
//!
//! `bench WHAT` measures and prints a table, then each figure as one line of JSON. `bench engine` and
//! `bench mark` are what it starts itself: an engine for the drain, and the command of a takeover's task.

mod database;
mod drain;
mod figure;
mod idle;
mod pickup;
mod programs;
mod start;
mod takeover;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use database::Database;
use drain::Backlog;
use figure::{Figure, table};
use takeover::Victim;

#[derive(Debug, Parser)]
#[command(about = "Measures rekindle; start it through scripts/bench")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Measure.
    Run(RunArgs),
    /// An engine of the drain.
    #[command(hide = true)]
    Engine { url: String, name: String },
    /// An engine of the pick-up.
    #[command(hide = true)]
    Picker { url: String, name: String },
    /// The command of a takeover's task.
    #[command(hide = true)]
    Mark { file: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    Takeover,
    Drain,
    Analysed,
    Keyed,
    Pickup,
    Idle,
    Start,
    All,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Which measurement.
    bench: Bench,
    /// Measure on SQLite.
    #[arg(long)]
    sqlite: bool,
    /// Measure on the PostgreSQL server of this URL.
    #[arg(long)]
    postgres: Option<String>,
    /// Measure on the MariaDB server of this URL.
    #[arg(long)]
    mariadb: Option<String>,
    /// Where the programs are.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// Repeats of each measurement.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Tasks of a drain, and of the queue that status is asked about.
    #[arg(long, default_value_t = 100_000)]
    tasks: usize,
    /// Takeovers of one run, a fifth of it where guard and engine are killed; six times as many pick-ups.
    #[arg(long, default_value_t = 50)]
    trials: usize,
    /// Seconds that an idle engine is watched.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

impl RunArgs {
    /// What was not left at its default, so that each figure's command repeats it.
    fn options(&self) -> String {
        let usual = [("runs", self.runs, 3), ("tasks", self.tasks, 100_000), ("trials", self.trials, 50)];
        let seconds = (self.seconds != 60).then(|| format!(" --seconds {}", self.seconds));
        let unusual =
            usual.iter().filter(|(_, now, usual)| now != usual).map(|(key, now, _)| format!(" --{key} {now}"));
        unusual.chain(seconds).collect()
    }
}

/// A pick-up takes a fraction of a takeover's time.
const PICKUPS_PER_TRIAL: usize = 6;

type Make<'a> = Box<dyn Fn() -> Result<Database> + 'a>;

fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match Args::parse().what {
        What::Engine { url, name } => drain::engine(&url, &name),
        What::Picker { url, name } => pickup::engine(&url, &name),
        What::Mark { file } => takeover::mark(&file),
        What::Run(args) => {
            let figures = measure(&args)?;
            println!("{}", table(&figures));
            for figure in &figures {
                println!("{}", serde_json::to_string(figure)?);
            }
            Ok(())
        }
    }
}

fn measure(args: &RunArgs) -> Result<Vec<Figure>> {
    let mut databases: Vec<Make<'_>> = Vec::new();
    if args.sqlite {
        databases.push(Box::new(Database::sqlite));
    }
    if let Some(server) = &args.postgres {
        databases.push(Box::new(|| Database::on("postgres", server)));
    }
    if let Some(server) = &args.mariadb {
        databases.push(Box::new(|| Database::on("mariadb", server)));
    }
    let wanted = |bench| args.bench == bench || args.bench == Bench::All;
    let programs = args.programs.canonicalize()?;
    let mut figures = Vec::new();
    if wanted(Bench::Start) {
        figures.extend(start::measure_programs(&programs, args.runs)?);
    }
    for make in &databases {
        let make = &**make;
        if wanted(Bench::Start) {
            figures.extend(start::measure_status(&make()?, &programs, args.tasks, args.runs)?);
        }
        if wanted(Bench::Drain) {
            figures.extend(drain::measure(make, args.tasks, args.runs)?);
        }
        if wanted(Bench::Analysed) {
            figures.extend(drain::compare(make, Backlog::Analysed, args.tasks, args.runs)?);
        }
        if wanted(Bench::Keyed) {
            figures.extend(drain::compare(make, Backlog::Keyed, args.tasks, args.runs)?);
        }
        if wanted(Bench::Pickup) {
            figures.extend(pickup::measure(make, args.trials * PICKUPS_PER_TRIAL, args.runs)?);
        }
        if wanted(Bench::Takeover) {
            figures.extend(takeover::measure(make, &programs, Victim::Engine, args.trials, args.runs)?);
            let few = args.trials.div_ceil(5);
            figures.extend(takeover::measure(make, &programs, Victim::Both, few, args.runs)?);
        }
        if wanted(Bench::Idle) {
            figures.extend(idle::measure(make, &programs, Duration::from_secs(args.seconds), args.runs)?);
        }
    }
    let with = args.options();
    figures.iter_mut().for_each(|figure| figure.command.push_str(&with));
    Ok(figures)
}
