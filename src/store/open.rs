//! Opens the store that a URL names.

use std::sync::Arc;

use super::api::{Store, StoreResult};
use super::error::StoreError;
use super::pool::Settings;
#[cfg(any(test, feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::config::Backend;

/// Chooses the backend by the scheme of the URLs; all must be of one backend. Connects to nothing yet.
#[cfg_attr(
    not(any(feature = "sqlite", feature = "postgres", feature = "mysql")),
    expect(unused_variables, reason = "the simulator is built without a database")
)]
pub fn open(places: Vec<Settings>, beats: Vec<Settings>, connections: u32) -> StoreResult<Arc<dyn Store>> {
    let Some(first) = places.first() else {
        return Err(StoreError::Refused("no database URL is configured".into()));
    };
    let backend = first.url.backend();
    if places.iter().chain(&beats).any(|s| s.url.backend() != backend) {
        return Err(StoreError::Refused("all database URLs must be of one kind of database".into()));
    }
    match backend {
        #[cfg(feature = "sqlite")]
        Backend::Sqlite => {
            Ok(Arc::new(super::sql_store::SqlStore::new(super::sqlite::SqliteOpener, places, beats, connections)))
        }
        #[cfg(feature = "postgres")]
        Backend::Postgres => {
            Ok(Arc::new(super::sql_store::SqlStore::new(super::postgres::PostgresOpener, places, beats, connections)))
        }
        #[cfg(feature = "mysql")]
        Backend::Mysql => {
            Ok(Arc::new(super::sql_store::SqlStore::new(super::mysql::MysqlOpener, places, beats, connections)))
        }
        #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "mysql")))]
        other => Err(StoreError::Refused(
            other.missing().unwrap_or_else(|| format!("this program was built without support for {other}")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DatabaseUrl;

    /// `config check` promises what this function keeps.
    #[test]
    fn what_is_built_in_can_be_opened_and_nothing_else() {
        for url in ["sqlite:/no/such/file", "postgres://h/d", "mysql://h/d"] {
            let url = DatabaseUrl::parse(url).unwrap();
            let (backend, place) = (url.backend(), Settings::new(url));
            let opened = open(vec![place.clone()], vec![place], 1);
            assert_eq!(opened.is_ok(), Backend::BUILT_IN.contains(&backend), "{backend}");
            if let Some(error) = opened.err() {
                assert!(error.to_string().contains("built without support for"), "{error}");
            }
        }
    }
}
