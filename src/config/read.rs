//! From the merged tree to [`Config`], section by section. Kinds have a file of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::host::Host;
use super::read_kind::read_kinds;
use super::reader::{Keys, Reader, Section};
use super::setting::{Setting, text_of};
use super::settings::{CheckConfig, Config, DatabaseConfig, EngineConfig, KindFilter, LogConfig, RetentionConfig};
use super::source::{Item, Node, Origin, Tree, is_world_readable, split_timing};
use super::url::DatabaseUrl;
use crate::protocol::timing::{Profile, Spans, Timing};

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

const TOP: Keys = Keys {
    known: &["cluster", "database", "engine", "retention", "statistics", "log", "check", "defaults", "kind"],
    later: &["web", "metrics", "schedule"],
};
const DATABASE: Keys = Keys {
    known: &["url", "url_file", "beat_url", "password_file", "connect_timeout", "statement_timeout", "max_connections"],
    later: &[],
};
const ENGINE: Keys = Keys {
    known: &["name", "slots", "kinds", "timing", "poll", "stop_deadline", "state_dir", "scratch_dir", "kill"],
    later: &["queues", "labels", "reload_schedules"],
};
const TIMING: Keys = Keys { known: &["profile", "h", "q", "L", "K", "T", "S"], later: &[] };
const RETENTION: Keys =
    Keys { known: &["done", "canceled", "failed", "logs", "engines", "history", "resources"], later: &[] };
const STATISTICS: Keys = Keys { known: &["keep_hourly"], later: &[] };
const LOG: Keys = Keys { known: &["level", "format"], later: &[] };
const CHECK: Keys = Keys { known: &["normal", "warning", "critical", "min"], later: &[] };

/// The modes of `rekindle-check` that take thresholds.
const CHECK_MODES: &[&str] = &[
    "backlog", "canary", "db", "engine", "engines", "failed", "failures", "latency", "overall", "paused", "running",
    "schedule", "versions",
];

/// Everything, with every problem noted in `reader`.
pub(super) fn read_config(reader: &mut Reader, tree: Tree, host: &Host) -> Config {
    let top = Section::top(tree);
    reader.check_keys(&top, &TOP);
    let default = Config::defaults(host);
    let cluster = reader.read(&top, "cluster", default.cluster);
    let engine = read_engine(reader, &top, default.engine, host);
    let config = Config {
        cluster,
        database: read_database(reader, &top),
        retention: read_retention(reader, &top),
        log: read_log(reader, &top, default.log),
        check: read_checks(reader, &top),
        kinds: read_kinds(reader, &top, &engine),
        engine,
    };
    check_kind_filter(reader, &top, &config);
    config
}

fn read_database(reader: &mut Reader, top: &Section) -> DatabaseConfig {
    let s = reader.open(top, "database", &DATABASE);
    let d = DatabaseConfig::default();
    warn_of_visible_password(reader, &s);
    DatabaseConfig {
        urls: reader.read(&s, "url", d.urls),
        beat_url: reader.read(&s, "beat_url", d.beat_url),
        password_file: reader.read(&s, "password_file", d.password_file),
        connect_timeout: reader.read_span(&s, "connect_timeout", d.connect_timeout, (100 * MILLISECOND, HOUR)),
        statement_timeout: reader.read_span(&s, "statement_timeout", d.statement_timeout, (100 * MILLISECOND, HOUR)),
        max_connections: reader.read_number(&s, "max_connections", d.max_connections.into(), (2, 1_000)) as u32,
    }
}

fn warn_of_visible_password(reader: &mut Reader, section: &Section) {
    for key in ["url", "beat_url"] {
        let Some(node) = section.tree.get(key) else { continue };
        let Origin::File { path, .. } = &node.origin else { continue };
        let has_secret = Vec::<DatabaseUrl>::take(node).is_ok_and(|urls| urls.iter().any(DatabaseUrl::has_secret));
        if has_secret && is_world_readable(path) {
            let text = format!(
                "{}: a password in a file that everyone can read; use --database-url-file or database.password_file",
                section.name(key)
            );
            reader.warn(node.origin.clone(), text);
        }
    }
}

