//! rekindle: when an engine dies, its peers finish its tasks. All it needs is the SQL database that you
//! already run.
//!
//! The contract in ten sentences:
//!
//! 1. One engine per host writes heartbeats into a shared table; every engine watches the others there.
//! 2. A result is accepted only from the owner's current token (I1).
//! 3. At most one task owns a resource, and one incarnation a task, at any instant of the database's
//!    history (I2).
//! 4. A fenced incarnation never comes back to life (I3), and tokens only grow (I4), also across a failover.
//! 5. What a fenced or expired engine started is dead before a successor starts, where the guard's means
//!    cover it (I5), and no process outlives its attempt (I8).
//! 6. No task that the database kept is lost: each ends as done, failed, canceled or quarantined (I6).
//! 7. Nobody is fenced whose beats were accepted in time (I7).
//! 8. Side effects happen *at least once*: a task that was interrupted runs again, with a higher token.
//! 9. `rerun = "never"` sends an interrupted task to a human instead.
//! 10. No clock of a host or of the database decides that an engine is dead.
//!
//! Where to look: [`protocol`] decides (pure), [`store`] is the shared table, [`engine`] the loops,
//! [`guard`] the small parent process that kills and proves, [`handlers`] what runs a task, [`process`]
//! what a program says of itself to the kernel, [`daemon`] the program `rekindle-engine`, [`cli`] the program
//! `rekindle`, [`health`] the program `rekindle-check`, [`config`] every setting, [`clock`] the only reader of
//! clocks, [`random`] the only source of what must be unique, [`outlet`] the only way to standard error.
//!
//! A library user makes a [`store`], says what it can run ([`engine::EngineOptions`]) and starts an
//! [`engine::Engine`]; `examples/handler.rs` is a whole program.

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod guard;
pub mod handlers;
pub mod health;
pub mod outlet;
pub mod planted;
pub mod process;
pub mod protocol;
pub mod random;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod store;
pub mod turns;
