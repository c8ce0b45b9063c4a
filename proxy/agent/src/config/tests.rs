// SPDX-License-Identifier: Apache-2.0

use std::time::Duration;

use berth_proxy_core::ipvs::Scheduler;

use super::*;
use crate::options::{BindTo, DetectLocalMode, NodePortAddress, ProxyMode};

/// What kubeadm writes into the ConfigMap kube-proxy: every field named, most of them empty.
const KUBEADM: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/48
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn read(rest: &str) -> Config {
    parse(&format!("{HEAD}{rest}")).unwrap()
}

fn faults(text: &str) -> String {
    let faults = parse(text).unwrap_err();
    let texts: Vec<String> = faults.iter().map(Fault::to_string).collect();
    texts.join("\n")
}

#[test]
fn what_kubeadm_writes_is_read_without_a_word() {
    let config = parse(KUBEADM).unwrap();
    assert_eq!(config.ignored, []);
    assert_eq!(
        config.kubeconfig.as_deref(),
        Some(std::path::Path::new("/var/lib/kube-proxy/kubeconfig.conf"))
    );
    let cidrs = config.args.cluster_cidr.clone().unwrap();
    assert_eq!(cidrs.len(), 2);
    let expected = SharedArgs {
        cluster_cidr: Some(cidrs),
        bind_address: Some("0.0.0.0".parse().unwrap()),
        ..SharedArgs::default()
    };
    assert_eq!(config.args, expected);
    assert_eq!(config.node_name, None);
}

#[test]
fn every_field_with_a_meaning_here_is_taken() {
    let config = read(
        "bindAddress: 192.0.2.1\nbindAddressHardFail: true\nhostnameOverride: Node-7\n\
         healthzBindAddress: 127.0.0.1\nmetricsBindAddress: '[::1]:9000'\nmode: nftables\nportRange: 40000-40010\n\
         detectLocalMode: NodeCIDR\nnodePortAddresses: [primary, 10.0.0.0/8]\n\
         nftables: {masqueradeAll: true, masqueradeBit: 3, syncPeriod: 1m0s, minSyncPeriod: 500ms}\n\
         conntrack: {maxPerCore: 0, min: 5, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 2h, \
         tcpBeLiberal: true, udpTimeout: 10s, udpStreamTimeout: 20s}\n",
    );
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let expected = SharedArgs {
        proxy_mode: Some(ProxyMode::Nftables),
        cluster_cidr: None,
        detect_local_mode: Some(DetectLocalMode::NodeCidr),
        masquerade_all: Some(true),
        masquerade_bit: Some(3),
        nodeport_addresses: Some(vec![
            NodePortAddress::Primary,
            NodePortAddress::Net("10.0.0.0/8".parse().unwrap()),
        ]),
        proxy_port_range: Some("40000-40010".parse().unwrap()),
        bind_address: Some("192.0.2.1".parse().unwrap()),
        healthz_bind_address: Some(BindTo::Address("127.0.0.1:10256".parse().unwrap())),
        metrics_bind_address: Some("[::1]:9000".parse().unwrap()),
        bind_address_hard_fail: Some(true),
        sync_period: seconds(60),
        min_sync_period: Some(Duration::from_millis(500)),
        conntrack_max_per_core: Some(0),
        conntrack_min: Some(5),
        conntrack_tcp_timeout_established: seconds(0),
        conntrack_tcp_timeout_close_wait: seconds(7200),
        conntrack_tcp_be_liberal: Some(true),
        conntrack_udp_timeout: seconds(10),
        conntrack_udp_timeout_stream: seconds(20),
        ..SharedArgs::default()
    };
    assert_eq!(config.args, expected);
    assert_eq!(config.node_name.as_deref(), Some("Node-7"));
    assert_eq!(config.ignored, []);
}

