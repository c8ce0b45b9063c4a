// SPDX-License-Identifier: Apache-2.0
//! Random Pods of one Service against a naive model: who serves which port, ready or not.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::*;
use crate::fixtures::*;

/// One Pod: its port named web (none for 0), ready, terminating, finished.
type State = (i32, bool, bool, bool);

fn states() -> impl Strategy<Value = BTreeMap<u16, State>> {
    let state = (
        0..3,
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
    );
    prop::collection::btree_map(0u16..12, state, 0..12)
}

fn mk_state(number: u16, (port, ready, terminating, finished): State) -> Arc<Pod> {
    mk_pod_with(number, |pod| {
        pod.status.conditions = vec![mk_condition(ready)];
        pod.metadata.deletion_timestamp = terminating.then(|| Time(at(300)));
        if port > 0 {
            pod.spec.containers = vec![mk_container("web", 8080 + port)];
        }
        if finished {
            pod.status.phase = Some("Failed".to_owned());
        }
    })
}

/// Port and address to readiness.
fn model(states: &BTreeMap<u16, State>, publish: bool) -> BTreeMap<(i32, String), bool> {
    let mut model = BTreeMap::new();
    for (number, (port, ready, terminating, finished)) in states {
        if *finished || (*terminating && !publish) {
            continue;
        }
        let ip = format!("10.244.0.{number}");
        model.insert((9000, ip.clone()), *ready || publish);
        if *port > 0 {
            model.insert((8080 + port, ip), *ready || publish);
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn each_port_has_the_addresses_that_serve_it_through_any_history(
        history in prop::collection::vec((states(), any::<bool>()), 1..8),
    ) {
        let ports = vec![
            mk_port("http", 80, IntOrString::String("web".to_owned())),
            mk_port("fixed", 90, IntOrString::Int(9000)),
        ];
        let mut world = World::new(mk_service_with(|spec| spec.ports = Some(ports)), Vec::new());
        for (states, publish) in history {
            let spec = world.service.as_mut().unwrap().spec.as_mut().unwrap();
            spec.publish_not_ready_addresses = Some(publish);
            world.pods = states.iter().map(|(number, state)| mk_state(*number, *state)).collect();
            world.converge();
            let mut written = BTreeMap::new();
            for (ready, not_ready, ports) in world.shape() {
                prop_assert!(!ready.is_empty() || !not_ready.is_empty(), "the API refuses an empty subset");
                for port in ports {
                    for (list, ready) in [(&ready, true), (&not_ready, false)] {
                        for ip in list {
                            prop_assert_eq!(written.insert((port, ip.clone()), ready), None, "twice");
                        }
                    }
                }
            }
            prop_assert_eq!(written, model(&states, publish));
        }
    }
}
