// SPDX-License-Identifier: Apache-2.0
//! One run: a fresh control plane with the data, one proxy on a node of its own, everything that it used.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_testkit::process::Process;
use berth_testkit::sandbox;
use kube::Client;
use serde_json::json;

use super::super::figures::{Key, Values};
use super::super::stats::percentile;
use super::super::store::Store;
use super::super::usage::{Family, Peak, cpu_of};
use super::super::wire::Bytes;
use super::commits::Commits;
use super::data::ProxyData;
use super::node::{API_SERVER, BenchNode};
use crate::controlplane::ControlPlaneConfig;
use crate::proxy_peer::launch::{Proxy, ProxyLaunch};
use crate::stage::{self, Stage};

/// Who is measured with what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) proxy: Proxy,
    /// The build of Berth.
    pub(super) berth: &'a Path,
    /// Of the run: its folders and logs.
    pub(super) name: &'a str,
    /// What is there at the start.
    pub(super) data: ProxyData,
    /// How often one endpoint is changed.
    pub(super) changes: u32,
}

/// How long all processes have to use next to nothing.
const QUIET_FOR: Duration = Duration::from_millis(1_500);
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(250);
/// Next to nothing: CPU seconds a look, of all of them.
const NOTHING: f64 = 0.025;
/// A machine that is busy with other things is measured all the same.
const QUIET_DEADLINE: Duration = Duration::from_secs(60);
/// Between two changes: kube-proxy rests for a second after each, and what waits for that measures the rest.
const APART: Duration = Duration::from_millis(1_300);
/// For one change.
const CHANGED: Duration = Duration::from_secs(120);

/// A control plane with the data, and the node.
struct Ground {
    node: BenchNode,
    stage: Stage,
    client: Client,
    apiserver: u32,
}

/// What was used up to some moment.
#[derive(Clone, Copy, Default)]
struct Mark {
    proxy_cpu: f64,
    apiserver_cpu: f64,
    bytes: Bytes,
}

/// Measures one proxy once.
pub(super) async fn measure(subject: Subject<'_>, store: &Store, say: &impl Fn(&str)) -> Result<Values> {
    let folder = Path::new(sandbox::SCRATCH).join(subject.name);
    std::fs::create_dir_all(&folder)?;
    store.fill(&subject.data, &folder, say).await?;
    let ground = Ground::prepare(&folder, subject.name).await?;
    let outcome = ground.measure(subject).await;
    let outcome = outcome.with_context(|| format!("logs in {}", ground.stage.logs().display()));
    drop(ground);
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    outcome
}

impl Ground {
    async fn prepare(folder: &Path, name: &str) -> Result<Self> {
        let mut config = ControlPlaneConfig::loopback(folder);
        // The proxy comes in by an uplink of its own.
        config.advertise = Some(config.bind);
        config.bind = Ipv4Addr::UNSPECIFIED.into();
        config.extra_sans = vec![API_SERVER.to_string()];
        config.logs = Some(stage::folder(&format!("bench-{name}"))?);
        let stage = Stage::on(config, None).await?;
        Ok(Self {
            node: BenchNode::build()?,
            client: stage.client(),
            apiserver: stage.control_plane().apiserver_pid().context("no API server")?,
            stage,
        })
    }

    async fn measure(&self, subject: Subject<'_>) -> Result<Values> {
        let server = format!("https://{API_SERVER}:{}", self.stage.control_plane().port());
        let launch = ProxyLaunch {
            cluster_cidrs: "10.128.0.0/9".to_owned(),
            // There are no node ports, and upstream's default needs none to be looked for.
            node_port_addresses: Vec::new(),
            program: (subject.proxy == Proxy::Berth).then(|| subject.berth.to_owned()),
            ..ProxyLaunch::named(subject.name, &ProxyData::node(), &server)
        };
        let mut values = Values::new();
        self.quiet(None).await?;
        let start = self.mark(None)?;
        let mut process = self
            .stage
            .launch_proxy(subject.proxy, self.node.netns(), &launch)
            .await?;
        let started = Instant::now();
        let pid = process.pid();
        let peak = Peak::of_family(pid);
        let converged = tokio::task::block_in_place(|| self.node.converged(&subject.data, &mut process))?;
        values.insert(Key::Wall, (converged - started).as_secs_f64());
        self.quiet(Some(pid)).await?;
        let used = self.mark(Some(pid))?.since(start);
        values.insert(Key::Cpu, used.proxy_cpu);
        values.insert(Key::ApiServerCpu, used.apiserver_cpu);
        values.insert(Key::Received, megabytes(used.bytes.received));
        values.insert(Key::PeakRss, peak.so_far());
        self.changes(subject, &mut process, &mut values).await?;
        Ok(values)
    }

