// SPDX-License-Identifier: Apache-2.0
//! What users do: each case is one Service's life.

#![expect(clippy::too_many_lines, reason = "tables")]

use serde_json::{Value, json};

use super::step::Step;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) steps: Vec<Step>,
}

impl Case {
    pub(crate) fn told(&self, number: usize, step: &Step) -> String {
        format!("{}, step {}: {step:?}", self.name, number + 1)
    }
}

fn case(name: &'static str, steps: impl IntoIterator<Item = Step>) -> Case {
    Case {
        name,
        steps: steps.into_iter().collect(),
    }
}

const TWO: &str = "PreferDualStack";

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    let mut all = types();
    all.extend(values());
    all.extend(families());
    all.extend(ways());
    all
}

fn types() -> Vec<Case> {
    use Step::{Apply, Create, Patch, PatchRefused};
    vec![
        case(
            "a cluster IP becomes a node port, a load balancer and back",
            [
                Create(json!({})),
                Patch(json!({"type": "NodePort"})),
                Patch(json!({"type": "LoadBalancer"})),
                Patch(json!({"type": "NodePort"})),
                Patch(json!({"type": "ClusterIP"})),
                Patch(json!({"type": "LoadBalancer"})),
                Patch(json!({"type": "ClusterIP"})),
            ],
        ),
        case(
            "to ExternalName and back",
            [
                Create(json!({"type": "NodePort"})),
                Patch(json!({"type": "ExternalName", "externalName": "a.example"})),
                Patch(json!({"type": "ClusterIP", "externalName": null})),
                Patch(json!({"type": "ExternalName", "externalName": "a.example"})),
                Patch(json!({"type": "LoadBalancer", "externalName": null})),
            ],
        ),
        case(
            "ExternalName from the start, by apply",
            [
                Apply(json!({"type": "ExternalName", "externalName": "a.example"})),
                Apply(json!({"type": "ClusterIP"})),
            ],
        ),
        case(
            "headless stays headless",
            [
                Create(json!({"clusterIP": "None", "selector": {"app": "a"}})),
                Patch(json!({"clusterIP": "", "clusterIPs": null})),
                PatchRefused(json!({"clusterIP": "$ip1", "clusterIPs": ["$ip1"]})),
                PatchRefused(json!({"type": "NodePort"})),
                Patch(json!({"ipFamilyPolicy": TWO, "ipFamilies": ["IPv4", "IPv6"]})),
            ],
        ),
        case(
            "headless to ExternalName to a cluster IP",
            [
                Create(json!({"clusterIP": "None", "selector": {"app": "a"}})),
                Patch(
                    json!({"type": "ExternalName", "externalName": "a.example", "clusterIP": "", "clusterIPs": null}),
                ),
                Patch(json!({"type": "ClusterIP", "externalName": null})),
            ],
        ),
        case(
            "a health check comes and goes with the policy",
            [
                Create(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})),
                Patch(json!({"externalTrafficPolicy": "Cluster"})),
                Patch(json!({"externalTrafficPolicy": "Local"})),
                Patch(json!({"type": "NodePort"})),
            ],
        ),
        case(
            "a health check that is asked for",
            [
                Create(
                    json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": "$port1"}),
                ),
                PatchRefused(json!({"healthCheckNodePort": "$port2"})),
                Patch(json!({"externalTrafficPolicy": "Cluster"})),
            ],
        ),
        case(
            "a load balancer without node ports",
            [
                Create(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false})),
                Patch(json!({"allocateLoadBalancerNodePorts": true})),
                Patch(json!({"allocateLoadBalancerNodePorts": false})),
                Patch(json!({"ports": [{"name": "http", "port": 80, "nodePort": 0}]})),
            ],
        ),
    ]
}

