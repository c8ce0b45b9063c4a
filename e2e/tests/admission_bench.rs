// SPDX-License-Identifier: Apache-2.0
//! The benchmark of admission itself, with so few Services that its figures mean nothing: both sides are measured, every row is whole.

use anyhow::ensure;
use berth_e2e::bench::{AdmissionOptions, admission};
use berth_e2e::controlplane::Binaries;
use berth_testkit::process::binary;
use berth_testkit::{in_sandbox_async, sandbox};
use serde_json::Value;

#[test]
fn both_sides_are_measured_and_every_row_is_whole() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
    in_sandbox_async!(async {
        let out = tempfile::tempdir()?;
        let options = AdmissionOptions {
            berth: binary("berth", "berth")?,
            runs: 1,
            creates: 50,
        };
        let path = admission(&options, out.path()).await?;
        let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
        ensure!(rows.len() == 12, "{} rows: {rows:#?}", rows.len());
        for row in &rows {
            let figure = row["figure"].as_str().unwrap_or_default();
            let measured = |side: &str| {
                row[side]
                    .as_f64()
                    .is_some_and(|value| value > 0.0 && value.is_finite())
            };
            ensure!(measured("berth"), "{row:#}");
            ensure!(measured("peer") != figure.contains("own time"), "{row:#}");
        }
        anyhow::Ok(())
    });
}
