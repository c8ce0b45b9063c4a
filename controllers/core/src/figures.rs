// SPDX-License-Identifier: Apache-2.0
//! Figures of slices for metrics: of one turn, and summed over all Services.
//!
//! Upstream keeps one entry per Service and overwrites it family by family, so a dual-stack Service
//! counts with one of its families (<https://github.com/kubernetes/kubernetes/issues/126004>). Here
//! each family counts.

use std::collections::BTreeMap;

use berth_model::{IpFamily, ServiceKey};

use crate::slices::TrafficDistribution;

#[cfg(test)]
mod tests;

/// Figures of one family of one Service, from one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyCounts {
    /// Endpoints wanted.
    pub endpoints: usize,
    /// Slices there will be.
    pub slices: usize,
    /// Slices there would be if all were packed densely; a placeholder counts.
    pub optimal_slices: usize,
    /// Endpoints that are in no slice yet.
    pub added: usize,
    /// Endpoints that stay in their slice with something else about them changed.
    pub updated: usize,
    /// Endpoints that leave their slice for good.
    pub removed: usize,
}

/// The figures of one turn: those of all families together, as per-sync histograms observe them.
pub fn sum<'a>(counts: impl IntoIterator<Item = &'a FamilyCounts>) -> FamilyCounts {
    counts
        .into_iter()
        .fold(FamilyCounts::default(), |sum, one| FamilyCounts {
            endpoints: sum.endpoints + one.endpoints,
            slices: sum.slices + one.slices,
            optimal_slices: sum.optimal_slices + one.optimal_slices,
            added: sum.added + one.added,
            updated: sum.updated + one.updated,
            removed: sum.removed + one.removed,
        })
}

/// What lasts of [`FamilyCounts`]: the state after the turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Efficiency {
    /// Endpoints wanted (`endpoints_desired`).
    pub endpoints: usize,
    /// Slices (`num_endpoint_slices`).
    pub slices: usize,
    /// Slices if all were packed densely (`desired_endpoint_slices`).
    pub optimal_slices: usize,
}

impl Efficiency {
    fn of(counts: &FamilyCounts) -> Self {
        Self {
            endpoints: counts.endpoints,
            slices: counts.slices,
            optimal_slices: counts.optimal_slices,
        }
    }

    fn add(&mut self, other: Self) {
        self.endpoints += other.endpoints;
        self.slices += other.slices;
        self.optimal_slices += other.optimal_slices;
    }

    fn take(&mut self, other: Self) {
        self.endpoints -= other.endpoints;
        self.slices -= other.slices;
        self.optimal_slices -= other.optimal_slices;
    }
}

#[derive(Clone, Debug, Default)]
struct Entry {
    families: BTreeMap<IpFamily, Efficiency>,
    distribution: Option<TrafficDistribution>,
}

/// The state of all Services, with its sums. Each controller that writes slices keeps its own.
///
/// After each turn that planned: [`SliceFigures::set`]. When the Service (or, for mirroring, what is
/// mirrored) is gone: [`SliceFigures::forget`]. Setting gauges from the sums costs the same for any
/// number of Services.
#[derive(Clone, Debug, Default)]
pub struct SliceFigures {
    services: BTreeMap<ServiceKey, Entry>,
    totals: Efficiency,
    distributions: BTreeMap<TrafficDistribution, usize>,
}

impl SliceFigures {
    /// Replaces what is known of a Service by the figures of a turn. No figures at all, as for a
    /// Service that stopped selecting Pods: it is forgotten.
    pub fn set(
        &mut self,
        key: &ServiceKey,
        counts: &BTreeMap<IpFamily, FamilyCounts>,
        distribution: Option<TrafficDistribution>,
    ) {
        self.forget(key);
        if counts.is_empty() {
            return;
        }
        let families: BTreeMap<IpFamily, Efficiency> = counts
            .iter()
            .map(|(family, counts)| (*family, Efficiency::of(counts)))
            .collect();
        families.values().for_each(|figures| self.totals.add(*figures));
        if let Some(value) = distribution {
            *self.distributions.entry(value).or_default() += 1;
        }
        let entry = Entry {
            families,
            distribution,
        };
        self.services.insert(key.clone(), entry);
    }

    /// Forgets a Service that is gone.
    pub fn forget(&mut self, key: &ServiceKey) {
        let Some(entry) = self.services.remove(key) else {
            return;
        };
        for figures in entry.families.values() {
            self.totals.take(*figures);
        }
        if let Some(count) = entry
            .distribution
            .and_then(|value| self.distributions.get_mut(&value))
        {
            *count -= 1;
        }
    }

    /// What is known of one family of a Service.
    pub fn of(&self, key: &ServiceKey, family: IpFamily) -> Option<Efficiency> {
        self.services.get(key)?.families.get(&family).copied()
    }

    /// The sums over all Services and families.
    pub fn totals(&self) -> Efficiency {
        self.totals
    }

    /// How many Services have each traffic distribution in effect
    /// (`services_count_by_traffic_distribution`). A value once seen stays, with zero if need be.
    pub fn by_distribution(&self) -> impl Iterator<Item = (TrafficDistribution, usize)> {
        self.distributions.iter().map(|(value, count)| (*value, *count))
    }
}
