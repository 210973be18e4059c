//! The verbs of `rekindle`, one per file.

pub mod config_check;
pub mod config_init;
pub mod config_show;
