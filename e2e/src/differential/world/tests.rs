// SPDX-License-Identifier: Apache-2.0

use super::super::step::Stack;
use super::*;

fn service(kind: Kind, selector: &[(&str, &str)]) -> ServiceShape {
    ServiceShape {
        kind,
        selector: (!selector.is_empty()).then(|| labels(selector)),
        ports: vec![super::super::step::PortShape {
            name: None,
            port: 80,
            target: super::super::step::Target::Absent,
            protocol: "TCP".to_owned(),
            app_protocol: None,
        }],
        stack: Stack::default(),
        publish_not_ready: false,
        distribution: None,
        labels: Map::new(),
        annotations: Map::new(),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Map {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn create(name: &str, shape: ServiceShape) -> Step {
    Step::CreateService(name.to_owned(), shape)
}

fn world(steps: &[Step]) -> World {
    let mut world = World::new();
    for step in steps {
        assert!(world.allows(step, Pace::Free), "{step}");
        world.apply(step);
    }
    world
}

fn write(name: &str) -> Step {
    Step::CreateEndpoints(name.to_owned(), EndpointsShape::default())
}

#[test]
fn what_a_dropped_selector_leaves_is_not_compared_until_somebody_owns_it_again() {
    let mut world = world(&[create("a", service(Kind::ClusterIp, &[("app", "x")]))]);
    assert_eq!(world.scope("a"), Scope::Selected);
    world.apply(&Step::EditService("a".to_owned(), ServiceEdit::ToExternalName));
    assert_eq!(world.scope("a"), Scope::Leftovers);
    world.settle();
    assert_eq!(world.scope("a"), Scope::Leftovers, "a barrier does not clean up");
    let back = ServiceEdit::FromExternalName {
        kind: Kind::ClusterIp,
        stack: Stack::default(),
    };
    world.apply(&Step::EditService("a".to_owned(), back));
    assert_eq!(world.scope("a"), Scope::Selected);
}

#[test]
fn a_deleted_services_name_is_clean_after_a_barrier_and_not_before() {
    let mut world = world(&[create("a", service(Kind::ClusterIp, &[("app", "x")]))]);
    world.settle();
    world.apply(&Step::DeleteService("a".to_owned()));
    assert_eq!(world.scope("a"), Scope::Leftovers);
    assert!(
        !world.allows(&write("a"), Pace::Free),
        "the deletion may still take it along"
    );
    world.settle();
    assert_eq!(world.scope("a"), Scope::ByHand);
    assert!(world.allows(&write("a"), Pace::Free));
}

#[test]
fn a_service_is_not_deleted_in_the_breath_that_its_endpoints_are_written_in() {
    let mut world = world(&[create("a", service(Kind::ClusterIp, &[])), write("a")]);
    let delete = Step::DeleteService("a".to_owned());
    assert!(!world.allows(&delete, Pace::Free));
    world.settle();
    assert!(world.allows(&delete, Pace::Free));
}

#[test]
fn at_one_change_each_a_pod_counts_for_every_service_that_selects_it() {
    let pod = |labels| {
        Step::CreatePod(
            "p".to_owned(),
            PodShape {
                labels,
                node: None,
                ports: Vec::new(),
                sidecar_ports: Vec::new(),
                host_network: false,
                hostname: None,
                subdomain: None,
                status: None,
            },
        )
    };
    let mut world = world(&[create("a", service(Kind::ClusterIp, &[("app", "x")]))]);
    assert!(!world.allows(&pod(labels(&[("app", "x")])), Pace::OneChangeEach));
    assert!(world.allows(&pod(labels(&[("app", "y")])), Pace::OneChangeEach));
    assert!(world.allows(&pod(labels(&[("app", "x")])), Pace::Free));
    world.settle();
    assert!(world.allows(&pod(labels(&[("app", "x")])), Pace::OneChangeEach));
}

#[test]
fn strangers_come_right_after_a_barrier_only() {
    let mut world = world(&[create("a", service(Kind::ClusterIp, &[("app", "x")]))]);
    let meddle = Step::DeleteService("b".to_owned());
    let stranger = Step::MeddleSlice("a".to_owned(), 0, super::super::step::SliceMeddling::Empty);
    assert!(!world.allows(&stranger, Pace::Free));
    world.settle();
    assert!(world.allows(&stranger, Pace::Free));
    world.apply(&meddle);
    assert!(!world.allows(&stranger, Pace::Free));
}

#[test]
fn a_leader_election_record_ends_the_story_of_its_name() {
    let record = EndpointsShape {
        annotations: labels(&[(LEADER, "{}")]),
        ..EndpointsShape::default()
    };
    let mut world = world(&[
        create("a", service(Kind::ClusterIp, &[])),
        Step::CreateEndpoints("a".to_owned(), record),
    ]);
    world.settle();
    assert!(!world.allows(&Step::DeleteEndpoints("a".to_owned()), Pace::Free));
    world.apply(&Step::DeleteService("a".to_owned()));
    assert_eq!(world.scope("a"), Scope::Record);
    assert!(!world.allows(&create("a", service(Kind::ClusterIp, &[])), Pace::Free));
}
