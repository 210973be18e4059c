//! Pure rules of the protocol.
pub mod ids;
pub mod retry;
pub mod task;
pub mod time;
pub mod timing;
