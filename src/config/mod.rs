//! Configuration: every setting typed, with its origin.
//!
//! Who wins, from the strongest: flags, environment (`REKINDLE_SECTION__KEY`), `conf.d/*.toml` in name
//! order, the file, the defaults. Everything that is wrong is reported at once, each with its place.
//! A key that this version does not know is refused: a setting that does nothing is a lie.
//!
//! No text made here holds a password.

mod backend;
mod check;
mod environment;
pub mod guess;
mod host;
mod kind;
mod load;
pub mod place;
mod read;
mod read_kind;
mod reader;
mod secret;
mod setting;
mod settings;
mod source;
#[cfg(test)]
mod tests;
pub mod trust;
pub mod units;
mod url;
mod url_error;
mod words;

pub use backend::Backend;
pub use check::{command_problems, descriptor_problem, stop_problem, unknown_users, user_problems};
pub use host::Host;
pub use kind::{ExitCodes, KindConfig};
pub use load::{ConfigErrors, LoadOptions, Loaded, Override, SAFE_FOR_SECRETS, load};
pub use reader::Shown;
pub use settings::{
    CheckConfig, Config, DEFAULT_DATABASE, DatabaseConfig, EngineConfig, Keep, KindFilter, LogConfig, RetentionConfig,
};
pub use source::{Origin, Problem};
pub use url::DatabaseUrl;
pub use url_error::UrlError;
pub use words::{KillMeans, LogFormat, LogLevel};