fn values() -> Vec<Case> {
    use Step::{Apply, ApplyRefused, Create, CreateOutside, CreateRefused, Patch, PatchRefused, Replace};
    let two = |first: Value, second: Value| json!([first, second]);
    vec![
        case(
            "an address that is asked for",
            [
                Create(json!({"clusterIP": "$ip1"})),
                PatchRefused(json!({"clusterIP": "$ip2", "clusterIPs": ["$ip2"]})),
                ApplyRefused(json!({"clusterIP": "$ip2"})),
            ],
        ),
        case(
            "an address that is outside the cluster's range",
            [CreateOutside(json!({"clusterIP": "10.97.0.1"}))],
        ),
        case(
            "an address that is none",
            [CreateRefused(json!({"clusterIP": "10.96.0.300"}))],
        ),
        case(
            "a node port that is asked for, moved and given up",
            [
                Create(
                    json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": "$port1"}]}),
                ),
                Patch(json!({"ports": [{"port": 80, "nodePort": "$port2"}]})),
                Patch(json!({"ports": [{"port": 80, "nodePort": 0}]})),
                Patch(json!({"ports": [{"port": 80, "nodePort": "$port1"}]})),
            ],
        ),
        case(
            "a node port outside the range",
            [CreateOutside(
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 8080}]}),
            )],
        ),
        case(
            "a node port of a cluster IP",
            [CreateRefused(
                json!({"ports": [{"port": 80, "nodePort": "$port1"}]}),
            )],
        ),
        case(
            "two protocols of one port share a node port",
            [
                Create(json!({"type": "NodePort", "ports": two(
                json!({"name": "tcp", "port": 53}), json!({"name": "udp", "port": 53, "protocol": "UDP"}))})),
                Replace(json!({"type": "NodePort", "ports": two(
                json!({"name": "udp", "port": 53, "protocol": "UDP"}), json!({"name": "tcp", "port": 53}))})),
            ],
        ),
        case(
            "two protocols share the node port that one of them asks for",
            [Create(json!({"type": "NodePort", "ports": two(
                json!({"name": "tcp", "port": 53}),
                json!({"name": "udp", "port": 53, "protocol": "UDP", "nodePort": "$port1"}))}))],
        ),
        case(
            "two ports ask for one node port with two protocols",
            [CreateRefused(json!({"type": "NodePort", "ports": two(
                json!({"name": "tcp", "port": 53, "nodePort": "$port1"}),
                json!({"name": "udp", "port": 54, "protocol": "UDP", "nodePort": "$port1"}))}))],
        ),
        case(
            "ports come, swap names and go",
            [
                Apply(json!({"type": "NodePort"})),
                Apply(json!({"type": "NodePort", "ports": two(
                json!({"name": "http", "port": 80}), json!({"name": "more", "port": 81}))})),
                Apply(json!({"type": "NodePort", "ports": two(
                json!({"name": "more", "port": 80}), json!({"name": "http", "port": 81}))})),
                Apply(json!({"type": "NodePort", "ports": [{"name": "more", "port": 81}]})),
                Apply(json!({"type": "NodePort", "ports": two(
                json!({"name": "more", "port": 81}), json!({"name": "asked", "port": 82, "nodePort": "$port1"}))})),
            ],
        ),
    ]
}

fn families() -> Vec<Case> {
    use Step::{Create, CreateRefused, Patch, PatchRefused, Replace};
    vec![
        case(
            "one family, then two, then one",
            [
                Create(json!({})),
                Patch(json!({"ipFamilyPolicy": "RequireDualStack"})),
                Patch(json!({"ipFamilyPolicy": "SingleStack"})),
                Patch(json!({"ipFamilyPolicy": TWO, "ipFamilies": ["IPv4", "IPv6"]})),
                Patch(json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": null})),
            ],
        ),
        case(
            "the other family first",
            [
                Create(json!({"ipFamilyPolicy": TWO, "ipFamilies": ["IPv6", "IPv4"]})),
                PatchRefused(json!({"ipFamilies": ["IPv4", "IPv6"]})),
            ],
        ),
        case(
            "the other family alone",
            [
                Create(json!({"ipFamilies": ["IPv6"]})),
                Patch(json!({"ipFamilyPolicy": TWO})),
            ],
        ),
        case(
            "both addresses are asked for",
            [
                Create(json!({"ipFamilyPolicy": TWO, "clusterIP": "$ip1", "clusterIPs": ["$ip1", "$six1"]})),
                Patch(json!({"ipFamilyPolicy": "SingleStack"})),
            ],
        ),
        case(
            "one of two addresses is asked for",
            [Create(json!({"ipFamilyPolicy": TWO, "clusterIP": "$six1"}))],
        ),
        case(
            "the second address is asked for later",
            [
                Create(json!({})),
                Replace(json!({"ipFamilyPolicy": TWO, "ipFamilies": ["IPv4", "IPv6"]})),
            ],
        ),
        case(
            "only the plural is set",
            [CreateRefused(json!({"clusterIPs": ["$ip1"]}))],
        ),
        case(
            "two of one family",
            [CreateRefused(json!({"ipFamilies": ["IPv4", "IPv4"]}))],
        ),
        case(
            "two families and all kinds of ports",
            [
                Create(
                    json!({"type": "LoadBalancer", "ipFamilyPolicy": TWO, "externalTrafficPolicy": "Local",
                "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": "$port1"}]}),
                ),
                Patch(json!({"type": "ExternalName", "externalName": "a.example"})),
                Patch(json!({"type": "NodePort", "externalName": null})),
            ],
        ),
    ]
}

