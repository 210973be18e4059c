//! One command's way to the database: opened as the configuration says, each question bounded in time,
//! each error in people's words.
//!
//! Questions are asked on a thread that is abandoned when the time is over (`store::patience`), so that
//! `--timeout` holds against a frozen server too; the error names the stage.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::error::CliError;
use super::exit::Exit;
use super::human::age;
use super::{GlobalFlags, codes, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{Backend, DatabaseUrl, Loaded, Origin};
use crate::health::words::without_passwords;
use crate::protocol::time::LeaseInstant;
use crate::store::patience::{NoAnswer, within};
use crate::store::places::{Visit, become_owner, places};
use crate::store::{GRANT, SchemaProblem, SchemaStatus, Store, StoreError, StoreResult, missing_grant};

/// What a command may do to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The schema must be the one this program knows.
    Current,
    /// Whatever is there, for commands that look at the schema itself.
    AnySchema,
    /// As `AnySchema`, and a SQLite file that is not there is made.
    Create,
}

/// What a question does, for what is said when there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Read,
    Write,
}

/// See the module.
pub struct Session {
    store: Arc<dyn Store>,
    cluster: String,
    url: DatabaseUrl,
    origin: Origin,
    limit: Duration,
    until: Option<LeaseInstant>,
    foreign: Option<CliError>,
}

impl Session {
    /// For a command that ends within `--timeout`.
    pub fn open(flags: &GlobalFlags, loaded: &Loaded, access: Access) -> Result<Self, CliError> {
        let began = SystemClock.lease_now();
        let mut session = Self::lazy(flags, loaded, access == Access::Create)?;
        session.until = Some(began.after(flags.timeout()));
        session.check(loaded, access)?;
        Ok(session)
    }

    /// For a command that waits: `--timeout` is about the waiting, so each question has its own limit.
    pub fn open_patient(flags: &GlobalFlags, loaded: &Loaded) -> Result<Self, CliError> {
        let mut session = Self::lazy(flags, loaded, false)?;
        session.check(loaded, Access::Current)?;
        Ok(session)
    }

    fn lazy(flags: &GlobalFlags, loaded: &Loaded, create: bool) -> Result<Self, CliError> {
        let database = &loaded.config.database;
        let limit = flags.timeout().min(super::TIMEOUT_DEFAULT);
        let visit = Visit { application: "rekindle", limit, create };
        let places = places(database, visit);
        let first = places.first().map(|place| place.url.clone());
        let Some(url) = first else { return Err(CliError::usage("no database URL is configured")) };
        if let Some(user) = become_owner(database) {
            log::info!("going on as user {user}, who owns the database file");
        }
        let origin = loaded.origin("database.url");
        let cluster = loaded.config.cluster.clone();
        let opened = crate::store::open(places.clone(), places, 1);
        let store = opened.map_err(|error| sort(&cluster, &url, &origin, &error, Deed::Read))?;
        Ok(Self { store, cluster, url, origin, limit, until: None, foreign: None })
    }

    /// The schema, and whose database it is: a wrong URL must not make an operator pause the engines of another cluster. Where nobody wrote a
    /// name, the database's own is used; where somebody did and it is another one, changes are refused and
    /// everything else says so. Where the schema is not known to fit, a failing question is no answer.
    fn check(&mut self, loaded: &Loaded, access: Access) -> Result<(), CliError> {
        let must_fit = access == Access::Current;
        let meta = self.try_read("connecting", move |store| {
            let status = store.schema_status()?;
            if must_fit {
                crate::store::migrate::check(&status)?;
            }
            if status.found.is_some() { store.meta().map(Some) } else { Ok(None) }
        })?;
        let recorded = match meta {
            Ok(meta) => meta.and_then(|meta| meta.cluster),
            Err(error) if must_fit => return Err(self.error(&error)),
            Err(_) => None,
        };
        let Some(recorded) = recorded.filter(|recorded| *recorded != self.cluster) else { return Ok(()) };
        match loaded.origin("cluster") {
            Origin::Default => self.cluster = recorded,
            origin => {
                let error = CliError::other_cluster(&recorded, &self.cluster, &origin, &self.url);
                log::warn!("{} (from {origin}): changes are refused", error.what);
                self.foreign = Some(error);
            }
        }
        Ok(())
    }

    /// Refuses where a change would be one in another cluster.
    pub fn must_be_ours(&self) -> Result<(), CliError> {
        self.foreign.clone().map_or(Ok(()), Err)
    }

    /// Asks something that changes nothing.
    pub fn read<T, F>(&self, stage: &str, question: F) -> Result<T, CliError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> StoreResult<T> + Send + 'static,
    {
        self.try_read(stage, question)?.map_err(|error| self.error(&error))
    }

    /// As [`Self::read`], for a caller that wants to see the database's own error; no answer in time is an
    /// error of the command all the same.
    pub fn try_read<T, F>(&self, stage: &str, question: F) -> Result<StoreResult<T>, CliError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> StoreResult<T> + Send + 'static,
    {
        self.ask(question).map_err(|(limit, why)| self.no_answer(stage, limit, why, Deed::Read))
    }