impl Setting for DatabaseUrl {
    fn take(node: &Node) -> Result<Self, String> {
        let url = Self::parse(text_of(node)?).map_err(|error| error.to_string())?;
        url.backend().missing().map_or(Ok(()), Err)?;
        let Some(path) = url.sqlite_path().filter(|path| path.is_relative()) else { return Ok(url) };
        match node.origin {
            // Two programs that start in different directories would use two databases.
            Origin::File { .. } => Err("the SQLite file must be an absolute path: sqlite:///var/lib/...".to_owned()),
            _ => std::path::absolute(path).map(Self::sqlite).map_err(|error| format!("no absolute path: {error}")),
        }
    }
    fn show(&self) -> Value {
        json!(self.to_string())
    }
}

impl Setting for Vec<DatabaseUrl> {
    fn take(node: &Node) -> Result<Self, String> {
        let one = |text: &str| Item::Text(text.to_owned());
        let urls: Vec<DatabaseUrl> = match &node.item {
            Item::List(nodes) => nodes.iter().map(DatabaseUrl::take).collect::<Result<_, _>>()?,
            Item::Raw(text) => {
                let lines = text.lines().filter(|line| !line.trim().is_empty());
                let nodes = lines.map(|line| Node { item: one(line), origin: node.origin.clone() });
                nodes.map(|node| DatabaseUrl::take(&node)).collect::<Result<_, _>>()?
            }
            _ => vec![DatabaseUrl::take(node)?],
        };
        let Some(first) = urls.first() else { return Err("must name at least one database URL".to_owned()) };
        if urls.iter().any(|url| url.backend() != first.backend()) {
            return Err("all URLs must name the same kind of database".to_owned());
        }
        Ok(urls)
    }
    fn show(&self) -> Value {
        match self.as_slice() {
            [one] => one.show(),
            many => many.iter().map(DatabaseUrl::show).collect(),
        }
    }
}

fn read_engine(reader: &mut Reader, top: &Section, d: EngineConfig, host: &Host) -> EngineConfig {
    let s = reader.open(top, "engine", &ENGINE);
    let state_dir = reader.read(&s, "state_dir", d.state_dir);
    let engine = EngineConfig {
        name: reader.read(&s, "name", d.name),
        slots: reader.read_number(&s, "slots", d.slots.into(), (1, 1_024)) as u32,
        kinds: reader.read(&s, "kinds", d.kinds),
        timing: read_timing(reader, &s),
        poll: reader.read_span(&s, "poll", d.poll, (10 * MILLISECOND, 60 * SECOND)),
        stop_deadline: reader.read_span(&s, "stop_deadline", d.stop_deadline, (Duration::ZERO, 24 * HOUR)),
        scratch_dir: reader.read(&s, "scratch_dir", host.scratch_dir(&state_dir)),
        state_dir,
        kill: reader.read(&s, "kill", d.kill),
    };
    if s.has("stop_deadline") && engine.stop_deadline >= 90 * SECOND {
        let text = "engine.stop_deadline: the unit that is shipped kills everything after 90s (TimeoutStopSec); \
                    stay below it or raise it too";
        reader.warn(s.origin_of("stop_deadline"), text.to_owned());
    }
    engine
}

