// SPDX-License-Identifier: Apache-2.0
//! A kube-proxy configuration file (`KubeProxyConfiguration` of kubeproxy.config.k8s.io/v1alpha1), read as
//! flags. What this proxy has no use for is named with the reason; what kube-proxy does not know either is refused.

mod fields;

use std::fmt;
use std::path::PathBuf;

use berth_runtime::duration;
use serde_json::Value;

use self::fields::Fields;
use crate::SharedArgs;
use crate::options::{
    DetectLocalMode, ProxyMode, healthz_address, metrics_address, pod_bridge, pod_interface_prefix,
};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";
/// The file's numbers are signed ones of 32 bits.
const MOST: u32 = i32::MAX.unsigned_abs();

/// What is wrong with one field, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// A field that is set and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ignored {
    pub(crate) path: String,
    pub(crate) why: &'static str,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    pub(crate) args: SharedArgs,
    /// `hostnameOverride`, which `--hostname-override` overrides.
    pub(crate) node_name: Option<String>,
    /// `clientConnection.kubeconfig`.
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) ignored: Vec<Ignored>,
}

/// Reads a file's text.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Config, Vec<Fault>> {
    let root: Value = serde_saphyr::from_str(text).map_err(|error| {
        vec![Fault {
            path: "the file".to_owned(),
            what: format!("no YAML: {error}"),
        }]
    })?;
    let mut config = Config::default();
    let mut top = Fields::new("", Some(&root));
    top.expect("apiVersion", API_VERSION);
    top.expect("kind", KIND);
    general(&mut top, &mut config);
    modes(&mut top, &mut config);
    conntrack(&mut top, &mut config.args);
    client(&mut top, &mut config);
    unused(&mut top);
    let (ignored, faults) = top.finish();
    config.ignored = ignored;
    if faults.is_empty() {
        Ok(config)
    } else {
        Err(faults)
    }
}

fn general(top: &mut Fields<'_>, config: &mut Config) {
    let args = &mut config.args;
    config.node_name = top.text("hostnameOverride");
    args.bind_address = top.parsed("bindAddress", |text| {
        text.parse()
            .map_err(|_| format!("{text:?} is no IP address; write one, or 0.0.0.0 or :: for the Node's own"))
    });
    args.healthz_bind_address = top.parsed("healthzBindAddress", |text| {
        healthz_address(text).map_err(|error| error.to_string())
    });
    args.metrics_bind_address = top.parsed("metricsBindAddress", |text| {
        metrics_address(text).map_err(|error| error.to_string())
    });
    args.bind_address_hard_fail = top.flag("bindAddressHardFail");
    args.proxy_mode = top.parsed("mode", |text| text.parse().map_err(said));
    args.proxy_port_range = top.parsed("portRange", |text| text.parse().map_err(said));
    args.detect_local_mode = top.parsed("detectLocalMode", |text| text.parse().map_err(said));
    args.cluster_cidr = top.parsed("clusterCIDR", |text| {
        let cidrs = text.split(',').map(|cidr| {
            let cidr = cidr.trim();
            cidr.parse().map_err(|_| {
                format!(
                    "{cidr:?} is no CIDR; write for example 10.244.0.0/16, or one per family with a comma"
                )
            })
        });
        cidrs.collect()
    });
    args.nodeport_addresses = top.parsed_list("nodePortAddresses", |text| text.parse().map_err(said));
    detect_local(top, args);
}

/// Of the interfaces only what the mode looks at counts, as in kube-proxy.
fn detect_local(top: &mut Fields<'_>, args: &mut SharedArgs) {
    const OTHER: &str = "detectLocalMode says that Pods are told by something else";
    let mut section = top.section("detectLocal");
    if args.detect_local_mode == Some(DetectLocalMode::BridgeInterface) {
        args.pod_bridge_interface = section.parsed("bridgeInterface", |text| pod_bridge(text).map_err(said));
    } else {
        section.ignore("bridgeInterface", OTHER);
    }
    if args.detect_local_mode == Some(DetectLocalMode::InterfaceNamePrefix) {
        args.pod_interface_name_prefix = section.parsed("interfaceNamePrefix", |text| {
            pod_interface_prefix(text).map_err(said)
        });
    } else {
        section.ignore("interfaceNamePrefix", OTHER);
    }
    top.close(section);
}

fn said(error: impl fmt::Display) -> String {
    error.to_string()
}

/// What each mode has a section for. Where no mode is named, kube-proxy takes that of iptables, and so the
/// file of somebody who never named one goes on to mean what it meant, but for what nftables says.
fn modes(top: &mut Fields<'_>, config: &mut Config) {
    const OTHER: &str = "it is about another mode than the one that is chosen";
    let args = &mut config.args;
    let mut nftables = top.section("nftables");
    let own_mode = matches!(args.proxy_mode, None | Some(ProxyMode::Nftables));
    let own = ModeFields::read_if(own_mode, &mut nftables, OTHER);
    top.close(nftables);
    let mut iptables = top.section("iptables");
    let other = ModeFields::read_if(args.proxy_mode != Some(ProxyMode::Nftables), &mut iptables, OTHER);
    iptables.ignore(
        "localhostNodePorts",
        "node ports are never served on loopback addresses",
    );
    top.close(iptables);
    args.masquerade_bit = own.bit.or(other.bit);
    args.masquerade_all = own.all.or(other.all);
    args.sync_period = own.sync.or(other.sync);
    args.min_sync_period = own.min_sync.or(other.min_sync);
    ipvs(top, args, OTHER);
}

