// SPDX-License-Identifier: Apache-2.0
//! Starts a node proxy, Berth's or upstream's, in the namespace of a node.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use berth_testkit::netns::Netns;
use berth_testkit::process::{Process, Spec, binary};
use serde_json::{Value, json};

use crate::cluster::{CLUSTER_CIDRS, PATIENCE, with_capabilities};
use crate::peers::Peers;
use crate::stage::{BERTH_PROXY, KUBE_PROXY, Launch, Stage};

/// Which tables of the kernel the `iptables` program writes. Debian's default is [`Variant::Nft`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// Those of nf_tables, in the form that iptables knows.
    Nft,
    /// Those of ip_tables.
    Legacy,
}

impl Variant {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The one program behind all names, in Debian's package `iptables`.
    fn program(self) -> &'static str {
        match self {
            Self::Nft => "xtables-nft-multi",
            Self::Legacy => "xtables-legacy-multi",
        }
    }
}

/// A program that carries out Services on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proxy {
    /// `berth proxy`, with the rights that its manifests give it.
    Berth,
    /// The same in iptables mode.
    BerthIptables(Variant),
    /// The same in IPVS mode, which only the guest kernel has.
    BerthIpvs,
    /// kube-proxy in nftables mode.
    KubeProxyNftables,
    /// kube-proxy in iptables mode.
    KubeProxyIptables(Variant),
    /// kube-proxy in IPVS mode, which only the guest kernel has.
    KubeProxyIpvs,
}

impl Proxy {
    /// As metrics and log files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Berth => "berth",
            Self::BerthIptables(Variant::Nft) => "berth-iptables-nft",
            Self::BerthIptables(Variant::Legacy) => "berth-iptables-legacy",
            Self::BerthIpvs => "berth-ipvs",
            Self::KubeProxyNftables => "kube-proxy-nftables",
            Self::KubeProxyIptables(Variant::Nft) => "kube-proxy-iptables-nft",
            Self::KubeProxyIptables(Variant::Legacy) => "kube-proxy-iptables-legacy",
            Self::KubeProxyIpvs => "kube-proxy-ipvs",
        }
    }

    fn mode(self) -> Option<&'static str> {
        match self {
            Self::Berth => None,
            Self::KubeProxyNftables => Some("nftables"),
            Self::BerthIptables(_) | Self::KubeProxyIptables(_) => Some("iptables"),
            Self::BerthIpvs | Self::KubeProxyIpvs => Some("ipvs"),
        }
    }

    fn is_ours(self) -> bool {
        match self {
            Self::Berth | Self::BerthIptables(_) | Self::BerthIpvs => true,
            Self::KubeProxyNftables | Self::KubeProxyIptables(_) | Self::KubeProxyIpvs => false,
        }
    }

    /// Of the iptables that it finds, where it calls any.
    fn variant(self) -> Option<Variant> {
        match self {
            Self::Berth | Self::KubeProxyNftables => None,
            Self::BerthIptables(variant) | Self::KubeProxyIptables(variant) => Some(variant),
            // The guest's kernel has no other.
            Self::BerthIpvs | Self::KubeProxyIpvs => Some(Variant::Legacy),
        }
    }

    fn healthy(self) -> (SocketAddr, &'static str) {
        let (port, path) = if self.is_ours() {
            (10_356, "/readyz")
        } else {
            (10_256, "/healthz")
        };
        (SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), path)
    }
}

