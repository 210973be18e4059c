//! Pure rules of the protocol.
pub mod engine;
pub mod ids;
pub mod lease;
pub mod line;
pub mod liveness;
pub mod retry;
pub mod takeover;
pub mod task;
pub mod time;
pub mod timing;
