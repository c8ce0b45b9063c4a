// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;
use std::fmt::Write as _;

use berth_model::{
    Conditions, Endpoint, EndpointHints, EndpointPort, IpFamily, IpMode, LoadBalancerIngress, NodeName,
    PortName, Protocol, Service, ServiceKind, ServicePort, SessionAffinity, TrafficPolicy, View,
};
use proptest::prelude::*;

use super::walk::{Deviation, Ruleset, verdicts};
use super::*;
use crate::oracle::{State, verdict};
use crate::sample::{Sample, key, mk_view, packet, sample, samples, settings};
use crate::{Intent, Settings, Touched};

/// What `iptables-restore --noflush` does, on texts: it knows nothing of what a rule means, and refuses what the
/// kernel refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kernel {
    tables: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

impl Kernel {
    fn new() -> Self {
        let mut kernel = Self::default();
        let all = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
        for (table, chains) in [
            ("mangle", &all[..]),
            ("filter", &all[1..4]),
            ("nat", &[all[0], all[1], all[3], all[4]]),
        ] {
            let empty = chains.iter().map(|chain| ((*chain).to_owned(), Vec::new()));
            kernel.tables.insert(table.to_owned(), empty.collect());
        }
        kernel
    }

    fn restore(&mut self, text: &str) {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let table = line
                .strip_prefix('*')
                .unwrap_or_else(|| panic!("{line:?} in\n{text}"));
            let chains = self.tables.get_mut(table).unwrap();
            for line in lines.by_ref().take_while(|line| *line != "COMMIT") {
                command(chains, line);
            }
            for (chain, rules) in chains.iter() {
                for rule in rules {
                    let to = rule.split(" -j ").nth(1).unwrap_or_default();
                    let to = to.split(' ').next().unwrap_or_default();
                    let known = !to.contains("KUBE-") || chains.contains_key(to);
                    assert!(known, "{chain}:{rule} leads nowhere after\n{text}");
                }
            }
        }
    }

    fn save(&self) -> String {
        let mut text = String::new();
        for (table, chains) in &self.tables {
            writeln!(text, "*{table}").unwrap();
            for chain in chains.keys() {
                writeln!(text, ":{chain} - [0:0]").unwrap();
            }
            for (chain, rules) in chains {
                for rule in rules {
                    writeln!(text, "-A {chain}{rule}").unwrap();
                }
            }
            writeln!(text, "COMMIT").unwrap();
        }
        text
    }

    /// Without what may differ between two ways to the same: the order of rules in shared chains, and comments.
    fn shape(&self) -> String {
        let mut shaped = self.clone();
        for chains in shaped.tables.values_mut() {
            for (chain, rules) in chains.iter_mut() {
                rules.iter_mut().for_each(|rule| *rule = uncommented(rule));
                if !chain.starts_with("KUBE-SVC-") && !chain.starts_with("KUBE-SVL-") {
                    rules.sort();
                }
            }
        }
        shaped.save()
    }
}

fn uncommented(rule: &str) -> String {
    let Some((before, rest)) = rule.split_once(" -m comment --comment ") else {
        return rule.to_owned();
    };
    let after = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').map(|(_, after)| after),
        None => rest.find(' ').map(|end| &rest[end..]),
    };
    format!("{before}{}", after.unwrap_or_default())
}

fn command(chains: &mut BTreeMap<String, Vec<String>>, line: &str) {
    if let Some(chain) = line.strip_prefix(':') {
        chains.insert(chain.split(' ').next().unwrap().to_owned(), Vec::new());
        return;
    }
    let (what, rest) = line.split_at(3);
    let end = rest.find(' ').unwrap_or(rest.len());
    let (chain, rule) = rest.split_at(end);
    let rules = chains
        .get_mut(chain)
        .unwrap_or_else(|| panic!("no chain: {line}"));
    match what {
        "-A " => rules.push(rule.to_owned()),
        "-I " => rules.insert(0, rule.to_owned()),
        "-D " => {
            let at = rules.iter().position(|known| known == rule);
            rules.remove(at.unwrap_or_else(|| panic!("no rule: {line}")));
        }
        "-X " => {
            assert!(rules.is_empty(), "not empty: {line}");
            chains.remove(chain);
        }
        _ => panic!("{line}"),
    }
}

