//! `rekindle resource show NAME`.

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::capped;
use crate::cli::output::{self, Table};
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, codes, load_config};
use crate::protocol::ids::ResourceName;
use crate::store::ResourceRow;

use super::resource_list::{LINE_CAP, item};

/// One resource: who owns it, and the tasks in its line
///
/// Exit codes: 0, 4 no such resource.
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle resource show invoice-99813\n  rekindle resource show 'customer 7' -o json"
)]
pub struct ResourceShowArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    pub name: ResourceName,
}

/// Tasks of a line that are listed for people.
const SHOWN_MAX: usize = 20;

/// Prints it.
pub fn run(args: &ResourceShowArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let session = Session::open(flags, &load_config(flags)?, Access::Current)?;
    let name = args.name.clone();
    let found = session.read("reading a resource", move |store| Ok((store.meta()?.now, store.resource(&name)?)))?;
    let (now, Some(row)) = found else {
        return Err(
            CliError::not_found(codes::NO_RESOURCE, "resource", args.name.as_str(), []).next("rekindle resource list")
        );
    };
    let line: Vec<Value> = row.line.iter().map(|(task, state)| json!({"task": task, "state": state})).collect();
    let fields = [("resource", item(&row)), ("line", json!(line))];
    output::print(&match flags.output {
        Format::Table | Format::Wide => text(&row, !flags.no_headers),
        Format::Json => output::document("rekindle.resource/1", now, &fields),
        Format::Jsonl => output::line(&fields),
        Format::Tsv => output::tsv_fields(&fields),
        Format::Name => format!("{}\n", row.name),
    })?;
    Ok(Exit::Ok)
}

fn text(row: &ResourceRow, with_headers: bool) -> String {
    let mut facts = Table::new(&["", ""]).without_headers();
    facts.row(["Resource", row.name.as_str()]);
    let owner = match (row.owner_task, &row.engine) {
        (Some(task), Some(engine)) => format!("{task} on {engine}"),
        (Some(task), None) => task.to_string(),
        (None, _) => "nobody".to_owned(),
    };
    facts.row(["Owned by", &owner]);
    facts.row(["Token", &row.token.to_string()]);
    facts.row(["In line", &capped(row.line_count, LINE_CAP)]);
    let mut line = Table::new(&["PLACE", "TASK", "STATE"]).right(0);
    for (place, (task, state)) in row.line.iter().take(SHOWN_MAX).enumerate() {
        line.row([(place + 1).to_string(), task.to_string(), state.to_string()]);
    }
    let mut text = facts.render(false);
    if !row.line.is_empty() {
        text.push_str(&line.render(with_headers));
    }
    if row.line.len() > SHOWN_MAX {
        text.push_str("next: rekindle resource show NAME -o json   (all of the line, at most 1000)\n");
    }
    text
}
