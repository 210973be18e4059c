//! Embedded migrations: which there are, which were run, and running the rest under a lock.

use diesel::migration::{Migration, MigrationSource};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness};

use super::api::StoreResult;
use super::error::{Cause, SchemaProblem, StoreError};
use super::types::SchemaStatus;

#[cfg(feature = "sqlite")]
/// For SQLite.
pub const SQLITE: EmbeddedMigrations = diesel_migrations::embed_migrations!("migrations/sqlite");
#[cfg(feature = "postgres")]
/// For PostgreSQL.
pub const POSTGRES: EmbeddedMigrations = diesel_migrations::embed_migrations!("migrations/postgres");

#[cfg(feature = "mysql")]
/// For MariaDB and MySQL.
pub const MYSQL: EmbeddedMigrations = diesel_migrations::embed_migrations!("migrations/mysql");

fn broken(step: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> StoreError {
    move |error| StoreError::Broken { step, source: Cause(error.to_string()) }
}

/// The versions that this program knows, oldest first.
pub fn known<DB: diesel::backend::Backend>(source: &EmbeddedMigrations) -> StoreResult<Vec<String>>
where
    EmbeddedMigrations: MigrationSource<DB>,
{
    let all: Vec<Box<dyn Migration<DB>>> = source.migrations().map_err(broken("read the migrations"))?;
    let mut versions: Vec<String> = all.iter().map(|m| m.name().version().to_string()).collect();
    versions.sort();
    Ok(versions)
}

/// Compares what is known with what was run.
pub fn status(known: Vec<String>, applied: &[String]) -> SchemaStatus {
    SchemaStatus {
        found: applied.iter().max().cloned(),
        wanted: known.last().cloned().unwrap_or_default(),
        pending: known.iter().filter(|v| !applied.contains(v)).cloned().collect(),
        unknown: applied.iter().filter(|v| !known.contains(v)).cloned().collect(),
        is_migrating: false,
    }
}

/// Refuses a database whose schema does not fit.
pub fn check(status: &SchemaStatus) -> StoreResult<()> {
    let problem = if let Some(newest) = status.unknown.last() {
        SchemaProblem::Newer(newest.clone())
    } else if status.is_migrating {
        let source = Cause("a migration is under way".into());
        return Err(StoreError::Busy { step: "read the schema version", source });
    } else if status.found.is_none() {
        SchemaProblem::Missing
    } else if !status.pending.is_empty() {
        SchemaProblem::Older(status.pending.join(", "))
    } else {
        return Ok(());
    };
    Err(StoreError::Schema(problem))
}

/// Runs what is pending; the caller holds the lock.
pub fn run<DB, C>(connection: &mut C, source: EmbeddedMigrations) -> StoreResult<Vec<String>>
where
    DB: diesel::backend::Backend,
    C: MigrationHarness<DB>,
    EmbeddedMigrations: MigrationSource<DB>,
{
    let applied = connection.applied_migrations().map_err(broken("read the applied migrations"))?;
    let applied: Vec<String> = applied.iter().map(ToString::to_string).collect();
    let status = status(known::<DB>(&source)?, &applied);
    if let Some(newest) = status.unknown.last() {
        return Err(StoreError::Schema(SchemaProblem::Newer(newest.clone())));
    }
    let done = connection.run_pending_migrations(source).map_err(broken("run the migrations"))?;
    Ok(done.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn empty_older_newer_and_current_are_told_apart() {
        let verdict = |applied: &[&str]| check(&status(texts(&["1", "2"]), &texts(applied)));
        assert!(matches!(verdict(&[]), Err(StoreError::Schema(SchemaProblem::Missing))));
        assert!(matches!(verdict(&["1"]), Err(StoreError::Schema(SchemaProblem::Older(v))) if v == "2"));
        assert!(matches!(verdict(&["1", "2", "3"]), Err(StoreError::Schema(SchemaProblem::Newer(v))) if v == "3"));
        assert!(verdict(&["1", "2"]).is_ok());
        let under_way = SchemaStatus { is_migrating: true, ..status(texts(&["1", "2"]), &texts(&["1"])) };
        assert!(matches!(check(&under_way), Err(StoreError::Busy { .. })));
    }
}