    /// Asks for a change.
    pub fn write<T, F>(&self, stage: &str, change: F) -> Result<T, CliError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> StoreResult<T> + Send + 'static,
    {
        self.must_be_ours()?;
        let answer = self.ask(change).map_err(|(limit, why)| self.no_answer(stage, limit, why, Deed::Write))?;
        answer
            .inspect(|_| output::note_change())
            .map_err(|error| sort(&self.cluster, &self.url, &self.origin, &error, Deed::Write))
    }

    fn ask<T, F>(&self, question: F) -> Result<StoreResult<T>, (Duration, NoAnswer)>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> StoreResult<T> + Send + 'static,
    {
        let limit = self.until.map_or(self.limit, |until| until.since(SystemClock.lease_now()));
        let store = Arc::clone(&self.store);
        within(limit, move || question(&*store)).map_err(|why| (self.until.map_or(limit, |_| self.limit), why))
    }

    fn no_answer(&self, stage: &str, limit: Duration, why: NoAnswer, deed: Deed) -> CliError {
        let cause = match why {
            NoAnswer::Late => format!("no answer within {} while {stage} (--timeout)", age(limit)),
            NoAnswer::Died => format!("this program failed while {stage}; please report it"),
        };
        let error = CliError::unreachable(&self.cluster, &self.url, &self.origin, cause);
        if deed == Deed::Write { CliError { effect: unknown_effect(), ..error } } else { error }
    }

    /// A database's error in people's words.
    pub fn error(&self, error: &StoreError) -> CliError {
        sort(&self.cluster, &self.url, &self.origin, error, Deed::Read)
    }

    /// The address, without its password.
    pub const fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Tells engines that there is new work. They poll as well, so it does not matter if they miss it.
    pub fn wake(&self) {
        match self.ask(|store| store.wake()) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::debug!("engines were not woken: {}", without_passwords(&error.chain())),
            Err(_) => log::debug!("engines were not woken: no answer in time"),
        }
    }
}

fn unknown_effect() -> Option<Box<str>> {
    Some("it may or may not have been done: look before you repeat it".into())
}

/// The one place where a store's error becomes a code, an exit and a next command.
fn sort(cluster: &str, url: &DatabaseUrl, origin: &Origin, error: &StoreError, deed: Deed) -> CliError {
    let tried = || format!("{url}  (from {origin})");
    let cause = |source: &dyn std::fmt::Display| without_passwords(&source.to_string());
    if let Some(grant) = missing_grant(url, &error.chain()) {
        let what = "the database user lacks a right";
        let next = format!("on the server, as its administrator: {grant}");
        let error = CliError::not_permitted(what, cause(&error.chain())).tried(tried());
        return CliError { next: vec![next], ..error }.next("README: \"Databases and their users\" has all of them");
    }
    match error {
        StoreError::Unreachable { source, .. } => unreachable(cluster, url, origin, cause(source)),
        StoreError::Unknown { step, source } => {
            let what = format!("the outcome of \"{step}\" is not known");
            let error = CliError::new(codes::UNKNOWN_OUTCOME, Exit::Unavailable, what).cause(cause(source));
            match deed {
                Deed::Read => error.effect("nothing was changed"),
                Deed::Write => CliError { effect: unknown_effect(), ..error },
            }
            .next(format!("rekindle explain {}", codes::UNKNOWN_OUTCOME))
        }
        StoreError::Busy { step, source } => {
            CliError::try_again(format!("the database is busy ({step})"), cause(source)).effect("nothing was changed")
        }
        StoreError::Schema(problem @ (SchemaProblem::Missing | SchemaProblem::Older(_)))
            if *origin == Origin::Default =>
        {
            let error = schema(cluster, problem).tried(tried());
            CliError { next: Vec::new(), ..error }.next(WHICH_DATABASE).next("rekindle db status")
        }
        StoreError::Schema(problem) => schema(cluster, problem),
        StoreError::ReadOnly { step, source } | StoreError::Forbidden { step, source } => {
            let mut cause = cause(source);
            if url.sqlite_path().is_some() && *step == "open" {
                // Whoever may only read can do so while somebody else keeps the log open.
                cause.push_str("\na user who may not write here can read only while an engine runs");
            }
            CliError::not_permitted(format!("the database does not permit it ({step})"), cause).tried(tried())
        }
        StoreError::Rights { missing, source } => {
            let what = format!("the database user may not do all that an engine does: it lacks {missing}");
            let error = CliError { next: vec![GRANT.to_owned()], ..CliError::not_permitted(what, cause(source)) };
            error.tried(tried()).next("rekindle doctor")
        }
        StoreError::Denied { source, .. } => CliError::denied(url, origin, cause(source)),
        StoreError::Full { step, source } => {
            let what = format!("the database's disk is full ({step})");
            CliError::new(codes::DISK_FULL, Exit::Failed, what)
                .tried(tried())
                .cause(cause(source))
                .effect("nothing was changed")
                .next("make space on the database's disk, then repeat the command")
                .next("rekindle doctor")
        }
        StoreError::Refused(text) => not_usable(url, cause(text)).tried(tried()),
        StoreError::Broken { step, source } => {
            CliError::database(format!("the database refused to {step}"), cause(source)).tried(tried())
        }
    }
}

