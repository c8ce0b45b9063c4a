// SPDX-License-Identifier: Apache-2.0
use super::*;

fn service(json: serde_json::Value) -> api::Service {
    serde_json::from_value(json).unwrap()
}

fn web(spec: serde_json::Value, status: serde_json::Value) -> api::Service {
    service(serde_json::json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": "u", "creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": spec, "status": status,
    }))
}

#[test]
fn a_dual_stack_load_balancer_comes_over_whole() {
    let converted = convert_service(&web(
        serde_json::json!({
            "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}],
            "loadBalancerClass": "berth.dev/bare-metal", "externalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": [" 192.0.2.0/24 "],
        }),
        serde_json::json!({"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "only.example"},
        ]}}),
    ));
    let service = converted.service.unwrap();
    assert_eq!(converted.skipped, []);
    assert_eq!((service.kind, service.created), (ServiceKind::LoadBalancer, 60));
    assert_eq!(
        service.cluster_ips,
        ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]
    );
    assert_eq!(service.ports[0].node_port.map(Port::get), Some(30080));
    assert_eq!(
        service
            .load_balancer
            .iter()
            .map(|entry| entry.mode)
            .collect::<Vec<_>>(),
        [IpMode::Vip, IpMode::Proxy]
    );
    assert_eq!(service.external_policy, TrafficPolicy::Local);
    assert_eq!(
        service.affinity,
        SessionAffinity::ClientIp {
            timeout_seconds: 10_800
        }
    );
    assert_eq!(service.source_ranges, Some(vec!["192.0.2.0/24".parse().unwrap()]));
}

#[test]
fn services_without_a_data_path_are_none_without_complaint() {
    for spec in [
        serde_json::json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        serde_json::json!({"type": "ExternalName", "externalName": "x.example", "clusterIP": "10.0.0.1"}),
        serde_json::json!({"clusterIP": ""}),
    ] {
        assert_eq!(
            convert_service(&web(spec.clone(), serde_json::Value::Null)),
            Converted {
                service: None,
                skipped: vec![]
            },
            "{spec}"
        );
    }
}

#[test]
fn a_bad_value_is_skipped_and_the_rest_stays() {
    let converted = convert_service(&web(
        serde_json::json!({
            "clusterIP": "10.0.0.1", "externalIPs": ["192.0.2.9", "nonsense"],
            "ports": [{"port": 0}, {"port": 80}, {"port": 81, "protocol": "QUIC"}],
            "loadBalancerSourceRanges": ["10.0.0.0/99"],
        }),
        serde_json::Value::Null,
    ));
    let service = converted.service.unwrap();
    assert_eq!(
        (
            service.external_ips.len(),
            service.ports.len(),
            service.source_ranges
        ),
        (1, 1, Some(vec![]))
    );
    assert_eq!(converted.skipped.len(), 4);
    assert!(
        converted
            .skipped
            .iter()
            .any(|skip| skip.to_string().contains("\"nonsense\""))
    );
}

#[test]
fn source_ranges_restrict_whether_they_can_be_read_or_not() {
    for (written, read) in [
        (serde_json::Value::Null, None),
        (serde_json::json!([]), None),
        (serde_json::json!(["10.0.0.0/99"]), Some(vec![])),
        (serde_json::json!([""]), Some(vec![])),
        (
            serde_json::json!(["nonsense", "10.1.2.3/8"]),
            Some(vec!["10.0.0.0/8".parse().unwrap()]),
        ),
    ] {
        let spec = serde_json::json!({"clusterIP": "10.0.0.1", "loadBalancerSourceRanges": written.clone()});
        let converted = convert_service(&web(spec, serde_json::Value::Null));
        assert_eq!(converted.service.unwrap().source_ranges, read, "{written}");
    }
}

#[test]
fn a_left_over_status_of_another_type_is_no_address() {
    let converted = convert_service(&web(
        serde_json::json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30000}]}),
        serde_json::json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
    ));
    let service = converted.service.unwrap();
    assert_eq!(
        (service.load_balancer.len(), service.ports[0].node_port),
        (0, None)
    );
}

#[test]
fn leading_zeros_are_decimal() {
    for (text, ip) in [
        ("010.000.0.01", Some("10.0.0.1")),
        ("192.0.2.1", Some("192.0.2.1")),
        ("fd00::1", Some("fd00::1")),
        ("1.2.3", None),
        ("1.2.3.4.5", None),
        ("1.2.3.999", None),
        ("1..3.4", None),
        ("+1.2.3.4", None),
    ] {
        assert_eq!(parse_ip(text), ip.map(|ip| ip.parse().unwrap()), "{text}");
    }
}
