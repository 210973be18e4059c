//! `rekindle config show`: what holds, and who set it. Secrets are masked.

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{List, Table};
use crate::cli::{GlobalFlags, codes, load_config};
use crate::clock::{Clock, SystemClock};
use crate::config::{Loaded, Shown};

/// Show every setting that holds, and with --origin who set it
#[derive(clap::Args, Debug, Clone, Default)]
#[command(
    before_help = "Examples:\n  rekindle config show --origin database\n  rekindle config show engine.slots -o json"
)]
pub struct ConfigShowArgs {
    /// Say who set each value
    #[arg(long)]
    pub origin: bool,
    /// Keys or sections, such as engine.slots or kind.report; all if none is named
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
}

/// Prints the settings.
pub fn run(args: &ConfigShowArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    list(args, &load_config(flags)?)?.print(flags)?;
    Ok(Exit::Ok)
}

fn list(args: &ConfigShowArgs, loaded: &Loaded) -> Result<List, CliError> {
    let shown = select(&args.keys, &loaded.shown)?;
    let headers: &[_] = if args.origin { &["KEY", "VALUE", "ORIGIN"] } else { &["KEY", "VALUE"] };
    let mut table = Table::new(headers);
    for setting in &shown {
        let origin = args.origin.then(|| setting.origin.to_string());
        table.row([setting.key.clone(), plain(&setting.value)].into_iter().chain(origin));
    }
    let item = |s: &&Shown| json!({"key": s.key, "value": s.value, "origin": s.origin.to_string()});
    Ok(List {
        items: shown.iter().map(item).collect(),
        names: shown.iter().map(|setting| setting.key.clone()).collect(),
        table: table.without_headers(),
        footer: None,
        ..List::new("rekindle.config-show/1", SystemClock.wall_now())
    })
}

/// The settings that are named, in the order they were named; all where nothing is.
fn select<'a>(keys: &[String], shown: &'a [Shown]) -> Result<Vec<&'a Shown>, CliError> {
    if keys.is_empty() {
        return Ok(shown.iter().collect());
    }
    let mut selected = Vec::new();
    for key in keys {
        let is_below =
            |s: &&Shown| s.key == *key || s.key.strip_prefix(key.as_str()).is_some_and(|r| r.starts_with('.'));
        let found: Vec<&Shown> = shown.iter().filter(is_below).collect();
        if found.is_empty() {
            let known = shown.iter().map(|s| s.key.as_str());
            return Err(CliError::not_found(codes::NO_KEY, "key", key, known).next("rekindle config show"));
        }
        selected.extend(found);
    }
    Ok(selected)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;
    use crate::config::{Host, LoadOptions, load};

    fn loaded() -> Loaded {
        let env = [
            ("REKINDLE_DATABASE__URL", "postgres://u:geheim@h/d"),
            ("REKINDLE_KIND__A__COMMAND", "/bin/sh,-c"),
            ("REKINDLE_KIND__A__ENV__API_TOKEN", "geheim"),
            ("REKINDLE_KIND__A__RERUN", "never"),
        ];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        load(&LoadOptions { host: Host { env, ..Host::default() }, ..LoadOptions::default() }).unwrap()
    }

    fn show(keys: &[&str], origin: bool, format: Format) -> String {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        list(&ConfigShowArgs { origin, keys }, &loaded()).unwrap().render(format, true)
    }

    #[test]
    fn values_come_with_their_origin() {
        assert_eq!(
            show(&["engine.slots", "kind.a.command"], true, Format::Table),
            "engine.slots    4                 default\n\
             kind.a.command  [\"/bin/sh\",\"-c\"]  env REKINDLE_KIND__A__COMMAND\n"
        );
        assert_eq!(show(&["cluster"], false, Format::Table), "cluster  rekindle\n");
        assert!(show(&["engine.timing"], false, Format::Name).contains("engine.timing.profile\nengine.timing.h\n"));
    }

    #[test]
    fn no_format_shows_a_secret() {
        for format in [Format::Table, Format::Json, Format::Jsonl, Format::Name] {
            assert!(!show(&[], true, format).contains("geheim"));
        }
        assert!(show(&["kind.a.env"], false, Format::Table).contains("***"));
        assert!(show(&["database"], false, Format::Table).contains("postgres://u:***@h/d"));
    }

    #[test]
    fn a_wrong_key_gets_a_guess() {
        let args = ConfigShowArgs { origin: false, keys: vec!["engine.slotz".to_owned()] };
        let error = list(&args, &loaded()).unwrap_err();
        assert_eq!(error.what, "key engine.slotz not found; did you mean engine.slots?");
    }
}
