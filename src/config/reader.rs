//! Reads typed settings.

/// A setting that is one word out of a few.
pub trait Word: Copy + PartialEq + 'static {
    /// The words with what they mean.
    const WORDS: &'static [(&'static str, Self)];
}
