// SPDX-License-Identifier: Apache-2.0
//! Clients come back, while endpoints come and go.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::names::{ChainName, NumberMap};
use crate::nft::bindings::{Binding, stale};
use crate::oracle::{self, State};
use crate::sample::{Sample, key, packet, sample, settings as any_settings};
use crate::{AffinityNumber, Touched};

type Bindings = BTreeMap<(AffinityNumber, IpAddr, Protocol), (Target, u32)>;

/// The kernel with its bindings.
struct Kernel<'a> {
    layout: &'a Layout,
    installed: &'a Installed,
    bindings: &'a mut Bindings,
}

impl Lookups for Kernel<'_> {
    fn has_frontend(&mut self, set: SetName, frontend: &Frontend) -> bool {
        (self.layout, self.installed).has_frontend(set, frontend)
    }

    fn has_address(&mut self, set: SetName, ip: IpAddr) -> bool {
        (self.layout, self.installed).has_address(set, ip)
    }

    fn has_source(&mut self, frontend: &Frontend, source: IpAddr) -> bool {
        (self.layout, self.installed).has_source(frontend, source)
    }

    fn slot(&mut self, map: MapName, frontend: &Frontend, slot: u32) -> Option<Target> {
        (self.layout, self.installed).slot(map, frontend, slot)
    }

    fn number(&mut self, map: NumberMap, frontend: &Frontend) -> Option<AffinityNumber> {
        (self.layout, self.installed).number(map, frontend)
    }

    fn has_timeout(&mut self, number: AffinityNumber, seconds: u32) -> bool {
        (self.layout, self.installed).has_timeout(number, seconds)
    }

    fn bound(&mut self, number: AffinityNumber, source: IpAddr, protocol: Protocol) -> Option<Target> {
        let (target, _) = self.bindings.get(&(number, source, protocol))?;
        Some(*target)
    }

    /// As the kernel does: what is bound stays bound, and lasts longer.
    fn bind(&mut self, new: Binding, seconds: u32) {
        let binding = self
            .bindings
            .entry((new.number, new.source, new.protocol))
            .or_insert((new.target, seconds));
        binding.1 = seconds;
    }
}

fn forget_stale(bindings: &mut Bindings, intent: &Intent) {
    let all = bindings
        .iter()
        .map(|((number, source, protocol), (target, _))| Binding {
            source: *source,
            protocol: *protocol,
            number: *number,
            target: *target,
        });
    for gone in stale(all.collect::<Vec<_>>(), intent) {
        bindings.remove(&(gone.number, gone.source, gone.protocol));
    }
}

fn family_of(packet: &Packet) -> IpFamily {
    IpFamily::of(packet.destination)
}

/// Both families' tables.
struct Tables {
    layouts: BTreeMap<IpFamily, (Layout, Ruleset)>,
    installed: BTreeMap<IpFamily, Installed>,
}

impl Tables {
    fn new(settings: &Settings) -> Self {
        let layout = |family| {
            let layout = Layout::new(family, settings);
            let rules = Ruleset::of(&layout);
            (family, (layout, rules))
        };
        Self {
            layouts: IpFamily::ALL.map(layout).into(),
            installed: IpFamily::ALL.map(|family| (family, Installed::default())).into(),
        }
    }

    fn sync(&mut self, intent: &Intent, touched: &Touched) {
        for family in IpFamily::ALL {
            let installed = self.installed.get_mut(&family).unwrap();
            let plan = diff(family, installed, intent, Scope::Touched(touched), DELAY, DELAY);
            let (layout, rules) = self.layouts.get_mut(&family).unwrap();
            let grown = layout.grown_for(&plan);
            if grown != *layout {
                (*layout, *rules) = (grown.clone(), Ruleset::of(&grown));
            }
            carry_out(installed, &plan, DELAY, 0);
        }
    }

    fn send(&self, packet: &Packet, bindings: &mut Bindings, pick: u32) -> Verdict {
        let (layout, rules) = &self.layouts[&family_of(packet)];
        let mut kernel = Kernel {
            layout,
            installed: &self.installed[&family_of(packet)],
            bindings,
        };
        walk(rules, &mut kernel, packet, |of| pick % of)
    }
}

fn target(verdict: Verdict) -> Option<Target> {
    match verdict {
        Verdict::Translated { target, .. } => Some(target),
        Verdict::Untouched | Verdict::Rejected | Verdict::Dropped | Verdict::Untranslated => None,
    }
}

type Step = (Vec<(u8, Option<Sample>)>, Vec<(Packet, u32)>);

