//! The verbs of `rekindle`, one per file; what several of them share is in `shared`.

pub mod config_check;
pub mod config_init;
pub mod config_show;
pub mod db_epoch_raise;
pub mod db_migrate;
pub mod db_status;
pub mod demo;
pub mod doctor;
pub mod engine_clean;
pub mod engine_drain;
pub mod engine_list;
pub mod engine_pause;
pub mod engine_resume;
pub mod engine_show;
pub mod engine_stop;
pub mod resource_list;
pub mod resource_show;
mod shared;
pub mod status;
pub mod task_add;
pub mod task_cancel;
pub mod task_list;
pub mod task_log;
pub mod task_retry;
pub mod task_show;
pub mod task_wait;
pub mod version;
