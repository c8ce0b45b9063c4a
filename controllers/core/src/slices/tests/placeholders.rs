// SPDX-License-Identifier: Apache-2.0

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::fixtures::*;
use crate::skips::SkipReason;

fn dual_stack() -> Service {
    mk_service_with(|spec| spec.ip_families = Some(vec!["IPv4".to_owned(), "IPv6".to_owned()]))
}

#[test]
fn a_service_without_pods_gets_one_empty_slice_per_family_that_then_stays() {
    let mut world = World::new(dual_stack(), Vec::new());
    let plan = world.converge();
    assert_eq!(plan.writes.create.len(), 2);
    let row = |family: &str| (family.to_owned(), vec![], vec![]);
    assert_eq!(world.shape(), [row("IPv4"), row("IPv6")]);
    assert_eq!(plan.counts[&IpFamily::V6].slices, 1);
}

#[test]
fn the_first_pod_turns_the_placeholder_into_a_slice_and_the_last_one_back() {
    let mut world = World::new(mk_service(), Vec::new());
    world.converge();
    let name = world.server.slices()[0].metadata.name.clone();
    for pods in [mk_pods(0..1), Vec::new()] {
        world.pods = pods;
        let plan = world.converge();
        assert_eq!(plan.writes.update.len(), 1, "{}", plan.writes);
        assert_eq!(plan.writes.len(), 1);
        assert_eq!(
            plan.writes.update[0].metadata.resource_version, None,
            "unconditional"
        );
        assert_eq!(world.server.slices()[0].metadata.name, name);
    }
}

#[test]
fn a_placeholder_with_wrong_labels_is_replaced_in_place() {
    let mut world = World::new(mk_service(), Vec::new());
    world.converge();
    world.service.metadata.labels = Some(mk_labels(&[("team", "a")]));
    let plan = world.converge();
    assert_eq!((plan.writes.update.len(), plan.writes.len()), (1, 1));
}

#[test]
fn a_foreign_annotation_leaves_a_placeholder_alone() {
    let mut world = World::new(mk_service(), Vec::new());
    world.converge();
    world.tamper(0, |slice| {
        slice.metadata.annotations = Some(mk_labels(&[("a", "b")]))
    });
    assert!(world.plan().writes.is_empty());
}

#[test]
fn changed_ports_recycle_the_slices_they_leave() {
    let mut world = World::new(mk_service(), mk_pods(0..3));
    world.options.max_endpoints = 2;
    world.converge();
    world.service.spec.as_mut().unwrap().ports = Some(vec![mk_port("http", 80, IntOrString::Int(9090))]);
    let plan = world.converge();
    assert_eq!(plan.writes.update.len(), 2);
    assert!(plan.writes.create.is_empty() && plan.writes.delete.is_empty());
    for slice in &plan.writes.update {
        assert_eq!(slice.metadata.resource_version, None);
        assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
    }
    assert!(world.shape().iter().all(|(_, ports, _)| ports == &[9090]));
}

#[test]
fn slices_of_an_earlier_service_of_the_same_name_are_deleted_never_recycled() {
    let mut world = World::new(mk_service(), mk_pods(0..1));
    world.converge();
    world.service.metadata.uid = Some("uid-second".to_owned());
    let plan = world.converge();
    let writes = &plan.writes;
    assert_eq!(
        (writes.create.len(), writes.update.len(), writes.delete.len()),
        (1, 0, 1)
    );
}

#[test]
fn slices_of_a_dropped_family_are_deleted_never_recycled() {
    let mut world = World::new(dual_stack(), mk_pods(0..1));
    world.converge();
    world.service = mk_service();
    let plan = world.converge();
    assert_eq!((plan.writes.delete.len(), plan.writes.len()), (1, 1));
    assert_eq!(world.shape().len(), 1);
    assert_eq!(world.shape()[0].0, "IPv4");
}

#[test]
fn slices_of_others_and_slices_being_deleted_are_left_alone() {
    let mut world = World::new(mk_service(), mk_pods(0..1));
    world.converge();
    let template = EndpointSlice::clone(&world.server.slices()[0]);
    let mut add = |name: &str, edit: &dyn Fn(&mut EndpointSlice)| {
        let mut slice = template.clone();
        slice.metadata.name = Some(name.to_owned());
        edit(&mut slice);
        world.server.put(slice);
    };
    let relabel = |key: &'static str, value: &'static str| {
        move |slice: &mut EndpointSlice| {
            let labels = slice.metadata.labels.as_mut().unwrap();
            labels.insert(key.to_owned(), value.to_owned());
        }
    };
    add("by-hand", &|slice| {
        slice
            .metadata
            .labels
            .as_mut()
            .unwrap()
            .retain(|key, _| key != names::SLICE_MANAGED_BY)
    });
    add(
        "mirrored",
        &relabel(names::SLICE_MANAGED_BY, names::MIRROR_CONTROLLER),
    );
    add("of-another-service", &relabel(names::SERVICE_NAME, "api"));
    add("going", &|slice| {
        slice.metadata.deletion_timestamp = Some(Time(at(300)))
    });
    assert!(world.plan().writes.is_empty(), "{}", world.plan().writes);
}

#[test]
fn nothing_is_created_for_a_service_that_is_being_deleted() {
    let mut world = World::new(mk_service(), mk_pods(0..1));
    world.service.metadata.deletion_timestamp = Some(Time(at(300)));
    let plan = world.plan();
    assert!(plan.writes.is_empty());
    assert_eq!(plan.skips.count(SkipReason::OwnerTerminating), 1);
}

#[test]
fn without_a_selector_slices_stay_unless_leftovers_are_to_be_deleted() {
    type Edit = fn(&mut k8s_openapi::api::core::v1::ServiceSpec);
    let rows: [(Edit, SkipReason); 3] = [
        (|spec| spec.selector = None, SkipReason::ServiceWithoutSelector),
        (
            |spec| spec.selector = Some(Labels::new()),
            SkipReason::ServiceWithoutSelector,
        ),
        (
            |spec| spec.type_ = Some("ExternalName".to_owned()),
            SkipReason::ServiceExternalName,
        ),
    ];
    for (edit, reason) in rows {
        let mut world = World::new(mk_service(), mk_pods(0..1));
        world.converge();
        world.service = mk_service_with(edit);
        let plan = world.plan();
        assert!(plan.writes.is_empty() && plan.skips.has(reason), "{reason}");
        world.options.leftovers = Leftovers::Delete;
        let plan = world.converge();
        assert_eq!((plan.writes.delete.len(), plan.writes.len()), (1, 1), "{reason}");
    }
}
use crate::service::Labels;
