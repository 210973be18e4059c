//! `rekindle explain CODE`: the long text of an error code.

use serde_json::json;

use super::codes;
use super::error::CliError;
use super::exit::Exit;
use super::output;
use super::{Format, GlobalFlags};
use crate::clock::{Clock, SystemClock};

/// Explain an error code
#[derive(clap::Args, Debug, Clone)]
pub struct ExplainArgs {
    /// The code, such as E301
    #[arg(value_name = "CODE")]
    pub code: String,
}

/// Prints the long text.
pub fn run(args: &ExplainArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let (code, text) = find(&args.code)?;
    let fields = [("code", json!(code)), ("text", json!(text))];
    output::print(&match flags.output {
        Format::Table | Format::Wide => format!("{code}\n{}\n", wrap(text, 78)),
        Format::Json => output::document("rekindle.explain/1", SystemClock.wall_now(), &fields),
        Format::Jsonl => output::line(&fields),
        Format::Tsv => output::tsv_fields(&fields),
        Format::Name => format!("{code}\n"),
    })?;
    Ok(Exit::Ok)
}

fn find(code: &str) -> Result<(&'static str, &'static str), CliError> {
    let wanted = code.trim().to_ascii_uppercase();
    let found = codes::ALL.iter().find(|(code, _)| *code == wanted);
    let codes = || codes::ALL.iter().map(|(code, _)| *code);
    found.copied().ok_or_else(|| {
        CliError::not_found(codes::NO_CODE, "error code", code, codes())
            .next(format!("the codes are {}", codes().collect::<Vec<_>>().join(" ")))
    })
}

/// Breaks lines at spaces.
fn wrap(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => line.extend([" ", word]),
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_explained_in_short_lines() {
        let (code, text) = find("e301").unwrap();
        assert!(code == "E301" && text.starts_with("The database could not be reached"));
        assert!(wrap(text, 78).lines().all(|line| line.len() <= 78));
    }

    #[test]
    fn a_strange_code_is_not_found() {
        let error = find("E999").unwrap_err();
        assert_eq!((error.code, error.exit), ("E103", Exit::NotFound));
    }
}
