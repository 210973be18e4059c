//! `rekindle explain`: the long text of an error code, what a state or another word means, or a list of all.

use serde_json::json;

use super::codes;
use super::error::CliError;
use super::exit::Exit;
use super::human::shorten;
use super::output::{self, List, Table};
use super::{Format, GlobalFlags, words};
use crate::clock::{Clock, SystemClock};

/// Explain an error code, a state or another word; all of them where none is named
#[derive(clap::Args, Debug, Clone)]
pub struct ExplainArgs {
    /// The code or word, such as E301 or blocked
    #[arg(value_name = "CODE|WORD")]
    pub code: Option<String>,
}

/// Prints the long text.
pub fn run(args: &ExplainArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let Some(wanted) = &args.code else {
        list().print(flags)?;
        return Ok(Exit::Ok);
    };
    let (code, text) = find(wanted)?;
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

/// Everything that can be explained: what it is, its name, its text.
fn all() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut codes: Vec<_> = codes::ALL.iter().map(|(code, text)| ("error", *code, *text)).collect();
    codes.sort_by_key(|(_, code, _)| *code);
    let words = words::ALL.iter().flat_map(|(what, words)| words.iter().map(|(word, text)| (*what, *word, *text)));
    codes.into_iter().chain(words).collect()
}

fn list() -> List {
    let mut table = Table::new(&["WHAT", "NAME", "TEXT"]);
    for (what, name, text) in all() {
        table.row([what.to_owned(), name.to_owned(), shorten(text, 80)]);
    }
    List {
        items: all().iter().map(|(what, name, text)| json!({"what": what, "code": name, "text": text})).collect(),
        names: all().iter().map(|(_, name, _)| (*name).to_owned()).collect(),
        table,
        footer: Some("the whole text: rekindle explain NAME".to_owned()),
        ..List::new("rekindle.explain-list/1", SystemClock.wall_now())
    }
}

fn find(name: &str) -> Result<(&'static str, &'static str), CliError> {
    let wanted = name.trim();
    let found = all().into_iter().find(|(_, known, _)| known.eq_ignore_ascii_case(wanted));
    found.map(|(_, name, text)| (name, text)).ok_or_else(|| {
        let known: Vec<&str> = all().into_iter().map(|(_, name, _)| name).collect();
        CliError::not_found(codes::NO_CODE, "error code or word", name, known).next("rekindle explain")
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
    fn states_and_words_are_explained_and_codes_come_in_order() {
        assert!(find("Blocked").unwrap().1.starts_with("Stands in the line of a resource"));
        assert!(find("beat").is_ok() && find("stuck").is_ok());
        let names: Vec<&str> =
            all().into_iter().filter(|(what, ..)| *what == "error").map(|(_, name, _)| name).collect();
        assert!(names.is_sorted() && names.len() == codes::ALL.len());
        let mut every: Vec<&str> = all().into_iter().map(|(_, name, _)| name).collect();
        every.sort_unstable();
        let count = every.len();
        every.dedup();
        assert_eq!(every.len(), count, "each name means one thing");
    }

    #[test]
    fn a_strange_code_is_not_found() {
        let error = find("E999").unwrap_err();
        assert_eq!((error.code, error.exit), ("E103", Exit::NotFound));
    }
}
