//! The private directory of an attempt.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::handler::Attempt;

/// An empty directory that only this user may enter; removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes `<root>/<task>-<token>`. No two attempts share a token, so what is found there was left
    /// by a life of this engine that was killed, and goes.
    pub(super) fn create(root: &Path, attempt: &Attempt) -> io::Result<Self> {
        let path = root.join(format!("{}-{}", attempt.task.as_i64(), attempt.token.as_i64()));
        DirBuilder::new().recursive(true).mode(0o750).create(root)?;
        let make = || DirBuilder::new().mode(0o700).create(&path);
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir_all(&path)?;
                make()?;
            }
            other => other?,
        }
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("could not remove {}: {error}", self.0.display());
            }
            _ => {}
        }
    }
}
