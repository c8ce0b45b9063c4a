// SPDX-License-Identifier: Apache-2.0
//! Updates.

use super::*;

fn single() -> Value {
    json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": [{"name": "a", "port": 80}]})
}

fn dual() -> Value {
    with(
        &single(),
        json!({"clusterIPs": ["10.96.0.9", "fd00::9"], "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack"}),
    )
}

fn balanced() -> Value {
    with(
        &single(),
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30010,
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}]}),
    )
}

#[test]
fn what_an_update_omits_is_kept() {
    let manifest = json!({"ports": [{"name": "a", "port": 80}]});
    for (behaviour, old, new, expected) in [
        (
            "the address",
            single(),
            manifest.clone(),
            "nothing to do: IPv4 10.96.0.9 kept (SingleStack)",
        ),
        (
            "both of them",
            dual(),
            manifest,
            "nothing to do: IPv4 10.96.0.9 kept, IPv6 fd00::9 kept (PreferDualStack)",
        ),
        (
            "node ports by the name of the port, and the health check",
            balanced(),
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "ports": [{"name": "b", "port": 443}, {"name": "a", "port": 80}]}),
            "nothing to do: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] 30002 kept; \
             node port of ports[1] 30001 kept; health-check node port 30010 kept",
        ),
        (
            "but not a node port that has gone to another port",
            balanced(),
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "ports": [{"name": "b", "port": 81}, {"name": "c", "port": 80, "nodePort": 30002}]}),
            "serve: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] any; node port of ports[1] 30002 kept; \
             health-check node port 30010 kept; gives back 30001",
        ),
        (
            "nor under another name",
            balanced(),
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "ports": [{"name": "z", "port": 80}]}),
            "serve: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] any; \
             health-check node port 30010 kept; gives back 30001, 30002",
        ),
    ] {
        assert_eq!(updated(&old, &new), expected, "{behaviour}");
    }
}

#[test]
fn families_come_and_go() {
    for (behaviour, old, fields, expected) in [
        (
            "a second address",
            single(),
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            "serve: IPv4 10.96.0.9 kept, IPv6 any (PreferDualStack)",
        ),
        (
            "a second address that the user names",
            single(),
            json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.96.0.9", "fd00::5"]}),
            "serve: IPv4 10.96.0.9 kept, IPv6 fd00::5 wanted (RequireDualStack)",
        ),
        (
            "back to one, by the policy alone",
            dual(),
            json!({"ipFamilyPolicy": "SingleStack"}),
            "nothing to do: IPv4 10.96.0.9 kept (SingleStack); gives back fd00::9",
        ),
        (
            "back to one, with the lists",
            dual(),
            json!({"ipFamilyPolicy": "SingleStack", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"]}),
            "nothing to do: IPv4 10.96.0.9 kept (SingleStack); gives back fd00::9",
        ),
        (
            "not by the lists alone",
            dual(),
            json!({"clusterIPs": ["10.96.0.9"]}),
            "left to the API server: DowngradeWithoutPolicy",
        ),
        (
            "never the first",
            single(),
            json!({"clusterIP": "10.96.0.8", "clusterIPs": null}),
            "left to the API server: ClusterIpChanged",
        ),
        (
            "nor to another second",
            dual(),
            json!({"clusterIPs": ["10.96.0.9", "fd00::8"]}),
            "left to the API server: ClusterIpChanged",
        ),
        (
            "nor to headless",
            single(),
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            "left to the API server: ClusterIpChanged",
        ),
    ] {
        assert_eq!(updated(&old, &with(&old, fields)), expected, "{behaviour}");
    }
}

#[test]
fn a_preference_for_two_that_has_one_is_upgraded_by_what_omits_a_field_and_not_by_what_repeats_all() {
    let old = with(&single(), json!({"ipFamilyPolicy": "PreferDualStack"}));
    let kept = "nothing to do: IPv4 10.96.0.9 kept (PreferDualStack)";
    let upgraded = "serve: IPv4 10.96.0.9 kept, IPv6 any (PreferDualStack)";
    for (fields, expected) in [
        (json!({}), kept),
        (json!({"clusterIP": null, "clusterIPs": null}), kept),
        (json!({"ipFamilies": null}), upgraded),
        (json!({"ipFamilyPolicy": null}), upgraded),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "serve: IPv4 10.96.0.9 kept, IPv6 any (RequireDualStack)",
        ),
        // Another type is another Service, in this respect.
        (
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}),
            upgraded,
        ),
    ] {
        assert_eq!(updated(&old, &with(&old, fields.clone())), expected, "{fields}");
    }
}

