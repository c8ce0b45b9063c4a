// SPDX-License-Identifier: Apache-2.0

mod random;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::fixtures::{Server, at, mk_labels, mk_meta, mk_service, mk_service_with};

fn mk_address(ip: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.to_owned(),
        ..EndpointAddress::default()
    }
}

fn mk_subset(ready: &[&str], not_ready: &[&str], ports: &[i32]) -> EndpointSubset {
    let list = |ips: &[&str]| {
        let addresses: Vec<_> = ips.iter().map(|ip| mk_address(ip)).collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    let port = |port: &i32| core::EndpointPort {
        port: *port,
        ..core::EndpointPort::default()
    };
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(not_ready),
        ports: Some(ports.iter().map(port).collect()),
    }
}

/// Hand-written Endpoints on a small server, mirrored turn by turn.
struct World {
    endpoints: Option<Endpoints>,
    service: Option<Service>,
    max: usize,
    server: Server,
}

impl World {
    fn new(subsets: Vec<EndpointSubset>) -> Self {
        Self {
            endpoints: Some(Endpoints {
                metadata: mk_meta("web"),
                subsets: Some(subsets),
            }),
            service: Some(mk_service_with(|spec| spec.selector = None)),
            max: DEFAULT_MAX_ENDPOINTS,
            server: Server::default(),
        }
    }

    /// With one ready address, mirrored already.
    fn mirrored() -> Self {
        let mut world = Self::new(vec![mk_subset(&["10.0.0.1"], &[], &[80])]);
        world.converge();
        world
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Endpoints)) {
        edit(self.endpoints.as_mut().unwrap());
    }

    fn plan(&self) -> MirrorPlan {
        let existing = self.server.slices();
        plan_mirror(&MirrorInput {
            key: &ServiceKey::new("shop", "web"),
            endpoints: self.endpoints.as_ref(),
            service: self.service.as_ref(),
            existing: &existing,
            max_endpoints: self.max,
        })
    }

    fn converge(&mut self) -> MirrorPlan {
        let plan = self.plan();
        self.server.apply(&plan.writes);
        let again = self.plan();
        assert!(
            again.writes.is_empty(),
            "planned twice:\n{}{}",
            plan.writes,
            again.writes
        );
        plan
    }

    /// Address type, ports, and each endpoint's address and readiness, sorted.
    fn shape(&self) -> Vec<Row> {
        let slices = self.server.slices();
        let mut rows: Vec<Row> = slices.iter().map(|slice| shape_of(slice)).collect();
        rows.sort();
        rows
    }

    fn tamper(&mut self, edit: impl FnOnce(&mut EndpointSlice)) {
        let mut slice = EndpointSlice::clone(&self.server.slices()[0]);
        edit(&mut slice);
        self.server.put(slice);
    }
}

type Row = (String, Vec<i32>, Vec<(String, bool)>);

fn shape_of(slice: &EndpointSlice) -> Row {
    let ports = slice.ports.iter().flatten();
    let endpoints = slice.endpoints.iter().flatten();
    let mut endpoints: Vec<(String, bool)> = endpoints
        .map(|endpoint| {
            let conditions = endpoint.conditions.as_ref().unwrap();
            (endpoint.addresses[0].clone(), conditions.ready.unwrap())
        })
        .collect();
    endpoints.sort();
    let ports = ports.filter_map(|port| port.port).collect();
    (slice.address_type.clone(), ports, endpoints)
}

fn row(family: &str, ports: &[i32], endpoints: &[(&str, bool)]) -> Row {
    let endpoints = endpoints.iter().map(|(ip, ready)| ((*ip).to_owned(), *ready));
    (family.to_owned(), ports.to_vec(), endpoints.collect())
}

