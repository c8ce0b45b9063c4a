// SPDX-License-Identifier: Apache-2.0
//! What the flags, or the file in their place, mean: defaults, and what fits together. kube-proxy's, but
//! where said otherwise.

mod values;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use berth_model::{IpFamily, NodeName};
use berth_proxy_core::userspace::PortRange;
use berth_proxy_core::{Links, NodePortAddresses, Settings, SettingsError};
use ipnet::IpNet;

pub use values::{BindTo, DetectLocalMode, NodePortAddress, ProxyMode};
pub(crate) use values::{
    healthz_address, metrics_address, pod_bridge, pod_cidr, pod_interface_prefix, proxy_name,
};

use crate::SharedArgs;
use crate::ipvs::IpvsOptions;
use crate::node::NodeFacts;

/// kube-proxy's ports (`pkg/cluster/ports` in Kubernetes).
pub(crate) const HEALTHZ_PORT: u16 = 10_256;
pub(crate) const METRICS_PORT: u16 = 10_249;

/// A combination that makes no sense. Each names the flag; the same field of a configuration file is named
/// by the file's reader.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionsError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("--sync-period is 0s; it must be longer, for example 30s")]
    SyncPeriod,
    #[error(
        "--min-sync-period {min:?} is longer than --sync-period {sync:?}; shorten the one or lengthen the other"
    )]
    MinSyncPeriod { min: Duration, sync: Duration },
    #[error("--node-name is empty; leave it out for the machine's host name, or name the Node")]
    NodeName,
    #[error(
        "{flag} tells Pods under --detect-local-mode {its}, and the mode is {mode}; leave out {flag}, or choose {its}"
    )]
    OtherDetector {
        flag: &'static str,
        its: DetectLocalMode,
        mode: DetectLocalMode,
    },
    #[error(
        "{flag} is missing, and --detect-local-mode {mode} tells Pods by it; name the {what}, or choose another mode"
    )]
    NoInterface {
        flag: &'static str,
        what: &'static str,
        mode: DetectLocalMode,
    },
}

/// Checks that what tells Pods is there and is what the mode looks at; yields the interfaces. kube-proxy ignores the rest
/// silently, and nobody learns that it is not used.
fn pod_links(mode: DetectLocalMode, args: &SharedArgs) -> Result<Option<Links>, OptionsError> {
    let cidrs = args.cluster_cidr.as_ref().is_some_and(|cidrs| !cidrs.is_empty());
    let (bridge, prefix) = (args.pod_bridge_interface, args.pod_interface_name_prefix);
    for (flag, given, its) in [
        ("--cluster-cidr", cidrs, DetectLocalMode::ClusterCidr),
        (BRIDGE_FLAG, bridge.is_some(), DetectLocalMode::BridgeInterface),
        (
            PREFIX_FLAG,
            prefix.is_some(),
            DetectLocalMode::InterfaceNamePrefix,
        ),
    ] {
        if given && its != mode {
            return Err(OptionsError::OtherDetector { flag, its, mode });
        }
    }
    let (flag, what, links) = match mode {
        DetectLocalMode::ClusterCidr | DetectLocalMode::NodeCidr => return Ok(None),
        DetectLocalMode::BridgeInterface => (BRIDGE_FLAG, "bridge", bridge),
        DetectLocalMode::InterfaceNamePrefix => (PREFIX_FLAG, "beginning of the names", prefix),
    };
    links
        .map(Some)
        .ok_or(OptionsError::NoInterface { flag, what, mode })
}

const BRIDGE_FLAG: &str = "--pod-bridge-interface";
const PREFIX_FLAG: &str = "--pod-interface-name-prefix";

/// How sysctls of conntrack shall stand; zero leaves one as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConntrackOptions {
    pub(crate) max_per_core: u32,
    pub(crate) min: u32,
    pub(crate) tcp_established: Duration,
    pub(crate) tcp_close_wait: Duration,
    pub(crate) tcp_be_liberal: bool,
    pub(crate) udp: Duration,
    pub(crate) udp_stream: Duration,
}

