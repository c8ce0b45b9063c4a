// SPDX-License-Identifier: Apache-2.0

use k8s_openapi::api::core::v1::{PodIP, ServicePort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::fixtures::*;
use crate::skips::SkipReason;

fn terminate(pod: &mut berth_snapshot::pod::PodManifest) {
    pod.metadata.deletion_timestamp = Some(Time(at(300)));
}

fn unready(pod: &mut berth_snapshot::pod::PodManifest) {
    pod.status.conditions = vec![mk_condition(false)];
}

#[test]
fn conditions_follow_readiness_termination_and_publish_not_ready_addresses() {
    type Edit = fn(&mut berth_snapshot::pod::PodManifest);
    let both: Edit = |pod| {
        terminate(pod);
        unready(pod);
    };
    let no_condition: Edit = |pod| pod.status.conditions.clear();
    // name, edit, published regardless of readiness: ready, serving, terminating
    let rows: [(&str, Edit, bool, [bool; 3]); 9] = [
        ("ready", |_| {}, false, [true, true, false]),
        ("not ready", unready, false, [false, false, false]),
        (
            "no Ready condition yet",
            no_condition,
            false,
            [false, false, false],
        ),
        ("terminating, still ready", terminate, false, [false, true, true]),
        ("terminating, not ready", both, false, [false, false, true]),
        ("published: ready", |_| {}, true, [true, true, false]),
        ("published: not ready", unready, true, [true, false, false]),
        ("published: terminating", terminate, true, [true, true, true]),
        (
            "published: terminating, not ready",
            both,
            true,
            [true, false, true],
        ),
    ];
    for (name, edit, publish, expected) in rows {
        let service = mk_service_with(|spec| spec.publish_not_ready_addresses = Some(publish));
        let mut world = World::new(service, vec![mk_pod_with(1, edit)]);
        world.converge();
        let conditions = world.endpoints()[0].conditions.clone().unwrap();
        let got = [conditions.ready, conditions.serving, conditions.terminating];
        assert_eq!(got, expected.map(Some), "{name}");
    }
}

#[test]
fn finished_and_addressless_pods_are_no_endpoints_even_if_not_ready_ones_are_published() {
    type Edit = fn(&mut berth_snapshot::pod::PodManifest);
    let rows: [(Edit, SkipReason); 3] = [
        (
            |pod| pod.status.phase = Some("Failed".to_owned()),
            SkipReason::PodFinished,
        ),
        (
            |pod| pod.status.phase = Some("Succeeded".to_owned()),
            SkipReason::PodFinished,
        ),
        (
            |pod| {
                pod.status.pod_ip = None;
                pod.status.pod_ips.clear();
            },
            SkipReason::PodWithoutAddress,
        ),
    ];
    for publish in [false, true] {
        for (edit, reason) in rows {
            let service = mk_service_with(|spec| spec.publish_not_ready_addresses = Some(publish));
            let mut world = World::new(service, vec![mk_pod_with(1, edit), Arc::new(mk_pod(2))]);
            let plan = world.converge();
            assert_eq!(world.endpoints().len(), 1, "{reason}, publish {publish}");
            assert_eq!(plan.skips.count(reason), 1, "{reason}, publish {publish}");
        }
    }
}

#[test]
fn an_endpoint_carries_node_zone_and_a_reference_to_its_pod() {
    let mut world = World::new(mk_service(), mk_pods(1..2));
    world.converge();
    let endpoint = &world.endpoints()[0];
    assert_eq!(endpoint.addresses, ["10.244.0.1"]);
    assert_eq!(endpoint.node_name.as_deref(), Some("node-1"));
    assert_eq!(endpoint.zone.as_deref(), Some("zone-a"));
    assert_eq!(endpoint.hostname, None);
    let target = endpoint.target_ref.as_ref().unwrap();
    assert_eq!(target.kind.as_deref(), Some("Pod"));
    assert_eq!(target.namespace.as_deref(), Some("shop"));
    assert_eq!(target.name.as_deref(), Some("web-1"));
    assert_eq!(target.uid.as_deref(), Some("uid-web-1"));
    assert_eq!((&target.resource_version, &target.api_version), (&None, &None));
}

#[test]
fn a_node_without_zone_gives_none_and_a_new_zone_is_written() {
    let pod = mk_pod_with(1, |pod| pod.spec.node_name = Some("node-3".to_owned()));
    let mut world = World::new(mk_service(), vec![pod]);
    world.converge();
    assert_eq!(world.endpoints()[0].zone, None);
    world.nodes = mk_nodes(&[("node-3", "zone-c")]);
    assert_eq!(world.converge().writes.update.len(), 1);
    assert_eq!(world.endpoints()[0].zone.as_deref(), Some("zone-c"));
}

#[test]
fn a_pod_on_an_unknown_node_is_skipped_for_a_retry_and_the_rest_is_written() {
    let on = |node: Option<&str>| {
        let node = node.map(str::to_owned);
        move |pod: &mut berth_snapshot::pod::PodManifest| pod.spec.node_name = node
    };
    let pods = vec![
        Arc::new(mk_pod(1)),
        mk_pod_with(2, on(Some("node-9"))),
        mk_pod_with(3, on(None)),
    ];
    let mut world = World::new(mk_service(), pods.clone());
    let plan = world.converge();
    assert_eq!(world.endpoints().len(), 1);
    assert_eq!(plan.skips.count(SkipReason::NodeUnknown), 2);

    let service = mk_service_with(|spec| spec.publish_not_ready_addresses = Some(true));
    let mut world = World::new(service, pods);
    let plan = world.converge();
    assert!(!plan.skips.has(SkipReason::NodeUnknown));
    let mut placed: Vec<_> = world
        .endpoints()
        .into_iter()
        .map(|endpoint| (endpoint.node_name, endpoint.zone))
        .collect();
    placed.sort();
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        (None, None),
        (text("node-1"), text("zone-a")),
        (text("node-9"), None),
    ];
    assert_eq!(placed, expected);
}

