// SPDX-License-Identifier: Apache-2.0
//! The benchmark itself, on a cluster so small that its figures mean nothing: both sides are measured, every row is whole.

use std::path::Path;

use anyhow::{Context, ensure};
use berth_e2e::bench::{Case, Options, endpoints};
use berth_e2e::controlplane::Binaries;
use berth_e2e::peers::Peers;
use berth_testkit::process::binary;
use berth_testkit::{in_sandbox_async, sandbox};
use serde_json::Value;

/// Of one case: the start has 9 figures, idle 2, churn 10.
const FIGURES: usize = 21;

#[test]
fn both_sides_are_measured_and_every_row_is_whole() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().expect("control plane");
        Peers::find_or_build().expect("kube-controller-manager");
    }
    in_sandbox_async!(async {
        let scratch = Path::new(sandbox::SCRATCH);
        let options = Options {
            runs: 1,
            cases: vec![Case::Tiny],
            // Empty: the data set is loaded, kept, and used again by the second side.
            cache: scratch.join("cache"),
            berth: binary("berth", "berth")?,
            profiles: None,
        };
        std::fs::create_dir_all(&options.cache)?;
        let path = endpoints(&options, &scratch.join("out")).await?;
        let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
        ensure!(rows.len() == FIGURES, "{} rows: {rows:#?}", rows.len());
        for row in &rows {
            whole(row).with_context(|| format!("{row:#}"))?;
        }
        // Both make an Endpoints and a slice for each of 50 Services, and change both for each of 25 flips.
        for (figure, writes) in [("start: write requests", 100.0), ("churn: write requests", 50.0)] {
            let row = rows.iter().find(|row| text(row, "figure").ends_with(figure));
            let row = row.with_context(|| format!("no row {figure}"))?;
            for side in ["berth", "peer"] {
                ensure!(row[side] == writes, "{side} of {row:#}");
            }
        }
        anyhow::Ok(())
    });
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

/// Every field, with values that can have been measured.
fn whole(row: &Value) -> anyhow::Result<()> {
    ensure!(text(row, "figure").starts_with("50 x 4, "), "figure");
    ensure!(row["unit"].is_string() && row["goal"].is_string(), "unit, goal");
    ensure!(text(row, "better") == "lower", "better");
    ensure!(row["met"].is_boolean(), "met");
    ensure!(
        text(row, "peer_name").starts_with("kube-controller-manager 1."),
        "peer_name"
    );
    let conditions = text(row, "conditions");
    for word in [
        "Linux ",
        " cores",
        "kube-apiserver 1.",
        "(debug build)",
        "1 run each",
    ] {
        ensure!(conditions.contains(word), "conditions lack {word:?}");
    }
    let number = |value: &Value| {
        value
            .as_f64()
            .filter(|number| number.is_finite() && *number >= 0.0)
    };
    let berth = number(&row["berth"]).context("berth")?;
    let least = number(&row["spread"][0]).context("spread")?;
    let most = number(&row["spread"][1]).context("spread")?;
    ensure!(least <= berth && berth <= most, "spread");
    let peer = number(&row["peer"]).context("peer")?;
    ensure!(peer > 0.0 || row["ratio"].is_null(), "ratio of nothing");
    Ok(())
}