impl ConntrackOptions {
    fn of(args: &SharedArgs) -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        let hour = Duration::from_secs(60 * 60);
        Self {
            max_per_core: args.conntrack_max_per_core.unwrap_or(32 * 1024),
            min: args.conntrack_min.unwrap_or(128 * 1024),
            tcp_established: args.conntrack_tcp_timeout_established.unwrap_or(day),
            tcp_close_wait: args.conntrack_tcp_timeout_close_wait.unwrap_or(hour),
            tcp_be_liberal: args.conntrack_tcp_be_liberal.unwrap_or_default(),
            udp: args.conntrack_udp_timeout.unwrap_or_default(),
            udp_stream: args.conntrack_udp_timeout_stream.unwrap_or_default(),
        }
    }
}

fn ipvs_options(args: &SharedArgs) -> IpvsOptions {
    let default = IpvsOptions::default();
    IpvsOptions {
        scheduler: args.ipvs_scheduler.unwrap_or(default.scheduler),
        strict_arp: args.ipvs_strict_arp.unwrap_or(default.strict_arp),
        exclude_cidrs: args.ipvs_exclude_cidrs.clone().unwrap_or_default(),
        tcp_timeout: args.ipvs_tcp_timeout.unwrap_or_default(),
        tcp_fin_timeout: args.ipvs_tcpfin_timeout.unwrap_or_default(),
        udp_timeout: args.ipvs_udp_timeout.unwrap_or_default(),
        ..default
    }
}

/// Everything the proxy goes by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) mode: ProxyMode,
    pub(crate) node: NodeName,
    pub(crate) detect_local_mode: DetectLocalMode,
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// What does not depend on the Node.
    pub(crate) base: Settings,
    pub(crate) nodeport_addresses: Vec<NodePortAddress>,
    /// User-space mode: from where relays take their ports.
    pub(crate) proxy_ports: PortRange,
    pub(crate) bind_address: Option<IpAddr>,
    pub(crate) healthz: BindTo,
    pub(crate) metrics: SocketAddr,
    pub(crate) bind_address_hard_fail: bool,
    pub(crate) sync_period: Duration,
    pub(crate) min_sync_period: Duration,
    pub(crate) conntrack: ConntrackOptions,
    pub(crate) ipvs: IpvsOptions,
}

