//! The trait that every backend implements.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::audit::{Affected, Change, Counts, HistoryEntry, HistoryFilter, HourRow};
use super::error::StoreError;
use super::types::*;
use crate::config::RetentionConfig;
use crate::protocol::engine::Wanted;
use crate::protocol::ids::{EngineName, Epoch, Incarnation, KindName, ResourceName, TaskId};
use crate::protocol::last_beat::LastBeat;
use crate::protocol::liveness::SweepKind;
use crate::protocol::time::Timestamp;

/// What every step returns.
pub type StoreResult<T> = Result<T, StoreError>;

/// The shared table, seen as steps of the protocol: one method is one step is one transaction.
///
/// Expected results are enums; an error means that the step was not done, except for
/// [`StoreError::Unknown`]: then it has to be read back (`read_finish`) or made harmless.
/// Every write names what it believes in (incarnation, beat, token, nonce) and reads its row count.
/// Methods may block up to the store's statement timeout and, against a frozen server, for ever: the
/// engine calls them on threads that it can abandon.
pub trait Store: Send + Sync {
    // ---- schema and server ----------------------------------------------------------------------

    /// Runs pending migrations under a lock; concurrent callers wait and find nothing to do.
    fn migrate(&self) -> StoreResult<Vec<String>>;
    /// How far the schema is. Works on an empty database.
    fn schema_status(&self) -> StoreResult<SchemaStatus>;
    /// What the server is and whether its settings could lose commits.
    fn server_info(&self) -> StoreResult<ServerInfo>;
    /// Whether the database user may do all that an engine does; else [`StoreError::Rights`] names what is
    /// missing. Changes nothing. A database that has no users has nothing to refuse.
    fn check_rights(&self) -> StoreResult<()> {
        Ok(())
    }
    /// The meta row.
    fn meta(&self) -> StoreResult<Meta>;
    /// Raises the epoch from `from` (compare-and-set) to at least `at_least` because commits may be
    /// lost, and records the present identity. False if somebody else was faster.
    fn raise_epoch(&self, from: Epoch, at_least: Epoch, reason: &str) -> StoreResult<bool>;
    /// Some engine has watched `epoch` for the largest T of live rows: claims may go on.
    fn settle_epoch(&self, epoch: Epoch) -> StoreResult<bool>;

    /// The database's clock was set back from at least `seen`.
    fn note_clock(&self, seen: Timestamp) -> StoreResult<()>;

    // ---- engines --------------------------------------------------------------------------------

    /// Registers a new incarnation and ends its former life in the same transaction.
    fn register(&self, registration: &Registration) -> StoreResult<RegisterOutcome>;
    /// Whether the database has lost beats that were accepted ([`LastBeat::is_lost`]): for those who cannot register.
    fn is_lost(&self, last: &LastBeat) -> StoreResult<bool>;
    /// One heartbeat. Uses a connection of its own, never one that other steps use.
    fn beat(&self, beat: &Beat) -> StoreResult<BeatOutcome>;
    /// What one sweep has to know, in one statement.
    fn sweep(&self, kind: SweepKind) -> StoreResult<SweepView>;
    /// Ends an incarnation; the comparison of the beat is the one linearisation point.
    fn fence(&self, fence: &Fence) -> StoreResult<FenceOutcome>;
    /// Takes over at most `limit` tasks of an incarnation that ended.
    fn take_over(&self, owner: Incarnation, by: &str, limit: usize) -> StoreResult<TakeoverReport>;
    /// Closes an ended incarnation if a plain read finds nothing that it owns. True if it is closed now.
    fn close(&self, incarnation: Incarnation) -> StoreResult<bool>;
    /// Once per `every` in the whole cluster: incarnations that own something and are not live and not
    /// listed any more (a claim that committed late). `None` if it was not this caller's turn.
    fn find_orphans(&self, every: Duration) -> StoreResult<Option<Vec<Incarnation>>>;
    /// The engine says goodbye; nothing it started runs any more. Tasks it still owns are taken over
    /// as handed back. False if it was fenced before; then this acknowledges the fence, so that peers need
    /// not wait for L+K.
    fn stop(&self, incarnation: Incarnation) -> StoreResult<bool>;
    /// What operators want of a name. `None` if no engine of this name is known.
    fn set_wanted(&self, wish: &Wish4Engine) -> StoreResult<Option<Wanted>>;
    /// All engines: lives that are not forgotten, newest first.
    fn engines(&self) -> StoreResult<(Timestamp, Vec<EngineRow>)>;
    /// The newest life of each name, and those that may still own something: what most people ask for, at a cost that
    /// does not grow with former lives.
    fn newest_engines(&self) -> StoreResult<(Timestamp, Vec<EngineRow>)> {
        self.engines()
    }
    /// Forgets ended lives that own nothing and ended longer ago than `older_than`; `names` empty: all.
    fn forget_engines(&self, older_than: Duration, names: &[EngineName], dry_run: bool) -> StoreResult<Vec<EngineRow>>;

