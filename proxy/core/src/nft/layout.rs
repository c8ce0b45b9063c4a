// SPDX-License-Identifier: Apache-2.0
//! The static part of a table: chains, rules, sets and maps. It depends on the settings and on how far
//! exact slot counts go, never on how many Services there are.

use berth_model::IpFamily;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::objects::{Action, BaseChain, Chain, Hook, Match, Rule};
use super::slots::{EXACT, LADDER};
use crate::Settings;
use crate::names::{ChainName, LAYOUT_PREFIX, MapName, SetName};

/// Grows whenever the layout changes in a way its text does not show.
const VERSION: u32 = 1;

/// Rules for exact counts come in steps: a count seen for the first time costs 0.4 ms at 1,000 Services
/// and 47 ms at 50,000 (measured, behaviour/proxy-dns.md section 3), so it should be rare.
pub const STEP: u32 = 64;

/// Before destination translation (-100), after conntrack (-200), so that packets still carry the
/// address the client used and are known to be new. Rejecting in prerouting needs Linux 5.9.
const BEFORE_DNAT: i32 = -110;
/// `NF_IP_PRI_NAT_DST`. nft 1.0.6 has no name for it on the output hook.
const DNAT: i32 = -100;
/// `NF_IP_PRI_NAT_SRC`.
const SNAT: i32 = 100;

/// The static part of one family's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    family: IpFamily,
    mark: u32,
    pod_cidrs: Vec<IpNet>,
    limit: u32,
}

impl Layout {
    /// The layout for a family, with rules for exact slot counts up to the first step.
    pub fn new(family: IpFamily, settings: &Settings) -> Self {
        let ours = settings
            .cluster_cidrs
            .iter()
            .filter(|net| IpFamily::of(net.addr()) == family)
            .map(IpNet::trunc)
            .collect();
        let mut pod_cidrs = IpNet::aggregate(&ours);
        if pod_cidrs.is_empty() {
            // Nobody comes from elsewhere if nobody knows where Pods live.
            pod_cidrs.push(match family {
                IpFamily::V4 => Ipv4Net::default().into(),
                IpFamily::V6 => Ipv6Net::default().into(),
            });
        }
        pod_cidrs.sort();
        Self {
            family,
            mark: settings.mark,
            pod_cidrs,
            limit: STEP,
        }
    }

    /// The same layout with rules for at least this slot count. Never shrinks.
    #[must_use]
    pub fn with_limit_for(&self, count: u32) -> Self {
        let exact = count.clamp(1, EXACT);
        Self {
            limit: self.limit.max(exact.next_multiple_of(STEP)),
            ..self.clone()
        }
    }

    /// The family of its table.
    pub fn family(&self) -> IpFamily {
        self.family
    }

    /// The largest exact slot count with rules.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether frontends with this slot count can be served without another rule.
    pub fn covers(&self, count: u32) -> bool {
        count <= self.limit || LADDER.contains(&count)
    }

    /// Where Pods live: the elements of `pod-cidrs`, disjoint.
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// Name of the empty chain that tells this layout from any other: same name, same structure but for the limit.
    pub fn marker(&self) -> String {
        let base = Self {
            limit: 0,
            ..self.clone()
        };
        let text = format!("{VERSION} {base:?} {:?} {:?}", base.chains(), base.sets());
        format!("{LAYOUT_PREFIX}{:016x}", fnv1a(text.as_bytes()))
    }

    /// Every set.
    pub fn sets(&self) -> Vec<SetName> {
        let counts = (1..=self.limit).chain(LADDER);
        let per_count = counts.flat_map(|count| [SetName::VipCount(count), SetName::NodePortCount(count)]);
        SetName::FIXED.into_iter().chain(per_count).collect()
    }

    /// Every chain, referred ones before those that refer to them, but for the marker.
    pub fn chains(&self) -> Vec<Chain> {
        ChainName::ALL
            .into_iter()
            .map(|name| Chain {
                name,
                base: base(name),
                rules: self.rules(name),
            })
            .collect()
    }

    /// The rules that must be appended to reach the other layout's limit.
    pub fn missing_rules(&self, larger: &Layout) -> Vec<(ChainName, Rule)> {
        (self.limit + 1..=larger.limit)
            .flat_map(|count| {
                [
                    (ChainName::VipPick, pick_vip(count)),
                    (ChainName::NodePortPick, pick_node_port(count)),
                ]
            })
            .collect()
    }

    /// The sets that must be added to reach the other layout's limit.
    pub fn missing_sets(&self, larger: &Layout) -> Vec<SetName> {
        (self.limit + 1..=larger.limit)
            .flat_map(|count| [SetName::VipCount(count), SetName::NodePortCount(count)])
            .collect()
    }

