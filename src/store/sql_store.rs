//! [`Store`] over a database: a pool, a connection of its own for beats, and the shared statements.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::r2d2::{ManageConnection, Pool, PooledConnection};
use parking_lot::{Condvar, Mutex};

use super::api::{FinishState, Store, StoreResult, TaskState4Wait, Watcher};
use super::audit::{Affected, Change, Counts, HistoryEntry, HistoryFilter, HourRow};
use super::backend::Backend;
use super::db::Db;
use super::error::{Cause, StoreError};
use super::migrate;
use super::pool::{BEATS, Manager, Settings, WATCHERS, build, pool_error};
use super::queries::history::with_history;
use super::queries::{
    beat, bulk, claim, engine_rows, engines, finish, history, hours, mend, meta, people, purge, register, resources,
    rights, status, stray, sweep, takeover, tasks,
};
use super::seats::{Seated, Tenure, Turns};
use super::types::*;
use crate::config::RetentionConfig;
use crate::planted::{Bug, planted};
use crate::protocol::engine::Wanted;
use crate::protocol::ids::{EngineName, Epoch, Incarnation, KindName, ResourceName, TaskId};
use crate::protocol::last_beat::LastBeat;
use crate::protocol::liveness::SweepKind;
use crate::protocol::time::Timestamp;

/// A step that met a deadlock or a busy lock is repeated this often before the caller hears of it.
const BUSY_TRIES: u32 = 4;

/// Within this time it is repeated more often: on Galera engines on different nodes do not wait for each other's
/// locks, and one of them hears of a deadlock at once, at COMMIT.
const DEADLOCKS: (u32, Duration) = (16, Duration::from_secs(1));

/// How long other writers of one process wait for a beat of the same process.
const BEAT_FIRST: Duration = Duration::from_millis(200);

/// How often it is looked whether a migration is over.
const MIGRATION_POLL: Duration = Duration::from_millis(50);

/// See the module.
pub struct SqlStore<B: Backend> {
    backend: B,
    pool: Pool<Manager<B>>,
    manager: Manager<B>,
    beats: Manager<B>,
    watchers: Manager<B>,
    // The connection is taken out while it is used: a beat that hangs takes it along, and the next beat
    // opens a new one instead of waiting for a lock.
    beat_connection: Mutex<Option<Seated<B::Connection>>>,
    beats_waiting: Mutex<usize>,
    beat_done: Condvar,
    // Asked once: an engine that waits for its name registers again and again.
    has_rights: AtomicBool,
    /// How long a migration of somebody else is waited for.
    patience: Duration,
}

impl<B: Backend> SqlStore<B> {
    /// Over these places of one database; `beats` are the places for heartbeats (a way round a pooler).
    /// Connects to nothing yet.
    pub fn new(backend: B, places: Vec<Settings>, beats: Vec<Settings>, connections: u32) -> Self {
        let wait = places.first().map_or(Duration::from_secs(5), |s| s.connect_timeout);
        let turns = Arc::new(Turns::default());
        let manager = Manager::new(backend.clone(), places, connections.max(2), Arc::clone(&turns));
        Self {
            pool: build(manager.clone(), wait),
            beats: Manager::new(backend.clone(), beats, BEATS, turns),
            watchers: manager.beside(WATCHERS),
            manager,
            backend,
            beat_connection: Mutex::new(None),
            beats_waiting: Mutex::new(0),
            beat_done: Condvar::new(),
            has_rights: AtomicBool::new(false),
            patience: wait / 2,
        }
    }

    fn connection(&self) -> StoreResult<PooledConnection<Manager<B>>> {
        if let Some(idle) = self.pool.try_get() {
            return Ok(idle);
        }
        if self.pool.state().connections == 0 {
            self.manager.open_spare()?;
        }
        self.pool.get().map_err(|error| match error.to_string() {
            // The pool hides the cause; one attempt of our own tells it.
            text if text.contains("timed out") => match self.manager.open() {
                Err(cause) => cause,
                // The place answers again; the next call has it.
                Ok(_) => pool_error(self.manager.place(), text),
            },
            text => pool_error(self.manager.place(), text),
        })
    }

