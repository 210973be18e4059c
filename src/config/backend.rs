//! The databases that there are, and how people call them.

use std::fmt;

/// Which database a URL names. All are understood here; whether one can be opened is the store's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// One file on this host.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MariaDB or MySQL.
    Mysql,
}

impl Backend {
    /// Those that this program was built with, by the features of the same names.
    pub const BUILT_IN: &'static [Self] = &[
        #[cfg(feature = "sqlite")]
        Self::Sqlite,
        #[cfg(feature = "postgres")]
        Self::Postgres,
        #[cfg(feature = "mysql")]
        Self::Mysql,
    ];

    /// What its URLs start with.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite:",
            Self::Postgres => "postgres://",
            Self::Mysql => "mysql://",
        }
    }

    /// Says what this program was built for, if this is none of it.
    pub fn missing(self) -> Option<String> {
        if Self::BUILT_IN.contains(&self) {
            return None;
        }
        let known: Vec<&str> = Self::BUILT_IN.iter().map(|backend| backend.scheme()).collect();
        let known = known.join(" and ");
        Some(format!("this program was built without support for {self} ({}); it knows {known}", self.scheme()))
    }

    /// Its name as people write it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
            Self::Mysql => "MariaDB",
        }
    }

    /// The port where none is written.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Sqlite => 0,
            Self::Postgres => 5_432,
            Self::Mysql => 3_306,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}
