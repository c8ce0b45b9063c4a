// SPDX-License-Identifier: Apache-2.0
//! Whether somebody else changed what is ours. IPVS has no number that tells; what is looked at often is what one dump of
//! netlink or one system call yields, and the destinations of a few servers, others each time. ipset has no such
//! interface here, and what is in rules takes a program: both are looked at with everything else, more seldom.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::IpFamily;
use berth_proxy_core::Target;
use berth_proxy_core::ipvs::names::{FamilySet, SetName};
use berth_proxy_core::ipvs::state::Server;
use berth_proxy_core::ipvs::{Installed, ServerConfig, ServerKey};
use berth_runtime::sys::xtables::TableSize;

use super::{Ipvs, families, iptables, sets};
use crate::Error;

/// Of how many servers the destinations are looked at each time.
const SERVERS: usize = 32;

/// How large the legacy tables of each family are; where the rules are in nf_tables, that does not change.
pub(super) type Sizes = Vec<Vec<Option<TableSize>>>;

/// The sizes as they are now.
///
/// # Errors
/// They cannot be looked at.
pub(super) fn sizes() -> Result<Sizes, Error> {
    families().into_iter().map(crate::iptables::sizes).collect()
}

impl Ipvs {
    /// Whether all looks as it was left, as far as that is cheap to say.
    pub(super) async fn looks_as_left(&mut self) -> Result<bool, Error> {
        let Some(installed) = &self.installed else {
            return Ok(true);
        };
        if !self.has_addresses(installed).await? || !self.has_servers(installed).await? {
            return Ok(false);
        }
        let some: Vec<(ServerKey, &Server)> = installed.servers().skip(self.glanced).take(SERVERS).collect();
        let passed = some.len();
        if !self.have_destinations(some).await? {
            return Ok(false);
        }
        self.glanced = if passed < SERVERS {
            0
        } else {
            self.glanced + passed
        };
        let now = sizes()?;
        if self.sizes.as_ref() == Some(&now) {
            return Ok(true);
        }
        // Somebody changed rules, perhaps not ours.
        self.sizes = Some(now);
        self.has_rules().await
    }

    /// Whether all is as it was left.
    pub(super) async fn is_as_left(&self, installed: &Installed) -> Result<bool, Error> {
        Ok(self.has_addresses(installed).await?
            && self.has_servers(installed).await?
            && self.have_destinations(installed.servers()).await?
            && self.has_rules().await?
            && have_elements(installed).await?)
    }

    async fn has_addresses(&self, installed: &Installed) -> Result<bool, Error> {
        let addresses = self.link.addresses().await?;
        Ok(addresses.own == self.own && addresses.bound.iter().copied().eq(installed.bound()))
    }

    async fn has_servers(&self, installed: &Installed) -> Result<bool, Error> {
        let seen: BTreeMap<ServerKey, ServerConfig> = self.table.servers().await?.into_iter().collect();
        Ok(installed
            .servers()
            .all(|(key, server)| seen.get(&key) == Some(&server.config)))
    }

    async fn have_destinations<'a>(
        &self,
        servers: impl IntoIterator<Item = (ServerKey, &'a Server)>,
    ) -> Result<bool, Error> {
        for (key, server) in servers {
            let seen = match self.table.destinations(&key).await {
                Ok(seen) => seen,
                // The kernel says so of a server that is not there.
                Err(Error::Kernel { source, .. }) if source.errno() == Some(nix::libc::ESRCH) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            let seen: BTreeSet<(Target, u32)> = seen.iter().map(|seen| (seen.target, seen.weight)).collect();
            let known = server.destinations.iter();
            let known: BTreeSet<(Target, u32)> = known
                .map(|(target, destination)| (*target, destination.weight))
                .collect();
            if seen != known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn has_rules(&self) -> Result<bool, Error> {
        for family in families() {
            if !iptables::observe(family).await?.is(family, &self.settings) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn have_elements(installed: &Installed) -> Result<bool, Error> {
    let counts = sets::counts().await?;
    let wanted = installed.set_sizes();
    let all = IpFamily::ALL
        .into_iter()
        .flat_map(|family| SetName::ALL.map(|set| FamilySet(family, set)));
    let sizes = |set: &FamilySet| (counts.get(set), wanted.get(set).copied().unwrap_or_default());
    Ok(all.into_iter().all(|set| {
        let (found, wanted) = sizes(&set);
        found == Some(&wanted)
    }))
}