#[test]
fn endpoints_of_a_service_without_selector_are_mirrored_and_of_no_other() {
    type Edit = fn(&mut World);
    let annotate: Edit = |world| {
        world.edit(|endpoints| endpoints.metadata.annotations = Some(mk_labels(&[(names::LEADER, "{}")])));
    };
    let rows: [(&str, Edit, Option<SkipReason>); 9] = [
        ("mirrored", |_| {}, None),
        (
            "no Endpoints",
            |world| world.endpoints = None,
            Some(SkipReason::EndpointsMissing),
        ),
        (
            "no Service",
            |world| world.service = None,
            Some(SkipReason::ServiceMissing),
        ),
        (
            "a selector",
            |world| world.service = Some(mk_service()),
            Some(SkipReason::ServiceWithSelector),
        ),
        (
            "an empty selector",
            |world| world.service = Some(mk_service_with(|spec| spec.selector = Some(Labels::new()))),
            None,
        ),
        (
            "a leader-election record",
            annotate,
            Some(SkipReason::LeaderElection),
        ),
        (
            "skip-mirror",
            |world| skip_mirror(world, "true"),
            Some(SkipReason::MirrorDisabled),
        ),
        ("skip-mirror, otherwise", |world| skip_mirror(world, "True"), None),
        (
            "ExternalName without selector",
            |world| {
                world.service = Some(mk_service_with(|spec| {
                    spec.selector = None;
                    spec.type_ = Some("ExternalName".to_owned());
                }));
            },
            None,
        ),
    ];
    for (name, edit, reason) in rows {
        let mut world = World::mirrored();
        edit(&mut world);
        let plan = world.converge();
        assert_eq!(world.shape().is_empty(), reason.is_some(), "{name}");
        assert_eq!(
            plan.skips.iter().map(|(reason, _)| reason).next(),
            reason,
            "{name}"
        );
    }
}

fn skip_mirror(world: &mut World, value: &str) {
    world.edit(|endpoints| endpoints.metadata.labels = Some(mk_labels(&[(names::SKIP_MIRROR, value)])));
}

#[test]
fn there_is_one_slice_per_family_and_port_list() {
    let mut world = World::new(vec![
        mk_subset(&["10.0.0.1", "fd00::1"], &["10.0.0.2"], &[80, 81]),
        mk_subset(&["010.0.0.3"], &[], &[90]),
    ]);
    world.converge();
    let expected = [
        row("IPv4", &[80, 81], &[("10.0.0.1", true), ("10.0.0.2", false)]),
        row("IPv4", &[90], &[("10.0.0.3", true)]),
        row("IPv6", &[80, 81], &[("fd00::1", true)]),
    ];
    assert_eq!(world.shape(), expected);
}

#[test]
fn subsets_that_share_an_address_or_a_port_are_repacked_first() {
    let mut world = World::new(vec![
        mk_subset(&["10.0.0.1"], &[], &[80]),
        mk_subset(&["10.0.0.1", "10.0.0.2"], &[], &[81]),
        mk_subset(&["10.0.0.2"], &[], &[80]),
    ]);
    world.converge();
    let both = [("10.0.0.1", true), ("10.0.0.2", true)];
    assert_eq!(world.shape(), [row("IPv4", &[80, 81], &both)]);
}

#[test]
fn endpoints_without_addresses_get_no_slice() {
    let mut world = World::new(Vec::new());
    assert!(world.converge().writes.is_empty());
    let mut world = World::mirrored();
    world.edit(|endpoints| endpoints.subsets = None);
    assert_eq!(world.converge().writes.delete.len(), 1);
}

#[test]
fn an_endpoint_copies_target_node_and_hostname_and_only_the_ready_condition() {
    let target = ObjectReference {
        kind: Some("Pod".to_owned()),
        name: Some("db-0".to_owned()),
        ..ObjectReference::default()
    };
    let address = EndpointAddress {
        hostname: Some("db".to_owned()),
        node_name: Some("node-1".to_owned()),
        target_ref: Some(target.clone()),
        ..mk_address("10.0.0.1")
    };
    let mut subset = mk_subset(&[], &[], &[80]);
    subset.addresses = Some(vec![address]);
    let mut world = World::new(vec![subset]);
    world.converge();
    let endpoint = world.server.slices()[0].endpoints.clone().unwrap().remove(0);
    let conditions = EndpointConditions {
        ready: Some(true),
        ..EndpointConditions::default()
    };
    let expected = Endpoint {
        addresses: vec!["10.0.0.1".to_owned()],
        conditions: Some(conditions),
        hostname: Some("db".to_owned()),
        node_name: Some("node-1".to_owned()),
        target_ref: Some(target),
        ..Endpoint::default()
    };
    assert_eq!(endpoint, expected);
}

