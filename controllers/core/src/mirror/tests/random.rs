// SPDX-License-Identifier: Apache-2.0
//! Random hand-written Endpoints against a naive model.

use proptest::prelude::*;

use super::*;

fn subsets() -> impl Strategy<Value = Vec<EndpointSubset>> {
    let pool = vec!["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "bad"];
    let ips = move || prop::collection::vec(prop::sample::select(pool.clone()), 0..4);
    let subset = (ips(), ips(), prop::collection::vec(1..4, 1..3))
        .prop_map(|(ready, not_ready, ports)| mk_subset(&ready, &not_ready, &ports));
    prop::collection::vec(subset, 0..4)
}

/// For each family, port and readable address, whether it is ready: by scanning.
fn model(subsets: &[EndpointSubset]) -> BTreeMap<(i32, String), bool> {
    let mut model = BTreeMap::new();
    for subset in subsets {
        for port in subset.ports.iter().flatten() {
            for (list, ready) in [(&subset.addresses, true), (&subset.not_ready_addresses, false)] {
                for address in list.iter().flatten().filter(|address| address.ip != "bad") {
                    *model.entry((port.port, address.ip.clone())).or_insert(true) &= ready;
                }
            }
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn slices_say_what_the_endpoints_say_through_any_history(
        history in prop::collection::vec(subsets(), 1..6),
    ) {
        let mut world = World::new(Vec::new());
        for subsets in history {
            world.edit(|endpoints| endpoints.subsets = Some(subsets.clone()));
            world.converge();
            let mut mirrored = BTreeMap::new();
            for (family, ports, endpoints) in world.shape() {
                for (ip, ready) in endpoints {
                    prop_assert_eq!(ip.contains(':'), family == "IPv6");
                    for port in &ports {
                        prop_assert_eq!(mirrored.insert((*port, ip.clone()), ready), None, "twice");
                    }
                }
            }
            prop_assert_eq!(mirrored, model(&subsets));
        }
    }
}
