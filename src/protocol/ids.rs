//! Names and numbers that identify things. Each has its own type, so that a token cannot be passed
//! where a nonce is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::planted::{Bug, planted};

/// One life of an engine: a random 63-bit number, never reused. Shown as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(i64);

impl Incarnation {
    /// From the database or from a random source; the sign bit is dropped.
    pub const fn new(raw: i64) -> Self {
        Self(raw & i64::MAX)
    }

    /// As the database stores it.
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// From 16 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        i64::from_str_radix(text, 16).ok().filter(|raw| *raw >= 0).map(Self)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({self})")
    }
}

/// What one claim is called, so that its outcome can be read back after a lost connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(i64);

impl Nonce {
    /// From the database or from a random source; the sign bit is dropped.
    pub const fn new(raw: i64) -> Self {
        Self(raw & i64::MAX)
    }

    /// As the database stores it.
    pub const fn as_i64(self) -> i64 {
        self.0
    }
}

/// The fencing epoch: raised whenever the database may have lost commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(i64);

impl Epoch {
    /// Epochs above this do not fit into a token (23 bits).
    pub const MAX: i64 = (1 << 23) - 1;

    /// What is remembered further above the database's own epoch is a damaged or forged file rather than a memory:
    /// epochs are raised by failovers, one at a time.
    pub const JUMP_MAX: i64 = 10_000;

    /// The same from the middle of the range on, so that no number of jumps uses it up.
    const LATE_JUMP_MAX: i64 = 16;

    /// Nine tenths of the range. What is left is for failovers.
    pub const SCARCE: i64 = Self::MAX / 10 * 9;

    /// From the database.
    pub const fn new(raw: i64) -> Self {
        Self(raw)
    }

    /// As the database stores it.
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// Whether a database of this epoch is raised above what an engine remembers, without a person who says so.
    pub const fn believes(self, remembered: Self) -> bool {
        let jump_max = if remembered.0 > Self::MAX / 2 { Self::LATE_JUMP_MAX } else { Self::JUMP_MAX };
        remembered.0 - self.0 <= jump_max
    }

    /// Whether less than a tenth of the range is left.
    pub const fn is_scarce(self) -> bool {
        self.0 > Self::SCARCE
    }
}

/// How many low bits of a token count claims within an epoch.
const TOKEN_COUNTER_BITS: u32 = 40;

/// The fencing token: `(epoch << 40) | counter`. Per resource, or per task where none is named, it
/// only grows (I4), also across a failover, because a new epoch outranks every older counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(i64);

impl Token {
    /// No claim yet.
    pub const ZERO: Self = Self(0);

    /// The largest that is ever given out: one more must still be a number.
    pub const MAX: Self = Self(i64::MAX - 1);

    /// From the database.
    pub const fn new(raw: i64) -> Self {
        Self(raw)
    }

    /// As the database stores it.
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// The smallest token of an epoch; `GREATEST(stored, floor) + 1` is the next one.
    pub fn floor(epoch: Epoch) -> Self {
        if planted(Bug::TokenWithoutEpoch) {
            return Self::ZERO;
        }
        Self(epoch.as_i64() << TOKEN_COUNTER_BITS)
    }

    /// The token that follows `stored` in `epoch`. For a claim of several resources `stored` is the
    /// largest of theirs.
    pub fn next(stored: Self, epoch: Epoch) -> Self {
        let floor = Self::floor(epoch);
        Self(if stored.0 > floor.0 { stored.0 } else { floor.0 } + 1)
    }

    /// The epoch this token was given out in.
    pub const fn epoch(self) -> Epoch {
        Epoch(self.0 >> TOKEN_COUNTER_BITS)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A task's number, which is also its place in the lines of its resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(i64);

impl TaskId {
    /// From the database.
    pub const fn new(raw: i64) -> Self {
        Self(raw)
    }

    /// As the database stores it.
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// From what people type: `4812` or `#4812`.
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix('#').unwrap_or(text).parse().ok().filter(|raw| *raw > 0).map(Self)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing in it.
    #[error("a {what} must not be empty")]
    Empty {
        /// What was named.
        what: &'static str,
    },
    /// Too long to store and to show.
    #[error("a {what} may have at most {limit} bytes, this one has {len}")]
    TooLong {
        /// What was named.
        what: &'static str,
        /// The ceiling.
        limit: usize,
        /// What came.
        len: usize,
    },
    /// It would corrupt a terminal, a log line or a table, or make two names look like one.
    #[error("a {what} must not contain control or invisible characters (found U+{code:04X} at byte {at})")]
    Control {
        /// What was named.
        what: &'static str,
        /// The character.
        code: u32,
        /// Its offset.
        at: usize,
    },
    /// Blanks that nobody sees: `a` and `a ` would be two.
    #[error("a {what} must not begin or end with a blank, nor be nothing else")]
    Blank {
        /// What was named.
        what: &'static str,
    },
    /// A character that the kind of name does not allow.
    #[error("a {what} may hold only {allowed} (found {found:?})")]
    Character {
        /// What was named.
        what: &'static str,
        /// What is allowed.
        allowed: &'static str,
        /// The character.
        found: char,
    },
}

fn check_text(what: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > limit {
        return Err(NameError::TooLong { what, limit, len: text.len() });
    }
    if let Some((at, c)) = text.char_indices().find(|(_, c)| c.is_control() || is_invisible(*c)) {
        return Err(NameError::Control { what, code: c as u32, at });
    }
    Ok(())
}

/// Characters of Unicode's classes Cf, Zl and Zp, and fillers that show nothing: they change the direction of what
/// follows, break a line, or are not seen at all. A name is read aloud, typed again and compared by eye.
pub const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
            | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// The most resources one task may name.
pub const RESOURCES_MAX: usize = 64;

/// The largest payload in bytes (1 MiB).
pub const PAYLOAD_MAX: usize = 1 << 20;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $limit:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check_text($what, &text, $limit)?;
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(&text)?;
                Ok(Self(text))
            }

