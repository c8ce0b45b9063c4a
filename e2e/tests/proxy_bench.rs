// SPDX-License-Identifier: Apache-2.0
//! The proxy's benchmark itself, on a cluster so small that its figures mean nothing: both sides are measured, every row is whole.

use std::path::Path;

use anyhow::{Context, ensure};
use berth_e2e::bench::{ProxyCase, ProxyOptions, proxy};
use berth_e2e::controlplane::Binaries;
use berth_e2e::peers::Peers;
use berth_testkit::process::binary;
use berth_testkit::{in_sandbox_async, sandbox};
use serde_json::Value;

/// Of one case: the start has 5 figures, changes have 6, numbers of endpoints used first 2, a restart 3.
const FIGURES: usize = 16;

#[test]
fn both_proxies_are_measured_and_every_row_is_whole() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().expect("control plane");
        Peers::find_or_build().expect("kube-proxy");
    }
    in_sandbox_async!(async {
        let scratch = Path::new(sandbox::SCRATCH);
        let options = ProxyOptions {
            runs: 1,
            cases: vec![ProxyCase::Tiny],
            // Empty: the data set is loaded, kept, and used again by the second side.
            cache: scratch.join("cache"),
            berth: binary("berth", "berth")?,
        };
        std::fs::create_dir_all(&options.cache)?;
        let path = proxy(&options, &scratch.join("out")).await?;
        let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
        ensure!(rows.len() == FIGURES, "{} rows: {rows:#?}", rows.len());
        for row in &rows {
            whole(row).with_context(|| format!("{row:#}"))?;
        }
        // 40 Services and as many slices have passed, and then 40 slices.
        for figure in [
            "start: received from the API server",
            "changes in a row: received from the API server",
        ] {
            let row = rows.iter().find(|row| text(row, "figure").ends_with(figure));
            let row = row.with_context(|| format!("no row {figure}"))?;
            for side in ["berth", "peer"] {
                ensure!(row[side].as_f64() > Some(0.0), "{side} of {row:#}");
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
    ensure!(text(row, "figure").starts_with("40 x 2 x 4, "), "figure");
    ensure!(row["unit"].is_string() && row["goal"].is_string(), "unit, goal");
    ensure!(text(row, "peer_name").starts_with("kube-proxy 1."), "peer_name");
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
    for side in ["berth", "peer"] {
        let number = row[side].as_f64().context(side)?;
        ensure!(number.is_finite() && number >= 0.0, "{side}");
    }
    Ok(())
}