#[test]
fn a_hostname_is_published_only_where_the_subdomain_names_the_service() {
    let rows = [
        (Some("db-0"), Some("web"), "shop", Some("db-0")),
        (Some("db-0"), Some("other"), "shop", None),
        (Some("db-0"), None, "shop", None),
        (Some(""), Some("web"), "shop", None),
        (None, Some("web"), "shop", None),
        (Some("db-0"), Some("web"), "elsewhere", None),
    ];
    for (hostname, subdomain, namespace, expected) in rows {
        let pod = mk_pod_with(1, |pod| {
            pod.spec.hostname = hostname.map(str::to_owned);
            pod.spec.subdomain = subdomain.map(str::to_owned);
            pod.metadata.namespace = Some(namespace.to_owned());
        });
        let mut world = World::new(mk_service(), vec![pod]);
        world.converge();
        let got = world.endpoints()[0].hostname.clone();
        assert_eq!(got.as_deref(), expected, "{hostname:?} {subdomain:?} {namespace}");
    }
}

#[test]
fn addresses_are_canonical_and_of_the_slices_family() {
    let pod = mk_pod_with(1, |pod| {
        let ips = ["010.244.0.001", "FD00:0::1"];
        pod.status.pod_ips = ips.map(|ip| PodIP { ip: ip.to_owned() }).to_vec();
    });
    let service = mk_service_with(|spec| {
        spec.ip_families = Some(vec!["IPv6".to_owned(), "IPv4".to_owned()]);
    });
    let mut world = World::new(service, vec![pod]);
    world.converge();
    let mut shape = world.shape();
    shape.sort();
    let row = |family: &str, address: &str| (family.to_owned(), vec![8080], vec![address.to_owned()]);
    assert_eq!(shape, [row("IPv4", "10.244.0.1"), row("IPv6", "fd00::1")]);
}

type SpecEdit = fn(&mut k8s_openapi::api::core::v1::ServiceSpec);

/// What the spec says, and the families that get slices.
const FAMILIES: [(&str, SpecEdit, &[&str]); 6] = [
    ("single", |_| {}, &["IPv4"]),
    (
        "dual",
        |spec| spec.ip_families = Some(vec!["IPv6".to_owned(), "IPv4".to_owned()]),
        &["IPv4", "IPv6"],
    ),
    ("by IPv4 ClusterIP", |spec| spec.ip_families = None, &["IPv4"]),
    (
        "by IPv6 ClusterIP",
        |spec| {
            spec.ip_families = None;
            spec.cluster_ip = Some("fd00:10:96::1".to_owned());
        },
        &["IPv6"],
    ),
    (
        "headless",
        |spec| {
            spec.ip_families = None;
            spec.cluster_ip = Some("None".to_owned());
        },
        &["IPv4", "IPv6"],
    ),
    (
        "no ClusterIP yet",
        |spec| {
            spec.ip_families = Some(Vec::new());
            spec.cluster_ip = Some(String::new());
        },
        &["IPv4", "IPv6"],
    ),
];

#[test]
fn families_come_from_the_spec_else_the_cluster_ip_else_both() {
    for (name, edit, expected) in FAMILIES {
        let mut world = World::new(mk_service_with(edit), mk_pods(1..2));
        world.converge();
        let mut families: Vec<String> = world.shape().into_iter().map(|(family, ..)| family).collect();
        families.sort();
        assert_eq!(families, expected, "{name}");
    }
}

#[test]
fn a_pod_without_an_address_of_the_family_is_skipped() {
    let service = mk_service_with(|spec| spec.ip_families = Some(vec!["IPv6".to_owned()]));
    let pod = mk_pod_with(1, |pod| pod.status.pod_ips.truncate(1));
    let mut world = World::new(service, vec![pod]);
    let plan = world.converge();
    assert_eq!(plan.skips.count(SkipReason::PodWithoutFamily), 1);
    assert!(world.endpoints().is_empty());
}

