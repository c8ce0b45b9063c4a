// SPDX-License-Identifier: Apache-2.0
//! Cases with a name.

use std::sync::Arc;

use berth_model::{
    Conditions, Endpoint, EndpointHints, EndpointPort, IpFamily, NodeName, PortName, Protocol, Service,
    ServiceKind, ServicePort, TrafficPolicy,
};

use super::*;
use crate::ipvs::deviation::expected;
use crate::ipvs::found::{Found, removal_text};
use crate::ipvs::rules::{Hook, Table, chains, hook_line, lines, restore_text};
use crate::sample::samples;
use crate::walk::Verdict;

/// One Service with endpoints 1 (elsewhere), 2 (here), 3 and so on.
fn mk_view(protocol: Protocol, external_policy: TrafficPolicy, pods: &[u8]) -> View {
    let join = EndpointPort {
        name: PortName::default(),
        protocol,
    };
    let service = Service {
        key: key(0),
        uid: "uid-0".to_owned(),
        created: 0,
        kind: ServiceKind::NodePort,
        cluster_ips: vec![[10, 96, 0, 1].into()],
        external_ips: vec![[192, 0, 2, 1].into()],
        load_balancer: vec![],
        load_balancer_class: None,
        ports: vec![ServicePort {
            name: PortName::default(),
            protocol,
            port: 80.try_into().unwrap(),
            node_port: None,
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy,
        affinity: SessionAffinity::None,
        source_ranges: None,
        health_check_node_port: None,
    };
    let endpoints = pods.iter().map(|pod| Endpoint {
        ip: [10, 244, 0, *pod].into(),
        port: 8080.try_into().unwrap(),
        conditions: Conditions::READY,
        node: Some(NodeName::new(if pod.is_multiple_of(2) {
            "here"
        } else {
            "there"
        })),
        zone: None,
        hints: EndpointHints::default(),
    });
    let mut view = View::default();
    view.endpoints
        .insert(key(0), Arc::new([(join, endpoints.collect())].into()));
    view.services.insert(key(0), Arc::new(service));
    view
}

fn mk_intent(protocol: Protocol, external_policy: TrafficPolicy, pods: &[u8]) -> Intent {
    let settings = Settings {
        node: Some(NodeName::new("here")),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        ..Settings::default()
    };
    Intent::of(&mk_view(protocol, external_policy, pods), settings)
}

fn cluster(pods: &[u8]) -> Intent {
    mk_intent(Protocol::Tcp, TrafficPolicy::Cluster, pods)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn text(plan: &Plan) -> Vec<String> {
    plan.changes().map(Change::to_string).collect()
}

#[test]
fn a_node_that_starts_from_nothing() {
    let intent = mk_intent(Protocol::Tcp, TrafficPolicy::Local, &[1, 2]);
    let all = plan(&Installed::default(), &intent, None, at(0));
    insta::assert_snapshot!(all, @r"
    # admit
    ipset add BERTH-SOCKETS 10.96.0.1,tcp:80
    ipset add BERTH-MASQUERADE-FOREIGN 10.96.0.1,tcp:80
    ipset add BERTH-SOCKETS 192.0.2.1,tcp:80
    ipset add BERTH-ADDRESSES 10.96.0.1
    ipset add BERTH-ADDRESSES 192.0.2.1
    ipset add BERTH-PODS 10.244.0.0/16
    ipset add BERTH-HAIRPIN 10.244.0.2,10.244.0.2
    # prepare
    ipvsadm -A -f 3154116608 -s rr
    ipvsadm -a -f 3154116608 -r 10.244.0.1:8080 -m -w 1
    ipvsadm -a -f 3154116608 -r 10.244.0.2:8080 -m -w 1
    # steer
    ipset add BERTH-INSIDE 192.0.2.1,tcp:80 skbmark 0xbc000000/0xffffffff
    # serve
    ipvsadm -A -t 10.96.0.1:80 -s rr
    ipvsadm -a -t 10.96.0.1:80 -r 10.244.0.1:8080 -m -w 1
    ipvsadm -a -t 10.96.0.1:80 -r 10.244.0.2:8080 -m -w 1
    ipvsadm -A -t 192.0.2.1:80 -s rr
    ipvsadm -a -t 192.0.2.1:80 -r 10.244.0.2:8080 -m -w 1
    # bind
    ip addr add 10.96.0.1/32 dev kube-ipvs0
    ip addr add 192.0.2.1/32 dev kube-ipvs0
    ");
}

#[test]
fn a_service_without_endpoints_keeps_a_server_that_refuses_and_a_new_endpoint_is_one_change_a_socket() {
    let mut installed = synced(&cluster(&[]));
    let came = plan(&installed, &cluster(&[2]), None, at(0));
    insta::assert_snapshot!(came, @r"
    # admit
    ipset add BERTH-HAIRPIN 10.244.0.2,10.244.0.2
    # serve
    ipvsadm -a -t 10.96.0.1:80 -r 10.244.0.2:8080 -m -w 1
    ipvsadm -a -t 192.0.2.1:80 -r 10.244.0.2:8080 -m -w 1
    ");
    carry_out(&mut installed, &came, at(0));
    assert!(plan(&installed, &cluster(&[2]), None, at(0)).is_empty());
}

#[test]
fn an_endpoint_that_left_keeps_its_connections_until_it_has_none_or_for_so_long() {
    let mut installed = synced(&cluster(&[1, 2]));
    let (key, gone) = (server_key(Protocol::Tcp), target(2));
    let left = plan(&installed, &cluster(&[1]), None, at(10));
    let weights = text(&left);
    assert!(
        weights.contains(&"ipvsadm -e -t 10.96.0.1:80 -r 10.244.0.2:8080 -m -w 0".to_owned()),
        "{weights:?}"
    );
    carry_out(&mut installed, &left, at(10));
    assert_eq!(installed.waiting().count(), 2);
    installed.counted(&key, &gone, 3);
    assert!(plan(&installed, &cluster(&[1]), Some(&Touched::default()), at(50)).is_empty());
    let mut idle = installed.clone();
    idle.counted(&key, &gone, 0);
    let removed = text(&plan(&idle, &cluster(&[1]), Some(&Touched::default()), at(51)));
    assert_eq!(removed, ["ipvsadm -d -t 10.96.0.1:80 -r 10.244.0.2:8080"]);
    let bound = plan(&installed, &cluster(&[1]), Some(&Touched::default()), at(110));
    assert_eq!(text(&bound).len(), 2, "{bound}");
    // It comes back: new connections again, at once.
    let back = text(&plan(&installed, &cluster(&[1, 2]), None, at(50)));
    assert!(
        back.contains(&"ipvsadm -e -t 10.96.0.1:80 -r 10.244.0.2:8080 -m -w 1".to_owned()),
        "{back:?}"
    );
}

fn server_key(protocol: Protocol) -> ServerKey {
    ServerKey::Socket(Socket {
        ip: [10, 96, 0, 1].into(),
        protocol,
        port: 80.try_into().unwrap(),
    })
}

fn target(pod: u8) -> Target {
    Target {
        ip: [10, 244, 0, pod].into(),
        port: 8080.try_into().unwrap(),
    }
}

#[test]
fn a_restart_gives_weights_back_and_goes_on_draining_from_where_it_was() {
    let mut installed = synced(&cluster(&[1, 3]));
    let left = plan(&installed, &cluster(&[1]), None, at(10));
    carry_out(&mut installed, &left, at(10));
    let seen = read_back(&installed, at(20));
    let back = text(&plan(&seen, &cluster(&[1, 3]), None, at(20)));
    assert_eq!(
        back,
        [
            "ipvsadm -e -t 10.96.0.1:80 -r 10.244.0.3:8080 -m -w 1",
            "ipvsadm -e -t 192.0.2.1:80 -r 10.244.0.3:8080 -m -w 1",
        ]
    );
    assert!(plan(&seen, &cluster(&[1]), None, at(20)).is_empty());
    let after_bound = plan(&seen, &cluster(&[1]), None, at(20) + BOUND);
    assert_eq!(text(&after_bound).len(), 2, "{after_bound}");
    // The same process looks again after an error: the bound counts from the beginning.
    let mut again = read_back(&installed, at(20));
    again.drains_since(&installed);
    assert_eq!(text(&plan(&again, &cluster(&[1]), None, at(10) + BOUND)).len(), 2);
}

#[test]
fn udp_goes_at_once_and_a_service_that_goes_refuses_while_it_drains() {
    let udp = |pods| mk_intent(Protocol::Udp, TrafficPolicy::Cluster, pods);
    let left = plan(&synced(&udp(&[1, 2])), &udp(&[1]), None, at(0));
    assert!(
        text(&left).contains(&"ipvsadm -d -u 10.96.0.1:80 -r 10.244.0.2:8080".to_owned()),
        "{left}"
    );

    let nothing = Intent::empty(cluster(&[]).settings().clone());
    let mut installed = synced(&cluster(&[1]));
    let away = plan(&installed, &nothing, None, at(0));
    carry_out(&mut installed, &away, at(0));
    let socket = Socket {
        ip: [10, 96, 0, 1].into(),
        protocol: Protocol::Tcp,
        port: 80.try_into().unwrap(),
    };
    assert!(installed.is_bound(socket.ip) && installed.socket(&socket).is_some());
    installed.counted(&server_key(Protocol::Tcp), &target(1), 0);
    let rest = plan(&installed, &nothing, Some(&Touched::default()), at(1));
    insta::assert_snapshot!(rest, @r"
    # bind
    ip addr del 10.96.0.1/32 dev kube-ipvs0
    # withdraw
    ipvsadm -D -t 10.96.0.1:80
    # forget
    ipset del BERTH-SOCKETS 10.96.0.1,tcp:80
    ipset del BERTH-ADDRESSES 10.96.0.1
    ");
}

#[test]
fn local_without_a_local_endpoint_drops_outsiders_and_serves_pods_by_mark() {
    let local = |pods| mk_intent(Protocol::Tcp, TrafficPolicy::Local, pods);
    let mut installed = synced(&local(&[1, 2]));
    let gone = plan(&installed, &local(&[1]), None, at(0));
    insta::assert_snapshot!(gone, @r"
    # admit
    ipset add BERTH-DROP-OUTSIDE 192.0.2.1,tcp:80
    # withdraw
    ipvsadm -e -t 10.96.0.1:80 -r 10.244.0.2:8080 -m -w 0
    ipvsadm -e -t 192.0.2.1:80 -r 10.244.0.2:8080 -m -w 0
    # retire
    ipvsadm -e -f 3154116608 -r 10.244.0.2:8080 -m -w 0
    # forget
    ipset del BERTH-HAIRPIN 10.244.0.2,10.244.0.2
    ");
    carry_out(&mut installed, &gone, at(0));
    // Back under policy Cluster the second server drains, though nothing leads to it.
    let both = plan(&installed, &cluster(&[1]), None, at(1));
    carry_out(&mut installed, &both, at(1));
    assert_eq!(installed.marked.len(), 1);
    let rest = plan(
        &installed,
        &cluster(&[1]),
        Some(&Touched::default()),
        at(1) + BOUND,
    );
    carry_out(&mut installed, &rest, at(1) + BOUND);
    assert_eq!(shape(&installed), shape(&synced(&cluster(&[1]))));
}

#[test]
fn an_address_that_another_link_has_is_not_taken() {
    let intent = cluster(&[1]);
    let own: BTreeSet<IpAddr> = [[192, 0, 2, 1].into()].into();
    let choice = Choice {
        own: &own,
        scheduler: Scheduler::Lc,
        drain_bound: BOUND,
    };
    let all = diff(&Installed::default(), &intent, &choice, None, at(0));
    let bound: Vec<String> = text(&all)
        .into_iter()
        .filter(|line| line.starts_with("ip addr"))
        .collect();
    assert_eq!(bound, ["ip addr add 10.96.0.1/32 dev kube-ipvs0"]);
    assert!(
        all.to_string().contains("ipvsadm -A -t 192.0.2.1:80 -s lc"),
        "{all}"
    );
    // It comes to another link later.
    let mut installed = synced(&intent);
    let choice = Choice {
        scheduler: Scheduler::Rr,
        ..choice
    };
    let moved = diff(&installed, &intent, &choice, None, at(1));
    assert_eq!(
        text(&moved),
        [
            "ip addr del 192.0.2.1/32 dev kube-ipvs0",
            "ipset del BERTH-ADDRESSES 192.0.2.1"
        ]
    );
    carry_out(&mut installed, &moved, at(1));
}

#[test]
fn the_rules_read_like_this() {
    insta::assert_snapshot!(restore_text(IpFamily::V4, &Settings::default(), &[]), @r"
    *mangle
    :BERTH-SERVICES - [0:0]
    :BERTH-NEW-CONNECTIONS - [0:0]
    :BERTH-INSIDE - [0:0]
    :BERTH-UNMARK - [0:0]
    -A BERTH-SERVICES -m ipvs --ipvs -j RETURN
    -A BERTH-SERVICES -m set ! --match-set BERTH-SOCKETS dst,dst -j RETURN
    -A BERTH-SERVICES -m conntrack --ctstate NEW -j BERTH-NEW-CONNECTIONS
    -A BERTH-SERVICES -m set --match-set BERTH-INSIDE dst,dst -j BERTH-INSIDE
    -A BERTH-NEW-CONNECTIONS -m set --match-set BERTH-RANGED dst,dst -m set ! --match-set BERTH-SOURCES dst,dst,src -j DROP
    -A BERTH-NEW-CONNECTIONS -m set --match-set BERTH-DROP dst,dst -j DROP
    -A BERTH-NEW-CONNECTIONS -m set --match-set BERTH-DROP-OUTSIDE dst,dst -m set ! --match-set BERTH-PODS src -m addrtype ! --src-type LOCAL -j DROP
    -A BERTH-NEW-CONNECTIONS -m set --match-set BERTH-MASQUERADE dst,dst -j MARK --set-xmark 0x4000/0x4000
    -A BERTH-NEW-CONNECTIONS -m set --match-set BERTH-MASQUERADE-FOREIGN dst,dst -m set ! --match-set BERTH-PODS src -j MARK --set-xmark 0x4000/0x4000
    -A BERTH-INSIDE -m set --match-set BERTH-PODS src -j SET --map-set BERTH-INSIDE dst,dst --map-mark
    -A BERTH-INSIDE -m addrtype --src-type LOCAL -j SET --map-set BERTH-INSIDE dst,dst --map-mark
    -A BERTH-UNMARK -m ipvs --ipvs -m mark --mark 0xbc000000/0xfe000000 -j MARK --set-xmark 0x0/0xffffffff
    COMMIT
    *filter
    :BERTH-UNKNOWN-SOCKETS - [0:0]
    -A BERTH-UNKNOWN-SOCKETS -m ipvs --ipvs -j RETURN
    -A BERTH-UNKNOWN-SOCKETS -m conntrack ! --ctstate NEW -j RETURN
    -A BERTH-UNKNOWN-SOCKETS -m set --match-set BERTH-SOCKETS dst,dst -j RETURN
    -A BERTH-UNKNOWN-SOCKETS -p tcp -m set --match-set BERTH-ADDRESSES dst -j REJECT --reject-with icmp-port-unreachable
    -A BERTH-UNKNOWN-SOCKETS -p udp -m set --match-set BERTH-ADDRESSES dst -j REJECT --reject-with icmp-port-unreachable
    -A BERTH-UNKNOWN-SOCKETS -p sctp -m set --match-set BERTH-ADDRESSES dst -j REJECT --reject-with icmp-port-unreachable
    COMMIT
    *nat
    :BERTH-POSTROUTING - [0:0]
    :BERTH-MASQUERADE - [0:0]
    -A BERTH-POSTROUTING -m ipvs ! --ipvs -j RETURN
    -A BERTH-POSTROUTING -m mark --mark 0x4000/0x4000 -j BERTH-MASQUERADE
    -A BERTH-POSTROUTING -m set --match-set BERTH-HAIRPIN src,dst -j BERTH-MASQUERADE
    -A BERTH-POSTROUTING -m set ! --match-set BERTH-PODS src -m addrtype --src-type LOCAL -j BERTH-MASQUERADE
    -A BERTH-MASQUERADE -m mark --mark 0x4000/0x4000 -j MARK --set-xmark 0x4000/0x0
    -A BERTH-MASQUERADE -j MASQUERADE --random-fully
    COMMIT
    ");
    let six = restore_text(
        IpFamily::V6,
        &Settings::default(),
        &[(
            Table::Nat,
            Hook::Postrouting,
            crate::ipvs::names::ChainName::Postrouting,
        )],
    );
    assert!(six.contains("--match-set BERTH-6-SOCKETS dst,dst"), "{six}");
    assert!(six.contains("--reject-with icmp6-port-unreachable"), "{six}");
    assert!(six.contains("\n-I POSTROUTING -j BERTH-POSTROUTING\n"), "{six}");
}

/// What iptables-save says when all is there, among the rules of others.
fn saved(settings: &Settings) -> String {
    let chains = chains(settings);
    let mut text = String::from("# Generated\n");
    for table in Table::ALL {
        let ours = || chains.iter().filter(|chain| chain.table == table);
        text += &format!("*{table}\n:INPUT ACCEPT [12:3456]\n:KUBE-SERVICES - [0:0]\n");
        ours().for_each(|chain| text += &format!(":{} - [0:0]\n", chain.name));
        for (_, hook, chain) in crate::ipvs::rules::HOOKS.iter().filter(|(of, ..)| *of == table) {
            text += &format!("{}\n", hook_line(*hook, *chain));
        }
        text += "-A INPUT -j KUBE-SERVICES\n";
        for line in ours().flat_map(|chain| lines(IpFamily::V4, chain)) {
            text += &format!("{line}\n");
        }
        text += "COMMIT\n";
    }
    text
}

#[test]
fn what_is_there_is_compared_rule_by_rule() {
    let settings = Settings::default();
    let all = Found::parse(&saved(&settings));
    assert!(all.is(IpFamily::V4, &settings) && all.missing_hooks().is_empty());
    let other_bit = Settings::new(15).unwrap();
    assert!(!all.is(IpFamily::V4, &other_bit));
    let without = |line: &str| {
        let left: Vec<String> = saved(&settings)
            .lines()
            .filter(|l| *l != line)
            .map(str::to_owned)
            .collect();
        Found::parse(&left.join("\n"))
    };
    let unhooked = without("-A OUTPUT -j BERTH-UNKNOWN-SOCKETS");
    assert_eq!(unhooked.missing_hooks().len(), 1);
    assert!(!unhooked.is(IpFamily::V4, &settings));
    assert!(!without("-A BERTH-MASQUERADE -j MASQUERADE --random-fully").is(IpFamily::V4, &settings));
    assert!(Found::parse("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j KUBE-SERVICES\nCOMMIT\n").is_empty());
    let removal = removal_text(&all);
    for line in [
        "-D PREROUTING -j BERTH-SERVICES",
        "-X BERTH-SERVICES",
        ":BERTH-SERVICES - [0:0]",
    ] {
        assert!(removal.lines().any(|l| l == line), "{line}: {removal}");
    }
    assert!(!removal.contains("KUBE"), "{removal}");
    assert_eq!(removal_text(&Found::default()), "");
}

#[test]
fn every_deviation_that_verdicts_show_is_met_by_random_packets() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut met = BTreeSet::new();
    let mut verdicts = BTreeSet::new();
    for _ in 0..12_000 {
        let tree = (samples(), settings(), packet()).new_tree(&mut runner).unwrap();
        let (samples, settings, packet) = tree.current();
        let view = super::mk_view(&samples);
        let state = State {
            view: &view,
            settings: &settings,
        };
        let intent = Intent::of(&view, settings.clone());
        let (wanted, deviation) = expected(&packet, &intent, &own(), verdict(&packet, state));
        met.extend(deviation);
        verdicts.extend(wanted.into_iter().map(|verdict| match verdict {
            Verdict::Translated { masqueraded, .. } => format!("Translated, masqueraded: {masqueraded}"),
            other @ (Verdict::Untouched | Verdict::Rejected | Verdict::Dropped | Verdict::Untranslated) => {
                format!("{other:?}")
            }
        }));
    }
    let shown = Deviation::ALL.into_iter().filter(|deviation| deviation.shows());
    assert!(met.iter().copied().eq(shown), "{met:?}");
    assert_eq!(verdicts.len(), 5, "{verdicts:?}");
}

#[test]
fn inside_a_client_stays_by_its_address_and_outside_for_the_timeout() {
    let mut view = mk_view(Protocol::Tcp, TrafficPolicy::Local, &[1, 2]);
    let mut service = (*view.services[&key(0)]).clone();
    service.affinity = SessionAffinity::ClientIp { timeout_seconds: 90 };
    view.services.insert(key(0), Arc::new(service));
    let installed = synced(&Intent::of(&view, cluster(&[]).settings().clone()));
    let configs: Vec<String> = installed
        .servers()
        .map(|(key, server)| format!("{key} {}", server.config))
        .collect();
    assert_eq!(
        configs,
        [
            "-t 10.96.0.1:80 -s rr -p 90",
            "-t 192.0.2.1:80 -s rr -p 90",
            "-f 3154116608 -s mh -b mh-fallback",
        ],
        "{}",
        Deviation::InsideAffinityWithoutTimeout
    );
}
