// SPDX-License-Identifier: Apache-2.0

use berth_snapshot::pod::PodManifest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::*;
use crate::fixtures::{at, mk_condition, mk_labels, mk_manifest, mk_pod};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn index(services: &[(&str, &[(&str, &str)])]) -> SelectorIndex {
    let mut index = SelectorIndex::default();
    for (name, selector) in services {
        index.insert(&key(name), Some(&mk_labels(selector)));
    }
    index
}

fn labelled(labels: &[(&str, &str)]) -> Pod {
    let mut pod = mk_manifest(1);
    pod.metadata.labels = Some(mk_labels(labels));
    pod.into()
}

fn names(keys: &BTreeSet<ServiceKey>) -> Vec<&str> {
    keys.iter().map(ServiceKey::name).collect()
}

#[test]
fn a_service_selects_pods_that_carry_all_its_pairs_in_its_namespace() {
    let mut index = index(&[
        ("web", &[("app", "web")]),
        ("canary", &[("app", "web"), ("track", "canary")]),
        ("api", &[("app", "api")]),
    ]);
    index.insert(
        &ServiceKey::new("other", "web"),
        Some(&mk_labels(&[("app", "web")])),
    );
    let of = |labels: &[(&str, &str)]| index.services_of("shop", &labels.iter().copied().collect());
    assert_eq!(names(&of(&[("app", "web")])), ["web"]);
    assert_eq!(
        names(&of(&[("app", "web"), ("track", "canary")])),
        ["canary", "web"]
    );
    assert_eq!(names(&of(&[("track", "canary")])), [""; 0]);
    assert!(index.services_of("shop", &LabelSet::default()).is_empty());
    assert!(
        index
            .services_of("nowhere", &[("app", "web")].into_iter().collect())
            .is_empty()
    );
}

#[test]
fn no_selector_and_an_empty_one_select_nothing() {
    let mut index = index(&[("empty", &[])]);
    index.insert(&key("none"), None);
    assert!(
        index
            .services_of("shop", &[("app", "web")].into_iter().collect())
            .is_empty()
    );
    let mut pods = PodIndex::default();
    pods.insert(Arc::new(mk_pod(1)));
    assert!(pods.select("shop", &Labels::new()).is_empty());
}

#[test]
fn a_pod_looks_at_few_services_though_they_all_share_a_pair() {
    let mut index = SelectorIndex::default();
    for number in 0..1_000 {
        let selector = mk_labels(&[("app", "web"), ("shard", &number.to_string())]);
        index.insert(&key(&format!("web-{number}")), Some(&selector));
    }
    let labels = LabelSet::from_iter([("app", "web"), ("shard", "7"), ("zone", "a")]);
    let looked_at = index.namespaces["shop"].candidates(&labels).count();
    assert!(looked_at <= 2, "{looked_at} of 1,000");
    assert_eq!(names(&index.services_of("shop", &labels)), ["web-7"]);
}

/// The Pod with a change.
fn with(pod: &Pod, edit: impl FnOnce(&mut PodManifest)) -> Option<Pod> {
    let mut pod = PodManifest::from(pod);
    edit(&mut pod);
    Some(pod.into())
}

fn unready(pod: &mut PodManifest) {
    pod.status.conditions = vec![mk_condition(false)];
}

#[test]
fn a_pod_change_reaches_the_services_that_it_matters_to() {
    let index = index(&[
        ("web", &[("app", "web")]),
        ("canary", &[("track", "canary")]),
        ("api", &[("app", "api")]),
    ]);
    let web = labelled(&[("app", "web")]);
    let both = labelled(&[("app", "web"), ("track", "canary")]);
    let same = |pod: &Pod| Some(pod.clone());
    let version = |pod: &mut PodManifest| pod.metadata.resource_version = Some("7".to_owned());
    let renamed = |pod: &mut PodManifest| pod.spec.hostname = Some("x".to_owned());
    let failed = |pod: &mut PodManifest| pod.status.phase = Some("Failed".to_owned());
    let terminating = |pod: &mut PodManifest| pod.metadata.deletion_timestamp = Some(Time(at(300)));
    let readdressed = |pod: &mut PodManifest| pod.status.pod_ips.truncate(1);
    let resynced = |pod: &mut PodManifest| {
        version(pod);
        unready(pod);
    };
    type Row<'a> = (&'a str, [Option<Pod>; 2], &'a [&'a str]);
    let rows: [Row<'_>; 11] = [
        ("added", [None, same(&both)], &["canary", "web"]),
        ("deleted", [same(&both), None], &["canary", "web"]),
        ("unchanged", [same(&web), same(&web)], &[]),
        (
            "ready flips",
            [same(&both), with(&both, unready)],
            &["canary", "web"],
        ),
        (
            "labels only: the difference",
            [same(&web), same(&both)],
            &["canary"],
        ),
        (
            "labels and readiness: the union",
            [same(&both), with(&web, unready)],
            &["canary", "web"],
        ),
        ("host name", [same(&web), with(&web, renamed)], &["web"]),
        ("phase", [same(&web), with(&web, failed)], &["web"]),
        ("termination", [same(&web), with(&web, terminating)], &["web"]),
        ("addresses", [same(&web), with(&web, readdressed)], &["web"]),
        ("a resync", [with(&web, version), with(&web, resynced)], &[]),
    ];
    for (name, [old, new], expected) in rows {
        assert_eq!(
            names(&index.affected(old.as_ref(), new.as_ref())),
            expected,
            "{name}"
        );
    }
}

