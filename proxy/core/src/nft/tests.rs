// SPDX-License-Identifier: Apache-2.0
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_model::{
    Conditions, Endpoint, EndpointHints, EndpointPort, IpFamily, NodeName, PortName, Protocol, Service,
    ServiceKey, ServiceKind, ServicePort, SessionAffinity, TrafficPolicy, View,
};
use proptest::prelude::*;

use super::*;
use crate::names::{MapName, NumberMap, SetName};
use crate::walk::{Lookups, Packet, Ruleset, Verdict, verdicts, walk};
use crate::{AffinityNumber, Frontend, FrontendIntent, Intent, Outcome, Settings, SourceClass, Target};

mod affinity;
mod straddle;

const DELAY: Duration = Duration::from_millis(1_000);

/// A Service with a ClusterIP, an external IP that it may share with another, and a node port.
fn mk_service(n: u8, external_policy: TrafficPolicy) -> Service {
    Service {
        key: ServiceKey::new("shop", format!("s{n}")),
        uid: format!("uid-{n}"),
        created: i64::from(n),
        kind: ServiceKind::NodePort,
        cluster_ips: vec![[10, 96, 0, n].into()],
        external_ips: vec![[192, 0, 2, n % 2].into()],
        load_balancer: vec![],
        load_balancer_class: None,
        ports: vec![ServicePort {
            name: PortName::default(),
            protocol: Protocol::Tcp,
            port: 80.try_into().unwrap(),
            node_port: Some((30_000 + u16::from(n)).try_into().unwrap()),
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy,
        affinity: SessionAffinity::None,
        source_ranges: None,
        health_check_node_port: None,
    }
}

fn mk_endpoint(last: u8) -> Endpoint {
    Endpoint {
        ip: [10, 244, 0, last].into(),
        port: 8080.try_into().unwrap(),
        conditions: Conditions::READY,
        node: Some(NodeName::new(if last.is_multiple_of(2) {
            "here"
        } else {
            "there"
        })),
        zone: None,
        hints: EndpointHints::default(),
    }
}

fn settings() -> Settings {
    Settings {
        node: Some(NodeName::new("here")),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        ..Settings::default()
    }
}

fn mk_view(services: &BTreeMap<u8, BTreeSet<u8>>) -> View {
    let mut view = View::default();
    for (n, endpoints) in services {
        set_service(&mut view, *n, Some(endpoints), TrafficPolicy::Cluster);
    }
    view
}

fn set_service(view: &mut View, n: u8, endpoints: Option<&BTreeSet<u8>>, external: TrafficPolicy) {
    let service = mk_service(n, external);
    let key = service.key.clone();
    match endpoints {
        Some(endpoints) => {
            let join = EndpointPort {
                name: PortName::default(),
                protocol: Protocol::Tcp,
            };
            let endpoints = endpoints.iter().map(|last| mk_endpoint(*last)).collect();
            view.endpoints
                .insert(key.clone(), Arc::new(BTreeMap::from([(join, endpoints)])));
            view.services.insert(key, Arc::new(service));
        }
        None => {
            view.endpoints.remove(&key);
            view.services.remove(&key);
        }
    }
}

fn mk_intent(services: &[(u8, &[u8])]) -> Intent {
    let services = services
        .iter()
        .map(|(n, endpoints)| (*n, endpoints.iter().copied().collect()))
        .collect();
    Intent::of(&mk_view(&services), settings())
}

/// Where a packet from a Pod or from outside may go.
fn targets(intent: Option<&FrontendIntent>, source: SourceClass) -> Option<BTreeSet<Target>> {
    match intent?.handling(source).0 {
        Outcome::Endpoints(targets) => Some(targets.iter().copied().collect()),
        Outcome::Reject(_) | Outcome::Drop(_) => None,
    }
}

fn packet_to(frontend: &Frontend, source: SourceClass) -> Packet {
    let (destination, to_this_node) = match frontend {
        Frontend::Vip { ip, .. } => (*ip, false),
        Frontend::NodePort { .. } => ([10, 77, 0, 11].into(), true),
    };
    Packet {
        source: match source {
            SourceClass::Pod => [10, 244, 9, 9].into(),
            SourceClass::Host => [10, 77, 0, 11].into(),
            SourceClass::Outside => [203, 0, 113, 5].into(),
        },
        destination,
        protocol: frontend.protocol(),
        port: frontend.port(),
        to_this_node,
        from_this_node: source == SourceClass::Host,
        link: None,
    }
}

/// Carries out whatever there is to do at `now`; every intermediate state is recorded, a stage split
/// into two transactions at `split`.
fn carry_out(installed: &mut Installed, plan: &Plan, now: Duration, split: usize) -> Vec<Installed> {
    let mut states = Vec::new();
    for stage in &plan.stages {
        let (first, second) = stage.changes.split_at(split % (stage.changes.len() + 1));
        for part in [first, second].into_iter().filter(|part| !part.is_empty()) {
            let part = Stage {
                kind: stage.kind,
                changes: part.to_vec(),
            };
            installed.apply(&part, now);
            states.push(installed.clone());
        }
    }
    states
}

fn full_sync(intent: &Intent) -> Installed {
    let mut installed = Installed::default();
    let plan = diff(
        IpFamily::V4,
        &installed,
        intent,
        Scope::All,
        Duration::ZERO,
        DELAY,
    );
    carry_out(&mut installed, &plan, Duration::ZERO, 0);
    installed
}

fn plan_at(installed: &Installed, intent: &Intent, now_ms: u64) -> Plan {
    diff(
        IpFamily::V4,
        installed,
        intent,
        Scope::All,
        Duration::from_millis(now_ms),
        DELAY,
    )
}

type Shape = (Entry, [bool; 5], Vec<u32>, Vec<u32>, Vec<Target>);

/// The same but for which endpoint sits in which slot.
fn shape(installed: &Installed) -> Vec<Shape> {
    let of_entry = |(entry, state): (&Entry, &EntryState)| {
        let mut held: Vec<Target> = state.slots.values().copied().collect();
        held.sort();
        (
            *entry,
            [
                state.listed,
                state.refused,
                state.dropped,
                state.masqueraded,
                state.ranged,
            ],
            state.counts.iter().copied().collect(),
            state.slots.keys().copied().collect(),
            held,
        )
    };
    installed.entries.iter().map(of_entry).collect()
}

#[test]
fn growing_fills_slots_before_it_switches_counts() {
    let mut installed = full_sync(&mk_intent(&[(0, &[1])]));
    let plan = plan_at(&installed, &mk_intent(&[(0, &[1, 3])]), 0);
    insta::assert_snapshot!(plan, @r"
    # fill
    add element ip berth-proxy vip-slots { 10.96.0.0 . tcp . 80 . 1 : 10.244.0.3 . 8080 }
    add element ip berth-proxy vip-slots { 192.0.2.0 . tcp . 80 . 1 : 10.244.0.3 . 8080 }
    add element ip berth-proxy nodeport-slots { tcp . 30000 . 1 : 10.244.0.3 . 8080 }
    # switch
    add element ip berth-proxy vip-count-2 { 10.96.0.0 . tcp . 80 }
    add element ip berth-proxy vip-count-2 { 192.0.2.0 . tcp . 80 }
    add element ip berth-proxy nodeport-count-2 { tcp . 30000 }
    delete element ip berth-proxy vip-count-1 { 10.96.0.0 . tcp . 80 }
    delete element ip berth-proxy vip-count-1 { 192.0.2.0 . tcp . 80 }
    delete element ip berth-proxy nodeport-count-1 { tcp . 30000 }
    ");
    carry_out(&mut installed, &plan, Duration::ZERO, 0);
    assert_eq!(installed.next_retirement(DELAY), None);
}

#[test]
fn shrinking_replaces_in_place_and_retires_after_the_delay() {
    let mut installed = full_sync(&mk_intent(&[(0, &[1, 3])]));
    let smaller = mk_intent(&[(0, &[3])]);
    let plan = plan_at(&installed, &smaller, 0);
    insta::assert_snapshot!(
        plan.to_string().lines().filter(|line| !line.contains("192.0.2") && !line.contains("nodeport"))
            .collect::<Vec<_>>().join("\n"), @r"
    # fill
    delete element ip berth-proxy vip-slots { 10.96.0.0 . tcp . 80 . 0 }
    add element ip berth-proxy vip-slots { 10.96.0.0 . tcp . 80 . 0 : 10.244.0.3 . 8080 }
    # switch
    add element ip berth-proxy vip-count-1 { 10.96.0.0 . tcp . 80 }
    ");
    carry_out(&mut installed, &plan, Duration::ZERO, 0);
    assert!(plan_at(&installed, &smaller, 999).is_empty());
    insta::assert_snapshot!(
        plan_at(&installed, &smaller, 1_000).to_string().lines()
            .filter(|line| !line.contains("192.0.2") && !line.contains("nodeport")).collect::<Vec<_>>().join("\n"), @r"
    # retire
    delete element ip berth-proxy vip-count-2 { 10.96.0.0 . tcp . 80 }
    delete element ip berth-proxy vip-slots { 10.96.0.0 . tcp . 80 . 1 }
    ");
}

#[test]
fn verdicts_follow_the_state_of_the_service() {
    let layout = Layout::new(IpFamily::V4, &settings());
    let installed = full_sync(&mk_intent(&[(0, &[1, 2]), (1, &[])]));
    let seen = |source: [u8; 4], destination: [u8; 4], port: u16| {
        let packet = Packet {
            source: source.into(),
            destination: destination.into(),
            protocol: Protocol::Tcp,
            port: port.try_into().unwrap(),
            to_this_node: destination[1] == 77,
            from_this_node: false,
            link: None,
        };
        let verdicts = verdicts(&Ruleset::of(&layout), &layout, &installed, &packet);
        verdicts
            .iter()
            .map(|verdict| format!("{verdict:?}"))
            .collect::<Vec<_>>()
            .join(" or ")
    };
    let to_both = |masqueraded| {
        ["10.244.0.1:8080", "10.244.0.2:8080"]
            .map(|target| format!("Translated {{ target: {target}, masqueraded: {masqueraded} }}"))
            .join(" or ")
    };
    let (pod, outside) = ([10, 244, 3, 3], [203, 0, 113, 5]);
    assert_eq!(seen(pod, [10, 96, 0, 0], 80), to_both(false), "Pod to ClusterIP");
    assert_eq!(
        seen(outside, [10, 96, 0, 0], 80),
        to_both(true),
        "outside to ClusterIP"
    );
    assert_eq!(seen(pod, [192, 0, 2, 0], 80), to_both(true), "external address");
    assert_eq!(seen(outside, [10, 77, 0, 11], 30_000), to_both(true), "node port");
    assert_eq!(
        seen(outside, [127, 0, 0, 1], 30_000),
        "Untouched",
        "node port on loopback"
    );
    assert_eq!(seen(pod, [10, 96, 0, 1], 80), "Rejected", "no endpoint");
    assert_eq!(
        seen(outside, [10, 77, 0, 11], 30_001),
        "Rejected",
        "node port without endpoint"
    );
    assert_eq!(
        seen(pod, [10, 96, 0, 0], 81),
        "Rejected",
        "unknown port of a ClusterIP"
    );
    assert_eq!(seen(pod, [10, 77, 0, 12], 80), "Untouched", "no Service");
    // Only endpoint 2 is on this node; its own connection back to itself leaves with the node's address.
    assert_eq!(
        seen([10, 244, 0, 2], [10, 96, 0, 0], 80),
        "Translated { target: 10.244.0.1:8080, masqueraded: false } or \
         Translated { target: 10.244.0.2:8080, masqueraded: true }",
        "hairpin"
    );
}

#[test]
fn chains_and_rules_do_not_depend_on_how_many_services_there_are() {
    let small: Vec<(u8, &[u8])> = vec![(0, &[1, 2, 3])];
    let many: Vec<(u8, &[u8])> = (0..200).map(|n| (n, [1, 2, 3].as_slice())).collect();
    for services in [small, many] {
        let installed = full_sync(&mk_intent(&services));
        let plan = plan_at(&Installed::default(), &mk_intent(&services), 0);
        let layout = Layout::new(IpFamily::V4, &settings()).with_limit_for(plan.largest_count());
        assert_eq!(layout, Layout::new(IpFamily::V4, &settings()));
        assert!(!installed.is_empty());
    }
}

#[test]
fn the_limit_grows_in_steps_by_appending() {
    let small = Layout::new(IpFamily::V6, &Settings::default());
    let large = small.with_limit_for(100);
    assert_eq!((small.limit(), large.limit()), (64, 100));
    for (count, limit) in [
        (1, 64),
        (64, 64),
        (65, 68),
        (68, 68),
        (69, 72),
        (256, 256),
        (257, 256),
    ] {
        assert_eq!(small.with_limit_for(count).limit(), limit, "{count}");
    }
    assert_eq!(large.with_limit_for(3), large);
    assert_eq!(small.marker(), large.marker());
    assert_eq!(small.missing_sets(&large).len(), 4 * 36);
    let mut rules: BTreeMap<_, _> = small
        .chains()
        .into_iter()
        .map(|chain| (chain.name, chain.rules))
        .collect();
    for (chain, rule) in small.missing_rules(&large) {
        rules.get_mut(&chain).unwrap().push(rule);
    }
    assert_eq!(
        rules,
        large
            .chains()
            .into_iter()
            .map(|chain| (chain.name, chain.rules))
            .collect()
    );
    assert!(small.covers(8_192) && !small.covers(65) && large.covers(65));
}

#[test]
fn the_marker_tells_layouts_apart() {
    let with = |settings: &Settings| Layout::new(IpFamily::V4, settings).marker();
    assert_ne!(with(&settings()), with(&Settings::default()));
    assert_ne!(with(&Settings::new(15).unwrap()), with(&Settings::default()));
    assert_eq!(with(&settings()), with(&settings()));
}

#[test]
fn a_service_address_on_the_node_is_served_although_a_node_port_of_that_number_refuses() {
    let mut view = mk_view(&BTreeMap::from([(0, [1].into()), (1, [].into())]));
    let port = 30_001.try_into().unwrap();
    for service in view.services.values_mut() {
        if service.key == mk_service(0, TrafficPolicy::Cluster).key {
            Arc::make_mut(service).ports[0].port = port;
        }
    }
    let installed = full_sync(&Intent::of(&view, settings()));
    let layout = Layout::new(IpFamily::V4, &settings());
    let node_port = Frontend::NodePort {
        family: IpFamily::V4,
        protocol: Protocol::Tcp,
        port,
    };
    let to = |last: u8| Packet {
        destination: [192, 0, 2, last].into(),
        to_this_node: true,
        ..packet_to(&node_port, SourceClass::Outside)
    };
    let found = |last| verdicts(&Ruleset::of(&layout), &layout, &installed, &to(last));
    let endpoint = mk_endpoint(1);
    let served = Verdict::Translated {
        target: Target {
            ip: endpoint.ip,
            port: endpoint.port,
        },
        masqueraded: true,
    };
    assert_eq!(found(0), [served].into());
    assert_eq!(
        found(9),
        [Verdict::Rejected].into(),
        "elsewhere the node port refuses"
    );
}

#[test]
fn the_table_reads_like_this() {
    let installed = full_sync(&mk_intent(&[(0, &[1, 2]), (1, &[])]));
    let layout = Layout::new(IpFamily::V4, &settings()).with_affinity_timeouts([10_800]);
    let text = table_text(&layout, &installed.elements());
    // One set and one rule per count say enough.
    let shortened: Vec<&str> = text
        .split("\n\t}\n")
        .filter(|block| {
            ![
                "count-3", "count-4", "count-5", "count-6", "count-7", "count-8", "count-9", "0 {",
            ]
            .iter()
            .any(|skip| block.lines().next().is_some_and(|line| line.contains(skip)))
                && !block
                    .lines()
                    .next()
                    .is_some_and(|line| line.contains("count-1") && !line.contains("count-1 {"))
                && !block
                    .lines()
                    .next()
                    .is_some_and(|line| line.contains("count-2") && !line.contains("count-2 {"))
        })
        .collect();
    let lines = shortened.join("\n\t}\n");
    let shortened: Vec<&str> = lines
        .lines()
        .filter(|line| !line.contains("count-") || line.contains("count-1 ") || line.contains("count-65536"))
        .collect();
    insta::assert_snapshot!(shortened.join("\n"));
}
