// SPDX-License-Identifier: Apache-2.0
//! Compaction among the other plans of a Service.

use proptest::prelude::*;

use super::*;
use crate::fixtures::*;
use crate::plan::Plan;
use crate::slices::compaction::{CompactionRule, plan_compaction};

fn compaction(world: &World) -> Plan<EndpointSlice> {
    let rule = CompactionRule {
        headroom: 0,
        freed_percent: 0,
        ..CompactionRule::of(world.options.max_endpoints)
    };
    plan_compaction(&world.service, &world.server.slices(), rule, usize::MAX)
}

fn addresses(world: &World) -> Vec<String> {
    let endpoints = world.endpoints().into_iter();
    let mut all: Vec<String> = endpoints.map(|endpoint| endpoint.addresses[0].clone()).collect();
    all.sort();
    all
}

/// A Service whose slices lost most of their endpoints.
fn scattered(pods: u16, keep_each: usize, max: usize, distribution: Option<&str>) -> World {
    let service = mk_service_with(|spec| spec.traffic_distribution = distribution.map(str::to_owned));
    let mut world = World::new(service, mk_pods(0..pods));
    world.options.max_endpoints = max;
    world.converge();
    world.pods = world.pods.iter().step_by(keep_each).map(Arc::clone).collect();
    world.converge();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn after_compaction_there_is_nothing_to_write_and_broken_off_anywhere_it_ends_well(
        pods in 1u16..60, keep_each in 1usize..5, max in 2usize..8, broken_off in 0usize..20,
        hinted in any::<bool>(),
    ) {
        let start = scattered(pods, keep_each, max, hinted.then_some("PreferClose"));
        let before = addresses(&start);
        let plan = compaction(&start);
        let fewest = before.len().div_ceil(max).max(1);
        for writes in [broken_off.min(plan.len()), plan.len()] {
            let updates = writes.min(plan.update.len());
            let part = Plan {
                create: Vec::new(),
                update: plan.update[..updates].to_vec(),
                delete: plan.delete[..writes - updates].to_vec(),
            };
            let mut world = scattered(pods, keep_each, max, hinted.then_some("PreferClose"));
            world.server.apply(&part);
            let next = world.converge();
            prop_assert_eq!(addresses(&world), before.clone());
            if writes == plan.len() {
                prop_assert!(next.writes.is_empty(), "compaction is undone: {}", next.writes);
                prop_assert_eq!(world.server.slices().len(), fewest);
                prop_assert!(compaction(&world).is_empty());
            }
        }
    }
}
