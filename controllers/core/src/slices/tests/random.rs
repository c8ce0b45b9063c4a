// SPDX-License-Identifier: Apache-2.0
//! Random histories of one Service against a naive model: the set of endpoints that there should be.

use std::collections::{BTreeMap, BTreeSet};

use berth_snapshot::pod::PodManifest;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::*;
use crate::fixtures::*;

#[derive(Clone, Debug)]
enum Step {
    Add(u16),
    Remove(u16),
    Flip(u16),
    Move(u16),
    Listen(u16, i32),
    Finish(u16),
    Families(bool, bool),
    Distribution(u8),
    Label(u8),
    Recreate,
    Max(usize),
    LoseSlice(usize),
    DropEndpoint(usize),
    Duplicate(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u16..30).prop_map(Step::Add),
        5 => (0u16..30).prop_map(Step::Remove),
        4 => (0u16..30).prop_map(Step::Flip),
        1 => (0u16..30).prop_map(Step::Move),
        2 => (0u16..30, 0i32..3).prop_map(|(pod, port)| Step::Listen(pod, port)),
        1 => (0u16..30).prop_map(Step::Finish),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(v4, v6)| Step::Families(v4, v6)),
        1 => (0u8..4).prop_map(Step::Distribution),
        1 => (0u8..3).prop_map(Step::Label),
        1 => Just(Step::Recreate),
        1 => (1usize..6).prop_map(Step::Max),
        1 => (0usize..8).prop_map(Step::LoseSlice),
        1 => (0usize..8).prop_map(Step::DropEndpoint),
        1 => (0usize..8, 0usize..8).prop_map(|(from, to)| Step::Duplicate(from, to)),
    ]
}

/// The port that Pods listen on under the name "web"; 0 stands for none.
fn listen(pod: &mut PodManifest, port: i32) {
    pod.spec.containers = match port {
        0 => Vec::new(),
        port => vec![mk_container("web", 8080 + port)],
    };
}

fn play(world: &mut World, step: &Step) {
    let position = |world: &World, number: u16| {
        let name = format!("web-{number}");
        world.pods.iter().position(|pod| **pod.name() == *name)
    };
    let edit = |world: &mut World, number: u16, edit: &dyn Fn(&mut PodManifest)| {
        if let Some(index) = position(world, number) {
            let mut manifest = PodManifest::from(&*world.pods[index]);
            edit(&mut manifest);
            world.pods[index] = Arc::new(manifest.into());
        }
    };
    match step {
        Step::Add(number) if position(world, *number).is_none() => {
            world.pods.push(mk_pod_with(*number, |pod| listen(pod, 1)));
        }
        Step::Remove(number) => {
            if let Some(index) = position(world, *number) {
                world.pods.swap_remove(index);
            }
        }
        Step::Flip(number) => edit(world, *number, &|pod| {
            let ready = pod.status.conditions[0].status == "True";
            pod.status.conditions = vec![mk_condition(!ready)];
        }),
        Step::Move(number) => edit(world, *number, &|pod| {
            pod.spec.node_name = Some("node-2".to_owned())
        }),
        Step::Listen(number, port) => edit(world, *number, &|pod| listen(pod, *port)),
        Step::Finish(number) => edit(world, *number, &|pod| {
            pod.status.phase = Some("Failed".to_owned())
        }),
        Step::Max(max) => world.options.max_endpoints = *max,
        Step::Add(_)
        | Step::Families(..)
        | Step::Distribution(_)
        | Step::Label(_)
        | Step::Recreate
        | Step::LoseSlice(_)
        | Step::DropEndpoint(_)
        | Step::Duplicate(..) => play_rest(world, step),
    }
}

fn play_rest(world: &mut World, step: &Step) {
    let slices = world.server.slices();
    let spec = world.service.spec.as_mut().unwrap();
    match step {
        Step::Families(v4, v6) => {
            let chosen = [(*v4 || !*v6, "IPv4"), (*v6, "IPv6")];
            let families = chosen.iter().filter(|(chosen, _)| *chosen);
            spec.ip_families = Some(families.map(|(_, family)| (*family).to_owned()).collect());
        }
        Step::Distribution(which) => {
            let all = [None, Some("PreferClose"), Some("PreferSameNode"), Some("Unknown")];
            spec.traffic_distribution = all[usize::from(*which)].map(str::to_owned);
        }
        Step::Label(value) => {
            world.service.metadata.labels = Some(mk_labels(&[("rev", &value.to_string())]));
        }
        Step::Recreate => {
            let uid = world.service.metadata.uid.get_or_insert_default();
            uid.push('x');
        }
        Step::LoseSlice(index) if !slices.is_empty() => {
            let slice = &slices[index % slices.len()];
            let mut plan = crate::plan::Plan::default();
            plan.delete.push(crate::plan::ObjectRef::of(&slice.metadata));
            world.server.apply(&plan);
            world.server.writes -= 1;
        }
        Step::DropEndpoint(index) if !slices.is_empty() => {
            world.tamper(index % slices.len(), |slice| {
                slice.endpoints.as_mut().unwrap().pop();
            });
        }
        Step::Duplicate(from, to) if !slices.is_empty() => {
            let (from, to) = (&slices[from % slices.len()], to % slices.len());
            if slices[to].address_type == from.address_type {
                let copied = from.endpoints.clone().unwrap();
                world.tamper(to, |slice| slice.endpoints.as_mut().unwrap().extend(copied));
            }
        }
        Step::LoseSlice(_) | Step::DropEndpoint(_) | Step::Duplicate(..) => {}
        Step::Add(_)
        | Step::Remove(_)
        | Step::Flip(_)
        | Step::Move(_)
        | Step::Listen(..)
        | Step::Finish(_)
        | Step::Max(_) => {}
    }
}

