// SPDX-License-Identifier: Apache-2.0
//! Creates.

use super::*;

#[test]
fn families_and_addresses_of_a_new_service() {
    let ports = json!([{"port": 80}]);
    for (behaviour, spec, expected) in [
        (
            "one address of the primary family",
            json!({}),
            "serve: IPv4 any (SingleStack)",
        ),
        (
            "of the family asked for",
            json!({"ipFamilies": ["IPv6"]}),
            "serve: IPv6 any (SingleStack)",
        ),
        (
            "both, the primary first",
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            "serve: IPv4 any, IPv6 any (PreferDualStack)",
        ),
        (
            "both, the named first",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
            "serve: IPv6 any, IPv4 any (RequireDualStack)",
        ),
        (
            "the user's address, singular alone",
            json!({"clusterIP": "10.96.0.7"}),
            "serve: IPv4 10.96.0.7 wanted (SingleStack)",
        ),
        (
            "its family follows from it",
            json!({"clusterIP": "fd00::7", "clusterIPs": ["fd00::7"]}),
            "serve: IPv6 fd00::7 wanted (SingleStack)",
        ),
        (
            "the user's first, and any second",
            json!({"clusterIP": "fd00::7", "ipFamilyPolicy": "PreferDualStack"}),
            "serve: IPv6 fd00::7 wanted, IPv4 any (PreferDualStack)",
        ),
        (
            "a spelling that is not canonical stays",
            json!({"clusterIP": "FD00:0::7"}),
            "serve: IPv6 FD00:0::7 wanted (SingleStack)",
        ),
    ] {
        let spec = with(&spec, json!({"ports": ports}));
        assert_eq!(created(&spec), expected, "{behaviour}");
    }
}

#[test]
fn headless_services_and_external_names_need_no_address() {
    for (behaviour, spec, expected) in [
        (
            "headless has none",
            json!({"clusterIP": "None"}),
            "nothing to do: headless (SingleStack)",
        ),
        (
            "headless without selector is of both families",
            json!({"clusterIP": "None", "selector": {}}),
            "nothing to do: headless (RequireDualStack)",
        ),
        (
            "an external name has none",
            json!({"type": "ExternalName", "externalName": "a.example"}),
            "nothing to do: no cluster IP",
        ),
    ] {
        assert_eq!(created(&spec), expected, "{behaviour}");
    }
}

#[test]
fn families_that_are_inferred_are_told() {
    for (behaviour, cluster, spec, expected) in [
        (
            "headless",
            TWO_FAMILIES,
            json!({"clusterIP": "None"}),
            &[IpFamily::V4][..],
        ),
        (
            "headless without selector, whatever the cluster has",
            ONE_FAMILY,
            json!({"clusterIP": "None", "selector": {}}),
            &IpFamily::ALL,
        ),
        (
            "preferring two where there is one",
            ONE_FAMILY,
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            &[IpFamily::V4],
        ),
    ] {
        let (Decision::Nothing(needs) | Decision::Serve(needs)) = decided(None, &spec, cluster) else {
            panic!("{behaviour}: left alone");
        };
        assert_eq!(needs.families, expected, "{behaviour}");
    }
}

#[test]
fn node_ports_of_a_new_service() {
    for (behaviour, spec, expected) in [
        ("none on a cluster IP", json!({"ports": [{"port": 80}]}), ""),
        (
            "one for each port number",
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}),
            "; node port of ports[0] any; node port of ports[1] any",
        ),
        (
            "ports with one number share it",
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 53, "protocol": "UDP"},
                {"name": "b", "port": 80}, {"name": "c", "port": 53}]}),
            "; node port of ports[0] any; node port of ports[1] any; node port of ports[2] that of ports[0]",
        ),
        (
            "and take the one that a later of them names",
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 53, "protocol": "UDP"},
                {"name": "c", "port": 53, "nodePort": 30053}]}),
            "; node port of ports[0] 30053 wanted; node port of ports[1] that of ports[0]",
        ),
        (
            "unless each names its own",
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 53, "protocol": "UDP", "nodePort": 30054},
                {"name": "c", "port": 53, "nodePort": 30053}]}),
            "; node port of ports[0] 30054 wanted; node port of ports[1] 30053 wanted",
        ),
        (
            "a load balancer without node ports keeps to what is asked for",
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30081}]}),
            "; node port of ports[1] 30081 wanted",
        ),
        (
            "a health check where external traffic stays",
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}),
            "; node port of ports[0] any; health-check node port any",
        ),
        (
            "and the one asked for",
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30010,
                "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}),
            "; health-check node port 30010 wanted",
        ),
        (
            "no health check on a node port",
            json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}),
            "; node port of ports[0] any",
        ),
    ] {
        let expected = format!("serve: IPv4 any (SingleStack){expected}");
        assert_eq!(created(&spec), expected, "{behaviour}");
    }
}

