//! The engine proper, below its guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};

use parking_lot::Mutex;

use super::settings::{self, Missing};
use super::{Hints, chain};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, place};
use crate::engine::heartbeat::LifeError;
use crate::engine::shared::Shared;
use crate::engine::stop::Ending;
use crate::engine::{Engine, EngineError, EngineOptions, Role};
use crate::guard::{GuardLink, GuardTalk, KEPT_BY_ENV, inherited_state_dir};
use crate::outlet::STDERR;
use crate::process::limits;
use crate::protocol::ids::Epoch;
use crate::protocol::stand::KeptBy;
use crate::store::error::Cause;
use crate::store::{SchemaProblem, Store, StoreError, missing_grant};

/// Runs it; the exit code.
pub fn run(config: &Config, hints: &Hints) -> i32 {
    // Both before the second thread: they take descriptors out of the environment.
    let (link, state) = match (GuardLink::from_env(), inherited_state_dir(&config.engine.state_dir)) {
        (Ok(link), Ok(Some(state))) => (link, state),
        (Ok(_), Ok(None)) => {
            log::error!("the engine proper is started by its guard, not by hand");
            return 2;
        }
        (Err(error), _) => return failed("could not find the guard", &error),
        (_, Err(error)) => {
            log::error!("could not use the state directory: {}", chain(&error));
            return error.exit_code();
        }
    };
    if let Err(error) = STDERR.start() {
        return failed("could not start the thread that writes the log", &error);
    }
    let told = Arc::new(Told::default());
    let handle = match listen(&told) {
        Ok(handle) => handle,
        Err(error) => return failed("could not handle signals", &error),
    };
    match settings::store(config, Missing::Make).and_then(|store| prepare(&*store, &told, link.as_ref(), hints)) {
        Ok(true) => {}
        Ok(false) => {
            let _ = link.as_ref().map(|link| link.goodbye(0));
            return 0;
        }
        Err(error) => return store_failed(&error, hints),
    }
    let store = match settings::store(config, Missing::Refuse) {
        Ok(store) => store,
        Err(error) => return store_failed(&error, hints),
    };
    let options = match settings::options(config, state.id()) {
        Ok(options) => options,
        Err(text) => {
            log::error!("{text}");
            hints.next(&["rekindle config check   (as the user of the engine)"]);
            return 78;
        }
    };
    let kept_by = std::env::var(KEPT_BY_ENV).ok().and_then(|text| KeptBy::from_code(text.parse().ok()?));
    let stand = match state.stand(kept_by.unwrap_or(KeptBy::Parentage)) {
        Ok(stand) => Some(stand),
        Err(error) => return failed("could not look at the lock of the state directory", &error),
    };
    let Some(options) = fitted(EngineOptions { stand, ..options }) else { return 78 };
    match Engine::start_as(store, options, Role::Daemon, link) {
        Ok(engine) => serve(engine, &told, &handle, hints),
        Err(EngineError::Host(what, error)) => {
            log::error!("could not start: could not {what}: {error}");
            let code = place::exit_code(error.kind());
            if code != 1 {
                hints.next(&["rekindle doctor   (as the user of the engine)", "rekindle config show --origin engine"]);
            }
            code
        }
        Err(error) => failed("could not start", &error),
    }
}

/// Takes all descriptors that the host allows, and no more slots than they are enough for: with more, tasks would
/// be claimed only to be given back, and heartbeats might not connect. `None` if not even one fits.
fn fitted(mut options: EngineOptions) -> Option<EngineOptions> {
    if options.kinds.is_empty() {
        return Some(options);
    }
    let most = limits::raise_descriptors().unwrap_or_else(|error| {
        log::warn!("could not take more descriptors: {error}");
        limits::most_descriptors()
    });
    let fits = limits::slots_within(most);
    if fits == 0 {
        log::error!("{most} descriptors (ulimit -Hn, LimitNOFILE= of the unit) are not enough to run a single command");
        return None;
    }
    if options.slots > fits {
        log::warn!(
            "engine.slots = {} would need {} descriptors and the host allows {most} (ulimit -Hn, LimitNOFILE= of the \
             unit): running at most {fits} commands at once",
            options.slots,
            limits::needed_for(options.slots)
        );
        options.slots = fits;
    }
    Some(options)
}

fn failed(what: &str, error: &dyn std::error::Error) -> i32 {
    log::error!("{what}: {}", chain(error));
    1
}

/// What a store's error means for the exit code: only what a restart cannot mend stops systemd.
fn store_failed(error: &StoreError, hints: &Hints) -> i32 {
    log::error!("{} ({})", error.chain(), hints.database());
    if let Some(grant) = hints.url().and_then(|url| missing_grant(url, &error.chain())) {
        hints.next(&[&format!("on the server, as its administrator: {grant}"), "rekindle doctor"]);
        return 77;
    }
    match error {
        StoreError::Schema(SchemaProblem::Newer(_)) => {
            hints.next(&["install the release of the engines that run (this one is older than the database)"]);
            78
        }
        StoreError::Schema(_) => {
            hints.next(&["rekindle db status", "rekindle db migrate"]);
            78
        }
        StoreError::Refused(_) => {
            hints.next(&["look at cluster and database.url: rekindle config show --origin"]);
            78
        }
        StoreError::Denied { .. } => {
            hints.next(&[
                "look at user and password: rekindle config show --origin database",
                "on the server: the user, its password, from where it may log in (pg_hba.conf, CREATE USER)",
            ]);
            77
        }
        StoreError::Rights { .. } => {
            hints.next(&[crate::store::GRANT, "rekindle doctor"]);
            77
        }
        StoreError::ReadOnly { .. } | StoreError::Forbidden { .. } => {
            hints.next(&["rekindle doctor"]);
            77
        }
        StoreError::Unreachable { .. } | StoreError::Busy { .. } | StoreError::Unknown { .. } => 69,
        StoreError::Full { .. } | StoreError::Broken { .. } => 1,
    }
}

