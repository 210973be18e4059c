//! `rekindle explain CODE`: the long text of an error code.

use super::codes;
use super::error::CliError;
use super::exit::Exit;
use super::output;

/// Explain an error code
#[derive(clap::Args, Debug, Clone)]
pub struct ExplainArgs {
    /// The code, such as E301
    #[arg(value_name = "CODE")]
    pub code: String,
}

/// Prints the long text.
pub fn run(args: &ExplainArgs) -> Result<Exit, CliError> {
    output::print(&text(&args.code)?)?;
    Ok(Exit::Ok)
}

fn text(code: &str) -> Result<String, CliError> {
    let wanted = code.trim().to_ascii_uppercase();
    let found = codes::ALL.iter().find(|(code, _)| *code == wanted);
    let codes = || codes::ALL.iter().map(|(code, _)| *code);
    let (code, text) = found.ok_or_else(|| {
        CliError::not_found(codes::NO_CODE, "error code", code, codes())
            .next(format!("the codes are {}", codes().collect::<Vec<_>>().join(" ")))
    })?;
    Ok(format!("{code}\n{}\n", wrap(text, 78)))
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
        let text = text("e301").unwrap();
        assert!(text.starts_with("E301\nThe database could not be reached"));
        assert!(text.lines().all(|line| line.len() <= 78));
    }

    #[test]
    fn a_strange_code_is_not_found() {
        let error = text("E999").unwrap_err();
        assert_eq!((error.code, error.exit), ("E103", Exit::NotFound));
    }
}
