//! How far a long command is: one line that is rewritten on a terminal, one line per ten seconds in a pipe,
//! nothing for what is over at once. On standard error, because results go to standard output.

use std::io::IsTerminal;
use std::time::Duration;

use crate::cli::GlobalFlags;
use crate::cli::human::{age, plural};
use crate::cli::output::print_error;
use crate::clock::{Clock, SystemClock};
use crate::protocol::time::LeaseInstant;

const SOON: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(10);

/// See the module.
pub struct Progress {
    all: usize,
    noun: &'static str,
    began: LeaseInstant,
    next: Option<LeaseInstant>,
    is_terminal: bool,
    has_line: bool,
}

impl Progress {
    /// Of so many; silent with `--quiet`.
    pub fn new(all: usize, noun: &'static str, flags: &GlobalFlags) -> Self {
        let began = SystemClock.lease_now();
        let is_terminal = std::io::stderr().is_terminal();
        let first = began.after(if is_terminal { SOON } else { SELDOM });
        Self { all, noun, began, next: (!flags.quiet).then_some(first), is_terminal, has_line: false }
    }

    /// So many are done.
    pub fn at(&mut self, done: usize) {
        let now = SystemClock.lease_now();
        if self.next.is_none_or(|next| now < next) || done == 0 {
            return;
        }
        let left = now.since(self.began).mul_f64(self.all.saturating_sub(done) as f64 / done as f64);
        let text = format!("{done} of {}, {} left", plural(self.all, self.noun), age(left));
        if self.is_terminal {
            print_error(&format!("\r\x1b[K{text}"));
        } else {
            print_error(&format!("{text}\n"));
        }
        self.has_line = true;
        self.next = Some(now.after(if self.is_terminal { SOON } else { SELDOM }));
    }

    /// The line makes room for the result.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.has_line) && self.is_terminal {
            print_error("\r\x1b[K");
        }
    }
}
