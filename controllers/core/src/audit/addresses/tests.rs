// SPDX-License-Identifier: Apache-2.0
//! What is found, by behaviour, and beside a naive statement.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::admission::Exemptions;
use crate::values::Shown;

/// When it is.
const NOW: i64 = 1_800_000_000;

fn ip(octet: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, octet])
}

fn time(second: i64) -> String {
    Timestamp::from_second(second).unwrap().to_string()
}

/// A Service that is so old, in seconds.
fn mk_service(key: &str, age: i64, addresses: &[IpAddr]) -> Service {
    let (namespace, name) = key.split_once('/').unwrap();
    let first = addresses.first();
    let service = json!({"metadata": {"namespace": namespace, "name": name, "creationTimestamp": time(NOW - age)},
        "spec": {"clusterIP": first, "clusterIPs": addresses}});
    serde_json::from_value(service).unwrap()
}

fn book(services: impl IntoIterator<Item = Service>) -> Values {
    let mut book = Values::new("30000-32767".parse().unwrap(), Exemptions::with([]), 0);
    for service in services {
        book.apply_service(Shown::of(&service), Duration::ZERO);
    }
    book
}

/// An IPAddress that is so old. `parent`: a Service, or `RESOURCE.GROUP:NAMESPACE/NAME`.
fn mk_listed(address: IpAddr, age: i64, parent: &str) -> Listed {
    let (kind, key) = parent.split_once(':').unwrap_or(("services.", parent));
    let (resource, group) = kind.split_once('.').unwrap();
    let (namespace, name) = key.split_once('/').unwrap();
    let object = json!({"metadata": {"name": address, "creationTimestamp": time(NOW - age)},
        "spec": {"parentRef": {"group": group, "resource": resource, "namespace": namespace, "name": name}}});
    Listed::of(&serde_json::from_value(object).unwrap()).unwrap()
}

fn used(book: &Values) -> BTreeSet<IpAddr> {
    let (mut all, mut last) = (BTreeSet::new(), None);
    loop {
        let (part, next) = book.used_after(last, 2);
        all.extend(part);
        last = next;
        if last.is_none() {
            return all;
        }
    }
}

fn found(book: &Values, listed: &[Listed]) -> Vec<String> {
    let mut look = Look::new(used(book));
    look.page(listed, book, NOW);
    let findings = look.end(book, NOW);
    let texts = findings.iter().map(|finding| {
        let (reason, subject) = (finding.reason().as_str(), finding.subject());
        format!("{reason} {subject}")
    });
    texts.collect()
}

/// What it is called, the Services, the IPAddresses, what is found.
type Case<'a> = (&'a str, Vec<Service>, Vec<Listed>, &'a str);

fn holds(cases: Vec<Case<'_>>) {
    for (case, services, listed, expected) in cases {
        assert_eq!(found(&book(services), &listed).join(", "), expected, "{case}");
    }
}

fn web() -> Vec<Service> {
    vec![mk_service("a/web", 900, &[ip(1)])]
}

fn one(age: i64, parent: &str) -> Vec<Listed> {
    vec![mk_listed(ip(1), age, parent)]
}

#[test]
fn an_ip_address_whose_service_has_not_the_address_is_leaked_when_it_is_old_enough() {
    let leaked = "IPAddressNotAllocated IPAddress 10.0.0.1";
    let moved = vec![mk_service("a/web", 900, &[ip(2)])];
    let both = vec![mk_listed(ip(1), 900, "a/web"), mk_listed(ip(2), 900, "a/web")];
    holds(vec![
        ("the Service is not there", vec![], one(60, "a/web"), leaked),
        ("the Service is being made", vec![], one(59, "a/web"), ""),
        ("it has another address now", moved, both, leaked),
        ("it is for no Service", vec![], one(900, "pods.:a/web"), leaked),
    ]);
}

#[test]
fn each_address_of_a_service_has_an_ip_address_that_names_it_or_it_is_said() {
    let gateway = "gateways.gateway.networking.k8s.io:a/web";
    let wrong = "IPAddressWrongReference Service a/web";
    let missing = "ClusterIPNotAllocated Service a/web";
    let young = |age| vec![mk_service("a/web", age, &[ip(1)])];
    let twins = web().into_iter().chain([mk_service("a/late", 800, &[ip(1)])]);
    holds(vec![
        ("as it should be", web(), one(900, "a/web"), ""),
        ("it names another Service", web(), one(900, "b/web"), wrong),
        ("it names no Service", web(), one(900, gateway), wrong),
        ("it was made anew just now", young(1), one(1, "b/web"), ""),
        ("none is there", web(), vec![], missing),
        ("none is there yet", young(59), vec![], ""),
        (
            "of two Services it is the younger one's",
            twins.collect(),
            one(800, "a/late"),
            "",
        ),
    ]);
}

