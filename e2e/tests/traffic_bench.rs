// SPDX-License-Identifier: Apache-2.0
//! The benchmark of what passes through each backend itself, with turns so short that its figures mean nothing: everybody
//! is measured, every row is whole.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use berth_e2e::bench::{TrafficOptions, traffic};
use berth_e2e::controlplane::Binaries;
use berth_e2e::peers::Peers;
use berth_testkit::process::binary;
use berth_testkit::{in_sandbox_async, sandbox};
use serde_json::Value;

/// Connections and throughput of four pairs.
const FIGURES: usize = 8;

#[test]
fn every_backend_is_measured_beside_its_peer() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().expect("control plane");
        Peers::find_or_build().expect("kube-proxy");
    }
    in_sandbox_async!(async {
        let options = TrafficOptions {
            runs: 1,
            turn: Duration::from_millis(100),
            others: 3,
            berth: binary("berth", "berth")?,
            // Minutes: an API server on the guest's one CPU.
            ipvs: false,
        };
        let path = traffic(&options, &Path::new(sandbox::SCRATCH).join("out")).await?;
        let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
        ensure!(rows.len() == FIGURES, "{} rows: {rows:#?}", rows.len());
        for row in &rows {
            whole(row).with_context(|| format!("{row:#}"))?;
        }
        anyhow::Ok(())
    });
}

fn whole(row: &Value) -> anyhow::Result<()> {
    ensure!(row["better"] == "higher", "better");
    ensure!(row["peer_name"].is_string(), "peer_name");
    for side in ["berth", "peer"] {
        ensure!(row[side].as_f64() > Some(0.0), "{side}");
    }
    let conditions = row["conditions"].as_str().context("conditions")?;
    ensure!(
        conditions.contains("beside 3 other Services; "),
        "conditions: {conditions}"
    );
    Ok(())
}
