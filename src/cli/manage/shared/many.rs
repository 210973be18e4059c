//! Many tasks at once: one JSON object per line, all checked before anything is added.

use std::io::{BufRead, Read as _};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::payload::{refusal, unreadable};
use crate::cli::error::CliError;
use crate::cli::human::{duration_flag, one_line, shorten};
use crate::protocol::ids::{KindName, PAYLOAD_MAX, RESOURCES_MAX, ResourceName};
use crate::store::NewTask;

/// All lines go into one transaction, so their number and size are bounded: memory here, and the time in
/// which a SQLite file has no other writer.
pub const LINES_MAX: usize = 100_000;
/// See [`LINES_MAX`].
pub const BYTES_MAX: usize = 64 << 20;
/// A line may be longer than its payload by names and white space.
const LINE_MAX: usize = PAYLOAD_MAX + (64 << 10);
/// After so many wrong lines the rest is not read.
const PROBLEMS_MAX: usize = 10;

/// What a line that says nothing else gets.
#[derive(Debug, Clone)]
pub struct Common {
    /// Of which kind.
    pub kind: KindName,
    /// Higher first.
    pub priority: i16,
    /// Not before this long from now.
    pub delay: Option<Duration>,
    /// Besides those of the line.
    pub resources: Vec<ResourceName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    // The bytes of the value as they were written: a number keeps its digits, an object its order.
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    resources: Vec<String>,
    priority: Option<i16>,
    delay: Option<String>,
}

/// Reads every line; an error names the wrong ones, at most ten.
pub fn read(from: &mut impl BufRead, name: &str, common: &Common) -> Result<Vec<NewTask>, CliError> {
    let mut tasks = Vec::new();
    let mut problems = Vec::new();
    let (mut buffer, mut total, mut number) = (Vec::new(), 0, 0_usize);
    while problems.len() < PROBLEMS_MAX {
        buffer.clear();
        let read = from.by_ref().take(LINE_MAX as u64 + 1).read_until(b'\n', &mut buffer);
        if read.map_err(|error| unreadable(name, &error))? == 0 {
            break;
        }
        number += 1;
        total += buffer.len();
        if buffer.len() > LINE_MAX {
            problems.push(format!("line {number}: the payload is over 1 MiB ({PAYLOAD_MAX} bytes)"));
            skip_line(from).map_err(|error| unreadable(name, &error))?;
            continue;
        }
        if total > BYTES_MAX || tasks.len() > LINES_MAX {
            return Err(refusal(too_many(name)));
        }
        match parse(&buffer, common) {
            Ok(Some(task)) => tasks.push(task),
            Ok(None) => {}
            Err(why) => problems.push(format!("line {number}: {}", shorten(&one_line(&why), 200))),
        }
    }
    if tasks.len() > LINES_MAX {
        return Err(refusal(too_many(name)));
    }
    if problems.is_empty() { Ok(tasks) } else { Err(wrong_lines(name, &problems)) }
}

fn too_many(name: &str) -> String {
    format!(
        "{name} holds more than {LINES_MAX} tasks or {} MiB, which is more than one transaction takes; add it in parts \
         (split -l {LINES_MAX})",
        BYTES_MAX >> 20
    )
}

fn wrong_lines(name: &str, problems: &[String]) -> CliError {
    let what = match problems {
        [only] => format!("{name}, {only}"),
        several if several.len() < PROBLEMS_MAX => format!("{name}: {} lines are wrong", several.len()),
        _ => format!("{name}: {PROBLEMS_MAX} lines or more are wrong"),
    };
    let error = refusal(what);
    if problems.len() > 1 { error.cause(problems.join("\n")) } else { error }
}

fn skip_line(from: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let available = from.fill_buf()?;
        let (used, is_over) = match available.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (available.len(), available.is_empty()),
        };
        from.consume(used);
        if is_over {
            return Ok(());
        }
    }
}

/// A line's task; nothing for a blank line.
fn parse(bytes: &[u8], common: &Common) -> Result<Option<NewTask>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    // serde would read the fields of an array in their order.
    let is_object = text.starts_with('{');
    if !is_object && !text.starts_with('[') {
        return Err("a line is an object such as {\"payload\": {}}: one object a line, as jq -c prints it".into());
    }
    if text.starts_with('[') {
        return Err("a line is an object such as {\"payload\": {}}, not an array".into());
    }
    let line: Line<'_> = serde_json::from_str(text).map_err(|error| json_error(&error))?;
    let payload = line.payload.get().as_bytes();
    if payload.len() > PAYLOAD_MAX {
        return Err(format!("the payload is over 1 MiB ({PAYLOAD_MAX} bytes)"));
    }
    let named = line.resources.into_iter().map(ResourceName::new).collect::<Result<Vec<_>, _>>();
    let mut resources = named.map_err(|error| error.to_string())?;
    resources.extend(common.resources.iter().cloned());
    Ok(Some(NewTask {
        kind: common.kind.clone(),
        payload: payload.to_vec(),
        resources: sorted(resources)?,
        priority: line.priority.unwrap_or(common.priority),
        delay: match line.delay {
            Some(text) => Some(duration_flag(&text).map_err(|hint| format!("delay: {hint}"))?),
            None => common.delay,
        },
    }))
}

