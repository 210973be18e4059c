//! The measuring program behind `scripts/bench`, which builds it, gives it a database and cleans up.
//!
//! `bench WHAT` measures and prints a table, then each figure as one line of JSON. `bench engine` and
//! `bench mark` are what it starts itself: an engine for the drain, and the command of a takeover's task.

mod database;
mod drain;
mod figure;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use database::Database;
use figure::{Figure, table};

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    Drain,
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
    /// Where the programs are.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// Repeats of each measurement.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Tasks of a drain.
    #[arg(long, default_value_t = 100_000)]
    tasks: usize,
}

type Make<'a> = Box<dyn Fn() -> Result<Database> + 'a>;

fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match Args::parse().what {
        What::Engine { url, name } => drain::engine(&url, &name),
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
        databases.push(Box::new(|| Database::postgres(server)));
    }
    let wanted = |bench| args.bench == bench || args.bench == Bench::All;
    let mut figures = Vec::new();
    for make in &databases {
        if wanted(Bench::Drain) {
            figures.extend(drain::measure(&**make, args.tasks, args.runs)?);
        }
    }
    Ok(figures)
}