#[test]
fn ports_are_written_in_full() {
    let mut subset = mk_subset(&["10.0.0.1"], &[], &[]);
    subset.ports = Some(vec![core::EndpointPort {
        app_protocol: Some("http".to_owned()),
        name: None,
        port: 80,
        protocol: None,
    }]);
    let mut world = World::new(vec![subset]);
    world.converge();
    let port = EndpointPort {
        app_protocol: Some("http".to_owned()),
        name: Some(String::new()),
        port: Some(80),
        protocol: Some("TCP".to_owned()),
    };
    assert_eq!(world.server.slices()[0].ports, Some(vec![port]));
}

#[test]
fn labels_and_annotations_are_those_of_the_endpoints_but_for_ours_and_two() {
    let mut world = World::new(vec![mk_subset(&["10.0.0.1"], &[], &[80])]);
    world.edit(|endpoints| {
        endpoints.metadata.labels = Some(mk_labels(&[("team", "a"), (names::SLICE_MANAGED_BY, "me")]));
        let annotations = [
            ("note", "x"),
            (names::TRIGGER_TIME, "t"),
            (names::LAST_APPLIED, "{}"),
        ];
        endpoints.metadata.annotations = Some(mk_labels(&annotations));
    });
    world.converge();
    let meta = &world.server.slices()[0].metadata;
    let labels = [
        ("team", "a"),
        (names::SLICE_MANAGED_BY, names::MIRROR_CONTROLLER),
        (names::SERVICE_NAME, "web"),
    ];
    assert_eq!(meta.labels, Some(mk_labels(&labels)));
    assert_eq!(meta.annotations, Some(mk_labels(&[("note", "x")])));
    assert_eq!(meta.generate_name.as_deref(), Some("web-"));
    let owner = &meta.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.api_version.as_str()),
        ("Endpoints", "v1")
    );
    assert_eq!((owner.uid.as_str(), owner.controller), ("uid-web", Some(true)));
}

fn annotate(world: &mut World, key: &str) {
    world.edit(|endpoints| endpoints.metadata.annotations = Some(mk_labels(&[(key, "x")])));
}

fn rewrite(world: &mut World, subset: EndpointSubset) {
    world.edit(|endpoints| endpoints.subsets = Some(vec![subset]));
}

#[test]
fn what_needs_no_write_and_what_does() {
    type Edit = fn(&mut World);
    let recreate: Edit =
        |world| world.edit(|endpoints| endpoints.metadata.uid = Some("uid-second".to_owned()));
    let annotate_slice: Edit =
        |world| world.tamper(|slice| slice.metadata.annotations = Some(mk_labels(&[("a", "b")])));
    let rows: [(&str, Edit, usize); 9] = [
        ("nothing", |_| {}, 0),
        ("a trigger time", |world| annotate(world, names::TRIGGER_TIME), 0),
        ("a label", |world| skip_mirror(world, "false"), 1),
        ("an annotation", |world| annotate(world, "a"), 1),
        ("a re-created owner", recreate, 1),
        (
            "readiness",
            |world| rewrite(world, mk_subset(&[], &["10.0.0.1"], &[80])),
            1,
        ),
        (
            "another address",
            |world| rewrite(world, mk_subset(&["10.0.0.9"], &[], &[80])),
            1,
        ),
        (
            "the slice emptied",
            |world| world.tamper(|slice| slice.endpoints = Some(Vec::new())),
            1,
        ),
        ("a foreign annotation on the slice", annotate_slice, 1),
    ];
    for (name, edit, writes) in rows {
        let mut world = World::mirrored();
        edit(&mut world);
        let plan = world.converge();
        assert_eq!(
            (plan.writes.update.len(), plan.writes.len()),
            (writes, writes),
            "{name}"
        );
        let update = plan.writes.update.first();
        assert!(
            update.is_none_or(|slice| slice.metadata.resource_version.is_none()),
            "{name}"
        );
    }
}

