// SPDX-License-Identifier: Apache-2.0
//! Several Services with one address.

use k8s_openapi::api::core::v1::ServicePort;

use berth_model::IpFamily;

use super::*;

const KEY: &str = "berth.dev/sharing-key";

/// With this sharing key, and these ports of TCP.
fn sharing(name: &str, key: &str, ports: &[i32]) -> Service {
    let ports = ports.iter().map(|port| ServicePort {
        port: *port,
        ..ServicePort::default()
    });
    let ports = ports.collect();
    mk_service(name, V4)
        .annotated(KEY, key)
        .spec(|spec| spec.ports = Some(ports))
}

fn local(service: Service, app: &str) -> Service {
    service.spec(|spec| {
        spec.external_traffic_policy = Some("Local".to_owned());
        spec.selector = Some([("app".to_owned(), app.to_owned())].into());
    })
}

fn given(book: &mut LoadBalancers, service: &mut Service) -> String {
    settle(book, service);
    listed(service).join(",")
}

fn asking(service: Service, address: &str) -> Service {
    service.annotated("berth.dev/load-balancer-ips", address)
}

fn of(service: Service, namespace: &str) -> Service {
    let mut service = service;
    service.metadata.namespace = Some(namespace.to_owned());
    service
}

#[test]
fn services_with_one_key_and_different_ports_have_one_address_and_what_collides_has_another() {
    let mut book = book(&lan());
    for (mut service, expected) in [
        (sharing("web", "front", &[80, 443]), "10.0.0.0"),
        (sharing("dns", "front", &[53]), "10.0.0.0"),
        (sharing("admin", "front", &[443]), "10.0.0.1"),
        (sharing("other", "back", &[9000]), "10.0.0.2"),
        (mk_service("alone", V4), "10.0.0.3"),
        (sharing("api", "front", &[8080]), "10.0.0.0"),
        (
            sharing("metallb", "front", &[8081])
                .annotated(KEY, "")
                .annotated("metallb.io/allow-shared-ip", "front"),
            "10.0.0.0",
        ),
    ] {
        assert_eq!(
            given(&mut book, &mut service),
            expected,
            "{:?}",
            service.metadata.name
        );
        assert_eq!(condition(&service).1, "Allocated");
    }
    let counts = book
        .pools()
        .iter()
        .map(|(_, pool)| pool.counts(IpFamily::V4).allocated);
    assert_eq!(counts.collect::<Vec<_>>(), [4], "what is shared counts once");
}

#[test]
fn one_port_number_of_two_protocols_is_two_ports() {
    let mut book = book(&lan());
    given(&mut book, &mut sharing("tcp", "dns", &[53]));
    let mut udp = sharing("udp", "dns", &[53]).spec(|spec| {
        for port in spec.ports.as_mut().unwrap() {
            port.protocol = Some("UDP".to_owned());
        }
    });
    assert_eq!(given(&mut book, &mut udp), "10.0.0.0");
}

#[test]
fn under_policy_local_only_services_of_the_same_pods_share() {
    for (one, other, shared) in [
        (
            local(sharing("a", "k", &[80]), "web"),
            local(sharing("b", "k", &[81]), "web"),
            true,
        ),
        (
            local(sharing("a", "k", &[80]), "web"),
            local(sharing("b", "k", &[81]), "api"),
            false,
        ),
        (
            local(sharing("a", "k", &[80]), "web"),
            sharing("b", "k", &[81]),
            false,
        ),
        (
            local(sharing("a", "k", &[80]), "web").spec(|spec| spec.selector = None),
            local(sharing("b", "k", &[81]), "web").spec(|spec| spec.selector = None),
            false,
        ),
    ] {
        let mut book = book(&lan());
        let (one, other) = (
            given(&mut book, &mut one.clone()),
            given(&mut book, &mut other.clone()),
        );
        assert_eq!(one == other, shared, "{one} {other}");
    }
}

#[test]
fn a_namespace_shares_with_another_only_where_the_pool_says_so() {
    for (across, expected) in [(false, "10.0.0.1"), (true, "10.0.0.0")] {
        let mut pools = lan();
        pools[0].spec.share_across_namespaces = across;
        let mut book = book(&pools);
        given(&mut book, &mut sharing("web", "front", &[80]));
        let mut guest = of(sharing("web", "front", &[81]), "lab");
        assert_eq!(given(&mut book, &mut guest), expected);
    }
}

