//! Mends rows that break a rule of the schema (`check_rows`): written with its rules switched off, they are found
//! when a step fails on one.
//!
//! A rule is asked with every write of a row, also with one that changes something else. So a single row that was
//! smuggled in would fail a whole batch: each claim of its kind, each takeover of its engine. The step is repeated
//! once after this ([`crate::store::sql_store`]). The numbers go where the migration sends them, in one statement
//! for a table, because the row has to keep all rules at once. Nothing is looked for while nothing fails.

use super::rows::{COUNT_CEILING, SUM_CEILING};
use crate::protocol::ids::{Epoch, Token};
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::Cause;
use crate::store::sql::Dialect;

/// Whether a statement failed because of a rule. Every backend names it in its message.
pub fn is_rule(cause: &Cause) -> bool {
    let text = cause.0.to_lowercase();
    text.contains("constraint")
        && ["_can_grow", "_is_", "_are_", "_runs_", "_waits_"].iter().any(|part| text.contains(part))
}

/// Mends all there are; how many.
pub fn mend(db: &mut dyn Db) -> StoreResult<usize> {
    let dialect = db.dialect();
    let mut count = 0;
    let all = [tasks, half_owned, resources, engines, hours, meta];
    for text in all.map(|table| table(dialect)) {
        let sql = db.stmt().sql(text);
        count += db.execute("mend rows", &sql)?;
    }
    Ok(count)
}

/// The latest time, as microseconds: the end of the year 9999.
const LAST_US: i64 = 253_402_300_800_000_000;

fn between(column: &str, first: i64, last: i64) -> (String, String) {
    let clamped =
        format!("CASE WHEN {column} < {first} THEN {first} WHEN {column} > {last} THEN {last} ELSE {column} END");
    (format!("{column} = {clamped}"), format!("{column} NOT BETWEEN {first} AND {last}"))
}

/// MySQL assigns from left to right: what others ask for is assigned after them.
fn tasks(dialect: &Dialect) -> String {
    let Dialect { now, bad_kind, .. } = *dialect;
    let unknown = "state NOT BETWEEN 0 AND 6";
    let large = "(length(payload) > 1048576 AND attempt <= 0 AND state IN (0, 1, 2))";
    let runs = format!("state = 3 AND NOT {bad_kind}");
    let mut sets = vec![
        format!(
            "error = CASE WHEN {bad_kind} THEN 'set aside: its kind was none' WHEN {unknown} THEN \
             'set aside: its state meant nothing' WHEN {large} THEN 'set aside: its payload is over 1 MiB' ELSE error END"
        ),
        format!("owner = CASE WHEN {runs} THEN CASE WHEN owner >= 0 THEN owner ELSE 0 END END"),
        format!("nonce = CASE WHEN {runs} THEN COALESCE(nonce, 0) END"),
        format!(
            "claimed_at = CASE WHEN claimed_at BETWEEN 0 AND {LAST_US} THEN claimed_at WHEN state = 3 THEN {now} END"
        ),
        format!(
            "due_at = CASE WHEN due_at BETWEEN 0 AND 9000000000000000000 THEN due_at WHEN state = 1 THEN {now} END"
        ),
        format!("ended_at = CASE WHEN ended_at BETWEEN 0 AND {LAST_US} THEN ended_at END"),
        format!(
            "created_at = CASE WHEN created_at BETWEEN 1000000000000000 AND {LAST_US} THEN created_at ELSE {now} END"
        ),
        format!("state = CASE WHEN {bad_kind} OR {unknown} OR {large} THEN 5 ELSE state END"),
        format!("kind = CASE WHEN {bad_kind} THEN 'not-a-kind' ELSE kind END"),
        "keyed = CASE WHEN keyed = 0 THEN 0 ELSE 1 END".to_owned(),
        "result = CASE WHEN result BETWEEN 0 AND 99 THEN result END".to_owned(),
    ];
    let mut broken = vec![
        bad_kind.to_owned(),
        unknown.to_owned(),
        large.to_owned(),
        "(state = 3 AND (owner IS NULL OR owner < 0 OR nonce IS NULL OR claimed_at IS NULL))".to_owned(),
        "(state <> 3 AND owner IS NOT NULL)".to_owned(),
        "(state = 1 AND due_at IS NULL)".to_owned(),
        format!("created_at NOT BETWEEN 1000000000000000 AND {LAST_US}"),
        "due_at NOT BETWEEN 0 AND 9000000000000000000".to_owned(),
        format!("claimed_at NOT BETWEEN 0 AND {LAST_US}"),
        format!("ended_at NOT BETWEEN 0 AND {LAST_US}"),
        "keyed NOT BETWEEN 0 AND 1".to_owned(),
        "result NOT BETWEEN 0 AND 99".to_owned(),
    ];
    let counts = ["attempt", "failures", "lost", "handed_back", "version", "policy"].map(|c| (c, COUNT_CEILING));
    for (column, last) in counts.into_iter().chain([("reason", 99), ("wish", 99), ("token", Token::MAX.as_i64())]) {
        let (set, is_broken) = between(column, 0, last);
        sets.push(set);
        broken.push(is_broken);
    }
    format!("UPDATE task SET {} WHERE {}", sets.join(", "), broken.join(" OR "))
}