    /// Lets a beat of this process go first where all writers share one lock.
    fn let_beat_through(&self) {
        if B::ONE_WRITER {
            let mut waiting = self.beats_waiting.lock();
            if *waiting > 0 {
                self.beat_done.wait_for(&mut waiting, BEAT_FIRST);
            }
        }
    }

    fn run<T>(&self, mut body: impl FnMut(&mut dyn Db) -> StoreResult<T>) -> StoreResult<T> {
        use crate::clock::{Clock as _, SystemClock};
        let began = SystemClock.lease_now();
        let again =
            |round| round < BUSY_TRIES || round < DEADLOCKS.0 && SystemClock.lease_now().since(began) < DEADLOCKS.1;
        let mut is_mended = false;
        for round in 1.. {
            self.let_beat_through();
            let mut connection = self.connection()?;
            let done = body(&mut **connection);
            self.manager.note(&connection, &done);
            match done {
                Err(StoreError::Busy { step, source }) if again(round) => {
                    log::debug!("{step} met a busy lock ({source}), try {round}");
                    drop(connection);
                    SystemClock.pause(Duration::from_millis(fastrand::u64(2..=20) * u64::from(round.min(BUSY_TRIES))));
                }
                // A row that another program wrote with the rules of the schema switched off: not a reason to stop.
                Err(StoreError::Broken { step, source }) if !is_mended && mend::is_rule(&source) => {
                    let count = mend::mend(&mut **connection)?;
                    if count == 0 {
                        return Err(StoreError::Broken { step, source });
                    }
                    log::warn!("{step} met a row that breaks a rule of the schema ({source}): mended {count} rows");
                    is_mended = true;
                }
                other => return other,
            }
        }
        unreachable!("the last round returns")
    }

    fn raw<T>(&self, body: impl FnOnce(&mut B::Connection) -> StoreResult<T>) -> StoreResult<T> {
        let mut connection = self.connection()?;
        let done = body(&mut connection);
        self.manager.note(&connection, &done);
        done
    }

    /// The schema, not in the middle of a migration: one that is under way is waited for, and then it is looked at
    /// again. What does not fit is believed when two looks agree and nobody was migrating between them.
    fn settled_schema(&self) -> StoreResult<SchemaStatus> {
        use crate::clock::{Clock as _, SystemClock};
        let until = SystemClock.lease_now().after(self.patience);
        let look = || {
            self.raw(|c| {
                let status = self.backend.schema_status(c)?;
                let may_change = !status.is_current() && status.unknown.is_empty();
                Ok((may_change && self.backend.is_migrating(c)?, status))
            })
        };
        let mut former = None;
        loop {
            let (is_migrating, status) = look()?;
            if is_migrating && SystemClock.lease_now() >= until {
                return Ok(SchemaStatus { is_migrating, ..status });
            }
            if is_migrating {
                SystemClock.pause(MIGRATION_POLL);
            } else if status.is_current() || !status.unknown.is_empty() || former.as_ref() == Some(&status) {
                return Ok(status);
            }
            former = (!is_migrating).then_some(status);
        }
    }

    fn beat_once(&self, beat: &Beat) -> StoreResult<BeatOutcome> {
        if planted(Bug::BeatFromPool) {
            return beat::beat(&mut **self.connection()?, beat);
        }
        let taken = self.beat_connection.lock().take();
        let mut connection = match taken.and_then(|mut taken| self.beats.is_good(&mut taken).then_some(taken)) {
            Some(connection) => connection,
            None => self.beats.open()?,
        };
        let outcome = beat::beat(&mut *connection, beat);
        self.beats.note(&connection, &outcome);
        if !self.beats.has_broken(&mut connection) {
            *self.beat_connection.lock() = Some(connection);
        }
        outcome
    }
}

