//! One measured figure, and how many of them become a table and lines of JSON.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// Whether a figure should be small or large.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
    /// Shown, not judged.
    None,
}

impl Goal {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(value <= limit),
            Self::AtLeast(limit) => Some(value >= limit),
            Self::None => None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::AtLeast(limit) => format!(">= {limit}"),
            Self::None => String::new(),
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Which measurement: `drain`, `takeover`, …
    pub bench: &'static str,
    /// `sqlite`, `postgres`, or empty where no database takes part.
    pub db: &'static str,
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// The median of the runs (of a maximum: the largest).
    pub value: f64,
    /// Each run.
    pub runs: Vec<f64>,
    /// What it should be.
    pub goal: Goal,
    /// How to measure it again.
    pub command: String,
}

impl Figure {
    /// The median of the runs.
    pub fn median_of(bench: &'static str, db: &'static str, name: impl Into<String>, runs: Vec<f64>) -> Self {
        let value = median(&runs);
        Self::new(bench, db, name.into(), value, runs)
    }

    /// The largest of the runs.
    pub fn largest_of(bench: &'static str, db: &'static str, name: impl Into<String>, runs: Vec<f64>) -> Self {
        let value = runs.iter().copied().fold(0.0, f64::max);
        Self::new(bench, db, name.into(), value, runs)
    }

    fn new(bench: &'static str, db: &'static str, name: String, value: f64, runs: Vec<f64>) -> Self {
        let command = match db {
            "" => format!("scripts/bench {bench}"),
            db => format!("scripts/bench {bench} --db {db}"),
        };
        Self { bench, db, name, unit: "", value, runs, goal: Goal::None, command }
    }

    /// In this unit.
    #[must_use]
    pub fn in_unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// With this goal.
    #[must_use]
    pub fn with_goal(self, goal: Goal) -> Self {
        Self { goal, ..self }
    }
}

/// The middle of the sorted values; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The smallest value that is not below so many percent of them; 0 of none.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Milliseconds with their fraction.
pub fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The table for people.
pub fn table(figures: &[Figure]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["bench", "database", "figure", "value", "unit", "goal", "met", "runs"]);
    for figure in figures {
        let met = figure.goal.is_met(figure.value).map_or("", |met| if met { "yes" } else { "NO" });
        let runs: Vec<String> = figure.runs.iter().map(|run| short(*run)).collect();
        table.add_row([
            figure.bench.to_owned(),
            figure.db.to_owned(),
            figure.name.clone(),
            short(figure.value),
            figure.unit.to_owned(),
            figure.goal.text(),
            met.to_owned(),
            runs.join(" "),
        ]);
    }
    if let Some(column) = table.column_mut(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