impl Options {
    /// `name` is `--node-name`, `host` the machine's host name.
    ///
    /// # Errors
    /// Flags that do not fit together.
    pub(crate) fn new(args: SharedArgs, name: Option<&str>, host: &str) -> Result<Self, OptionsError> {
        let name = name.unwrap_or(host).trim().to_lowercase();
        if name.is_empty() {
            return Err(OptionsError::NodeName);
        }
        let conntrack = ConntrackOptions::of(&args);
        let ipvs = ipvs_options(&args);
        let detect_local_mode = args.detect_local_mode.unwrap_or_default();
        let pod_links = pod_links(detect_local_mode, &args)?;
        let cluster_cidrs = args.cluster_cidr.unwrap_or_default();
        let sync_period = args.sync_period.unwrap_or(Duration::from_secs(30));
        let min_sync_period = args.min_sync_period.unwrap_or_default();
        if sync_period.is_zero() {
            return Err(OptionsError::SyncPeriod);
        }
        if min_sync_period > sync_period {
            return Err(OptionsError::MinSyncPeriod {
                min: min_sync_period,
                sync: sync_period,
            });
        }
        let base = Settings {
            masquerade_all: args.masquerade_all.unwrap_or_default(),
            pod_links,
            ..match args.masquerade_bit {
                Some(bit) => Settings::new(bit)?,
                None => Settings::default(),
            }
        };
        let v6 = args.bind_address.is_some_and(|ip| ip.is_ipv6());
        let (any, loopback): (IpAddr, IpAddr) = if v6 {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into())
        } else {
            (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into())
        };
        let healthz = BindTo::Address(SocketAddr::new(any, HEALTHZ_PORT));
        Ok(Self {
            mode: args.proxy_mode.unwrap_or_default(),
            node: NodeName::new(name),
            detect_local_mode,
            cluster_cidrs,
            base,
            nodeport_addresses: args.nodeport_addresses.unwrap_or_default(),
            proxy_ports: args.proxy_port_range.unwrap_or_default(),
            bind_address: args.bind_address.filter(|ip| !ip.is_unspecified()),
            healthz: args.healthz_bind_address.unwrap_or(healthz),
            metrics: args
                .metrics_bind_address
                .unwrap_or(SocketAddr::new(loopback, METRICS_PORT)),
            bind_address_hard_fail: args.bind_address_hard_fail.unwrap_or_default(),
            sync_period,
            min_sync_period,
            conntrack,
            ipvs,
        })
    }

    /// Whether nothing can be written before the Node is known.
    pub(crate) fn needs_node(&self) -> bool {
        self.detect_local_mode == DetectLocalMode::NodeCidr
    }

    /// Whether packets to ClusterIPs that no Service has are dropped: where nftables steers, as in kube-proxy's mode
    /// nftables.
    pub(crate) fn drops_unallocated(&self) -> bool {
        match self.mode {
            ProxyMode::Nftables | ProxyMode::Userspace => true,
            ProxyMode::Iptables | ProxyMode::Ipvs => false,
        }
    }

    /// Whether the machine's addresses matter.
    pub(crate) fn selects_addresses(&self) -> bool {
        !self.nodeport_addresses.is_empty()
    }

    /// The core's settings, given what is known of the Node, and the machine's addresses.
    pub(crate) fn settings(&self, node: Option<&NodeFacts>, addresses: &BTreeSet<IpAddr>) -> Settings {
        Settings {
            node: Some(self.node.clone()),
            zone: node.and_then(|node| node.zone.clone()),
            node_ips: self.primary(node).into_iter().collect(),
            node_port_addresses: self.node_port_addresses(node, addresses),
            cluster_cidrs: match self.detect_local_mode {
                DetectLocalMode::ClusterCidr => self.cluster_cidrs.clone(),
                DetectLocalMode::NodeCidr => node.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
                DetectLocalMode::BridgeInterface | DetectLocalMode::InterfaceNamePrefix => Vec::new(),
            },
            ..self.base.clone()
        }
    }

    /// The node's own address of each family.
    fn primary(&self, node: Option<&NodeFacts>) -> Vec<IpAddr> {
        let of_node = node.map(|node| node.primary.as_slice()).unwrap_or_default();
        let mut primary: Vec<IpAddr> = self.bind_address.into_iter().collect();
        for ip in of_node {
            if !primary.iter().any(|own| IpFamily::of(*own) == IpFamily::of(*ip)) {
                primary.push(*ip);
            }
        }
        primary
    }

    /// Which of the machine's `addresses` node ports and health-check node ports are served on. A family
    /// of which nothing is selected is served on all of its addresses, as in kube-proxy; but as long as it
    /// is not known which address is the primary one, that stands for none.
    fn node_port_addresses(
        &self,
        node: Option<&NodeFacts>,
        addresses: &BTreeSet<IpAddr>,
    ) -> NodePortAddresses {
        let primary = self.primary(node);
        let unknown = primary.is_empty() && self.nodeport_addresses.contains(&NodePortAddress::Primary);
        let nets: Vec<IpNet> = self
            .nodeport_addresses
            .iter()
            .flat_map(|selected| selected.nets(&primary))
            .collect();
        let mut selected = NodePortAddresses::all();
        for family in IpFamily::ALL {
            let nets: Vec<&IpNet> = nets
                .iter()
                .filter(|net| IpFamily::of(net.addr()) == family)
                .collect();
            let all = nets.iter().any(|net| net.prefix_len() == 0);
            if all || (nets.is_empty() && !unknown) {
                continue;
            }
            let within = |ip: &&IpAddr| nets.iter().any(|net| net.contains(*ip));
            selected = selected.only(family, addresses.iter().filter(within).copied());
        }
        selected
    }
}

#[cfg(test)]
mod tests;
