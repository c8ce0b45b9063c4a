// SPDX-License-Identifier: Apache-2.0
//! What Services get, by behaviour; the long random histories are in `history.rs`.

use berth_crds::AddressPoolSpec;
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::super::plan::LbEvent;
use super::super::wish::CONDITION_ALLOCATED;
use super::*;

mod history;

const V4: &[&str] = &["IPv4"];
const DUAL: &[&str] = &["IPv4", "IPv6"];

pub(super) fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

pub(super) fn mk_pool(name: &str, created: i64, addresses: &[&str]) -> AddressPool {
    let mut pool = AddressPool::new(
        name,
        AddressPoolSpec {
            r#use: PoolUse::LoadBalancer,
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        },
    );
    pool.metadata.creation_timestamp = Some(at(created));
    pool
}

pub(super) fn mk_service(name: &str, families: &[&str]) -> Service {
    Service {
        metadata: ObjectMeta {
            namespace: Some("shop".to_owned()),
            name: Some(name.to_owned()),
            creation_timestamp: Some(at(100)),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("LoadBalancer".to_owned()),
            load_balancer_class: Some(BARE_METAL_CLASS.to_owned()),
            ip_families: Some(families.iter().map(|family| (*family).to_owned()).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

trait Changes: Sized {
    fn spec(self, change: impl FnOnce(&mut ServiceSpec)) -> Self;
    fn policy(self, policy: &str) -> Self;
    fn annotated(self, name: &str, value: &str) -> Self;
    fn listing(self, addresses: &[&str]) -> Self;
    fn born(self, second: i64) -> Self;
}

impl Changes for Service {
    fn spec(mut self, change: impl FnOnce(&mut ServiceSpec)) -> Self {
        change(self.spec.as_mut().unwrap());
        self
    }

    fn policy(self, policy: &str) -> Self {
        self.spec(|spec| spec.ip_family_policy = Some(policy.to_owned()))
    }

    fn annotated(mut self, name: &str, value: &str) -> Self {
        let annotations = self.metadata.annotations.get_or_insert_default();
        annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    fn listing(mut self, addresses: &[&str]) -> Self {
        let ingress = addresses.iter().map(|ip| LoadBalancerIngress {
            ip: Some((*ip).to_owned()),
            ip_mode: Some("VIP".to_owned()),
            ..LoadBalancerIngress::default()
        });
        self.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus {
            ingress: Some(ingress.collect()),
        });
        self
    }

    fn born(mut self, second: i64) -> Self {
        self.metadata.creation_timestamp = Some(at(second));
        self
    }
}

pub(super) fn listed(service: &Service) -> Vec<String> {
    wish::ingress(service)
        .iter()
        .filter_map(|entry| entry.ip.clone())
        .collect()
}

/// What the API server makes of a write.
pub(super) fn apply(service: &mut Service, write: &StatusWrite) {
    let status: &mut ServiceStatus = service.status.get_or_insert_default();
    if let Some(ingress) = &write.ingress {
        status.load_balancer = Some(LoadBalancerStatus {
            ingress: Some(ingress.clone()),
        });
    }
    if let Some(conditions) = &write.conditions {
        status.conditions = Some(conditions.clone());
    }
}

fn book(pools: &[AddressPool]) -> LoadBalancers {
    let mut book = LoadBalancers::new(Settings::default());
    book.set_pools(pools);
    book
}

/// One turn, written.
fn turn(book: &mut LoadBalancers, service: &mut Service) -> LbPlan {
    let plan = book.reconcile(&key_of(&service.metadata), Some(service), &at(1_000));
    if let Some(write) = &plan.write {
        apply(service, write);
    }
    plan
}

/// Turns until nothing is left to write; the last plan that said something.
fn settle(book: &mut LoadBalancers, service: &mut Service) -> LbPlan {
    let mut last = turn(book, service);
    for _ in 0..5 {
        let next = turn(book, service);
        if next.is_empty() {
            last.released.extend(next.released);
            return last;
        }
        last = next;
    }
    panic!("does not settle: {last}");
}

fn condition(service: &Service) -> (String, String, String) {
    let conditions = service.status.as_ref().unwrap().conditions.as_ref().unwrap();
    let ours = conditions
        .iter()
        .find(|condition| condition.type_ == CONDITION_ALLOCATED)
        .unwrap();
    (ours.status.clone(), ours.reason.clone(), ours.message.clone())
}

fn lan() -> Vec<AddressPool> {
    vec![mk_pool("lan", 1, &["10.0.0.0/29", "fd00::/64"])]
}

#[test]
fn each_family_policy_gets_what_it_means() {
    let (v4, both) = (&["10.0.0.0/30"][..], &["10.0.0.0/30", "fd00::/64"][..]);
    for (case, addresses, families, policy, expected, status, reason) in [
        (
            "single",
            both,
            V4,
            "SingleStack",
            &["10.0.0.0"][..],
            "True",
            "Allocated",
        ),
        (
            "single v6",
            both,
            &["IPv6"],
            "SingleStack",
            &["fd00::"],
            "True",
            "Allocated",
        ),
        (
            "prefer, both there",
            both,
            DUAL,
            "PreferDualStack",
            &["10.0.0.0", "fd00::"],
            "True",
            "Allocated",
        ),
        (
            "order of the spec",
            both,
            &["IPv6", "IPv4"],
            "RequireDualStack",
            &["fd00::", "10.0.0.0"],
            "True",
            "Allocated",
        ),
        (
            "prefer, one there",
            v4,
            DUAL,
            "PreferDualStack",
            &["10.0.0.0"],
            "True",
            "OneFamilyOnly",
        ),
        (
            "require, one there",
            v4,
            DUAL,
            "RequireDualStack",
            &[],
            "False",
            "FamilyNotAvailable",
        ),
        (
            "single, not there",
            v4,
            &["IPv6"],
            "SingleStack",
            &[],
            "False",
            "FamilyNotAvailable",
        ),
    ] {
        let mut book = book(&[mk_pool("lan", 1, addresses)]);
        let mut service = mk_service("web", families).policy(policy);
        settle(&mut book, &mut service);
        assert_eq!(listed(&service), expected, "{case}");
        let (is, why, _) = condition(&service);
        assert_eq!((is.as_str(), why.as_str()), (status, reason), "{case}");
        let held = book.pools().held_by(&key_of(&service.metadata)).count();
        assert_eq!(held, expected.len(), "{case}: nothing is held that is not listed");
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

#[test]
fn a_requested_address_is_given_whichever_way_it_is_asked_for() {
    for (case, service, expected) in [
        (
            "spec.loadBalancerIP",
            mk_service("web", V4).spec(|spec| spec.load_balancer_ip = Some("10.0.0.5".to_owned())),
            &["10.0.0.5"][..],
        ),
        (
            "our annotation",
            mk_service("web", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.5"),
            &["10.0.0.5"],
        ),
        (
            "MetalLB's annotation, both families",
            mk_service("web", DUAL).annotated("metallb.io/loadBalancerIPs", "fd00::9, 10.0.0.5"),
            &["10.0.0.5", "fd00::9"],
        ),
        (
            "MetalLB's deprecated annotation, one of two families",
            mk_service("web", DUAL).annotated("metallb.universe.tf/loadBalancerIPs", "fd00::9"),
            &["10.0.0.0", "fd00::9"],
        ),
        (
            "the current annotation before the deprecated one",
            mk_service("web", V4)
                .annotated("metallb.universe.tf/loadBalancerIPs", "10.0.0.4")
                .annotated("metallb.io/loadBalancerIPs", "10.0.0.5"),
            &["10.0.0.5"],
        ),
        (
            "field and annotation agree",
            mk_service("web", V4)
                .annotated("berth.dev/load-balancer-ips", "10.0.0.5")
                .spec(|spec| spec.load_balancer_ip = Some("10.0.0.5".to_owned())),
            &["10.0.0.5"],
        ),
        (
            "an empty annotation asks for nothing",
            mk_service("web", V4).annotated("berth.dev/load-balancer-ips", " "),
            &["10.0.0.0"],
        ),
    ] {
        let mut service = service;
        settle(&mut book(&lan()), &mut service);
        assert_eq!(listed(&service), expected, "{case}");
        assert_eq!(condition(&service).0, "True", "{case}");
    }
}

/// Requests that cannot be met: reason, and what the message must name.
fn bad_requests() -> Vec<(Service, &'static str, Vec<&'static str>)> {
    let ips = "berth.dev/load-balancer-ips";
    let pool = "berth.dev/address-pool";
    let web = |families| mk_service("web", families);
    vec![
        (
            web(V4).annotated(ips, "10.0.0.x"),
            "MalformedAddress",
            vec![ips, "10.0.0.x"],
        ),
        (
            web(V4).annotated(ips, "10.0.0.4,10.0.0.5"),
            "TwoOfOneFamily",
            vec![ips, "two IPv4"],
        ),
        (
            web(V4).annotated(ips, "fd00::9"),
            "FamilyNotInService",
            vec![ips, "fd00::9", "spec.ipFamilies"],
        ),
        (
            web(V4).annotated(ips, "192.0.2.1"),
            "AddressNotInAnyPool",
            vec![ips, "192.0.2.1"],
        ),
        (
            web(V4).annotated(ips, "10.0.0.7"),
            "AddressInUse",
            vec![ips, "10.0.0.7", "held by shop/holder"],
        ),
        (
            web(V4).spec(|spec| spec.load_balancer_ip = Some("10.0.0.7".to_owned())),
            "AddressInUse",
            vec!["spec.loadBalancerIP", "held by shop/holder"],
        ),
        (
            web(V4)
                .annotated(ips, "10.0.0.5")
                .spec(|spec| spec.load_balancer_ip = Some("10.0.0.6".to_owned())),
            "ConflictingRequests",
            vec![ips, "spec.loadBalancerIP", "10.0.0.6", "10.0.0.5"],
        ),
        (
            web(V4).annotated(pool, "wan"),
            "NoSuchPool",
            vec![pool, "AddressPool wan"],
        ),
        (
            web(V4).annotated(pool, "late"),
            "PoolNotUsable",
            vec![pool, "pool lan has 10.0.0.2-10.0.0.3 already"],
        ),
        (
            web(V4)
                .annotated(pool, "other")
                .annotated("metallb.io/loadBalancerIPs", "10.0.0.5"),
            "AddressNotInPool",
            vec!["10.0.0.5", "AddressPool other"],
        ),
        (
            web(V4).annotated(pool, "tiny"),
            "PoolExhausted",
            vec![pool, "AddressPool tiny"],
        ),
        (
            web(&["IPv6"]).annotated(pool, "other"),
            "FamilyNotAvailable",
            vec!["IPv6"],
        ),
    ]
}

fn book_with_holders() -> LoadBalancers {
    let mut book = book(&[
        mk_pool("lan", 1, &["10.0.0.0/29", "fd00::/64"]),
        mk_pool("late", 2, &["10.0.0.2-10.0.0.3"]),
        mk_pool("other", 3, &["10.0.1.0/29"]),
        mk_pool("tiny", 4, &["10.0.2.0"]),
    ]);
    for (name, address) in [("holder", "10.0.0.7"), ("small", "10.0.2.0")] {
        let mut holder = mk_service(name, V4).annotated("berth.dev/load-balancer-ips", address);
        settle(&mut book, &mut holder);
    }
    book
}

#[test]
fn a_request_that_cannot_be_met_names_field_value_and_holder_and_gives_nothing() {
    for (mut service, reason, named) in bad_requests() {
        let plan = settle(&mut book_with_holders(), &mut service);
        assert_eq!(listed(&service), Vec::<String>::new(), "{reason}");
        let (status, is, message) = condition(&service);
        assert_eq!((status.as_str(), is.as_str()), ("False", reason), "{message}");
        for name in named {
            assert!(message.contains(name), "{reason}: {name} not in {message}");
        }
        assert_eq!(
            plan.event,
            Some(LbEvent {
                warning: true,
                reason,
                message
            })
        );
    }
}

#[test]
fn a_request_that_cannot_be_met_never_costs_the_working_address() {
    for (bad, reason, _) in bad_requests() {
        let mut book = book_with_holders();
        let families: Vec<&str> = bad
            .spec
            .as_ref()
            .unwrap()
            .ip_families
            .as_ref()
            .unwrap()
            .iter()
            .map(String::as_str)
            .collect();
        let mut service = mk_service("web", &families);
        settle(&mut book, &mut service);
        let before = listed(&service);
        assert_eq!(before.len(), 1, "{reason}");
        service.metadata.annotations = bad.metadata.annotations.clone();
        service.spec = bad.spec.clone();
        settle(&mut book, &mut service);
        assert_eq!(listed(&service), before, "{reason}");
        let (status, is, message) = condition(&service);
        assert_eq!((status.as_str(), is.as_str()), ("False", reason));
        assert!(
            message.contains(&format!("Keeps the addresses: {}", before[0])),
            "{message}"
        );
    }
}

#[test]
fn a_changed_request_holds_the_old_address_until_the_new_status_is_seen() {
    let mut book = book(&lan());
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    let mut service = service.annotated("berth.dev/load-balancer-ips", "10.0.0.5");
    let plan = turn(&mut book, &mut service);
    assert_eq!(listed(&service), ["10.0.0.5"]);
    assert_eq!(
        plan.released,
        Vec::<IpAddr>::new(),
        "the write has not been seen yet"
    );
    let plan = turn(&mut book, &mut service);
    assert_eq!(plan.released, ["10.0.0.0".parse::<IpAddr>().unwrap()]);
    assert!(plan.is_empty());
}

#[test]
fn a_pool_by_annotation_is_the_only_one_asked_and_moving_to_it_keeps_the_old_address_till_then() {
    let pools = [
        mk_pool("lan", 1, &["10.0.0.0/29"]),
        mk_pool("dmz", 2, &["10.0.1.0"]),
    ];
    for annotation in super::super::ADDRESS_POOL_ANNOTATIONS {
        let mut book = book(&pools);
        let mut service = mk_service("web", V4);
        settle(&mut book, &mut service);
        let mut service = service.annotated(annotation, "dmz");
        settle(&mut book, &mut service);
        assert_eq!(listed(&service), ["10.0.1.0"], "{annotation}");
        let mut second = mk_service("api", V4);
        settle(&mut book, &mut second);
        let mut second = second.annotated(annotation, "dmz");
        settle(&mut book, &mut second);
        assert_eq!(listed(&second), ["10.0.0.1"], "{annotation}: dmz is full");
        assert_eq!(condition(&second).1, "PoolExhausted");
    }
}

#[test]
fn deletion_and_type_change_release_and_a_type_change_leaves_no_condition() {
    let mut book = book(&lan());
    let mut service = mk_service("web", DUAL);
    settle(&mut book, &mut service);
    let key = key_of(&service.metadata);
    // The API server empties status.loadBalancer itself when the type changes.
    let mut service = service
        .listing(&[])
        .spec(|spec| spec.type_ = Some("ClusterIP".to_owned()));
    let plan = turn(&mut book, &mut service);
    assert_eq!(
        (plan.outcome.as_str(), plan.released.len()),
        ("NotALoadBalancer", 2)
    );
    assert_eq!(service.status.as_ref().unwrap().conditions, Some(vec![]));
    assert!(turn(&mut book, &mut service).is_empty());

    let mut service = service.spec(|spec| spec.type_ = Some("LoadBalancer".to_owned()));
    settle(&mut book, &mut service);
    let plan = book.reconcile(&key, None, &at(1_000));
    assert_eq!((plan.outcome.as_str(), plan.released.len()), ("Gone", 2));
    assert_eq!(book.pools().owners().count(), 0);
}

#[test]
fn a_class_change_takes_off_what_we_gave_and_frees_it_once_that_is_seen() {
    let mut book = book(&lan());
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    let mut service = service.spec(|spec| spec.load_balancer_class = Some("example.com/lb".to_owned()));
    let plan = turn(&mut book, &mut service);
    assert_eq!((listed(&service).len(), plan.released.len()), (0, 0));
    let plan = turn(&mut book, &mut service);
    assert_eq!((plan.is_empty(), plan.released.len()), (true, 1));
}

#[test]
fn a_terminating_service_keeps_what_it_has_and_gets_nothing_new() {
    let mut book = book(&lan());
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    service.metadata.deletion_timestamp = Some(at(900));
    let plan = turn(&mut book, &mut service);
    assert!(plan.is_empty());
    assert_eq!(book.pools().held_by(&plan.key).count(), 1);
    let mut fresh = mk_service("api", V4);
    fresh.metadata.deletion_timestamp = Some(at(900));
    assert_eq!(turn(&mut book, &mut fresh).taken, []);
}

#[test]
fn a_status_that_berth_did_not_write_is_left_alone() {
    let host = |mut service: Service| {
        service.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus {
            ingress: Some(vec![LoadBalancerIngress {
                hostname: Some("lb.example.com".to_owned()),
                ..LoadBalancerIngress::default()
            }]),
        });
        service
    };
    for (case, service, named) in [
        (
            "an address of no pool",
            mk_service("web", V4).listing(&["203.0.113.9"]),
            "203.0.113.9",
        ),
        ("a host name", host(mk_service("web", V4)), "lb.example.com"),
        (
            "one of ours beside a stranger",
            mk_service("web", V4).listing(&["10.0.0.3", "203.0.113.9"]),
            "203.0.113.9",
        ),
    ] {
        let mut service = service;
        let mut book = book(&lan());
        book.adopt([&service]);
        let before = wish::ingress(&service).to_vec();
        settle(&mut book, &mut service);
        assert_eq!(wish::ingress(&service), before, "{case}");
        let (status, reason, message) = condition(&service);
        assert_eq!(
            (status.as_str(), reason.as_str()),
            ("False", "ForeignStatus"),
            "{case}"
        );
        assert!(message.contains(named), "{case}: {message}");
    }
    let mut other = mk_service("web", V4)
        .listing(&["10.0.0.3"])
        .spec(|spec| spec.load_balancer_class = Some("example.com/lb".to_owned()));
    let mut book = book(&lan());
    assert!(turn(&mut book, &mut other).is_empty());
    let mut ours = mk_service("api", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.3");
    settle(&mut book, &mut ours);
    assert_eq!(
        condition(&ours).1,
        "AddressInUse",
        "what another's status lists is not given"
    );
}

#[test]
fn a_wiped_status_gets_the_same_address_again() {
    let mut book = book(&lan());
    let mut first = mk_service("a", V4);
    settle(&mut book, &mut first);
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    let mut wiped = service.clone().listing(&[]);
    book.reconcile(&key_of(&first.metadata), None, &at(0));
    settle(&mut book, &mut wiped);
    assert_eq!(listed(&wiped), listed(&service));
}

#[test]
fn a_restart_gives_everyone_what_they_had_whatever_the_order() {
    let pools = [mk_pool("lan", 1, &["10.0.0.0/29"])];
    let mut first = book(&pools);
    let mut services: Vec<Service> = ["c", "a", "b"].iter().map(|name| mk_service(name, V4)).collect();
    for service in &mut services {
        settle(&mut first, service);
    }
    let before: Vec<_> = services.iter().map(listed).collect();
    // Created while the controller was down; asks for an address that "any" would pick next.
    services.push(mk_service("0-new", V4));
    services.push(mk_service("z-explicit", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.3"));
    let mut second = book(&pools);
    let adopted = second.adopt(&services);
    assert_eq!(adopted.conflicts, []);
    let order: Vec<&str> = adopted.order.iter().map(ServiceKey::name).collect();
    assert_eq!(order, ["a", "b", "c", "z-explicit", "0-new"]);
    services.reverse();
    for service in &mut services {
        let had_one = !listed(service).is_empty();
        let plan = turn(&mut second, service);
        assert_eq!(plan.is_empty(), had_one, "{plan}");
    }
    services.reverse();
    assert_eq!(services[..3].iter().map(listed).collect::<Vec<_>>(), before);
    assert_eq!(listed(&services[3]), ["10.0.0.4"]);
    assert_eq!(listed(&services[4]), ["10.0.0.3"]);
}

#[test]
fn of_two_services_that_list_one_address_the_older_keeps_it_and_the_other_gets_its_own() {
    let mut old = mk_service("z-old", V4).born(10).listing(&["10.0.0.1"]);
    let mut young = mk_service("a-young", V4).born(20).listing(&["10.0.0.1"]);
    let mut book = book(&lan());
    let adopted = book.adopt([&young, &old]);
    assert_eq!(
        adopted.conflicts,
        [(
            "10.0.0.1".parse().unwrap(),
            ServiceKey::new("shop", "a-young"),
            ServiceKey::new("shop", "z-old")
        )]
    );
    settle(&mut book, &mut young);
    settle(&mut book, &mut old);
    assert_eq!(
        (listed(&old), listed(&young)),
        (vec!["10.0.0.1".to_owned()], vec!["10.0.0.0".to_owned()])
    );
}

#[test]
fn an_address_that_loses_its_pool_is_kept_said_and_survives_a_restart() {
    let mut first = book(&lan());
    let mut service = mk_service("web", V4);
    settle(&mut first, &mut service);
    let key = key_of(&service.metadata);
    let change = first.set_pools(&[]);
    assert_eq!(change.edit.uncovered.len(), 1);
    assert_eq!(change.wake, BTreeSet::from([key.clone()]));
    settle(&mut first, &mut service);
    let kept = |service: &Service| {
        assert_eq!(listed(service), ["10.0.0.0"]);
        let (status, reason, message) = condition(service);
        assert_eq!(
            (status.as_str(), reason.as_str()),
            ("True", "OutsidePools"),
            "{message}"
        );
    };
    kept(&service);

    let mut second = LoadBalancers::new(Settings::default());
    second.adopt([&service]);
    assert!(turn(&mut second, &mut service).is_empty());
    kept(&service);

    let change = second.set_pools(&lan());
    assert_eq!(change.wake, BTreeSet::from([key]));
    settle(&mut second, &mut service);
    assert_eq!(condition(&service).1, "Allocated");
}

#[test]
fn bad_pools_stop_giving_but_take_nothing() {
    for (case, pools) in [
        (
            "malformed",
            vec![mk_pool("lan", 1, &["10.0.0.0/29", "10.0.0.999"])],
        ),
        (
            "overlapping",
            vec![
                mk_pool("older", 0, &["10.0.0.7"]),
                mk_pool("lan", 1, &["10.0.0.0/29"]),
            ],
        ),
    ] {
        let mut book = book(&[mk_pool("lan", 1, &["10.0.0.0/29"])]);
        let mut service = mk_service("web", V4);
        settle(&mut book, &mut service);
        assert!(book.set_pools(&pools).edit.uncovered.is_empty(), "{case}");
        assert!(turn(&mut book, &mut service).is_empty(), "{case}");
        let mut next = mk_service("next", V4).annotated("berth.dev/address-pool", "lan");
        settle(&mut book, &mut next);
        assert_eq!(condition(&next).1, "PoolNotUsable", "{case}");
    }
}

#[test]
fn one_release_wakes_the_one_that_waited_longest_and_can_use_it() {
    let mut book = book(&[
        mk_pool("lan", 1, &["10.0.0.0", "10.0.0.1"]),
        mk_pool("six", 2, &["fd00::1"]),
    ]);
    let names = ["a", "b", "needs-both", "w2", "w1"];
    let mut services: Vec<Service> = names.iter().map(|name| mk_service(name, V4)).collect();
    services[2] = mk_service("needs-both", DUAL).policy("RequireDualStack");
    let mut six = mk_service("six", &["IPv6"]);
    settle(&mut book, &mut six);
    for service in &mut services {
        let plan = settle(&mut book, service);
        assert_eq!(plan.wake, None);
    }
    let key = |name: &str| ServiceKey::new("shop", name);
    let gone = |book: &mut LoadBalancers, name: &str| book.reconcile(&key(name), None, &at(1)).wake;
    assert_eq!(
        gone(&mut book, "a"),
        Some(key("w2")),
        "first come; both at once cannot be had"
    );
    let plan = turn(&mut book, &mut services[3]);
    assert_eq!(
        (plan.taken.len(), plan.wake),
        (1, None),
        "one release, one waiter"
    );
    assert_eq!(
        gone(&mut book, "six"),
        None,
        "half of what is needed helps nobody"
    );
    assert_eq!(gone(&mut book, "b"), Some(key("needs-both")));
    assert_eq!(
        gone(&mut book, "needs-both"),
        Some(key("w1")),
        "what one woken leaves goes to the next"
    );
}

#[test]
fn who_asked_for_a_certain_address_is_woken_by_that_address_alone() {
    let mut book = book(&lan());
    let mut holder = mk_service("holder", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.5");
    settle(&mut book, &mut holder);
    let mut other = mk_service("other", V4);
    settle(&mut book, &mut other);
    let mut waiter = mk_service("waiter", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.5");
    settle(&mut book, &mut waiter);
    let gone = |book: &mut LoadBalancers, name: &str| {
        book.reconcile(&ServiceKey::new("shop", name), None, &at(1)).wake
    };
    assert_eq!(gone(&mut book, "other"), None);
    assert_eq!(gone(&mut book, "holder"), Some(key_of(&waiter.metadata)));
}

#[test]
fn a_patch_names_the_version_it_was_planned_on_and_keeps_other_conditions() {
    let mut service = mk_service("web", V4);
    service.metadata.resource_version = Some("41".to_owned());
    service.status.get_or_insert_default().conditions = Some(vec![Condition {
        type_: "example.com/Other".to_owned(),
        status: "True".to_owned(),
        reason: "Fine".to_owned(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: at(1),
    }]);
    let plan = turn(&mut book(&lan()), &mut service);
    let patch = plan.write.unwrap().merge_patch();
    assert_eq!(patch["metadata"]["resourceVersion"], "41");
    assert_eq!(
        patch["status"]["loadBalancer"]["ingress"],
        serde_json::json!([{ "ip": "10.0.0.0", "ipMode": "VIP" }])
    );
    let types: Vec<_> = patch["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| condition["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(types, ["example.com/Other", CONDITION_ALLOCATED]);
}

#[test]
fn a_plan_prints_what_it_does() {
    let plan = turn(&mut book(&lan()), &mut mk_service("web", DUAL));
    assert_eq!(
        plan.to_string(),
        "shop/web: Allocated; takes 10.0.0.0 from lan; takes fd00:: from lan; \
         status.loadBalancer.ingress = [10.0.0.0, fd00::]; Normal Allocated: Has the addresses: 10.0.0.0, fd00::"
    );
}

#[test]
fn a_pool_says_its_counts_and_why_it_rests() {
    let pools = [
        mk_pool("bad", 1, &["10.9.0.0/33", "10.9.0.0/30"]),
        mk_pool("full", 2, &["10.1.0.0"]),
        mk_pool("lan", 3, &["10.0.0.0/29", "fd00::/64"]),
        mk_pool("late", 4, &["10.0.0.4/30"]),
    ];
    let mut book = book(&pools);
    settle(&mut book, &mut mk_service("web", DUAL));
    let said: Vec<(String, String, Vec<String>)> = pools
        .iter()
        .map(|pool| {
            let status = book.plan_pool_status(pool, &at(50)).unwrap();
            let ready = &status.conditions[0];
            let exhausted = &status.conditions[1];
            let uses = [&status.ipv4, &status.ipv6].map(|of| {
                of.as_ref().map_or("-".to_owned(), |of| {
                    format!("{}/{}/{}", of.allocated, of.free, of.capacity)
                })
            });
            (
                format!("{} {} {}", ready.status, ready.reason, exhausted.status),
                ready.message.clone(),
                uses.to_vec(),
            )
        })
        .collect();
    assert_eq!(said[0].0, "False Malformed False");
    assert!(
        said[0].1.contains("spec.addresses[0]: \"10.9.0.0/33\""),
        "{}",
        said[0].1
    );
    assert_eq!(said[1].0, "True InUse True");
    assert_eq!(said[1].2, ["1/0/1", "-"]);
    assert_eq!(said[2].0, "True InUse False");
    assert_eq!(
        said[2].2,
        ["0/8/8", "1/18446744073709551615/18446744073709551616"]
    );
    assert_eq!(said[3].0, "False Overlapping False");
    assert!(
        said[3].1.contains("pool lan has 10.0.0.4-10.0.0.7 already"),
        "{}",
        said[3].1
    );
    assert_eq!(said[3].2, ["0/0/4", "-"]);
}

#[test]
fn an_unchanged_pool_writes_nothing_and_a_condition_keeps_its_time() {
    let mut book = book(&[mk_pool("lan", 3, &["10.0.0.0"])]);
    let mut pool = mk_pool("lan", 3, &["10.0.0.0"]);
    pool.status = book.plan_pool_status(&pool, &at(50));
    assert_eq!(book.plan_pool_status(&pool, &at(60)), None);
    assert_eq!(book.take_changed_pools().len(), 1);
    settle(&mut book, &mut mk_service("web", V4));
    assert_eq!(book.take_changed_pools(), BTreeSet::from([PoolName::new("lan")]));
    let status = book.plan_pool_status(&pool, &at(70)).unwrap();
    assert_eq!(status.conditions[0].last_transition_time, at(50));
    assert_eq!(status.conditions[1].last_transition_time, at(70), "now exhausted");
    assert!(book.take_changed_pools().is_empty());
}