#[test]
fn ports_that_the_api_server_will_refuse_are_left_to_it() {
    let two_ports = |first: Value, second: Value| {
        json!({"type": "NodePort", "ports": [with(&json!({"name": "a", "port": 80}), first),
            with(&json!({"name": "b", "port": 81}), second)]})
    };
    for (spec, expected) in [
        (
            json!({"ports": [{"port": 80, "nodePort": 30080}]}),
            Invalid::NodePortWithoutType,
        ),
        (
            two_ports(json!({"nodePort": 70_000}), json!({})),
            Invalid::PortOutOfBounds,
        ),
        (
            two_ports(json!({"nodePort": -1}), json!({})),
            Invalid::PortOutOfBounds,
        ),
        (
            // Not so on an update.
            two_ports(
                json!({"nodePort": 30080}),
                json!({"nodePort": 30080, "protocol": "UDP"}),
            ),
            Invalid::NodePortTwice,
        ),
        (two_ports(json!({}), json!({"port": 80})), Invalid::PortTwice),
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30080,
                "ports": [{"port": 80, "nodePort": 30080}]}),
            Invalid::HealthCheckNodePortTwice,
        ),
        (
            json!({"type": "LoadBalancer", "healthCheckNodePort": 30080, "ports": [{"port": 80}]}),
            Invalid::HealthCheckNodePortWithoutNeed,
        ),
    ] {
        let found = decided(None, &spec, TWO_FAMILIES);
        assert_eq!(found, Decision::LeaveToServer(expected), "{spec}");
    }
}

#[test]
fn addresses_that_the_api_server_will_refuse_are_left_to_it() {
    for (spec, expected) in [
        (json!({"type": "Strange"}), Invalid::UnknownType),
        (json!({"ipFamilies": ["IPv5"]}), Invalid::UnknownFamily),
        (json!({"ipFamilyPolicy": "Strange"}), Invalid::UnknownPolicy),
        (
            json!({"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}),
            Invalid::FamilyTwice,
        ),
        (
            json!({"clusterIPs": ["10.96.0.7"]}),
            Invalid::PluralWithoutSingular,
        ),
        (
            json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.8"]}),
            Invalid::PluralDiffersFromSingular,
        ),
        (json!({"clusterIP": "010.96.0.7"}), Invalid::MalformedClusterIp),
        (
            json!({"clusterIP": "::ffff:10.96.0.7"}),
            Invalid::MalformedClusterIp,
        ),
        (
            json!({"clusterIP": "None", "clusterIPs": ["None", "10.96.0.7"]}),
            Invalid::NoneBesideAddress,
        ),
        (
            json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7", "10.96.0.8"]}),
            Invalid::TooManyClusterIps,
        ),
        (
            json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "10.96.0.8"]}),
            Invalid::ClusterIpsOfOneFamily,
        ),
        (
            json!({"clusterIP": "10.96.0.7", "ipFamilies": ["IPv6"]}),
            Invalid::ClusterIpOfOtherFamily,
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            Invalid::SingleStackWithTwo,
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None"}),
            Invalid::HeadlessWithNodePorts,
        ),
        (
            json!({"type": "ExternalName", "clusterIP": "10.96.0.7"}),
            Invalid::ExternalNameWithAddresses,
        ),
        (
            json!({"type": "ExternalName", "ipFamilyPolicy": "SingleStack"}),
            Invalid::ExternalNameWithAddresses,
        ),
    ] {
        let found = decided(None, &spec, TWO_FAMILIES);
        assert_eq!(found, Decision::LeaveToServer(expected), "{spec}");
    }
}

#[test]
fn what_the_cluster_does_not_have_is_left_to_the_api_server() {
    for (spec, expected) in [
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            Invalid::DualStackNotConfigured,
        ),
        (json!({"ipFamilies": ["IPv6"]}), Invalid::FamilyNotConfigured),
        (json!({"clusterIP": "fd00::7"}), Invalid::FamilyNotConfigured),
    ] {
        let found = decided(None, &spec, ONE_FAMILY);
        assert_eq!(found, Decision::LeaveToServer(expected), "{spec}");
    }
}