#[test]
fn who_asks_for_an_address_that_is_not_shared_with_it_is_told_why() {
    let mut book = book(&lan());
    given(&mut book, &mut sharing("web", "front", &[80]));
    given(&mut book, &mut mk_service("alone", V4));
    for (service, why) in [
        (
            asking(sharing("a", "front", &[80]), "10.0.0.0"),
            "10.0.0.0 is held by shop/web, which has TCP port 80 of it",
        ),
        (
            asking(sharing("b", "back", &[81]), "10.0.0.0"),
            "10.0.0.0 is held by shop/web, which shares it under another key",
        ),
        (
            asking(sharing("c", "front", &[81]), "10.0.0.1"),
            "10.0.0.1 is held by shop/alone, which shares it with nobody (annotation berth.dev/sharing-key)",
        ),
        (
            of(asking(sharing("d", "front", &[81]), "10.0.0.0"), "lab"),
            "10.0.0.0 is held by shop/web, which is of another namespace, and the AddressPool does not allow that",
        ),
        (
            local(asking(sharing("e", "front", &[81]), "10.0.0.0"), "web"),
            "10.0.0.0 is held by shop/web, which has other Pods, or another externalTrafficPolicy",
        ),
    ] {
        let mut service = service;
        assert_eq!(given(&mut book, &mut service), "");
        let (_, reason, message) = condition(&service);
        assert_eq!(reason, "AddressNotShared");
        assert!(message.contains(why), "{message}");
    }
    let mut fits = asking(sharing("f", "front", &[81]), "10.0.0.0");
    assert_eq!(given(&mut book, &mut fits), "10.0.0.0");
}

#[test]
fn when_the_first_one_leaves_the_others_keep_the_address_and_the_last_one_frees_it() {
    let mut book = book(&[mk_pool("one", 1, &["10.0.0.1"])]);
    for (name, port) in [("a", 1), ("b", 2), ("c", 3)] {
        assert_eq!(given(&mut book, &mut sharing(name, "k", &[port])), "10.0.0.1");
    }
    let mut waits = mk_service("waits", V4);
    settle(&mut book, &mut waits);
    let address = "10.0.0.1".parse().unwrap();
    for (name, left) in [("a", vec!["b", "c"]), ("c", vec!["b"])] {
        let plan = book.reconcile(&ServiceKey::new("shop", name), None, &at(1));
        assert_eq!(plan.wake, None);
        let occupants: Vec<&str> = book.occupants(address).map(ServiceKey::name).collect();
        assert_eq!(occupants, left);
    }
    let plan = book.reconcile(&ServiceKey::new("shop", "b"), None, &at(1));
    assert_eq!(plan.wake, Some(key_of(&waits.metadata)));
}

#[test]
fn who_changes_its_terms_leaves_as_soon_as_it_has_another_and_keeps_what_it_has_until_then() {
    let mut book = book(&[mk_pool("two", 1, &["10.0.0.1", "10.0.0.2"])]);
    let mut stays = sharing("stays", "k", &[80]);
    let mut changes = sharing("changes", "k", &[81]);
    let mut alone = mk_service("alone", V4);
    for service in [&mut stays, &mut changes, &mut alone] {
        settle(&mut book, service);
    }
    changes = changes.spec(|spec| spec.ports.as_mut().unwrap()[0].port = 80);
    assert_eq!(
        given(&mut book, &mut changes),
        "10.0.0.1",
        "the pool has no other"
    );
    let (status, reason, message) = condition(&changes);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NoLongerShared"));
    assert!(
        message.contains("10.0.0.1 is held by shop/stays, too, which has TCP port 80 of it"),
        "{message}"
    );
    assert_eq!(given(&mut book, &mut stays), "10.0.0.1");
    assert_eq!(condition(&stays).1, "Allocated");
    // It is known after a restart, too.
    let mut again = book_of(&[stays.clone(), changes.clone(), alone.clone()]);
    assert_eq!(given(&mut again, &mut changes.clone()), "10.0.0.1");
    assert_eq!(condition(&changes).1, "NoLongerShared");
    let gone = book.reconcile(&key_of(&alone.metadata), None, &at(1));
    assert_eq!(gone.wake, Some(key_of(&changes.metadata)));
    assert_eq!(given(&mut book, &mut changes), "10.0.0.2");
    assert_eq!(condition(&changes).1, "Allocated");
}

/// After a restart.
fn book_of(services: &[Service]) -> LoadBalancers {
    let mut book = book(&[mk_pool("two", 1, &["10.0.0.1", "10.0.0.2"])]);
    book.adopt(services);
    book
}

#[test]
fn a_restart_finds_who_shares_what() {
    let mut book = book(&lan());
    let mut services = [
        sharing("a", "k", &[80]),
        sharing("b", "k", &[81]),
        sharing("c", "other", &[80]),
    ];
    for service in &mut services {
        settle(&mut book, service);
    }
    let mut again = LoadBalancers::new(Settings::default());
    again.set_pools(&lan());
    let adopted = again.adopt(&services);
    assert_eq!(adopted.conflicts, []);
    for service in &mut services {
        assert!(turn(&mut again, service).is_empty());
    }
}
