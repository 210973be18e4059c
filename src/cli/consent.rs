//! Consent to what changes much: asked on a terminal, given by a flag in scripts, never assumed.

use std::io::BufRead;

use super::error::CliError;
use super::{GlobalFlags, codes, output};

/// Goes on only with consent. `what` reads as "retry 971 tasks".
pub fn moderate(flags: &GlobalFlags, what: &str) -> Result<(), CliError> {
    if flags.yes {
        return Ok(());
    }
    if !flags.may_ask() {
        return Err(CliError::consent(what, "--yes"));
    }
    output::print_error(&format!("{}? [y/N] ", upper_first(what)));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim().to_ascii_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(CliError::refused(codes::CONSENT, format!("{what}: not done, as you wish"))),
    }
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
        let error = moderate(&flags, "retry 971 tasks").unwrap_err();
        assert_eq!((error.exit, error.code), (Exit::Refused, "E102"));
        assert!(error.render().contains("--yes"), "{}", error.render());
        assert_eq!(moderate(&GlobalFlags { yes: true, ..flags }, "retry 971 tasks"), Ok(()));
        assert_eq!(upper_first("retry"), "Retry");
    }
}
