//! The parent process of an engine: it outlives it, kills what it left running, and has its death
//! proved, so that peers take over at once instead of after T. It keeps I5 (nothing a dead or expired
//! engine started runs past its L + K) and, through [`kill_tree`], I8 (no process of a task outlives
//! its attempt).
//!
//! `rekindle-engine` starts as the guard; the engine proper is its child. The guard has one thread, no
//! database connection, no configuration of its own and little code, so that it fails less often than
//! what it watches. All it knows the engine tells it (`link.rs`), and all it decides is when to kill.
//!
//! # States
//!
//! ```text
//!              registered, renew                      renew
//!  starting ------------------------> leased <---------------------- clear
//!     |                                |  |  ------ all-clear ------>  |
//!     | dies                     dies  |  | deadline passes            | dies
//!     v                                v  v                            v
//!  killing all  <----------------------+  +--> killing all but `continue` tasks
//!     |                                              | these have ended, or SIGTERM
//!     v   nothing is left: waitpid says ECHILD       v
//!  proving (at most q, once per incarnation) --> exit, non-zero
//!
//!  goodbye, from anywhere: the engine has K to exit; its stragglers are killed; no proof; its code
//! ```
//!
//! *Starting* and *clear* have no deadline: before the first accepted beat nothing may be claimed, and
//! after "all clear" nothing runs that could do harm. An engine that freezes there is left to systemd's
//! watchdog, and to its peers, who fence it after T as they would without a guard.
//!
//! # Races, and why they end well
//!
//! * *A renewal arrives while the guard is held up.* Messages are read before the deadline is looked at.
//!   A renewal that is still unsent then is too late by definition: the deadline is L + K/2 after a beat.
//! * *The engine says goodbye and exits.* Children are reaped before messages are read, so a death is
//!   judged only with its last words heard.
//! * *It dies between sending a registration and hearing the answer.* It names the incarnation to the
//!   guard before it sends it, and until the next renewal the former one is proved too. Proving one that
//!   never came to be, or is fenced already, changes no row.
//! * *A process forks while it is looked for.* See `kill.rs`; and the proof waits for ECHILD. The guard is
//!   a subreaper, so whatever descends from the engine is its child or below one: none left means none.
//! * *A process id is used again.* Processes are named by id and start time, or are unreaped children.
//!
//! # Failures
//!
//! * *Engine killed, crashed, out of memory, panicked*: all is killed at once, then proved.
//! * *Engine frozen*: the same at L + K/2, with K/2 left for the killing. Its `continue` tasks are spared,
//!   and awaited before the proof: a proof promises that nothing is left. Peers do not wait for it; they
//!   fence after T, and then such a task overlaps with its successor. That is what `continue` means. A
//!   stop signal to the guard ends the waiting. An engine that *died* has nobody to take the result of a
//!   `continue` task, so that is killed with the rest.
//! * *Guard killed*: the engine sees the link closed, kills its tasks and dies. No proof; T passes.
//! * *Guard frozen*: no ticks; at L the engine does the same. Terminals cannot stop it (Ctrl-Z is blocked).
//! * *Both killed, and started again*: the next life holds the lock, and has killed what was left. That is a proof of
//!   death only where nothing can have got away (`protocol::stand`): with a control group, or where a PID namespace
//!   died with it. Else the row is watched for T.
//! * *Both killed or frozen at once*: covered by systemd (its watchdog and `ExecStopPost`, see `unit.rs`), by a PID
//!   namespace when killed; else escaped processes live until the next start with the same state
//!   directory, which kills them (`leftovers.rs`).
//! * *Prover fails or hangs*: logged; T passes.
//! * *Nobody reads the log*: no write of it waits (`outlet.rs`), and killing comes before saying so.
//! * *A process does not die* (stuck in the kernel): no proof, an error in the log every 10 s. T passes,
//!   and the token refuses what it may still write.
//! * *Host suspended*: the lease clock counts it. The guard looks at it at least once a second, so the
//!   deadline that passed in sleep is acted on within a second of waking.
//!
//! # What each means of killing covers
//!
//! | | setsid, double fork, deaf or stopped processes | forking without end | guard *and* engine killed |
//! |---|---|---|---|
//! | control group | yes | yes, in one stroke | at the next start |
//! | PID namespace | yes | yes, in one stroke | yes, by the kernel |
//! | process tree | yes | yes, by repetition | at the next start, unless the environment was cleared |
//!
//! None covers what someone else starts at a task's request (docker, ssh, `systemd-run`, at). In a PID
//! namespace `continue` tasks are never spared: the kernel kills them with the engine, which is its first
//! process. The engine sees its own numbers there and a /proc that fits them; without root it also gets a
//! user namespace with no other user in it (no setuid programs).
//!
//! # Decisions that will be questioned
//!
//! *Fork and exec, not fork alone*: a guard that forked the engine out of itself would share its
//! descriptors and its memory with it, and a PID namespace, a control group and clean signals are given
//! between fork and exec anyway. Price: two descriptors travel by number in the environment (`envfd.rs`).
//!
//! *No death signal* (PDEATHSIG) from guard to engine: the engine learns of it from the link anyway, and
//! can still tell the database what it hands back.

mod cgroup;
mod envfd;
mod heard;
mod kill;
mod leftovers;
mod link;
mod lock;
mod means;
mod notify;
mod probe;
mod proof;
mod spawn;
pub mod tree;
mod unit;
mod watch;

#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
pub(crate) use tests::as_subreaper as in_one_thread;

#[cfg(any(test, feature = "sim"))]
pub(crate) use heard::Heard;
pub use kill::{KillReport, Root, kill_below, kill_strays, kill_tree};
pub use leftovers::{
    LOCK_FD_ENV, STATE_ID_ENV, StateDir, StateDirError, check_id, inherited_state_dir, kill_marked, state_id,
    take_state_dir,
};
#[cfg(any(test, feature = "sim"))]
pub(crate) use link::Notice;
pub use link::{GUARD_FD_ENV, GuardLink, GuardState, GuardTalk, PIDS_MAX};
pub(crate) use lock::try_lock;
pub use means::{Means, MeansChoice};
pub use probe::available_means;
pub use spawn::remember_own_program;
pub use unit::{UnitError, clear_own_unit};
pub use watch::{GuardOptions, KEPT_BY_ENV, PARENTAGE, run};