impl<B: Backend> Store for SqlStore<B> {
    fn migrate(&self) -> StoreResult<Vec<String>> {
        self.raw(|c| self.backend.migrate(c))
    }
    fn schema_status(&self) -> StoreResult<SchemaStatus> {
        self.settled_schema()
    }
    fn server_info(&self) -> StoreResult<ServerInfo> {
        let place = self.manager.place();
        self.raw(|c| self.backend.server_info(c, place))
    }
    fn check_rights(&self) -> StoreResult<()> {
        // A file that one writer locks knows no users.
        if B::ONE_WRITER { Ok(()) } else { self.run(|db| rights::check(db)) }
    }
    fn meta(&self) -> StoreResult<Meta> {
        self.run(|db| meta::meta(db))
    }
    fn raise_epoch(&self, from: Epoch, at_least: Epoch, reason: &str) -> StoreResult<bool> {
        self.run(|db| meta::raise_epoch(db, from, at_least, reason))
    }
    fn note_clock(&self, seen: Timestamp) -> StoreResult<()> {
        self.run(|db| meta::note_clock(db, seen))
    }
    fn settle_epoch(&self, epoch: Epoch) -> StoreResult<bool> {
        self.run(|db| meta::settle_epoch(db, epoch))
    }

    fn register(&self, registration: &Registration) -> StoreResult<RegisterOutcome> {
        let status = self.schema_status()?;
        migrate::check(&status)?;
        if !self.has_rights.load(Ordering::Relaxed) {
            self.check_rights()?;
            self.has_rights.store(true, Ordering::Relaxed);
        }
        self.run(|db| register::register(db, registration))
    }
    fn is_lost(&self, last: &LastBeat) -> StoreResult<bool> {
        self.run(|db| register::is_lost(db, last))
    }
    fn beat(&self, beat: &Beat) -> StoreResult<BeatOutcome> {
        *self.beats_waiting.lock() += 1;
        let outcome = self.beat_once(beat);
        *self.beats_waiting.lock() -= 1;
        self.beat_done.notify_all();
        outcome
    }
    fn sweep(&self, kind: SweepKind) -> StoreResult<SweepView> {
        self.run(|db| sweep::sweep(db, kind))
    }
    fn fence(&self, fence: &Fence) -> StoreResult<FenceOutcome> {
        self.run(|db| engines::fence(db, fence))
    }
    fn take_over(&self, owner: Incarnation, by: &str, limit: usize) -> StoreResult<TakeoverReport> {
        self.run(|db| takeover::take_over(db, owner, by, limit))
    }
    fn close(&self, incarnation: Incarnation) -> StoreResult<bool> {
        self.run(|db| engines::close(db, incarnation))
    }
    fn find_orphans(&self, every: Duration) -> StoreResult<Option<Vec<Incarnation>>> {
        self.run(|db| sweep::find_orphans(db, every))
    }
    fn stop(&self, incarnation: Incarnation) -> StoreResult<bool> {
        self.run(|db| engines::stop(db, incarnation))
    }
    fn set_wanted(&self, wish: &Wish4Engine) -> StoreResult<Option<Wanted>> {
        self.run(|db| engines::set_wanted(db, wish))
    }
    fn engines(&self) -> StoreResult<(Timestamp, Vec<EngineRow>)> {
        self.run(|db| engine_rows::engines(db))
    }
    fn newest_engines(&self) -> StoreResult<(Timestamp, Vec<EngineRow>)> {
        self.run(|db| engine_rows::newest_engines(db))
    }
    fn forget_engines(&self, older_than: Duration, names: &[EngineName], dry_run: bool) -> StoreResult<Vec<EngineRow>> {
        self.run(|db| engine_rows::forget_engines(db, older_than, names, dry_run))
    }

