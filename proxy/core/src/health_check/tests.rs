// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;

use berth_model::{
    Conditions, Endpoint, EndpointHints, EndpointPort, PortName, Protocol, ServicePort, SessionAffinity,
};

use super::*;

const TERMINATING: Conditions = Conditions {
    ready: false,
    serving: true,
    terminating: true,
};
const UNREADY: Conditions = Conditions {
    ready: false,
    serving: false,
    terminating: false,
};

fn key() -> ServiceKey {
    ServiceKey::new("shop", "web")
}

fn here() -> NodeName {
    NodeName::new("node-1")
}

fn mk_service() -> Service {
    Service {
        key: key(),
        uid: "uid-web".to_owned(),
        created: 0,
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        external_ips: vec![],
        load_balancer: vec![],
        load_balancer_class: None,
        ports: vec![ServicePort {
            name: PortName::new("http"),
            protocol: Protocol::Tcp,
            port: 80.try_into().unwrap(),
            node_port: None,
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        affinity: SessionAffinity::None,
        source_ranges: None,
        health_check_node_port: Port::new(32_000),
    }
}

fn mk_endpoint(ip: &str, node: &str, conditions: Conditions) -> Endpoint {
    Endpoint {
        ip: ip.parse().unwrap(),
        port: 8080.try_into().unwrap(),
        conditions,
        node: Some(NodeName::new(node)),
        zone: None,
        hints: EndpointHints::default(),
    }
}

fn mk_view(service: Service, endpoints: &[(&str, &[Endpoint])]) -> View {
    let ports = endpoints.iter().map(|(name, list)| {
        let port = EndpointPort {
            name: PortName::new(*name),
            protocol: Protocol::Tcp,
        };
        (port, list.to_vec())
    });
    View {
        endpoints: BTreeMap::from([(service.key.clone(), Arc::new(ports.collect()))]),
        services: BTreeMap::from([(service.key.clone(), Arc::new(service))]),
    }
}

fn checks(view: &View, node: Option<&NodeName>) -> HealthChecks {
    let mut checks = HealthChecks::default();
    checks.update(view, &BTreeSet::from([key()]), node);
    checks
}

fn counts(endpoints: &[(&str, &[Endpoint])], node: Option<&NodeName>) -> (usize, usize) {
    let checks = checks(&mk_view(mk_service(), endpoints), node);
    let weight = |family| checks.answer(&key(), family, true).weight;
    (weight(IpFamily::V4), weight(IpFamily::V6))
}

#[test]
fn distinct_ready_addresses_on_this_node_are_counted_by_family() {
    let ready = |ip, node| mk_endpoint(ip, node, Conditions::READY);
    let node = here();
    for (what, endpoints, expected) in [
        ("nothing", vec![], (0, 0)),
        ("one here", vec![ready("10.1.0.1", "node-1")], (1, 0)),
        ("one elsewhere", vec![ready("10.1.0.1", "node-2")], (0, 0)),
        (
            "both families",
            vec![
                ready("10.1.0.1", "node-1"),
                ready("fd01::1", "node-1"),
                ready("fd01::2", "node-1"),
            ],
            (1, 2),
        ),
        (
            "terminating",
            vec![mk_endpoint("10.1.0.1", "node-1", TERMINATING)],
            (0, 0),
        ),
        (
            "not ready",
            vec![mk_endpoint("10.1.0.1", "node-1", UNREADY)],
            (0, 0),
        ),
    ] {
        assert_eq!(counts(&[("http", &endpoints)], Some(&node)), expected, "{what}");
    }
    let two = [ready("10.1.0.1", "node-1"), ready("10.1.0.2", "node-1")];
    assert_eq!(
        counts(&[("http", &two), ("https", &two[..1])], Some(&node)),
        (2, 0),
        "an address on two ports is one"
    );
    assert_eq!(counts(&[("http", &two)], None), (0, 0), "no node, nothing local");
    let no_node = Endpoint {
        node: None,
        ..ready("10.1.0.1", "")
    };
    assert_eq!(counts(&[("http", &[no_node])], Some(&node)), (0, 0));
}

#[test]
fn only_load_balancers_with_local_policy_and_a_port_are_checked() {
    let local = || Some(here());
    let has = |change: fn(&mut Service)| {
        let mut service = mk_service();
        change(&mut service);
        let listeners = checks(&mk_view(service, &[]), local().as_ref()).listeners(&NodePortAddresses::all());
        let addresses: Vec<String> = listeners
            .iter()
            .map(|listener| listener.address.to_string())
            .collect();
        addresses.join(" ")
    };
    assert_eq!(has(|_| {}), "0.0.0.0:32000 [::]:32000");
    assert_eq!(has(|service| service.cluster_ips.truncate(1)), "0.0.0.0:32000");
    assert_eq!(has(|service| service.kind = ServiceKind::NodePort), "");
    assert_eq!(
        has(|service| service.external_policy = TrafficPolicy::Cluster),
        ""
    );
    assert_eq!(has(|service| service.health_check_node_port = None), "");
}

#[test]
fn the_answer_depends_on_local_endpoints_and_on_the_proxy() {
    let ready = [mk_endpoint("10.1.0.1", "node-1", Conditions::READY)];
    let checks = checks(&mk_view(mk_service(), &[("http", &ready)]), Some(&here()));
    let answer = |family, healthy| checks.answer(&key(), family, healthy);
    for (family, healthy, status, weight) in [
        (IpFamily::V4, true, 200, 1),
        (IpFamily::V4, false, 503, 1),
        (IpFamily::V6, true, 503, 0),
        (IpFamily::V6, false, 503, 0),
    ] {
        let answer = answer(family, healthy);
        assert_eq!(
            (answer.status, answer.weight),
            (status, weight),
            "{family} {healthy}"
        );
    }
    assert_eq!(
        answer(IpFamily::V4, true).body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
         \t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}"
    );
    let unknown = checks.answer(&ServiceKey::new("shop", "gone"), IpFamily::V4, true);
    assert_eq!((unknown.status, unknown.weight), (503, 0));
}

#[test]
fn listeners_follow_the_port_and_not_the_endpoints() {
    let node = here();
    let mut checks = HealthChecks::default();
    let all = NodePortAddresses::all();
    let mut step = |view: &View, open: &BTreeSet<Listener>| {
        checks.update(view, &BTreeSet::from([key()]), Some(&node));
        let wanted = checks.listeners(&all);
        (ListenerPlan::new(open, &wanted).to_string(), wanted)
    };
    let mut service = mk_service();
    service.cluster_ips.truncate(1);
    let (plan, open) = step(&mk_view(service.clone(), &[]), &BTreeSet::new());
    assert_eq!(plan, "open 0.0.0.0:32000 for shop/web\n");
    let ready = [mk_endpoint("10.1.0.1", "node-1", Conditions::READY)];
    let (plan, open) = step(&mk_view(service.clone(), &[("http", &ready)]), &open);
    assert_eq!(plan, "", "an endpoint came");
    service.health_check_node_port = Port::new(32_001);
    let (plan, open) = step(&mk_view(service, &[]), &open);
    assert_eq!(
        plan,
        "close 0.0.0.0:32000 for shop/web\nopen 0.0.0.0:32001 for shop/web\n"
    );
    let (plan, open) = step(&View::default(), &open);
    assert_eq!(plan, "close 0.0.0.0:32001 for shop/web\n");
    assert!(ListenerPlan::new(&open, &open).is_empty());
}

#[test]
fn selected_addresses_bind_one_listener_each_and_a_family_without_any_binds_none() {
    let checks = checks(&mk_view(mk_service(), &[]), None);
    let only =
        |v4: &[&str]| NodePortAddresses::all().only(IpFamily::V4, v4.iter().map(|ip| ip.parse().unwrap()));
    let addresses = |on: &NodePortAddresses| -> Vec<String> {
        let listeners = checks.listeners(on);
        listeners
            .iter()
            .map(|listener| listener.address.to_string())
            .collect()
    };
    assert_eq!(
        addresses(&only(&["192.0.2.1", "192.0.2.2"])),
        ["192.0.2.1:32000", "192.0.2.2:32000", "[::]:32000"]
    );
    assert_eq!(addresses(&only(&[])), ["[::]:32000"]);
}
