//! One connection, whatever the database: what the shared queries need of it.

use super::api::StoreResult;
use super::error::StoreError;
use super::sql::{Dialect, Row, Sql, Stmt};

/// A connection that runs [`Sql`].
pub trait Db: Send {
    /// The words of its backend.
    fn dialect(&self) -> &'static Dialect;
    /// An SQL expression for the identity of the database, cheap enough for every claim. On SQLite the
    /// file is looked at here; an error says that it was replaced.
    fn identity(&mut self) -> StoreResult<String>;
    /// Runs a statement and returns how many rows it touched.
    fn execute(&mut self, step: &'static str, sql: &Sql) -> StoreResult<usize>;
    /// Runs a statement and returns its rows.
    fn query(&mut self, step: &'static str, sql: &Sql) -> StoreResult<Vec<Row>>;
    /// The most bytes that one statement may bring, where the server has a limit that people set.
    fn bytes_max(&self) -> usize {
        usize::MAX
    }
    /// Begins a transaction that will write.
    fn begin(&mut self, step: &'static str) -> StoreResult<()>;
    /// Whether the open transaction is still the one that was begun, where a server may end one without a word; an
    /// error says that it is not. What the statements since then answered means nothing.
    fn verify(&mut self, _step: &'static str) -> StoreResult<()> {
        Ok(())
    }
    /// Commits. A connection lost here leaves the outcome unknown.
    fn commit(&mut self, step: &'static str) -> StoreResult<()>;
    /// Rolls back; a connection that cannot is marked as broken.
    fn rollback(&mut self);
}

/// What the queries build on.
impl dyn Db + '_ {
    /// A new statement in this backend's words.
    pub fn stmt(&self) -> Stmt {
        Stmt::new(self.dialect())
    }

    /// The first row, if there is one.
    pub fn first(&mut self, step: &'static str, sql: &Sql) -> StoreResult<Option<Row>> {
        Ok(self.query(step, sql)?.into_iter().next())
    }

    /// Runs `body` in one transaction; an error rolls back.
    pub fn transaction<T>(
        &mut self,
        step: &'static str,
        body: impl FnOnce(&mut dyn Db) -> StoreResult<T>,
    ) -> StoreResult<T> {
        self.begin(step)?;
        let done = match body(self) {
            // What the body says may be made of answers that were none.
            Err(error) if !error.is_transient() => Err(self.verify(step).err().unwrap_or(error)),
            Ok(value) => self.verify(step).map(|()| value),
            failed => failed,
        };
        match done {
            Ok(value) => self.commit(step).map(|()| value),
            Err(error) => {
                self.rollback();
                Err(before_commit(error))
            }
        }
    }
}

/// A statement inside a transaction that never reached COMMIT was not applied, whatever became of the
/// connection: the server rolls back when it notices.
pub(super) fn before_commit(error: StoreError) -> StoreError {
    match error {
        StoreError::Unknown { step, source } => StoreError::Unreachable { place: step.to_owned(), source },
        other => other,
    }
}

/// A connection inside a transaction: a step that would begin one of its own becomes a part of it. Its
/// error must be passed on, because only the outer transaction can roll back.
pub struct Inside<'a>(pub &'a mut dyn Db);

impl Db for Inside<'_> {
    fn dialect(&self) -> &'static Dialect {
        self.0.dialect()
    }
    fn identity(&mut self) -> StoreResult<String> {
        self.0.identity()
    }
    fn execute(&mut self, step: &'static str, sql: &Sql) -> StoreResult<usize> {
        self.0.execute(step, sql)
    }
    fn query(&mut self, step: &'static str, sql: &Sql) -> StoreResult<Vec<Row>> {
        self.0.query(step, sql)
    }
    fn bytes_max(&self) -> usize {
        self.0.bytes_max()
    }
    fn begin(&mut self, _: &'static str) -> StoreResult<()> {
        Ok(())
    }
    fn commit(&mut self, _: &'static str) -> StoreResult<()> {
        Ok(())
    }
    fn rollback(&mut self) {}
}
