// SPDX-License-Identifier: Apache-2.0

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::fixtures::*;

fn ours() -> (&'static str, &'static str) {
    (names::ENDPOINTS_MANAGED_BY, names::ENDPOINTS_CONTROLLER)
}

#[test]
fn endpoints_are_created_without_pods_too() {
    let mut world = World::with(Vec::new());
    let plan = world.converge();
    assert_eq!(
        plan.writes.to_string(),
        "create Endpoints shop/web (0 ready, 0 not ready, no ports)\n"
    );
    let meta = &plan.writes.create[0].metadata;
    assert_eq!((&meta.owner_references, &meta.resource_version), (&None, &None));
}

#[test]
fn labels_are_the_services_with_managed_by_and_headless() {
    let rows = [
        ("10.96.0.10", vec![("team", "a")], vec![("team", "a"), ours()]),
        ("None", vec![], vec![(names::HEADLESS, ""), ours()]),
        ("", vec![], vec![(names::HEADLESS, ""), ours()]),
        ("10.96.0.10", vec![(names::HEADLESS, "")], vec![ours()]),
        (
            "10.96.0.10",
            vec![(names::ENDPOINTS_MANAGED_BY, "me")],
            vec![ours()],
        ),
    ];
    for (cluster_ip, labels, expected) in rows {
        let mut service = mk_service_with(|spec| spec.cluster_ip = Some(cluster_ip.to_owned()));
        service.metadata.labels = Some(mk_labels(&labels));
        let mut world = World::new(service, mk_pods(1..2));
        world.converge();
        let got = world.current.unwrap().metadata.labels;
        assert_eq!(got, Some(mk_labels(&expected)), "{cluster_ip:?} {labels:?}");
    }
}

#[test]
fn foreign_labels_are_dropped_and_foreign_annotations_kept() {
    let mut world = World::with(mk_pods(1..2));
    world.converge();
    world.tamper(|endpoints| {
        endpoints.metadata.labels = Some(mk_labels(&[("foreign", "x"), ours()]));
        endpoints.metadata.annotations = Some(mk_labels(&[("foreign", "kept")]));
        endpoints.metadata.managed_fields = Some(Vec::new());
    });
    let plan = world.converge();
    let meta = &plan.writes.update[0].metadata;
    assert_eq!(meta.labels, Some(mk_labels(&[ours()])));
    assert_eq!(meta.annotations, Some(mk_labels(&[("foreign", "kept")])));
    assert_eq!(meta.managed_fields, None);
}

#[test]
fn what_needs_no_write_and_what_does() {
    type Edit = fn(&mut Endpoints);
    let rows: [(&str, Edit, bool); 8] = [
        ("nothing", |_| {}, false),
        (
            "resource version of a target",
            |endpoints| first(endpoints).target_ref.as_mut().unwrap().resource_version = Some("9".to_owned()),
            false,
        ),
        (
            "a headless label too many",
            |endpoints| {
                let labels = endpoints.metadata.labels.as_mut().unwrap();
                labels.insert(names::HEADLESS.to_owned(), String::new());
            },
            false,
        ),
        (
            "a foreign annotation",
            |endpoints| endpoints.metadata.annotations = Some(mk_labels(&[("a", "b")])),
            false,
        ),
        (
            "an address edited",
            |endpoints| first(endpoints).ip = "10.9.9.9".to_owned(),
            true,
        ),
        (
            "a node edited",
            |endpoints| first(endpoints).node_name = None,
            true,
        ),
        (
            "the managed-by label lost",
            |endpoints| endpoints.metadata.labels = None,
            true,
        ),
        (
            "a capacity annotation",
            |endpoints| {
                endpoints.metadata.annotations = Some(mk_labels(&[(names::OVER_CAPACITY, names::TRUNCATED)]));
            },
            true,
        ),
    ];
    for (name, edit, written) in rows {
        let mut world = World::with(mk_pods(1..3));
        world.converge();
        world.tamper(edit);
        assert_eq!(
            world.converge().writes.update.len(),
            usize::from(written),
            "{name}"
        );
    }
}

