//! From the merged tree to the kinds: `[defaults.kind]` first, then each `[kind.NAME]` over it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::kind::{ExitCodes, KindConfig};
use super::reader::{Keys, Reader, Section};
use super::setting::{Setting, text_of};
use super::settings::EngineConfig;
use super::source::{Item, Node};
use super::units::{parse_size, show_duration, show_size};
use crate::protocol::ids::KindName;
use crate::protocol::retry::RetryPolicy;
use crate::protocol::task::Rerun;

const KIND: Keys = Keys {
    known: &[
        "command",
        "timeout",
        "grace",
        "env_pass",
        "env",
        "env_file",
        "cwd",
        "output",
        "retry",
        "max_lost",
        "rerun",
        "on_retry",
        "on_failure",
        "on_lease_loss",
        "nice",
        "user",
        "group",
        "new_privileges",
        "exit_codes",
        "redact",
    ],
    // A queue without a limit of its own would do nothing.
    later: &["queue", "limit", "undo", "memory", "needs", "checkpoint", "payload_versions"],
};
const DEFAULTS: Keys = Keys { known: &["kind"], later: &[] };
const OUTPUT: Keys = Keys { known: &["keep"], later: &["journal"] };
const RETRY: Keys = Keys { known: &["max", "first", "factor", "cap", "jitter"], later: &[] };
const EXIT_CODES: Keys = Keys { known: &["done", "retry", "fail", "elsewhere"], later: &[] };

const DAY: Duration = Duration::from_secs(86_400);

/// All kinds.
pub(super) fn read_kinds(reader: &mut Reader, top: &Section, engine: &EngineConfig) -> BTreeMap<KindName, KindConfig> {
    let defaults = reader.open(top, "defaults", &DEFAULTS);
    let defaults = reader.open(&defaults, "kind", &KIND);
    if defaults.has("command") {
        reader
            .problem(defaults.origin_of("command"), "defaults.kind.command: a command belongs to one kind".to_owned());
    }
    let base = read_kind(reader, &defaults, &KindConfig::default());
    let map = reader.open_map(top, "kind").beneath("defaults");
    let mut kinds = BTreeMap::new();
    for (name, node) in &map.tree {
        let kind_name = match KindName::new(name.as_str()) {
            Ok(kind_name) => kind_name,
            Err(error) => {
                reader.problem(node.origin.clone(), format!("kind {name:?}: {error}"));
                continue;
            }
        };
        let section = reader.open(&map, name, &KIND).beneath("defaults.kind");
        let kind = read_kind(reader, &section, &base);
        check_kind(reader, &section, &kind, engine);
        kinds.insert(kind_name, kind);
    }
    kinds
}

fn read_kind(r: &mut Reader, s: &Section, base: &KindConfig) -> KindConfig {
    let d = base.clone();
    KindConfig {
        command: if s.has("command") {
            r.read_as(s, "command", Vec::new(), take_command, Vec::show)
        } else {
            Vec::new()
        },
        timeout: r.read_as(s, "timeout", d.timeout, take_timeout, show_timeout),
        grace: r.read_span(s, "grace", d.grace, (Duration::ZERO, DAY)),
        env_pass: r.read_as(s, "env_pass", d.env_pass, take_env_names, Vec::show),
        env: read_env(r, s, d.env),
        env_file: r.read::<Option<PathBuf>>(s, "env_file", d.env_file),
        cwd: r.read::<Option<PathBuf>>(s, "cwd", d.cwd),
        output_keep: read_output(r, s, d.output_keep),
        retry: read_retry(r, s, d.retry),
        max_lost: r.read_number(s, "max_lost", d.max_lost.into(), (1, 255)) as u8,
        rerun: r.read::<Rerun>(s, "rerun", d.rerun),
        rerun_written: d.rerun_written || s.has("rerun"),
        on_retry: r.read(s, "on_retry", d.on_retry),
        on_failure: r.read(s, "on_failure", d.on_failure),
        on_lease_loss: r.read(s, "on_lease_loss", d.on_lease_loss),
        nice: r.read_number(s, "nice", d.nice.into(), (-20, 19)) as i8,
        user: r.read(s, "user", d.user),
        group: r.read(s, "group", d.group),
        new_privileges: r.read(s, "new_privileges", d.new_privileges),
        exit_codes: read_exit_codes(r, s, &d.exit_codes),
        redact: r.read(s, "redact", d.redact),
    }
}

