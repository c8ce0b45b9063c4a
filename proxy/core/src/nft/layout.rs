// SPDX-License-Identifier: Apache-2.0
//! The static part of a table: chains, rules, sets and maps. It depends on the settings and on how far
//! exact slot counts go, never on how many Services there are.

use std::collections::BTreeSet;
use std::iter;

use berth_model::IpFamily;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use self::rules::{base, pick, remember};
use super::objects::{Chain, Rule};
use super::plan::Plan;
use super::slots::{EXACT, LADDER, slot_count};
use super::wishes::Wishes;
use crate::hash::fnv1a;
use crate::names::{
    ChainName, Group, LAYOUT_PREFIX, NumberMap, RELAY_TABLE, SetName, TABLE, UNREMEMBERED, UNTRANSLATED,
};
use crate::{Links, Outcome, Settings};

mod chains;
mod rules;

/// Grows whenever the layout changes in a way its text does not show.
const VERSION: u32 = 3;

/// Rules for slot counts up to this one are there from the start, while the maps that they look in are empty.
const FIRST_LIMIT: u32 = 64;

/// Rules for larger exact counts come in steps. Linux walks all elements of a map for each rule that begins to look in it
/// (`nf_tables_bind_set`: it means to spare chains that do already, but compares with a chain that is not set yet): 3 ms a
/// rule at 10,000 Services x 5 endpoints, 26 ms at 50,000. So a step is small.
pub const STEP: u32 = 4;

/// What a table's translation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Endpoints: the nftables backend.
    Endpoints,
    /// Relays of this process: the user-space backend. A list has one slot, its relay, which remembers clients itself. The
    /// mark is the relays' own: their connections to endpoints are left alone.
    Relays,
}

/// The static part of one family's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    family: IpFamily,
    purpose: Purpose,
    mark: u32,
    pod_cidrs: Vec<IpNet>,
    pod_links: Option<Links>,
    node_port_ips: Vec<IpNet>,
    service_cidrs: Option<Vec<IpNet>>,
    limit: u32,
    affinity_timeouts: BTreeSet<u32>,
}

impl Layout {
    /// The layout for a family, with rules for exact slot counts up to the first limit.
    pub fn new(family: IpFamily, settings: &Settings) -> Self {
        let everything: IpNet = match family {
            IpFamily::V4 => Ipv4Net::default().into(),
            IpFamily::V6 => Ipv6Net::default().into(),
        };
        let node_port_ips = match settings.node_port_addresses.of(family) {
            None => vec![everything],
            Some(addresses) => addresses.iter().map(|ip| IpNet::from(*ip)).collect(),
        };
        Self {
            family,
            purpose: Purpose::Endpoints,
            mark: settings.mark,
            pod_cidrs: disjoint(settings.pod_cidrs(family).map(IpNet::trunc).collect()),
            pod_links: settings.pod_links,
            node_port_ips: disjoint(node_port_ips),
            service_cidrs: settings.service_cidrs.as_ref().map(|nets| {
                let ours = nets.iter().filter(|net| IpFamily::of(net.addr()) == family);
                disjoint(ours.map(IpNet::trunc).collect())
            }),
            limit: FIRST_LIMIT,
            affinity_timeouts: BTreeSet::new(),
        }
    }

    /// The layout for a family that leads every list to its one relay: small, and of fixed size.
    pub fn of_relays(family: IpFamily, settings: &Settings) -> Self {
        Self {
            purpose: Purpose::Relays,
            limit: 1,
            ..Self::new(family, settings)
        }
    }

    /// The same under other settings, with whatever it grew by.
    #[must_use]
    pub fn under(&self, settings: &Settings) -> Self {
        match self.purpose {
            Purpose::Endpoints => Self::new(self.family, settings).grown_like(self),
            Purpose::Relays => Self::of_relays(self.family, settings),
        }
    }