    // ---- tasks, as engines use them -----------------------------------------------------------------

    /// Waiting tasks that are due become ready. Returns how many.
    fn promote_due(&self, limit: usize) -> StoreResult<usize>;
    /// The slow look for what should not be: blocked heads of lines whose resource nobody owns become ready, and
    /// tasks that are barred from the only host that takes their kind may run there. Returns how many.
    fn free_lines(&self, limit: usize) -> StoreResult<usize>;
    /// Which of these kinds have ready work for this host: one cheap statement.
    fn probe(&self, kinds: &[KindName], host: &str) -> StoreResult<Vec<KindWork>>;
    /// Claims ready tasks of one kind.
    fn claim(&self, claim: &Claim) -> StoreResult<Vec<Claimed>>;
    /// Reports ends of attempts. One outcome for each, in the same order.
    fn finish(&self, who: &Finisher, ends: &[Finish]) -> StoreResult<Vec<FinishOutcome>>;
    /// Whether an end of unknown outcome was written, is still to be written, or is refused.
    fn read_finish(&self, held: &Held) -> StoreResult<FinishState>;
    /// What an incarnation owns in the database.
    fn owned(&self, incarnation: Incarnation) -> StoreResult<Vec<Held>>;
    /// Frees resources that this incarnation owns for tasks that do not run for it in the database (somebody deleted
    /// them by hand), but those of the tasks to keep: something of them may still run here. Returns how many.
    fn free_strays(&self, _: Incarnation, _keep: &[TaskId]) -> StoreResult<usize> {
        Ok(0)
    }
    /// Rows that other programs wrote and that engines leave alone, with what removes them: for people.
    fn bad_rows(&self) -> StoreResult<Vec<BadRow>> {
        Ok(Vec::new())
    }

    /// Deletes ended rows that are older than they are kept, at most `limit` of each kind. Returns how many.
    fn purge(&self, retention: &RetentionConfig, limit: usize) -> StoreResult<usize>;

    // ---- tasks, as people and programs use them -------------------------------------------------------

    /// Adds tasks, all or none; their numbers in the same order.
    fn add(&self, tasks: &[NewTask], by: &str) -> StoreResult<Vec<TaskId>>;
    /// Retry or cancel one task.
    fn task_verb(&self, task: TaskId, verb: TaskVerb) -> StoreResult<VerbOutcome>;
    /// One task, unfinished or archived, with its payload.
    fn task(&self, task: TaskId) -> StoreResult<Option<(TaskRow, Vec<u8>)>>;
    /// Tasks for people, newest first.
    fn tasks(&self, filter: &TaskFilter) -> StoreResult<(Timestamp, Vec<TaskRow>)>;
    /// Which tasks fit, newest first, without reading more of them than is needed to act on them.
    fn select(&self, filter: &TaskFilter) -> StoreResult<Vec<Selected>>;
    /// States of many tasks at once, for waiting. Unknown numbers are left out.
    fn task_states(&self, tasks: &[TaskId]) -> StoreResult<Vec<(TaskId, TaskState4Wait)>>;
    /// All attempts that are kept, in order.
    fn attempts(&self, task: TaskId) -> StoreResult<Vec<AttemptRow>>;
    /// What an attempt printed; the last one that printed something if none is named.
    fn output(&self, task: TaskId, attempt: Option<u32>) -> StoreResult<Option<OutputRow>>;
    /// Resources for people: those in use or named.
    fn resources(&self, limit: usize) -> StoreResult<Vec<ResourceRow>>;
    /// One resource with its line.
    fn resource(&self, name: &ResourceName) -> StoreResult<Option<ResourceRow>>;
    /// Numbers for `status` and the health check.
    fn status(&self) -> StoreResult<StatusView>;