/// Mode ipvs has its periods in a section of its own, and the rest in that of iptables, as in kube-proxy.
fn ipvs(top: &mut Fields<'_>, args: &mut SharedArgs, other: &'static str) {
    let mut section = top.section("ipvs");
    if args.proxy_mode == Some(ProxyMode::Ipvs) {
        args.ipvs_scheduler = section.parsed("scheduler", |text| text.parse().map_err(said));
        args.ipvs_strict_arp = section.flag("strictARP");
        args.ipvs_exclude_cidrs = section.parsed_list("excludeCIDRs", |text| {
            text.parse()
                .map_err(|_| format!("{text:?} is no CIDR; write for example 192.0.2.0/24"))
        });
        args.ipvs_tcp_timeout = section.duration_or_zero("tcpTimeout");
        args.ipvs_tcpfin_timeout = section.duration_or_zero("tcpFinTimeout");
        args.ipvs_udp_timeout = section.duration_or_zero("udpTimeout");
        args.sync_period = section.duration("syncPeriod");
        args.min_sync_period = section.duration("minSyncPeriod");
    } else {
        for name in [
            "syncPeriod",
            "minSyncPeriod",
            "scheduler",
            "excludeCIDRs",
            "strictARP",
            "tcpTimeout",
            "tcpFinTimeout",
            "udpTimeout",
        ] {
            section.ignore(name, other);
        }
    }
    top.close(section);
}

#[derive(Default)]
struct ModeFields {
    bit: Option<u8>,
    all: Option<bool>,
    sync: Option<std::time::Duration>,
    min_sync: Option<std::time::Duration>,
}

impl ModeFields {
    fn read_if(counts: bool, section: &mut Fields<'_>, why_not: &'static str) -> Self {
        if counts {
            return Self::read(section);
        }
        for name in ["masqueradeBit", "masqueradeAll", "syncPeriod", "minSyncPeriod"] {
            section.ignore(name, why_not);
        }
        Self::default()
    }

    fn read(section: &mut Fields<'_>) -> Self {
        Self {
            bit: section
                .number("masqueradeBit", 31)
                .and_then(|bit| u8::try_from(bit).ok()),
            all: section.flag("masqueradeAll"),
            sync: section.duration("syncPeriod"),
            min_sync: section.duration("minSyncPeriod"),
        }
    }
}

fn conntrack(top: &mut Fields<'_>, args: &mut SharedArgs) {
    let mut section = top.section("conntrack");
    // Here 0 is a value, not the default: it leaves the kernel's.
    args.conntrack_max_per_core = section.number("maxPerCore", MOST);
    args.conntrack_min = section.number("min", MOST);
    args.conntrack_tcp_timeout_established = section.duration_or_zero("tcpEstablishedTimeout");
    args.conntrack_tcp_timeout_close_wait = section.duration_or_zero("tcpCloseWaitTimeout");
    args.conntrack_tcp_be_liberal = section.flag("tcpBeLiberal");
    args.conntrack_udp_timeout = section.duration("udpTimeout");
    args.conntrack_udp_timeout_stream = section.duration("udpStreamTimeout");
    top.close(section);
}

fn client(top: &mut Fields<'_>, config: &mut Config) {
    let mut section = top.section("clientConnection");
    config.kubeconfig = section.text("kubeconfig").map(PathBuf::from);
    let encoding = "the encoding is Berth's choice";
    section.ignore("acceptContentTypes", encoding);
    section.ignore("contentType", encoding);
    let rate = "the proxy holds a few watches and is not limited";
    section.ignore("qps", rate);
    section.ignore("burst", rate);
    top.close(section);
}

fn unused(top: &mut Fields<'_>) {
    top.ignore("featureGates", "Berth has no feature gates");
    top.ignore("configSyncPeriod", "watches are not listed anew without a reason");
    top.ignore("logging", "use --log-level and --log-format");
    top.ignore("enableProfiling", "there is no profiling over HTTP");
    top.ignore("showHiddenMetricsForVersion", "no metrics are hidden");
    top.ignore(
        "oomScoreAdj",
        "set it in the Pod's priority class or the service unit",
    );
    top.ignore("winkernel", "it is about Windows");
    top.ignore("windowsRunAsService", "it is about Windows");
}

impl Fields<'_> {
    fn duration_or_zero(&mut self, name: &'static str) -> Option<std::time::Duration> {
        self.parsed(name, |text| duration::parse(text).map_err(said))
    }

    /// Zero is the default, as in kube-proxy.
    fn duration(&mut self, name: &'static str) -> Option<std::time::Duration> {
        self.duration_or_zero(name).filter(|duration| !duration.is_zero())
    }
}

#[cfg(test)]
mod tests;