/// `timing = "fast"`, or a table with `profile` and single spans.
fn read_timing(reader: &mut Reader, engine: &Section) -> Timing {
    let mut parent = engine.clone();
    if let Some(node) = parent.tree.get_mut("timing") {
        split_timing("timing", node);
    }
    let section = reader.open(&parent, "timing", &TIMING);
    let profile = reader.read(&section, "profile", Profile::Balanced);
    let mut spans = profile.spans();
    for (key, ms) in spans_by_name(&mut spans) {
        *ms = reader.read_as(&section, key, *ms, take_ms, |ms| Duration::from_millis((*ms).into()).show());
    }
    Timing::new(spans).unwrap_or_else(|error| {
        reader.problem(section.origin.clone(), format!("engine.timing: {error}"));
        Timing::of(profile)
    })
}

fn spans_by_name(spans: &mut Spans) -> [(&'static str, &mut u32); 6] {
    let Spans { heartbeat_ms, query_ms, lease_ms, kill_ms, takeover_ms, sweep_ms } = spans;
    [("h", heartbeat_ms), ("q", query_ms), ("L", lease_ms), ("K", kill_ms), ("T", takeover_ms), ("S", sweep_ms)]
}

fn take_ms(node: &Node) -> Result<u32, String> {
    let span = Duration::take(node)?;
    if span.subsec_nanos() % 1_000_000 != 0 {
        return Err("must be whole milliseconds".to_owned());
    }
    u32::try_from(span.as_millis()).map_err(|_| "must be between 10ms and 1h".to_owned())
}

fn read_retention(reader: &mut Reader, top: &Section) -> RetentionConfig {
    let s = reader.open(top, "retention", &RETENTION);
    let statistics = reader.open(top, "statistics", &STATISTICS);
    let d = RetentionConfig::default();
    RetentionConfig {
        done: reader.read(&s, "done", d.done),
        canceled: reader.read(&s, "canceled", d.canceled),
        failed: reader.read(&s, "failed", d.failed),
        logs: reader.read(&s, "logs", d.logs),
        engines: reader.read(&s, "engines", d.engines),
        history: reader.read(&s, "history", d.history),
        hours: reader.read(&statistics, "keep_hourly", d.hours),
        resources: reader.read(&s, "resources", d.resources),
    }
}

fn read_log(reader: &mut Reader, top: &Section, d: LogConfig) -> LogConfig {
    let s = reader.open(top, "log", &LOG);
    LogConfig { level: reader.read(&s, "level", d.level), format: reader.read(&s, "format", d.format) }
}

fn read_checks(reader: &mut Reader, top: &Section) -> BTreeMap<String, CheckConfig> {
    let map = reader.open_map(top, "check");
    reader.check_keys(&map, &Keys { known: CHECK_MODES, later: &[] });
    let modes: Vec<String> = map.tree.keys().filter(|mode| CHECK_MODES.contains(&mode.as_str())).cloned().collect();
    let read = |mode: String| {
        let s = reader.open(&map, &mode, &CHECK);
        let mut threshold = |key| reader.read_as(&s, key, None, take_threshold, Option::<String>::show);
        let check = CheckConfig {
            normal: threshold("normal"),
            warning: threshold("warning"),
            critical: threshold("critical"),
            min: threshold("min"),
        };
        (mode, check)
    };
    modes.into_iter().map(read).collect()
}

/// A threshold may be a number or text (`500`, `"1.5x"`, `"2:"`).
fn take_threshold(node: &Node) -> Result<Option<String>, String> {
    match &node.item {
        Item::Integer(number) => Ok(Some(number.to_string())),
        Item::Float(number) => Ok(Some(number.to_string())),
        _ => String::take(node).map(Some),
    }
}

fn check_kind_filter(reader: &mut Reader, top: &Section, config: &Config) {
    let KindFilter::Only(kinds) = &config.engine.kinds else { return };
    let engine = reader.open_map(top, "engine");
    for kind in kinds.iter().filter(|kind| !config.kinds.contains_key(*kind)) {
        let guess = super::guess::hint(kind.as_str(), config.kinds.keys().map(|kind| kind.as_str()));
        reader.warn(engine.origin_of("kinds"), format!("engine.kinds: no kind {kind} is configured{guess}"));
    }
}