#[test]
fn of_interfaces_the_field_of_the_chosen_mode_counts() {
    let fields = "detectLocal: {bridgeInterface: cni0, interfaceNamePrefix: veth}\n";
    let taken = |mode: &str| {
        let config = read(&format!("detectLocalMode: {mode}\n{fields}"));
        let text = |links: Option<berth_proxy_core::Links>| links.map(|links| links.to_string());
        let ignored: Vec<String> = config.ignored.into_iter().map(|ignored| ignored.path).collect();
        let args = config.args;
        (
            text(args.pod_bridge_interface),
            text(args.pod_interface_name_prefix),
            ignored.join(" "),
        )
    };
    let (bridge, prefix) = ("detectLocal.bridgeInterface", "detectLocal.interfaceNamePrefix");
    assert_eq!(
        taken("BridgeInterface"),
        (Some("cni0".to_owned()), None, prefix.to_owned())
    );
    assert_eq!(
        taken("InterfaceNamePrefix"),
        (None, Some("veth*".to_owned()), bridge.to_owned())
    );
    assert_eq!(taken("ClusterCIDR"), (None, None, format!("{bridge} {prefix}")));
    let said = |mode: &str, field: &str| {
        faults(&format!(
            "{HEAD}detectLocalMode: {mode}\ndetectLocal: {{{field}}}\n"
        ))
    };
    let long = said("BridgeInterface", "bridgeInterface: a-bridge-with-a-name");
    assert!(long.starts_with(bridge) && long.contains("at most 15"), "{long}");
    let star = said("InterfaceNamePrefix", "interfaceNamePrefix: veth*");
    assert!(star.starts_with(prefix) && star.contains("'*'"), "{star}");
}

#[test]
fn without_a_mode_the_section_of_kube_proxys_default_counts_too() {
    let bit = |text| read(text).args.masquerade_bit;
    assert_eq!(bit("iptables: {masqueradeBit: 5}\n"), Some(5));
    assert_eq!(
        bit("iptables: {masqueradeBit: 5}\nnftables: {masqueradeBit: 6}\n"),
        Some(6)
    );
    let named = read("mode: nftables\niptables: {masqueradeBit: 5}\n");
    assert_eq!(named.args.masquerade_bit, None);
    assert_eq!(named.ignored[0].path, "iptables.masqueradeBit");
    let other = read("mode: iptables\niptables: {masqueradeBit: 5}\nnftables: {masqueradeBit: 6}\n");
    assert_eq!(other.args.proxy_mode, Some(ProxyMode::Iptables));
    assert_eq!(other.args.masquerade_bit, Some(5));
    assert_eq!(other.ignored[0].path, "nftables.masqueradeBit");
}

#[test]
fn mode_ipvs_has_its_own_section_and_the_bit_of_iptables() {
    let args = read(
        "mode: ipvs\niptables: {masqueradeBit: 5}\nipvs: {scheduler: lc, strictARP: true, excludeCIDRs: [192.0.2.0/24], \
         tcpTimeout: 15m, tcpFinTimeout: 0s, udpTimeout: 5m, syncPeriod: 40s, minSyncPeriod: 2s}\n",
    )
    .args;
    assert_eq!(args.proxy_mode, Some(ProxyMode::Ipvs));
    assert_eq!(
        (args.ipvs_scheduler, args.masquerade_bit),
        (Some(Scheduler::Lc), Some(5))
    );
    assert_eq!(args.ipvs_strict_arp, Some(true));
    assert_eq!(
        args.ipvs_exclude_cidrs,
        Some(vec!["192.0.2.0/24".parse().unwrap()])
    );
    assert_eq!(args.ipvs_tcp_timeout, Some(Duration::from_secs(900)));
    assert_eq!(args.ipvs_udp_timeout, Some(Duration::from_secs(300)));
    assert_eq!(args.sync_period, Some(Duration::from_secs(40)));
    assert_eq!(args.min_sync_period, Some(Duration::from_secs(2)));
    let said = faults(&format!("{HEAD}mode: ipvs\nipvs: {{scheduler: random}}\n"));
    assert!(said.contains("ipvs.scheduler:") && said.contains("rr"), "{said}");
}

