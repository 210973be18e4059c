//! The shared table (being written).
pub mod api;
pub mod backend;
pub mod db;
pub mod error;
pub mod memory;
pub mod migrate;
pub mod open;
pub mod patience;
pub mod places;
pub mod pool;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod queries;
pub mod schema;
pub mod sql;
pub mod sql_store;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod types;

pub use api::{FinishState, Store, StoreResult, TaskState4Wait, Watcher};
pub use error::{SchemaProblem, StoreError};
pub use memory::MemoryStore;
pub use open::open;
pub use pool::Settings;
pub use types::*;
