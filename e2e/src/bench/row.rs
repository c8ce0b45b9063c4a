// SPDX-License-Identifier: Apache-2.0
//! What a benchmark says: rows, as a table for people and as JSON for programs.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;

use super::stats::Spread;

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// Less of it.
    Lower,
    /// More of it.
    Higher,
}

/// What a figure has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// It is there for the reader.
    None,
    /// Berth's median over the peer's.
    Ratio(f64),
    /// The same, of what there should be much of.
    RatioAtLeast(f64),
    /// Berth's own median, whatever the peer's.
    AtMost(f64),
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Ratio(limit) => format!("at most {limit} of the peer's"),
            Self::RatioAtLeast(limit) => format!("at least {limit} of the peer's"),
            Self::AtMost(limit) => format!("at most {limit}"),
        }
    }

    fn met(self, berth: f64, ratio: Option<f64>) -> bool {
        match self {
            Self::None => true,
            Self::Ratio(limit) => ratio.is_some_and(|ratio| ratio <= limit),
            Self::RatioAtLeast(limit) => ratio.is_some_and(|ratio| ratio >= limit),
            Self::AtMost(limit) => berth <= limit,
        }
    }
}

/// One figure of both contenders.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// What was measured, in which case.
    pub(crate) figure: String,
    /// Of `berth`, `spread`, `peer` and `peer_spread`.
    pub(crate) unit: String,
    /// Machine, versions, data, how often.
    pub(crate) conditions: String,
    /// Which way is good.
    pub(crate) better: Better,
    /// Median of Berth's runs.
    pub(crate) berth: f64,
    /// Least and greatest of Berth's runs.
    pub(crate) spread: [f64; 2],
    /// Median of the peer's runs; `null` where Berth ran alone.
    pub(crate) peer: Option<f64>,
    /// Least and greatest of the peer's runs.
    pub(crate) peer_spread: Option<[f64; 2]>,
    /// Who it is.
    pub(crate) peer_name: Option<String>,
    /// `berth` over `peer`.
    pub(crate) ratio: Option<f64>,
    /// What was to be reached, in words.
    pub(crate) goal: String,
    /// Whether it was.
    pub(crate) met: bool,
}

/// What stays the same over the rows of a case.
pub(crate) struct Setting {
    /// Machine, versions, data, how often.
    pub(crate) conditions: String,
    /// Who runs beside Berth.
    pub(crate) peer_name: String,
}

impl Row {
    /// A row out of both sides' runs.
    pub(crate) fn new(
        figure: String,
        unit: &str,
        goal: Goal,
        berth: Spread,
        peer: Option<Spread>,
        setting: &Setting,
    ) -> Self {
        let ratio = peer
            .map(|peer| peer.median)
            .filter(|median| *median > 0.0)
            .map(|median| berth.median / median);
        Self {
            figure,
            unit: unit.to_owned(),
            conditions: setting.conditions.clone(),
            better: Better::Lower,
            berth: rounded(berth.median),
            spread: [rounded(berth.min), rounded(berth.max)],
            peer: peer.map(|peer| rounded(peer.median)),
            peer_spread: peer.map(|peer| [rounded(peer.min), rounded(peer.max)]),
            peer_name: peer.map(|_| setting.peer_name.clone()),
            ratio: ratio.map(rounded),
            goal: goal.text(),
            met: goal.met(berth.median, ratio),
        }
    }

    /// The same of what there should be much of.
    pub(crate) fn more_is_better(self) -> Self {
        Self {
            better: Better::Higher,
            ..self
        }
    }
}

/// Digits beyond these say nothing.
fn rounded(value: f64) -> f64 {
    let digits = if value.abs() < 0.01 { 1e8 } else { 1e4 };
    (value * digits).round() / digits
}

