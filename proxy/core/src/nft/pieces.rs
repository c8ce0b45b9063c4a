// SPDX-License-Identifier: Apache-2.0
//! A table that is filled before any packet is led to it need not be planned as a whole: what is planned, written and
//! forgotten piece by piece takes no memory for all of it at once.

use std::iter;
use std::net::IpAddr;

use berth_model::IpFamily;

use super::Wishes;
use super::slots::slot_count;
use crate::intent::Touched;
use crate::{AffinityNumber, Frontend, FrontendIntent, Outcome};

/// What becomes elements of its own.
enum Part {
    Frontend(Frontend, usize),
    ClusterIp(IpAddr),
    LocalEndpoint(IpAddr),
    Affinity(AffinityNumber),
}

impl Part {
    /// Yields how many elements it becomes at least.
    fn put(self, touched: &mut Touched) -> usize {
        match self {
            Self::Frontend(frontend, elements) => {
                touched.frontends.insert(frontend);
                return elements;
            }
            Self::ClusterIp(ip) => touched.cluster_ips.insert(ip),
            Self::LocalEndpoint(ip) => touched.local_endpoints.insert(ip),
            Self::Affinity(number) => touched.affinities.insert(number),
        };
        1
    }
}

/// How many elements a list becomes at least: its slots, its count, what lists it; or what refuses.
fn of_list(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Endpoints(targets) => slot_count(targets.len()) as usize + 2,
        Outcome::Reject(_) | Outcome::Drop(_) => 1,
    }
}

fn elements(intent: &FrontendIntent) -> usize {
    of_list(&intent.outcome) + intent.outside.as_ref().map_or(0, of_list)
}

/// How many elements a family's table will have, at least.
pub fn least_elements(family: IpFamily, wishes: &impl Wishes) -> usize {
    let ours = wishes
        .frontends()
        .filter(|(frontend, _)| frontend.family() == family);
    let of_frontends: usize = ours.map(|(_, intent)| elements(intent)).sum();
    of_frontends + wishes.cluster_ips(family).count()
}

/// All that is wished for in a family, in pieces of about so many elements; one frontend is never split.
pub fn pieces(family: IpFamily, wishes: &impl Wishes, size: usize) -> impl Iterator<Item = Touched> {
    let frontends = wishes.frontends();
    let frontends = frontends.filter(move |(frontend, _)| frontend.family() == family);
    let affinities = wishes.affinities();
    let affinities = affinities.filter(move |(_, affinity)| affinity.family == family);
    let mut parts = frontends
        .map(|(frontend, intent)| Part::Frontend(*frontend, elements(intent)))
        .chain(wishes.cluster_ips(family).map(Part::ClusterIp))
        .chain(wishes.local_endpoints(family).map(Part::LocalEndpoint))
        .chain(affinities.map(|(number, _)| Part::Affinity(number)));
    iter::from_fn(move || {
        let mut touched = Touched::default();
        let mut full = 0;
        while full < size
            && let Some(part) = parts.next()
        {
            full += part.put(&mut touched);
        }
        (!touched.is_empty()).then_some(touched)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{Installed, Plan, Scope, diff};
    use super::*;
    use crate::{Intent, sample};

    fn at_once(family: IpFamily, installed: &Installed, intent: &Intent, scope: Scope<'_>) -> Plan {
        diff(family, installed, intent, scope, Duration::ZERO, Duration::ZERO)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn pieces_make_the_table_that_one_plan_makes(
            samples in sample::samples(), settings in sample::settings(), size in 1usize..40,
        ) {
            let intent = Intent::of(&sample::mk_view(&samples), settings);
            for family in IpFamily::ALL {
                let mut whole = Installed::default();
                for stage in &at_once(family, &whole, &intent, Scope::All).stages {
                    whole.apply(stage, Duration::ZERO);
                }
                let mut filled = Installed::default();
                for piece in pieces(family, &intent, size) {
                    prop_assert!(piece.frontends.len() + piece.cluster_ips.len() <= size);
                    for stage in &at_once(family, &filled, &intent, Scope::Touched(&piece)).stages {
                        filled.apply(stage, Duration::ZERO);
                    }
                }
                prop_assert_eq!(&filled, &whole);
                prop_assert!(least_elements(family, &intent) <= whole.len());
                prop_assert!(at_once(family, &filled, &intent, Scope::All).is_empty());
            }
        }
    }
}
