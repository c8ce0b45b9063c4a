// SPDX-License-Identifier: Apache-2.0
//! The allocator's benchmark itself, on a range so small that its figures mean nothing: both sides are measured, every row is whole.

use anyhow::{Context, ensure};
use berth_e2e::bench::{AllocationOptions, allocation};
use berth_testkit::process::binary;
use serde_json::Value;

/// Eight fills of a prefix for the set and for the pool, two bitmaps, the set and the pool of a /64.
const FIGURES: usize = 20;

#[tokio::test]
async fn both_allocators_are_measured_and_every_row_is_whole() -> anyhow::Result<()> {
    let out = tempfile::tempdir()?;
    let options = AllocationOptions {
        program: binary("berth-bench-allocation", "berth-bench-allocation")?,
        runs: 2,
        milliseconds: 1,
        prefixes: vec![24],
        strewn: 500,
    };
    let path = allocation(&options, out.path()).await?;
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
    ensure!(rows.len() == FIGURES, "{} rows: {rows:#?}", rows.len());
    for row in &rows {
        whole(row).with_context(|| format!("{row:#}"))?;
    }
    let full = rows
        .iter()
        .find(|row| row["figure"] == "/24, only the last address free");
    ensure!(
        full.is_some_and(|row| row["peer"].as_f64() > Some(0.0)),
        "{full:#?}"
    );
    let log = std::fs::read_to_string(path.with_extension("log"))?;
    ensure!(log.contains("service-allocator 256 16 end 255 1: "), "{log}");
    Ok(())
}

/// Every field, with values that can have been measured.
fn whole(row: &Value) -> anyhow::Result<()> {
    let text = |field: &str| row[field].as_str().unwrap_or_default();
    let number = |value: &Value| {
        value
            .as_f64()
            .filter(|number| number.is_finite() && *number >= 0.0)
    };
    let figure = text("figure");
    let beside = figure.starts_with("/24, ");
    ensure!(
        beside || figure.starts_with("pool ") || figure.starts_with("memory, "),
        "figure"
    );
    ensure!(["ns", "bits an address", "MB"].contains(&text("unit")), "unit");
    ensure!(
        text("better") == "lower" && row["met"].is_boolean(),
        "better, met"
    );
    ensure!(row["goal"].is_string(), "goal");
    for word in ["Linux ", " cores", "(debug build)", "2 runs each"] {
        ensure!(text("conditions").contains(word), "conditions lack {word:?}");
    }
    ensure!(number(&row["berth"]).is_some(), "berth");
    ensure!(
        row["peer"].is_null() != beside && row["ratio"].is_null() != beside,
        "peer, ratio"
    );
    if beside {
        ensure!(
            text("peer_name").starts_with("NewAllocationMapWithOffset of Kubernetes 1."),
            "peer_name"
        );
        ensure!(
            number(&row["peer"]).is_some() && number(&row["ratio"]).is_some(),
            "peer"
        );
    }
    Ok(())
}
