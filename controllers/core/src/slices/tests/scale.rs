// SPDX-License-Identifier: Apache-2.0
//! Large Services: results and counted operations; the time shows in the bench.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::compaction::{CompactionRule, plan_compaction};
use super::identity::LOOKS;
use super::*;
use crate::fixtures::*;

const PODS: u16 = 20_000;

/// A Service with 100 ports, by number or by a name that every Pod resolves alike.
fn wide(by_name: bool) -> Service {
    let ports = (0..100).map(|index| {
        let target = if by_name {
            IntOrString::String("web".to_owned())
        } else {
            IntOrString::Int(8000 + index)
        };
        mk_port(&format!("p{index}"), 80 + index, target)
    });
    mk_service_with(|spec| spec.ports = Some(ports.collect()))
}

#[test]
fn twenty_thousand_pods_fill_two_hundred_slices_and_one_change_is_one_write() {
    for by_name in [false, true] {
        let pods = (0..PODS).map(|number| {
            mk_pod_with(number, |pod| {
                pod.spec.containers = vec![mk_container("web", 8080)]
            })
        });
        let mut world = World::new(wide(by_name), pods.collect());
        assert_eq!(world.converge().writes.create.len(), 200);
        world.pods[777] = mk_pod_with(777, |pod| {
            pod.spec.containers = vec![mk_container("web", 8080)];
            pod.status.conditions = vec![mk_condition(false)];
        });
        let plan = world.converge();
        assert_eq!((plan.writes.update.len(), plan.writes.len()), (1, 1));
        world.pods.clear();
        let plan = world.converge();
        assert_eq!((plan.writes.update.len(), plan.writes.delete.len()), (1, 199));
    }
}

/// How many looks at an endpoint the work takes.
fn looks<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LOOKS.get();
    let done = work();
    (done, LOOKS.get() - before)
}

#[test]
fn planning_packing_and_compacting_look_at_each_endpoint_a_few_times_however_many_there_are() {
    for count in [1_000u16, 4_000, PODS] {
        let pods: Vec<_> = (0..count)
            .map(|number| {
                mk_pod_with(number, |pod| {
                    pod.spec.node_name = Some(format!("node-{}", 1 + number % 2));
                })
            })
            .collect();
        let mut service = mk_service();
        service.metadata.annotations = Some(mk_labels(&[(names::TOPOLOGY_MODE, "Auto")]));
        let mut world = World::new(service, pods);
        for node in ["node-1", "node-2"] {
            let facts = world.nodes.get_mut(node).unwrap();
            facts.ready = true;
            facts.cpu = topology::Cpu::of(&Quantity("4".to_owned()));
        }
        let total = usize::from(count);
        let (plan, took) = looks(|| world.plan());
        assert!(took <= 3 * total, "{took} looks for {count} new endpoints");
        assert!(!plan.hints.is_empty());
        world.server.apply(&plan.writes);
        world.hints = plan.hints;
        let (again, took) = looks(|| world.plan());
        assert!(again.writes.is_empty());
        assert!(took <= 3 * total, "{took} looks for {count} old endpoints");
        let mut kept = 0..;
        world
            .pods
            .retain(|_| kept.next().is_some_and(|number| number % 3 == 0));
        world.converge();
        let existing = world.server.slices();
        let rule = CompactionRule::of(world.options.max_endpoints);
        let (plan, took) = looks(|| plan_compaction(&world.service, &existing, rule, usize::MAX));
        assert!(took <= 3 * total, "{took} looks to compact {count}");
        world.server.apply(&plan);
        world.converge();
    }
}
