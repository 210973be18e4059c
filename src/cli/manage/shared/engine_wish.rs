//! What operators want of engines: written for the name, obeyed by the engine with its next heartbeat,
//! reported back by it. Every wish tells when it takes effect and how to undo it.

use std::time::Duration;

use serde_json::json;

use super::engine_json::clock_or_age;
use super::handed_back::HandedBack;
use super::waiting::Patience;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{age, one_line, shorten, took};
use crate::cli::output::{DRY, List, Table, plural};
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, consent, load_config, who};
use crate::clock::{Clock, SystemClock};
use crate::health::view::newest_lives;
use crate::protocol::engine::{EngineState, Mode, Wanted};
use crate::protocol::ids::EngineName;
use crate::protocol::task::TaskState;
use crate::protocol::time::Timestamp;
use crate::store::{EngineRow, TaskFilter, Wish4Engine};

/// Which engines.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(about = None, long_about = None)]
pub struct Names {
    /// Names of engines
    #[arg(value_name = "NAME", required_unless_present_any = ["is_self", "all"])]
    pub names: Vec<EngineName>,
    /// The engine of this host's configuration (engine.name)
    #[arg(long = "self")]
    pub is_self: bool,
    /// All engines that are alive
    #[arg(long, conflicts_with_all = ["names", "is_self"])]
    pub all: bool,
    /// Only say what would be asked
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// What.
    pub wanted: Wanted,
    /// It ends by itself after this long.
    pub lasts: Option<Duration>,
    /// What still runs then is handed back.
    pub deadline: Option<Duration>,
    /// Watch until it is so.
    pub wait: bool,
}

/// One engine that was asked.
pub(super) struct Asked {
    pub(super) name: EngineName,
    before: Wanted,
    row: Option<EngineRow>,
    pub(super) now: Timestamp,
}

/// Writes the wish for every name, then waits if asked to. All are asked first, so that work does not hop
/// from one to the next.
pub fn run(names: &Names, wish: Wish, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let loaded = load_config(flags)?;
    let session = match wish.wait {
        true => Session::open_patient(flags, &loaded)?,
        false => Session::open(flags, &loaded, Access::Current)?,
    };
    let (now, rows) = session.read("listing engines", |store| store.newest_engines())?;
    let newest = newest_lives(&rows);
    let wanted_names = chosen(names, &newest, &loaded.config.engine.name)?;
    consent::expected(flags, wanted_names.len(), "engine")?;
    if names.dry_run {
        return tell(&foreseen(&wanted_names, &newest, now), wish, flags, true).map(|()| Exit::Ok);
    }
    if names.all && wish.wanted == Wanted::Stop && !wanted_names.is_empty() {
        let what =
            format!("stop all {}: each has to be started again on its host", plural(wanted_names.len(), "engine"));
        consent::severe(flags, &what, session.cluster())?;
    }
    let verb = if wish.wanted == Wanted::Run { "resume" } else { wish.wanted.word() };
    let mut change = who::change(&format!("engine {verb}"), flags);
    let is_meant = |row: &&&EngineRow| wanted_names.contains(&row.name);
    weakening(newest.iter().filter(is_meant).copied(), wish.wanted, now, flags)?;
    let mut asked = Vec::new();
    for name in wanted_names {
        let message = Wish4Engine {
            name: name.clone(),
            wanted: wish.wanted,
            reason: flags.reason.clone().filter(|_| wish.wanted != Wanted::Run),
            by: who::user(),
            deadline: wish.deadline,
            lasts: wish.lasts,
        };
        let mine = change.clone();
        change = change.next();
        let told = session.write("telling engines what is wanted", move |store| store.set_wanted_as(&message, &mine));
        let before = told?;
        let before =
            before.ok_or_else(|| CliError::no_engine(name.as_str(), newest.iter().map(|row| row.name.as_str())))?;
        let row = newest.iter().find(|row| row.name == name).map(|row| (*row).clone());
        asked.push(Asked { name, before, row, now });
    }
    tell(&asked, wish, flags, false)?;
    if wish.wait { watch(&session, &asked, wish, flags) } else { Ok(Exit::Ok) }
}

/// Every name must be known before the first wish is written.
fn chosen(names: &Names, newest: &[&EngineRow], own: &EngineName) -> Result<Vec<EngineName>, CliError> {
    if names.all {
        let live = newest.iter().filter(|row| row.state == EngineState::Live);
        return Ok(live.map(|row| row.name.clone()).collect());
    }
    let mut wanted: Vec<EngineName> = names.names.clone();
    wanted.extend(names.is_self.then(|| own.clone()));
    wanted.dedup();
    match wanted.iter().find(|name| !newest.iter().any(|row| row.name == **name)) {
        Some(unknown) => {
            let error = CliError::no_engine(unknown.as_str(), newest.iter().map(|row| row.name.as_str()));
            let is_self = names.is_self && unknown == own;
            Err(if is_self {
                error.cause("--self is engine.name of the configuration, by default this host's name")
            } else {
                error
            })
        }
        None => Ok(wanted),
    }
}

