// SPDX-License-Identifier: Apache-2.0
//! Flags of `berth proxy`. Those that kube-proxy has too keep its names.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use berth_model::ServiceKey;
use berth_proxy_core::Links;
use berth_proxy_core::ipvs::Scheduler;
use berth_proxy_core::userspace::PortRange;
use berth_runtime::duration::parse as duration;
use ipnet::IpNet;

use crate::options::{
    BindTo, DetectLocalMode, NodePortAddress, ProxyMode, healthz_address, metrics_address, pod_bridge,
    pod_cidr, pod_interface_prefix, proxy_name,
};

/// How the node proxy runs.
#[derive(clap::Args, Clone, Debug)]
pub struct ProxyArgs {
    /// A KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), as kube-proxy reads it. It takes the place of the
    /// flags of section "kube-proxy" below, which are ignored beside it, as in kube-proxy
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Name of this Node; by default the machine's host name in lower case. It counts beside --config, too
    #[arg(
        long,
        visible_alias = "hostname-override",
        env = "NODE_NAME",
        value_name = "NODE"
    )]
    pub node_name: Option<String>,

    /// Serve only the Services with this value of the label service.kubernetes.io/service-proxy-name; without it, only
    /// those without that label
    #[arg(long, env = "BERTH_SERVICE_PROXY_NAME", value_name = "NAME", value_parser = proxy_name)]
    pub service_proxy_name: Option<String>,

    /// Take Services, EndpointSlices and the own Node from this file (YAML or JSON, as kubectl writes them) instead of an
    /// API server; it is read again when it changes, and a broken one changes nothing
    #[arg(long, env = "BERTH_PROXY_STATE", value_name = "FILE")]
    pub state: Option<PathBuf>,

    /// How long what no new connection uses any more stays in the kernel: longer than a packet takes
    /// through the rules
    #[arg(long, env = "BERTH_RETIRE_DELAY", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub retire_delay: Duration,

    /// Once the rules are written, remove what a kube-proxy left on this node: its nftables tables and iptables chains,
    /// which would go on refusing and dropping. Not beside a kube-proxy that runs, nor with --service-proxy-name, which
    /// is for that
    #[arg(long, env = "BERTH_PROXY_TAKEOVER", conflicts_with = "service_proxy_name")]
    pub takeover: bool,

    /// Remove from this node what Berth wrote, in whatever mode, and exit
    #[arg(long)]
    pub cleanup: bool,

    /// Print what would be written (text for nft or iptables-restore; mode userspace: the relays) once Services and
    /// EndpointSlices are listed, write nothing, and exit
    #[arg(long)]
    pub dry_run: bool,

    /// Count the new connections to this Service on this node, whatever the mode, for as long as --count-for says, print
    /// the counts, and exit. Writes nothing but a table of its own, which is gone afterwards. May be given several times
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "dry_run")]
    pub count: Vec<ServiceKey>,

    /// How long --count counts
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub count_for: Duration,

    /// How --count prints what it has counted
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        requires = "count",
        conflicts_with = "dry_run"
    )]
    pub output: CountFormat,

    /// What kube-proxy knows, too.
    #[command(flatten)]
    pub shared: SharedArgs,
}

/// In what form counts are printed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CountFormat {
    /// One line for each frontend
    #[default]
    Text,
    /// One object, for programs
    Json,
}

/// What a KubeProxyConfiguration can say as well. `None` is the default, which [`crate::options`] knows.
#[derive(clap::Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "kube-proxy")]
pub struct SharedArgs {
    /// How Services are served: nftables [default], iptables (kube-proxy's chains; needs the programs of iptables), ipvs
    /// (needs the kernel's IPVS and the programs ipset and iptables), or userspace (connections end at relays of this
    /// process, which try another endpoint where one refuses; sources are lost)
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<ProxyMode>,

    /// Where Pods live (one or more CIDRs per family); connections to a ClusterIP from elsewhere are
    /// masqueraded. Without it, none is for that reason
    #[arg(long, env = "BERTH_CLUSTER_CIDR", value_name = "CIDR", value_delimiter = ',', value_parser = pod_cidr)]
    pub cluster_cidr: Option<Vec<IpNet>>,

