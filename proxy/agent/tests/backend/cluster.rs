// SPDX-License-Identifier: Apache-2.0
//! Views as a small cluster would give them, and a syncer to carry them out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use berth_model::{
    Conditions, Endpoint, EndpointHints, EndpointPort, NodeName, PortName, Protocol, Service, ServiceKey,
    ServiceKind, ServicePort, SessionAffinity, TrafficPolicy, View,
};
use berth_proxy_agent::apply::nft::Nft;
use berth_proxy_agent::backend::Backend;
use berth_proxy_agent::nftables::Nftables;
use berth_proxy_agent::sync::Syncer;
use berth_proxy_core::Settings;

pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET_PORT: u16 = 8_080;

/// Services with a TCP and a UDP port each, both families, one ClusterIP each.
pub(crate) struct Cluster {
    pub(crate) view: View,
    dirty: BTreeSet<ServiceKey>,
}

/// 10.96.x.y and fd00:10:96::xxyy.
pub(crate) fn cluster_ips(n: u16) -> [IpAddr; 2] {
    let [high, low] = n.to_be_bytes();
    [
        Ipv4Addr::new(10, 96, high, low).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, n).into(),
    ]
}

/// 10.244.x.y and fd00:10:244::xxyy.
pub(crate) fn pod_ips(n: u16) -> [IpAddr; 2] {
    let [high, low] = n.to_be_bytes();
    [
        Ipv4Addr::new(10, 244, high, low).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, n).into(),
    ]
}

pub(crate) fn node_port(n: u16) -> u16 {
    30_000 + n
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            view: View::default(),
            dirty: BTreeSet::new(),
        }
    }

    /// The Service `n` with these Pods behind it; `None` removes it.
    pub(crate) fn set(&mut self, n: u16, pods: Option<&[u16]>) -> &mut Self {
        let key = ServiceKey::new("shop", format!("s{n}"));
        self.dirty.insert(key.clone());
        match pods {
            None => {
                self.view.services.remove(&key);
                self.view.endpoints.remove(&key);
            }
            Some(pods) => {
                self.view
                    .services
                    .insert(key.clone(), Arc::new(mk_service(&key, n)));
                let joins = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
                    let port = EndpointPort {
                        name: PortName::new(protocol.as_str()),
                        protocol,
                    };
                    (port, pods.iter().flat_map(|pod| mk_endpoints(*pod)).collect())
                });
                self.view.endpoints.insert(key, Arc::new(BTreeMap::from(joins)));
            }
        }
        self
    }

    /// Changes the Service `n` and the endpoints of both its ports.
    pub(crate) fn edit(
        &mut self,
        n: u16,
        change: impl FnOnce(&mut Service, &mut Vec<Endpoint>),
    ) -> &mut Self {
        let key = ServiceKey::new("shop", format!("s{n}"));
        let mut service = mk_service(&key, n);
        if let Some(known) = self.view.services.get(&key) {
            service.clone_from(known);
        }
        let mut endpoints = self
            .view
            .endpoints
            .get(&key)
            .and_then(|ports| ports.values().next().cloned())
            .unwrap_or_default();
        change(&mut service, &mut endpoints);
        let joins = service.ports.iter().map(|port| {
            let join = EndpointPort {
                name: port.name.clone(),
                protocol: port.protocol,
            };
            (join, endpoints.clone())
        });
        let joins: BTreeMap<EndpointPort, Vec<Endpoint>> = joins.collect();
        self.view.endpoints.insert(key.clone(), Arc::new(joins));
        self.view.services.insert(key.clone(), Arc::new(service));
        self.dirty.insert(key);
        self
    }

    /// The Service `n` with these Pods behind it and no IPv6 address.
    pub(crate) fn only_in_v4(&mut self, n: u16, pods: &[u16]) -> ServiceKey {
        self.set(n, Some(pods));
        let key = ServiceKey::new("shop", format!("s{n}"));
        let mut service = mk_service(&key, n);
        service.cluster_ips.truncate(1);
        self.view.services.insert(key.clone(), Arc::new(service));
        key
    }

    /// Hands what changed to the syncer and has it carried out.
    pub(crate) async fn sync<B: Backend>(&mut self, syncer: &mut Syncer<B>) -> anyhow::Result<()> {
        let dirty = std::mem::take(&mut self.dirty);
        syncer.take(&self.view, &dirty);
        syncer.turn().await?;
        Ok(())
    }

    /// A syncer that starts from nothing, as after a restart, and all Services for its first turn.
    pub(crate) fn restarted(&mut self, retire_delay: Duration) -> anyhow::Result<Syncer<Nftables>> {
        self.dirty = self.view.services.keys().cloned().collect();
        Ok(Syncer::new(
            Nftables::new(Nft::open()?, &settings(), retire_delay),
            settings(),
        ))
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        node: Some(NodeName::new("node-1")),
        cluster_cidrs: vec![
            "10.244.0.0/16".parse().unwrap(),
            "fd00:10:244::/48".parse().unwrap(),
        ],
        ..Settings::default()
    }
}

pub(crate) fn mk_syncer(retire_delay: Duration) -> anyhow::Result<Syncer<Nftables>> {
    Ok(Syncer::new(
        Nftables::new(Nft::open()?, &settings(), retire_delay),
        settings(),
    ))
}

/// Waits for left-overs to be retired.
pub(crate) async fn retire<B: Backend>(syncer: &mut Syncer<B>) -> anyhow::Result<()> {
    while let Some(wait) = syncer.next_wake() {
        tokio::time::sleep(wait).await;
        syncer.turn().await?;
    }
    Ok(())
}

fn mk_service(key: &ServiceKey, n: u16) -> Service {
    let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| ServicePort {
        name: PortName::new(protocol.as_str()),
        protocol,
        port: PORT.try_into().unwrap(),
        node_port: Some(node_port(n).try_into().unwrap()),
    });
    Service {
        key: key.clone(),
        uid: format!("uid-{n}"),
        created: i64::from(n),
        kind: ServiceKind::NodePort,
        cluster_ips: cluster_ips(n).into(),
        external_ips: vec![],
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

fn mk_endpoints(pod: u16) -> [Endpoint; 2] {
    pod_ips(pod).map(|ip| Endpoint {
        ip,
        port: TARGET_PORT.try_into().unwrap(),
        conditions: Conditions::READY,
        node: Some(NodeName::new("node-1")),
        zone: None,
        hints: EndpointHints::default(),
    })
}
