// SPDX-License-Identifier: Apache-2.0
//! AddressClaims: what each keeps, for how long, and what it has to ask for.
//!
//! The status is the record: the addresses that it names are kept, in every replica's book, from when the watch shows it.
//! What a claim is missing it asks for where Services ask, so that pools, quotas, reservations and holds count for both
//! alike; of a claim and a Service that want the last address, the one whose question comes first has it. The answer is a
//! hold for the name of the Service, which a Service that is created meanwhile shares, and the status is written while the
//! hold stands.
//!
//! Soft where it can be: a claim whose spec is edited keeps what it has until it is given what it asks for now, a pool that
//! is edited away or drained takes nothing back, and what somebody else has against the claim is said and left.

mod keeps;
mod status;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use berth_crds::{AddressClaim, AddressClaimStatus, ClaimCondition, ClaimReason, PoolUse, parse_retention};
use berth_model::{IpFamily, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::pools::Item;
use crate::service::Labels;
use crate::values::{ClaimId, Grant, Reason, Refused, ServiceView, Values, Wish};
use keeps::Keeps;

/// What is to be done about a claim.
#[derive(Clone, Debug)]
pub enum Step {
    /// All is as it should be.
    Nothing,
    /// Its status is to be another.
    Write(Box<ClaimWrite>),
    /// It is to ask whoever hands out values, and [`answered`] says what comes of the answer.
    Ask(Box<Question>),
}

/// The status of a claim.
#[derive(Clone, Debug)]
pub struct ClaimWrite {
    /// As the watch showed it last: the write is for this version.
    pub claim: AddressClaim,
    /// What it is to say.
    pub status: AddressClaimStatus,
}

/// What a claim asks for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which claim.
    pub id: ClaimId,
    /// The question.
    pub wish: Wish,
    uid: Option<String>,
    generation: Option<i64>,
}

/// Says what is to be done about a claim. It asks only for what this book would give.
pub fn plan(values: &mut Values, id: &ClaimId, now: &Time) -> Step {
    let Some(case) = Case::of(values, id, now) else {
        return Step::Nothing;
    };
    if case.claim.metadata.deletion_timestamp.is_some() {
        return Step::Nothing;
    }
    let verdict = match case.verdict() {
        Ok(asks) => asks,
        Err(said) => return written(case.status(&said)),
    };
    let question = |wish| Question {
        id: id.clone(),
        wish,
        uid: case.claim.metadata.uid.clone(),
        generation: case.claim.metadata.generation,
    };
    let questions: Vec<Question> = verdict.into_iter().map(question).collect();
    let mut refused = None;
    for question in questions {
        // The latest time that the book was told.
        match values.peek(&question.wish, Duration::ZERO) {
            Ok(_) => return Step::Ask(Box::new(question)),
            Err(why) => refused = Some(why),
        }
    }
    let case = Case::of(values, id, now);
    match (case, refused) {
        (Some(case), Some(refused)) => written(case.status(&case.refused(&refused))),
        (None, _) | (_, None) => Step::Nothing,
    }
}

/// Says what the status is to be after an answer; nothing where the claim is another meanwhile, and will be looked at anew.
pub fn answered(
    values: &Values,
    question: &Question,
    answer: Result<&Grant, &Refused>,
    now: &Time,
) -> Option<ClaimWrite> {
    let case = Case::of(values, &question.id, now)?;
    let meta = &case.claim.metadata;
    let same = meta.uid == question.uid
        && meta.generation == question.generation
        && meta.deletion_timestamp.is_none();
    if !same {
        return None;
    }
    let said = match answer {
        Ok(grant) => case.given(grant)?,
        Err(refused) => case.refused(refused),
    };
    case.status(&said)
}

fn written(write: Option<ClaimWrite>) -> Step {
    write.map_or(Step::Nothing, |write| Step::Write(Box::new(write)))
}

/// What the status is to say.
struct Said {
    keeps: Keeps,
    is_ready: bool,
    reason: ClaimReason,
    message: String,
}

/// A claim, and what there is to know of it.
struct Case<'a> {
    values: &'a Values,
    claim: &'a AddressClaim,
    key: ServiceKey,
    service: Option<ServiceView<'a>>,
    keeps: Keeps,
    /// As the API has it: in whole seconds.
    now: Timestamp,
}

impl<'a> Case<'a> {
    fn of(values: &'a Values, id: &ClaimId, now: &Time) -> Option<Self> {
        let claim = values.claim(id)?;
        let key = ServiceKey::new(id.0.as_str(), claim.spec.service_name.as_str());
        let keeps = Keeps::of(claim.status.as_ref(), values);
        Some(Self {
            service: values.service(&key),
            values,
            claim,
            key,
            keeps,
            now: Timestamp::from_second(now.0.as_second()).unwrap_or(now.0),
        })
    }