fn named(ports: Vec<ServicePort>) -> Service {
    mk_service_with(|spec| spec.ports = Some(ports))
}

fn by_name(name: &str) -> ServicePort {
    mk_port("http", 80, IntOrString::String(name.to_owned()))
}

#[test]
fn a_named_target_port_is_found_by_name_and_protocol_in_containers_then_sidecars() {
    let sidecar = |mut container: berth_snapshot::pod::Container| {
        container.restart_policy = Some("Always".to_owned());
        container
    };
    let udp = || mk_container_of("web", 53, Some("UDP"));
    let rows = [
        ("a container", vec![mk_container("web", 8080)], vec![], vec![8080]),
        (
            "protocol defaults to TCP",
            vec![mk_container_of("web", 8080, None)],
            vec![],
            vec![8080],
        ),
        ("another protocol is no match", vec![udp()], vec![], vec![]),
        (
            "first match of right protocol",
            vec![udp(), mk_container("web", 81)],
            vec![],
            vec![81],
        ),
        (
            "a sidecar",
            vec![],
            vec![sidecar(mk_container("web", 82))],
            vec![82],
        ),
        (
            "a mere init container",
            vec![],
            vec![mk_container("web", 82)],
            vec![],
        ),
        (
            "containers before sidecars",
            vec![mk_container("web", 8080)],
            vec![sidecar(mk_container("web", 82))],
            vec![8080],
        ),
        ("another name", vec![mk_container("api", 8080)], vec![], vec![]),
    ];
    for (name, containers, init_containers, expected) in rows {
        let pod = mk_pod_with(1, |pod| {
            pod.spec.containers = containers;
            pod.spec.init_containers = init_containers;
        });
        let mut world = World::new(named(vec![by_name("web")]), vec![pod]);
        let plan = world.converge();
        let (_, ports, addresses) = world.shape().remove(0);
        assert_eq!(ports, expected, "{name}");
        assert_eq!(addresses.len(), 1, "{name}: the Pod stays, in a group of its own");
        assert_eq!(
            plan.skips.has(SkipReason::PortUnresolved),
            expected.is_empty(),
            "{name}"
        );
    }
}

#[test]
fn pods_that_resolve_a_name_differently_form_groups_of_slices() {
    let listening = |number: u16, port: i32| {
        mk_pod_with(number, |pod| {
            pod.spec.containers = vec![mk_container("web", port)]
        })
    };
    let pods = vec![listening(1, 8080), listening(2, 9090), listening(3, 8080)];
    let fixed = ServicePort {
        protocol: Some("UDP".to_owned()),
        ..mk_port("dns", 53, IntOrString::Int(5353))
    };
    let mut world = World::new(named(vec![by_name("web"), fixed]), pods);
    world.converge();
    let mut shape = world.shape();
    shape.sort();
    let row = |ports: [i32; 2], addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        ("IPv4".to_owned(), ports.to_vec(), addresses)
    };
    let expected = [
        row([8080, 5353], &["10.244.0.1", "10.244.0.3"]),
        row([9090, 5353], &["10.244.0.2"]),
    ];
    assert_eq!(shape, expected);
}

#[test]
fn an_absent_target_port_means_the_service_port() {
    for target in [
        None,
        Some(IntOrString::Int(0)),
        Some(IntOrString::String(String::new())),
    ] {
        let port = ServicePort {
            target_port: target.clone(),
            ..mk_port("http", 8081, IntOrString::Int(1))
        };
        let mut world = World::new(named(vec![port]), mk_pods(1..2));
        world.converge();
        assert_eq!(world.shape()[0].1, [8081], "{target:?}");
    }
}

#[test]
fn a_port_is_written_in_full_with_an_empty_name_if_it_has_none() {
    let port = ServicePort {
        app_protocol: Some("kubernetes.io/h2c".to_owned()),
        protocol: Some("SCTP".to_owned()),
        ..mk_port("", 80, IntOrString::Int(8080))
    };
    let mut world = World::new(named(vec![port]), mk_pods(1..2));
    world.converge();
    let port = world.server.slices()[0].ports.clone().unwrap().remove(0);
    assert_eq!(port.name.as_deref(), Some(""));
    assert_eq!(port.protocol.as_deref(), Some("SCTP"));
    assert_eq!(port.port, Some(8080));
    assert_eq!(port.app_protocol.as_deref(), Some("kubernetes.io/h2c"));
}

#[test]
fn a_service_without_ports_publishes_addresses_without_ports() {
    for cluster_ip in ["None", "10.96.0.10"] {
        let service = mk_service_with(|spec| {
            spec.ports = None;
            spec.cluster_ip = Some(cluster_ip.to_owned());
        });
        let mut world = World::new(service, mk_pods(1..2));
        world.converge();
        let expected = ("IPv4".to_owned(), vec![], vec!["10.244.0.1".to_owned()]);
        assert_eq!(world.shape(), [expected], "{cluster_ip}");
    }
}
