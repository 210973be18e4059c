//! In which language a server says what is wrong, as far as this process has learnt it. Who asks, and why:
//! `postgres/words.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How a server says what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Words {
    /// As this program reads it.
    English = 1,
    /// Translated, but this user may change that for a session.
    Asked = 2,
    /// Translated, and this user may not.
    Foreign = 3,
}

/// What was learnt of a place. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Learnt(Arc<AtomicU8>);

impl Learnt {
    /// `None`: nobody has asked yet.
    pub fn get(&self) -> Option<Words> {
        [Words::English, Words::Asked, Words::Foreign].into_iter().find(|w| *w as u8 == self.0.load(Ordering::Acquire))
    }

    /// Remembers it.
    pub fn learn(&self, words: Words) {
        self.0.store(words as u8, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_of_a_place_is_known_to_all_its_clones() {
        let learnt = Learnt::default();
        assert_eq!(learnt.get(), None);
        learnt.clone().learn(Words::Foreign);
        assert_eq!(learnt.get(), Some(Words::Foreign));
    }
}