/// What the real run would tell, from what is wanted now.
fn foreseen(names: &[EngineName], newest: &[&EngineRow], now: Timestamp) -> Vec<Asked> {
    let asked = |name: &EngineName| {
        let row = newest.iter().find(|row| row.name == *name).map(|row| (*row).clone());
        let before = row.as_ref().map_or(Wanted::Run, |row| row.wanted.wanted);
        Asked { name: name.clone(), before, row, now }
    };
    names.iter().map(asked).collect()
}

/// How much a wish keeps an engine from working; `run` is apart, for to resume is to undo.
const fn strength(wanted: Wanted) -> u8 {
    match wanted {
        Wanted::Run => 0,
        Wanted::Pause => 1,
        Wanted::Drain => 2,
        Wanted::Stop => 3,
    }
}

/// A pause in the place of somebody's drain (or a drain in that of a stop) would end what that person waits
/// for, without a word to them: it says whose wish it is, and wants consent. Asked before anything is
/// written, so that of several engines none is changed.
fn weakening<'a>(
    rows: impl Iterator<Item = &'a EngineRow>,
    wanted: Wanted,
    now: Timestamp,
    flags: &GlobalFlags,
) -> Result<(), CliError> {
    let is_weaker = |row: &&EngineRow| wanted != Wanted::Run && strength(row.wanted.wanted) > strength(wanted);
    let weaker: Vec<&EngineRow> = rows.filter(is_weaker).collect();
    if weaker.is_empty() {
        return Ok(());
    }
    let instead = |row: &&EngineRow| {
        format!("{} instead of the {} of {}", row.name, row.wanted.wanted, by_whom(row, now, flags.utc))
    };
    let what = weaker.iter().map(instead).collect::<Vec<_>>().join(", and ");
    consent::moderate(flags, &format!("{wanted} {what}"))
        .map_err(|error| error.cause("it would end what that person asked for, and may wait for"))
}

/// `alice 13:56: kernel update`.
fn by_whom(row: &EngineRow, now: Timestamp, in_utc: bool) -> String {
    let by = row.wanted.by.as_deref().unwrap_or("nobody known");
    let at = row.wanted.at.map_or_else(String::new, |at| format!(" {}", clock_or_age(at, now, in_utc)));
    let why = row.wanted.reason.as_ref().map_or_else(String::new, |why| format!(": {}", shorten(&one_line(why), 100)));
    format!("{by}{at}{why}")
}

fn tell(asked: &[Asked], wish: Wish, flags: &GlobalFlags, is_dry: bool) -> Result<(), CliError> {
    let item = |one: &Asked| {
        json!({
            "engine": one.name,
            "wanted": wish.wanted,
            "before": one.before,
            "reason": flags.reason,
            "lasts_s": wish.lasts.map(crate::cli::human::seconds),
            "deadline_s": wish.deadline.map(crate::cli::human::seconds),
            "effective_within_s": one.row.as_ref().map(|row| crate::cli::human::seconds(within(row))),
        })
    };
    if flags.output.is_for_people() {
        let dry = |text: String| if is_dry { text.replace('\n', &format!("{DRY}\n")) } else { text };
        return asked.iter().try_for_each(|one| flags.say(&dry(flags.command(&words(one, wish, flags.utc)))));
    }
    // While waiting, the list comes at the end.
    if wish.wait && !is_dry && flags.output != Format::Name {
        return Ok(());
    }
    let list = List {
        items: asked.iter().map(item).collect(),
        names: asked.iter().map(|one| one.name.to_string()).collect(),
        table: Table::new(&[""]),
        footer: None,
        ..List::new("rekindle.engine-wish/1", SystemClock.wall_now())
    };
    if is_dry { list.dry_run() } else { list }.print(flags)
}

/// The next heartbeat comes at the latest after this: 1.1 h, and it may take q.
fn within(row: &EngineRow) -> Duration {
    row.timing.heartbeat_interval() * 11 / 10 + row.timing.query_timeout()
}

fn words(one: &Asked, wish: Wish, in_utc: bool) -> String {
    let name = &one.name;
    let word = match wish.wanted {
        Wanted::Run => "resume",
        other => other.word(),
    };
    let when = match &one.row {
        Some(row) if row.state == EngineState::Live => {
            format!("{name} sees it with its next heartbeat (at most {})", took(within(row)))
        }
        _ => format!("{name} does not run now; it holds for its next start"),
    };
    let until = wish.lasts.map_or_else(String::new, |lasts| format!(" for {}", age(lasts)));
    let deadline =
        wish.deadline.map_or_else(String::new, |span| format!("; what still runs after {} is handed back", age(span)));
    // What was there before: the database's word, taken with the write, even where somebody was faster.
    let whose =
        || one.row.as_ref().filter(|row| row.wanted.wanted == one.before).map(|row| by_whom(row, one.now, in_utc));
    let whose = whose().map_or_else(String::new, |whose| format!(" of {whose}"));
    let undo = match (wish.wanted, one.before) {
        (Wanted::Run, Wanted::Run) => "it was not paused before".to_owned(),
        (Wanted::Run, before) => format!("undid: {before}{whose}\nundo: rekindle engine {before} {name}"),
        (wanted, before) => {
            let is_other = before != Wanted::Run && before != wanted;
            let was = if is_other { format!("it was to {before} before{whose}\n") } else { String::new() };
            let back = if is_other { before.word() } else { "resume" };
            match wanted {
                // Whoever has stopped needs a start: a wish cannot bring a process back.
                Wanted::Stop => format!(
                    "{was}until it has stopped, undo: rekindle engine {back} {name}; then start it again on its host"
                ),
                _ => format!("{was}undo: rekindle engine {back} {name}"),
            }
        }
    };
    format!("{name}: {word} requested{until}; {when}{deadline}\n{undo}\n")
}

