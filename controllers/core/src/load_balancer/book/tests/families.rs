// SPDX-License-Identifier: Apache-2.0
//! Which Services are served, and with which families.

use super::*;

/// Pool, families, policy, addresses given, condition.
const FAMILY_POLICIES: &[(&str, &str, &str, &str, &str)] = &[
    ("both", "IPv4", "SingleStack", "10.0.0.0", "True Allocated"),
    ("both", "IPv6", "SingleStack", "fd00::", "True Allocated"),
    (
        "both",
        "IPv4 IPv6",
        "PreferDualStack",
        "10.0.0.0 fd00::",
        "True Allocated",
    ),
    (
        "both",
        "IPv6 IPv4",
        "RequireDualStack",
        "fd00:: 10.0.0.0",
        "True Allocated",
    ),
    (
        "v4",
        "IPv4 IPv6",
        "PreferDualStack",
        "10.0.0.0",
        "True OneFamilyOnly",
    ),
    (
        "v4",
        "IPv4 IPv6",
        "RequireDualStack",
        "",
        "False FamilyNotAvailable",
    ),
    ("v4", "IPv6", "SingleStack", "", "False FamilyNotAvailable"),
];

#[test]
fn each_family_policy_gets_what_it_means() {
    for row @ (pool, families, policy, given, said) in FAMILY_POLICIES {
        let addresses: &[&str] = match *pool {
            "v4" => &["10.0.0.0/30"],
            _ => &["10.0.0.0/30", "fd00::/64"],
        };
        let mut book = book(&[mk_pool("lan", 1, addresses)]);
        let families: Vec<&str> = families.split(' ').collect();
        let mut service = mk_service("web", &families).policy(policy);
        settle(&mut book, &mut service);
        assert_eq!(listed(&service).join(" "), *given, "{row:?}");
        let (status, reason, _) = condition(&service);
        assert_eq!(format!("{status} {reason}"), *said, "{row:?}");
        let held = book.pools().held_by(&key_of(&service.metadata)).count();
        assert_eq!(
            held,
            given.split_whitespace().count(),
            "{row:?}: nothing is held that is not listed"
        );
    }
}

#[test]
fn a_service_whose_families_are_not_filled_in_yet_is_read_as_the_api_server_would() {
    for (cluster_ips, policy, expected) in [
        (None, None, &["10.0.0.0"][..]),
        (None, Some("RequireDualStack"), &["10.0.0.0", "fd00::"]),
        (Some(vec!["fd00:1::1".to_owned()]), None, &["fd00::"]),
    ] {
        let mut service = mk_service("web", &[]).spec(|spec| {
            spec.cluster_ips = cluster_ips;
            spec.ip_family_policy = policy.map(str::to_owned);
        });
        settle(&mut book(&lan()), &mut service);
        assert_eq!(listed(&service), expected);
    }
}

#[test]
fn only_services_of_our_class_are_served() {
    for (case, class, type_, default_provider, outcome) in [
        (
            "our class",
            Some(BARE_METAL_CLASS),
            "LoadBalancer",
            false,
            "Allocated",
        ),
        (
            "no class, default provider",
            None,
            "LoadBalancer",
            true,
            "Allocated",
        ),
        ("no class", None, "LoadBalancer", false, "NoClass"),
        (
            "another class",
            Some("example.com/lb"),
            "LoadBalancer",
            true,
            "OtherClass",
        ),
        ("another type", None, "ClusterIP", true, "NotALoadBalancer"),
    ] {
        let mut book = LoadBalancers::new(Settings {
            default_provider,
            ..Settings::default()
        });
        book.set_pools(&lan());
        let mut service = mk_service("web", V4).spec(|spec| {
            spec.load_balancer_class = class.map(str::to_owned);
            spec.type_ = Some(type_.to_owned());
        });
        let plan = turn(&mut book, &mut service);
        assert_eq!(plan.outcome.as_str(), outcome, "{case}");
        assert_eq!(plan.is_empty(), outcome != "Allocated", "{case}");
    }
}
