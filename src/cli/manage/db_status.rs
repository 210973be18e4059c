//! `rekindle db status`: how far the schema is, what the server is, and whether an epoch that was raised
//! still keeps engines from claiming. Changes nothing, makes no file.

use serde_json::json;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::one_line;
use crate::cli::output;
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, load_config};
use crate::clock::{Clock, SystemClock};
use crate::health::gather::schema_words;
use crate::protocol::ids::Epoch;
use crate::store::{Meta, SchemaStatus, ServerInfo};

/// How far the schema is, what the server is, and whether a raised epoch still holds claims up
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
    let meta = match status.is_current() {
        true => Some(session.read("reading the epoch", |store| store.meta())?),
        false => None,
    };
    output::print(&render(flags, &status, &info, meta.as_ref()))?;
    Ok(match status.unknown.is_empty() {
        _ if status.is_current() => Exit::Ok,
        true => Exit::Refused,
        false => Exit::Config,
    })
}

/// Whether nobody claims a task, and why.
fn claims_wait(meta: &Meta) -> Option<&'static str> {
    if !meta.identity_matches {
        Some("this is not the database that was recorded, and no engine has raised the epoch yet: nobody claims a task")
    } else if meta.settled_epoch < meta.raised_epoch {
        Some("not settled: nobody claims a task until an engine has watched it for the largest T")
    } else {
        None
    }
}

fn epoch_line(meta: &Meta) -> String {
    let why = meta.raised_reason.as_ref();
    let why =
        why.map_or_else(String::new, |why| format!(", raised to {} ({})", meta.raised_epoch.as_i64(), one_line(why)));
    let state = claims_wait(meta).unwrap_or("settled: engines claim tasks");
    format!("epoch {}{why}, {state}\n", meta.epoch.as_i64())
}

fn render(flags: &GlobalFlags, status: &SchemaStatus, info: &ServerInfo, meta: Option<&Meta>) -> String {
    let epoch = |read: fn(&Meta) -> Epoch| json!(meta.map(|meta| read(meta).as_i64()));
    let fields = [
        ("cluster", json!(meta.and_then(|meta| meta.cluster.as_ref()))),
        ("epoch", epoch(|meta| meta.epoch)),
        ("raised_epoch", epoch(|meta| meta.raised_epoch)),
        ("settled_epoch", epoch(|meta| meta.settled_epoch)),
        ("raised_reason", json!(meta.and_then(|meta| meta.raised_reason.as_ref()))),
        ("identity_matches", json!(meta.map(|meta| meta.identity_matches))),
        ("claims_wait", json!(meta.map(|meta| claims_wait(meta).is_some()))),
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
            text.extend(meta.map(epoch_line));
            if info.nobody_writes {
                text.push_str("critical: it takes no writes: no engine can beat, claim or finish\n");
            } else if info.read_only {
                text.push_str("note: it refuses writes from here\n");
            }
            text.extend(info.durability_problems.iter().map(|problem| format!("warning: {problem}\n")));
            if !status.pending.is_empty() && status.unknown.is_empty() {
                text.push_str(&flags.command("next: rekindle db migrate\n"));
            }
            text
        }
        Format::Json => output::document("rekindle.db-status/1", SystemClock.wall_now(), &fields),
        Format::Jsonl => output::line(&fields),
        Format::Tsv => output::tsv_fields(&fields),
        Format::Name => format!("{}\n", status.found.as_deref().unwrap_or_default()),
    }
}