/// Watches until every engine is drained, or gone where it should stop.
fn watch(session: &Session, asked: &[Asked], wish: Wish, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let mut patience = Patience::new(flags.timeout);
    let mut told: Vec<Option<String>> = vec![None; asked.len()];
    let mut handed_back = HandedBack::default();
    let tells = flags.output.is_for_people();
    loop {
        let answer = session.try_read("watching engines", |store| store.newest_engines())?;
        if let Some((_, rows)) = patience.bear(session, answer)? {
            let newest = newest_lives(&rows);
            if wish.deadline.is_some() {
                handed_back.look(session, asked);
            }
            let mut open = Vec::new();
            for (one, told) in asked.iter().zip(&mut told) {
                let row = newest.iter().find(|row| row.name == one.name);
                let (is_over, text) = progress(row.copied(), wish.wanted, patience.waited());
                if !is_over {
                    open.push(one.name.as_str());
                }
                if told.as_ref() != Some(&text) {
                    if tells {
                        let running = if is_over { String::new() } else { running(session, &one.name) };
                        flags.say(&format!("{}: {text}{running}\n", one.name))?;
                    }
                    *told = Some(text);
                }
            }
            if open.is_empty() {
                return finished(session, asked, wish, flags, &handed_back);
            }
        }
        if !patience.pause() {
            let what = format!("waited {} for engines to {}", age(patience.waited()), wish.wanted);
            return Err(CliError::timeout(what).next("rekindle engine list"));
        }
    }
}

/// Whether one engine is where it should be, and how it stands. Without times, which would make every look news.
fn progress(row: Option<&EngineRow>, wanted: Wanted, waited: Duration) -> (bool, String) {
    let Some(row) = row else { return (true, "is not known any more".to_owned()) };
    match (row.state, row.mode) {
        (EngineState::Fenced, _) => (true, "is fenced; its tasks were taken over".to_owned()),
        (EngineState::Stopped, _) => (true, format!("stopped after {}", age(waited))),
        (EngineState::Live, Mode::Drained) if wanted == Wanted::Drain && row.running == 0 => {
            (true, format!("drained after {}. It keeps beating and takes nothing.", age(waited)))
        }
        (EngineState::Live, mode @ (Mode::Draining | Mode::Drained)) => {
            (false, format!("{mode}, {} running", row.running))
        }
        (EngineState::Live, mode) => (false, format!("{mode}, has not seen it yet; {} running", row.running)),
    }
}

/// `  #4812 invoice-mail 2m, #4830 report 11m`.
fn running(session: &Session, name: &EngineName) -> String {
    let filter =
        TaskFilter { states: vec![TaskState::Running], engine: Some(name.clone()), limit: 4, ..TaskFilter::default() };
    let Ok(Ok((now, rows))) = session.try_read("listing its tasks", move |store| store.tasks(&filter)) else {
        return String::new();
    };
    let show = |row: &crate::store::TaskRow| {
        let runs = row.started_at.map_or_else(String::new, |at| format!(" {}", age(now.since(at))));
        format!("{} {}{runs}", row.id, shorten(&one_line(row.kind.as_str()), 40))
    };
    let shown: Vec<String> = rows.iter().take(3).map(show).collect();
    let more = if rows.len() > 3 { ", ..." } else { "" };
    if shown.is_empty() { String::new() } else { format!("   {}{more}", shown.join(", ")) }
}

fn finished(
    session: &Session,
    asked: &[Asked],
    wish: Wish,
    flags: &GlobalFlags,
    handed_back: &HandedBack,
) -> Result<Exit, CliError> {
    if !flags.output.is_for_people() {
        tell(asked, Wish { wait: false, ..wish }, flags, false)?;
        return Ok(Exit::Ok);
    }
    // A deadline that did its work is no failure: the host is what it was asked to be.
    if let Some(text) = handed_back.words(session) {
        flags.say(&text)?;
    }
    if wish.wanted == Wanted::Drain {
        let names: Vec<&str> = asked.iter().map(|one| one.name.as_str()).collect();
        let next = format!("next: work on the host, then   rekindle engine resume {}\n", names.join(" "));
        flags.say(&flags.command(&next))?;
    }
    Ok(Exit::Ok)
}
