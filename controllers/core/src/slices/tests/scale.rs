// SPDX-License-Identifier: Apache-2.0
//! Large Services: results and counts; the time shows in the bench.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

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