    /// How a Pod's traffic is told: ClusterCIDR (by --cluster-cidr; the default), NodeCIDR (by the Node's
    /// spec.podCIDRs), BridgeInterface (by --pod-bridge-interface) or InterfaceNamePrefix (by
    /// --pod-interface-name-prefix)
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<DetectLocalMode>,

    /// With --detect-local-mode BridgeInterface: the bridge that this node's Pods hang on. What comes in by it is Pods'
    #[arg(long, value_name = "NAME", value_parser = pod_bridge)]
    pub pod_bridge_interface: Option<Links>,

    /// With --detect-local-mode InterfaceNamePrefix: how the names of this node's Pods' interfaces begin (veth, cali). What
    /// comes in by them is Pods'
    #[arg(long, value_name = "PREFIX", value_parser = pod_interface_prefix)]
    pub pod_interface_name_prefix: Option<Links>,

    /// Masquerade every connection to a ClusterIP
    #[arg(long, env = "BERTH_MASQUERADE_ALL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub masquerade_all: Option<bool>,

    /// Bit of the packet mark, 0 to 31, that carries the decision to masquerade [default: 14]
    #[arg(
        long,
        visible_alias = "iptables-masquerade-bit",
        env = "BERTH_MASQUERADE_BIT",
        value_name = "BIT"
    )]
    pub masquerade_bit: Option<u8>,

    /// Which of the node's addresses node ports are served on: CIDRs, and primary, localhost, all [default: all]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub nodeport_addresses: Option<Vec<NodePortAddress>>,

    /// Mode userspace: the ports that relays may take, FIRST-LAST or FIRST+COUNT [default: any that is free]
    #[arg(long, env = "BERTH_PROXY_PORT_RANGE", value_name = "RANGE")]
    pub proxy_port_range: Option<PortRange>,

    /// The node's own address, where its Node object has another one first; nothing is bound to it
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<IpAddr>,

    /// Address of /healthz and /livez for load balancers; "" for none [default: 0.0.0.0:10256, both families]
    #[arg(long, value_name = "IP:PORT", value_parser = healthz_address)]
    pub healthz_bind_address: Option<BindTo>,

    /// Address of /metrics, and of /healthz, /livez and /readyz for this process [default: 127.0.0.1:10249]
    #[arg(
        long,
        visible_alias = "admin-address",
        env = "BERTH_ADMIN_ADDRESS",
        value_name = "IP:PORT",
        value_parser = metrics_address
    )]
    pub metrics_bind_address: Option<SocketAddr>,

    /// Exit where the health port is taken; without it, it is tried again and the rules are written meanwhile
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub bind_address_hard_fail: Option<bool>,

    /// Longest wait before what failed is tried again; a change that is not written for twice as long is unhealthy
    /// [default: 30s]
    #[arg(
        long,
        visible_aliases = ["iptables-sync-period", "ipvs-sync-period"],
        value_name = "DURATION",
        value_parser = duration
    )]
    pub sync_period: Option<Duration>,

    /// Shortest time from the end of one write of rules to the next; changes in between are gathered [default: 0s,
    /// since a write costs what it changes]
    #[arg(
        long,
        visible_aliases = ["iptables-min-sync-period", "ipvs-min-sync-period"],
        value_name = "DURATION",
        value_parser = duration
    )]
    pub min_sync_period: Option<Duration>,

    /// Mode ipvs: how virtual servers pick, by the kernel's name (rr, lc, sh and so on) [default: rr]
    #[arg(long, value_name = "NAME")]
    pub ipvs_scheduler: Option<Scheduler>,

    /// Mode ipvs: answer ARP only on the link that has the address (arp_ignore=1, arp_announce=2), which announcers of
    /// addresses need
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ipvs_strict_arp: Option<bool>,

    /// Mode ipvs: virtual servers on addresses in there that no Service wants are left alone. (Others' on addresses that
    /// are no Service's are left alone anyway)
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub ipvs_exclude_cidrs: Option<Vec<IpNet>>,

    /// Mode ipvs: timeout of idle TCP connections; 0 leaves it [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub ipvs_tcp_timeout: Option<Duration>,

    /// Mode ipvs: timeout of TCP connections after a FIN; 0 leaves it [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub ipvs_tcpfin_timeout: Option<Duration>,

    /// Mode ipvs: timeout of UDP flows; 0 leaves it [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub ipvs_udp_timeout: Option<Duration>,

    /// nf_conntrack_max per CPU, at most 1048576 in all; only ever raised; 0 leaves it [default: 32768]
    #[arg(long, value_name = "N")]
    pub conntrack_max_per_core: Option<u32>,

    /// nf_conntrack_max at least, whatever --conntrack-max-per-core says [default: 131072]
    #[arg(long, value_name = "N")]
    pub conntrack_min: Option<u32>,

    /// Timeout of idle established TCP connections; 0 leaves it [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub conntrack_tcp_timeout_established: Option<Duration>,

    /// Timeout of TCP connections in CLOSE_WAIT; 0 leaves it [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub conntrack_tcp_timeout_close_wait: Option<Duration>,

    /// Track TCP packets out of their window instead of taking them for invalid
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub conntrack_tcp_be_liberal: Option<bool>,

    /// Timeout of UDP flows without an answer; 0 leaves it [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub conntrack_udp_timeout: Option<Duration>,

    /// Timeout of UDP flows with answers; 0 leaves it [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub conntrack_udp_timeout_stream: Option<Duration>,
}

