// SPDX-License-Identifier: Apache-2.0
//! IPAddresses of other managers, and ServiceCIDRs that are going.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn found(values: &Values) -> Vec<String> {
    let findings = values.findings();
    let texts = findings
        .iter()
        .map(|finding| format!("{} {}: {finding}", finding.as_str(), finding.subject()));
    texts.collect()
}

#[test]
fn an_address_that_others_manage_is_given_to_nobody_before_its_ip_address_is_gone() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    values.apply_foreign_address(ip("10.0.0.4"), Some("ipam.example"), at(0));
    assert_eq!(given(&mut values, 0, &plain("a", "one"), 0), "10.0.0.5");
    assert_eq!(
        given(&mut values, 1, &plain("a", "two"), 0),
        "PoolExhausted: no IPv4 cluster IP for Service a/two: AddressPool team-a is exhausted: 2 of 2 addresses given, 1 of \
         these on their way, 1 of these to IPAddresses that others than the API server manage; delete a Service that holds \
         one, or add addresses to it"
    );
    let mut wish = plain("a", "three");
    wish.asks[0].wish = Some(address("10.0.0.4"));
    assert_eq!(
        given(&mut values, 2, &wish, 0),
        "",
        "the API server says best why not"
    );
    values.remove_foreign_address(ip("10.0.0.4"), at(1));
    assert_eq!(given(&mut values, 1, &plain("a", "two"), 1), "10.0.0.4");
}

#[test]
fn outside_every_pool_what_others_manage_is_not_given_either() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    for octet in (1..=13).filter(|octet| ![4, 5].contains(octet)) {
        values.apply_foreign_address(IpAddr::from([10, 0, 0, octet]), None, at(0));
    }
    assert_eq!(given(&mut values, 0, &plain("b", "one"), 0), "10.0.0.14");
    assert!(given(&mut values, 1, &plain("b", "two"), 0).starts_with("RangeExhausted"));
    values.retain_foreign_addresses(&[ip("10.0.0.1")].into(), at(0));
    assert_ne!(given(&mut values, 1, &plain("b", "two"), 0), "10.0.0.1");
}

#[test]
fn what_others_have_of_a_pool_is_found_unless_a_service_has_it() {
    let mut values = cluster();
    values.apply_address_pool(&pool_of_two());
    values.apply_foreign_address(ip("10.0.0.4"), Some("ipam.example"), at(0));
    values.apply_foreign_address(ip("10.0.0.9"), None, at(0));
    let told = "Foreign IPAddress 10.0.0.4: 10.0.0.4 is of pool team-a, and no Service can be given it: its IPAddress is \
        managed by ipam.example, and not by the API server's allocator. Delete the IPAddress, or exclude the address from the \
        pool";
    assert_eq!(found(&values), [told]);
    let uses: Vec<Use> = values.uses().collect();
    assert!(
        uses.iter()
            .all(|one| one.holder == Holder::Foreign && one.ground == Ground::Foreign)
    );
    // The API server takes the IPAddress away from under a Service that has the address.
    let service = mk_service(&key("a/one"), 1, &[address("10.0.0.4")].into());
    values.apply_service(Shown::of(&service), at(1));
    assert_eq!(found(&values), [""; 0]);
    values.remove_service(&key("a/one"), at(2));
    assert_eq!(found(&values), [told]);
}

#[test]
fn a_range_in_which_only_others_have_addresses_is_no_services() {
    let mut values = cluster();
    let range = "10.0.0.0/28".parse().unwrap();
    values.apply_foreign_address(ip("10.0.0.4"), None, at(0));
    assert!(!values.is_range_in_use(&range));
    values.apply_claim(&mk_claim("sticky", 0, "a", "web", &["10.0.0.4"]), at(0));
    assert!(values.is_range_in_use(&range));
}

#[test]
fn an_address_whose_service_cidrs_are_all_being_deleted_is_found() {
    let mut values = cluster();
    let wide = ["10.0.0.0/24".to_owned()];
    let service = mk_service(&key("a/one"), 1, &[address("10.0.0.20"), port(30_001)].into());
    values.apply_service(Shown::of(&service), at(1));
    for (state, expected) in [
        (None, Some("OutOfRange")),
        (Some(CidrState::Gives), None),
        (Some(CidrState::Unready), None),
        (Some(CidrState::Terminating), Some("Terminating")),
    ] {
        if let Some(state) = state {
            values.apply_service_cidr("wide", &wide, state);
        }
        let reasons: Vec<&str> = values.findings().iter().map(Finding::as_str).collect();
        assert_eq!(reasons, Vec::from_iter(expected), "{state:?}");
    }
    assert_eq!(
        found(&values),
        [
            "Terminating Service a/one: 10.0.0.20 of Service a/one is in no ServiceCIDR but wide, which is being deleted and \
             stays until nobody has an address of it: create the Service anew, or add a ServiceCIDR around the address"
        ]
    );
    values.apply_service_cidr("wider", &["10.0.0.0/16".to_owned()], CidrState::Gives);
    assert_eq!(found(&values), [""; 0], "another one has it too");
}

#[test]
fn a_service_cidr_gives_unless_it_says_no_or_is_being_deleted() {
    let ready = |status: &str, reason: &str| {
        json!({"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z"}]})
    };
    let going = json!({"name": "a", "deletionTimestamp": "2026-01-02T03:04:05Z"});
    for (metadata, status, expected) in [
        (json!({"name": "a"}), json!(null), CidrState::Gives),
        (json!({"name": "a"}), ready("True", ""), CidrState::Gives),
        (json!({"name": "a"}), ready("False", "Broken"), CidrState::Unready),
        (
            json!({"name": "a"}),
            ready("False", "Terminating"),
            CidrState::Terminating,
        ),
        (going, ready("True", ""), CidrState::Terminating),
    ] {
        let object = json!({"metadata": metadata, "spec": {"cidrs": ["10.0.0.0/24"]}, "status": status});
        let object: ServiceCIDR = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(CidrState::of(&object), expected, "{object:?}");
    }
}
