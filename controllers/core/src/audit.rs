// SPDX-License-Identifier: Apache-2.0
//! What is said about values that are not as they should be, and how often.
//!
//! In: the findings of each look at the book; the time. Out: those that are to be told now, and counts of all. Touches: nothing.
//!
//! Nothing is repaired here: a cluster IP can't be changed, and another node port would break whoever uses the one that
//! there is. Whoever owns the Service is told, and creates it anew when it suits.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pools::Item;
use crate::values::Finding;

/// How long a finding has to stand before it is told: two Services that swap a value are shown one after the other.
pub const SETTLED: Duration = Duration::from_secs(2);
/// After how long it is told again: API servers forget events after an hour (`--event-ttl`).
pub const AGAIN: Duration = Duration::from_secs(30 * 60);

/// What is wrong, in a word: the reason of events and the label of metrics. The first four are those of kube-apiserver's repair loops
/// (`ipallocator-repair-controller`, `portallocator-repair-controller`).
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
    /// An address is of a pool that is for others.
    ClusterIpOfOtherPool,
    /// A node port is of a pool that is for others.
    PortOfOtherPool,
    /// An address is of no pool, though pools are for the Service.
    ClusterIpOutsidePool,
    /// A node port is of no pool, though pools are for the Service.
    PortOutsidePool,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ClusterIpAlreadyAllocated,
        Self::PortAlreadyAllocated,
        Self::ClusterIpOutOfRange,
        Self::PortOutOfRange,
        Self::ClusterIpOfOtherPool,
        Self::PortOfOtherPool,
        Self::ClusterIpOutsidePool,
        Self::PortOutsidePool,
    ];

    /// Of a finding.
    pub fn of(finding: &Finding) -> Self {
        let of = |address: Self, port: Self| match finding.item() {
            Item::Address(_) => address,
            Item::Port(_) => port,
        };
        match finding {
            Finding::Duplicate { .. } => of(Self::ClusterIpAlreadyAllocated, Self::PortAlreadyAllocated),
            Finding::OutOfRange { .. } => of(Self::ClusterIpOutOfRange, Self::PortOutOfRange),
            Finding::Encroachment { .. } => of(Self::ClusterIpOfOtherPool, Self::PortOfOtherPool),
            Finding::Astray { .. } => of(Self::ClusterIpOutsidePool, Self::PortOutsidePool),
        }
    }

    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIpAlreadyAllocated => "ClusterIPAlreadyAllocated",
            Self::PortAlreadyAllocated => "PortAlreadyAllocated",
            Self::ClusterIpOutOfRange => "ClusterIPOutOfRange",
            Self::PortOutOfRange => "PortOutOfRange",
            Self::ClusterIpOfOtherPool => "ClusterIPOfOtherPool",
            Self::PortOfOtherPool => "PortOfOtherPool",
            Self::ClusterIpOutsidePool => "ClusterIPOutsidePool",
            Self::PortOutsidePool => "PortOutsidePool",
        }
    }
}

/// Whether somebody is to be told: what is exempt is where it is on purpose.
fn is_told(finding: &Finding) -> bool {
    !matches!(finding, Finding::Encroachment { exempt: Some(_), .. })
}

/// A finding that stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    since: Duration,
    told: Option<Duration>,
}

/// What stands, and what was told of it.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    standing: BTreeMap<Finding, Standing>,
}

impl Audit {
    /// Takes in all that is found now; yields what is to be told.
    pub fn look(&mut self, findings: Vec<Finding>, now: Duration) -> Vec<Finding> {
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
            if is_told(finding) && due(standing) {
                standing.told = Some(now);
                news.push(finding.clone());
            }
        }
        news
    }

    /// When something is due that was found already, if nothing changes.
    pub fn due(&self) -> Option<Duration> {
        let told = self.standing.iter().filter(|(finding, _)| is_told(finding));
        told.map(|(_, standing)| {
            standing
                .told
                .map_or(standing.since + SETTLED, |told| told + AGAIN)
        })
        .min()
    }

    /// How many stand, of each reason.
    pub fn counts(&self) -> BTreeMap<Reason, u64> {
        let mut counts: BTreeMap<Reason, u64> = Reason::ALL.iter().map(|reason| (*reason, 0)).collect();
        for finding in self.standing.keys() {
            *counts.entry(Reason::of(finding)).or_default() += 1;
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
        assert_eq!(counts.len(), Reason::ALL.len());
    }
}