impl SharedArgs {
    /// The flags that were given, for those who are told that a file took their place.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--proxy-mode", self.proxy_mode.is_some()),
            ("--cluster-cidr", self.cluster_cidr.is_some()),
            ("--detect-local-mode", self.detect_local_mode.is_some()),
            ("--pod-bridge-interface", self.pod_bridge_interface.is_some()),
            (
                "--pod-interface-name-prefix",
                self.pod_interface_name_prefix.is_some(),
            ),
            ("--masquerade-all", self.masquerade_all.is_some()),
            ("--masquerade-bit", self.masquerade_bit.is_some()),
            ("--nodeport-addresses", self.nodeport_addresses.is_some()),
            ("--proxy-port-range", self.proxy_port_range.is_some()),
            ("--bind-address", self.bind_address.is_some()),
            ("--healthz-bind-address", self.healthz_bind_address.is_some()),
            ("--metrics-bind-address", self.metrics_bind_address.is_some()),
            ("--bind-address-hard-fail", self.bind_address_hard_fail.is_some()),
            ("--sync-period", self.sync_period.is_some()),
            ("--min-sync-period", self.min_sync_period.is_some()),
            ("--ipvs-scheduler", self.ipvs_scheduler.is_some()),
            ("--ipvs-strict-arp", self.ipvs_strict_arp.is_some()),
            ("--ipvs-exclude-cidrs", self.ipvs_exclude_cidrs.is_some()),
            ("--ipvs-tcp-timeout", self.ipvs_tcp_timeout.is_some()),
            ("--ipvs-tcpfin-timeout", self.ipvs_tcpfin_timeout.is_some()),
            ("--ipvs-udp-timeout", self.ipvs_udp_timeout.is_some()),
            ("--conntrack-max-per-core", self.conntrack_max_per_core.is_some()),
            ("--conntrack-min", self.conntrack_min.is_some()),
            (
                "--conntrack-tcp-timeout-established",
                self.conntrack_tcp_timeout_established.is_some(),
            ),
            (
                "--conntrack-tcp-timeout-close-wait",
                self.conntrack_tcp_timeout_close_wait.is_some(),
            ),
            (
                "--conntrack-tcp-be-liberal",
                self.conntrack_tcp_be_liberal.is_some(),
            ),
            ("--conntrack-udp-timeout", self.conntrack_udp_timeout.is_some()),
            (
                "--conntrack-udp-timeout-stream",
                self.conntrack_udp_timeout_stream.is_some(),
            ),
        ];
        flags
            .iter()
            .filter(|(_, given)| *given)
            .map(|(name, _)| *name)
            .collect()
    }
}
