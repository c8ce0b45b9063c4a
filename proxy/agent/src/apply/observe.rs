// SPDX-License-Identifier: Apache-2.0
//! Reading our tables back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_model::IpFamily;
use berth_proxy_core::names::{BINDINGS, ChainName, Group, Kind, List, MapName, SetName};
use berth_proxy_core::nft::{Element, Installed, Layout};
use nlink::netlink::nftables::ChainInfo;

use super::nft::Nft;
use super::{elements, family_of, rules};
use crate::Error;

/// How often a dump is repeated when the ruleset changed meanwhile.
const ATTEMPTS: u32 = 5;

/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;

/// What the kernel has in place of a table of ours.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed {
    /// No table.
    Absent,
    /// A table, but not with this layout: of another version, of other settings, or tampered with.
    Foreign {
        /// What differs.
        why: Mismatch,
    },
    /// A table with this layout, and its elements.
    Ours {
        /// The layout with the limit that the kernel has.
        layout: Layout,
        /// The elements.
        installed: Box<Installed>,
        /// Whether the sets of networks hold what the layout says.
        networks: bool,
    },
}

/// Why a table is not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The table is there, but packets do not meet it.
    Dormant,
    /// The chain that carries the layout's fingerprint is missing.
    Marker,
    /// Chains are missing or too many, or hooked in elsewhere.
    Chains,
    /// A chain has more or fewer rules.
    Rules,
    /// Sets or maps are missing or too many.
    Sets,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Dormant => "Dormant",
            Self::Marker => "Marker",
            Self::Chains => "Chains",
            Self::Rules => "Rules",
            Self::Sets => "Sets",
        })
    }
}

impl Nft {
    /// Reads the family's table, and whether it has the given layout (whose limit does not matter).
    ///
    /// # Errors
    /// The table cannot be read, or changed all the time.
    pub async fn observe(&self, layout: &Layout, now: Duration) -> Result<Observed, Error> {
        for _ in 0..ATTEMPTS {
            let before = self.generation().await?;
            let observed = self.observe_once(layout, now).await;
            let interrupted =
                matches!(&observed, Err(Error::Kernel { source, .. }) if source.is_dump_interrupted());
            if !interrupted && self.generation().await? == before {
                return observed;
            }
        }
        Err(Error::Unstable { attempts: ATTEMPTS })
    }

    async fn observe_once(&self, layout: &Layout, now: Duration) -> Result<Observed, Error> {
        let family = layout.family();
        match self.flags(family).await? {
            None => return Ok(Observed::Absent),
            Some(flags) if flags & DORMANT != 0 => {
                return Ok(Observed::Foreign {
                    why: Mismatch::Dormant,
                });
            }
            Some(_) => {}
        }
        let layout = match self.observe_structure(layout).await? {
            Ok(layout) => layout,
            Err(why) => return Ok(Observed::Foreign { why }),
        };
        let mut found: Vec<Element> = Vec::new();
        let mut networks = true;
        for set in layout.sets() {
            let listed = self.list(family, &set.to_string()).await?;
            let nets = layout.networks().into_iter().find(|(name, _)| *name == set);
            if let Some((_, nets)) = nets {
                networks &= elements::are_networks(&listed, nets)?;
            }
            found.extend(
                listed
                    .iter()
                    .filter_map(|element| elements::decode_member(family, set, element)),
            );
        }
        for map in MapName::all() {
            let listed = self.list(family, &map.to_string()).await?;
            found.extend(
                listed
                    .iter()
                    .filter_map(|element| elements::decode_slot(family, map, element)),
            );
        }
        for map in layout.number_maps() {
            let listed = self.list(family, &map.to_string()).await?;
            found.extend(
                listed
                    .iter()
                    .filter_map(|element| elements::decode_number(family, map, element)),
            );
        }
        Ok(Observed::Ours {
            layout,
            installed: Box::new(Installed::observed(found, now)),
            networks,
        })
    }

    async fn list(
        &self,
        family: IpFamily,
        set: &str,
    ) -> Result<Vec<nlink::netlink::nftables::SetElement>, Error> {
        self.connection
            .list_set_elements(self.table, set, family_of(family))
            .await
            .map_err(Error::kernel(format!("list set {set}")))
    }

    /// The layout with the limit found, or what differs.
    async fn observe_structure(&self, layout: &Layout) -> Result<Result<Layout, Mismatch>, Error> {
        let family = family_of(layout.family());
        let chains = self
            .connection
            .list_chains_in(self.table, family)
            .await
            .map_err(Error::kernel("list chains"))?;
        let rules = self
            .connection
            .list_rules(self.table, family)
            .await
            .map_err(Error::kernel("list rules"))?;
        let sets = self
            .connection
            .list_sets_in(self.table, family)
            .await
            .map_err(Error::kernel("list sets"))?;
        let mut rule_counts: BTreeMap<&str, usize> = BTreeMap::new();
        for rule in &rules {
            *rule_counts.entry(rule.chain.as_str()).or_default() += 1;
        }
        let limit = rule_counts
            .get(
                ChainName::Pick(Group::new(Kind::Vip, List::Main))
                    .to_string()
                    .as_str(),
            )
            .copied()
            .unwrap_or_default();
        let sets: BTreeSet<String> = sets.into_iter().map(|set| set.name).collect();
        let timeouts = sets.iter().filter_map(|set| match set.parse() {
            Ok(SetName::AffinityTimeout(seconds)) => Some(seconds),
            Ok(_) | Err(_) => None,
        });
        let layout = layout
            .with_limit_for(u32::try_from(limit).unwrap_or(u32::MAX))
            .with_affinity_timeouts(timeouts);
        Ok(compare(&layout, &chains, &rule_counts, &sets).map_or(Ok(layout), Err))
    }
}

fn compare(
    layout: &Layout,
    chains: &[ChainInfo],
    rule_counts: &BTreeMap<&str, usize>,
    sets: &BTreeSet<String>,
) -> Option<Mismatch> {
    let marker = layout.marker();
    if !chains.iter().any(|chain| chain.name == marker) {
        return Some(Mismatch::Marker);
    }
    let wanted = layout.chains();
    let hooked = |chain: &berth_proxy_core::nft::Chain| {
        let found = chains.iter().find(|found| found.name == chain.name.to_string());
        let kind = found.and_then(ChainInfo::kind);
        kind.is_some_and(|kind| match (chain.base, kind.base()) {
            (None, None) => true,
            (Some(base), Some(found)) => {
                let base = rules::base_chain(base);
                (base.chain_type(), base.hook(), base.priority())
                    == (found.chain_type(), found.hook(), found.priority())
            }
            (None, Some(_)) | (Some(_), None) => false,
        })
    };
    if chains.len() != wanted.len() + 1 || !wanted.iter().all(hooked) {
        return Some(Mismatch::Chains);
    }
    let count = |name: &str| rule_counts.get(name).copied().unwrap_or_default();
    if count(&marker) != 0
        || wanted
            .iter()
            .any(|chain| count(&chain.name.to_string()) != chain.rules.len())
    {
        return Some(Mismatch::Rules);
    }
    let names = layout.sets().iter().map(SetName::to_string).collect::<Vec<_>>();
    let slots = MapName::all().map(|map| map.to_string());
    let numbers = layout.number_maps().map(|map| map.to_string());
    let bindings = layout.number_maps().next().map(|_| BINDINGS.to_owned());
    let wanted: BTreeSet<String> = names
        .into_iter()
        .chain(slots)
        .chain(numbers)
        .chain(bindings)
        .collect();
    (*sets != wanted).then_some(Mismatch::Sets)
}
