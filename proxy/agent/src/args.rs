// SPDX-License-Identifier: Apache-2.0
//! Flags of `berth proxy`. Those that kube-proxy has too keep its names.

use std::net::SocketAddr;
use std::time::Duration;

use berth_model::NodeName;
use berth_proxy_core::{Settings, SettingsError};
use berth_runtime::duration::parse as duration;
use ipnet::IpNet;

/// How the node proxy runs.
#[derive(clap::Args, Clone, Debug)]
pub struct ProxyArgs {
    /// Name of this Node, to tell endpoints that run here; without it no endpoint counts as local
    /// (kube-proxy's name for it works too)
    #[arg(
        long,
        visible_alias = "hostname-override",
        env = "NODE_NAME",
        value_name = "NODE"
    )]
    pub node_name: Option<String>,

    /// Where Pods live (one or more CIDRs per family); connections to a ClusterIP from elsewhere are
    /// masqueraded. Without it, none is for that reason
    #[arg(long, env = "BERTH_CLUSTER_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,

    /// Masquerade every connection to a Service
    #[arg(long, env = "BERTH_MASQUERADE_ALL")]
    pub masquerade_all: bool,

    /// Bit of the packet mark, 0 to 31, that carries the decision to masquerade
    #[arg(long, env = "BERTH_MASQUERADE_BIT", value_name = "BIT", default_value_t = 14)]
    pub masquerade_bit: u8,

    /// How long what no new connection uses any more stays in the kernel: longer than a packet takes
    /// through the rules
    #[arg(long, env = "BERTH_RETIRE_DELAY", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub retire_delay: Duration,

    /// Address of /healthz, /readyz and /metrics
    #[arg(
        long,
        env = "BERTH_ADMIN_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "0.0.0.0:10356"
    )]
    pub admin_address: SocketAddr,

    /// Remove Berth's tables from this node and exit
    #[arg(long)]
    pub cleanup: bool,

    /// Print the tables as nft text once Services and EndpointSlices are listed, write nothing, and exit
    #[arg(long)]
    pub dry_run: bool,
}

impl ProxyArgs {
    /// The settings of the core.
    ///
    /// # Errors
    /// A masquerade bit that no mark has.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        Ok(Settings {
            node: self.node_name.as_deref().map(NodeName::new),
            cluster_cidrs: self.cluster_cidr.clone(),
            masquerade_all: self.masquerade_all,
            ..Settings::new(self.masquerade_bit)?
        })
    }
}