#[test]
fn the_pod_index_gives_back_what_it_replaces_and_forgets_what_is_removed() {
    let mut pods = PodIndex::default();
    let first = Arc::new(mk_pod(1));
    assert_eq!(pods.insert(Arc::clone(&first)), None);
    let second = Arc::new(labelled(&[("app", "api")]));
    assert_eq!(pods.insert(Arc::clone(&second)), Some(first));
    assert!(pods.select("shop", &mk_labels(&[("app", "web")])).is_empty());
    assert_eq!(
        pods.select("shop", &mk_labels(&[("app", "api")])),
        [Arc::clone(&second)]
    );
    assert_eq!((pods.len(), pods.get("shop", "web-1")), (1, Some(&second)));
    assert_eq!(pods.remove("shop", "web-1"), Some(second));
    assert_eq!(pods.remove("shop", "web-1"), None);
    assert!(pods.is_empty() && pods.iter().next().is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Pod(u8, Labels),
    NoPod(u8),
    Service(u8, Labels),
    NoService(u8),
}

fn labels() -> impl Strategy<Value = Labels> {
    let pair = (
        prop::sample::select(vec!["a", "b", "c"]),
        prop::sample::select(vec!["1", "2"]),
    );
    prop::collection::vec(pair, 0..4).prop_map(|pairs| mk_labels(&pairs))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..8, labels()).prop_map(|(pod, labels)| Step::Pod(pod, labels)),
        1 => (0u8..8).prop_map(Step::NoPod),
        4 => (0u8..8, labels()).prop_map(|(service, labels)| Step::Service(service, labels)),
        1 => (0u8..8).prop_map(Step::NoService),
    ]
}

/// Odd ones live in one namespace, even ones in another.
fn namespace(number: u8) -> &'static str {
    if number.is_multiple_of(2) { "even" } else { "odd" }
}

fn service(number: u8) -> ServiceKey {
    ServiceKey::new(namespace(number), format!("service-{number}"))
}

#[derive(Default)]
struct Both {
    services: SelectorIndex,
    pods: PodIndex,
    all_services: BTreeMap<u8, Labels>,
    all_pods: BTreeMap<u8, Labels>,
}

impl Both {
    fn play(&mut self, step: Step) {
        match step {
            Step::Pod(number, labels) => {
                let mut pod = mk_manifest(u16::from(number));
                pod.metadata.namespace = Some(namespace(number).to_owned());
                pod.metadata.labels = Some(labels.clone());
                self.pods.insert(Arc::new(pod.into()));
                self.all_pods.insert(number, labels);
            }
            Step::NoPod(number) => {
                self.pods.remove(namespace(number), &format!("web-{number}"));
                self.all_pods.remove(&number);
            }
            Step::Service(number, labels) => {
                self.services.insert(&service(number), Some(&labels));
                self.all_services.insert(number, labels);
            }
            Step::NoService(number) => {
                self.services.remove(&service(number));
                self.all_services.remove(&number);
            }
        }
    }

    /// By scanning everything.
    fn pairs(&self) -> BTreeSet<(u8, u8)> {
        let services = self.all_services.iter();
        services
            .flat_map(|(service, selector)| {
                let pods = self.all_pods.iter();
                pods.filter(move |(pod, labels)| {
                    namespace(**pod) == namespace(*service)
                        && !selector.is_empty()
                        && selector
                            .iter()
                            .all(|pair| labels.iter().any(|found| found == pair))
                })
                .map(move |(pod, _)| (*service, *pod))
            })
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn both_indices_agree_with_a_scan(steps in prop::collection::vec(step(), 1..40)) {
        let mut both = Both::default();
        for step in steps {
            both.play(step);
        }
        let scanned = both.pairs();
        let mut by_pod = BTreeSet::new();
        for (pod, labels) in &both.all_pods {
            for key in both.services.services_of(namespace(*pod), &labels.iter().collect()) {
                by_pod.insert((key.name()["service-".len()..].parse::<u8>().unwrap(), *pod));
            }
        }
        prop_assert_eq!(&by_pod, &scanned);
        let mut by_service = BTreeSet::new();
        for (service, selector) in &both.all_services {
            for pod in both.pods.select(namespace(*service), selector) {
                let name = pod.name();
                by_service.insert((*service, name["web-".len()..].parse::<u8>().unwrap()));
            }
        }
        prop_assert_eq!(&by_service, &scanned);
        prop_assert_eq!(both.pods.len(), both.all_pods.len());
        prop_assert_eq!(both.pods.iter().count(), both.all_pods.len());
    }

    #[test]
    fn nothing_is_left_behind_when_all_is_removed(steps in prop::collection::vec(step(), 1..40)) {
        let mut both = Both::default();
        for step in steps {
            both.play(step);
        }
        for number in 0..8 {
            both.play(Step::NoPod(number));
            both.play(Step::NoService(number));
        }
        prop_assert!(both.services.namespaces.is_empty());
        prop_assert!(both.pods.namespaces.is_empty());
    }
}
