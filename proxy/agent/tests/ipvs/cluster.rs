// SPDX-License-Identifier: Apache-2.0
//! A small cluster's view, and a syncer that carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use berth_model::{
    Conditions, Endpoint, EndpointHints, EndpointPort, NodeName, PortName, Protocol, Service, ServiceKey,
    ServiceKind, ServicePort, SessionAffinity, TrafficPolicy, View,
};
use berth_proxy_agent::backend::{Backend, Done};
use berth_proxy_agent::ipvs::{Ipvs, IpvsOptions};
use berth_proxy_agent::sync::Syncer;
use berth_proxy_core::Settings;
use berth_proxy_core::ipvs::Scheduler;

use crate::world::{HOST, PORT, TARGET_PORT, VIPS, cluster_ips, ips, node_port, pod_ips};

/// Services with a TCP and a UDP port each, both families, one ClusterIP and the external address each.
pub(crate) struct Cluster {
    pub(crate) view: View,
    dirty: BTreeSet<ServiceKey>,
}

pub(crate) fn key(n: u8) -> ServiceKey {
    ServiceKey::new("shop", format!("s{n}"))
}

/// The Pods, on a node that is or is not this one.
pub(crate) fn on(node: &str, pods: &[u8]) -> Vec<Endpoint> {
    let of_pod = |pod: &u8| {
        pod_ips(*pod).map(|ip| Endpoint {
            ip,
            port: TARGET_PORT.try_into().unwrap(),
            conditions: Conditions::READY,
            node: Some(NodeName::new(node)),
            zone: None,
            hints: EndpointHints::default(),
        })
    };
    pods.iter().flat_map(of_pod).collect()
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            view: View::default(),
            dirty: BTreeSet::new(),
        }
    }

    /// The Service `n` with these endpoints behind it, changed as told.
    pub(crate) fn put(
        &mut self,
        n: u8,
        endpoints: Vec<Endpoint>,
        change: impl FnOnce(&mut Service),
    ) -> &mut Self {
        let mut service = mk_service(n);
        change(&mut service);
        let joins = service.ports.iter().map(|port| {
            let join = EndpointPort {
                name: port.name.clone(),
                protocol: port.protocol,
            };
            (join, endpoints.clone())
        });
        let joins: BTreeMap<EndpointPort, Vec<Endpoint>> = joins.collect();
        self.view.endpoints.insert(key(n), Arc::new(joins));
        self.view.services.insert(key(n), Arc::new(service));
        self.dirty.insert(key(n));
        self
    }

    /// The Service `n` with these Pods of this node.
    pub(crate) fn set(&mut self, n: u8, pods: &[u8]) -> &mut Self {
        self.put(n, on("node-1", pods), |_| {})
    }

    pub(crate) fn remove(&mut self, n: u8) -> &mut Self {
        self.view.endpoints.remove(&key(n));
        self.view.services.remove(&key(n));
        self.dirty.insert(key(n));
        self
    }

    /// Hands what changed to the syncer and has it carried out.
    pub(crate) async fn sync<B: Backend>(&mut self, syncer: &mut Syncer<B>) -> anyhow::Result<Done> {
        syncer.take(&self.view, &std::mem::take(&mut self.dirty));
        Ok(syncer.turn().await?)
    }

    /// A syncer that starts from nothing, as after a restart, and all Services for its first turn.
    pub(crate) async fn restarted(&mut self) -> anyhow::Result<Syncer<Ipvs>> {
        self.dirty = self.view.services.keys().cloned().collect();
        mk_syncer().await
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        node: Some(NodeName::new("node-1")),
        node_ips: ips(HOST).into(),
        cluster_cidrs: vec![
            "10.244.0.0/16".parse().unwrap(),
            "fd00:10:244::/48".parse().unwrap(),
        ],
        ..Settings::default()
    }
}

pub(crate) async fn mk_syncer() -> anyhow::Result<Syncer<Ipvs>> {
    mk_syncer_with(Scheduler::Rr).await
}

pub(crate) async fn mk_syncer_with(scheduler: Scheduler) -> anyhow::Result<Syncer<Ipvs>> {
    let options = IpvsOptions {
        scheduler,
        drain_poll: Duration::from_millis(100),
        ..IpvsOptions::default()
    };
    Ok(Syncer::new(Ipvs::open(&settings(), options).await?, settings()))
}

/// Runs an async case on this thread, which is in the node's namespace.
pub(crate) fn block_on(body: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(body)
}

fn mk_service(n: u8) -> Service {
    let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| ServicePort {
        name: PortName::new(protocol.as_str()),
        protocol,
        port: PORT.try_into().unwrap(),
        node_port: Some(node_port(n).try_into().unwrap()),
    });
    Service {
        key: key(n),
        uid: format!("uid-{n}"),
        created: i64::from(n),
        kind: ServiceKind::NodePort,
        cluster_ips: cluster_ips(n).into(),
        external_ips: ips(VIPS).into(),
        load_balancer: vec![],
        load_balancer_class: None,
        ports: ports.into(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: SessionAffinity::None,
        source_ranges: None,
        health_check_node_port: None,
    }
}