/// Waits for the database, and sets an empty one up. False if the engine was told to stop meanwhile.
fn prepare(store: &dyn Store, told: &Told, link: Option<&GuardLink>, hints: &Hints) -> Result<bool, StoreError> {
    let mut said = false;
    loop {
        crate::engine::unit::starting(link.map(|link| link as &dyn GuardTalk));
        match check(store) {
            Ok(()) => return Ok(true),
            // A standby, or a server that was set so: it takes writes again, or another does.
            Err(error) if error.is_transient() || matches!(error, StoreError::ReadOnly { .. }) => {
                if !std::mem::replace(&mut said, true) {
                    log::warn!("waiting for the database: {} ({})", error.chain(), hints.database());
                }
            }
            Err(error) => return Err(error),
        }
        SystemClock.pause(Duration::from_millis(500));
        if told.to_stop.load(Ordering::Acquire) {
            return Ok(false);
        }
    }
}

/// An empty database is set up; an older schema is left to `rekindle db migrate`, because engines of the
/// older release may still work on it.
fn check(store: &dyn Store) -> Result<(), StoreError> {
    let status = store.schema_status()?;
    if !status.is_migrating && status.found.is_none() {
        is_for_nobody(store)?;
        let done = store.migrate()?;
        if !done.is_empty() {
            log::info!("set up an empty database (schema {})", done.join(", "));
        }
        return Ok(());
    }
    crate::store::migrate::check(&status)?;
    match store.check_rights() {
        Err(StoreError::ReadOnly { step, source }) => {
            is_for_nobody(store)?;
            // Only this user's sessions are: that is a right that is missing.
            return Err(StoreError::Forbidden { step, source });
        }
        other => other?,
    }
    for problem in store.server_info()?.durability_problems {
        log::warn!("the database may lose commits: {problem}");
    }
    Ok(())
}

/// Fails where the server takes nobody's writes now.
fn is_for_nobody(store: &dyn Store) -> Result<(), StoreError> {
    match store.server_info()? {
        info if info.nobody_writes => {
            let source = Cause(format!("{} is a standby, or set to read-only", info.place));
            Err(StoreError::ReadOnly { step: "start", source })
        }
        _ => Ok(()),
    }
}

/// What signals have said, from before there is an engine.
#[derive(Default)]
struct Told {
    to_stop: AtomicBool,
    engine: Mutex<Option<Arc<Shared>>>,
}

fn listen(told: &Arc<Told>) -> std::io::Result<Handle> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1])?;
    let (handle, told) = (signals.handle(), Arc::clone(told));
    std::thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(move || {
        for signal in signals.forever() {
            obey(signal, &told);
        }
    })?;
    Ok(handle)
}

fn obey(signal: i32, told: &Told) {
    let engine = told.engine.lock();
    match (signal, engine.as_ref()) {
        (SIGTERM | SIGINT | SIGQUIT, None) => told.to_stop.store(true, Ordering::Release),
        (SIGQUIT, Some(shared)) => shared.stop.ask(Ending::HandBack),
        (SIGTERM | SIGINT, Some(shared)) => {
            let first = shared.stop.ending() == Ending::No;
            log::info!("told to stop{}", if first { "" } else { " again: handing back now" });
            shared.stop.ask(if first { Ending::Finish } else { Ending::HandBack });
        }
        (SIGHUP, _) => log::warn!("the configuration is read at start only: restart the engine to change it"),
        (SIGUSR1, Some(shared)) => dump(shared),
        _ => {}
    }
}

fn serve(engine: Engine, told: &Told, handle: &Handle, hints: &Hints) -> i32 {
    *told.engine.lock() = Some(Arc::clone(engine.shared()));
    if told.to_stop.load(Ordering::Acquire) {
        engine.stop();
    }
    let result = engine.wait();
    handle.close();
    match result {
        Ok(()) => 0,
        Err(EngineError::Life(LifeError::Store(error))) => store_failed(&error, hints),
        Err(EngineError::Life(error @ LifeError::EpochTooFar { remembered, database, .. })) => {
            log::error!("{error}");
            let to = remembered.as_i64() + 1;
            let write = format!("if that number is wrong: write {} into the file", database.as_i64());
            let raise =
                format!("if the database is: rekindle db epoch raise --to {to} --confirm {to} --reason \"restored\"");
            let hints_of = [write.as_str(), raise.as_str()];
            // A number that would use the range up is no memory of any database.
            hints.next(if to > Epoch::SCARCE { &hints_of[..1] } else { &hints_of });
            78
        }
        Err(error @ EngineError::Life(LifeError::NameTaken { .. })) => {
            log::error!("{error}");
            hints.next(&["rekindle engine list", "choose another name (--name), or stop that engine"]);
            3
        }
        Err(error) => failed("the engine ended", &error),
    }
}

fn dump(shared: &Shared) {
    let life = shared.life();
    log::info!("state: {:?}, wanted {}, beat {}, mode {}", life.phase, life.wanted, life.beat, shared.mode());
    for entry in shared.running.entries() {
        log::info!("state: holds task {} {} token {}", entry.task.held.task, entry.task.kind, entry.task.held.token);
    }
}