#[test]
fn changed_ports_recycle_the_slice() {
    let mut world = World::mirrored();
    world.edit(|endpoints| endpoints.subsets = Some(vec![mk_subset(&["10.0.0.1"], &[], &[90])]));
    let plan = world.converge();
    assert_eq!((plan.writes.update.len(), plan.writes.len()), (1, 1));
    assert_eq!(world.shape(), [row("IPv4", &[90], &[("10.0.0.1", true)])]);
}

#[test]
fn of_several_slices_of_one_group_the_right_one_stays() {
    let mut world = World::mirrored();
    let slice = EndpointSlice::clone(&world.server.slices()[0]);
    for (name, right) in [("a-wrong", false), ("z-right", true)] {
        let mut copy = slice.clone();
        copy.metadata.name = Some(name.to_owned());
        if !right {
            copy.endpoints = Some(Vec::new());
        }
        world.server.put(copy);
    }
    let plan = world.converge();
    assert_eq!((plan.writes.delete.len(), plan.writes.len()), (2, 2));
}

#[test]
fn unreadable_addresses_and_those_over_the_cap_are_counted_and_left_out() {
    let mut world = World::new(vec![mk_subset(
        &["10.0.0.1", "web.example", "10.0.0.2", "10.0.0.3"],
        &["10.0.0.4"],
        &[80],
    )]);
    world.max = 2;
    let plan = world.converge();
    assert_eq!(plan.skips.count(SkipReason::OverCapacity), 3);
    assert_eq!(
        world.shape(),
        [row("IPv4", &[80], &[("10.0.0.1", true), ("10.0.0.2", true)])]
    );
    world.max = 4;
    let plan = world.converge();
    assert_eq!(plan.skips.count(SkipReason::OverCapacity), 0);
    assert_eq!(plan.skips.count(SkipReason::InvalidAddress), 1);
    assert_eq!(world.shape()[0].2.len(), 4);
}

#[test]
fn nothing_is_created_for_endpoints_that_are_being_deleted() {
    let mut world = World::new(vec![mk_subset(&["10.0.0.1"], &[], &[80])]);
    world.edit(|endpoints| endpoints.metadata.deletion_timestamp = Some(Time(at(300))));
    let plan = world.plan();
    assert!(plan.writes.is_empty() && plan.skips.has(SkipReason::OwnerTerminating));
}

#[test]
fn slices_of_others_are_left_alone() {
    let mut world = World::mirrored();
    world.tamper(|slice| {
        slice.metadata.name = Some("by-hand".to_owned());
        slice.metadata.labels = Some(mk_labels(&[(names::SERVICE_NAME, "web")]));
    });
    world.endpoints = None;
    assert_eq!(world.converge().writes.delete.len(), 1);
    assert_eq!(world.server.slices().len(), 1);
}

#[test]
fn figures_say_what_a_turn_adds_changes_removes_and_skips() {
    let row = |plan: &MirrorPlan, family: IpFamily| {
        let counts = plan.counts.get(&family).copied().unwrap_or_default();
        [
            counts.endpoints,
            counts.slices,
            counts.added,
            counts.updated,
            counts.removed,
        ]
    };
    let mut world = World::new(vec![mk_subset(
        &["10.0.0.1", "10.0.0.2", "fd00::1"],
        &["bad"],
        &[80],
    )]);
    let plan = world.converge();
    assert_eq!(row(&plan, IpFamily::V4), [2, 1, 2, 0, 0]);
    assert_eq!(row(&plan, IpFamily::V6), [1, 1, 1, 0, 0]);
    assert_eq!(plan.addresses_skipped(), 1);
    world.edit(|endpoints| {
        endpoints.subsets = Some(vec![mk_subset(&["10.0.0.3"], &["10.0.0.1"], &[80])]);
    });
    let plan = world.converge();
    assert_eq!(row(&plan, IpFamily::V4), [2, 1, 1, 1, 1]);
    assert_eq!(row(&plan, IpFamily::V6), [0, 0, 0, 0, 1]);
    let plan = world.plan();
    assert_eq!(row(&plan, IpFamily::V4), [2, 1, 0, 0, 0], "nothing to do");
    world.max = 1;
    assert_eq!(world.converge().addresses_skipped(), 1, "over the cap");
}
