//! The SQL that all backends share, one file per part of the protocol.
//!
//! Lock order everywhere: resource (by name), task (by number), engine. Candidates are read without
//! locks, then locked in that order and checked again.

pub mod bulk;
pub mod claim;
pub mod engines;
pub mod finish;
pub mod history;
pub mod hours;
pub mod people;
pub mod purge;
pub mod rows;
pub mod takeover;
pub mod tasks;
