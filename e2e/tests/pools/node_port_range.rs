// SPDX-License-Identifier: Apache-2.0
//! Whether Berth was told the API server's range of node ports: the API server is asked.

use anyhow::{Result, ensure};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use serde_json::json;

use super::cluster::Cluster;
use super::{PATIENCE, prepare};

/// Waits until the API server was asked, with this outcome, and the metric says so.
async fn asked(cluster: &Cluster, verdict: &str, mismatch: f64) -> Result<()> {
    eventually(format!("the verdict {verdict}"), PATIENCE, || async {
        let label = format!("verdict=\"{verdict}\"");
        let count = cluster
            .metric("berth_node_port_range_checks_total", &label)
            .await?;
        ensure!(count > 0.5, "not yet");
        anyhow::Ok(())
    })
    .await?;
    let metric = cluster.metric("berth_node_port_range_mismatch", "").await?;
    ensure!((metric - mismatch).abs() < 0.5, "{metric}");
    Ok(())
}

/// Nothing is left of asking.
async fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    eventually("no Service is left", PATIENCE, || async {
        let left = cluster
            .kubectl(&["-n", "berth-system", "get", "services", "-o", "name"])
            .await?;
        ensure!(left.trim().is_empty(), "{left}");
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

async fn events(cluster: &Cluster) -> Result<String> {
    let selector = "--field-selector=reason=NodePortRangeMismatch";
    let columns = "-o=jsonpath={range .items[*]}{.involvedObject.name}: {.message}{\"\\n\"}{end}";
    cluster
        .kubectl(&["-n", "default", "get", "events", selector, columns])
        .await
}

#[test]
fn a_range_that_is_the_api_servers_is_not_spoken_of() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-range").await?;
        cluster.serve(2, &[]).await?;
        // Why it takes a real create: a dry run is told nothing of ranges.
        let port = "--node-port=1";
        cluster
            .kubectl(&[
                "-n",
                "berth-system",
                "create",
                "service",
                "nodeport",
                "dry",
                "--tcp=80",
                port,
                "--dry-run=server",
            ])
            .await?;
        let count = cluster.metric("berth_node_port_range_checks_total", "").await?;
        ensure!(count < 0.5, "asked {count} times without a pool");
        cluster
            .port_pool("ports", &json!({"ports": ["30100-30109"]}))
            .await?;
        asked(&cluster, "Same", 0.0).await?;
        nothing_is_left(&cluster).await?;
        let events = events(&cluster).await?;
        ensure!(events.is_empty(), "{events}");
        cluster.check()
    });
}

#[test]
fn a_range_that_is_not_the_api_servers_is_said_with_the_true_one_where_it_tells() {
    prepare();
    in_sandbox_async!(async {
        for (own, verdict, text) in [
            ("20000-22767", "Other", "which is 20000-22767"),
            ("1-65535", "Wider", "which has ports outside 30000-32767"),
        ] {
            let flag = format!("--service-node-port-range={own}");
            let flags = ["--service-cluster-ip-range=10.96.0.0/16", flag.as_str()];
            let mut cluster = Cluster::with_flags(&format!("pools-range-{verdict}"), &flags).await?;
            cluster.serve(2, &[]).await?;
            cluster
                .port_pool("ports", &json!({"ports": ["30100-30109"]}))
                .await?;
            asked(&cluster, verdict, 1.0).await?;
            nothing_is_left(&cluster).await?;
            let told = |pool: &'static str| {
                let cluster = &cluster;
                eventually(format!("{pool} is told"), PATIENCE, move || async move {
                    let events = events(cluster).await?;
                    let mut lines = events.lines();
                    ensure!(
                        lines.any(|line| line.starts_with(pool) && line.contains(text)),
                        "{events}"
                    );
                    anyhow::Ok(())
                })
            };
            told("ports").await?;
            cluster
                .port_pool("more", &json!({"ports": ["30200-30209"]}))
                .await?;
            told("more").await?;
            // Admission goes on.
            cluster.check()?;
        }
        anyhow::Ok(())
    });
}
