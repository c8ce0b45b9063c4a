// SPDX-License-Identifier: Apache-2.0
//! What is said about values that are not as they should be, and how often.
//!
//! In: the findings of each look at the book, or at the API server's IPAddresses; the time. Out: those that are to be told
//! now, and counts of all. Touches: nothing.
//!
//! Nothing is repaired here: a cluster IP can't be changed, and another node port would break whoever uses the one that
//! there is. Whoever owns the Service is told, and creates it anew when it suits. What can be repaired, API servers repair
//! themselves ([`addresses`]).

pub mod addresses;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::pools::Item;
use crate::values::{Finding, Subject};

/// How long a finding has to stand before it is told: two Services that swap a value are shown one after the other.
pub const SETTLED: Duration = Duration::from_secs(2);
/// After how long it is told again: API servers forget events after an hour (`--event-ttl`).
pub const AGAIN: Duration = Duration::from_secs(30 * 60);

/// What is wrong, in a word: the reason of events and the label of metrics. The first seven are those of kube-apiserver's repair
/// loops (`ipallocator-repair-controller`, `portallocator-repair-controller`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Two Services have an address.
    ClusterIpAlreadyAllocated,
    /// Two Services have a node port.
    PortAlreadyAllocated,
    /// An address is in no ServiceCIDR.
    ClusterIpOutOfRange,
    /// A node port is outside the API server's range.
    PortOutOfRange,
    /// A Service has an address without an IPAddress of the API server's allocator.
    ClusterIpNotAllocated,
    /// An IPAddress of that allocator has an address that no Service has.
    IpAddressNotAllocated,
    /// An IPAddress of that allocator names another parent than the Service that has the address.
    IpAddressWrongReference,
    /// Every ServiceCIDR of an address is being deleted.
    ServiceCidrTerminating,
    /// An address is of a pool that is for others.
    ClusterIpOfOtherPool,
    /// A node port is of a pool that is for others.
    PortOfOtherPool,
    /// An address is of no pool, though pools are for the Service.
    ClusterIpOutsidePool,
    /// A node port is of no pool, though pools are for the Service.
    PortOutsidePool,
    /// An address of a pool is taken by an IPAddress that others than the API server's allocator manage.
    IpAddressManagedByOthers,
}

impl Reason {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIpAlreadyAllocated => "ClusterIPAlreadyAllocated",
            Self::PortAlreadyAllocated => "PortAlreadyAllocated",
            Self::ClusterIpOutOfRange => "ClusterIPOutOfRange",
            Self::PortOutOfRange => "PortOutOfRange",
            Self::ClusterIpNotAllocated => "ClusterIPNotAllocated",
            Self::IpAddressNotAllocated => "IPAddressNotAllocated",
            Self::IpAddressWrongReference => "IPAddressWrongReference",
            Self::ServiceCidrTerminating => "ServiceCIDRTerminating",
            Self::ClusterIpOfOtherPool => "ClusterIPOfOtherPool",
            Self::PortOfOtherPool => "PortOfOtherPool",
            Self::ClusterIpOutsidePool => "ClusterIPOutsidePool",
            Self::PortOutsidePool => "PortOutsidePool",
            Self::IpAddressManagedByOthers => "IPAddressManagedByOthers",
        }
    }
}

/// What an audit finds.
pub trait Found: Clone + Ord + fmt::Display {
    /// All reasons that it may have.
    const REASONS: &'static [Reason];

    /// What is wrong.
    fn reason(&self) -> Reason;

    /// What it is about.
    fn subject(&self) -> Subject;

    /// Whether somebody is to be told.
    fn is_told(&self) -> bool;
}

impl Found for Finding {
    const REASONS: &'static [Reason] = &[
        Reason::ClusterIpAlreadyAllocated,
        Reason::PortAlreadyAllocated,
        Reason::ClusterIpOutOfRange,
        Reason::PortOutOfRange,
        Reason::ServiceCidrTerminating,
        Reason::ClusterIpOfOtherPool,
        Reason::PortOfOtherPool,
        Reason::ClusterIpOutsidePool,
        Reason::PortOutsidePool,
        Reason::IpAddressManagedByOthers,
    ];

    fn reason(&self) -> Reason {
        let of = |address: Reason, port: Reason| match self.item() {
            Item::Address(_) => address,
            Item::Port(_) => port,
        };
        match self {
            Self::Duplicate { .. } => of(Reason::ClusterIpAlreadyAllocated, Reason::PortAlreadyAllocated),
            Self::OutOfRange { .. } => of(Reason::ClusterIpOutOfRange, Reason::PortOutOfRange),
            Self::Terminating { .. } => Reason::ServiceCidrTerminating,
            Self::Encroachment { .. } => of(Reason::ClusterIpOfOtherPool, Reason::PortOfOtherPool),
            Self::Astray { .. } => of(Reason::ClusterIpOutsidePool, Reason::PortOutsidePool),
            Self::Foreign { .. } => Reason::IpAddressManagedByOthers,
        }
    }

    fn subject(&self) -> Subject {
        Self::subject(self)
    }

    /// What is exempt is where it is on purpose.
    fn is_told(&self) -> bool {
        !matches!(self, Self::Encroachment { exempt: Some(_), .. })
    }
}

