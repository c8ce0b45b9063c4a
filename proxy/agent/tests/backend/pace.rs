// SPDX-License-Identifier: Apache-2.0
//! The run loop under `--min-sync-period`: what comes in a period is written together, and not before its end.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use berth_proxy_agent::ProxyArgs;
use berth_runtime::client::ApiArgs;
use berth_runtime::shutdown::Shutdown;
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;
use berth_testkit::wait::eventually;
use clap::Parser;
use tokio::task::JoinHandle;

use crate::structure::nft;
use crate::traffic::PATIENCE;

const METRICS: &str = "127.0.0.1:10249";
const SEEN: &str = "kubeproxy_sync_proxy_rules_endpoint_changes_total";
const PENDING: &str = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
const WRITES: &str = "kubeproxy_sync_proxy_rules_duration_seconds_count";

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// A Service with so many endpoints.
fn put(file: &Path, endpoints: usize) -> anyhow::Result<()> {
    let addresses: Vec<String> = (1..=endpoints)
        .map(|n| format!("{{addresses: [10.244.0.{n}], conditions: {{ready: true}}}}"))
        .collect();
    let text = format!(
        "apiVersion: v1\nkind: List\nitems:\n\
         - apiVersion: v1\n  kind: Service\n  metadata: {{namespace: shop, name: web, uid: u}}\n  \
         spec: {{type: ClusterIP, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], \
         ports: [{{name: http, port: 80, protocol: TCP, targetPort: 8080}}]}}\n\
         - apiVersion: discovery.k8s.io/v1\n  kind: EndpointSlice\n  addressType: IPv4\n  \
         metadata: {{namespace: shop, name: web-1, uid: s, labels: {{kubernetes.io/service-name: web}}}}\n  \
         endpoints: [{}]\n  ports: [{{name: http, port: 8080, protocol: TCP}}]\n",
        addresses.join(", ")
    );
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(&new, file)?)
}

fn metric(name: &str) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nhost: {METRICS}\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let line = text
        .lines()
        .find(of_name)
        .with_context(|| format!("{name} in {text}"))?;
    let value = line.rsplit(' ').next().context("a value")?;
    Ok(value.parse()?)
}

/// The running proxy, and how it is stopped.
struct Proxy {
    shutdown: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Proxy {
    async fn start(file: &Path, min_sync_period: &str) -> anyhow::Result<Self> {
        let flags = Flags::try_parse_from([
            "proxy",
            &format!("--state={}", file.display()),
            &format!("--min-sync-period={min_sync_period}"),
            "--sync-period=2h",
            "--node-name=node-1",
            "--cluster-cidr=10.244.0.0/16",
            "--healthz-bind-address=",
        ])?;
        let shutdown = Shutdown::new();
        let run = berth_proxy_agent::run(flags.proxy, ApiArgs::default(), shutdown.clone());
        let running = tokio::spawn(async { Ok(run.await?) });
        eventually("the first write", PATIENCE, async || {
            ensure!(metric(WRITES)? == 1.0);
            Ok(())
        })
        .await?;
        Ok(Self { shutdown, running })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.request();
        self.running.await?
    }
}

/// Changes the endpoints, and waits until the proxy knows.
async fn change(file: &Path, endpoints: usize) -> anyhow::Result<()> {
    let before = metric(SEEN)?;
    put(file, endpoints)?;
    eventually("the change", PATIENCE, async || {
        let seen = metric(SEEN)?;
        ensure!(seen > before, "{seen} seen");
        Ok(())
    })
    .await?;
    Ok(())
}

/// How many endpoints the rules have.
fn written() -> anyhow::Result<usize> {
    let slots = nft(&["list", "map", "ip", "berth-proxy", "vip-slots"], "")?;
    Ok((1..10)
        .filter(|n| slots.contains(&format!("10.244.0.{n} ")))
        .count())
}

#[test]
fn the_first_change_is_written_at_once_and_later_ones_wait_for_the_end_of_the_period() {
    in_sandbox_async!(async {
        Netns::current("node")?.ip("link set lo up\n")?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("state.yaml");
        put(&file, 1)?;
        let proxy = Proxy::start(&file, "1h").await?;
        for endpoints in 2..=4 {
            change(&file, endpoints).await?;
        }
        let (pending, writes) = (metric(PENDING)?, metric(WRITES)?);
        ensure!(
            pending > 0.0 && writes == 1.0,
            "{pending} pending after {writes} writes"
        );
        ensure!(written()? == 1, "{}", written()?);
        proxy.stop().await
    });
}

#[test]
fn changes_of_one_period_are_written_together() {
    in_sandbox_async!(async {
        Netns::current("node")?.ip("link set lo up\n")?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("state.yaml");
        put(&file, 1)?;
        let period = Duration::from_secs(2);
        let started = Instant::now();
        let proxy = Proxy::start(&file, "2s").await?;
        for endpoints in 2..=4 {
            change(&file, endpoints).await?;
        }
        eventually("the changes in the rules", PATIENCE, async || {
            ensure!(
                metric(PENDING)? == 0.0 && written()? == 4,
                "{} written",
                written()?
            );
            Ok(())
        })
        .await?;
        // One at the start and one per period: however slow this machine is, that holds.
        let (writes, periods) = (metric(WRITES)?, started.elapsed().div_duration_f64(period));
        ensure!(
            writes > 1.0 && writes <= 1.0 + periods,
            "{writes} writes in {periods} periods"
        );
        proxy.stop().await
    });
}