    /// What it asks for, the best first; or what there is to say without a question.
    fn verdict(&self) -> Result<Vec<Wish>, Said> {
        if self.claim.spec.r#use == PoolUse::LoadBalancer {
            let message = "this version of Berth keeps no LoadBalancer address for a claim; ask for one in the Service, or have a \
                reservation made in the pool";
            return Err(self.lets_go(ClaimReason::UseNotServed, message.to_owned()));
        }
        let faults = self.claim.spec.validate();
        if !faults.is_empty() {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            return Err(self.keeps_but(ClaimReason::Malformed, faults.join(". ")));
        }
        let name = self.claim.metadata.name.as_deref().unwrap_or_default();
        let oldest = self.values.oldest_claim(&self.key, self.claim.spec.r#use);
        if let Some(older) = oldest.filter(|oldest| *oldest != name) {
            let message = format!(
                "AddressClaim {older}, an older one, is for Service {} too; delete one of the two",
                self.key.name()
            );
            return Err(self.lets_go(ClaimReason::ClaimedTwice, message));
        }
        if self.is_expired() {
            let message = format!(
                "there was no Service {} for as long as the addresses were kept; create it, or edit the claim, to have it ask again",
                self.key.name()
            );
            return Err(self.lets_go(ClaimReason::Expired, message));
        }
        let missing = self.missing();
        if missing.is_empty() {
            return Err(self.keeps_all());
        }
        Ok(self.wishes(&missing))
    }

    /// What it asks for, by family, with the address that it wishes for.
    fn missing(&self) -> BTreeMap<IpFamily, Option<IpAddr>> {
        let spec = &self.claim.spec;
        let wish: Option<IpAddr> = spec.address.as_ref().and_then(|text| text.parse().ok());
        let of_pool =
            |family: &IpFamily| spec.pool.is_none() || spec.pool.as_ref() == self.keeps.pools.get(family);
        let families = spec.family.families().iter().copied();
        families
            .map(|family| (family, wish.filter(|wish| IpFamily::of(*wish) == family)))
            .filter(|(family, wish)| {
                let kept = self.keeps.addresses.get(family);
                !(of_pool(family) && kept.is_some_and(|kept| wish.is_none_or(|wish| wish == *kept)))
            })
            .collect()
    }

    /// The very addresses that the Service has of pools, and where it has none of them or may not keep them, any.
    fn wishes(&self, missing: &BTreeMap<IpFamily, Option<IpAddr>>) -> Vec<Wish> {
        let labels = self.labels();
        let pool = self.claim.spec.pool.as_deref();
        let namespace_labels = self.values.namespace_labels(self.key.namespace()).known();
        let wish = |asks| Wish {
            namespace_labels: namespace_labels.clone(),
            ..Wish::of_claim(&self.key, &labels, asks, pool)
        };
        let adopting: BTreeMap<IpFamily, Option<IpAddr>> = missing
            .iter()
            .map(|(family, wish)| (*family, wish.or_else(|| self.own(*family, pool))))
            .collect();
        if adopting == *missing {
            vec![wish(missing)]
        } else {
            vec![wish(&adopting), wish(missing)]
        }
    }

    /// The address of a pool that the Service has.
    fn own(&self, family: IpFamily, pool: Option<&str>) -> Option<IpAddr> {
        let items = self.service.iter().flat_map(|service| service.items);
        let mut own = items.filter_map(|item| match item {
            Item::Address(address) => Some(*address),
            Item::Port(_) => None,
        });
        own.find(|address| {
            let of = self.values.pool_of(*address);
            IpFamily::of(*address) == family && of.is_some() && (pool.is_none() || of == pool)
        })
    }

    /// Those of the Service; of the claim as long as there is none.
    fn labels(&self) -> Labels {
        match self.service {
            Some(service) => service.labels.clone(),
            None => self.claim.metadata.labels.clone().unwrap_or_default(),
        }
    }

    fn is_expired(&self) -> bool {
        if self.service.is_some() {
            return false;
        }
        if self.keeps.addresses.is_empty() {
            return self.has_expired_before();
        }
        let since = self.unused_since();
        since
            .and_then(|since| self.expires(&self.keeps, since))
            .is_some_and(|expires| expires <= self.now)
    }

    /// Whether it gave its addresses back, and was not edited since.
    fn has_expired_before(&self) -> bool {
        let status = self.claim.status.as_ref();
        let mut conditions = status.into_iter().flat_map(|status| &status.conditions);
        conditions.any(|condition| {
            condition.type_ == ClaimCondition::Ready.as_str()
                && condition.reason == ClaimReason::Expired.as_str()
                && condition.observed_generation == self.claim.metadata.generation
        })
    }

