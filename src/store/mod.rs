//! The shared table: all that engines know of each other goes through here.
//!
//! [`Store`] has one method for each step of the protocol, and each step is one transaction. What a step
//! decides, `crate::protocol` decides from plain values; what it writes names what it believes in
//! (incarnation, beat, token, nonce), and the row count says whether that was still true. So "no longer
//! yours" is a normal outcome, and an error means that nothing was written (but see *unknown outcomes*).
//!
//! # Who writes what
//!
//! | table | holds | written by |
//! |---|---|---|
//! | `meta` | one row: cluster id, epoch, recorded identity | `raise_epoch`, `settle_epoch`, `find_orphans` (whose turn it is) |
//! | `engine` | lives that are not closed; narrow, because each beat rewrites the row | `register`, `beat`, `fence`, `stop`, `close` |
//! | `engine_info` | what a life said of itself; kept for people after it is closed | `register`, `close`, `take_over` (a count), `forget_engines` |
//! | `engine_wish` | what operators want of a name; outlives the life | `set_wanted` |
//! | `task` | unfinished work, and what waits for a person | `add`, `claim`, `finish`, `take_over`, `promote_due`, `free_lines`, `task_verb`, `task_verbs` |
//! | `task_resource` | which resources a task names, and whether it stands in their lines | the same |
//! | `resource` | owner and token of what was claimed at least once | `claim` makes the row; whatever frees it or leaves its line writes it |
//! | `task_archive` | done and canceled tasks; never polled | `finish`, `take_over`, `task_verb`, `task_verbs` |
//! | `attempt`, `attempt_output` | attempts that were not the good last one; what attempts printed | `finish`, `take_over` |
//! | `history` | who changed what, when and why | every change by a person, in its own transaction |
//! | `hour` | what became of attempts, per hour and kind | `add_hours`, by each engine about once a minute; `close` for one that died |
//!
//! `add` touches no row that an engine locks: a submitter's long transaction holds up nobody.
//!
//! # Lock order
//!
//! Resource (by name), then task (by number), then engine, then hour (by kind). Candidates are read without locks, then locked
//! in this order and checked again. Claims and takeovers pass over what others hold (`SKIP LOCKED`);
//! a finish and a person's verb wait, because nobody else will do it for them. The line of a resource is
//! read *after* its row was locked, by a statement of its own: inside the locking statement it would come
//! from a snapshot that is older than the lock.
//!
//! No wake-up is lost because both sides write the same row: a claim moves a task to `blocked` under a
//! write of the resource's row, and whatever frees that resource or leaves its line writes it as well and
//! then looks at the head. A person's cancel makes the row where no claim has done so yet
//! (`canceling_heads_while_claiming_loses_no_wake_up`).
//!
//! Claims and ends of many tasks are written by sets, each batch in one transaction: a token per task, all resources of
//! the batch locked in name order before (`claim_keyed`, `done`;
//! `a_batch_ends_with_its_resources_free_and_their_lines_awake`).
//!
//! A claim reads its engine's row without a lock, since a lock would make beats wait. It may therefore
//! commit after the engine was fenced, or even closed; `find_orphans` finds such tasks
//! (`a_claim_that_commits_after_its_engine_was_closed_is_found`).
//!
//! # What a transaction may do
//!
//! Milliseconds, and nothing but the database: no handler, no file, no wait for another engine. On SQLite
//! every writing transaction takes the file's lock at its beginning, and a beat of the same process goes
//! first. Everything that raises a token also asks whether the database is the recorded one, in the same
//! statement, and rolls back where it is not
//! (`nothing_that_raises_a_token_is_written_to_a_database_that_moved`). Every text is bound: prepared
//! statements are kept by their text, so a text must not vary with its values. Lists on MariaDB do, and such
//! statements are not kept (`sql.rs`).
//!
//! # Unknown outcomes
//!
//! A connection that breaks before COMMIT was sent has changed nothing, and the step is reported as
//! `Unreachable`. One that breaks during COMMIT, or during a step that is a single statement, is
//! [`StoreError::Unknown`]: never repeated blindly. What a claim of unknown outcome got is found by the next
//! reconciliation (`owned`), under a nonce that its engine has forgotten, and handed back free: its payloads
//! never arrived. An end is read back by the nonce of its claim: `read_finish` says `Open` (the claim still stands: write again), `Written`, or
//! `Refused`. It tells the end that an engine wrote from the one that a takeover wrote for it. Only a
//! hand-back of what never started leaves no trace: `Refused` then means "not yours any more" in either
//! case. A beat of unknown outcome is simply sent again; a fence too, because it names the beat.
//!
//! # Decision: one row a task, payload inside, finished rows elsewhere
//!
//! Three layouts were measured on two shared cores with 200-byte payloads, claim and finish as separate
//! commits (tasks a second, medians of three runs; differences under 15 % mean nothing):
//!
//! | | A: one row with its payload | B: narrow row, payload apart | C: 64 leased lanes |
//! |---|---|---|---|
//! | PostgreSQL, batch 1, 8 clients | 3,512 | 3,369 | 3,753 |
//! | PostgreSQL, batch 100, 8 clients | 63,100 | 58,700 | 1.4 × A |
//! | PostgreSQL, batch 1000, 8 clients | 79,700 | 78,700 | 186,000 |
//! | SQLite (FULL), batch 100, 1 process | 85,800 | 75,000 | 33,100 |
//! | SQLite (FULL), batch 100, 8 processes | 50,000 | 49,200 | 27,400 |
//!
//! A was chosen. B is never faster and is more code. C wins on PostgreSQL from batches of 100 on, but its
//! token belongs to a lane: one stuck task holds the lane, a single task cannot be fenced, retried or
//! failed, and on SQLite it loses. The price of A is paid in batches: from 1 to 100 they bring 18 to 28
//! times the throughput, from 100 to 1,000 only 1.3 to 1.5 times. The archive row costs 14 to 17 %. A
//! claim is never a HOT update under the partial indexes; avoiding that would gain 16 % at batch 100 and
//! cost the list of an owner's tasks. Dead entries at the head of the ready index matter more than the
//! layout (3.8 times at batch 1 until a vacuum), hence the eager autovacuum of `task`, and finishes that
//! go by the primary key. `synchronous = FULL` costs SQLite a factor of six at batch 1 and 1.4 at batch
//! 100, so batching is the cure there too, not `NORMAL`.

pub mod api;
pub mod audit;
pub mod backend;
pub mod db;
pub mod dialect;
pub mod error;
mod grants;
pub mod language;
pub mod memory;
pub mod migrate;
#[cfg(feature = "mysql")]
pub mod mysql;
pub mod open;
pub mod patience;
pub mod places;
pub mod pool;
pub mod pooler;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod queries;
pub mod schema;
pub mod seats;
pub mod sql;
pub mod sql_store;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod types;

pub use api::{FinishState, Store, StoreResult, TaskState4Wait, Watcher};
pub use audit::{Affected, Change, Counts, HistoryEntry, HistoryFilter, HourRow};
pub use error::{GRANT, SchemaProblem, StoreError};
pub use grants::missing_grant;
pub use memory::MemoryStore;
pub use open::open;
pub use pool::Settings;
pub use types::*;