/// Family, port, address, ready, zone: what there should be, by rules of one line each.
type Model = BTreeSet<(String, Option<i32>, String, bool, String)>;

fn model(world: &World) -> Model {
    let spec = world.service.spec.as_ref().unwrap();
    let families = spec.ip_families.as_ref().unwrap();
    let pods = world.pods.iter().filter(|pod| !pod.is_finished());
    pods.flat_map(|pod| {
        families.iter().map(|family| {
            let ip = pod.addresses().nth(usize::from(family == "IPv6")).unwrap();
            let port = pod.named_ports().first().map(|port| port.number);
            let zone = if pod.node_name() == Some("node-1") {
                "zone-a"
            } else {
                "zone-b"
            };
            (
                family.clone(),
                port,
                ip.to_string(),
                pod.is_ready(),
                zone.to_owned(),
            )
        })
    })
    .collect()
}

fn observed(world: &World) -> (Model, usize) {
    let mut all = Model::new();
    let mut count = 0;
    for slice in world.server.slices() {
        let port = slice.ports.as_ref().unwrap().first().and_then(|port| port.port);
        for endpoint in slice.endpoints.iter().flatten() {
            count += 1;
            all.insert((
                slice.address_type.clone(),
                port,
                endpoint.addresses[0].clone(),
                endpoint.conditions.as_ref().unwrap().ready.unwrap(),
                endpoint.zone.clone().unwrap(),
            ));
        }
    }
    (all, count)
}

fn sizes(world: &World) -> BTreeMap<String, usize> {
    let slices = world.server.slices();
    let size = |slice: &Arc<EndpointSlice>| {
        (
            slice.metadata.name.clone().unwrap(),
            slice.endpoints.as_ref().unwrap().len(),
        )
    };
    slices.iter().map(size).collect()
}

fn start() -> World {
    let service = mk_service_with(|spec| {
        spec.ports = Some(vec![mk_port("http", 80, IntOrString::String("web".to_owned()))]);
    });
    let mut world = World::new(service, Vec::new());
    world.options.max_endpoints = 3;
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_endpoint_is_in_exactly_one_slice_and_a_second_plan_is_empty(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = start();
        for step in &steps {
            play(&mut world, step);
            let before = sizes(&world);
            world.converge();
            let (endpoints, count) = observed(&world);
            let wanted = model(&world);
            prop_assert_eq!(&endpoints, &wanted, "after {:?}", step);
            prop_assert_eq!(count, wanted.len(), "a duplicate after {:?}", step);
            for (name, size) in sizes(&world) {
                let was = before.get(&name).copied().unwrap_or(0);
                prop_assert!(size <= world.options.max_endpoints.max(was), "{} grew to {} after {:?}", name, size, step);
            }
            for family in world.service.spec.as_ref().unwrap().ip_families.iter().flatten() {
                let slices = world.server.slices();
                let of_family = slices.iter().filter(|slice| &slice.address_type == family);
                let filled: Vec<bool> =
                    of_family.map(|slice| slice.endpoints.as_ref().is_some_and(|them| !them.is_empty())).collect();
                prop_assert!(!filled.is_empty(), "no slice of {}", family);
                prop_assert!(
                    filled.iter().all(|filled| *filled) || filled.len() == 1,
                    "an empty slice of {} beside others after {:?}", family, step
                );
            }
        }
    }

    #[test]
    fn the_order_of_pods_does_not_matter(
        steps in prop::collection::vec(step(), 1..30),
        rotate in 0usize..30,
    ) {
        let mut world = start();
        for step in &steps {
            play(&mut world, step);
            let plan = world.plan();
            if !world.pods.is_empty() {
                let middle = rotate % world.pods.len();
                world.pods.rotate_left(middle);
                world.pods.reverse();
            }
            prop_assert_eq!(&plan.writes, &world.plan().writes);
            world.server.apply(&plan.writes);
        }
    }

    #[test]
    fn one_added_and_one_removed_pod_cost_at_most_two_writes(
        pods in 1u16..40, max in 1usize..8, gone in 0u16..40, fresh in 50u16..60,
    ) {
        let mut world = start();
        world.options.max_endpoints = max;
        world.pods = (0..pods).map(|number| mk_pod_with(number, |pod| listen(pod, 1))).collect();
        world.converge();
        let before = world.server.writes;
        play(&mut world, &Step::Remove(gone));
        play(&mut world, &Step::Add(fresh));
        world.converge();
        prop_assert!(world.server.writes - before <= 2);
    }
}