fn mk_choices(short_from: usize) -> Choices {
    Choices {
        drop_invalid: true,
        short_from,
    }
}

fn read(family: IpFamily, kernel: &Kernel) -> Installed {
    Installed::read(family, &kernel.save())
}

fn synced(family: IpFamily, intent: &Intent, short: bool) -> Kernel {
    let choices = mk_choices(if short { 0 } else { usize::MAX });
    let mut kernel = Kernel::new();
    kernel.restore(&full_script(family, intent, choices));
    kernel
}

/// The second network holds nobody.
fn with_networks(mut settings: Settings, several: bool) -> Settings {
    if several && !settings.cluster_cidrs.is_empty() {
        let more: [ipnet::IpNet; 2] = ["10.245.0.0/16", "fd00:245::/64"].map(|net| net.parse().unwrap());
        settings.cluster_cidrs.extend(more);
    }
    settings
}

fn put(view: &mut View, intent: &mut Intent, n: u8, change: Option<Sample>) -> Touched {
    match change {
        Some(mut sample) => {
            sample.service.key = key(n);
            sample.service.uid = format!("uid-{n}");
            sample.put(view);
        }
        None => {
            view.services.remove(&key(n));
            view.endpoints.remove(&key(n));
        }
    }
    intent.update(view, [&key(n)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_rules_do_what_the_table_says_but_for_the_listed_deviations(
        samples in samples(),
        settings in settings(),
        several in any::<bool>(),
        short in any::<bool>(),
        packets in proptest::collection::vec(packet(), 24),
    ) {
        let settings = with_networks(settings, several);
        let view = mk_view(&samples);
        let state = State { view: &view, settings: &settings };
        let intent = Intent::of(&view, settings.clone());
        let tables = IpFamily::ALL.map(|family| {
            let saved = synced(family, &intent, short).save();
            (Ruleset::read(family, &saved).unwrap(), saved)
        });
        for packet in packets {
            let wanted = verdict(&packet, state);
            let (rules, text) = &tables[usize::from(packet.destination.is_ipv6())];
            let walked = verdicts(rules, &packet);
            if walked == wanted {
                continue;
            }
            let deviation = Deviation::between(&wanted, &walked);
            let unclaimed = intent.get(&packet.vip()).is_none();
            let cluster_ip = intent.is_cluster_ip(packet.destination);
            let mut given = settings.service_cidrs.iter().flatten();
            let given = given.any(|net| net.contains(&packet.destination));
            prop_assert!(
                match deviation {
                    Some(Deviation::UnknownPort) => cluster_ip && unclaimed,
                    Some(Deviation::Unallocated) => given && !cluster_ip && unclaimed,
                    None => false,
                },
                "{:?}: {:?} instead of {:?}\n{}\n{}", packet, walked, wanted, intent, text
            );
        }
    }

    #[test]
    fn changes_one_by_one_come_to_the_same_as_one_full_sync_and_nothing_is_left_of_nothing(
        history in proptest::collection::vec((0u8..3, proptest::option::weighted(0.8, sample(0))), 1..10),
        before in settings(),
        after in settings(),
        several in any::<bool>(),
        // Never short, always, and for the larger ones of these clusters.
        short_from in proptest::sample::select(vec![usize::MAX, 0, 2]),
    ) {
        let choices = mk_choices(short_from);
        let after = with_networks(after, several);
        for family in IpFamily::ALL {
            let mut view = View::default();
            let mut intent = Intent::empty(before.clone());
            let mut kernel = Kernel::new();
            let (mut wanted, plan) = Wanted::full(family, &intent, choices, &Installed::default());
            kernel.restore(&plan.to_string());
            let reconfigured_at = history.len() / 2;
            for (turn, (n, change)) in history.iter().cloned().enumerate() {
                let touched = put(&mut view, &mut intent, n, change);
                let plan = if turn == reconfigured_at {
                    intent.reconfigure(after.clone(), &view);
                    let (fresh, plan) = Wanted::full(family, &intent, choices, &read(family, &kernel));
                    wanted = fresh;
                    plan
                } else {
                    wanted.update(&intent, &touched)
                };
                kernel.restore(&plan.to_string());
                // Once more changes nothing, from memory or from what is read.
                prop_assert!(wanted.update(&intent, &touched).is_empty());
                let (fresh, plan) = Wanted::full(family, &intent, choices, &read(family, &kernel));
                prop_assert!(plan.is_empty(), "{}\nis left to do after\n{}", plan, kernel.save());
                prop_assert_eq!(fresh.len(), wanted.len());
            }
            let fresh = Intent::of(&view, after.clone());
            prop_assert_eq!(kernel.shape(), synced(family, &fresh, wanted.is_short()).shape());
            let mut emptied = fresh;
            let keys: Vec<_> = view.services.keys().cloned().collect();
            let touched = emptied.update(&View::default(), &keys);
            kernel.restore(&wanted.update(&emptied, &touched).to_string());
            prop_assert_eq!(kernel.shape(), synced(family, &Intent::empty(after.clone()), false).shape());
            kernel.restore(&read(family, &kernel).removal(family).to_string());
            prop_assert_eq!(&kernel, &Kernel::new());
        }
    }
}

fn mk_view_of(count: u8, pods: u8) -> View {
    let mut view = View::default();
    for n in 0..count {
        let mut sample = web(pods);
        sample.service.key = key(n);
        sample.service.uid = format!("uid-{n}");
        sample.service.cluster_ips = crate::sample::cluster_ips(n).into();
        let port = sample.service.ports.first_mut().unwrap();
        port.node_port = Some((30_000 + u16::from(n)).try_into().unwrap());
        sample.service.load_balancer.clear();
        sample.put(&mut view);
    }
    view
}

/// A LoadBalancer under external policy Local, with affinity and source ranges: every kind of rule.
fn web(pods: u8) -> Sample {
    let service = Service {
        key: key(1),
        uid: "uid-1".to_owned(),
        created: 1,
        kind: ServiceKind::LoadBalancer,
        cluster_ips: crate::sample::cluster_ips(1).into(),
        external_ips: vec![],
        load_balancer: crate::sample::vips(1)
            .map(|ip| LoadBalancerIngress {
                ip,
                mode: IpMode::Vip,
            })
            .into(),
        load_balancer_class: None,
        ports: vec![ServicePort {
            name: PortName::new("http"),
            protocol: Protocol::Tcp,
            port: 80.try_into().unwrap(),
            node_port: Some(30_080.try_into().unwrap()),
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        affinity: SessionAffinity::ClientIp {
            timeout_seconds: 10_800,
        },
        source_ranges: Some(vec!["203.0.113.0/24".parse().unwrap()]),
        health_check_node_port: Some(31_000.try_into().unwrap()),
    };
    let endpoints = (1..=pods).map(|pod| Endpoint {
        ip: crate::sample::pod_ips(pod)[0],
        port: 8_080.try_into().unwrap(),
        conditions: Conditions::READY,
        node: Some(NodeName::new(if pod == 1 { "here" } else { "there" })),
        zone: None,
        hints: EndpointHints::default(),
    });
    let join = EndpointPort {
        name: PortName::new("http"),
        protocol: Protocol::Tcp,
    };
    Sample {
        service,
        endpoints: BTreeMap::from([(join, endpoints.collect())]),
    }
}

fn here() -> Settings {
    Settings {
        node: Some(NodeName::new("here")),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/64".parse().unwrap()],
        ..Settings::default()
    }
}

#[test]
fn the_tables_read_like_this() {
    let view = mk_view(&[web(2)]);
    let intent = Intent::of(&view, here());
    let texts = IpFamily::ALL.map(|family| full_script(family, &intent, Choices::default()));
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn a_change_is_as_large_as_what_changed_at_any_number_of_services() {
    let lines = |services: u8| {
        let mut view = mk_view_of(services, 3);
        let mut intent = Intent::of(&view, here());
        let (mut wanted, _) = Wanted::full(IpFamily::V4, &intent, Choices::default(), &Installed::default());
        let fewer = mk_view_of(services, 2);
        view.endpoints.insert(key(1), fewer.endpoints[&key(1)].clone());
        let touched = intent.update(&view, [&key(1)]);
        let endpoint = wanted.update(&intent, &touched);
        view.services.remove(&key(2));
        let touched = intent.update(&view, [&key(2)]);
        let gone = wanted.update(&intent, &touched);
        view.services.insert(key(2), fewer.services[&key(2)].clone());
        let touched = intent.update(&view, [&key(2)]);
        let back = wanted.update(&intent, &touched);
        [endpoint, gone, back].map(|plan| plan.lines())
    };
    assert_eq!(lines(5), lines(200));
    assert!(
        lines(5).iter().all(|lines| (3..30).contains(lines)),
        "{:?}",
        lines(5)
    );
}

#[test]
fn services_that_a_plan_writes_are_named_with_those_that_need_the_same_beside_each_other() {
    let mut view = mk_view_of(6, 3);
    for n in [0, 3, 4] {
        let mut service = Service::clone(&view.services[&key(n)]);
        service.affinity = SessionAffinity::None;
        view.services.insert(key(n), service.into());
    }
    view.endpoints.remove(&key(4));
    let mut intent = Intent::of(&view, here());
    let nothing = Installed::default();
    let (mut wanted, plan) = Wanted::full(IpFamily::V4, &intent, Choices::default(), &nothing);
    let mut written = wanted.written(&plan);
    assert_eq!(written.len(), 6);
    // Which kind comes first does not matter.
    let of_kind = |services: &[u8]| services.iter().map(|n| key(*n)).collect::<Vec<_>>();
    for kind in [&[1, 2, 5][..], &[0, 3], &[4]] {
        let at = written
            .windows(kind.len())
            .position(|found| found == of_kind(kind));
        assert!(at.is_some(), "{kind:?} in {written:?}");
    }
    written.sort();
    assert_eq!(written, of_kind(&[0, 1, 2, 3, 4, 5]));

    view.endpoints
        .insert(key(2), mk_view_of(6, 2).endpoints[&key(2)].clone());
    view.services.remove(&key(5));
    let touched = intent.update(&view, [&key(2), &key(5)]);
    let plan = wanted.update(&intent, &touched);
    assert_eq!(wanted.written(&plan), [key(2)], "what goes is nobody's");
}

#[test]
fn services_written_group_by_group_come_to_the_same_as_all_at_once() {
    let view = mk_view_of(6, 3);
    let intent = Intent::of(&view, here());
    for family in IpFamily::ALL {
        let mut kernel = Kernel::new();
        for waiting in [&[0, 1, 2, 3, 4, 5][..], &[3, 4, 5], &[4, 5, 3], &[5], &[]] {
            let out = waiting.iter().map(|n| key(*n)).collect();
            let installed = read(family, &kernel);
            let (_, plan) = Wanted::without(family, &intent, mk_choices(usize::MAX), &installed, &out);
            kernel.restore(&plan.to_string());
        }
        assert_eq!(kernel.shape(), synced(family, &intent, false).shape());
    }
}