    async fn changes(&self, subject: Subject<'_>, process: &mut Process, values: &mut Values) -> Result<()> {
        let pid = process.pid();
        let commits = Commits::subscribe(self.node.netns())?;
        let start = self.mark(Some(pid))?;
        let mut latencies = Vec::new();
        for change in 0..subject.changes {
            let address = replacement(change);
            let endpoints: Vec<SocketAddrV4> = subject
                .data
                .ports()
                .iter()
                .map(|(_, _, target)| SocketAddrV4::new(address, *target))
                .collect();
            commits.drain()?;
            self.replace(service_of(change, subject), address).await?;
            let answered = Instant::now();
            let seen = tokio::task::block_in_place(|| commits.seen(&endpoints, CHANGED));
            let seen = seen.with_context(|| process.log_end())?;
            latencies.push(seen.saturating_duration_since(answered).as_secs_f64() * 1_000.0);
            tokio::time::sleep(APART).await;
        }
        let used = self.mark(Some(pid))?.since(start);
        let each = |total: f64| total * 1_000.0 / f64::from(subject.changes);
        values.insert(Key::ChangeP50, percentile(&latencies, 50).context("no changes")?);
        values.insert(Key::ChangeP99, percentile(&latencies, 99).context("no changes")?);
        values.insert(Key::ChangeCpu, each(used.proxy_cpu));
        values.insert(Key::ChurnApiServerCpu, used.apiserver_cpu);
        values.insert(Key::ChurnReceived, megabytes(used.bytes.received));
        Ok(())
    }

    /// Puts another address in the place of a Service's first endpoint.
    async fn replace(&self, service: u32, address: Ipv4Addr) -> Result<()> {
        let patch = json!([{"op": "replace", "path": "/endpoints/0/addresses", "value": [address]}]);
        let path = ProxyData::slice_path(service);
        let request = http::Request::patch(&path)
            .header("content-type", "application/json-patch+json")
            .body(serde_json::to_vec(&patch)?)?;
        self.client.request_text(request).await.context(path)?;
        Ok(())
    }

    fn mark(&self, proxy: Option<u32>) -> Result<Mark> {
        Ok(Mark {
            proxy_cpu: proxy.map_or(Ok(0.0), |pid| {
                Ok::<_, anyhow::Error>(Family::of(pid)?.cpu_seconds)
            })?,
            apiserver_cpu: cpu_of(self.apiserver)?,
            bytes: self.node.bytes()?,
        })
    }

    /// Waits until nobody has anything left to do.
    async fn quiet(&self, proxy: Option<u32>) -> Result<()> {
        let sum = || -> Result<f64> {
            let mark = self.mark(proxy)?;
            Ok(mark.proxy_cpu + mark.apiserver_cpu)
        };
        let started = Instant::now();
        let (mut last, mut since) = (sum()?, Instant::now());
        while since.elapsed() < QUIET_FOR && started.elapsed() < QUIET_DEADLINE {
            tokio::time::sleep(LOOK).await;
            let now = sum()?;
            if now - last > NOTHING {
                since = Instant::now();
            }
            last = now;
        }
        Ok(())
    }
}

impl Mark {
    fn since(self, earlier: Self) -> Self {
        Self {
            proxy_cpu: self.proxy_cpu - earlier.proxy_cpu,
            apiserver_cpu: self.apiserver_cpu - earlier.apiserver_cpu,
            bytes: self.bytes.since(earlier.bytes),
        }
    }
}

/// An address that no endpoint of the data has, another one for each change.
fn replacement(change: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 127, 1, 0)) + change)
}

/// Evenly over all Services.
fn service_of(change: u32, subject: Subject<'_>) -> u32 {
    change * (subject.data.services / subject.changes).max(1) % subject.data.services
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn changes_are_spread_over_the_services_and_bring_an_address_each() {
        let subject = Subject {
            proxy: Proxy::Berth,
            berth: Path::new("berth"),
            name: "x",
            data: ProxyData {
                services: 2_000,
                ports: 2,
                endpoints: 10,
            },
            changes: 100,
        };
        let services: BTreeSet<u32> = (0..100).map(|change| service_of(change, subject)).collect();
        assert_eq!((services.len(), services.last().copied()), (100, Some(1_980)));
        let addresses: BTreeSet<Ipv4Addr> = (0..1_000).map(replacement).collect();
        assert_eq!(addresses.len(), 1_000);
    }
}