#[test]
fn headless_stays_headless_and_may_change_its_families() {
    let old = json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": []});
    let v6 = with(&old, json!({"ipFamilies": ["IPv6"]}));
    assert_eq!(updated(&old, &v6), "nothing to do: headless (SingleStack)");
    let omitted = json!({"ports": []});
    assert_eq!(updated(&old, &omitted), "nothing to do: headless (SingleStack)");
    let addressed = with(
        &old,
        json!({"clusterIP": "10.96.0.4", "clusterIPs": ["10.96.0.4"]}),
    );
    assert_eq!(
        updated(&old, &addressed),
        "left to the API server: ClusterIpChanged"
    );
}

#[test]
fn to_external_name_all_goes_and_from_there_all_comes() {
    let external = json!({"type": "ExternalName", "externalName": "a.example", "ports": [{"port": 80}]});
    let ports = json!([{"name": "a", "port": 80}]);
    for (behaviour, old, new, expected) in [
        (
            "to external name, all repeated",
            balanced(),
            with(&balanced(), json!({"type": "ExternalName"})),
            "nothing to do: no cluster IP; gives back 10.96.0.9, 30001, 30002, 30010",
        ),
        (
            "to external name, all omitted",
            balanced(),
            external.clone(),
            "nothing to do: no cluster IP; gives back 10.96.0.9, 30001, 30002, 30010",
        ),
        (
            "to external name with an address of its own",
            single(),
            with(
                &single(),
                json!({"type": "ExternalName", "clusterIPs": ["10.96.0.9", "fd00::3"]}),
            ),
            "left to the API server: ExternalNameWithAddresses",
        ),
        (
            "from external name, as if new",
            external.clone(),
            json!({"type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "ports": ports}),
            "serve: IPv4 any, IPv6 any (PreferDualStack); node port of ports[0] any",
        ),
        (
            "from external name with an address",
            external,
            json!({"clusterIP": "10.96.0.4", "ports": ports}),
            "serve: IPv4 10.96.0.4 wanted (SingleStack)",
        ),
    ] {
        assert_eq!(updated(&old, &new), expected, "{behaviour}");
    }
}

#[test]
fn a_type_changes() {
    for (behaviour, old, new, expected) in [
        (
            "to cluster IP, all repeated",
            balanced(),
            with(
                &balanced(),
                json!({"type": "ClusterIP", "externalTrafficPolicy": null}),
            ),
            "nothing to do: IPv4 10.96.0.9 kept (SingleStack); gives back 30001, 30002, 30010",
        ),
        (
            "to cluster IP with another node port",
            balanced(),
            with(
                &balanced(),
                json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30007}]}),
            ),
            "left to the API server: NodePortWithoutType",
        ),
        (
            "to node port, without the health check",
            balanced(),
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}),
            "nothing to do: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] 30001 kept; \
             node port of ports[1] 30002 kept; gives back 30010",
        ),
        (
            "to load balancer",
            single(),
            with(
                &single(),
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
            ),
            "serve: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] any; health-check node port any",
        ),
    ] {
        assert_eq!(updated(&old, &new), expected, "{behaviour}");
    }
}

