//! What goes into the steps of the [`Store`](super::Store) and what comes out: plain values, the same
//! for every backend.

pub mod database;
pub mod lives;
pub mod people;
pub mod sweeps;
pub mod work;

pub use database::*;
pub use lives::*;
pub use people::*;
pub use sweeps::*;
pub use work::*;
