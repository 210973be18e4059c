//! From a result to what is printed: the plugin line with its details, or JSON.

use serde::Serialize;
use serde_json::Number;

use super::check::{CheckResult, Status};
use super::perf::Perf;
use super::words::{armor, clean, cut};

/// The first line up to perfdata, title and status included; old monitors cut there.
pub const TEXT_MAX: usize = 250;

/// More parts than this are only counted.
const DETAILS_MAX: usize = 20;

/// Which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// The plugin line.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// How to show a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Nothing at all when OK, for cron.
    pub is_quiet_ok: bool,
    /// Parts also when OK.
    pub is_verbose: bool,
    /// Which form.
    pub output: Output,
}

/// All that goes to standard output, with its last newline.
pub fn render(result: &CheckResult, style: &Style) -> String {
    match style.output {
        _ if style.is_quiet_ok && result.status == Status::Ok => String::new(),
        Output::Text => plugin_text(result, style.is_verbose),
        Output::Json => json(result),
    }
}

/// The exit code; `--exit-ok` leaves only the word.
pub const fn exit_code(result: &CheckResult, is_exit_ok: bool) -> u8 {
    if is_exit_ok { 0 } else { result.status.exit_code() }
}

/// `REKINDLE ENGINES WARNING - text | perf`, then parts and the next command, each on its own line.
pub fn plugin_text(result: &CheckResult, is_verbose: bool) -> String {
    let (title, word) = (result.mode.title(), result.status.word());
    let mut out = cut(&clean(&format!("{title} {word} - {}", result.text)), TEXT_MAX);
    let mut separator = " | ";
    for perf in &result.perf {
        out += &format!("{separator}{perf}");
        separator = " ";
    }
    out.push('\n');
    if is_verbose || result.status != Status::Ok {
        out += &details(result);
    }
    if let Some(next) = &result.next {
        // Never cut: half a command is worse than none.
        out += &format!("next: {}\n", clean(next));
    }
    out
}

fn details(result: &CheckResult) -> String {
    let mut out = String::new();
    for (status, text) in result.details.iter().take(DETAILS_MAX) {
        out += &cut(&clean(&format!("[{}] {text}", status.word())), TEXT_MAX);
        out.push('\n');
    }
    match result.details.len().saturating_sub(DETAILS_MAX) {
        0 => out,
        more => out + &format!("and {more} more: rekindle status -o json\n"),
    }
}

#[derive(Serialize)]
struct CheckJson<'a> {
    schema: &'static str,
    mode: &'static str,
    status: Status,
    exit_code: u8,
    text: &'a str,
    perf: Vec<PerfJson<'a>>,
    details: Vec<DetailJson<'a>>,
    next: Option<&'a str>,
}

#[derive(Serialize)]
struct PerfJson<'a> {
    label: &'a str,
    value: Option<Number>,
    unit: Option<&'static str>,
    warning: Option<String>,
    critical: Option<String>,
    min: Option<Number>,
    max: Option<Number>,
}

#[derive(Serialize)]
struct DetailJson<'a> {
    status: Status,
    text: &'a str,
}

/// One object of the schema `rekindle.check/1`. Texts are as they came: JSON can carry anything, and nothing of it drives a terminal.
fn json(result: &CheckResult) -> String {
    let details = result.details.iter().map(|(status, text)| DetailJson { status: *status, text });
    let check = CheckJson {
        schema: "rekindle.check/1",
        mode: result.mode.word(),
        status: result.status,
        exit_code: result.status.exit_code(),
        text: &result.text,
        perf: result.perf.iter().map(perf_json).collect(),
        details: details.collect(),
        next: result.next.as_deref(),
    };
    armor(serde_json::to_string(&check).expect("strings and numbers always serialise") + "\n")
}

fn perf_json(perf: &Perf) -> PerfJson<'_> {
    let (warning, critical) = perf.ranges();
    let (min, max) = perf.bounds();
    let suffix = perf.unit().suffix();
    PerfJson {
        label: perf.label(),
        value: number(perf.value()),
        unit: (!suffix.is_empty()).then_some(suffix),
        warning: warning.map(|range| range.to_string()),
        critical: critical.map(|range| range.to_string()),
        min: min.and_then(number),
        max: max.and_then(number),
    }
}