fn ways() -> Vec<Case> {
    use Step::{
        Apply, ApplyServerSide, Create, CreateRefused, Delete, Diff, DryRun, Edit, Imperative, Label, NoDiff,
        Patch, Replace, ReplaceForce, Selector,
    };
    vec![
        case(
            "apply, and the same again",
            [
                Apply(json!({"type": "NodePort"})),
                Apply(json!({"type": "NodePort"})),
                NoDiff(json!({"type": "NodePort"})),
                Diff(json!({"type": "NodePort", "ports": [{"name": "http", "port": 8080}]})),
                DryRun(json!({"type": "LoadBalancer"})),
                Apply(json!({"type": "NodePort", "ports": [{"name": "http", "port": 8080}]})),
                Apply(json!({})),
            ],
        ),
        case(
            "server-side apply, changed and with what was omitted",
            [
                ApplyServerSide(json!({"type": "NodePort"})),
                ApplyServerSide(
                    json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": "$port1"}]}),
                ),
                ApplyServerSide(json!({"type": "NodePort"})),
                ApplyServerSide(json!({"type": "ClusterIP"})),
                ApplyServerSide(json!({"ipFamilyPolicy": TWO})),
            ],
        ),
        case(
            "replace with omitted fields keeps what there is",
            [
                Create(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})),
                Replace(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})),
                Replace(json!({"type": "LoadBalancer"})),
                Replace(json!({"type": "NodePort"})),
                Replace(json!({})),
            ],
        ),
        case(
            "replace by force makes another one",
            [Create(json!({"type": "NodePort"})), ReplaceForce(json!({}))],
        ),
        case(
            "edit",
            [
                Create(json!({"type": "NodePort"})),
                Edit("s/port:.80/port: 81/"),
                Edit("s/type: NodePort/type: ClusterIP/;/nodePort:/d;/externalTrafficPolicy:/d"),
            ],
        ),
        case(
            "labels and selectors are nothing to the pools",
            [
                Create(json!({"type": "NodePort", "selector": {"app": "a"}})),
                Label,
                Selector,
                Patch(json!({"sessionAffinity": "ClientIP"})),
            ],
        ),
        case(
            "a dry run leaves nothing",
            [
                DryRun(json!({"type": "NodePort"})),
                DryRun(
                    json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilyPolicy": TWO}),
                ),
                Diff(json!({"type": "NodePort"})),
                Create(json!({"type": "NodePort"})),
            ],
        ),
        case(
            "a name that the API server makes up",
            [Create(json!({"generateName": "web-", "type": "NodePort"}))],
        ),
        case(
            "a name that is taken",
            [
                Create(json!({"type": "NodePort"})),
                CreateRefused(json!({"type": "NodePort"})),
            ],
        ),
        case(
            "deleted and made again",
            [
                Create(json!({"clusterIP": "$ip1"})),
                Delete,
                Create(json!({"clusterIP": "$ip1"})),
            ],
        ),
        case(
            "kubectl create service",
            [Imperative(&["clusterip", "web", "--tcp=80:8080", "-o", "name"])],
        ),
    ]
}
