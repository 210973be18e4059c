//! Numbers of tasks as people name them: `4812`, `#4812`, or `-` for those on standard input.

use std::collections::BTreeSet;
use std::io::Read;

use crate::cli::error::CliError;
use crate::protocol::ids::TaskId;

/// One argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdArg {
    /// This task.
    Task(TaskId),
    /// Those on standard input.
    Stdin,
}

/// Standard input may name this many tasks.
const STDIN_MAX: usize = 100_000;

/// For clap.
pub fn parse_arg(text: &str) -> Result<IdArg, String> {
    if text == "-" { Ok(IdArg::Stdin) } else { parse_id(text).map(IdArg::Task) }
}

/// For clap.
pub fn parse_id(text: &str) -> Result<TaskId, String> {
    TaskId::parse(text).ok_or_else(|| "write a task's number, such as 4812 or #4812".to_owned())
}

/// All tasks that are named, each once, in their order.
pub fn resolve(args: &[IdArg]) -> Result<Vec<TaskId>, CliError> {
    let mut ids = Vec::new();
    for arg in args {
        match arg {
            IdArg::Task(id) => ids.push(*id),
            IdArg::Stdin => ids.extend(read(&mut std::io::stdin().lock())?),
        }
    }
    let mut seen = BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok(ids)
}

fn read(from: &mut impl Read) -> Result<Vec<TaskId>, CliError> {
    let mut text = String::new();
    // Twenty bytes hold the longest number with its sign and line feed.
    let limit = (STDIN_MAX * 22) as u64;
    from.take(limit)
        .read_to_string(&mut text)
        .map_err(|error| CliError::file("read", "standard input".as_ref(), &error))?;
    let mut ids = Vec::new();
    for (row, line) in text.lines().enumerate() {
        for word in line.split_whitespace() {
            let id = parse_id(word).map_err(|hint| {
                let word = crate::cli::human::shorten(&crate::cli::human::one_line(word), 40);
                CliError::usage(format!("line {} of standard input: {word:?} is no task; {hint}", row + 1))
            })?;
            ids.push(id);
        }
    }
    if ids.len() > STDIN_MAX || text.len() as u64 >= limit {
        return Err(CliError::usage(format!(
            "standard input names more than {STDIN_MAX} tasks; do it in parts (split -l)"
        )));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_with_and_without_their_sign_and_once_each() {
        assert_eq!(parse_arg("#12"), Ok(IdArg::Task(TaskId::new(12))));
        assert_eq!(parse_arg("-"), Ok(IdArg::Stdin));
        assert!(parse_arg("twelve").is_err() && parse_arg("0").is_err());
        let ids = resolve(&[IdArg::Task(TaskId::new(2)), IdArg::Task(TaskId::new(1)), IdArg::Task(TaskId::new(2))]);
        assert_eq!(ids.unwrap(), [TaskId::new(2), TaskId::new(1)]);
        assert_eq!(read(&mut "#1 2\n\n3\n".as_bytes()).unwrap().len(), 3);
    }

    #[test]
    fn a_wrong_word_on_standard_input_is_named_with_its_line() {
        let error = read(&mut "1\nx\x1b[31m\n".as_bytes()).unwrap_err();
        assert!(error.what.starts_with("line 2 of standard input: \"x [31m\" is no task"), "{}", error.what);
    }
}