fn take_command(node: &Node) -> Result<Vec<String>, String> {
    if let Item::Text(text) = &node.item {
        let list: Vec<&str> = text.split_whitespace().collect();
        return Err(format!("must be a list of arguments (no shell); did you mean {}?", json!(list)));
    }
    let command = Vec::<String>::take(node)?;
    match command.first() {
        None => Err("must name a program".to_owned()),
        Some(program) if program.is_empty() => Err("must name a program".to_owned()),
        Some(_) if command.iter().any(|part| part.contains('\0')) => Err("must not contain NUL".to_owned()),
        Some(_) => Ok(command),
    }
}

fn take_timeout(node: &Node) -> Result<Option<Duration>, String> {
    if matches!(&node.item, Item::Text(text) | Item::Raw(text) if text == "none") {
        return Ok(None);
    }
    let span = Duration::take(node).map_err(|text| format!("{text} (or \"none\")"))?;
    if span.is_zero() { Err("must be longer than 0s (or \"none\")".to_owned()) } else { Ok(Some(span)) }
}

#[expect(clippy::ref_option, reason = "the reader shows every setting by reference")]
fn show_timeout(timeout: &Option<Duration>) -> Value {
    timeout.map_or_else(|| json!("none"), |span| json!(show_duration(span)))
}

fn check_env_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("{name:?} is no name of a variable"));
    }
    if name.starts_with("REKINDLE_") {
        return Err(format!("{name} is set by the engine"));
    }
    Ok(())
}

fn take_env_names(node: &Node) -> Result<Vec<String>, String> {
    let names = Vec::<String>::take(node)?;
    names.iter().try_for_each(|name| check_env_name(name))?;
    Ok(names)
}

/// The variables of the kind over those of the defaults, each with its origin.
fn read_env(reader: &mut Reader, section: &Section, base: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let table = reader.open_map(section, "env");
    let mut names: Vec<String> = base.keys().chain(table.tree.keys()).cloned().collect();
    names.sort();
    names.dedup();
    let mut env = BTreeMap::new();
    for name in names {
        if let Err(text) = check_env_name(&name) {
            reader.problem(table.origin_of(&name), format!("{}: {text}", section.name("env")));
            continue;
        }
        let default = base.get(&name).cloned().unwrap_or_default();
        let secret = is_secret(&name);
        let show = |value: &String| if secret { json!("***") } else { json!(value) };
        env.insert(name.clone(), reader.read_as(&table, &name, default, take_env_value, show));
    }
    env
}

fn take_env_value(node: &Node) -> Result<String, String> {
    let text = text_of(node)?;
    if text.contains('\0') { Err("must not contain NUL".to_owned()) } else { Ok(text.to_owned()) }
}

/// Whether a variable's name says that its value is nobody's business.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "AUTH", "DSN", "URL"].iter().any(|word| name.contains(word))
}

fn read_output(reader: &mut Reader, section: &Section, default: usize) -> usize {
    const KEEP_MAX: u64 = 1 << 20;
    let output = reader.open(section, "output", &OUTPUT);
    let take = |node: &Node| match &node.item {
        Item::Integer(number) => Err(format!("a bare number is refused: did you mean \"{number}KiB\"?")),
        _ => parse_size(text_of(node)?)
            .and_then(|size| if size > KEEP_MAX { Err("must be at most 1MiB".to_owned()) } else { Ok(size as usize) }),
    };
    reader.read_as(&output, "keep", default, take, |size| json!(show_size(*size as u64)))
}

fn read_retry(r: &mut Reader, section: &Section, d: RetryPolicy) -> RetryPolicy {
    let s = r.open(section, "retry", &RETRY);
    let between = |low: f64, high: f64| {
        move |node: &Node| match f64::take(node)? {
            number if (low..=high).contains(&number) => Ok(number),
            _ => Err(format!("must be between {low} and {high}")),
        }
    };
    let retry = RetryPolicy {
        max: r.read_number(&s, "max", d.max.into(), (0, 1_000_000)) as u32,
        first: r.read_span(&s, "first", d.first, (Duration::ZERO, 365 * DAY)),
        factor: r.read_as(&s, "factor", d.factor, between(1.0, 100.0), f64::show),
        delay_max: r.read_span(&s, "cap", d.delay_max, (Duration::ZERO, 365 * DAY)),
        jitter: r.read_as(&s, "jitter", d.jitter, between(0.0, 1.0), f64::show),
    };
    // Only where it is written, or every kind would repeat what is wrong in the defaults.
    if retry.first > retry.delay_max && (s.has("first") || s.has("cap")) {
        let (first, cap) = (show_duration(retry.first), show_duration(retry.delay_max));
        r.problem(s.origin.clone(), format!("{}: {first} is longer than cap = {cap}", s.name("first")));
    }
    retry
}

