// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;

use berth_controllers_core::names;
use berth_snapshot::pod::{PodManifest, PodSpec, PodStatus};
use k8s_openapi::api::core::v1::{Endpoints, PodIP, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
    Some(
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    )
}

fn mk_meta(name: &str, version: u32) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("shop".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some(version.to_string()),
        ..ObjectMeta::default()
    }
}

fn mk_service(name: &str, version: u32, selector: Option<&str>) -> Service {
    Service {
        metadata: mk_meta(name, version),
        spec: Some(ServiceSpec {
            selector: selector.and_then(|app| labels(&[("app", app)])),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn mk_pod(name: &str, version: u32, app: &str, ip: &str) -> Pod {
    let manifest = PodManifest {
        metadata: ObjectMeta {
            labels: labels(&[("app", app)]),
            ..mk_meta(name, version)
        },
        spec: PodSpec {
            node_name: Some("node-1".to_owned()),
            ..PodSpec::default()
        },
        status: PodStatus {
            pod_ips: vec![PodIP { ip: ip.to_owned() }],
            ..PodStatus::default()
        },
    };
    manifest.into()
}

fn mk_slice(name: &str, generation: i64, service: &str, managed_by: &str) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            labels: labels(&[
                (names::SERVICE_NAME, service),
                (names::SLICE_MANAGED_BY, managed_by),
            ]),
            generation: Some(generation),
            ..mk_meta(name, u32::try_from(generation).unwrap())
        },
        ..EndpointSlice::default()
    }
}

fn mk_endpoints(name: &str, version: u32) -> Endpoints {
    Endpoints {
        metadata: mk_meta(name, version),
        ..Endpoints::default()
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn listed(names: &[&str]) -> BTreeSet<ObjectKey> {
    names.iter().map(|name| object_key(&key(name))).collect()
}

/// The tasks as short text, those due at once first.
fn due(dirty: &Dirty) -> Vec<String> {
    let text = |task: &Task| match task {
        Task::Endpoints(key) => format!("endpoints {}", key.name()),
        Task::Slices(key) => format!("slices {}", key.name()),
        Task::Mirror(key) => format!("mirror {}", key.name()),
        Task::LoadBalancer(key) => format!("lb {}", key.name()),
        Task::Pools => "pools".to_owned(),
    };
    let batched = dirty.batched.iter().map(|task| format!("later {}", text(task)));
    dirty.now.iter().map(text).chain(batched).collect()
}

#[test]
fn a_service_is_due_with_every_controller_that_may_care() {
    let mut cache = Cache::default();
    assert_eq!(
        due(&cache.apply_service(mk_service("web", 1, Some("web")))),
        ["endpoints web", "slices web", "lb web"]
    );
    assert_eq!(
        due(&cache.apply_service(mk_service("ext", 1, None))),
        ["endpoints ext", "slices ext", "mirror ext", "lb ext"]
    );
}

#[test]
fn a_relist_that_shows_nothing_new_makes_nothing_due() {
    let mut cache = Cache::default();
    cache.apply_service(mk_service("web", 1, Some("web")));
    cache.apply_pod(mk_pod("web-0", 1, "web", "10.0.0.1"));
    cache.apply_endpoints(mk_endpoints("web", 1));
    cache.apply_slice(mk_slice("web-a", 1, "web", names::SLICE_CONTROLLER));
    assert_eq!(
        due(&cache.apply_service(mk_service("web", 1, Some("web")))),
        [""; 0]
    );
    assert_eq!(
        due(&cache.apply_pod(mk_pod("web-0", 1, "web", "10.0.0.1"))),
        [""; 0]
    );
    assert_eq!(due(&cache.apply_endpoints(mk_endpoints("web", 1))), [""; 0]);
    let again = mk_slice("web-a", 1, "web", names::SLICE_CONTROLLER);
    assert_eq!(due(&cache.apply_slice(again)), [""; 0]);
    assert_eq!(due(&cache.retain_services(&listed(&["web"]))), [""; 0]);
    assert_eq!(due(&cache.retain_slices(&listed(&["web-a"]))), [""; 0]);
}

#[test]
fn what_a_relist_no_longer_shows_was_deleted() {
    let mut cache = Cache::default();
    cache.apply_service(mk_service("web", 1, Some("web")));
    cache.apply_pod(mk_pod("web-0", 1, "web", "10.0.0.1"));
    cache.apply_endpoints(mk_endpoints("web", 1));
    cache.apply_slice(mk_slice("web-a", 1, "web", names::SLICE_CONTROLLER));
    assert_eq!(
        due(&cache.retain_pods(&listed(&[]))),
        ["later endpoints web", "later slices web"]
    );
    assert_eq!(due(&cache.retain_slices(&listed(&[]))), ["later slices web"]);
    assert_eq!(
        due(&cache.retain_endpoints(&listed(&[]))),
        ["endpoints web", "mirror web"]
    );
    assert_eq!(
        due(&cache.retain_services(&listed(&[]))),
        ["endpoints web", "slices web", "mirror web", "lb web"]
    );
    assert!(cache.services.is_empty() && cache.pods.is_empty() && cache.endpoints.is_empty());
}

#[test]
fn a_pod_makes_only_the_services_that_select_it_due() {
    let mut cache = Cache::default();
    cache.apply_service(mk_service("web", 1, Some("web")));
    cache.apply_service(mk_service("db", 1, Some("db")));
    assert_eq!(
        due(&cache.apply_pod(mk_pod("web-0", 1, "web", "10.0.0.1"))),
        ["later endpoints web", "later slices web"]
    );
    assert_eq!(
        due(&cache.apply_pod(mk_pod("web-0", 2, "db", "10.0.0.1"))),
        [
            "later endpoints db",
            "later endpoints web",
            "later slices db",
            "later slices web"
        ]
    );
    let gone = object_key(&key("web-0"));
    assert_eq!(
        due(&cache.delete_pod(&gone)),
        ["later endpoints db", "later slices db"]
    );
}

#[test]
fn a_new_zone_of_a_node_reaches_the_services_with_pods_there() {
    let zone = |zone: &str| NodeFacts {
        zone: Some(zone.into()),
        ..NodeFacts::default()
    };
    let mut cache = Cache::default();
    cache.apply_service(mk_service("web", 1, Some("web")));
    cache.apply_service(mk_service("db", 1, Some("db")));
    cache.apply_pod(mk_pod("web-0", 1, "web", "10.0.0.1"));
    assert_eq!(
        due(&cache.apply_node("node-1".into(), zone("a"))),
        [""; 0],
        "still listing"
    );
    cache.retain_nodes(&BTreeSet::from([ObjectKey {
        namespace: None,
        name: "node-1".into(),
    }]));
    assert_eq!(
        due(&cache.apply_node("node-1".into(), zone("a"))),
        [""; 0],
        "unchanged"
    );
    assert_eq!(
        due(&cache.apply_node("node-1".into(), zone("b"))),
        ["later slices web"]
    );
    assert_eq!(due(&cache.delete_node("node-1")), ["later slices web"]);
}

#[test]
fn the_echo_of_an_own_slice_write_is_no_news_but_a_foreign_edit_is() {
    let mut cache = Cache::default();
    let written = mk_slice("web-a", 1, "web", names::SLICE_CONTROLLER);
    cache.own_slices.written(&key("web"), &written.metadata);
    assert_eq!(due(&cache.apply_slice(written)), [""; 0]);
    let edited = mk_slice("web-a", 2, "web", names::SLICE_CONTROLLER);
    assert_eq!(due(&cache.apply_slice(edited)), ["later slices web"]);
    let object = object_key(&key("web-a"));
    assert_eq!(due(&cache.delete_slice(&object)), ["later slices web"]);
}

#[test]
fn a_turn_put_off_comes_back_with_the_echo_it_waited_for() {
    let mut cache = Cache::default();
    let written = mk_slice("web-a", 1, "web", names::SLICE_CONTROLLER);
    cache.own_slices.written(&key("web"), &written.metadata);
    let cached = cache.slices_by(&key("web"), Writes::Slices);
    assert!(
        cache
            .own_slices
            .stale(&key("web"), cached.iter().map(|slice| &**slice))
            .is_some()
    );
    cache.put_off(Task::Slices(key("web")));
    assert_eq!(due(&cache.apply_slice(written)), ["slices web"]);
    let again = mk_slice("web-a", 2, "web", names::SLICE_CONTROLLER);
    cache.own_slices.written(&key("web"), &again.metadata);
    assert_eq!(due(&cache.apply_slice(again)), [""; 0], "brought back once");
}

#[test]
fn a_slice_that_changes_hands_makes_both_services_due() {
    let mut cache = Cache::default();
    cache.apply_slice(mk_slice("s", 1, "web", names::SLICE_CONTROLLER));
    let moved = mk_slice("s", 2, "db", names::SLICE_CONTROLLER);
    assert_eq!(
        due(&cache.apply_slice(moved)),
        ["later slices db", "later slices web"]
    );
    assert_eq!(cache.slices_of(&key("web")).len(), 0);
    assert_eq!(cache.slices_of(&key("db")).len(), 1);
    let orphan = EndpointSlice {
        metadata: mk_meta("s", 3),
        ..EndpointSlice::default()
    };
    assert_eq!(due(&cache.apply_slice(orphan)), ["later slices db"]);
    assert_eq!(cache.slices_of(&key("db")).len(), 0);
}

#[test]
fn the_two_slice_controllers_do_not_see_each_others_slices() {
    let mut cache = Cache::default();
    cache.apply_slice(mk_slice("a", 1, "web", names::SLICE_CONTROLLER));
    assert_eq!(
        due(&cache.apply_slice(mk_slice("b", 1, "web", names::MIRROR_CONTROLLER))),
        ["later mirror web"]
    );
    assert_eq!(cache.slices_by(&key("web"), Writes::Slices).len(), 1);
    assert_eq!(cache.slices_by(&key("web"), Writes::Mirror).len(), 1);
}

#[test]
fn a_service_that_gains_a_selector_is_due_for_mirroring_while_mirrored_slices_are_left() {
    let mut cache = Cache::default();
    cache.apply_service(mk_service("web", 1, None));
    cache.apply_slice(mk_slice("web-m", 1, "web", names::MIRROR_CONTROLLER));
    let gained = cache.apply_service(mk_service("web", 2, Some("web")));
    assert!(due(&gained).contains(&"mirror web".to_owned()));
    cache.delete_slice(&object_key(&key("web-m")));
    let later = cache.apply_service(mk_service("web", 3, Some("web")));
    assert!(!due(&later).contains(&"mirror web".to_owned()));
}

#[test]
fn a_foreign_edit_of_endpoints_is_news_and_our_own_write_is_not() {
    let mut cache = Cache::default();
    cache.apply_service(mk_service("web", 1, Some("web")));
    assert_eq!(
        due(&cache.apply_endpoints(mk_endpoints("web", 1))),
        ["endpoints web"]
    );
    cache.endpoints_written(
        &key("web"),
        Some(&mk_endpoints("web", 1).metadata),
        &mk_endpoints("web", 2).metadata,
    );
    let cached = cache.endpoints_of(&key("web")).unwrap();
    assert!(cache.own_endpoints.stale(&key("web"), Some(&cached)).is_some());
    assert_eq!(due(&cache.apply_endpoints(mk_endpoints("web", 2))), [""; 0]);
    let cached = cache.endpoints_of(&key("web")).unwrap();
    assert!(cache.own_endpoints.stale(&key("web"), Some(&cached)).is_none());
    assert_eq!(
        due(&cache.apply_endpoints(mk_endpoints("web", 3))),
        ["endpoints web"]
    );
}

#[test]
fn endpoints_that_we_deleted_are_known_as_gone_while_the_watch_still_shows_them() {
    let mut cache = Cache::default();
    cache.apply_endpoints(mk_endpoints("web", 1));
    let uid = mk_endpoints("web", 1).metadata.uid.unwrap_or_default();
    cache.endpoints_deleted(&key("web"), &uid);
    assert!(cache.endpoints_are_deleted(&key("web")));
    cache.apply_endpoints(mk_endpoints("web", 2));
    assert!(
        cache.endpoints_are_deleted(&key("web")),
        "an older change of theirs"
    );
    cache.delete_endpoints(&key("web"));
    assert!(!cache.endpoints_are_deleted(&key("web")));

    cache.endpoints_deleted(&key("web"), &uid);
    assert!(!cache.endpoints_are_deleted(&key("web")), "the watch was faster");

    cache.apply_endpoints(mk_endpoints("web", 3));
    cache.endpoints_deleted(&key("web"), &uid);
    let mut another = mk_endpoints("web", 4);
    another.metadata.uid = Some("another".to_owned());
    cache.apply_endpoints(another);
    assert!(!cache.endpoints_are_deleted(&key("web")), "others made them anew");
}

#[test]
fn endpoints_written_but_not_seen_yet_are_remembered_until_a_deletion() {
    let mut cache = Cache::default();
    cache.endpoints_written(&key("web"), None, &mk_endpoints("web", 1).metadata);
    assert!(cache.endpoints_are_written(&key("web")));
    cache.put_off(Task::Endpoints(key("web")));
    assert_eq!(
        due(&cache.apply_endpoints(mk_endpoints("web", 1))),
        ["endpoints web", "mirror web"]
    );
    assert_eq!(
        due(&cache.delete_endpoints(&key("web"))),
        ["endpoints web", "mirror web"]
    );
    assert!(!cache.endpoints_are_written(&key("web")));
    cache.endpoints_written(&key("web"), None, &mk_endpoints("web", 2).metadata);
    let unseen = cache.delete_endpoints(&key("web"));
    assert_eq!(
        due(&unseen),
        ["endpoints web", "mirror web"],
        "deleted before it was ever seen"
    );
    assert!(!cache.endpoints_are_written(&key("web")));
}

#[test]
fn a_leader_election_record_is_never_due() {
    let mut cache = Cache::default();
    let mut record = mk_endpoints("old-elector", 1);
    record.metadata.annotations = labels(&[(names::LEADER, "{}")]);
    assert_eq!(due(&cache.apply_endpoints(record)), [""; 0]);
}

#[test]
fn endpoints_that_become_a_leader_election_record_are_due_once_for_their_mirror_to_go() {
    let mut cache = Cache::default();
    cache.apply_service(mk_service("web", 1, None));
    assert!(due(&cache.apply_endpoints(mk_endpoints("web", 1))).contains(&"mirror web".to_owned()));
    let record = |version| {
        let mut record = mk_endpoints("web", version);
        record.metadata.annotations = labels(&[(names::LEADER, "{}")]);
        record
    };
    assert_eq!(due(&cache.apply_endpoints(record(2))), ["mirror web"]);
    assert_eq!(due(&cache.apply_endpoints(record(3))), [""; 0], "renewed");
}

#[test]
fn a_service_is_behind_until_the_watch_shows_our_status_write() {
    let mut cache = Cache::default();
    cache.apply_service(mk_service("web", 1, Some("web")));
    cache.status_written(&key("web"), Some("1"), Some("1"));
    assert!(
        !cache.status_is_behind(&key("web")),
        "a write that changed nothing"
    );
    cache.status_written(&key("web"), Some("1"), Some("2"));
    assert!(cache.status_is_behind(&key("web")));
    cache.apply_service(mk_service("web", 2, Some("web")));
    assert!(!cache.status_is_behind(&key("web")));
}

#[test]
fn of_a_services_annotations_those_are_kept_that_a_plan_depends_on() {
    let mut cache = Cache::default();
    let mut service = mk_service("web", 1, Some("web"));
    let read = [
        "service.kubernetes.io/topology-mode",
        "service.kubernetes.io/topology-aware-hints",
        "berth.dev/load-balancer-ips",
        "metallb.io/loadBalancerIPs",
        "metallb.universe.tf/loadBalancerIPs",
        "berth.dev/address-pool",
        "metallb.io/address-pool",
        "metallb.universe.tf/address-pool",
    ];
    let read = read.map(|name| (name, "a"));
    let others = [(names::LAST_APPLIED, "{...}"), ("team", "a")];
    service.metadata.annotations = labels(&[&read[..], &others].concat());
    cache.apply_service(service.clone());
    let kept = |cache: &Cache| cache.service(&key("web")).unwrap().metadata.annotations.clone();
    assert_eq!(kept(&cache), labels(&read));
    service.metadata.annotations = labels(&others);
    service.metadata.resource_version = Some("2".to_owned());
    cache.apply_service(service);
    assert_eq!(kept(&cache), None);
}
