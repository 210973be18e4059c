//! Ends of attempts that a server takes at once.
//!
//! MariaDB ends the connection of a statement that is larger than `max_allowed_packet`, and says nothing. The same
//! batch would be sent again for ever, and no other end of that engine would be written. So a batch is split by its
//! bytes, and a result that is larger than a statement may be is not kept: the work is done, and a person is told where
//! its result went. `rekindle doctor` names a server that takes less than rekindle may have to send.

use std::borrow::Cow;

use crate::store::types::Finish;

/// Of the other columns of an end, and of the statement.
const AROUND: usize = 128;

fn size(end: &Finish) -> usize {
    AROUND + end.value.as_ref().map_or(0, String::len)
}

/// The same ends; of those whose result does not fit, without it.
pub fn without_values_too_large(ends: &[Finish], bytes_max: usize) -> Cow<'_, [Finish]> {
    let is_too_large = |end: &Finish| end.value.is_some() && size(end) > bytes_max;
    if !ends.iter().any(is_too_large) {
        return Cow::Borrowed(ends);
    }
    let mut ends = ends.to_vec();
    for end in ends.iter_mut().filter(|end| is_too_large(end)) {
        log::error!(
            "task {}: its result of {} bytes is more than the server takes at once, and is not kept",
            end.held.task,
            size(end) - AROUND
        );
        end.value = None;
    }
    Cow::Owned(ends)
}

/// In their order, each batch of at most so many bytes.
pub fn batches<'a, 'e>(ends: &'a [&'e Finish], bytes_max: usize) -> Vec<&'a [&'e Finish]> {
    let (mut batches, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, end) in ends.iter().enumerate() {
        if at > from && bytes + size(end) > bytes_max {
            batches.push(&ends[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += size(end);
    }
    batches.push(&ends[from..]);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::{Nonce, TaskId, Token};
    use crate::protocol::takeover::Next;
    use crate::protocol::task::AttemptResult;
    use crate::store::types::Held;

    fn end(id: i64, bytes: usize) -> Finish {
        Finish {
            held: Held { task: TaskId::new(id), token: Token::new(1), nonce: Nonce::new(1) },
            keyed: false,
            result: AttemptResult::Done,
            next: Next::Done,
            uses_budget: false,
            handed_back: None,
            not_on: None,
            exit_code: None,
            detail: None,
            value: Some("x".repeat(bytes)),
            output: Vec::new(),
            output_dropped: 0,
            unstarted: false,
        }
    }

    #[test]
    fn batches_are_split_by_bytes_and_keep_their_order() {
        let ends: Vec<Finish> = (0..5).map(|n| end(n, 1_000 - AROUND)).collect();
        let all: Vec<&Finish> = ends.iter().collect();
        let lengths = |max| batches(&all, max).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(lengths(usize::MAX), [5]);
        assert_eq!(lengths(2_000), [2, 2, 1]);
        assert_eq!(lengths(1_999), [1; 5]);
        assert_eq!(lengths(1), [1; 5], "one alone goes out whatever it has");
        assert_eq!(batches(&[], 1), [&[] as &[&Finish]]);
        let again: Vec<i64> = batches(&all, 2_000).concat().iter().map(|end| end.held.task.as_i64()).collect();
        assert_eq!(again, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn only_a_result_that_no_statement_can_carry_is_left_out() {
        let ends = [end(1, 10), end(2, 5_000)];
        assert!(matches!(without_values_too_large(&ends, 5_000 + AROUND), Cow::Borrowed(_)));
        let fitted = without_values_too_large(&ends, 5_000);
        assert_eq!((fitted[0].value.as_deref(), fitted[1].value.as_deref()), (Some("xxxxxxxxxx"), None));
    }
}
