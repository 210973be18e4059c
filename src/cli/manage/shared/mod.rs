//! What several verbs share.

pub mod engine_json;
pub mod engine_wish;
mod handed_back;
pub mod ids;
pub mod last_hour;
pub mod many;
pub mod payload;
pub mod progress;
pub mod rate;
pub mod select;
pub mod task_json;
pub mod verdict;
pub mod waiting;
pub mod which;