    /// Since when there has been no Service, as far as it was seen.
    fn unused_since(&self) -> Option<Timestamp> {
        let status = self.claim.status.as_ref()?;
        status.unused_since.as_ref().map(|since| since.0)
    }

    /// When addresses that have been unused since then go back to the pool.
    fn expires(&self, keeps: &Keeps, unused_since: Timestamp) -> Option<Timestamp> {
        let own = self.claim.spec.retention.as_deref().and_then(parse_retention);
        let pools = keeps.pools.values();
        let pools = pools.filter_map(|pool| self.values.address_pool(pool));
        let most = pools.filter_map(|pool| parse_retention(pool.spec.max_retention.as_deref()?));
        let limit = own.into_iter().chain(most).min()?;
        let since = keeps.since.map_or(unused_since, |since| since.max(unused_since));
        since.checked_add(SignedDuration::try_from(limit).ok()?).ok()
    }

    /// The answer in the form of what it keeps from now on; nothing where a family is missing of it.
    fn given(&self, grant: &Grant) -> Option<Said> {
        let families = self.claim.spec.family.families();
        let mut keeps = self.keeps.clone().only(families);
        for address in &grant.cluster_ips {
            let family = IpFamily::of(*address);
            let pool = self.claim.spec.pool.as_deref();
            // A pool that this replica is yet to see is seen in the next round, and the answer is held till then.
            let pool = pool.or_else(|| self.values.pool_of(*address))?;
            keeps.addresses.insert(family, *address);
            keeps.pools.insert(family, pool.to_owned());
        }
        if !families.iter().all(|family| keeps.addresses.contains_key(family)) {
            return None;
        }
        keeps.since = Some(self.now);
        Some(Said {
            keeps,
            is_ready: true,
            reason: ClaimReason::Kept,
            message: String::new(),
        })
    }

    /// It has all that it asks for, unless somebody else has it.
    fn keeps_all(&self) -> Said {
        let families = self.claim.spec.family.families();
        let keeps = self.keeps.clone().only(families);
        let mut taken = keeps.addresses.values().filter_map(|address| {
            let user = self.values.user_of(*address);
            let foreign = self.values.is_foreign(Item::Address(*address));
            let by = match user {
                Some(user) => (*user != self.key).then_some("another Service"),
                None => foreign.then_some("an IPAddress that others than the API server manage"),
            };
            Some((*address, by?))
        });
        let Some((taken, by)) = taken.next() else {
            return Said {
                keeps,
                is_ready: true,
                reason: ClaimReason::Kept,
                message: String::new(),
            };
        };
        Said {
            keeps,
            is_ready: false,
            reason: ClaimReason::AddressTaken,
            message: format!(
                "{by} has {taken}, which was not given to it by the pool; it is the claim's again when that is gone, or edit the \
                 claim to have another"
            ),
        }
    }

    fn refused(&self, refused: &Refused) -> Said {
        self.keeps_but(reason(refused.reason), refused.message.clone())
    }

    fn keeps_but(&self, reason: ClaimReason, mut message: String) -> Said {
        if !self.keeps.addresses.is_empty() {
            let kept: Vec<String> = self.keeps.addresses.values().map(ToString::to_string).collect();
            message += &format!(". What it has is kept meanwhile: {}", kept.join(", "));
        }
        Said {
            keeps: self.keeps.clone(),
            is_ready: false,
            reason,
            message,
        }
    }

    fn lets_go(&self, reason: ClaimReason, message: String) -> Said {
        Said {
            keeps: Keeps::default(),
            is_ready: false,
            reason,
            message,
        }
    }
}

/// A refusal as a condition's reason.
fn reason(refused: Reason) -> ClaimReason {
    match refused {
        Reason::PoolsAtRest => ClaimReason::PoolNotReady,
        Reason::WishOutside | Reason::WishExcluded => ClaimReason::AddressNotInPool,
        Reason::WishInPool | Reason::NoPool => ClaimReason::NoPool,
        Reason::NoSuchPool => ClaimReason::PoolMissing,
        Reason::WishReserved | Reason::WishClaimed | Reason::WishBeingGiven | Reason::WishTaken => {
            ClaimReason::AddressTaken
        }
        Reason::PoolExhausted
        | Reason::NoServiceCidr
        | Reason::OutsideNodePortRange
        | Reason::RangeExhausted => ClaimReason::NoneLeft,
        Reason::QuotaReached => ClaimReason::QuotaUsedUp,
    }
}