fn first(endpoints: &mut Endpoints) -> &mut EndpointAddress {
    let subsets = endpoints.subsets.as_mut().unwrap();
    &mut subsets[0].addresses.as_mut().unwrap()[0]
}

#[test]
fn the_trigger_time_is_set_or_removed_with_a_write_and_is_no_reason_for_one() {
    let mut world = World::with(mk_pods(1..2));
    world.trigger_time = Some(at(1_700_000_000));
    world.converge();
    let annotations = |world: &World| {
        let meta = &world.current.as_ref().unwrap().metadata;
        meta.annotations.clone().unwrap_or_default()
    };
    assert_eq!(annotations(&world)[names::TRIGGER_TIME], "2023-11-14T22:13:20Z");
    world.trigger_time = None;
    assert!(world.plan().writes.is_empty());
    world.pods.clear();
    world.converge();
    assert!(annotations(&world).is_empty());
}

#[test]
fn without_a_service_only_our_endpoints_go_and_with_a_deleted_one_any() {
    type Edit = fn(&mut Endpoints);
    let record: Edit = |endpoints| {
        endpoints.metadata.annotations = Some(mk_labels(&[(names::LEADER, "{}")]));
    };
    let hand_written: Edit = |endpoints| endpoints.metadata.labels = None;
    let others: Edit = |endpoints| {
        endpoints.metadata.labels = Some(mk_labels(&[(names::ENDPOINTS_MANAGED_BY, "me")]));
    };
    let missing = Some(SkipReason::ServiceMissing);
    let election = Some(SkipReason::LeaderElection);
    let rows: [(&str, Edit, Absence, Option<SkipReason>); 8] = [
        ("ours", |_| {}, Absence::NotSeen, None),
        ("ours", |_| {}, Absence::Deleted, None),
        ("hand-written", hand_written, Absence::NotSeen, missing),
        ("hand-written", hand_written, Absence::Deleted, None),
        ("another's", others, Absence::NotSeen, missing),
        ("another's", others, Absence::Deleted, None),
        ("a record", record, Absence::NotSeen, election),
        ("a record", record, Absence::Deleted, election),
    ];
    let key = ServiceKey::new("shop", "web");
    for (name, edit, absence, left_alone) in rows {
        let mut world = World::with(mk_pods(1..2));
        world.converge();
        world.service = None;
        world.tamper(edit);
        let plan = plan_orphan(&key, world.current.as_ref(), absence);
        let writes = plan.writes.to_string();
        match left_alone {
            None => {
                assert_eq!(writes, "delete Endpoints shop/web\n", "{name} {absence:?}");
                assert_eq!(plan.writes.delete[0].uid.as_deref(), Some("uid-endpoints"));
            }
            Some(reason) => {
                assert!(plan.skips.has(reason), "{name} {absence:?}");
                assert_eq!(writes, "", "{name} {absence:?}");
            }
        }
        if absence == Absence::NotSeen {
            assert_eq!(world.plan(), plan, "{name}");
        }
        assert!(plan_orphan(&key, None, absence).writes.is_empty());
    }
}

#[test]
fn without_a_selector_endpoints_stay_unless_leftovers_of_ours_are_to_be_deleted() {
    let external = mk_service_with(|spec| spec.type_ = Some("ExternalName".to_owned()));
    let selectorless = mk_service_with(|spec| spec.selector = None);
    for (service, reason) in [
        (external, SkipReason::ServiceExternalName),
        (selectorless, SkipReason::ServiceWithoutSelector),
    ] {
        for (leftovers, hand_written, deleted) in [
            (Leftovers::Keep, false, false),
            (Leftovers::Delete, false, true),
            (Leftovers::Delete, true, false),
        ] {
            let mut world = World::with(mk_pods(1..2));
            world.converge();
            if hand_written {
                world.tamper(|endpoints| endpoints.metadata.labels = None);
            }
            world.service = Some(service.clone());
            world.leftovers = leftovers;
            let plan = world.converge();
            assert!(plan.skips.has(reason));
            assert_eq!(
                plan.writes.delete.len(),
                usize::from(deleted),
                "{reason} {leftovers:?}"
            );
            assert!(plan.writes.create.is_empty() && plan.writes.update.is_empty());
        }
    }
}

