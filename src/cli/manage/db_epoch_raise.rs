//! `rekindle db epoch raise`: an operator says that the database may have lost commits.
//!
//! Engines see most such losses by themselves: another identity, an epoch or a beat that went back, also that of a
//! former life or process. They cannot see the loss of what came after the last beat that they remember: less than a
//! heartbeat while they run, a minute where all of them were started again meanwhile, everything where their state
//! directories were restored too. There a token could be given out a second time. A raised epoch outranks every
//! token of before.
//!
//! What a raise does: every engine starts its observations again, checks what it holds against the
//! database and kills what is not its any more; nobody claims until an engine has watched the new epoch for
//! the largest T of live rows. So it costs T and can be done once too often, but it cannot be taken back.
//!
//! Races: engines may raise at the same moment. The raise is a compare-and-set on the epoch that was read;
//! who loses reads again, and is content if the other one's epoch is as high as was wanted. A lost answer
//! is repeated by the operator: one more raise does no harm.
//!
//! How high: one more than the database's epoch, than the one that this host's engine remembers in its
//! state directory, and at least `--at-least`. Engines of other hosts that remember more raise again by
//! themselves when they come back. What is remembered more than 10,000 above the database counts for nothing: it is
//! a damaged or forged file rather than a memory, and an engine that has it does not start. Where the database is
//! what is wrong, `--to` says so.

use std::time::Duration;

use serde_json::json;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{one_line, plural, seconds, shorten};
use crate::cli::output;
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, codes, consent, load_config, who};
use crate::clock::{Clock, SystemClock};
use crate::engine::epoch_file;
use crate::health::words::fine_span;
use crate::protocol::engine::EngineState;
use crate::protocol::ids::Epoch;
use crate::protocol::timing::{Profile, Timing};
use crate::store::Meta;

/// Raise the epoch of all tokens, after a restore or a failover that may have lost commits
///
/// Every engine starts its observations again and checks what it holds; nobody claims a task for the
/// largest takeover time T. It cannot be taken back.
///
/// Exit codes: 0 raised, 3 no consent, 75 engines raised it again and again meanwhile.
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle db epoch raise --dry-run\n  rekindle db epoch raise --yes --reason \"restored the dump of 02:00\""
)]
pub struct DbEpochRaiseArgs {
    /// At least to this epoch, if an engine elsewhere remembers more than this host does
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=Epoch::MAX))]
    pub at_least: Option<i64>,
    /// To exactly this epoch, also far above the present one; beyond 10000 with --confirm N
    #[arg(long, value_name = "N", conflicts_with = "at_least", value_parser = clap::value_parser!(i64).range(1..=Epoch::MAX))]
    pub to: Option<i64>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// What is to be done, from one look at the database.
#[derive(Debug, Clone)]
struct Plan {
    from: Epoch,
    to: Epoch,
    remembered: Option<Epoch>,
    live: usize,
    pause: Duration,
}

/// Engines that raise at the same time are as many tries apart as they are; more than this is no accident.
const TRIES: usize = 5;

/// A reason is shown in one line.
const REASON_MAX: usize = 200;

/// Raises it.
pub fn run(args: &DbEpochRaiseArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let loaded = load_config(flags)?;
    // Before the database, for opening a SQLite file as root gives up root's rights.
    let remembered = remembered(&loaded.config.engine.state_dir);
    let session = Session::open(flags, &loaded, Access::Current)?;
    session.must_be_ours()?;
    let first = look(&session, args, remembered)?;
    if args.dry_run {
        return tell(&first, args, flags, None);
    }
    let what = format!("raise the epoch from {} to {}", first.from.as_i64(), first.to.as_i64());
    let what = format!("{what} (nobody claims a task for {} afterwards)", fine_span(first.pause));
    match first.to.as_i64() - first.from.as_i64() > Epoch::JUMP_MAX {
        true => consent::severe(flags, &what, &first.to.as_i64().to_string())?,
        false => consent::moderate(flags, &what)?,
    }
    let reason = reason(flags);
    let change = who::change("db epoch raise", flags);
    let mut plan = first.clone();
    for _ in 0..TRIES {
        let (from, to, why, change) = (plan.from, plan.to, reason.clone(), change.clone());
        if session.write("raising the epoch", move |store| store.raise_epoch_as(from, to, &why, &change))? {
            return tell(&plan, args, flags, Some(true));
        }
        let meta = session.read("reading the epoch again", |store| store.meta())?;
        if meta.raised_epoch >= first.to {
            // Somebody else raised it after this command had begun to look: that is all that was wanted.
            return tell(&Plan { to: meta.epoch, ..plan }, args, flags, Some(false));
        }
        plan = look(&session, args, remembered)?;
    }
    Err(CliError::try_again("the epoch was raised by others again and again", "another number each time it was read")
        .effect("nothing was changed by this command")
        .next("rekindle db status"))
}