/// Writes the rows as a JSON list.
pub(crate) fn store(rows: &[Row], path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut text = serde_json::to_string_pretty(rows)?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// One line a row.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "figure", "unit", "Berth", "(range)", "peer", "(range)", "ratio", "goal", "",
    ]);
    for row in rows {
        let range = |[min, max]: [f64; 2]| format!("{} to {}", short(min), short(max));
        table.add_row([
            row.figure.clone(),
            row.unit.clone(),
            short(row.berth),
            range(row.spread),
            row.peer.map(short).unwrap_or_default(),
            row.peer_spread.map(range).unwrap_or_default(),
            row.ratio.map(short_ratio).unwrap_or_default(),
            goal_column(row),
            verdict(row).to_owned(),
        ]);
    }
    for column in [2, 4, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn goal_column(row: &Row) -> String {
    if row.goal == Goal::None.text() {
        String::new()
    } else {
        row.goal.clone()
    }
}

fn verdict(row: &Row) -> &'static str {
    match (row.goal == Goal::None.text(), row.met) {
        (true, _) => "",
        (false, true) => "met",
        (false, false) => "MISSED",
    }
}

/// Three digits, or how many times less it is.
fn short_ratio(ratio: f64) -> String {
    if ratio > 0.0 && ratio < 0.01 {
        format!("1/{:.0}", 1.0 / ratio)
    } else {
        format!("{ratio:.3}")
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn setting() -> Setting {
        Setting {
            conditions: "here".to_owned(),
            peer_name: "peer 1.0".to_owned(),
        }
    }

    fn spread(median: f64) -> Spread {
        Spread {
            median,
            min: median - 1.0,
            max: median + 1.0,
        }
    }

    fn row(goal: Goal, berth: f64, peer: Option<f64>) -> Row {
        Row::new(
            "CPU".to_owned(),
            "s",
            goal,
            spread(berth),
            peer.map(spread),
            &setting(),
        )
    }

    #[test]
    fn goals_bind_the_ratio_or_the_figure_itself() {
        for (goal, berth, peer, met) in [
            (Goal::Ratio(0.25), 2.0, Some(8.0), true),
            (Goal::Ratio(0.25), 2.1, Some(8.0), false),
            (Goal::Ratio(0.25), 2.0, None, false),
            (Goal::Ratio(1.0), 0.0, Some(0.0), false),
            (Goal::RatioAtLeast(1.0), 8.0, Some(8.0), true),
            (Goal::RatioAtLeast(1.0), 7.9, Some(8.0), false),
            (Goal::RatioAtLeast(1.0), 7.9, None, false),
            (Goal::AtMost(1.2), 1.2, Some(0.1), true),
            (Goal::AtMost(1.2), 1.3, None, false),
            (Goal::None, 9.0, Some(1.0), true),
        ] {
            assert_eq!(row(goal, berth, peer).met, met, "{goal:?} {berth} {peer:?}");
        }
    }

    #[test]
    fn the_json_has_every_field_and_null_where_berth_ran_alone() {
        let alone = serde_json::to_value(row(Goal::None, 3.0, None)).unwrap();
        assert_eq!(
            alone,
            json!({"figure": "CPU", "unit": "s", "conditions": "here", "better": "lower", "berth": 3.0,
                "spread": [2.0, 4.0], "peer": null, "peer_spread": null, "peer_name": null, "ratio": null,
                "goal": "none", "met": true})
        );
        let beside = serde_json::to_value(row(Goal::Ratio(0.5), 3.0, Some(12.0))).unwrap();
        assert_eq!(beside["ratio"], json!(0.25));
        assert_eq!(beside["peer_name"], json!("peer 1.0"));
        assert_eq!(beside["goal"], json!("at most 0.5 of the peer's"));
    }

    #[test]
    fn a_missed_goal_stands_out_in_the_table() {
        let text = table(&[row(Goal::Ratio(0.1), 3.0, Some(12.0)), row(Goal::None, 3.0, None)]).to_string();
        assert_eq!(text.matches("MISSED").count(), 1, "{text}");
        assert!(text.contains("0.250"), "{text}");
        let text = table(&[row(Goal::Ratio(0.0002), 3.0, Some(30_000.0))]).to_string();
        assert!(text.contains("1/10000"), "{text}");
    }
}