/// serde's text without its place, which is always "line 1".
fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (what, place) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    let column = place.rsplit_once("column ").map_or_else(String::new, |(_, column)| format!(" (column {column})"));
    match error.classify() {
        serde_json::error::Category::Data => {
            format!("{what}{column}; write {{\"payload\": ..., \"resources\": [...]}}")
        }
        // The first line of an object that was spread over several.
        serde_json::error::Category::Eof => {
            format!("not valid JSON: {what}{column}; one object a line, as jq -c prints it")
        }
        _ => format!("not valid JSON: {what}{column}"),
    }
}

/// Resources in the order in which they are locked, each once.
pub fn sorted(mut resources: Vec<ResourceName>) -> Result<Vec<ResourceName>, String> {
    resources.sort();
    resources.dedup();
    if resources.len() > RESOURCES_MAX {
        return Err(format!("a task may name at most {RESOURCES_MAX} resources, this one names {}", resources.len()));
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common() -> Common {
        Common { kind: KindName::new("mail").unwrap(), priority: 2, delay: None, resources: Vec::new() }
    }

    fn try_read(text: &str) -> Result<Vec<NewTask>, CliError> {
        read(&mut text.as_bytes(), "standard input", &common())
    }

    #[test]
    fn payloads_keep_their_bytes() {
        let tasks = try_read(
            "{\"payload\": {\"b\":1.50,  \"a\":2}}\n\n{\"payload\":null,\"resources\":[\"b\",\"a\",\"b\"],\"priority\":-1,\"delay\":\"5s\"}",
        )
        .unwrap();
        assert_eq!(tasks.len(), 2);
        assert_eq!(tasks[0].payload, b"{\"b\":1.50,  \"a\":2}");
        assert_eq!((tasks[0].priority, tasks[0].delay), (2, None));
        assert_eq!(tasks[1].payload, b"null");
        assert_eq!(tasks[1].resources.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((tasks[1].priority, tasks[1].delay), (-1, Some(Duration::from_secs(5))));
    }

    #[test]
    fn every_wrong_line_is_named_up_to_ten() {
        let error = try_read("{\"payload\":1}\n{oops\n{\"payload\":1,\"resources\":[\"a\\u0007\"]}\n{\"pay\":1}\n")
            .unwrap_err();
        assert_eq!(error.what, "standard input: 3 lines are wrong");
        let cause = error.cause.unwrap();
        assert!(
            cause.starts_with("line 2: not valid JSON: key must be a string (column 2)\nline 3: a resource name"),
            "{cause}"
        );
        assert!(cause.contains("\nline 4: unknown field `pay`"), "{cause}");
        let error = try_read(&"x\n".repeat(30)).unwrap_err();
        assert_eq!(error.what, "standard input: 10 lines or more are wrong");
        assert_eq!(error.cause.unwrap().lines().count(), 10);
    }

    #[test]
    fn a_payload_over_the_limit_is_named_with_its_line() {
        let big = format!("{{\"payload\":\"{}\"}}\n", "x".repeat(PAYLOAD_MAX));
        let error = try_read(&format!("{{\"payload\":1}}\n{big}")).unwrap_err();
        assert!(error.what.starts_with("standard input, line 2: the payload is over 1 MiB"), "{}", error.what);
        let huge = format!("{{\"payload\":\"{}\"}}\nx", "x".repeat(3 * LINE_MAX));
        let error = try_read(&huge).unwrap_err();
        assert!(error.cause.unwrap().starts_with("line 1: the payload is over 1 MiB"));
    }

    #[test]
    fn too_many_lines_are_refused_as_a_whole() {
        let error = try_read(&"{\"payload\":1}\n".repeat(LINES_MAX + 1)).unwrap_err();
        assert!(error.what.contains("add it in parts"), "{}", error.what);
        assert_eq!(try_read(&"{\"payload\":1}\n".repeat(LINES_MAX)).unwrap().len(), LINES_MAX);
    }
}
