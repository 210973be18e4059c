//! The health check: judges what the database says about a cluster and speaks the plugin language of
//! Nagios, Icinga, Sensu and cron.
//!
//! Everything but [`gather`] is pure: it lets the store fill a [`snapshot::ClusterSnapshot`], [`judge::judge`] turns it
//! into a [`check::CheckResult`], [`render::render`] turns that into text. Nothing here asks a database,
//! reads a clock or ends the process. Word, exit code and the thresholds shown to graphs come from the
//! one [`limits::Limits`] that judged the value, so they cannot contradict each other (test
//! `word_thresholds_and_next_command_agree_whatever_the_snapshot_holds`).
//!
//! `rekindle status` shows the same [`problems::problems`] that the mode `overall` judges.

pub mod args;
pub mod check;
pub mod gather;
pub mod judge;
pub mod limits;
pub mod perf;
pub mod problems;
pub mod range;
pub mod render;
pub mod snapshot;
pub mod thresholds;
pub mod trouble;
pub mod view;
pub mod words;

#[cfg(test)]
pub(crate) mod fixture;