            /// Takes a name that was checked when it was written.
            pub fn from_stored(text: String) -> Self {
                Self(text)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

fn plain(what: &'static str, text: &str) -> Result<(), NameError> {
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-+@".contains(*c))) {
        Some(found) => Err(NameError::Character { what, allowed: "letters, digits and . _ - + @", found }),
        None => Ok(()),
    }
}

fn unpadded(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.trim().len() == text.len() { Ok(()) } else { Err(NameError::Blank { what }) }
}

name_type!(
    /// The name people give an engine; what operators want belongs to it, not to one life.
    EngineName, "engine name", 128, |text| plain("engine name", text)
);
name_type!(
    /// What a task does: a kind of the configuration or a Rust handler.
    KindName, "kind", 128, |text| plain("kind", text)
);
name_type!(
    /// A thing that at most one task at a time may work on. Any text without control or invisible characters,
    /// and without blanks at its ends.
    ResourceName, "resource name", 255, |text| unpadded("resource name", text)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_far_above_the_database_is_not_believed() {
        let believes = |database, remembered| Epoch::new(database).believes(Epoch::new(remembered));
        assert!(believes(1, 0) && believes(1, 10_001) && !believes(1, 10_002) && !believes(1, Epoch::MAX - 1));
        let middle = Epoch::MAX / 2;
        assert!(believes(middle - 9_999, middle) && !believes(middle - 9_999, middle + 1));
        assert!(believes(middle, middle + 16) && !believes(middle, middle + 17));
        assert!(believes(Epoch::MAX, Epoch::MAX) && believes(Epoch::MAX - 1, Epoch::MAX));
        assert!(!Epoch::new(Epoch::SCARCE).is_scarce() && Epoch::new(Epoch::SCARCE + 1).is_scarce());
    }

    #[test]
    fn a_new_epoch_outranks_every_counter_of_the_older_one() {
        let mut old = Token::next(Token::ZERO, Epoch::new(1));
        for _ in 0..1_000 {
            old = Token::next(old, Epoch::new(1));
        }
        let new = Token::next(Token::ZERO, Epoch::new(2));
        assert!(new > old);
        assert_eq!(new.epoch(), Epoch::new(2));
        assert_eq!(Token::next(new, Epoch::new(1)).epoch(), Epoch::new(2), "an older epoch cannot lower a token");
    }

    #[test]
    fn the_largest_epoch_still_fits_a_token() {
        let t = Token::next(Token::ZERO, Epoch::new(Epoch::MAX));
        assert!(t.as_i64() > 0);
        assert_eq!(t.epoch().as_i64(), Epoch::MAX);
    }

    #[test]
    fn names_with_control_characters_are_refused() {
        assert!(matches!(ResourceName::new("a\nb"), Err(NameError::Control { at: 1, .. })));
        assert!(matches!(ResourceName::new(""), Err(NameError::Empty { .. })));
        assert!(ResourceName::new("kunde Müller / 7").is_ok());
        for text in [" ", " a", "a ", "\u{a0}a"] {
            assert!(matches!(ResourceName::new(text), Err(NameError::Blank { .. })), "{text:?}");
        }
        for text in ["a\u{200b}", "\u{202e}gnp.exe", "a\u{2028}b", "\u{feff}a", "a\u{ad}b", "e\u{e0041}"] {
            assert!(matches!(ResourceName::new(text), Err(NameError::Control { .. })), "{text:?}");
        }
        assert!(ResourceName::new("日本 e\u{301} أب").is_ok(), "letters and accents of any script");
        assert!(ResourceName::new("x".repeat(255)).is_ok());
        assert!(matches!(ResourceName::new("x".repeat(256)), Err(NameError::TooLong { len: 256, .. })));
        assert!(matches!(KindName::new("a b"), Err(NameError::Character { found: ' ', .. })));
    }

    #[test]
    fn ids_read_as_people_type_them() {
        assert_eq!(TaskId::parse("#12"), Some(TaskId::new(12)));
        assert_eq!(TaskId::parse("12"), Some(TaskId::new(12)));
        assert_eq!(TaskId::parse("0"), None);
        assert_eq!(TaskId::parse("x"), None);
        let i = Incarnation::new(-1);
        assert_eq!(Incarnation::parse(&i.to_string()), Some(i));
    }
}
