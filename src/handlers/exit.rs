//! What the end of a command means: the table of `ux.md` 7.3, pure.
//!
//! A stop outranks the exit code. Once SIGTERM was sent, an exit code of 0 no longer says "the work is
//! complete": well-behaved programs exit 0 upon SIGTERM half-way. So an end counts as `done` only if
//! it came before the signal; otherwise the attempt is repeated, which an idempotent task survives,
//! while work that was dropped silently would never be done.

use super::control::StopKind;
use super::spec::ExitCodes;
use crate::protocol::task::AttemptResult;

/// How the main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// Other code of this process took the exit status away (`waitpid(-1)`, or SIGCHLD ignored).
    Unknown,
}

/// What that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What is stored.
    pub result: AttemptResult,
    /// Whether the next attempt should be on another host.
    pub elsewhere: bool,
}

/// A shell's "found, but not executable".
pub const NOT_EXECUTABLE: i32 = 126;
/// A shell's "not found".
pub const NOT_FOUND: i32 = 127;

/// Judges an end. `stopped` is set if SIGTERM was sent before it.
pub fn verdict(end: End, stopped: Option<StopKind>, codes: &ExitCodes) -> Verdict {
    let (result, elsewhere) = match (stopped, end) {
        (Some(kind), _) => (kind.result(), false),
        (None, End::Signal(_) | End::Unknown) => (AttemptResult::Crash, false),
        (None, End::Exit(code)) => of_code(code, codes),
    };
    Verdict { result, elsewhere }
}

/// The kind's lists come first, so that each row of the table can be changed.
fn of_code(code: i32, codes: &ExitCodes) -> (AttemptResult, bool) {
    match code {
        code if codes.done.contains(&code) => (AttemptResult::Done, false),
        code if codes.fail.contains(&code) => (AttemptResult::Failed, false),
        code if codes.elsewhere.contains(&code) => (AttemptResult::Tempfail, true),
        code if codes.retry.contains(&code) => (AttemptResult::Tempfail, false),
        NOT_EXECUTABLE | NOT_FOUND => (AttemptResult::Failed, true),
        _ => (AttemptResult::Tempfail, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(end: End, stopped: Option<StopKind>) -> (AttemptResult, bool) {
        let v = verdict(end, stopped, &ExitCodes::default());
        (v.result, v.elsewhere)
    }

    #[test]
    fn every_exit_code_means_what_the_table_says() {
        for code in 0..=255 {
            let expected = match code {
                0 => (AttemptResult::Done, false),
                64 | 65 | 66 | 77 | 78 => (AttemptResult::Failed, false),
                71 => (AttemptResult::Tempfail, true),
                126 | 127 => (AttemptResult::Failed, true),
                _ => (AttemptResult::Tempfail, false),
            };
            assert_eq!(judge(End::Exit(code), None), expected, "exit {code}");
        }
    }

    #[test]
    fn a_signal_that_is_not_ours_is_a_crash() {
        for signal in 1..=64 {
            assert_eq!(judge(End::Signal(signal), None), (AttemptResult::Crash, false), "signal {signal}");
        }
    }

    #[test]
    fn after_our_sigterm_the_stop_decides_whatever_the_exit_says() {
        let table = [
            (StopKind::Timeout, AttemptResult::Timeout),
            (StopKind::Cancel, AttemptResult::Canceled),
            (StopKind::HandBack, AttemptResult::HandedBack),
            (StopKind::LeaseLost, AttemptResult::HandedBack),
            (StopKind::Requeue, AttemptResult::HandedBack),
            (StopKind::Hold, AttemptResult::HandedBack),
        ];
        for (kind, result) in table {
            for end in [End::Exit(0), End::Exit(75), End::Exit(78), End::Signal(9), End::Signal(15), End::Signal(11)] {
                assert_eq!(judge(end, Some(kind)), (result, false), "{kind:?} {end:?}");
            }
        }
    }

    #[test]
    fn a_kind_may_change_every_row() {
        let codes = ExitCodes { done: vec![0, 99], retry: vec![78], fail: vec![1, 127], elsewhere: vec![75] };
        let judge = |code| {
            let v = verdict(End::Exit(code), None, &codes);
            (v.result, v.elsewhere)
        };
        assert_eq!(judge(99), (AttemptResult::Done, false));
        assert_eq!(judge(78), (AttemptResult::Tempfail, false));
        assert_eq!(judge(1), (AttemptResult::Failed, false));
        assert_eq!(judge(127), (AttemptResult::Failed, false));
        assert_eq!(judge(75), (AttemptResult::Tempfail, true));
        assert_eq!(judge(64), (AttemptResult::Tempfail, false));
    }
}
