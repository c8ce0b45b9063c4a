// SPDX-License-Identifier: Apache-2.0
//! What does not depend on Services: the chains that exist once, and the jumps to them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use berth_model::IpFamily;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::names::{Builtin, ChainName, Fixed, Table};
use super::rule::{Action, Marked, Rule, States, Within};
use crate::{PodSource, Settings};

/// What the operator and the machine say beyond [`Settings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Packets of no known connection are not forwarded. kube-proxy does the same, unless
    /// `net.netfilter.nf_conntrack_tcp_be_liberal` is set (kubernetes/kubernetes#74839).
    pub drop_invalid: bool,
    /// From how many endpoints on the rules are short, see [`super::port`]. 1,000, where kube-proxy leaves comments out.
    pub short_from: usize,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            drop_invalid: true,
            short_from: 1_000,
        }
    }
}

/// Chains that hold one rule per frontend.
pub const DISPATCH: [(Table, Fixed); 6] = [
    (Table::Filter, Fixed::Services),
    (Table::Filter, Fixed::ExternalServices),
    (Table::Filter, Fixed::NodePorts),
    (Table::Filter, Fixed::ProxyFirewall),
    (Table::Nat, Fixed::Services),
    (Table::Nat, Fixed::NodePorts),
];

/// The static part of one family's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skeleton {
    /// Every chain that exists once, with its rules; of [`DISPATCH`] chains those that stand last.
    pub chains: BTreeMap<(Table, ChainName), Vec<Rule>>,
    /// Jumps at the top of everybody's chains, in their order.
    pub jumps: BTreeMap<(Table, Builtin), Vec<Rule>>,
}

impl Skeleton {
    /// For one family.
    pub fn new(family: IpFamily, settings: &Settings, choices: Choices) -> Self {
        let mut chains: BTreeMap<(Table, ChainName), Vec<Rule>> = BTreeMap::new();
        for table in Table::ALL {
            chains.insert((table, Fixed::Owner.into()), Vec::new());
            chains.insert((table, Fixed::Canary.into()), Vec::new());
        }
        for (table, chain) in DISPATCH {
            chains.insert((table, chain.into()), Vec::new());
        }
        chains.insert((Table::Nat, Fixed::Services.into()), node_ports(family, settings));
        chains.insert(
            (Table::Nat, Fixed::Postrouting.into()),
            postrouting(settings.mark),
        );
        let mark = vec![Rule::new(Action::Mark(settings.mark))];
        chains.insert((Table::Nat, Fixed::MarkMasq.into()), mark);
        let pods: Vec<PodSource> = settings.pod_sources(family).collect();
        if pods.len() > 1 {
            chains.insert((Table::Nat, Fixed::MarkOutside.into()), mark_outside(&pods));
        }
        chains.insert(
            (Table::Filter, Fixed::Forward.into()),
            forward(settings.mark, choices),
        );
        Self {
            chains,
            jumps: jumps(),
        }
    }

    /// Which chains hold one rule per frontend.
    pub fn is_dispatch(table: Table, chain: ChainName) -> bool {
        DISPATCH
            .iter()
            .any(|(of, fixed)| (*of, ChainName::Fixed(*fixed)) == (table, chain))
    }
}

const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// Loopback addresses, on which node ports are not served.
pub fn loopback(family: IpFamily) -> IpNet {
    let [v4, v6] = LOOPBACK;
    match family {
        IpFamily::V4 => v4,
        IpFamily::V6 => v6,
    }
}

/// The last rules of KUBE-SERVICES: what is addressed to this host may be for a node port.
fn node_ports(family: IpFamily, settings: &Settings) -> Vec<Rule> {
    let rule = |destination, to_here| Rule {
        destination: Some(destination),
        to_here,
        ..Rule::jump(Fixed::NodePorts)
            .about("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
    };
    match settings.node_port_addresses.of(family) {
        None => vec![rule(Within::outside(loopback(family)), true)],
        Some(chosen) => chosen
            .iter()
            .filter(|ip| !ip.is_loopback())
            .map(|ip| rule(Within::net(IpNet::from(*ip)), false))
            .collect(),
    }
}

/// The mark is cleared before the packet meets the hook again, as it does when a tunnel wraps it.
fn postrouting(bit: u32) -> Vec<Rule> {
    let unmarked = Rule {
        marked: Some(Marked::Without(bit)),
        ..Rule::new(Action::Return)
    };
    vec![
        unmarked,
        Rule::new(Action::Unmark(bit)),
        Rule::new(Action::Masquerade).about("kubernetes service traffic requiring SNAT"),
    ]
}

fn mark_outside(pods: &[PodSource]) -> Vec<Rule> {
    let inside = pods
        .iter()
        .map(|pods| Rule::new(Action::Return).of_pods(*pods, false));
    inside.chain([Rule::jump(Fixed::MarkMasq)]).collect()
}

/// Under a policy of FORWARD that drops, what we translated and masquerade passes all the same.
fn forward(bit: u32, choices: Choices) -> Vec<Rule> {
    let invalid = Rule {
        states: Some(States::Invalid),
        ..Rule::new(Action::Drop)
    };
    let marked = Rule {
        marked: Some(Marked::With(bit)),
        ..Rule::new(Action::Accept).about("kubernetes forwarding rules")
    };
    let later = Rule {
        states: Some(States::RelatedOrEstablished),
        ..Rule::new(Action::Accept).about("kubernetes forwarding conntrack rule")
    };
    let invalid = choices.drop_invalid.then_some(invalid);
    invalid.into_iter().chain([marked, later]).collect()
}

/// kube-proxy's, and one more: KUBE-EXTERNAL-SERVICES from OUTPUT, so that this host, too, is refused where everybody
/// is. What rejects comes before KUBE-PROXY-FIREWALL, which drops all that was not translated.
fn jumps() -> BTreeMap<(Table, Builtin), Vec<Rule>> {
    let new = |chain, comment| Rule {
        states: Some(States::New),
        ..Rule::jump(chain).about(comment)
    };
    let services = new(Fixed::Services, "kubernetes service portals");
    let external = new(
        Fixed::ExternalServices,
        "kubernetes externally-visible service portals",
    );
    let firewall = new(Fixed::ProxyFirewall, "kubernetes load balancer firewall");
    let health = Rule::jump(Fixed::NodePorts).about("kubernetes health check service ports");
    let forward = Rule::jump(Fixed::Forward).about("kubernetes forwarding rules");
    let portals = Rule::jump(Fixed::Services).about("kubernetes service portals");
    let postrouting = Rule::jump(Fixed::Postrouting).about("kubernetes postrouting rules");
    let refuse = [services, external.clone(), firewall.clone()];
    BTreeMap::from([
        ((Table::Filter, Builtin::Input), vec![health, external, firewall]),
        (
            (Table::Filter, Builtin::Forward),
            refuse.iter().cloned().chain([forward]).collect(),
        ),
        ((Table::Filter, Builtin::Output), refuse.into()),
        ((Table::Nat, Builtin::Prerouting), vec![portals.clone()]),
        ((Table::Nat, Builtin::Output), vec![portals]),
        ((Table::Nat, Builtin::Postrouting), vec![postrouting]),
    ])
}
