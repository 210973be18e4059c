//! Consent to what changes much: asked on a terminal, given by a flag in scripts, never assumed.
//!
//! Three levels. Mild, one thing that can be undone: no question, the undo is printed. Moderate, many things
//! or rows that do not come back: the count and `[y/N]`, or `--yes`, better `--yes --expect N`. Severe, hard
//! to undo: the name is typed, or given with `--confirm`. Without a terminal and without the flag nothing is
//! done, and the text names the flag.

use std::io::BufRead;

use super::error::CliError;
use super::human::plural;
use super::{GlobalFlags, codes, output};

/// Goes on only with consent to change `count` things. `what` reads as "retry 971 tasks"; `again` is the
/// command that counts anew.
pub fn bulk(flags: &GlobalFlags, what: &str, count: usize, again: &str) -> Result<(), CliError> {
    let error = || CliError::consent(what, &format!("--yes, better --yes --expect {count}")).next(again);
    if !flags.yes && !flags.may_ask() { Err(error()) } else { moderate(flags, what) }
}

/// Goes on only with consent. `what` reads as "forget app3".
pub fn moderate(flags: &GlobalFlags, what: &str) -> Result<(), CliError> {
    if flags.yes {
        return Ok(());
    }
    if !flags.may_ask() {
        return Err(CliError::consent(what, "--yes"));
    }
    output::print_error(&format!("{}? [y/N] ", upper_first(what)));
    match answer().as_deref().map(str::to_ascii_lowercase).as_deref() {
        Some("y" | "yes") => Ok(()),
        _ => Err(CliError::refused(codes::CONSENT, format!("{what}: not done, as you wish"))),
    }
}

/// Goes on only if somebody typed, or gave, the name of what is at stake.
pub fn severe(flags: &GlobalFlags, what: &str, name: &str) -> Result<(), CliError> {
    if let Some(given) = &flags.confirm {
        return match given == name {
            true => Ok(()),
            false => Err(CliError::refused(codes::CONSENT, format!("{what} wants --confirm {name}, not {given:?}"))
                .effect("nothing was changed")),
        };
    }
    if !flags.may_ask() {
        return Err(CliError::consent(what, &format!("--confirm {name}")));
    }
    output::print_error(&format!("{}.\nType {name} to go on: ", upper_first(what)));
    match answer() {
        Some(typed) if typed == name => Ok(()),
        _ => Err(CliError::refused(codes::CONSENT, format!("{what}: not done, as you wish"))),
    }
}

/// Refuses where something else would be changed than was counted before.
pub fn expected(flags: &GlobalFlags, count: usize, noun: &str) -> Result<(), CliError> {
    match flags.expect {
        Some(expected) if expected != count => {
            let what = format!("--expect {expected}, but it is about {} now", plural(count, noun));
            Err(CliError::refused(codes::CHANGED, what).effect("nothing was changed").next("look again with --dry-run"))
        }
        _ => Ok(()),
    }
}

fn answer() -> Option<String> {
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).ok().map(|_| answer.trim().to_owned())
}

fn upper_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;

    #[test]
    fn without_a_terminal_the_missing_flag_is_named() {
        let flags = GlobalFlags { no_input: true, ..GlobalFlags::default() };
        let error = bulk(&flags, "retry 971 tasks", 971, "rekindle task retry --dry-run").unwrap_err();
        assert_eq!((error.exit, error.code), (Exit::Refused, "E102"));
        assert!(error.render().contains("--yes --expect 971"), "{}", error.render());
        let error = severe(&flags, "stop the cluster", "billing").unwrap_err();
        assert!(error.render().contains("--confirm billing"), "{}", error.render());
        let yes = GlobalFlags { yes: true, ..flags.clone() };
        assert_eq!((bulk(&yes, "retry 971 tasks", 971, ""), moderate(&yes, "forget app3")), (Ok(()), Ok(())));
        assert!(severe(&yes, "stop the cluster", "billing").is_err(), "--yes is not enough");
        let confirm = |name: &str| GlobalFlags { confirm: Some(name.to_owned()), ..flags.clone() };
        assert_eq!(severe(&confirm("billing"), "stop the cluster", "billing"), Ok(()));
        assert_eq!(severe(&confirm("other"), "stop the cluster", "billing").unwrap_err().exit, Exit::Refused);
        assert_eq!(upper_first("retry"), "Retry");
    }

    #[test]
    fn another_number_than_expected_is_refused() {
        let flags = GlobalFlags { expect: Some(3), ..GlobalFlags::default() };
        assert_eq!((expected(&flags, 3, "task"), expected(&GlobalFlags::default(), 9, "task")), (Ok(()), Ok(())));
        let error = expected(&flags, 4, "task").unwrap_err();
        assert_eq!((error.exit, error.code), (Exit::Refused, "E504"));
    }
}