    /// The table that it is the layout of.
    pub fn table(&self) -> &'static str {
        match self.purpose {
            Purpose::Endpoints => TABLE,
            Purpose::Relays => RELAY_TABLE,
        }
    }

    /// The same layout with rules for at least this slot count. Never shrinks.
    #[must_use]
    pub fn with_limit_for(&self, count: u32) -> Self {
        if self.purpose == Purpose::Relays {
            return self.clone();
        }
        let exact = count.clamp(1, EXACT);
        Self {
            limit: self.limit.max(exact.next_multiple_of(STEP)),
            ..self.clone()
        }
    }

    /// The same layout with rules for these timeouts of session affinity, in seconds, besides. Never shrinks.
    #[must_use]
    pub fn with_affinity_timeouts(&self, seconds: impl IntoIterator<Item = u32>) -> Self {
        let mut larger = self.clone();
        larger.affinity_timeouts.extend(seconds);
        larger
    }

    /// The same layout with what else a plan needs before it can be carried out.
    #[must_use]
    pub fn grown_for(&self, plan: &Plan) -> Self {
        self.with_limit_for(plan.largest_count())
            .with_affinity_timeouts(plan.affinity_timeouts())
    }

    /// The same layout with rules for the counts that may come next, once a plan is carried out: who grows ahead of need has
    /// no change wait for rules.
    #[must_use]
    pub fn grown_ahead_of(&self, plan: &Plan) -> Self {
        match plan.largest_count() {
            0 => self.clone(),
            count => self.with_limit_for(count.saturating_add(STEP)),
        }
    }

    /// The same layout with what else it takes to serve all that is wished.
    #[must_use]
    pub fn grown_to_serve(&self, wishes: &impl Wishes) -> Self {
        let frontends = wishes.frontends();
        let ours = frontends.filter(|(frontend, _)| frontend.family() == self.family);
        let outcomes = ours.flat_map(|(_, intent)| iter::once(&intent.outcome).chain(&intent.outside));
        let counts = outcomes.filter_map(|outcome| match outcome {
            Outcome::Endpoints(targets) => Some(slot_count(targets.len())),
            Outcome::Reject(_) | Outcome::Drop(_) => None,
        });
        let largest = counts.filter(|count| *count <= EXACT).max().unwrap_or(0);
        let affinities = wishes.affinities();
        let ours = affinities.filter(|(_, affinity)| affinity.family == self.family);
        self.with_limit_for(largest)
            .with_affinity_timeouts(ours.map(|(_, affinity)| affinity.timeout_seconds))
    }

    /// The same layout with whatever the other one grew by.
    #[must_use]
    pub fn grown_like(&self, other: &Layout) -> Self {
        self.with_limit_for(other.limit)
            .with_affinity_timeouts(other.affinity_timeouts.iter().copied())
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
        count <= self.limit || self.ladder().contains(&count)
    }

    /// The sets of networks with their elements, which are disjoint, as far as they are known. They may be changed in
    /// place.
    pub fn networks(&self) -> Vec<(SetName, &[IpNet])> {
        let mut networks: Vec<(SetName, &[IpNet])> = vec![
            (SetName::PodCidrs, &self.pod_cidrs),
            (SetName::NodePortIps, &self.node_port_ips),
        ];
        if let Some(nets) = &self.service_cidrs {
            networks.push((SetName::ServiceCidrs, nets));
        }
        networks
    }

    /// Name of the empty chain that tells this layout from any other: same name, same structure but for the limit, the
    /// timeouts of session affinity and the networks.
    pub fn marker(&self) -> String {
        let base = match self.purpose {
            // With some timeout, so that what comes with the first one shows.
            Purpose::Endpoints => Self {
                limit: 0,
                affinity_timeouts: [0].into(),
                ..self.clone()
            },
            Purpose::Relays => self.clone(),
        };
        let (chains, sets) = (base.chains(), base.sets());
        let text = format!("{VERSION} {:?} {chains:?} {sets:?}", self.family);
        format!("{LAYOUT_PREFIX}{:016x}", fnv1a(text.as_bytes()))
    }

    /// Every set.
    pub fn sets(&self) -> Vec<SetName> {
        let counts = (1..=self.limit).chain(self.ladder().iter().copied());
        let per_count = counts.flat_map(|count| Group::ALL.map(|group| SetName::Count(group, count)));
        let per_timeout = self
            .affinity_timeouts
            .iter()
            .copied()
            .map(SetName::AffinityTimeout);
        let fixed = SetName::FIXED.into_iter().filter(|set| self.has_set(*set));
        fixed.chain(per_count).chain(per_timeout).collect()
    }

    /// The maps from frontend to the number of a list that remembers its clients. Without any there is no map of bindings
    /// either.
    pub fn number_maps(&self) -> impl Iterator<Item = NumberMap> {
        let remembers = self.purpose == Purpose::Endpoints;
        NumberMap::all().filter(move |_| remembers)
    }

    /// The named counters.
    pub fn counters(&self) -> &'static [&'static str] {
        match self.purpose {
            Purpose::Endpoints => &[UNTRANSLATED, UNREMEMBERED],
            Purpose::Relays => &[UNTRANSLATED],
        }
    }

    /// A relay's connections leave with the node's address anyway: nothing of masquerading is there.
    fn has_set(&self, set: SetName) -> bool {
        match self.purpose {
            Purpose::Endpoints => true,
            Purpose::Relays => !matches!(set, SetName::Masquerade(_) | SetName::Hairpin),
        }
    }

    /// What remembers clients is met by every packet, and not hooked in before somebody asks for it. nft 1.0.6 lists its
    /// rule for IPv6, too, but aborts when it is to load it (a map whose elements packets make may have 16 bytes of key
    /// and of data there): a host's saved ruleset should not fail to load because of us as long as nobody asked.
    fn has_chain(&self, chain: ChainName) -> bool {
        match self.purpose {
            Purpose::Endpoints => {
                let learns = matches!(chain, ChainName::LearnPrerouting | ChainName::LearnOutput);
                !learns || !self.affinity_timeouts.is_empty()
            }
            Purpose::Relays => !matches!(
                chain,
                ChainName::PickMany(_)
                    | ChainName::Masquerade
                    | ChainName::NatPostrouting
                    | ChainName::Recall
                    | ChainName::LearnPrerouting
                    | ChainName::LearnOutput
                    | ChainName::Learn
                    | ChainName::Remember
            ),
        }
    }

    /// The rungs for lists with many endpoints.
    fn ladder(&self) -> &'static [u32] {
        match self.purpose {
            Purpose::Endpoints => &LADDER,
            Purpose::Relays => &[],
        }
    }

    /// Every chain, referred ones before those that refer to them, but for the marker.
    pub fn chains(&self) -> Vec<Chain> {
        self.chains_that(|_| true)
    }

    /// The chains that must be added to become the other layout, which has grown from this one.
    pub fn missing_chains(&self, larger: &Layout) -> Vec<Chain> {
        larger.chains_that(|name| !self.has_chain(name))
    }

    fn chains_that(&self, wanted: impl Fn(ChainName) -> bool) -> Vec<Chain> {
        ChainName::all()
            .filter(|name| self.has_chain(*name) && wanted(*name))
            .map(|name| Chain {
                name,
                base: base(name),
                rules: self.rules(name),
            })
            .collect()
    }

    /// The rules that must be appended to chains that are there.
    pub fn missing_rules(&self, larger: &Layout) -> Vec<(ChainName, Rule)> {
        let counts = self.limit + 1..=larger.limit;
        let picks =
            counts.flat_map(|count| Group::ALL.map(|group| (ChainName::Pick(group), pick(group, count))));
        let timeouts = larger.affinity_timeouts.difference(&self.affinity_timeouts);
        let timeouts = timeouts.map(|seconds| (ChainName::Remember, remember(*seconds)));
        picks.chain(timeouts).collect()
    }

    /// The sets that must be added before.
    pub fn missing_sets(&self, larger: &Layout) -> Vec<SetName> {
        let counts = self.limit + 1..=larger.limit;
        let counts = counts.flat_map(|count| Group::ALL.map(|group| SetName::Count(group, count)));
        let timeouts = larger.affinity_timeouts.difference(&self.affinity_timeouts);
        counts
            .chain(timeouts.copied().map(SetName::AffinityTimeout))
            .collect()
    }
}

fn disjoint(networks: Vec<IpNet>) -> Vec<IpNet> {
    let mut networks = IpNet::aggregate(&networks);
    networks.sort();
    networks
}