    fn promote_due(&self, limit: usize) -> StoreResult<usize> {
        self.run(|db| tasks::promote_due(db, limit))
    }
    fn free_lines(&self, limit: usize) -> StoreResult<usize> {
        self.run(|db| tasks::free_lines(db, limit))
    }
    fn probe(&self, kinds: &[KindName], host: &str) -> StoreResult<Vec<KindWork>> {
        self.run(|db| claim::probe(db, kinds, host))
    }
    fn claim(&self, c: &Claim) -> StoreResult<Vec<Claimed>> {
        self.run(|db| claim::claim(db, c))
    }
    fn finish(&self, who: &Finisher, ends: &[Finish]) -> StoreResult<Vec<FinishOutcome>> {
        self.run(|db| finish::finish(db, who, ends))
    }
    fn read_finish(&self, held: &Held) -> StoreResult<FinishState> {
        self.run(|db| finish::read_finish(db, held))
    }
    fn owned(&self, incarnation: Incarnation) -> StoreResult<Vec<Held>> {
        self.run(|db| claim::owned(db, incarnation))
    }

    fn free_strays(&self, owner: Incarnation, keep: &[TaskId]) -> StoreResult<usize> {
        self.run(|db| stray::free_of(db, owner, keep))
    }
    fn bad_rows(&self) -> StoreResult<Vec<BadRow>> {
        self.run(|db| stray::bad_rows(db))
    }

    fn purge(&self, retention: &RetentionConfig, limit: usize) -> StoreResult<usize> {
        let purged = self.run(|db| purge::purge(db, retention, limit))?;
        // Of no consequence for the rows: what keeps it from being done keeps it again the next time.
        if let Err(error) = self.raw(|db| self.backend.tidy(db)) {
            log::debug!("could not tidy up: {}", error.chain());
        }
        Ok(purged)
    }

    fn add(&self, new: &[NewTask], by: &str) -> StoreResult<Vec<TaskId>> {
        self.run(|db| tasks::add(db, new, by))
    }
    fn task_verb(&self, task: TaskId, verb: TaskVerb) -> StoreResult<VerbOutcome> {
        self.run(|db| tasks::task_verb(db, task, verb))
    }
    fn task(&self, task: TaskId) -> StoreResult<Option<(TaskRow, Vec<u8>)>> {
        self.run(|db| people::task(db, task))
    }
    fn tasks(&self, filter: &TaskFilter) -> StoreResult<(Timestamp, Vec<TaskRow>)> {
        self.run(|db| people::tasks(db, filter))
    }
    fn select(&self, filter: &TaskFilter) -> StoreResult<Vec<Selected>> {
        self.run(|db| people::select(db, filter))
    }
    fn task_states(&self, tasks: &[TaskId]) -> StoreResult<Vec<(TaskId, TaskState4Wait)>> {
        self.run(|db| people::task_states(db, tasks))
    }
    fn attempts(&self, task: TaskId) -> StoreResult<Vec<AttemptRow>> {
        self.run(|db| people::attempts(db, task))
    }
    fn output(&self, task: TaskId, attempt: Option<u32>) -> StoreResult<Option<OutputRow>> {
        self.run(|db| people::output(db, task, attempt))
    }
    fn resources(&self, limit: usize) -> StoreResult<Vec<ResourceRow>> {
        self.run(|db| resources::resources(db, limit))
    }
    fn resource(&self, name: &ResourceName) -> StoreResult<Option<ResourceRow>> {
        self.run(|db| resources::resource(db, name))
    }
    fn status(&self) -> StoreResult<StatusView> {
        self.run(|db| status::status(db))
    }