/// A list that is written takes its codes out of the lists that are not, so that `retry = [65]` is enough
/// to say that 65 is not a final failure.
fn read_exit_codes(reader: &mut Reader, section: &Section, base: &ExitCodes) -> ExitCodes {
    let s = reader.open(section, "exit_codes", &EXIT_CODES);
    let mut lists = [
        ("done", base.done.clone()),
        ("retry", base.retry.clone()),
        ("fail", base.fail.clone()),
        ("elsewhere", base.elsewhere.clone()),
    ];
    let mut written: BTreeMap<u8, &'static str> = BTreeMap::new();
    for (key, _) in lists.clone() {
        for code in s.tree.get(key).and_then(|node| take_codes(node).ok()).unwrap_or_default() {
            if let Some(other) = written.insert(code, key).filter(|other| *other != key) {
                reader.problem(s.origin_of(key), format!("{}: {code} is in {other} too", s.name(key)));
            }
        }
    }
    for (key, codes) in &mut lists {
        codes.retain(|code| written.get(code).is_none_or(|other| other == key));
        *codes = reader.read_as(&s, key, std::mem::take(codes), take_codes, |codes| json!(codes));
    }
    let [done, retry, fail, elsewhere] = lists.map(|(_, codes)| codes);
    ExitCodes { done, retry, fail, elsewhere }
}

fn take_codes(node: &Node) -> Result<Vec<u8>, String> {
    let code = |number: i64| u8::try_from(number).map_err(|_| format!("{number} is no exit code (0 to 255)"));
    match &node.item {
        Item::List(nodes) => nodes.iter().map(|node| i64::take(node).and_then(code)).collect(),
        Item::Raw(text) => {
            let number = |part: &str| part.trim().parse().map_err(|_| format!("{part:?} is no exit code (0 to 255)"));
            text.trim_matches(['[', ']']).split(',').map(|part| number(part).and_then(code)).collect()
        }
        other => Err(format!("must be a list such as [64, 65], it is {}", other.type_name())),
    }
}

/// A part in braces that no placeholder is reaches the command as it is, which nobody wants. `{}` and the
/// braces of scripts belong to the command.
fn check_placeholders(reader: &mut Reader, section: &Section, command: &[String]) {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    for argument in command.iter().skip(1) {
        for part in argument.split('{').skip(1) {
            let Some(name) = part.split_once('}').map(|(name, _)| name).filter(|name| is_name(name)) else { continue };
            let is_whole = argument.len() == name.len() + 2;
            let is_known = PLACEHOLDERS.contains(&name) || name.strip_prefix("payload.").is_some_and(|f| !f.is_empty());
            let text = match (is_known, is_whole) {
                (true, true) => continue,
                (true, false) => format!("{argument} is passed as it is: a placeholder is a whole argument"),
                // Other braces are a script's own, unless they are the whole argument.
                (false, false) => continue,
                (false, true) => {
                    let guess =
                        if name.contains('.') { String::new() } else { format!("; did you mean {{payload.{name}}}?") };
                    format!("{argument} is no placeholder, so it is passed as it is{guess}")
                }
            };
            reader.warn(section.origin_of("command"), format!("{}: {text}", section.name("command")));
        }
    }
}

/// Placeholders of facts; those of the payload are `payload.FIELD`.
pub(super) const PLACEHOLDERS: [&str; 2] = ["task.id", "task.attempt"];

/// What no single key can tell.
fn check_kind(reader: &mut Reader, section: &Section, kind: &KindConfig, engine: &EngineConfig) {
    if !section.has("command") {
        let text = format!("{}: a kind needs a command, for example [\"/usr/bin/true\"]", section.name("command"));
        reader.problem(section.origin.clone(), text);
    }
    check_placeholders(reader, section, &kind.command);
    if !kind.rerun_written {
        let text = format!(
            "{}: not written, so \"always\": the command runs again after a lost engine and must bear it; \
             write rerun = \"always\" or \"never\"",
            section.name("rerun")
        );
        reader.warn(section.origin.clone(), text);
    }
    if let (Some(group), None) = (&kind.group, &kind.user) {
        let text = format!("{}: {group} without a user; write the user as well", section.name("group"));
        reader.problem(section.origin_of("group"), text);
    }
    if kind.grace >= engine.stop_deadline && section.has("grace") {
        let text = format!(
            "{}: {} is not shorter than engine.stop_deadline = {}; a stop will cut it short",
            section.name("grace"),
            show_duration(kind.grace),
            show_duration(engine.stop_deadline)
        );
        reader.warn(section.origin_of("grace"), text);
    }
}
