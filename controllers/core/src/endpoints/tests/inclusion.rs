// SPDX-License-Identifier: Apache-2.0

use k8s_openapi::api::core::v1::{PodIP, ServicePort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::fixtures::*;

#[test]
fn pods_are_ready_not_ready_or_left_out() {
    type Edit = fn(&mut berth_snapshot::pod::PodManifest);
    let unready: Edit = |pod| pod.status.conditions = vec![mk_condition(false)];
    let terminating: Edit = |pod| pod.metadata.deletion_timestamp = Some(Time(at(300)));
    let finished: Edit = |pod| pod.status.phase = Some("Succeeded".to_owned());
    let failed: Edit = |pod| pod.status.phase = Some("Failed".to_owned());
    let addressless: Edit = |pod| {
        pod.status.pod_ip = None;
        pod.status.pod_ips.clear();
    };
    // What becomes of it ordinarily, and with publishNotReadyAddresses.
    let ip: &[&str] = &["10.244.0.1"];
    let (ready, not_ready, out) = (row(ip, &[], &[8080]), row(&[], ip, &[8080]), row(&[], &[], &[]));
    let rows: [(&str, Edit, [&Row; 2]); 6] = [
        ("ready", |_| {}, [&ready, &ready]),
        ("not ready", unready, [&not_ready, &ready]),
        ("terminating", terminating, [&out, &ready]),
        ("Succeeded", finished, [&out, &out]),
        ("Failed", failed, [&out, &out]),
        ("without address", addressless, [&out, &out]),
    ];
    for (name, edit, expected) in rows {
        for (publish, expected) in [false, true].into_iter().zip(expected) {
            let service = mk_service_with(|spec| spec.publish_not_ready_addresses = Some(publish));
            let mut world = World::new(service, vec![mk_pod_with(1, edit)]);
            let plan = world.converge();
            let shape = world.shape().pop().unwrap_or_else(|| out.clone());
            assert_eq!(&shape, expected, "{name}, publish {publish}");
            assert_eq!(
                plan.skips.is_empty(),
                expected != &out,
                "{name}, publish {publish}"
            );
        }
    }
}

#[test]
fn a_primary_address_alone_is_not_published() {
    let pod = mk_pod_with(1, |pod| pod.status.pod_ips.clear());
    let plan = World::with(vec![pod]).converge();
    assert_eq!(plan.skips.count(SkipReason::PodWithoutFamily), 1);
}

#[test]
fn two_pods_on_the_network_of_one_node_are_two_addresses() {
    let host = |number| mk_pod_with(number, |pod| pod.status.pod_ips[0].ip = "10.77.0.11".to_owned());
    let mut world = World::with(vec![host(1), host(2)]);
    world.converge();
    assert_eq!(world.shape(), [row(&["10.77.0.11", "10.77.0.11"], &[], &[8080])]);
}

/// A spec with these families and this ClusterIP.
fn families(names: &[&str], cluster_ip: &str) -> Service {
    mk_service_with(|spec| {
        spec.ip_families = Some(names.iter().map(|name| (*name).to_owned()).collect());
        spec.cluster_ip = Some(cluster_ip.to_owned());
    })
}

#[test]
fn the_family_is_the_first_of_the_spec_else_of_the_cluster_ip_else_of_the_pod() {
    let (v4, v6) = ("10.244.0.1", "fd00::1:1");
    // Families, ClusterIP, the Pod's primary address, the address published.
    let rows: [(&[&str], &str, &str, &str); 8] = [
        (&["IPv6", "IPv4"], "10.96.0.10", v4, v6),
        (&["IPv4", "IPv6"], "10.96.0.10", v6, v4),
        (&["IPv6"], "None", v4, v6),
        (&[], "10.96.0.10", v6, v4),
        (&[], "fd00:10:96::1", v4, v6),
        (&[], "None", v6, v6),
        (&[], "None", v4, v4),
        (&[], "", "", v4),
    ];
    for (names, cluster_ip, primary, expected) in rows {
        let pod = mk_pod_with(1, |pod| pod.status.pod_ip = Some(primary.to_owned()));
        let mut world = World::new(families(names, cluster_ip), vec![pod]);
        world.converge();
        let expected = [row(&[expected], &[], &[8080])];
        assert_eq!(world.shape(), expected, "{names:?} {cluster_ip:?} {primary:?}");
    }
}

#[test]
fn the_first_address_of_the_family_counts_and_is_canonical() {
    let pod = mk_pod_with(1, |pod| {
        let ips = ["fd00::9", "010.244.0.007", "10.244.0.8"];
        pod.status.pod_ips = ips.map(|ip| PodIP { ip: ip.to_owned() }).to_vec();
    });
    let mut world = World::with(vec![pod]);
    world.converge();
    assert_eq!(world.shape(), [row(&["10.244.0.7"], &[], &[8080])]);
}

#[test]
fn an_address_carries_its_node_even_if_empty_a_reference_and_a_hostname() {
    let pod = mk_pod_with(1, |pod| {
        pod.spec.hostname = Some("db-0".to_owned());
        pod.spec.subdomain = Some("web".to_owned());
    });
    let homeless = mk_pod_with(2, |pod| pod.spec.node_name = None);
    let mut world = World::with(vec![pod, homeless]);
    world.converge();
    let subset = world.current.unwrap().subsets.unwrap().remove(0);
    let addresses = subset.addresses.unwrap();
    assert_eq!(addresses[0].node_name.as_deref(), Some("node-1"));
    assert_eq!(addresses[0].hostname.as_deref(), Some("db-0"));
    assert_eq!(
        (addresses[1].node_name.as_deref(), &addresses[1].hostname),
        (Some(""), &None)
    );
    let target = addresses[0].target_ref.as_ref().unwrap();
    assert_eq!(target.name.as_deref(), Some("web-1"));
    assert_eq!((&target.resource_version, &target.api_version), (&None, &None));
}

#[test]
fn an_unresolved_port_leaves_out_the_pair_and_not_the_pod() {
    let ports = vec![
        mk_port("http", 80, IntOrString::String("web".to_owned())),
        mk_port("fixed", 81, IntOrString::Int(9000)),
    ];
    let service = mk_service_with(|spec| spec.ports = Some(ports));
    let listening = mk_pod_with(2, |pod| pod.spec.containers = vec![mk_container("web", 8080)]);
    let mut world = World::new(service, vec![Arc::new(mk_pod(1)), listening]);
    let plan = world.converge();
    let expected = [
        row(&["10.244.0.1", "10.244.0.2"], &[], &[9000]),
        row(&["10.244.0.2"], &[], &[8080]),
    ];
    assert_eq!(world.shape(), expected);
    assert_eq!(plan.skips.count(SkipReason::PortUnresolved), 1);
}

#[test]
fn a_port_copies_name_protocol_and_application_protocol() {
    let port = ServicePort {
        app_protocol: Some("http".to_owned()),
        protocol: Some("UDP".to_owned()),
        ..mk_port("quic", 443, IntOrString::Int(8443))
    };
    let service = mk_service_with(|spec| spec.ports = Some(vec![port]));
    let mut world = World::new(service, mk_pods(1..2));
    world.converge();
    let subset = world.current.unwrap().subsets.unwrap().remove(0);
    let expected = EndpointPort {
        name: Some("quic".to_owned()),
        port: 8443,
        protocol: Some("UDP".to_owned()),
        app_protocol: Some("http".to_owned()),
    };
    assert_eq!(subset.ports, Some(vec![expected]));
}

#[test]
fn without_ports_only_a_headless_service_publishes_addresses() {
    for (cluster_ip, expected) in [
        ("None", vec![row(&["10.244.0.1"], &[], &[])]),
        ("10.96.0.10", vec![]),
    ] {
        let service = mk_service_with(|spec| {
            spec.ports = None;
            spec.cluster_ip = Some(cluster_ip.to_owned());
        });
        let mut world = World::new(service, mk_pods(1..2));
        world.converge();
        assert_eq!(world.shape(), expected, "{cluster_ip}");
    }
}