#[test]
fn what_is_said_names_the_address_what_is_wrong_and_the_way_out() {
    let book = book([
        mk_service("a/web", 900, &[ip(1)]),
        mk_service("a/db", 900, &[ip(2)]),
    ]);
    let mut look = Look::new(used(&book));
    let listed = [
        mk_listed(ip(1), 900, "pods.x:a/p"),
        mk_listed(ip(3), 900, "a/gone"),
    ];
    look.page(&listed, &book, NOW);
    let repair = "API servers mend this by themselves, and have not: look into the log of kube-apiserver";
    let texts: Vec<String> = look.end(&book, NOW).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            format!(
                "10.0.0.1 of Service a/web has an IPAddress that names pods.x a/p, so that the address may be given away. \
                 {repair}, or delete the IPAddress: it is made anew"
            ),
            format!(
                "IPAddress 10.0.0.3 is kept for Service a/gone, which does not have the address, so that nobody can be given it. \
                 {repair}, or delete the IPAddress"
            ),
            format!(
                "10.0.0.2 of Service a/db has no IPAddress that the API server's allocator manages, so that the address may be \
                 given away. {repair}"
            ),
        ]
    );
}

#[test]
fn a_service_that_goes_during_the_look_misses_nothing() {
    let before = book([mk_service("a/web", 900, &[ip(1)])]);
    let look = Look::new(used(&before));
    assert_eq!(look.end(&book([]), NOW), []);
}

/// Small enough that the same address, Service and age often meet.
#[derive(Clone, Debug)]
struct Situation {
    /// Age and addresses.
    services: BTreeMap<u8, (i64, BTreeSet<u8>)>,
    /// Age and Service.
    listed: BTreeMap<u8, (i64, u8)>,
    used: BTreeSet<u8>,
    page: usize,
}

fn situations() -> impl Strategy<Value = Situation> {
    let age = || prop_oneof![Just(0), Just(59), Just(60), Just(900)];
    let addresses = || proptest::collection::btree_set(0..6_u8, 0..4);
    (
        proptest::collection::btree_map(0..4_u8, (age(), addresses()), 0..4),
        proptest::collection::btree_map(0..6_u8, (age(), 0..4_u8), 0..6),
        addresses(),
        1..4_usize,
    )
        .prop_map(|(services, listed, used, page)| Situation {
            services,
            listed,
            used,
            page,
        })
}

fn name(service: u8) -> String {
    format!("a/s{service}")
}

impl Situation {
    /// All that there is to say, one address after the other.
    fn expected(&self) -> BTreeSet<Finding> {
        let mut expected = BTreeSet::new();
        for octet in 0..6_u8 {
            let has = |(_, (_, addresses)): &(&u8, &(i64, BTreeSet<u8>))| addresses.contains(&octet);
            let mut users: Vec<(i64, u8)> = self
                .services
                .iter()
                .filter(has)
                .map(|(name, (age, _))| (-age, *name))
                .collect();
            users.sort_unstable();
            let key = |service: u8| -> ServiceKey { name(service).parse().unwrap() };
            let address = ip(octet);
            match (self.listed.get(&octet), users.first()) {
                (Some((age, _)), _) if *age < GRACE => {}
                (Some((_, parent)), None) => {
                    _ = expected.insert(Finding::Leaked {
                        address,
                        parent: Parent::Service(key(*parent)),
                    })
                }
                (Some((_, parent)), Some((_, first))) => {
                    if !users.iter().any(|(_, user)| user == parent) {
                        expected.insert(Finding::WrongReference {
                            address,
                            parent: Parent::Service(key(*parent)),
                            service: key(*first),
                        });
                    }
                }
                (None, Some((younger, first))) if self.used.contains(&octet) && -younger >= GRACE => {
                    expected.insert(Finding::Missing {
                        address,
                        service: key(*first),
                    });
                }
                (None, _) => {}
            }
        }
        expected
    }
}

proptest! {
    #[test]
    fn page_by_page_it_is_what_one_would_say_with_all_of_it_at_hand(situation in situations()) {
        let services = situation.services.iter().map(|(service, (age, addresses))| {
            let addresses: Vec<IpAddr> = addresses.iter().copied().map(ip).collect();
            mk_service(&name(*service), *age, &addresses)
        });
        let book = book(services);
        let listed: Vec<Listed> = situation.listed.iter()
            .map(|(octet, (age, parent))| mk_listed(ip(*octet), *age, &name(*parent)))
            .collect();
        let mut look = Look::new(situation.used.iter().copied().map(ip).collect());
        for page in listed.chunks(situation.page) {
            look.page(page, &book, NOW);
        }
        let findings = look.end(&book, NOW);
        let distinct: BTreeSet<Finding> = findings.iter().cloned().collect();
        prop_assert_eq!(distinct.len(), findings.len());
        prop_assert_eq!(distinct, situation.expected());
    }

    #[test]
    fn the_addresses_of_services_are_all_told_in_parts(situation in situations()) {
        let services = situation.services.iter().map(|(service, (age, addresses))| {
            let addresses: Vec<IpAddr> = addresses.iter().copied().map(ip).collect();
            mk_service(&name(*service), *age, &addresses)
        });
        let mut book = book(services);
        // What only somebody else has is no Service's.
        book.apply_foreign_address(ip(3), None, Duration::ZERO);
        let expected = situation.services.values().flat_map(|(_, addresses)| addresses);
        let expected: BTreeSet<IpAddr> = expected.copied().map(ip).collect();
        prop_assert_eq!(used(&book), expected);
    }
}
