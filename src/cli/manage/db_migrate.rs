//! `rekindle db migrate` (`db sync`): the only command that changes the schema. Under a lock, so that two
//! at once do no harm.

use serde_json::json;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{self, plural};
use crate::cli::session::{Access, Session, WHICH_DATABASE, schema_name};
use crate::cli::{Format, GlobalFlags, codes, load_config, who};
use crate::clock::{Clock, SystemClock};
use crate::store::{Affected, SchemaStatus};

/// Bring the database's schema up to date; a SQLite file that is not there is made
///
/// Exit codes: 0 up to date, 3 migrations are pending (--dry-run), 78 the schema is newer than this program.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(before_help = "Examples:\n  rekindle db migrate\n  rekindle db migrate --dry-run || echo pending")]
pub struct DbMigrateArgs {
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Runs what is pending.
pub fn run(args: &DbMigrateArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let loaded = load_config(flags)?;
    if loaded.files.is_empty() && loaded.has_default_database() {
        // Nothing that was said leads to this database, so no engine would read it.
        let what = "nobody has said which database to set up";
        return Err(CliError::new(codes::CONFIG, Exit::Config, what)
            .effect("nothing was changed")
            .next(WHICH_DATABASE)
            .next("rekindle config init   (writes a file)"));
    }
    if args.dry_run {
        return dry_run(flags, &Session::open(flags, &loaded, Access::AnySchema)?);
    }
    let session = Session::open(flags, &loaded, Access::Create)?;
    let before = session.read("reading the schema version", |store| store.schema_status())?;
    if let Some(newest) = before.unknown.last() {
        return Err(CliError::schema_too_new(format!("the database has schema {newest}, which is not known here")));
    }
    let done = session.write("migrating", |store| store.migrate())?;
    if !done.is_empty() {
        // It commits on its own in some databases, so its row follows.
        let change = who::change("db migrate", flags);
        let affected = Affected::object("schema").from_to(schema_name(&before), before.wanted.as_str());
        session.write("writing the history", move |store| store.record(&change, &affected))?;
    }
    let text = match done.as_slice() {
        [] => format!("schema {} is up to date: nothing to do\n", before.wanted),
        done => {
            format!("schema {} -> {}: {} run\n", schema_name(&before), before.wanted, plural(done.len(), "migration"))
        }
    };
    report(flags, &before, &done, &text, false)?;
    Ok(Exit::Ok)
}

fn dry_run(flags: &GlobalFlags, session: &Session) -> Result<Exit, CliError> {
    let status = match session.try_read("reading the schema version", |store| store.schema_status())? {
        Ok(status) => status,
        Err(error) => return Err(session.error(&error)),
    };
    if let Some(newest) = status.unknown.last() {
        return Err(CliError::schema_too_new(format!("the database has schema {newest}, which is not known here")));
    }
    let (text, exit) = match status.pending.len() {
        0 => (format!("schema {} is up to date: nothing to do   (dry run)\n", status.wanted), Exit::Ok),
        count => {
            let (from, to) = (schema_name(&status), &status.wanted);
            (format!("schema {from} -> {to}: {} would be run   (dry run)\n", plural(count, "migration")), Exit::Refused)
        }
    };
    report(flags, &status, &[], &text, true)?;
    Ok(exit)
}

fn report(
    flags: &GlobalFlags,
    before: &SchemaStatus,
    done: &[String],
    text: &str,
    is_dry: bool,
) -> Result<(), CliError> {
    let pending: Vec<&String> = before.pending.iter().filter(|version| !done.contains(version)).collect();
    let fields = [
        ("found", json!(before.found)),
        ("wanted", json!(before.wanted)),
        ("run", json!(done)),
        ("pending", json!(pending)),
        ("dry_run", json!(is_dry)),
    ];
    match flags.output {
        Format::Table | Format::Wide => flags.say(text),
        Format::Json => output::print(&output::document("rekindle.db-migrate/1", SystemClock.wall_now(), &fields)),
        Format::Jsonl => output::print(&output::line(&fields)),
        Format::Tsv => output::print(&output::tsv_fields(&fields)),
        Format::Name => output::print(&done.iter().map(|version| format!("{version}\n")).collect::<String>()),
    }
}
