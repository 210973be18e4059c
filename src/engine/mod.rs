//! The engine: a few loops around one shared state.
//!
//! | thread | repeats | ends |
//! |---|---|---|
//! | `heartbeat` | registers, beats, takes in wishes and epochs | last |
//! | `lease` | at L: closes the gate and stops what runs; says all clear to the guard | last |
//! | `guard-watch` | waits for the guard's ticks; without them kills everything and dies | last |
//! | `dispatcher` | claims ready tasks | on stop |
//! | `sweeper` | observes peers, fences, takes over, makes due, reconciles, purges | on stop |
//! | `finisher` | writes the ends of attempts in batches | when all are written |
//! | `watcher` | turns changes in the database into wake-ups | on stop |
//! | `attempt` | one per running command | with it |
//! | `handler` | one per slot where a kind is Rust code | on stop |
//! | `janitor` | deletes what attempts wrote in their directories | with the engine, or the next one goes on |
//! | `spawner` | every fork and exec, because a death signal follows the forking thread | with the engine |
//!
//! No loop calls the database itself; each has a [`lane`] that it can abandon. A heartbeat is sent only
//! while the loops turn ([`pulse`]).

pub mod appetite;
#[cfg(test)]
mod brake_tests;
pub mod dispatcher;
#[cfg(test)]
mod doubt_tests;
pub mod dropped_file;
pub mod durable;
pub mod ending;
pub mod epoch_file;
pub mod finisher;
pub mod fork_file;
pub mod guard_watch;
pub mod heartbeat;
pub mod host;
mod keyed;
pub mod lane;
pub mod last_beat_file;
pub mod options;
pub mod over;
pub mod pulse;
pub mod remember;
pub mod run;
pub mod running;
pub mod scratch_root;
pub mod shared;
pub mod stop;
pub mod sweeper;
pub mod tally;
pub mod unit;
pub mod unit_file;
pub mod watcher;
pub mod worker;

pub use options::{EngineOptions, Kind, Work};
pub use run::{Engine, EngineError, Role};