const HALF_OWNED: &str = "(owner IS NULL) <> (owner_task IS NULL) OR owner < 0";

/// Each asks for the other, so both go.
fn half_owned(_: &Dialect) -> String {
    let ((token, _), (version, _)) = (between("token", 0, Token::MAX.as_i64()), between("version", 0, SUM_CEILING));
    format!("UPDATE resource SET {token}, {version}, owner = NULL, owner_task = NULL WHERE {HALF_OWNED}")
}

fn resources(_: &Dialect) -> String {
    let ((token, bad_token), (version, bad_version)) =
        (between("token", 0, Token::MAX.as_i64()), between("version", 0, SUM_CEILING));
    format!("UPDATE resource SET {token}, {version} WHERE {bad_token} OR {bad_version}")
}

/// One with a negative number cannot be meant by anybody, and stays for a person (`stray.rs`).
fn engines(dialect: &Dialect) -> String {
    let now = dialect.now;
    let spans = ["heartbeat_ms", "query_ms", "lease_ms", "kill_ms", "takeover_ms", "sweep_ms"];
    let bad_spans: Vec<_> = spans.iter().map(|span| format!("{span} NOT BETWEEN 10 AND 3600000")).collect();
    let bad_spans = format!("({})", bad_spans.join(" OR "));
    let longest = [10_000, 5_000, 3_000_000, 500_000, 3_600_000, 5_000];
    // An engine that is really there says its spans once, and has its own from its configuration: only peers read
    // them, and they may wait longer than needed.
    let mut sets = vec![
        format!("ended_at = CASE WHEN state BETWEEN 1 AND 3 THEN ended_at ELSE {now} END"),
        "proof = CASE WHEN state BETWEEN 1 AND 3 THEN proof ELSE 5 END".to_owned(),
        "live_name = CASE WHEN state = 1 THEN live_name END".to_owned(),
        "state = CASE WHEN state BETWEEN 1 AND 3 THEN state ELSE 2 END".to_owned(),
    ];
    sets.extend(spans.iter().zip(longest).map(|(span, ms)| format!("{span} = {ms}")));
    let mut broken = vec![bad_spans, "state NOT BETWEEN 1 AND 3".to_owned()];
    let counts =
        [("beat", SUM_CEILING), ("refused", SUM_CEILING), ("running", i64::from(i32::MAX)), ("last_beat_at", LAST_US)];
    for (column, last) in counts {
        let (set, is_broken) = between(column, 0, last);
        sets.push(set);
        broken.push(is_broken);
    }
    format!("UPDATE engine SET {} WHERE incarnation >= 0 AND ({})", sets.join(", "), broken.join(" OR "))
}

fn hours(_: &Dialect) -> String {
    let columns = super::hours::SUMS.iter().chain(&super::hours::PEAKS);
    let (sets, broken): (Vec<_>, Vec<_>) = columns.map(|column| between(column, 0, SUM_CEILING)).unzip();
    format!("UPDATE hour SET {} WHERE {}", sets.join(", "), broken.join(" OR "))
}

fn meta(_: &Dialect) -> String {
    let (settled, bad_settled) = between("settled_epoch", 0, Epoch::MAX);
    format!(
        "UPDATE meta SET {settled}, raised_epoch = CASE WHEN raised_epoch < 0 THEN 0 WHEN raised_epoch > epoch THEN epoch \
         ELSE raised_epoch END, forget_epoch = CASE WHEN forget_epoch BETWEEN 0 AND epoch THEN forget_epoch ELSE 0 END \
         WHERE {bad_settled} OR raised_epoch NOT BETWEEN 0 AND epoch OR forget_epoch NOT BETWEEN 0 AND epoch"
    )
}
