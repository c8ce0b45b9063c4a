// SPDX-License-Identifier: Apache-2.0
//! The status of a claim, field by field.

use berth_crds::{ClaimCondition, ClaimReason, ConditionStatus, set_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Case, ClaimWrite, Keeps, Said};
use crate::pools::Item;

impl Case<'_> {
    /// The status that says this; nothing where it stands there.
    pub(super) fn status(&self, said: &Said) -> Option<ClaimWrite> {
        let before = self.claim.status.clone().unwrap_or_default();
        let mut after = before.clone();
        let (generation, now) = (self.claim.metadata.generation, Time(self.now));
        let keeps = &said.keeps;
        set_condition(
            &mut after.conditions,
            ClaimCondition::Ready.as_str(),
            truth(said.is_ready),
            said.reason.as_str(),
            &said.message,
            generation,
            &now,
        );
        let (is_bound, message) = self.bound(keeps);
        let reason = if is_bound {
            ClaimReason::ServiceHasThem
        } else {
            ClaimReason::ServiceHasNot
        };
        set_condition(
            &mut after.conditions,
            ClaimCondition::Bound.as_str(),
            truth(is_bound),
            reason.as_str(),
            &message,
            generation,
            &now,
        );
        let is_unused = self.service.is_none() && !keeps.addresses.is_empty();
        let unused_since = is_unused.then(|| self.unused_since().unwrap_or(self.now));
        after.addresses = keeps.addresses.values().map(ToString::to_string).collect();
        let families = keeps.addresses.keys();
        after.pools = families
            .map_while(|family| keeps.pools.get(family).cloned())
            .collect();
        after.held_since = keeps.since.map(Time);
        after.unused_since = unused_since.map(Time);
        after.expires = unused_since
            .and_then(|since| self.expires(keeps, since))
            .map(Time);
        (after != before).then(|| ClaimWrite {
            claim: self.claim.clone(),
            status: after,
        })
    }

    /// Whether the Service has what the claim keeps, and if not, what it has.
    fn bound(&self, keeps: &Keeps) -> (bool, String) {
        let name = self.key.name();
        let Some(service) = self.service else {
            return (false, format!("there is no Service {name}"));
        };
        let mut kept = keeps.addresses.values();
        let has_all = kept.all(|address| service.items.contains(&Item::Address(*address)));
        if keeps.addresses.is_empty() {
            return (false, "there is nothing for it to have".to_owned());
        }
        if has_all {
            return (true, String::new());
        }
        let has = service.items.iter().filter_map(|item| match item {
            Item::Address(address) => Some(address.to_string()),
            Item::Port(_) => None,
        });
        let has: Vec<String> = has.collect();
        let has = if has.is_empty() {
            "no cluster IP".to_owned()
        } else {
            has.join(", ")
        };
        let message =
            format!("Service {name} has {has}; delete it and create it anew to have it get what is kept");
        (false, message)
    }
}

fn truth(holds: bool) -> ConditionStatus {
    if holds {
        ConditionStatus::True
    } else {
        ConditionStatus::False
    }
}