    // ---- changes by people, each with its row of history in its transaction (`audit`) -----------------

    /// As `add`.
    fn add_as(&self, tasks: &[NewTask], change: &Change) -> StoreResult<Vec<TaskId>>;
    /// As `set_wanted`.
    fn set_wanted_as(&self, wish: &Wish4Engine, change: &Change) -> StoreResult<Option<Wanted>>;
    /// As `forget_engines`.
    fn forget_engines_as(
        &self,
        older_than: Duration,
        names: &[EngineName],
        change: &Change,
    ) -> StoreResult<Vec<EngineRow>>;
    /// As `raise_epoch`.
    fn raise_epoch_as(&self, from: Epoch, at_least: Epoch, reason: &str, change: &Change) -> StoreResult<bool>;
    /// Retry or cancel a batch of tasks in one transaction. One outcome for each, in the same order.
    fn task_verbs(&self, tasks: &[TaskId], verb: TaskVerb, change: &Change) -> StoreResult<Vec<VerbOutcome>>;
    /// A row for what has a transaction of its own: a migration.
    fn record(&self, change: &Change, affected: &Affected) -> StoreResult<()>;
    /// Who changed what, newest first.
    fn history(&self, filter: &HistoryFilter) -> StoreResult<(Timestamp, Vec<HistoryEntry>)>;

    // ---- hourly numbers ---------------------------------------------------------------------------------

    /// Adds what an engine has counted to the present hour.
    fn add_hours(&self, by: Incarnation, counts: &BTreeMap<KindName, Counts>) -> StoreResult<()>;
    /// What is known of these full hours.
    fn hours(&self, starts: &[Timestamp]) -> StoreResult<Vec<HourRow>>;
    /// The first hour that is kept: before it nothing is known, and after it no row means nothing happened.
    fn first_hour(&self) -> StoreResult<Option<Timestamp>>;

    // ---- wake-up ----------------------------------------------------------------------------------------

    /// Something that tells soon after a change that there may be new work. Never needed for
    /// correctness: the engine polls as well.
    fn watcher(&self) -> StoreResult<Box<dyn Watcher>>;
    /// Tells watchers of other processes that there is new work, where the database can.
    fn wake(&self) -> StoreResult<()>;
}

/// See [`Store::watcher`].
pub trait Watcher: Send {
    /// Whether something changed since the last call. Does not block and sends no statement.
    fn has_changed(&mut self) -> StoreResult<bool>;

    /// Readable when it is worth asking; `None`: nobody tells, so the caller asks again and again. It may fail
    /// to tell, so the caller asks now and then in any case.
    fn bell(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// See [`Store::read_finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishState {
    /// It was written.
    Written,
    /// It was not, and the claim is still current: write it again.
    Open,
    /// Not the owner any more.
    Refused,
}

/// See [`Store::task_states`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskState4Wait {
    /// Where it is.
    pub state: crate::protocol::task::TaskState,
    /// Attempts so far.
    pub attempt: u32,
    /// Its owner or who ran it last.
    pub engine: Option<String>,
    /// One line about its last attempt.
    pub error: Option<String>,
}