fn step() -> impl Strategy<Value = Step> {
    let change = (0u8..3).prop_flat_map(|n| (Just(n), proptest::option::weighted(0.8, sample(n))));
    (
        proptest::collection::vec(change, 0..3),
        proptest::collection::vec((packet(), any::<u32>()), 1..12),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// A client that comes again to a list that still has its endpoint gets it again, by whatever frontend; one whose
    /// endpoint went gets another. What it gets is always something that it may get.
    #[test]
    fn a_client_stays_with_its_endpoint_as_long_as_its_list_has_it(
        settings in any_settings(), steps in proptest::collection::vec(step(), 1..6)
    ) {
        let mut view = View::default();
        let mut intent = Intent::empty(settings.clone());
        let mut tables = Tables::new(&settings);
        let mut bindings = Bindings::new();
        for (changes, packets) in steps {
            let mut touched = Touched::default();
            for (n, sample) in changes {
                match sample {
                    Some(sample) => sample.put(&mut view),
                    None => {
                        view.services.remove(&key(n));
                        view.endpoints.remove(&key(n));
                    }
                }
                touched.merge(intent.update(&view, [&key(n)]));
            }
            tables.sync(&intent, &touched);
            let before = bindings.len();
            forget_stale(&mut bindings, &intent);
            prop_assert!(bindings.len() == before || !touched.left.is_empty(), "nobody was told to look");
            let state = State { view: &view, settings: &settings };
            for (packet, pick) in packets {
                let wanted = oracle::affinity(&packet, state);
                let known = bindings.clone();
                let verdict = tables.send(&packet, &mut bindings, pick);
                prop_assert!(oracle::verdict(&packet, state).contains(&verdict), "{packet:?}: {verdict:?}");
                let Some(target) = target(verdict) else {
                    prop_assert_eq!(&known, &bindings);
                    continue;
                };
                let mine = |bindings: &Bindings| -> BTreeSet<(Target, u32)> {
                    let mine = bindings.iter().filter(|((_, source, protocol), _)| {
                        *source == packet.source && *protocol == packet.protocol
                    });
                    mine.map(|(_, binding)| *binding).collect()
                };
                match wanted {
                    None => prop_assert_eq!(&known, &bindings, "nobody asked to be remembered"),
                    Some(seconds) => {
                        prop_assert!(mine(&bindings).contains(&(target, seconds)));
                        let again = tables.send(&packet, &mut bindings, pick.wrapping_add(1));
                        prop_assert_eq!(again, verdict);
                    }
                }
            }
        }
    }
}

#[test]
fn what_every_packet_meets_comes_with_the_first_timeout_and_leaves_the_table_as_it_is() {
    let layout = Layout::new(IpFamily::V4, &settings());
    let learning = layout.with_affinity_timeouts([10_800]);
    let chains = |from: &Layout, to: &Layout| -> Vec<ChainName> {
        let missing = from.missing_chains(to).into_iter();
        missing.map(|chain| chain.name).collect()
    };
    assert_eq!(
        chains(&layout, &learning),
        [ChainName::LearnPrerouting, ChainName::LearnOutput]
    );
    assert_eq!(chains(&learning, &learning.with_affinity_timeouts([10])), []);
    assert_eq!(learning.marker(), layout.marker());
    let filters = |layout: &Layout| {
        let bases = layout.chains().into_iter().filter_map(|chain| chain.base);
        bases.filter(|base| !base.nat).count()
    };
    assert_eq!((filters(&layout), filters(&learning)), (0, 2));
}

#[test]
fn a_new_timeout_brings_a_rule_and_a_list_moves_to_it_at_once() {
    let mut view = View::default();
    set_service(&mut view, 0, Some(&[1, 2].into()), TrafficPolicy::Cluster);
    let name = mk_service(0, TrafficPolicy::Cluster).key;
    let mut intent = Intent::of(&view, settings());
    let mut installed = full_sync(&intent);
    let layout = Layout::new(IpFamily::V4, &settings());
    let mut set = |timeout_seconds: Option<u32>| {
        let mut service = mk_service(0, TrafficPolicy::Cluster);
        service.affinity = timeout_seconds.map_or(SessionAffinity::None, |timeout_seconds| {
            SessionAffinity::ClientIp { timeout_seconds }
        });
        view.services.insert(name.clone(), Arc::new(service));
        let touched = intent.update(&view, [&name]);
        let plan = diff(
            IpFamily::V4,
            &installed,
            &intent,
            Scope::Touched(&touched),
            DELAY,
            DELAY,
        );
        carry_out(&mut installed, &plan, DELAY, 0);
        plan
    };
    let usual = set(Some(10_800));
    let learning = layout.grown_for(&usual);
    insta::assert_snapshot!(usual, @r"
    # fill
    add element ip berth-proxy affinity-timeout-10800 { b6f4:42a5 }
    # switch
    add element ip berth-proxy vip-affinity { 10.96.0.0 . tcp . 80 : b6f4:42a5 }
    add element ip berth-proxy vip-affinity { 192.0.2.0 . tcp . 80 : b6f4:42a5 }
    add element ip berth-proxy nodeport-affinity { tcp . 30000 : b6f4:42a5 }
    ");
    let other = set(Some(10));
    let grown = learning.grown_for(&other);
    assert_eq!(learning.missing_sets(&grown), [SetName::AffinityTimeout(10)]);
    let rules = learning.missing_rules(&grown);
    let [(_, rule)] = rules.as_slice() else {
        panic!("{rules:?}");
    };
    insta::assert_snapshot!(
        render::rule_text(IpFamily::V4, rule),
        @"meta priority @affinity-timeout-10 update @affinity-bindings { ip saddr . meta l4proto . meta priority timeout 10s : ip daddr . th dport } meta priority set none accept"
    );
    insta::assert_snapshot!(other, @r"
    # fill
    add element ip berth-proxy affinity-timeout-10 { b6f4:42a5 }
    # retire
    delete element ip berth-proxy affinity-timeout-10800 { b6f4:42a5 }
    ");
    assert_eq!(grown.marker(), layout.marker());
    insta::assert_snapshot!(set(None), @r"
    # fill
    delete element ip berth-proxy vip-affinity { 10.96.0.0 . tcp . 80 }
    delete element ip berth-proxy vip-affinity { 192.0.2.0 . tcp . 80 }
    delete element ip berth-proxy nodeport-affinity { tcp . 30000 }
    # retire
    delete element ip berth-proxy affinity-timeout-10 { b6f4:42a5 }
    ");
}
