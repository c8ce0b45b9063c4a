// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use berth_model::{
    Conditions, Endpoint, EndpointHints, EndpointPort, IpFamily, IpMode, LoadBalancerIngress, PortName,
    Service, ServiceKey, ServiceKind, ServicePort, SessionAffinity, TrafficPolicy, View,
};

use super::*;
use crate::Intent;
use crate::Settings;
use crate::nft::{Scope, diff};

fn mk_target(n: u8) -> Target {
    Target {
        ip: [10, 0, 0, n].into(),
        port: 53.try_into().unwrap(),
    }
}

fn mk_view(protocol: Protocol, serving: &[u8]) -> View {
    let key = ServiceKey::new("shop", "dns");
    let port = ServicePort {
        name: PortName::default(),
        protocol,
        port: 53.try_into().unwrap(),
        node_port: None,
    };
    let service = Service {
        key: key.clone(),
        uid: "u".to_owned(),
        created: 1,
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![[10, 96, 0, 10].into()],
        external_ips: vec![],
        load_balancer: vec![],
        load_balancer_class: None,
        ports: vec![port],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: SessionAffinity::None,
        source_ranges: None,
        health_check_node_port: None,
    };
    let endpoints = serving
        .iter()
        .map(|n| Endpoint {
            ip: mk_target(*n).ip,
            port: mk_target(*n).port,
            conditions: Conditions::READY,
            node: None,
            zone: None,
            hints: EndpointHints::default(),
        })
        .collect();
    let join = EndpointPort {
        name: PortName::default(),
        protocol,
    };
    View {
        services: BTreeMap::from([(key.clone(), Arc::new(service))]),
        endpoints: BTreeMap::from([(key, Arc::new(BTreeMap::from([(join, endpoints)])))]),
    }
}

fn vip() -> Frontend {
    Frontend::Vip {
        ip: [10, 96, 0, 10].into(),
        protocol: Protocol::Udp,
        port: 53.try_into().unwrap(),
    }
}

#[test]
fn flows_are_looked_at_when_an_endpoint_left_or_the_first_one_came() {
    for (behaviour, before, after, looked_at) in [
        ("first endpoint", vec![], vec![1], true),
        ("one more", vec![1], vec![1, 2], false),
        ("one left", vec![1, 2], vec![2], true),
        ("replaced", vec![1], vec![2], true),
        ("last one left", vec![1], vec![], true),
        ("same", vec![1], vec![1], false),
    ] {
        let key = ServiceKey::new("shop", "dns");
        let mut intent = Intent::empty(Settings::default());
        let mut flows = Flows::default();
        let touched = intent.update(&mk_view(Protocol::Udp, &before), [&key]);
        assert!(
            !flows.changed(&touched, &intent).is_empty(),
            "{behaviour}: unknown before"
        );
        let touched = intent.update(&mk_view(Protocol::Udp, &after), [&key]);
        let stale = flows.changed(&touched, &intent);
        assert_eq!(!stale.is_empty(), looked_at, "{behaviour}");
        if looked_at {
            for n in 1..=3 {
                assert_eq!(
                    stale.is_stale(&vip(), mk_target(n)),
                    !after.contains(&n),
                    "{behaviour}: {n}"
                );
            }
        }
    }
}

#[test]
fn a_service_that_went_takes_its_flows_along() {
    let key = ServiceKey::new("shop", "dns");
    let mut intent = Intent::empty(Settings::default());
    let mut flows = Flows::default();
    let touched = intent.update(&mk_view(Protocol::Udp, &[1]), [&key]);
    flows.changed(&touched, &intent);
    let touched = intent.update(&View::default(), [&key]);
    assert!(flows.changed(&touched, &intent).is_stale(&vip(), mk_target(1)));
    assert_eq!(flows, Flows::default());
}

#[test]
fn tcp_flows_are_left_alone() {
    let key = ServiceKey::new("shop", "dns");
    let mut intent = Intent::empty(Settings::default());
    let touched = intent.update(&mk_view(Protocol::Tcp, &[1]), [&key]);
    assert!(Flows::default().changed(&touched, &intent).is_empty());
}