/// Pods 0.. are ready, those of the second range are not, each on the port of its group.
fn grouped(groups: &[(i32, usize, usize)]) -> World {
    let mut pods = Vec::new();
    for (port, ready, not_ready) in groups {
        for index in 0..ready + not_ready {
            let number = u16::try_from(pods.len()).unwrap();
            pods.push(mk_pod_with(number, |pod| {
                pod.spec.containers = vec![mk_container("web", *port)];
                pod.status.conditions = vec![mk_condition(index < *ready)];
            }));
        }
    }
    let named = mk_port("http", 80, IntOrString::String("web".to_owned()));
    World::new(mk_service_with(|spec| spec.ports = Some(vec![named])), pods)
}

#[test]
fn more_than_a_thousand_addresses_are_truncated_ready_ones_first_and_in_proportion() {
    // Groups as (port, ready, not ready), and what is left of them.
    type Groups = &'static [(i32, usize, usize)];
    let rows: [(&str, Groups, Groups, bool); 6] = [
        ("just fits", &[(1, 600, 400)], &[(1, 600, 400)], false),
        ("one too many", &[(1, 600, 401)], &[(1, 600, 400)], true),
        (
            "ready ones alone exceed it",
            &[(1, 1200, 50)],
            &[(1, 1000, 0)],
            true,
        ),
        (
            "in proportion, rounded up, the last gets the rest",
            &[(1, 1000, 0), (2, 1000, 0), (3, 1001, 9)],
            &[(1, 334, 0), (2, 334, 0), (3, 332, 0)],
            true,
        ),
        (
            "not ready in proportion",
            &[(1, 300, 600), (2, 300, 200)],
            &[(1, 300, 300), (2, 300, 100)],
            true,
        ),
        (
            "a subset that nothing is left of goes",
            &[(1, 1100, 0), (2, 0, 5)],
            &[(1, 1000, 0)],
            true,
        ),
    ];
    for (name, groups, expected, truncated) in rows {
        let mut world = grouped(groups);
        let plan = world.converge();
        let left: Vec<(i32, usize, usize)> = world
            .shape()
            .into_iter()
            .map(|(ready, not_ready, ports)| (ports[0], ready.len(), not_ready.len()))
            .collect();
        assert_eq!(left, expected, "{name}");
        assert_eq!(is_truncated(world.current.as_ref().unwrap()), truncated, "{name}");
        let total: usize = groups.iter().map(|(_, ready, not_ready)| ready + not_ready).sum();
        let kept: usize = expected
            .iter()
            .map(|(_, ready, not_ready)| ready + not_ready)
            .sum();
        assert_eq!(plan.skips.count(SkipReason::OverCapacity), total - kept, "{name}");
    }
}

#[test]
fn the_truncation_mark_goes_when_the_addresses_fit_again() {
    let mut world = grouped(&[(1, 1001, 0)]);
    world.converge();
    world.pods.truncate(10);
    world.converge();
    assert!(!is_truncated(world.current.as_ref().unwrap()));
}

#[test]
fn twenty_thousand_pods_on_a_hundred_ports_leave_a_thousand_addresses_and_no_second_write() {
    let pods = (0..20_000).map(|number| {
        let port = 8000 + i32::from(number % 3);
        mk_pod_with(number, |pod| {
            pod.spec.containers = vec![mk_container("web", port)]
        })
    });
    let ports = (0..100).map(|index| {
        let target = IntOrString::String("web".to_owned());
        mk_port(&format!("p{index}"), 80 + index, target)
    });
    let service = mk_service_with(|spec| spec.ports = Some(ports.collect()));
    let mut world = World::new(service, pods.collect());
    world.converge();
    let sizes: Vec<usize> = world.shape().iter().map(|(ready, ..)| ready.len()).collect();
    assert_eq!(sizes, [334, 334, 332]);
}