fn reason(flags: &GlobalFlags) -> String {
    let why = flags.reason.as_deref().unwrap_or("no reason given");
    shorten(&one_line(&format!("{}: {why}", who::user())), REASON_MAX)
}

/// What this host's engine remembers, if that can be read: a state directory of another user is no reason
/// not to go on.
fn remembered(dir: &std::path::Path) -> Option<Epoch> {
    match epoch_file::read(dir) {
        Ok(known) => Some(known.epoch).filter(|epoch| epoch.as_i64() > 0),
        Err(error) => {
            log::warn!("what this host's engine remembers is not counted: {error}");
            None
        }
    }
}

fn look(session: &Session, args: &DbEpochRaiseArgs, remembered: Option<Epoch>) -> Result<Plan, CliError> {
    let (meta, engines) = session.read("reading the epoch", |store| Ok((store.meta()?, store.engines()?.1)))?;
    let to = target(&meta, args, remembered)?;
    let live = engines.iter().filter(|row| row.state == EngineState::Live);
    let pause = live.clone().map(|row| row.timing.takeover_after()).max();
    let balanced = Timing::of(Profile::Balanced);
    let pause = pause.unwrap_or(balanced.takeover_after());
    Ok(Plan { from: meta.epoch, to, remembered, live: live.count(), pause })
}

/// One more than anybody here remembers, as far as that is believed.
fn target(meta: &Meta, args: &DbEpochRaiseArgs, remembered: Option<Epoch>) -> Result<Epoch, CliError> {
    if let Some(to) = args.to {
        return exactly(meta.epoch.as_i64(), to);
    }
    let believed = remembered.filter(|epoch| meta.epoch.believes(*epoch));
    if let (Some(epoch), None) = (remembered, believed) {
        let (epoch, database) = (epoch.as_i64(), meta.epoch.as_i64());
        log::warn!("this host's engine remembers epoch {epoch}, too far above {database} to be believed: see --to");
    }
    let known = meta.epoch.max(believed.unwrap_or(meta.epoch)).as_i64();
    if known >= Epoch::MAX {
        let what = format!("epoch {known} is the last one: no token could carry another");
        return Err(CliError::refused(codes::NO_EPOCH, what).next(format!("rekindle explain {}", codes::NO_EPOCH)));
    }
    match args.at_least {
        Some(wanted) if wanted > known + Epoch::JUMP_MAX => Err(CliError::usage(format!(
            "--at-least {wanted} is more than {} above the epoch {known}; if that is meant: --to {wanted}",
            Epoch::JUMP_MAX
        ))
        .effect("nothing was changed")),
        wanted => Ok(Epoch::new((known + 1).max(wanted.unwrap_or(0)))),
    }
}

/// A number that is mistyped, or taken from a damaged file, must not use up what is left of the epochs.
fn exactly(database: i64, to: i64) -> Result<Epoch, CliError> {
    let what = if to <= database {
        format!("--to {to} is not above the epoch {database}")
    } else if to > Epoch::SCARCE.max(database + 1) {
        format!("--to {to} would leave less than a tenth of the {} epochs to failovers", Epoch::MAX)
    } else {
        return Ok(Epoch::new(to));
    };
    Err(CliError::usage(what).effect("nothing was changed"))
}

