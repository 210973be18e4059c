//! How an attempt ended, in the form that the finisher writes down. The same for commands and for
//! Rust handlers.

use std::time::Duration;

use crate::protocol::task::AttemptResult;

/// Longest `detail` in characters: it has to fit a line of a list.
pub const DETAIL_MAX: usize = 500;

/// The end of one attempt. It exists only when nothing of the attempt runs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What is stored.
    pub result: AttemptResult,
    /// Whether anything of the task ran at all. What never started is handed back free.
    pub started: bool,
    /// Exit code of a command that exited.
    pub exit_code: Option<i32>,
    /// Signal that ended a command, ours or not.
    pub signal: Option<i32>,
    /// One line for lists, such as `exit 75: smtp: connection refused`.
    pub detail: Option<String>,
    /// Last bytes of stdout and stderr as they came; starts with a line about what was dropped.
    pub output: Vec<u8>,
    /// How many bytes were dropped before `output`.
    pub output_dropped: u64,
    /// The next attempt is not before this and costs no retry. With `handed-back` it is a snooze:
    /// the handler put the task off itself, which is no failure.
    pub retry_after: Option<Duration>,
    /// The next attempt should be on another host: it is this one that lacks something.
    pub elsewhere: bool,
    /// What the handler wants kept as the task's result.
    pub value: Option<String>,
    /// It was this host that had nothing left to start it with: the task goes back free, and the engine takes
    /// less.
    pub starved: bool,
}

impl Ended {
    /// An end with nothing but its result; the rest is filled in by whoever knows more.
    pub fn new(result: AttemptResult) -> Self {
        Self {
            result,
            started: true,
            exit_code: None,
            signal: None,
            detail: None,
            output: Vec::new(),
            output_dropped: 0,
            retry_after: None,
            elsewhere: false,
            value: None,
            starved: false,
        }
    }

    /// Nothing was started, because the host gave no descriptor, process or memory for it, or no place to work
    /// in. Another host has it, or this one later; it is never the task's failure.
    pub fn starved(why: &str) -> Self {
        Self { starved: true, ..Self::not_started(AttemptResult::HandedBack, &format!("not started: {why}")) }
    }

    /// An attempt that ended before anything was started.
    pub fn not_started(result: AttemptResult, detail: &str) -> Self {
        Self { started: false, ..Self::new(result).with_detail(detail) }
    }

    /// Sets the line for lists.
    pub fn with_detail(mut self, detail: &str) -> Self {
        self.detail = Some(one_line(detail)).filter(|line| !line.is_empty());
        self
    }
}

/// One line of at most [`DETAIL_MAX`] characters. Control characters become spaces: the text comes
/// from strangers and is printed on terminals.
pub fn one_line(text: &str) -> String {
    let clean: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(DETAIL_MAX + 1).collect();
    match clean.char_indices().nth(DETAIL_MAX - 1) {
        Some((at, _)) if clean.chars().count() > DETAIL_MAX => format!("{}…", &clean[..at]),
        _ => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_one_short_line_without_control_characters() {
        assert_eq!(one_line("  a\nb\u{1b}[31mc\t"), "a b [31mc");
        assert_eq!(one_line(&"ü".repeat(500)).chars().count(), 500);
        let long = one_line(&"ü".repeat(501));
        assert_eq!(long.chars().count(), 500);
        assert!(long.ends_with('…'));
        assert_eq!(Ended::new(AttemptResult::Done).with_detail(" \n").detail, None);
    }
}