    fn add_as(&self, new: &[NewTask], change: &Change) -> StoreResult<Vec<TaskId>> {
        self.run(|db| {
            with_history(db, "add tasks", change, |db| {
                let ids = tasks::add(db, new, &change.by)?;
                let affected = (!ids.is_empty()).then(|| Affected::tasks(ids.clone()));
                Ok((ids, affected))
            })
        })
    }
    fn set_wanted_as(&self, wish: &Wish4Engine, change: &Change) -> StoreResult<Option<Wanted>> {
        self.run(|db| {
            with_history(db, "set what is wanted", change, |db| {
                let had = engines::set_wanted(db, wish)?;
                Ok((had, had.map(|had| wish.affected(had))))
            })
        })
    }
    fn forget_engines_as(
        &self,
        older_than: Duration,
        names: &[EngineName],
        change: &Change,
    ) -> StoreResult<Vec<EngineRow>> {
        self.run(|db| {
            with_history(db, "forget engines", change, |db| {
                let gone = engine_rows::forget_engines(db, older_than, names, false)?;
                let affected = Affected::forgotten(&gone);
                Ok((gone, affected))
            })
        })
    }
    fn raise_epoch_as(&self, from: Epoch, at_least: Epoch, reason: &str, change: &Change) -> StoreResult<bool> {
        self.run(|db| {
            with_history(db, "raise the epoch", change, |db| {
                let is_raised = meta::raise_epoch(db, from, at_least, reason)?;
                Ok((is_raised, is_raised.then(|| Affected::epoch(from, at_least))))
            })
        })
    }
    fn task_verbs(&self, tasks: &[TaskId], verb: TaskVerb, change: &Change) -> StoreResult<Vec<VerbOutcome>> {
        self.run(|db| bulk::task_verbs(db, tasks, verb, change))
    }
    fn record(&self, change: &Change, affected: &Affected) -> StoreResult<()> {
        self.run(|db| history::record(db, change, affected))
    }
    fn history(&self, filter: &HistoryFilter) -> StoreResult<(Timestamp, Vec<HistoryEntry>)> {
        self.run(|db| history::history(db, filter))
    }

    fn add_hours(&self, by: Incarnation, counts: &BTreeMap<KindName, Counts>) -> StoreResult<()> {
        self.run(|db| hours::add(db, by, counts))
    }
    fn hours(&self, starts: &[Timestamp]) -> StoreResult<Vec<HourRow>> {
        self.run(|db| hours::hours(db, starts))
    }
    fn first_hour(&self) -> StoreResult<Option<Timestamp>> {
        self.run(|db| hours::first(db))
    }

    fn watcher(&self) -> StoreResult<Box<dyn Watcher>> {
        let (mut connection, mut tenure) = self.watchers.open_for_life()?;
        // The heartbeat's own way may lead round the pooler that lets nothing be heard.
        if !self.backend.hears(&connection)
            && let Ok(beats) = self.beats.open_for_life()
        {
            (connection, tenure) = beats;
        }
        Ok(Box::new(Tenant { watcher: self.backend.watcher(connection)?, tenure }))
    }
    fn wake(&self) -> StoreResult<()> {
        if B::ONE_WRITER { Ok(()) } else { self.raw(|c| self.backend.wake(c)) }
    }
}

/// A watcher that ends when another server takes the writes, where nobody would wake it.
struct Tenant {
    watcher: Box<dyn Watcher>,
    tenure: Tenure,
}

impl Watcher for Tenant {
    fn has_changed(&mut self) -> StoreResult<bool> {
        if self.tenure.is_over() {
            let source = Cause("another server takes the writes".into());
            return Err(StoreError::Unreachable { place: "the watcher's server".into(), source });
        }
        self.watcher.has_changed()
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.watcher.bell()
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::config::DatabaseUrl;
    use crate::protocol::engine::Mode;

    #[test]
    fn a_beat_waits_for_no_connection_of_the_pool() {
        let dir = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::parse(&format!("sqlite://{}", dir.path().join("beats.db").display())).unwrap();
        let place = Settings { create: true, connect_timeout: Duration::from_secs(1), ..Settings::new(url) };
        let store = SqlStore::new(crate::store::sqlite::SqliteOpener, vec![place.clone()], vec![place], 1);
        store.migrate().unwrap();
        // Tasks use every connection there is, for longer than a beat may take.
        let _all: Vec<_> = (0..store.pool.max_size()).map(|_| store.connection().unwrap()).collect();
        let beat = Beat { incarnation: Incarnation::new(1), mode: Mode::Active, running: 0 };
        assert_eq!(store.beat(&beat).unwrap(), BeatOutcome::Gone);
    }
}