/// `done` is nothing for a dry run, else whether this command was the one that raised it.
fn tell(plan: &Plan, args: &DbEpochRaiseArgs, flags: &GlobalFlags, done: Option<bool>) -> Result<Exit, CliError> {
    let fields = [
        ("from", json!(plan.from.as_i64())),
        ("to", json!(plan.to.as_i64())),
        ("remembered", json!(plan.remembered.map(Epoch::as_i64))),
        ("at_least", json!(args.at_least)),
        ("live_engines", json!(plan.live)),
        ("claims_wait_s", json!(seconds(plan.pause))),
        ("reason", json!(flags.reason)),
        ("raised", json!(done == Some(true))),
        ("dry_run", json!(done.is_none())),
    ];
    match flags.output {
        Format::Table | Format::Wide => flags.say(&words(plan, flags, done))?,
        Format::Json => output::print(&output::document("rekindle.db-epoch-raise/1", SystemClock.wall_now(), &fields))?,
        Format::Jsonl => output::print(&output::line(&fields))?,
        Format::Tsv => output::print(&output::tsv_fields(&fields))?,
        Format::Name => output::print(&format!("{}\n", plan.to.as_i64()))?,
    }
    Ok(Exit::Ok)
}

fn words(plan: &Plan, flags: &GlobalFlags, done: Option<bool>) -> String {
    let (from, to) = (plan.from.as_i64(), plan.to.as_i64());
    let what = match done {
        None => format!("epoch {from} -> {to}: would be raised   (dry run)"),
        Some(true) => format!("epoch {from} -> {to}: raised"),
        Some(false) => format!("epoch {to}: an engine was faster and has raised it"),
    };
    let pause = fine_span(plan.pause);
    let claims = match plan.live {
        0 => format!(
            "no engine is live: the first one that starts claims after its takeover time T ({pause} with balanced timing)"
        ),
        live => format!(
            "{}: each starts its observations again with its next heartbeat, checks what it holds, and kills what is not its \
             any more\nnobody claims a task until one of them has watched the new epoch for {pause} (the largest T)",
            plural(live, "live engine")
        ),
    };
    let next = flags.command("next: rekindle db status   (says \"settled\" when engines claim again)");
    if done.is_none() { format!("{what}\n{claims}\n") } else { format!("{what}\n{claims}\n{next}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::time::Timestamp;

    fn meta(epoch: i64) -> Meta {
        let epoch = Epoch::new(epoch);
        Meta {
            cluster_id: "x".into(),
            cluster: None,
            epoch,
            raised_epoch: epoch,
            settled_epoch: epoch,
            raised_reason: None,
            identity: "here".into(),
            identity_matches: true,
            clock_seen_at: Timestamp::from_us(0),
            now: Timestamp::from_us(0),
        }
    }

    #[test]
    fn it_goes_one_above_all_that_is_remembered() {
        let to = |epoch, at_least, remembered: Option<i64>| {
            let args = DbEpochRaiseArgs { at_least, to: None, dry_run: false };
            target(&meta(epoch), &args, remembered.map(Epoch::new)).map(Epoch::as_i64)
        };
        assert_eq!(to(1, None, None), Ok(2));
        assert_eq!(to(1, None, Some(7)), Ok(8));
        assert_eq!(to(9, None, Some(7)), Ok(10));
        assert_eq!(to(1, Some(20), Some(7)), Ok(20));
        assert_eq!(to(30, Some(20), Some(7)), Ok(31));
        assert_eq!(to(Epoch::MAX - 1, None, None), Ok(Epoch::MAX));
        assert_eq!(to(Epoch::MAX, None, None).unwrap_err().code, codes::NO_EPOCH);
        assert_eq!(to(1, Some(Epoch::MAX), None).unwrap_err().exit, Exit::Usage);
        assert_eq!((to(1, None, Some(10_001)), to(1, None, Some(10_002))), (Ok(10_002), Ok(2)), "not believed");
        assert_eq!(to(1, None, Some(Epoch::MAX - 1)), Ok(2));
    }

    #[test]
    fn only_a_person_makes_a_leap_and_nobody_uses_the_range_up() {
        let to = |epoch, to| {
            let args = DbEpochRaiseArgs { at_least: None, to: Some(to), dry_run: false };
            target(&meta(epoch), &args, Some(Epoch::new(7))).map(Epoch::as_i64).map_err(|error| error.exit)
        };
        assert_eq!((to(1, 5), to(1, 4_000_000), to(5, 5)), (Ok(5), Ok(4_000_000), Err(Exit::Usage)));
        assert_eq!((to(1, Epoch::SCARCE), to(1, Epoch::SCARCE + 1)), (Ok(Epoch::SCARCE), Err(Exit::Usage)));
        assert_eq!(to(Epoch::MAX - 1, Epoch::MAX), Ok(Epoch::MAX), "one at a time it may go to the end");
    }
}
