//! `rekindle version`.

use serde_json::json;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{Format, GlobalFlags, output};
use crate::clock::{Clock, SystemClock};

/// This program's version, and which databases it was built for
#[derive(clap::Args, Debug, Clone, Default)]
pub struct VersionArgs {}

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn backends() -> Vec<&'static str> {
    let all = [
        (cfg!(feature = "sqlite"), "sqlite"),
        (cfg!(feature = "postgres"), "postgres"),
        (cfg!(feature = "mysql"), "mysql"),
    ];
    all.into_iter().filter(|(is_built_in, _)| *is_built_in).map(|(_, name)| name).collect()
}

/// Prints it.
pub fn run(_args: &VersionArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let fields = [("version", json!(VERSION)), ("databases", json!(backends()))];
    output::print(&match flags.output {
        Format::Table | Format::Wide => format!("rekindle {VERSION} ({})\n", backends().join(", ")),
        Format::Json => output::document("rekindle.version/1", SystemClock.wall_now(), &fields),
        Format::Jsonl => format!("{}\n", json!({"version": VERSION, "databases": backends()})),
        Format::Tsv => output::tsv_fields(&fields),
        Format::Name => format!("{VERSION}\n"),
    })?;
    Ok(Exit::Ok)
}