impl Proxy {
    /// Where it serves its metrics, as its own namespace reaches them.
    pub(crate) fn metrics(self) -> &'static str {
        if self.is_ours() {
            "http://127.0.0.1:10356/metrics"
        } else {
            "http://127.0.0.1:10249/metrics"
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a proxy is started.
#[derive(Clone, Debug)]
pub struct ProxyLaunch {
    /// Of the process, its log file and its kubeconfig: one per process.
    pub name: String,
    /// The Node object that it is the proxy of. kube-proxy waits until it is there, and takes its addresses from it.
    pub node: String,
    /// Where it finds the API server, as the node's namespace reaches it: `https://ADDRESS:PORT`.
    pub server: String,
    /// Where Pods live, one CIDR a family; empty for not saying so.
    pub cluster_cidrs: String,
    /// On which of the node's addresses kube-proxy serves node ports. Its own default is `primary` in nftables mode
    /// and `all` in iptables mode.
    pub node_port_addresses: Vec<String>,
    /// Another build of Berth than the one beside the running program; kube-proxy has only one.
    pub program: Option<PathBuf>,
    /// Berth's only capabilities, as setpriv has them: `-all,+net_admin`. `None` for all.
    pub capabilities: Option<String>,
    /// Last on the command line.
    pub extra_flags: Vec<String>,
}

impl ProxyLaunch {
    /// The proxy of a node, with node ports on all its addresses.
    pub fn named(name: &str, node: &str, server: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: node.to_owned(),
            server: server.to_owned(),
            cluster_cidrs: CLUSTER_CIDRS.to_owned(),
            node_port_addresses: vec!["all".to_owned()],
            program: None,
            capabilities: None,
            extra_flags: Vec::new(),
        }
    }
}

impl Stage {
    /// Starts a proxy in a node's namespace and returns at once; see [`wait_ready`].
    ///
    /// # Errors
    /// Its program is not built, or iptables is not installed.
    pub async fn launch_proxy(&self, proxy: Proxy, netns: &Netns, launch: &ProxyLaunch) -> Result<Process> {
        let account = if proxy.is_ours() { BERTH_PROXY } else { KUBE_PROXY };
        let access = Launch {
            server: Some(launch.server.clone()),
            ..Launch::named(&launch.name)
        };
        let kubeconfig = self.kubeconfig(account, &access).await?;
        let log = self.logs().join(format!("{}.log", launch.name));
        let mut spec = if proxy.is_ours() {
            berth(proxy, launch, &kubeconfig, &log)?
        } else {
            let program = Peers::ensure().await?.kube_proxy;
            kube_proxy(proxy, program, launch, &kubeconfig, &log)?
        };
        spec.args.extend(launch.extra_flags.iter().cloned());
        if let Some(variant) = proxy.variant() {
            spec.env
                .push(("PATH".to_owned(), path_with(variant, self.logs())?.into()));
        }
        if let Some(only) = &launch.capabilities {
            spec = with_capabilities(spec, only);
        }
        Ok(Process::start(netns, &spec)?)
    }
}

/// Waits until a proxy says that it is well. kube-proxy says so before it has written anything: what tells is a packet.
///
/// # Errors
/// At the deadline, or as soon as it has ended; with the end of its log.
pub fn wait_ready(proxy: Proxy, process: &mut Process) -> Result<()> {
    let (address, path) = proxy.healthy();
    Ok(process.wait_ready(address, path, PATIENCE)?)
}

fn berth(proxy: Proxy, launch: &ProxyLaunch, kubeconfig: &Path, log: &Path) -> Result<Spec> {
    let built = || binary("berth", "berth");
    let program = launch.program.clone().map_or_else(|| Ok(built()?), anyhow::Ok)?;
    let (admin, _) = Proxy::Berth.healthy();
    let mut spec = Spec::new(&launch.name, program, log);
    spec.args = vec![
        "proxy".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--node-name={}", launch.node),
        format!("--admin-address={admin}"),
    ];
    if !launch.cluster_cidrs.is_empty() {
        spec.args.push(format!("--cluster-cidr={}", launch.cluster_cidrs));
    }
    let told = |flag: &String| flag.starts_with("--proxy-mode=");
    if !launch.extra_flags.iter().any(told) {
        spec.args
            .extend(proxy.mode().map(|mode| format!("--proxy-mode={mode}")));
    }
    Ok(spec)
}

fn kube_proxy(
    proxy: Proxy,
    program: PathBuf,
    launch: &ProxyLaunch,
    kubeconfig: &Path,
    log: &Path,
) -> Result<Spec> {
    let path = log.with_extension("json");
    let configuration = configuration(proxy, launch, kubeconfig);
    let text = serde_json::to_string_pretty(&configuration)?;
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    let mut spec = Spec::new(&launch.name, program, log);
    spec.args = vec![format!("--config={}", path.display()), "--v=2".to_owned()];
    Ok(spec)
}

/// Upstream's defaults, but for who and where it is; the minimum period between two syncs stays upstream's second.
fn configuration(proxy: Proxy, launch: &ProxyLaunch, kubeconfig: &Path) -> Value {
    let (healthz, _) = proxy.healthy();
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": proxy.mode(),
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": launch.node,
        "clusterCIDR": launch.cluster_cidrs,
        "healthzBindAddress": healthz.to_string(),
        "metricsBindAddress": "127.0.0.1:10249",
        "nodePortAddresses": launch.node_port_addresses,
        // The table of connections is the machine's, whose settings are no business of a test's. 0 leaves them alone.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    })
}

/// A PATH on which `iptables` and all that belongs to it are of one variant.
pub(crate) fn path_with(variant: Variant, folder: &Path) -> Result<String> {
    const SEARCHED: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
    let multi = SEARCHED
        .split(':')
        .map(|folder| Path::new(folder).join(variant.program()))
        .find(|program| program.is_file())
        .with_context(|| format!("no {}; Debian's package iptables has it", variant.program()))?;
    let links = folder.join(variant.program());
    fs::create_dir_all(&links).with_context(|| links.display().to_string())?;
    for family in ["iptables", "ip6tables"] {
        for program in ["", "-save", "-restore"] {
            let link = links.join(format!("{family}{program}"));
            if !link.is_symlink() {
                symlink(&multi, &link).with_context(|| link.display().to_string())?;
            }
        }
    }
    Ok(format!("{}:{SEARCHED}", links.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_mode_node_and_pods() {
        let launch = ProxyLaunch::named("p", "node-1", "https://10.0.0.1:6443");
        for (proxy, mode) in [
            (Proxy::KubeProxyNftables, "nftables"),
            (Proxy::KubeProxyIptables(Variant::Legacy), "iptables"),
            (Proxy::KubeProxyIpvs, "ipvs"),
        ] {
            let made = configuration(proxy, &launch, Path::new("/kubeconfig"));
            assert_eq!(made["mode"], mode);
            assert_eq!(made["hostnameOverride"], "node-1");
            assert_eq!(made["clusterCIDR"], CLUSTER_CIDRS);
            assert_eq!(made["clientConnection"]["kubeconfig"], "/kubeconfig");
        }
    }

    #[test]
    fn every_name_of_a_variant_leads_to_its_program() {
        let folder = tempfile::tempdir().unwrap();
        for variant in Variant::ALL {
            let path = path_with(variant, folder.path()).unwrap();
            // A second proxy of the same variant finds the links there.
            assert_eq!(path, path_with(variant, folder.path()).unwrap());
            let first = Path::new(path.split(':').next().unwrap()).to_owned();
            for name in ["iptables-restore", "ip6tables"] {
                let target = fs::read_link(first.join(name)).unwrap();
                assert!(target.ends_with(variant.program()), "{}", target.display());
            }
        }
    }
}
