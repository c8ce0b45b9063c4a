// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;

fn counts(endpoints: usize, slices: usize) -> FamilyCounts {
    FamilyCounts {
        endpoints,
        slices,
        optimal_slices: 1,
        added: 1,
        updated: 2,
        removed: 3,
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn totals(figures: &SliceFigures) -> (usize, usize, usize) {
    let totals = figures.totals();
    (totals.endpoints, totals.slices, totals.optimal_slices)
}

#[test]
fn both_families_of_a_service_count_and_what_is_forgotten_counts_no_more() {
    let mut figures = SliceFigures::default();
    let dual = BTreeMap::from([(IpFamily::V4, counts(5, 2)), (IpFamily::V6, counts(4, 1))]);
    figures.set(&key("web"), &dual, None);
    figures.set(&key("db"), &BTreeMap::from([(IpFamily::V4, counts(7, 3))]), None);
    assert_eq!(totals(&figures), (16, 6, 3));
    figures.set(&key("web"), &BTreeMap::from([(IpFamily::V6, counts(1, 1))]), None);
    assert_eq!(totals(&figures), (8, 4, 2), "a family that was dropped is gone");
    assert_eq!(figures.of(&key("web"), IpFamily::V4), None);
    assert_eq!(
        figures.of(&key("web"), IpFamily::V6).map(|found| found.endpoints),
        Some(1)
    );
    figures.set(&key("db"), &BTreeMap::new(), None);
    figures.forget(&key("web"));
    figures.forget(&key("never-seen"));
    assert_eq!(totals(&figures), (0, 0, 0));
}

#[test]
fn services_are_counted_by_traffic_distribution_and_a_value_once_seen_stays() {
    use TrafficDistribution::{PreferClose, PreferSameNode};
    let mut figures = SliceFigures::default();
    let one = BTreeMap::from([(IpFamily::V4, counts(1, 1))]);
    let seen = |figures: &SliceFigures| figures.by_distribution().collect::<Vec<_>>();
    figures.set(&key("web"), &one, Some(PreferClose));
    figures.set(&key("db"), &one, Some(PreferClose));
    assert_eq!(seen(&figures), [(PreferClose, 2)]);
    figures.set(&key("web"), &one, Some(PreferSameNode));
    assert_eq!(seen(&figures), [(PreferClose, 1), (PreferSameNode, 1)]);
    figures.set(&key("web"), &one, None);
    figures.forget(&key("db"));
    assert_eq!(seen(&figures), [(PreferClose, 0), (PreferSameNode, 0)]);
}

#[test]
fn the_figures_of_a_turn_are_those_of_its_families_together() {
    let two = [counts(5, 2), counts(4, 1)];
    let sum = sum(&two);
    assert_eq!((sum.endpoints, sum.slices, sum.optimal_slices), (9, 3, 2));
    assert_eq!((sum.added, sum.updated, sum.removed), (2, 4, 6));
}

proptest! {
    #[test]
    fn the_sums_are_those_of_a_scan_through_any_history(
        history in prop::collection::vec((0u8..4, 0usize..3, 0usize..9), 0..30),
    ) {
        let mut figures = SliceFigures::default();
        let mut model: BTreeMap<u8, BTreeMap<IpFamily, FamilyCounts>> = BTreeMap::new();
        for (service, families, size) in history {
            let all = IpFamily::ALL.into_iter().take(families);
            let turn: BTreeMap<_, _> = all.map(|family| (family, counts(size, size + 1))).collect();
            figures.set(&key(&service.to_string()), &turn, None);
            model.insert(service, turn);
            let scanned = sum(model.values().flat_map(BTreeMap::values));
            prop_assert_eq!(totals(&figures), (scanned.endpoints, scanned.slices, scanned.optimal_slices));
        }
    }
}
