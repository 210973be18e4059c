//! The SQL that all backends share, one file per part of the protocol.
//!
//! Lock order everywhere: resource (by name), task (by number), engine. Candidates are read without
//! locks, then locked in that order and checked again.

pub mod beat;
pub mod bulk;
pub mod change;
pub mod claim;
pub mod claim_keyed;
pub mod done;
pub mod ends;
pub mod engine_rows;
pub mod engines;
pub mod finish;
mod fit;
pub mod forget;
pub mod history;
pub mod hours;
pub mod lines;
pub mod mend;
pub mod meta;
pub mod people;
pub mod purge;
pub mod register;
pub mod resources;
pub mod rights;
pub mod rows;
pub mod status;
pub mod stray;
pub mod sweep;
pub mod take;
pub mod takeover;
pub mod tasks;
pub mod uncounted;
