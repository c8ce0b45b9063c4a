// SPDX-License-Identifier: Apache-2.0
use std::net::Ipv4Addr;

use berth_model::{
    Conditions, Endpoint, EndpointHints, LoadBalancerIngress, NodeName, PortName, Protocol, ServiceKind,
    TrafficPolicy,
};
use proptest::prelude::*;

use super::*;
use crate::SettingsError;

fn mk_service(name: &str, created: i64, cluster_ip: u8) -> Service {
    Service {
        key: ServiceKey::new("shop", name),
        uid: format!("uid-{name}"),
        created,
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![[10, 96, 0, cluster_ip].into()],
        external_ips: vec![],
        load_balancer: vec![],
        load_balancer_class: None,
        ports: vec![ServicePort {
            name: PortName::default(),
            protocol: Protocol::Tcp,
            port: 80.try_into().unwrap(),
            node_port: None,
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: SessionAffinity::None,
        source_ranges: None,
        health_check_node_port: None,
    }
}

fn mk_view(services: impl IntoIterator<Item = (Service, Vec<u8>)>) -> View {
    let mut view = View::default();
    for (service, endpoints) in services {
        let endpoints: Vec<Endpoint> = endpoints.into_iter().map(mk_endpoint).collect();
        let port = EndpointPort {
            name: PortName::default(),
            protocol: Protocol::Tcp,
        };
        view.endpoints
            .insert(service.key.clone(), Arc::new(BTreeMap::from([(port, endpoints)])));
        view.services.insert(service.key.clone(), Arc::new(service));
    }
    view
}

fn mk_endpoint(last: u8) -> Endpoint {
    Endpoint {
        ip: Ipv4Addr::new(10, 244, 0, last).into(),
        port: 8080.try_into().unwrap(),
        conditions: Conditions::READY,
        node: Some(NodeName::new("node-1")),
        zone: None,
        hints: EndpointHints::default(),
    }
}

fn lines(view: &View) -> String {
    Intent::of(view, Settings::default()).to_string()
}

#[test]
fn each_kind_of_frontend_gets_the_endpoints_and_masquerades_unless_it_is_a_cluster_ip() {
    let mut service = mk_service("web", 1, 10);
    service.kind = ServiceKind::LoadBalancer;
    service.external_ips = vec![[192, 0, 2, 7].into()];
    service.load_balancer = vec![
        LoadBalancerIngress {
            ip: [10, 77, 0, 200].into(),
            mode: IpMode::Vip,
        },
        LoadBalancerIngress {
            ip: [10, 77, 0, 201].into(),
            mode: IpMode::Proxy,
        },
    ];
    service.ports[0].node_port = Some(30007.try_into().unwrap());
    insta::assert_snapshot!(lines(&mk_view([(service, vec![1, 2])])), @r"
    10.77.0.200:80/TCP [LoadBalancer address of shop/web/TCP]: 10.244.0.1:8080, 10.244.0.2:8080; masqueraded
    10.96.0.10:80/TCP [ClusterIP of shop/web/TCP]: 10.244.0.1:8080, 10.244.0.2:8080
    192.0.2.7:80/TCP [external IP of shop/web/TCP]: 10.244.0.1:8080, 10.244.0.2:8080; masqueraded
    node port 30007/TCP (IPv4) [node port of shop/web/TCP]: 10.244.0.1:8080, 10.244.0.2:8080; masqueraded
    ");
}

#[test]
fn a_service_without_endpoints_rejects() {
    insta::assert_snapshot!(
        lines(&mk_view([(mk_service("web", 1, 10), vec![])])),
        @"10.96.0.10:80/TCP [ClusterIP of shop/web/TCP]: reject (NoEndpoints)"
    );
}

#[test]
fn the_oldest_service_wins_a_contested_frontend_and_the_loser_is_named() {
    let mut older = mk_service("older", 1, 10);
    let mut newer = mk_service("newer", 2, 11);
    older.external_ips = vec![[192, 0, 2, 7].into()];
    newer.external_ips = older.external_ips.clone();
    insta::assert_snapshot!(lines(&mk_view([(older, vec![1]), (newer, vec![2])])), @r"
    10.96.0.10:80/TCP [ClusterIP of shop/older/TCP]: 10.244.0.1:8080
    10.96.0.11:80/TCP [ClusterIP of shop/newer/TCP]: 10.244.0.2:8080
    192.0.2.7:80/TCP [external IP of shop/older/TCP]: 10.244.0.1:8080; masqueraded
    192.0.2.7:80/TCP is claimed by shop/older/TCP and by shop/newer/TCP: the older, shop/older/TCP, answers
    ");
}

#[test]
fn a_frontend_is_contested_as_long_as_both_are_there() {
    let older = mk_service("older", 1, 10);
    let mut newer = mk_service("newer", 2, 11);
    newer.external_ips = older.cluster_ips.clone();
    let both = mk_view([(older.clone(), vec![1]), (newer.clone(), vec![2])]);
    let mut intent = Intent::of(&both, Settings::default());
    for gone in [&older.key, &newer.key] {
        assert_eq!(intent.conflicts().len(), 1, "{gone}");
        let mut one = both.clone();
        one.services.remove(gone);
        intent.update(&one, [gone]);
        assert_eq!(intent, Intent::of(&one, Settings::default()), "{gone}");
        assert_eq!(intent.conflicts(), [], "{gone}");
        intent.update(&both, [gone]);
    }
    assert_eq!(intent, Intent::of(&both, Settings::default()));
}

#[test]
fn under_policy_local_pods_and_this_host_get_any_endpoint_and_others_a_local_one_or_nothing() {
    let settings = Settings {
        node: Some(NodeName::new("node-1")),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        ..Settings::default()
    };
    let mut service = mk_service("web", 1, 10);
    service.internal_policy = TrafficPolicy::Local;
    service.external_policy = TrafficPolicy::Local;
    service.external_ips = vec![[192, 0, 2, 7].into()];
    let mut view = mk_view([(service, vec![1, 2])]);
    let join = EndpointPort {
        name: PortName::default(),
        protocol: Protocol::Tcp,
    };
    let mut put = |endpoints: Vec<Endpoint>| {
        let endpoints = Arc::new(BTreeMap::from([(join.clone(), endpoints)]));
        view.endpoints.insert(ServiceKey::new("shop", "web"), endpoints);
        Intent::of(&view, settings.clone()).to_string()
    };
    let elsewhere = |last| Endpoint {
        node: Some(NodeName::new("node-2")),
        ..mk_endpoint(last)
    };
    insta::assert_snapshot!(put(vec![mk_endpoint(1), elsewhere(2)]), @r"
    10.96.0.10:80/TCP [ClusterIP of shop/web/TCP]: 10.244.0.1:8080; masqueraded unless from a Pod
    192.0.2.7:80/TCP [external IP of shop/web/TCP]: 10.244.0.1:8080, 10.244.0.2:8080; from outside: 10.244.0.1:8080; masqueraded from this host
    ");
    insta::assert_snapshot!(put(vec![elsewhere(2)]), @r"
    10.96.0.10:80/TCP [ClusterIP of shop/web/TCP]: drop (NoLocalEndpoints); masqueraded unless from a Pod
    192.0.2.7:80/TCP [external IP of shop/web/TCP]: 10.244.0.2:8080; from outside: drop (NoLocalEndpoints); masqueraded from this host
    ");
    insta::assert_snapshot!(put(vec![]), @r"
    10.96.0.10:80/TCP [ClusterIP of shop/web/TCP]: reject (NoEndpoints); masqueraded unless from a Pod
    192.0.2.7:80/TCP [external IP of shop/web/TCP]: reject (NoEndpoints); masqueraded
    ");
}

#[test]
fn source_ranges_bind_a_load_balancer_address_of_their_family_and_nothing_else() {
    let node: IpAddr = [10, 77, 0, 11].into();
    for (behaviour, ranges, admitted) in [
        ("none", None, None),
        ("one", Some(vec!["203.0.113.0/24"]), Some("203.0.113.0/24")),
        (
            "overlapping and adjacent ones are one",
            Some(vec!["203.0.113.0/25", "203.0.113.64/26", "203.0.113.128/25"]),
            Some("203.0.113.0/24"),
        ),
        (
            "a /0 admits everybody",
            Some(vec!["203.0.113.0/24", "0.0.0.0/0"]),
            None,
        ),
        (
            "only the other family: nobody, where kube-proxy lets everybody in",
            Some(vec!["fd00::/8"]),
            Some(""),
        ),
        ("all of the other family: everybody", Some(vec!["::/0"]), None),
        ("none could be read: nobody", Some(vec![]), Some("")),
        (
            "with this node its own packets, which carry the address",
            Some(vec!["10.77.0.0/16"]),
            Some("10.77.0.0/16, 192.0.2.200/32"),
        ),
    ] {
        let mut service = mk_service("web", 1, 10);
        service.kind = ServiceKind::LoadBalancer;
        service.ports[0].node_port = Some(30007.try_into().unwrap());
        service.external_ips = vec![[192, 0, 2, 7].into(), [192, 0, 2, 200].into()];
        service.load_balancer = vec![LoadBalancerIngress {
            ip: [192, 0, 2, 200].into(),
            mode: IpMode::Vip,
        }];
        service.source_ranges =
            ranges.map(|ranges| ranges.iter().map(|range| range.parse().unwrap()).collect());
        let settings = Settings {
            node_ips: [node].into(),
            ..Settings::default()
        };
        let intent = Intent::of(&mk_view([(service, vec![1])]), settings);
        let found: Vec<_> = intent
            .frontends()
            .filter_map(|(_, frontend)| Some((frontend.role, frontend.source_ranges.clone()?)))
            .collect();
        let shown = found.iter().map(|(role, nets)| {
            let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
            (*role, nets.join(", "))
        });
        let wanted = admitted.map(|nets| (Role::LoadBalancer, nets.to_owned()));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            wanted.into_iter().collect::<Vec<_>>(),
            "{behaviour}"
        );
    }
}

#[test]
fn frontends_of_a_service_port_share_the_memory_of_the_list_that_they_pick_from() {
    let settings = Settings {
        node: Some(NodeName::new("node-1")),
        ..Settings::default()
    };
    for internal in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        let mut service = mk_service("web", 1, 10);
        service.affinity = SessionAffinity::ClientIp { timeout_seconds: 10 };
        service.internal_policy = internal;
        service.external_policy = TrafficPolicy::Local;
        service.ports[0].node_port = Some(30_000.try_into().unwrap());
        let intent = Intent::of(&mk_view([(service, vec![1])]), settings.clone());
        let number = |role| {
            let found = intent.frontends().find(|(_, frontend)| frontend.role == role);
            let (frontend, _) = found.unwrap();
            [false, true].map(|outside| intent.affinity_of(frontend, outside))
        };
        let [main, local] = number(Role::NodePort);
        assert_ne!(main, local);
        let cluster_ip = if internal == TrafficPolicy::Local {
            local
        } else {
            main
        };
        assert_eq!(number(Role::ClusterIp)[0], cluster_ip, "{internal:?}");
        let timeouts = intent.affinities().map(|(_, affinity)| affinity.timeout_seconds);
        assert_eq!(timeouts.collect::<Vec<_>>(), [10, 10]);
    }
}

#[test]
fn a_list_says_when_an_endpoint_has_left_it() {
    let mk = |pods: Vec<u8>, affinity: bool| {
        let mut service = mk_service("web", 1, 10);
        if affinity {
            service.affinity = SessionAffinity::ClientIp { timeout_seconds: 10 };
        }
        mk_view([(service, pods)])
    };
    let mut view = mk(vec![1, 2], true);
    let mut intent = Intent::of(&view, Settings::default());
    let numbers: BTreeSet<AffinityNumber> = intent.affinities().map(|(number, _)| number).collect();
    let key = view.services.keys().next().unwrap().clone();
    for (row, pods, affinity, left) in [
        ("another comes", vec![1, 2, 3], true, false),
        ("one goes", vec![1, 3], true, true),
        ("the last goes", vec![], true, true),
        ("some come again", vec![1, 2], true, false),
        ("affinity is turned off", vec![1, 2], false, true),
    ] {
        view = mk(pods, affinity);
        let touched = intent.update(&view, [&key]);
        let expected = if left { numbers.clone() } else { BTreeSet::new() };
        assert_eq!(touched.left, expected, "{row}");
    }
    assert_eq!(intent.affinities().count(), 0);
}

#[test]
fn a_mark_has_32_bits() {
    assert_eq!(Settings::new(31).unwrap().mark, 0x8000_0000);
    assert_eq!(Settings::new(32), Err(SettingsError::MasqueradeBit(32)));
}

proptest! {
    /// Updating Service by Service gives what a fresh look at the whole view gives.
    #[test]
    fn updates_add_up_to_a_full_build(
        history in proptest::collection::vec((0u8..5, 0u8..4, 0i64..3, proptest::option::of(
            proptest::collection::btree_set(1u8..9, 0..4))), 0..40)
    ) {
        let settings = Settings { node: Some(NodeName::new("node-1")), ..Settings::default() };
        let mut view = View::default();
        let mut intent = Intent::empty(settings.clone());
        for (name, external, created, endpoints) in history {
            let mut service = mk_service(&name.to_string(), created, name);
            service.external_ips = vec![[192, 0, 2, external].into()];
            let key = service.key.clone();
            match endpoints {
                Some(endpoints) => {
                    let one = mk_view([(service, endpoints.into_iter().collect())]);
                    view.services.extend(one.services);
                    view.endpoints.extend(one.endpoints);
                }
                None => {
                    view.services.remove(&key);
                    view.endpoints.remove(&key);
                }
            }
            let before = intent.clone();
            let touched = intent.update(&view, [&key]);
            prop_assert_eq!(&intent, &Intent::of(&view, settings.clone()));
            let changed = |frontend: &Frontend| before.get(frontend) != intent.get(frontend);
            let all: BTreeSet<Frontend> = before.frontends().chain(intent.frontends()).map(|(f, _)| *f).collect();
            for frontend in all.into_iter().filter(changed) {
                prop_assert!(touched.frontends.contains(&frontend));
            }
        }
    }
}
