//! `rekindle db status`: how far the schema is, and what the server is. Changes nothing, makes no file.

use serde_json::json;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output;
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, load_config};
use crate::clock::{Clock, SystemClock};
use crate::health::gather::schema_words;
use crate::store::{SchemaStatus, ServerInfo};

/// How far the schema is, and what the server is
///
/// Exit codes: 0 the schema fits, 3 migrations are pending, 78 the schema is newer than this program.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(before_help = "Examples:\n  rekindle db status\n  rekindle db status -o json")]
pub struct DbStatusArgs {}

/// Prints it.
pub fn run(_args: &DbStatusArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let session = Session::open(flags, &load_config(flags)?, Access::AnySchema)?;
    let status = session.read("reading the schema version", |store| store.schema_status())?;
    let info = session.read("asking what the server is", |store| store.server_info())?;
    output::print(&render(flags, &status, &info))?;
    Ok(match status.unknown.is_empty() {
        _ if status.is_current() => Exit::Ok,
        true => Exit::Refused,
        false => Exit::Config,
    })
}

fn render(flags: &GlobalFlags, status: &SchemaStatus, info: &ServerInfo) -> String {
    let fields = [
        ("found", json!(status.found)),
        ("wanted", json!(status.wanted)),
        ("pending", json!(status.pending)),
        ("unknown", json!(status.unknown)),
        ("is_current", json!(status.is_current())),
        ("product", json!(info.product)),
        ("place", json!(info.place)),
        ("identity", json!(info.identity)),
        ("read_only", json!(info.read_only)),
        ("durability_problems", json!(info.durability_problems)),
    ];
    match flags.output {
        Format::Table | Format::Wide => {
            let verdict = if status.is_current() { "ok" } else { "does not fit" };
            let mut text = format!("schema {}: {verdict}   {} at {}\n", schema_words(status), info.product, info.place);
            text.extend(info.durability_problems.iter().map(|problem| format!("warning: {problem}\n")));
            if !status.pending.is_empty() && status.unknown.is_empty() {
                text.push_str("next: rekindle db migrate\n");
            }
            text
        }
        Format::Json => output::document("rekindle.db-status/1", SystemClock.wall_now(), &fields),
        Format::Jsonl => output::line(&fields),
        Format::Tsv => output::tsv_fields(&fields),
        Format::Name => format!("{}\n", status.found.as_deref().unwrap_or_default()),
    }
}
