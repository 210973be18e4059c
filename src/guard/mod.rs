//! The guard (being built).
pub mod tree;