#[test]
fn node_ports_move() {
    let health = "health-check node port 30010 kept";
    for (behaviour, fields, expected) in [
        (
            "to the one asked for",
            json!({"ports": [{"name": "a", "port": 80, "nodePort": 30005}]}),
            format!(
                "serve: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] 30005 wanted; {health}; \
                     gives back 30001, 30002"
            ),
        ),
        (
            "between ports",
            json!({"ports": [{"name": "a", "port": 80, "nodePort": 30002}, {"name": "b", "port": 81, "nodePort": 30001}]}),
            format!(
                "nothing to do: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] 30002 kept; \
                     node port of ports[1] 30001 kept; {health}"
            ),
        ),
        (
            "one of its own for each new port, shared `port` or not",
            json!({"ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "c", "port": 80, "protocol": "UDP"}]}),
            format!(
                "serve: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] 30001 kept; \
                     node port of ports[1] any; {health}; gives back 30002"
            ),
        ),
        (
            "one that is named twice, with two protocols, is shared",
            json!({"ports": [{"name": "c", "port": 80, "nodePort": 30005},
                {"name": "d", "port": 81, "nodePort": 30005, "protocol": "UDP"}]}),
            format!(
                "serve: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] 30005 wanted; \
                     node port of ports[1] that of ports[0]; {health}; gives back 30001, 30002"
            ),
        ),
        (
            "off, what is repeated stays",
            json!({"allocateLoadBalancerNodePorts": false}),
            format!(
                "nothing to do: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] 30001 kept; \
                     node port of ports[1] 30002 kept; {health}"
            ),
        ),
        (
            "off, what is omitted goes",
            json!({"allocateLoadBalancerNodePorts": false, "ports": [{"name": "a", "port": 80}]}),
            format!("nothing to do: IPv4 10.96.0.9 kept (SingleStack); {health}; gives back 30001, 30002"),
        ),
    ] {
        assert_eq!(
            updated(&balanced(), &with(&balanced(), fields)),
            expected,
            "{behaviour}"
        );
    }
}

#[test]
fn the_health_check_node_port_stays_where_it_is() {
    for (behaviour, fields, expected) in [
        (
            "not to the health check's",
            json!({"ports": [{"name": "a", "port": 80, "nodePort": 30010}]}),
            "left to the API server: NodePortTwice".to_owned(),
        ),
        (
            "the health check's does not move",
            json!({"healthCheckNodePort": 30011}),
            "left to the API server: HealthCheckNodePortChanged".to_owned(),
        ),
        (
            "it goes with the policy",
            json!({"externalTrafficPolicy": "Cluster"}),
            "nothing to do: IPv4 10.96.0.9 kept (SingleStack); node port of ports[0] 30001 kept; \
             node port of ports[1] 30002 kept; gives back 30010"
                .to_owned(),
        ),
    ] {
        assert_eq!(
            updated(&balanced(), &with(&balanced(), fields)),
            expected,
            "{behaviour}"
        );
    }
}

#[test]
fn a_number_that_an_external_name_carries_is_held_by_nobody() {
    let old = json!({"type": "ExternalName", "externalName": "a.example",
        "ports": [{"name": "a", "port": 80, "nodePort": 30001}]});
    let new = with(&old, json!({"type": "NodePort"}));
    assert_eq!(
        updated(&old, &new),
        "serve: IPv4 any (SingleStack); node port of ports[0] 30001 wanted"
    );
}

#[test]
fn a_service_from_before_dual_stack_is_read_as_the_api_server_reads_it() {
    let headful = json!({"clusterIP": "010.96.0.9", "ports": [{"port": 80}]});
    assert_eq!(
        updated(&headful, &json!({"ports": [{"port": 80}]})),
        "nothing to do: IPv4 010.96.0.9 kept (SingleStack)"
    );
    let headless = json!({"clusterIP": "None", "ports": []});
    assert_eq!(
        updated(&headless, &json!({"ports": []})),
        "nothing to do: headless (SingleStack)"
    );
    let unselected = with(&headless, json!({"selector": {}}));
    assert_eq!(
        updated(&unselected, &unselected),
        "nothing to do: headless (RequireDualStack)"
    );
}
