//! What runs a task: a Rust function inside the engine, or an external command.
//!
//! Both get the same [`Attempt`], are stopped through the same [`AttemptControl`], and come back as
//! the same [`Ended`]. This room starts, watches, kills and judges one attempt; it knows no database
//! and decides nothing about retries, lines or leases beyond obeying them.
//!
//! What it keeps:
//!
//! * **No spawn after the lease** (rule 3). Every fork is made by one thread that holds the [`Gate`]
//!   around "is the lease over?" and the fork itself, so that whoever closes the gate knows: what is
//!   not yet started will not start.
//! * **A lost lease stops what runs** even if nobody says so: each supervisor reads the gate's instant
//!   itself, sends SIGTERM at L and SIGKILL at L + K/4.
//! * **No process of a task outlives its attempt** (I8). The result is handed over only after the
//!   main process, its descendants and its stragglers are gone.
//! * **A command cannot stall or fill its engine**: output is kept as a bounded tail, the payload is
//!   fed without blocking, pipes that a straggler keeps open are left behind.
//!
//! States of an attempt of a command, and who moves it on:
//!
//! ```text
//!  prepare ──refused──▶ Ended (nothing was started)
//!     │ spawner forks under the gate
//!  starting ──exec error──▶ Ended (failed, elsewhere)
//!     │ exec
//!  running ──main exits──▶ sweeping
//!     │ timeout, stop(), lease over: SIGTERM to the group
//!  stopping ──main exits──▶ sweeping
//!     │ grace or kill_at: descendants first, then main
//!  sweeping ── nothing left ──▶ Ended
//! ```

mod arguments;
mod child;
mod command;
mod control;
mod ended;
mod environment;
mod exit;
mod gate;
mod handler;
mod prepare;
mod reaper;
mod scratch;
mod spawner;
mod spec;
mod streams;
mod tail;
mod watch;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use child::SpawnRequest;
pub use command::{CommandOptions, CommandRunner, Commands};
pub use control::{AttemptControl, Stop, StopKind};
pub use ended::{DETAIL_MAX, Ended, one_line};
pub use environment::Identity;
pub use exit::{End, Verdict, verdict};
pub use gate::{Dies, Gate, Inside, Lease, Refusal};
pub use handler::{Attempt, Context, Handler, Outcome, VALUE_MAX, run_caught};
pub use reaper::Strays;
pub use spawner::{Mode, Running, SpawnError, Spawner, SpawnerOptions, TellContinuing};
pub use spec::{CommandSpec, ExitCodes};
pub use watch::{Countdown, Limits, Step};
