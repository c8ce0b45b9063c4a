// SPDX-License-Identifier: Apache-2.0
//! One Service that the kernel refuses must not keep rules from the others: who it is, is found by halving.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_model::{IpFamily, ServiceKey};
use berth_proxy_core::Frontend;
use berth_proxy_core::nft::{Installed, Plan, Scope, Wishes, diff};

use super::Nftables;
use crate::Error;
use crate::apply::Observed;
use crate::backend::REFUSED_FOR;

/// What the kernel would not take.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// What it said.
    pub(super) why: String,
    /// When to try again.
    pub(super) again_at: Duration,
}

/// Whether an error may be about one element, not about the whole.
pub(super) fn is_about_elements(error: &Error) -> bool {
    match error {
        Error::Kernel { source, .. } => {
            source.errno().is_some()
                && !source.is_try_again()
                && !source.is_busy()
                && !source.is_no_buffer_space()
                && !source.is_dump_interrupted()
        }
        Error::Privilege { .. }
        | Error::Unstable { .. }
        | Error::Program { .. }
        | Error::Refused { .. }
        | Error::Missing { .. }
        | Error::Socket(_) => false,
    }
}

/// Frontends by the Service that they belong to; of those that nobody wants any more, `None`.
fn by_owner(
    frontends: &BTreeSet<Frontend>,
    intent: &impl Wishes,
) -> Vec<(Option<ServiceKey>, BTreeSet<Frontend>)> {
    let mut owners: BTreeMap<Option<ServiceKey>, BTreeSet<Frontend>> = BTreeMap::new();
    for frontend in frontends {
        let owner = intent.get(frontend).map(|intent| intent.owner.service.clone());
        owners.entry(owner).or_default().insert(*frontend);
    }
    owners.into_iter().collect()
}

impl Nftables {
    /// The frontends of Services that a family's table was refused and that are not to be tried yet.
    pub(super) fn left_out(&self, family: IpFamily, intent: &impl Wishes) -> BTreeSet<Frontend> {
        let now = self.started.elapsed();
        let resting: BTreeSet<&ServiceKey> = self
            .refused
            .iter()
            .filter(|((of, _), refused)| *of == family && refused.again_at > now)
            .map(|((_, service), _)| service)
            .collect();
        if resting.is_empty() {
            return BTreeSet::new();
        }
        let ours = intent
            .frontends()
            .filter(|(_, intent)| resting.contains(&intent.owner.service));
        ours.map(|(frontend, _)| *frontend).collect()
    }

    /// Carries out what there is to do in a family's table Service by Service, where it was refused as a whole: those
    /// that the kernel refuses by themselves are left out from now on.
    pub(super) async fn isolate(
        &mut self,
        index: usize,
        intent: &impl Wishes,
        refusal: Error,
    ) -> Result<usize, Error> {
        let mut done = 0;
        let Some(table) = self.tables.get_mut(index) else {
            return Ok(done);
        };
        let family = table.layout.family();
        // What was refused may have been committed in part.
        match self.nft.observe(&table.layout, self.started.elapsed()).await? {
            Observed::Ours {
                layout, installed, ..
            } => {
                table.layout = layout;
                table.shape = None;
                table.installed = Some(*installed);
            }
            Observed::Absent | Observed::Foreign { .. } => return Err(refusal),
        }
        let out = self.left_out(family, intent);
        let plan = self.plan(index, intent).without(&out);
        let frontends = plan.frontends();
        done += self.carry_out(index, &plan.without(&frontends)).await?;
        let mut parts = vec![by_owner(&frontends, intent)];
        let mut refused = BTreeMap::new();
        let mut taken = 0;
        while let Some(mut part) = parts.pop() {
            let frontends = part
                .iter()
                .flat_map(|(_, frontends)| frontends)
                .copied()
                .collect();
            let plan = self.plan(index, intent).only(&frontends);
            match self.carry_out(index, &plan).await {
                Ok(changes) => {
                    taken += part.len();
                    done += changes;
                }
                Err(error) if !is_about_elements(&error) => return Err(error),
                Err(error) => match part.as_slice() {
                    [(Some(service), _)] => {
                        refused.insert(service.clone(), error.to_string());
                    }
                    [] | [(None, _)] => return Err(error),
                    [_, _, ..] => {
                        let rest = part.split_off(part.len() / 2);
                        parts.extend([rest, part]);
                    }
                },
            }
        }
        if taken == 0 && refused.len() > 1 {
            // Not one of them is at fault.
            return Err(refusal);
        }
        let again_at = self.started.elapsed() + REFUSED_FOR;
        for (service, why) in refused {
            tracing::debug!(%family, %service, why, "left out");
            self.refused.insert((family, service), Refused { why, again_at });
        }
        Ok(done)
    }

    fn plan(&self, index: usize, intent: &impl Wishes) -> Plan {
        let nothing = Installed::default();
        let table = self.tables.get(index);
        let family = table.map_or(IpFamily::V4, |table| table.layout.family());
        let installed = table.and_then(|table| table.installed.as_ref());
        let now = self.started.elapsed();
        diff(
            family,
            installed.unwrap_or(&nothing),
            intent,
            Scope::All,
            now,
            self.retire_delay,
        )
    }
}