#[test]
fn flows_of_a_service_that_went_unwatched_are_looked_at() {
    let delay = std::time::Duration::ZERO;
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let before = Intent::of(&mk_view(protocol, &[1]), Settings::default());
        let mut installed = Installed::default();
        let plan = diff(IpFamily::V4, &installed, &before, Scope::All, delay, delay);
        plan.stages.iter().for_each(|stage| installed.apply(stage, delay));
        assert!(StaleFlows::unclaimed(&installed, &before).is_empty());
        let after = Intent::empty(Settings::default());
        let stale = StaleFlows::unclaimed(&installed, &after);
        assert_eq!(stale.is_stale(&vip(), mk_target(1)), protocol == Protocol::Udp);
    }
}

#[test]
fn flows_to_node_ports_are_told_by_the_machines_own_addresses() {
    let port = |n: u16| n.try_into().unwrap();
    let node_port = Frontend::NodePort {
        family: IpFamily::V4,
        protocol: Protocol::Udp,
        port: port(30_053),
    };
    // The Service has lost its last endpoint: all of its flows are stale.
    let stale = StaleFlows {
        allowed: BTreeMap::from([(node_port, Arc::from([]))]),
        ..StaleFlows::default()
    };
    let own = BTreeSet::from([[192, 0, 2, 1].into()]);
    let flow = |last: u8, number: u16, translated| Flow {
        source: [203, 0, 113, 5].into(),
        destination: Target {
            ip: [192, 0, 2, last].into(),
            port: port(number),
        },
        replies_from: mk_target(1),
        translated,
    };
    for (what, flow, with_own, without) in [
        ("translated, to us", flow(1, 30_053, true), true, true),
        ("black hole, to us", flow(1, 30_053, false), true, false),
        ("passing through", flow(2, 30_053, false), false, false),
        ("somebody else's translation", flow(2, 30_053, true), false, true),
        ("another port", flow(1, 30_054, true), false, false),
    ] {
        assert_eq!(stale.is_stale_flow(&flow, Some(&own)), with_own, "{what}");
        assert_eq!(
            stale.is_stale_flow(&flow, None),
            without,
            "{what}, addresses unknown"
        );
    }
    let serving = StaleFlows {
        allowed: BTreeMap::from([(node_port, Arc::from([mk_target(1)]))]),
        ..StaleFlows::default()
    };
    assert!(
        !serving.is_stale_flow(&flow(1, 30_053, true), Some(&own)),
        "it stays with its endpoint"
    );
}

#[test]
fn flows_of_clients_that_a_load_balancer_lets_in_no_more_are_stale() {
    let key = ServiceKey::new("shop", "dns");
    let lb: IpAddr = [192, 0, 2, 10].into();
    let view = |ranges: Option<&[&str]>| {
        let mut view = mk_view(Protocol::Udp, &[1]);
        for service in view.services.values_mut() {
            let service = Arc::make_mut(service);
            service.kind = ServiceKind::LoadBalancer;
            service.load_balancer = vec![LoadBalancerIngress {
                ip: lb,
                mode: IpMode::Vip,
            }];
            service.source_ranges = ranges.map(|nets| nets.iter().map(|net| net.parse().unwrap()).collect());
        }
        view
    };
    let flow = |ip: IpAddr, last: u8| Flow {
        source: [203, 0, 113, last].into(),
        destination: Target {
            ip,
            port: 53.try_into().unwrap(),
        },
        replies_from: mk_target(1),
        translated: true,
    };
    let mut intent = Intent::empty(Settings::default());
    let mut flows = Flows::default();
    // Which of the clients .1, .2 and .3 are to be forgotten; `None` where nobody is looked at.
    for (ranges, forgotten) in [
        (None, Some(vec![])),
        (Some(&["203.0.113.1/32", "203.0.113.2/32"][..]), Some(vec![3])),
        (Some(&["203.0.113.1/32", "203.0.113.2/32"]), None),
        (Some(&["203.0.113.2/32"]), Some(vec![1, 3])),
        (None, None),
    ] {
        let touched = intent.update(&view(ranges), [&key]);
        let stale = flows.changed(&touched, &intent);
        assert_eq!(!stale.is_empty(), forgotten.is_some(), "{ranges:?}");
        let of = |ip| -> Vec<u8> {
            let stale = |last: &u8| stale.is_stale_flow(&flow(ip, *last), None);
            (1..=3).filter(stale).collect()
        };
        assert_eq!(of(lb), forgotten.unwrap_or_default(), "{ranges:?}");
        assert_eq!(
            of([10, 96, 0, 10].into()),
            Vec::<u8>::new(),
            "the ClusterIP lets everybody in"
        );
    }
}