/// A finding that stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    since: Duration,
    told: Option<Duration>,
}

/// What stands, and what was told of it.
#[derive(Clone, Debug)]
pub struct Audit<F> {
    standing: BTreeMap<F, Standing>,
}

impl<F> Default for Audit<F> {
    fn default() -> Self {
        Self {
            standing: BTreeMap::new(),
        }
    }
}

impl<F: Found> Audit<F> {
    /// Takes in all that is found now; yields what is to be told: nothing that was not found before.
    pub fn look(&mut self, findings: Vec<F>, now: Duration) -> Vec<F> {
        let before = std::mem::take(&mut self.standing);
        for finding in findings {
            let new = Standing {
                since: now,
                told: None,
            };
            let standing = before.get(&finding).copied().unwrap_or(new);
            self.standing.insert(finding, standing);
        }
        let due = |standing: &Standing| match standing.told {
            None => now >= standing.since + SETTLED,
            Some(told) => now >= told + AGAIN,
        };
        let mut news = Vec::new();
        for (finding, standing) in &mut self.standing {
            if finding.is_told() && due(standing) {
                standing.told = Some(now);
                news.push(finding.clone());
            }
        }
        news
    }

    /// When something is due that was found already, if nothing changes.
    pub fn due(&self) -> Option<Duration> {
        let told = self.standing.iter().filter(|(finding, _)| finding.is_told());
        told.map(|(_, standing)| {
            standing
                .told
                .map_or(standing.since + SETTLED, |told| told + AGAIN)
        })
        .min()
    }

    /// How many stand, of each reason.
    pub fn counts(&self) -> BTreeMap<Reason, u64> {
        let mut counts: BTreeMap<Reason, u64> = F::REASONS.iter().map(|reason| (*reason, 0)).collect();
        for finding in self.standing.keys() {
            *counts.entry(finding.reason()).or_default() += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use berth_model::ServiceKey;

    use super::*;
    use crate::admission::Exempt;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn address(text: &str) -> Item {
        Item::Address(text.parse().unwrap())
    }

    fn out_of_range(service: &str) -> Finding {
        Finding::OutOfRange {
            item: address("10.0.0.1"),
            service: service.parse().unwrap(),
        }
    }

    fn encroachment(exempt: Option<Exempt>) -> Finding {
        Finding::Encroachment {
            item: address("10.0.0.2"),
            service: ServiceKey::new("kube-system", "dns"),
            pool: "p".to_owned(),
            exempt,
        }
    }

    #[test]
    fn what_stands_for_a_while_is_told_once_and_again_much_later() {
        let mut audit = Audit::default();
        let found = || vec![out_of_range("a/web")];
        assert_eq!(audit.look(found(), at(10)), []);
        assert_eq!(audit.due(), Some(at(12)));
        assert_eq!(audit.look(found(), at(11)), []);
        assert_eq!(audit.look(found(), at(12)), found());
        assert_eq!(audit.look(found(), at(600)), []);
        assert_eq!(audit.due(), Some(at(12) + AGAIN));
        assert_eq!(audit.look(found(), at(12) + AGAIN), found());
    }

    #[test]
    fn what_goes_and_comes_back_is_another_one() {
        let mut audit = Audit::default();
        audit.look(vec![out_of_range("a/web")], at(10));
        assert_eq!(audit.look(Vec::new(), at(11)), []);
        assert_eq!(audit.due(), None);
        assert_eq!(audit.look(vec![out_of_range("a/web")], at(12)), []);
        assert_eq!(
            audit.look(vec![out_of_range("a/web")], at(14)),
            [out_of_range("a/web")]
        );
    }

    #[test]
    fn what_is_exempt_is_counted_and_not_told() {
        let mut audit = Audit::default();
        let exempt = encroachment(Some(Exempt::SystemNamespace));
        audit.look(vec![exempt.clone(), out_of_range("a/web")], at(0));
        assert_eq!(
            audit.look(vec![exempt, out_of_range("a/web")], at(5)),
            [out_of_range("a/web")]
        );
        let counts = audit.counts();
        assert_eq!(counts[&Reason::ClusterIpOfOtherPool], 1);
        assert_eq!(counts[&Reason::ClusterIpOutOfRange], 1);
        assert_eq!(counts[&Reason::PortOutsidePool], 0);
        assert_eq!(counts.len(), Finding::REASONS.len());
    }
}
