// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::node::Eligibility;

fn options(args: SharedArgs) -> Options {
    Options::new(args, Some("node-1"), "host").unwrap()
}

fn facts(primary: &[&str], pod_cidrs: &[&str]) -> NodeFacts {
    NodeFacts {
        eligibility: Eligibility::Eligible,
        zone: Some("zone-a".to_owned()),
        primary: primary.iter().map(|ip| ip.parse().unwrap()).collect(),
        pod_cidrs: pod_cidrs.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

#[test]
fn defaults_are_kube_proxys() {
    let options = options(SharedArgs::default());
    assert_eq!(options.healthz.to_string(), "0.0.0.0:10256");
    assert_eq!(options.metrics.to_string(), "127.0.0.1:10249");
    assert_eq!(options.sync_period, Duration::from_secs(30));
    assert_eq!(
        (options.conntrack.max_per_core, options.conntrack.min),
        (32_768, 131_072)
    );
    assert_eq!(options.conntrack.tcp_established, Duration::from_secs(86_400));
    let v6 = self::options(SharedArgs {
        bind_address: Some("::".parse().unwrap()),
        ..SharedArgs::default()
    });
    assert_eq!(v6.healthz.to_string(), "[::]:10256");
    assert_eq!(v6.metrics.to_string(), "[::1]:10249");
}

#[test]
fn the_node_is_named_by_flag_or_host_in_lower_case() {
    let name = |flag, host| Options::new(SharedArgs::default(), flag, host).map(|options| options.node);
    assert_eq!(name(Some(" Node-1 "), "host"), Ok(NodeName::new("node-1")));
    assert_eq!(name(None, "Host.Example"), Ok(NodeName::new("host.example")));
    assert_eq!(name(Some(" "), "host"), Err(OptionsError::NodeName));
}

#[test]
fn periods_must_fit_together() {
    let refused = |min: u64, sync: u64| {
        let args = SharedArgs {
            sync_period: Some(Duration::from_secs(sync)),
            min_sync_period: Some(Duration::from_secs(min)),
            ..SharedArgs::default()
        };
        Options::new(args, None, "host")
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(refused(1, 30), None);
    assert!(refused(0, 0).unwrap().contains("--sync-period"));
    assert!(refused(31, 30).unwrap().contains("--min-sync-period"));
}

#[test]
fn pods_are_told_by_cluster_or_node_cidr() {
    let node = facts(&[], &["10.244.1.0/24"]);
    let by_cluster = options(SharedArgs {
        cluster_cidr: Some(vec!["10.244.0.0/16".parse().unwrap()]),
        ..SharedArgs::default()
    });
    let by_node = options(SharedArgs {
        detect_local_mode: Some(DetectLocalMode::NodeCidr),
        ..SharedArgs::default()
    });
    let cidrs = |options: &Options, node| {
        let cidrs = options.settings(node, &BTreeSet::new()).cluster_cidrs;
        cidrs.iter().map(IpNet::to_string).collect::<Vec<_>>().join(",")
    };
    assert_eq!(cidrs(&by_cluster, Some(&node)), "10.244.0.0/16");
    assert_eq!(cidrs(&by_node, Some(&node)), "10.244.1.0/24");
    assert_eq!(cidrs(&by_node, None), "");
    assert!(by_node.needs_node() && !by_cluster.needs_node());
    let both = SharedArgs {
        detect_local_mode: Some(DetectLocalMode::NodeCidr),
        cluster_cidr: Some(vec!["10.244.0.0/16".parse().unwrap()]),
        ..SharedArgs::default()
    };
    let refused = Options::new(both, None, "host").unwrap_err().to_string();
    assert!(
        refused.contains("--cluster-cidr") && refused.contains("NodeCIDR"),
        "{refused}"
    );
}

#[test]
fn pods_are_told_by_a_bridge_or_by_how_interfaces_names_begin() {
    let mk_args = |mode, bridge: Option<&str>, prefix: Option<&str>| SharedArgs {
        detect_local_mode: mode,
        pod_bridge_interface: bridge.map(|text| pod_bridge(text).unwrap()),
        pod_interface_name_prefix: prefix.map(|text| pod_interface_prefix(text).unwrap()),
        ..SharedArgs::default()
    };
    let (bridge, prefix) = (
        Some(DetectLocalMode::BridgeInterface),
        Some(DetectLocalMode::InterfaceNamePrefix),
    );
    let links = |args| {
        let node = facts(&[], &["10.244.1.0/24"]);
        let settings = options(args).settings(Some(&node), &BTreeSet::new());
        assert_eq!(settings.cluster_cidrs, []);
        settings.pod_links.map(|links| links.to_string())
    };
    assert_eq!(
        links(mk_args(bridge, Some("cni0"), None)).as_deref(),
        Some("cni0")
    );
    assert_eq!(
        links(mk_args(prefix, None, Some("veth"))).as_deref(),
        Some("veth*")
    );
    assert_eq!(links(mk_args(None, None, None)), None);
    for (args, parts) in [
        (
            mk_args(bridge, None, None),
            ["--pod-bridge-interface", "missing", "BridgeInterface"],
        ),
        (
            mk_args(prefix, None, None),
            ["--pod-interface-name-prefix", "missing", "InterfaceNamePrefix"],
        ),
        (
            mk_args(None, Some("cni0"), None),
            ["--pod-bridge-interface", "BridgeInterface", "ClusterCIDR"],
        ),
        (
            mk_args(bridge, Some("cni0"), Some("veth")),
            [
                "--pod-interface-name-prefix",
                "InterfaceNamePrefix",
                "BridgeInterface",
            ],
        ),
    ] {
        let refused = Options::new(args, None, "host").unwrap_err().to_string();
        for part in parts {
            assert!(refused.contains(part), "{refused:?} lacks {part:?}");
        }
    }
}

#[test]
fn node_port_addresses_select_addresses_by_family() {
    let addresses: BTreeSet<IpAddr> = ["127.0.0.1", "192.0.2.1", "198.51.100.1", "::1", "fd00::1"]
        .iter()
        .map(|ip| ip.parse().unwrap())
        .collect();
    let node = facts(&["192.0.2.1", "fd00::1"], &[]);
    let selected = |texts: &[&str]| {
        let args = SharedArgs {
            nodeport_addresses: Some(texts.iter().map(|text| text.parse().unwrap()).collect()),
            ..SharedArgs::default()
        };
        let selected = options(args)
            .settings(Some(&node), &addresses)
            .node_port_addresses;
        let texts = IpFamily::ALL.into_iter().filter_map(|family| {
            let ips: Vec<String> = selected.of(family)?.iter().map(IpAddr::to_string).collect();
            Some(format!("{family}: {}", ips.join(" ")))
        });
        texts.collect::<Vec<_>>().join("; ")
    };
    for (texts, expected) in [
        (vec![], ""),
        (vec!["all"], ""),
        (vec!["primary"], "IPv4: 192.0.2.1; IPv6: fd00::1"),
        (vec!["localhost"], "IPv4: 127.0.0.1; IPv6: ::1"),
        // A family without an entry is served on all addresses.
        (vec!["192.0.2.0/24"], "IPv4: 192.0.2.1"),
        (vec!["192.0.2.0/24", "0.0.0.0/0", "::1/128"], "IPv6: ::1"),
        (vec!["203.0.113.0/24"], "IPv4: "),
        (
            vec!["primary", "198.51.100.1/32"],
            "IPv4: 192.0.2.1 198.51.100.1; IPv6: fd00::1",
        ),
    ] {
        assert_eq!(selected(&texts), expected, "{texts:?}");
    }
}

#[test]
fn the_bind_address_stands_for_the_nodes_own() {
    let options = options(SharedArgs {
        nodeport_addresses: Some(vec![NodePortAddress::Primary]),
        bind_address: Some("198.51.100.1".parse().unwrap()),
        ..SharedArgs::default()
    });
    let addresses = ["192.0.2.1", "198.51.100.1", "fd00::1"].map(|ip| ip.parse().unwrap());
    let node = facts(&["192.0.2.1", "fd00::1"], &[]);
    let settings = |node| options.settings(node, &BTreeSet::from(addresses));
    let with_node = settings(Some(&node));
    let of = |settings: &Settings, family| settings.node_port_addresses.of(family).cloned();
    let only = |ip: &str| Some(BTreeSet::from([ip.parse().unwrap()]));
    assert_eq!(of(&with_node, IpFamily::V4), only("198.51.100.1"));
    assert_eq!(of(&with_node, IpFamily::V6), only("fd00::1"));
    assert_eq!(with_node.zone.as_deref(), Some("zone-a"));
    assert_eq!(with_node.node_ips.len(), 2);
    let without = self::options(SharedArgs {
        nodeport_addresses: Some(vec![NodePortAddress::Primary]),
        ..SharedArgs::default()
    });
    let without = without.settings(None, &BTreeSet::from(addresses));
    assert_eq!(of(&without, IpFamily::V4), Some(BTreeSet::new()), "not known yet");
}

#[test]
fn bad_values_say_what_would_be_good() {
    let says = |outcome: Result<(), values::ValueError>, part: &str| {
        let text = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    };
    says(metrics_address("10249").map(drop), "IP:PORT");
    says(metrics_address("").map(drop), "IP:PORT");
    says(healthz_address("localhost:10256").map(drop), "[::]:10256");
    says("winkernel".parse::<ProxyMode>().map(drop), "nftables");
    assert!(
        ProxyMode::ALL
            .iter()
            .all(|mode| mode.to_string().parse() == Ok(*mode))
    );
    says("Bridge".parse::<DetectLocalMode>().map(drop), "BridgeInterface");
    says(pod_bridge("").map(drop), "cni0");
    says(pod_interface_prefix("").map(drop), "veth");
    says(pod_interface_prefix("veth*").map(drop), "'*'");
    for mode in [DetectLocalMode::NodeCidr, DetectLocalMode::InterfaceNamePrefix] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    says("10.0.0.1".parse::<NodePortAddress>().map(drop), "192.0.2.0/24");
    says(proxy_name("a b").map(drop), "label");
    assert_eq!(healthz_address(""), Ok(BindTo::Nowhere));
    assert_eq!(
        healthz_address("::").map(|address| address.to_string()),
        Ok("[::]:10256".to_owned())
    );
    assert_eq!(
        metrics_address("[::1]:9").map(|address| address.to_string()),
        Ok("[::1]:9".to_owned())
    );
}
