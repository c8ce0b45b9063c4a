// SPDX-License-Identifier: Apache-2.0
//! One run: a fresh control plane with the data, one proxy on a node of its own, everything that it used.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use berth_testkit::sandbox;
use kube::Client;

use super::super::figures::{Key, Values};
use super::super::quiet::{collect_garbage, quiet};
use super::super::store::Store;
use super::super::usage::{Family, Peak, cpu_of};
use super::super::wire::Bytes;
use super::change::Seen;
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
    /// How a change is seen to be there.
    pub(super) seen: Seen,
}

/// A control plane with the data, and the node.
pub(super) struct Ground {
    pub(super) node: BenchNode,
    pub(super) stage: Stage,
    pub(super) client: Client,
    apiserver: u32,
}

/// What was used up to some moment.
#[derive(Clone, Copy, Default)]
pub(super) struct Mark {
    pub(super) proxy_cpu: f64,
    pub(super) apiserver_cpu: f64,
    pub(super) bytes: Bytes,
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
            program: Some(subject.berth.to_owned()),
            ..ProxyLaunch::named(subject.name, &ProxyData::node(), &server)
        };
        let mut values = Values::new();
        self.ready(None).await?;
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
        self.ready(Some(pid)).await?;
        self.changes(subject, &mut process, &mut values).await?;
        self.ready(Some(pid)).await?;
        self.steadily(subject, &process, &mut values).await?;
        if subject.seen == Seen::ByCommit {
            self.first_uses(subject, &process, &mut values).await?;
        }
        self.restart(subject, process, &launch, &mut values).await?;
        Ok(values)
    }

    pub(super) fn mark(&self, proxy: Option<u32>) -> Result<Mark> {
        Ok(Mark {
            proxy_cpu: proxy.map_or(Ok(0.0), |pid| {
                Ok::<_, anyhow::Error>(Family::of(pid)?.cpu_seconds)
            })?,
            apiserver_cpu: cpu_of(self.apiserver)?,
            bytes: self.node.bytes()?,
        })
    }

    /// Waits until nobody has anything left to do, and the API server has cleared up.
    pub(super) async fn ready(&self, proxy: Option<u32>) -> Result<()> {
        self.quiet(proxy).await?;
        collect_garbage(&self.client).await?;
        self.quiet(proxy).await
    }

    /// Waits until nobody has anything left to do.
    pub(super) async fn quiet(&self, proxy: Option<u32>) -> Result<()> {
        quiet(|| {
            let mark = self.mark(proxy)?;
            Ok(mark.proxy_cpu + mark.apiserver_cpu)
        })
        .await
    }
}

impl Mark {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            proxy_cpu: self.proxy_cpu - earlier.proxy_cpu,
            apiserver_cpu: self.apiserver_cpu - earlier.apiserver_cpu,
            bytes: self.bytes.since(earlier.bytes),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