/// A database that is not there is made by the server's administrator; anything else is somebody's else.
fn not_usable(url: &DatabaseUrl, cause: String) -> CliError {
    let is_missing = url.backend() != Backend::Sqlite && cause.contains("no such database");
    let error = CliError::new(codes::NOT_USABLE, Exit::Config, "this database cannot be used").cause(cause);
    let error = if is_missing { error.next("make it on the server, then: rekindle db migrate") } else { error };
    error
        .effect("nothing was changed")
        .next("look at the address: rekindle config show --origin database")
        .next(format!("rekindle explain {}", codes::NOT_USABLE))
}

/// Nobody answers. A SQLite file that is not there yet is made by `db migrate`; one that this user may not
/// read is no outage.
fn unreachable(cluster: &str, url: &DatabaseUrl, origin: &Origin, cause: String) -> CliError {
    let error = CliError::unreachable(cluster, url, origin, cause.clone());
    match url.sqlite_path().map(|path| (path, access(path, AccessFlags::R_OK))) {
        // Whoever has said nothing about a database most likely means another one than the default.
        Some((_, Err(Errno::ENOENT))) if *origin == Origin::Default => {
            CliError { next: Vec::new(), ..error }.next(WHICH_DATABASE).next("rekindle config init   (writes a file)")
        }
        Some((_, Err(Errno::ENOENT))) => {
            let make = "rekindle db migrate   (makes it)".to_owned();
            CliError { next: vec![make, "rekindle config show --origin database".to_owned()], ..error }
        }
        Some((path, Err(Errno::EACCES))) => {
            let what = format!("this user may not read {}", path.display());
            CliError::not_permitted(what, cause).tried(format!("{url}  (from {origin})")).next("rekindle doctor")
        }
        _ => error,
    }
}

fn schema(cluster: &str, problem: &SchemaProblem) -> CliError {
    match problem {
        SchemaProblem::Missing => {
            CliError::schema_too_old(format!("the database of cluster {cluster:?} holds no rekindle tables yet"))
        }
        SchemaProblem::Older(pending) => CliError::schema_too_old(format!(
            "the database's schema is older than this program needs: {pending} pending"
        )),
        SchemaProblem::Newer(newest) => CliError::schema_too_new(format!(
            "the database's schema is newer than this program: {newest} is not known here"
        )),
    }
}

/// For whoever has not said it.
pub const WHICH_DATABASE: &str =
    "say which database: -c FILE, database.url in the configuration, or REKINDLE_DATABASE_URL";

/// What a schema is called.
pub fn schema_name(status: &SchemaStatus) -> &str {
    status.found.as_deref().unwrap_or("none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::error::Cause;

    #[test]
    fn every_error_of_the_database_has_a_next_step() {
        let url = DatabaseUrl::parse("postgres://u@h/d").unwrap();
        let (step, place) = ("test", "h".to_owned());
        let source = || Cause("why".to_owned());
        let all = [
            (StoreError::Unreachable { place: place.clone(), source: source() }, 69),
            (StoreError::Unknown { step, source: source() }, 69),
            (StoreError::Busy { step, source: source() }, 75),
            (StoreError::Schema(SchemaProblem::Missing), 78),
            (StoreError::Schema(SchemaProblem::Older("1".into())), 78),
            (StoreError::Schema(SchemaProblem::Newer("1".into())), 78),
            (StoreError::Denied { place, source: source() }, 77),
            (StoreError::ReadOnly { step, source: source() }, 77),
            (StoreError::Forbidden { step, source: source() }, 77),
            (StoreError::Rights { missing: "DELETE on task".into(), source: source() }, 77),
            (StoreError::Full { step, source: source() }, 1),
            (StoreError::Refused("there is no such database at h".into()), 78),
            (StoreError::Broken { step, source: source() }, 1),
        ];
        for (error, exit) in all {
            let said = sort("c", &url, &Origin::Default, &error, Deed::Write);
            assert_eq!(i32::from(said.exit.code()), exit, "{}", said.render());
            assert!(!said.next.is_empty(), "{}", said.render());
            let is_newer = matches!(error, StoreError::Schema(SchemaProblem::Newer(_)));
            assert!(!(is_newer && said.render().contains("migrate")), "{}", said.render());
        }
    }

    #[test]
    fn next_commands_look_where_this_one_looked() {
        let flags = GlobalFlags { config: Some("my app.toml".into()), ..GlobalFlags::default() };
        let error = CliError::no_task(7).at(&flags);
        assert_eq!(error.next, ["rekindle -c 'my app.toml' task list"]);
    }
}
