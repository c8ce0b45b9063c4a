// SPDX-License-Identifier: Apache-2.0
//! The ground that proxies are compared on: one API server, a world for each of them, endpoints that listen.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use berth_testkit::process::Process;
use berth_testkit::sandbox;
use berth_testkit::wait::eventually;
use serde_json::json;

use super::answer::{Endpoints, Outcome, Protocol, clients};
use super::launch::{Proxy, ProxyLaunch, wait_ready};
use super::objects::{Request, nodes};
use super::scenario::{NAMESPACE, ServiceSpec};
use super::world::{NODES, Origin, World, api_server};
use crate::cluster::PATIENCE;
use crate::controlplane::ControlPlaneConfig;
use crate::stage::{self, Stage};

/// Proxies beside each other, each with its own node. Dropping it ends them.
pub struct Ground {
    stage: Stage,
    worlds: BTreeMap<Proxy, World>,
    processes: BTreeMap<Proxy, Process>,
    endpoints: Vec<Endpoints>,
}

impl Ground {
    /// Starts the API server and the proxies. `name` is part of the log folder's path.
    ///
    /// # Errors
    /// Whatever did not come up, with the place of its log.
    pub async fn start(name: &str, proxies: &[Proxy]) -> Result<Self> {
        sandbox::require_inside("Ground::start")?;
        let numbered = || (1_u8..).zip(proxies.iter().copied());
        let mut ground = Self {
            stage: stage_for(name, proxies.len()).await?,
            worlds: BTreeMap::new(),
            processes: BTreeMap::new(),
            endpoints: Vec::new(),
        };
        for (number, proxy) in numbered() {
            let world = World::build(number)?;
            ground.endpoints.push(Endpoints::listen(&world)?);
            let server = format!(
                "https://{}:{}",
                world.api_server(),
                ground.stage.control_plane().port()
            );
            let launch = ProxyLaunch::named(proxy.name(), NODES[0].0, &server);
            let process = ground.stage.launch_proxy(proxy, world.node(), &launch).await?;
            ground.processes.insert(proxy, process);
            ground.worlds.insert(proxy, world);
        }
        for (proxy, process) in &mut ground.processes {
            wait_ready(*proxy, process)?;
        }
        Ok(ground)
    }

    /// The API server.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Each proxy's node.
    pub fn worlds(&self) -> &BTreeMap<Proxy, World> {
        &self.worlds
    }

    /// Creates Services with their slices, a sentinel last, and waits until every proxy has carried that out: each
    /// watch brings objects in the order of their writes, so what was written before is in the kernel too.
    ///
    /// # Errors
    /// The API server refuses one; a proxy does not get there.
    pub async fn create(&mut self, services: &[ServiceSpec]) -> Result<()> {
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        self.send(&Request::create("/api/v1/namespaces", namespace))
            .await?;
        for service in services {
            self.create_one(service).await?;
        }
        let sentinel = ServiceSpec::sentinel();
        self.create_one(&sentinel).await?;
        for proxy in self.worlds.keys() {
            for ipv6 in [false, true] {
                self.answers(*proxy, &sentinel, ipv6).await?;
            }
        }
        self.check()
    }

    /// Fails if a proxy has ended by itself.
    ///
    /// # Errors
    /// Names it, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        for (proxy, process) in &mut self.processes {
            if let Some(status) = process.try_wait()? {
                anyhow::bail!("{proxy} has ended ({status}): {}", process.log_end());
            }
        }
        Ok(())
    }

    async fn create_one(&self, spec: &ServiceSpec) -> Result<()> {
        let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
        for slice in spec.slices() {
            self.send(&Request::create(&slices, slice)).await?;
        }
        self.send(&Request::create(&services, spec.service())).await?;
        match spec.status() {
            None => Ok(()),
            Some(status) => {
                let path = format!("{services}/{}", spec.name());
                self.send(&Request::status(&path, &status)).await
            }
        }
    }

    async fn answers(&self, proxy: Proxy, sentinel: &ServiceSpec, ipv6: bool) -> Result<()> {
        let to = SocketAddr::new(sentinel.cluster_ip().of(ipv6), ServiceSpec::port(0));
        let from = self.worlds[&proxy].origin(Origin::IdlePod);
        let answered = eventually(format!("{proxy}: {to}"), PATIENCE, || async {
            let client = clients(from, Protocol::Tcp, None, ipv6, 1)?
                .pop()
                .context("no socket")?;
            let outcome: Outcome = client.ask(to).await;
            ensure!(outcome.is_answer(), "{outcome}");
            anyhow::Ok(())
        });
        answered.await.with_context(|| self.processes[&proxy].log_end())
    }

    async fn send(&self, request: &Request) -> Result<()> {
        request.send(&self.stage.client()).await
    }
}

/// An API server that the nodes of so many worlds find, each at the other end of its uplink, with their Node objects.
///
/// # Errors
/// It does not come up.
pub(crate) async fn stage_for(name: &str, worlds: usize) -> Result<Stage> {
    let mut config = ControlPlaneConfig::loopback(Path::new(sandbox::SCRATCH).join(name));
    config.advertise = Some(config.bind);
    config.bind = Ipv4Addr::UNSPECIFIED.into();
    let numbers = (1_u8..).take(worlds);
    config.extra_sans = numbers.map(|number| api_server(number).to_string()).collect();
    config.logs = Some(stage::folder(name)?);
    let stage = Stage::on(config, None).await?;
    for request in nodes() {
        request.send(&stage.client()).await?;
    }
    Ok(stage)
}