    fn rules(&self, chain: ChainName) -> Vec<Rule> {
        match chain {
            ChainName::FilterPrerouting | ChainName::FilterOutput => {
                vec![rule(&[Match::NewConnection], Action::Jump(ChainName::Refuse))]
            }
            ChainName::NatPrerouting | ChainName::NatOutput => {
                vec![rule(&[], Action::Jump(ChainName::Services))]
            }
            ChainName::NatPostrouting => vec![
                rule(
                    &[Match::Translated, Match::In(SetName::Hairpin)],
                    Action::Masquerade,
                ),
                rule(&[Match::Marked(self.mark)], Action::Goto(ChainName::Masquerade)),
            ],
            ChainName::Masquerade => self.masquerade(),
            ChainName::Refuse => refuse(),
            ChainName::Services => services(),
            ChainName::Vips => self.vips(),
            ChainName::NodePorts => self.node_ports(),
            ChainName::VipPick => (1..=self.limit).map(pick_vip).collect(),
            ChainName::NodePortPick => (1..=self.limit).map(pick_node_port).collect(),
            ChainName::VipPickMany => LADDER.into_iter().map(pick_vip).collect(),
            ChainName::NodePortPickMany => LADDER.into_iter().map(pick_node_port).collect(),
        }
    }

    /// The bit goes first, so that an encapsulated second pass is not masqueraded again.
    fn masquerade(&self) -> Vec<Rule> {
        vec![
            rule(&[], Action::Unmark(self.mark)),
            rule(&[], Action::Masquerade),
        ]
    }

    fn vips(&self) -> Vec<Rule> {
        vec![
            rule(&[Match::In(SetName::MasqueradeVips)], Action::Mark(self.mark)),
            rule(
                &[Match::In(SetName::ClusterIps), Match::NotIn(SetName::PodCidrs)],
                Action::Mark(self.mark),
            ),
            rule(&[], Action::Jump(ChainName::VipPick)),
            rule(&[], Action::Jump(ChainName::VipPickMany)),
            rule(&[], Action::CountAndDrop),
        ]
    }

    fn node_ports(&self) -> Vec<Rule> {
        vec![
            rule(
                &[Match::In(SetName::MasqueradeNodePorts)],
                Action::Mark(self.mark),
            ),
            rule(&[], Action::Jump(ChainName::NodePortPick)),
            rule(&[], Action::Jump(ChainName::NodePortPickMany)),
            rule(&[], Action::CountAndDrop),
        ]
    }
}

fn rule(matches: &[Match], action: Action) -> Rule {
    Rule {
        matches: matches.to_vec(),
        action,
    }
}

/// The route lookup comes last: it costs most.
fn node_port_in(set: SetName) -> [Match; 3] {
    [Match::NotLoopback, Match::In(set), Match::LocalDestination]
}

fn refuse() -> Vec<Rule> {
    vec![
        rule(&[Match::In(SetName::NoEndpointVips)], Action::Reject),
        rule(
            &[
                Match::In(SetName::ClusterIps),
                Match::NotIn(SetName::VipFrontends),
            ],
            Action::Reject,
        ),
        rule(&node_port_in(SetName::NoEndpointNodePorts), Action::Reject),
    ]
}

fn services() -> Vec<Rule> {
    vec![
        rule(&[Match::In(SetName::VipFrontends)], Action::Goto(ChainName::Vips)),
        rule(
            &node_port_in(SetName::NodePortFrontends),
            Action::Goto(ChainName::NodePorts),
        ),
    ]
}

fn pick_vip(count: u32) -> Rule {
    Rule {
        matches: vec![Match::In(SetName::VipCount(count))],
        action: Action::Translate(MapName::VipSlots, count),
    }
}

fn pick_node_port(count: u32) -> Rule {
    Rule {
        matches: vec![Match::In(SetName::NodePortCount(count))],
        action: Action::Translate(MapName::NodePortSlots, count),
    }
}

fn base(chain: ChainName) -> Option<BaseChain> {
    let (nat, hook, priority) = match chain {
        ChainName::FilterPrerouting => (false, Hook::Prerouting, BEFORE_DNAT),
        ChainName::FilterOutput => (false, Hook::Output, BEFORE_DNAT),
        ChainName::NatPrerouting => (true, Hook::Prerouting, DNAT),
        ChainName::NatOutput => (true, Hook::Output, DNAT),
        ChainName::NatPostrouting => (true, Hook::Postrouting, SNAT),
        ChainName::Refuse
        | ChainName::Services
        | ChainName::Vips
        | ChainName::NodePorts
        | ChainName::VipPick
        | ChainName::VipPickMany
        | ChainName::NodePortPick
        | ChainName::NodePortPickMany
        | ChainName::Masquerade => return None,
    };
    Some(BaseChain { nat, hook, priority })
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): stable across versions, unlike the standard library's hashers.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