#[test]
fn fields_without_effect_are_named_with_the_reason_if_they_say_something() {
    let config = read(
        "featureGates: {A: true}\nconfigSyncPeriod: 15m\nlogging: {verbosity: 4}\noomScoreAdj: -999\n\
         enableProfiling: true\nshowHiddenMetricsForVersion: '1.36'\n\
         ipvs: {scheduler: rr, strictARP: true}\niptables: {localhostNodePorts: true}\n\
         clientConnection: {qps: 5, burst: 10, contentType: x}\ndetectLocal: {bridgeInterface: cni0}\n\
         winkernel: {networkName: x}\nwindowsRunAsService: true\n",
    );
    let mut paths: Vec<&str> = config
        .ignored
        .iter()
        .map(|ignored| ignored.path.as_str())
        .collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "clientConnection.burst",
            "clientConnection.contentType",
            "clientConnection.qps",
            "configSyncPeriod",
            "detectLocal.bridgeInterface",
            "enableProfiling",
            "featureGates",
            "iptables.localhostNodePorts",
            "ipvs.scheduler",
            "ipvs.strictARP",
            "logging",
            "oomScoreAdj",
            "showHiddenMetricsForVersion",
            "windowsRunAsService",
            "winkernel",
        ]
    );
    assert!(config.ignored.iter().all(|ignored| !ignored.why.is_empty()));
}

#[test]
fn what_is_wrong_is_named_by_its_path_with_the_way_out() {
    for (text, parts) in [
        ("clustercidr: 10.0.0.0/8\n", &["clustercidr:", "clusterCIDR"][..]),
        (
            "iptables: {masqueradeBits: 3}\n",
            &["iptables.masqueradeBits:", "remove it"],
        ),
        (
            "nftables: {masqueradeBit: 32}\n",
            &["nftables.masqueradeBit:", "32", "0 to 31"],
        ),
        (
            "nftables: {masqueradeBit: -1}\n",
            &["nftables.masqueradeBit:", "-1"],
        ),
        (
            "nftables: {masqueradeAll: 'yes'}\n",
            &["nftables.masqueradeAll:", "true nor false"],
        ),
        ("nftables: 3\n", &["nftables:", "no object"]),
        (
            "clusterCIDR: 10.0.0.0/99\n",
            &["clusterCIDR:", "10.0.0.0/99", "10.244.0.0/16"],
        ),
        (
            "nodePortAddresses: [all, eth0]\n",
            &["nodePortAddresses[1]:", "eth0", "primary"],
        ),
        ("nodePortAddresses: all\n", &["nodePortAddresses:", "no list"]),
        ("mode: winkernel\n", &["mode:", "iptables", "nftables"]),
        (
            "detectLocalMode: Bridge\n",
            &["detectLocalMode:", "Bridge", "NodeCIDR"],
        ),
        (
            "healthzBindAddress: 10256\n",
            &["healthzBindAddress:", "10256", "no text"],
        ),
        (
            "healthzBindAddress: localhost:1\n",
            &["healthzBindAddress:", "localhost:1", "IP:PORT"],
        ),
        ("bindAddress: eth0\n", &["bindAddress:", "eth0"]),
        ("conntrack: {udpTimeout: 5}\n", &["conntrack.udpTimeout:", "5"]),
        (
            "conntrack: {udpTimeout: -5s}\n",
            &["conntrack.udpTimeout:", "-5s", "15s"],
        ),
        (
            "conntrack: {min: 99999999999}\n",
            &["conntrack.min:", "99999999999"],
        ),
    ] {
        let said = faults(&format!("{HEAD}{text}"));
        for part in parts {
            assert!(said.contains(part), "{text}: {said:?} lacks {part:?}");
        }
    }
}

#[test]
fn all_faults_are_said_at_once() {
    let said = faults("apiVersion: v1\nmode: winkernel\nfoo: 1\n");
    for part in ["apiVersion: \"v1\"", "kind: it is missing", "mode:", "foo:"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(faults("a: [").starts_with("the file: no YAML"));
    assert!(faults("[1]").contains("no object"));
    assert!(faults(&format!("{HEAD}mode: ''\nmode: nftables\n")).contains("mode"));
}
