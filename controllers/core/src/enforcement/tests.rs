// SPDX-License-Identifier: Apache-2.0
//! What is rendered of pools. What API servers make of it is tested on one: `e2e/tests/enforcement`.

use serde_json::{Value, json};

use super::*;

fn add_addresses(observed: &mut Observed, name: &str, second: i64, spec: &Value) {
    let mut spec = spec.clone();
    spec["use"] = json!("ClusterIP");
    let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "AddressPool", "spec": spec,
        "metadata": {"name": name, "generation": 1 + second, "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z")}});
    let pool = serde_json::from_value(pool).unwrap();
    observed.address_pools.insert(name.to_owned(), pool);
}

fn add_ports(observed: &mut Observed, name: &str, spec: &Value) {
    let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "NodePortPool", "spec": spec,
        "metadata": {"name": name, "generation": 1, "creationTimestamp": "2026-01-02T03:04:05Z"}});
    observed
        .port_pools
        .insert(name.to_owned(), serde_json::from_value(pool).unwrap());
}

fn planned(observed: &Observed, action: Action) -> Plan {
    plan(observed, &Exemptions::with(["berth-system".to_owned()]), action)
}

fn expression(plan: &Plan, subject: Subject, variable: &str) -> String {
    let spec = plan.of(subject).unwrap().policy.spec.as_ref().unwrap();
    let mut variables = spec.variables.iter().flatten();
    variables
        .find(|found| found.name == variable)
        .unwrap()
        .expression
        .clone()
}

fn teams() -> Observed {
    let mut observed = Observed::default();
    let a = json!({"addresses": ["10.96.8.0/24", "fd00:10:96::800/120"], "selector": {"namespaces": ["team-a"],
        "namespaceSelector": {"matchLabels": {"team": "a"}}, "serviceSelector": {"matchExpressions": [
        {"key": "tier", "operator": "NotIn", "values": ["it's \"odd\"\n"]}, {"key": "web", "operator": "Exists"}]}},
        "reservations": [{"address": "10.96.8.7", "namespace": "team-b", "name": "dns"}]});
    add_addresses(&mut observed, "team-a", 1, &a);
    let b = json!({"addresses": ["10.96.9.5-10.96.9.9"], "draining": true, "priority": 5});
    add_addresses(&mut observed, "team-b", 2, &b);
    let overlapping = json!({"addresses": ["10.96.8.128/25"]});
    add_addresses(&mut observed, "late", 3, &overlapping);
    let claims = ("team-a".to_owned(), ["team-c".to_owned()].into());
    observed.claims.extend([claims]);
    let ports = json!({"ports": ["30000-30099", "30500"],
        "reservations": [{"port": 30007, "namespace": "team-b", "name": "dns", "portName": "udp"}]});
    add_ports(&mut observed, "ports", &ports);
    observed
}

#[test]
fn two_supplies_of_pools_are_two_policies() {
    let plan = planned(&teams(), Action::Deny);
    let said: String = plan.enforced.iter().map(ToString::to_string).collect();
    // For whoever changes an expression: this is the new file.
    let expected = include_str!("tests/policies.txt");
    assert_eq!(said, expected, "{said}");
}

#[test]
fn without_pools_there_is_nothing_to_hold() {
    let mut observed = Observed::default();
    assert_eq!(planned(&observed, Action::Deny), Plan::default());
    add_addresses(&mut observed, "lan", 1, &json!({"addresses": ["192.0.2.0/28"]}));
    let lan = observed.address_pools.get_mut("lan").unwrap();
    lan.spec.r#use = PoolUse::LoadBalancer;
    assert_eq!(planned(&observed, Action::Deny), Plan::default());
}

#[test]
fn what_the_operator_wants_ignored_is_reported_and_never_denied() {
    for (action, expected) in [
        (Action::Deny, vec!["Deny"]),
        (Action::Report, vec!["Warn", "Audit"]),
    ] {
        for enforced in planned(&teams(), action).enforced {
            let binding = enforced.binding.spec;
            assert_eq!(binding.validation_actions, expected);
            // Whatever is the action, what can't be evaluated stops nothing.
            let policy = enforced.policy.spec.unwrap();
            assert_eq!(policy.failure_policy.as_deref(), Some("Ignore"));
            let params = binding.param_ref.unwrap();
            assert_eq!(params.parameter_not_found_action.as_deref(), Some("Allow"));
        }
    }
}

#[test]
fn a_pool_that_is_wrong_is_not_held_and_is_named() {
    let mut observed = teams();
    add_addresses(
        &mut observed,
        "bad",
        4,
        &json!({"addresses": ["nonsense", "10.96.20.0/24"]}),
    );
    let plan = planned(&observed, Action::Deny);
    let said: Vec<String> = plan.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("AddressPool bad is not enforced while its spec has faults"));
    assert!(said[1].starts_with("AddressPool late is not enforced while it overlaps AddressPool team-a"));
    // They still say where Services may have a value that they select.
    let names = expression(&plan, Subject::ClusterIps, "names");
    assert_eq!(names, r#"["team-b","team-a","late","bad"]"#);
    let enforced = expression(&plan, Subject::ClusterIps, "enforced");
    assert_eq!(enforced, r#"["team-b","team-a"]"#);
}

#[test]
fn a_hundred_pools_with_sixteen_ranges_each_are_held() {
    let mut observed = Observed::default();
    for pool in 0..100 {
        let cidrs = (0..15).map(|range| format!("10.{pool}.{}.0/24", range * 2));
        let ranges: Vec<String> = cidrs
            .chain([format!("10.{pool}.31.3-10.{pool}.31.250")])
            .collect();
        let spec = json!({"addresses": ranges, "selector": {"namespaces": [format!("team-{pool}")]}});
        let name = format!("pool-{pool}");
        add_addresses(&mut observed, &name, pool % 60, &spec);
    }
    let plan = planned(&observed, Action::Deny);
    assert_eq!(plan.left_out.len(), 0, "{}", plan.left_out[0]);
}

#[test]
fn what_is_too_large_is_left_out_and_then_nobody_is_told_to_stay_in_a_pool() {
    let mut observed = teams();
    // No two of these are neighbours, and IPv6 CIDRs are long.
    let entry = |pool: u32, entry: u32| format!("fd00:1234:5678:{pool:x}::{entry:x}01");
    for pool in 0..40 {
        let addresses: Vec<String> = (0..256).map(|index| entry(pool, index)).collect();
        let name = format!("scattered-{pool:02}");
        add_addresses(&mut observed, &name, 10, &json!({"addresses": addresses}));
    }
    let plan = planned(&observed, Action::Deny);
    let reasons: Vec<&str> = plan.left_out.iter().map(|left| left.reason.as_str()).collect();
    assert!(reasons.contains(&"TooLarge"), "{reasons:?}");
    let enforced = plan.of(Subject::ClusterIps).unwrap();
    let spec = enforced.policy.spec.as_ref().unwrap();
    for variable in spec.variables.iter().flatten() {
        assert!(variable.expression.len() <= TABLE + 2, "{}", variable.name);
        assert_ne!(variable.name, "straying");
    }
    assert_eq!(spec.validations.iter().flatten().count(), 1);
    // Node ports are another policy.
    let ports = plan.of(Subject::NodePorts).unwrap().policy.spec.as_ref().unwrap();
    assert_eq!(ports.validations.iter().flatten().count(), 2);
}