/// Whole numbers without a point; nothing for what JSON cannot say.
fn number(value: f64) -> Option<Number> {
    let is_whole = value.fract() == 0.0 && value.abs() < 1e15;
    if is_whole { Some(Number::from(value as i64)) } else { Number::from_f64(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::check::Mode;
    use crate::health::perf::{PerfUnit, tests::strict_perfdata};
    use proptest::prelude::*;

    fn result(status: Status) -> CheckResult {
        CheckResult::new(Mode::Engines, status, "4 of 5|engines\nalive")
            .perf([Perf::count("engines_alive", 4.0), Perf::new("age", 2.5, PerfUnit::Seconds)])
            .details([(Status::Ok, "app1 fine".to_owned()), (Status::Warning, "app3|\nfenced".to_owned())])
            .next("rekindle engine show app3")
    }

    #[test]
    fn the_first_line_comes_before_details_and_the_next_command() {
        assert_eq!(
            render(&result(Status::Warning), &Style::default()),
            "REKINDLE ENGINES WARNING - 4 of 5/engines alive | engines_alive=4;;;0 age=2.5s\n\
             [OK] app1 fine\n[WARNING] app3/ fenced\nnext: rekindle engine show app3\n"
        );
    }

    #[test]
    fn a_fine_result_is_one_line_or_nothing() {
        let line = "REKINDLE ENGINES OK - 4 of 5/engines alive | engines_alive=4;;;0 age=2.5s\n";
        assert_eq!(render(&result(Status::Ok), &Style::default()), line);
        let verbose = render(&result(Status::Ok), &Style { is_verbose: true, ..Style::default() });
        assert_eq!(verbose, format!("{line}[OK] app1 fine\n[WARNING] app3/ fenced\n"));
        let quiet = Style { is_quiet_ok: true, ..Style::default() };
        assert_eq!(render(&result(Status::Ok), &quiet), "");
        assert_ne!(render(&result(Status::Unknown), &quiet), "");
    }

    #[test]
    fn a_result_without_values_has_no_bar() {
        let bare = CheckResult::new(Mode::Overall, Status::Critical, "database unreachable");
        assert_eq!(plugin_text(&bare, false), "REKINDLE CRITICAL - database unreachable\n");
    }

    #[test]
    fn exit_ok_changes_only_the_exit_code() {
        assert_eq!(exit_code(&result(Status::Critical), false), 2);
        assert_eq!(exit_code(&result(Status::Critical), true), 0);
    }

    #[test]
    fn long_lists_are_counted_and_long_texts_cut() {
        let mut long = CheckResult::new(Mode::Failed, Status::Warning, "x ".repeat(400));
        long.details = (0..23).map(|n| (Status::Ok, format!("{n}{}", "y".repeat(400)))).collect();
        let text = plugin_text(&long, false);
        assert_eq!(text.lines().count(), 1 + 20 + 1);
        assert!(text.lines().all(|line| line.len() <= TEXT_MAX));
        assert!(text.ends_with("and 3 more: rekindle status -o json\n"));
    }

    #[test]
    fn json_carries_everything_and_null_for_what_is_unknown() {
        let style = Style { output: Output::Json, ..Style::default() };
        assert_eq!(
            render(&result(Status::Warning), &style),
            concat!(
                r#"{"schema":"rekindle.check/1","mode":"engines","status":"warning","exit_code":1,"#,
                r#""text":"4 of 5|engines\nalive","perf":[{"label":"engines_alive","value":4,"unit":null,"#,
                r#""warning":null,"critical":null,"min":0,"max":null},{"label":"age","value":2.5,"unit":"s","#,
                r#""warning":null,"critical":null,"min":null,"max":null}],"details":[{"status":"ok","#,
                r#""text":"app1 fine"},{"status":"warning","text":"app3|\nfenced"}],"#,
                r#""next":"rekindle engine show app3"}"#,
                "\n"
            )
        );
    }

    proptest! {
        #[test]
        fn no_free_text_breaks_the_plugin_lines(
            text in r#"(\PC|[|'"\n\r\t;=`$\x00-\x1f]){0,300}"#,
            detail in any::<String>(),
            status in 0usize..4,
            has_perf: bool,
        ) {
            let status = [Status::Ok, Status::Warning, Status::Critical, Status::Unknown][status];
            let mut result = CheckResult::new(Mode::Overall, status, text).details([(status, detail.clone())]).next(detail);
            result.perf = if has_perf { vec![Perf::count("ready", 1.0)] } else { Vec::new() };
            let shown = plugin_text(&result, true);
            prop_assert!(shown.bytes().all(|b| b == b'\n' || matches!(b, b' '..=b'~')));
            let first = shown.lines().next().unwrap_or_default();
            let head = format!("REKINDLE {} -", status.word());
            prop_assert!(first.starts_with(&head), "{}", first);
            let (line, perf) = first.split_once(" | ").map_or((first, None), |(line, perf)| (line, Some(perf)));
            prop_assert!(line.len() <= TEXT_MAX && !line.contains('|'));
            prop_assert_eq!(perf.is_some(), has_perf);
            if let Some(perf) = perf {
                strict_perfdata(perf).map_err(TestCaseError::fail)?;
            }
            // A bar after the first line would start perfdata again.
            prop_assert!(!shown.lines().skip(1).any(|line| line.contains('|')));
            prop_assert_eq!(shown.lines().count(), 2 + usize::from(result.next.is_some()));
            prop_assert!(serde_json::from_str::<serde_json::Value>(&json(&result)).is_ok());
        }
    }
}
