// SPDX-License-Identifier: Apache-2.0
//! What a scrape shows: names, types, labels and values as dashboards made for upstream expect them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_controllers_core::mirror::{MirrorInput, plan_mirror};
use berth_controllers_core::slices::topology::{HintState, ZoneShares};
use berth_controllers_core::slices::{NodeFacts, Nodes, SliceInput, SliceOptions, plan_slices};
use berth_model::ServiceKey;
use berth_runtime::metrics::Metrics as Registry;
use berth_runtime::queue::{Policy, Queue};
use berth_snapshot::pod::{Pod, PodManifest, PodSpec, PodStatus};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointSubset, Endpoints, PodIP, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

/// One scrape: types by family, values by sample.
struct Page {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Page {
    fn of(registry: &Registry) -> Self {
        let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
        for line in registry.render().lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                samples.insert(sample.to_owned(), value.parse().unwrap());
            }
        }
        Self { types, samples }
    }

    fn check(&self, rows: &[(&str, f64)]) {
        for (sample, expected) in rows {
            assert_eq!(
                self.samples.get(*sample),
                Some(expected),
                "{sample} in {:#?}",
                self.samples
            );
        }
    }
}

fn mk_registry() -> (Registry, Metrics) {
    let registry = Registry::new("controllers", "test");
    let metrics = registry.register(Metrics::register);
    (registry, metrics)
}

fn mk_meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("shop".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{name}")),
        ..ObjectMeta::default()
    }
}

fn mk_service(name: &str, families: &[&str], distribution: Option<&str>) -> Service {
    Service {
        metadata: mk_meta(name),
        spec: Some(ServiceSpec {
            selector: Some(BTreeMap::from([("app".to_owned(), name.to_owned())])),
            ip_families: Some(families.iter().map(|family| (*family).to_owned()).collect()),
            traffic_distribution: distribution.map(str::to_owned),
            ports: Some(vec![ServicePort {
                port: 80,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Dual-stack, on a known Node.
fn mk_pods(count: u16) -> Vec<Arc<Pod>> {
    let pods = (0..count).map(|n| PodManifest {
        metadata: mk_meta(&format!("web-{n}")),
        spec: PodSpec {
            node_name: Some("node-1".into()),
            ..PodSpec::default()
        },
        status: PodStatus {
            pod_ips: vec![
                mk_ip(&format!("10.0.{}.{}", n / 250, n % 250)),
                mk_ip(&format!("fd00::{n:x}")),
            ],
            ..PodStatus::default()
        },
    });
    pods.map(|manifest| Arc::new(manifest.into())).collect()
}

fn mk_ip(ip: &str) -> PodIP {
    PodIP { ip: ip.to_owned() }
}

fn mk_endpoints(name: &str, ips: &[&str]) -> Endpoints {
    let addresses = ips.iter().map(|ip| EndpointAddress {
        ip: (*ip).to_owned(),
        ..EndpointAddress::default()
    });
    Endpoints {
        metadata: mk_meta(name),
        subsets: Some(vec![EndpointSubset {
            addresses: Some(addresses.collect()),
            ..EndpointSubset::default()
        }]),
    }
}

fn turn(metrics: &Metrics, service: &Service, pods: &[Arc<Pod>]) {
    let nodes = Nodes::from([("node-1".into(), NodeFacts::default())]);
    let plan = plan_slices(&SliceInput {
        service,
        pods,
        nodes: &nodes,
        existing: &[],
        trigger_time: None,
        options: SliceOptions::default(),
        shares: &ZoneShares::default(),
        hints: &HintState::default(),
    });
    let key = ServiceKey::new("shop", service.metadata.name.as_deref().unwrap());
    metrics.slices.planned(&key, &plan);
    for _ in &plan.writes.create {
        metrics.slice_changed(Writes::Slices, Operation::Create);
    }
    metrics
        .slices
        .settled(plan.routing, &changed_by_family(&plan, &[]));
    metrics.sync(Controller::EndpointSlices, "success");
}

#[test]
fn slice_metrics_are_scraped_as_upstreams() {
    let (registry, metrics) = mk_registry();
    let dual = mk_service("web", &["IPv4", "IPv6"], Some("PreferClose"));
    turn(&metrics, &dual, &mk_pods(150));
    turn(&metrics, &mk_service("api", &["IPv4"], None), &mk_pods(3));
    turn(&metrics, &mk_service("none", &["IPv4"], None), &[]);
    metrics.slice_changed(Writes::Slices, Operation::Update);
    metrics.slice_changed(Writes::Slices, Operation::Delete);
    metrics.sync(Controller::EndpointSlices, "stale");
    metrics.sync(Controller::EndpointSlices, "error");
    metrics.sync(Controller::Endpoints, "error");
    let page = Page::of(&registry);
    page.check(&[
        ("endpoint_slice_controller_endpoints_desired", 303.0),
        ("endpoint_slice_controller_num_endpoint_slices", 6.0),
        ("endpoint_slice_controller_desired_endpoint_slices", 6.0),
        ("endpoint_slice_controller_endpoints_added_per_sync_sum", 303.0),
        ("endpoint_slice_controller_endpoints_added_per_sync_count", 4.0),
        ("endpoint_slice_controller_endpoints_added_per_sync_bucket{le=\"2\"}", 1.0),
        ("endpoint_slice_controller_endpoints_added_per_sync_bucket{le=\"4\"}", 2.0),
        ("endpoint_slice_controller_endpoints_added_per_sync_bucket{le=\"32768\"}", 4.0),
        ("endpoint_slice_controller_endpoints_removed_per_sync_count", 4.0),
        ("endpoint_slice_controller_changes{operation=\"create\"}", 6.0),
        ("endpoint_slice_controller_changes{operation=\"update\"}", 1.0),
        ("endpoint_slice_controller_changes{operation=\"delete\"}", 1.0),
        ("endpoint_slice_controller_syncs{result=\"success\"}", 3.0),
        ("endpoint_slice_controller_syncs{result=\"stale\"}", 1.0),
        ("endpoint_slice_controller_syncs{result=\"error\"}", 1.0),
        (
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferClose\"}",
            1.0,
        ),
        (
            "endpoint_slice_controller_endpointslices_changed_per_sync_sum{topology=\"Disabled\",traffic_distribution=\"PreferClose\"}",
            4.0,
        ),
        (
            "endpoint_slice_controller_endpointslices_changed_per_sync_count{topology=\"Disabled\",traffic_distribution=\"PreferClose\"}",
            2.0,
        ),
    ]);
    metrics.slices.forget(&ServiceKey::new("shop", "web"));
    Page::of(&registry).check(&[
        ("endpoint_slice_controller_endpoints_desired", 3.0),
        (
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferClose\"}",
            0.0,
        ),
    ]);
}

#[test]
fn mirroring_metrics_are_scraped_as_upstreams() {
    let (registry, metrics) = mk_registry();
    let key = ServiceKey::new("shop", "db");
    let endpoints = mk_endpoints("db", &["10.0.0.1", "fd00::1", "nonsense"]);
    let service = Service {
        metadata: mk_meta("db"),
        ..Service::default()
    };
    let plan = plan_mirror(&MirrorInput {
        key: &key,
        endpoints: Some(&endpoints),
        service: Some(&service),
        existing: &[],
        max_endpoints: 1000,
    });
    metrics.mirror.planned(&key, &plan);
    metrics.mirror.took(Duration::from_millis(3));
    metrics.slice_changed(Writes::Mirror, Operation::Create);
    Page::of(&registry).check(&[
        ("endpoint_slice_mirroring_controller_endpoints_desired", 2.0),
        ("endpoint_slice_mirroring_controller_num_endpoint_slices", 2.0),
        ("endpoint_slice_mirroring_controller_desired_endpoint_slices", 2.0),
        (
            "endpoint_slice_mirroring_controller_endpoints_added_per_sync_sum",
            2.0,
        ),
        (
            "endpoint_slice_mirroring_controller_endpoints_updated_per_sync_count",
            1.0,
        ),
        (
            "endpoint_slice_mirroring_controller_endpoints_removed_per_sync_count",
            1.0,
        ),
        (
            "endpoint_slice_mirroring_controller_addresses_skipped_per_sync_sum",
            1.0,
        ),
        (
            "endpoint_slice_mirroring_controller_endpoints_sync_duration_bucket{le=\"0.004\"}",
            1.0,
        ),
        (
            "endpoint_slice_mirroring_controller_endpoints_sync_duration_bucket{le=\"0.002\"}",
            0.0,
        ),
        (
            "endpoint_slice_mirroring_controller_changes{operation=\"create\"}",
            1.0,
        ),
    ]);
    metrics.mirror.forget(&key);
    Page::of(&registry).check(&[("endpoint_slice_mirroring_controller_num_endpoint_slices", 0.0)]);
}

/// Families and types, as upstream declares them.
const FAMILIES: [(&str, &str); 23] = [
    ("endpoint_slice_controller_endpoints_added_per_sync", "histogram"),
    (
        "endpoint_slice_controller_endpoints_removed_per_sync",
        "histogram",
    ),
    ("endpoint_slice_controller_endpoints_desired", "gauge"),
    ("endpoint_slice_controller_num_endpoint_slices", "gauge"),
    ("endpoint_slice_controller_desired_endpoint_slices", "gauge"),
    ("endpoint_slice_controller_changes", "counter"),
    (
        "endpoint_slice_controller_endpointslices_changed_per_sync",
        "histogram",
    ),
    ("endpoint_slice_controller_syncs", "counter"),
    (
        "endpoint_slice_controller_services_count_by_traffic_distribution",
        "gauge",
    ),
    (
        "endpoint_slice_mirroring_controller_endpoints_added_per_sync",
        "histogram",
    ),
    (
        "endpoint_slice_mirroring_controller_endpoints_updated_per_sync",
        "histogram",
    ),
    (
        "endpoint_slice_mirroring_controller_endpoints_removed_per_sync",
        "histogram",
    ),
    (
        "endpoint_slice_mirroring_controller_addresses_skipped_per_sync",
        "histogram",
    ),
    (
        "endpoint_slice_mirroring_controller_endpoints_sync_duration",
        "histogram",
    ),
    ("endpoint_slice_mirroring_controller_endpoints_desired", "gauge"),
    ("endpoint_slice_mirroring_controller_num_endpoint_slices", "gauge"),
    (
        "endpoint_slice_mirroring_controller_desired_endpoint_slices",
        "gauge",
    ),
    ("endpoint_slice_mirroring_controller_changes", "counter"),
    ("workqueue_depth", "gauge"),
    ("workqueue_adds_total", "counter"),
    ("workqueue_retries_total", "counter"),
    ("workqueue_queue_duration_seconds", "histogram"),
    ("workqueue_work_duration_seconds", "histogram"),
];

#[test]
fn every_family_of_upstreams_has_upstreams_type() {
    let (registry, metrics) = mk_registry();
    turn(&metrics, &mk_service("web", &["IPv4"], Some("PreferClose")), &[]);
    metrics.slice_changed(Writes::Mirror, Operation::Create);
    let queue: Queue<u8> = Queue::reporting(
        Policy::simple(berth_runtime::backoff::Backoff::CONNECT),
        "endpoint",
        &metrics.queues,
    );
    queue.add(1);
    let page = Page::of(&registry);
    for (family, kind) in FAMILIES {
        assert_eq!(page.types.get(family).map(String::as_str), Some(kind), "{family}");
    }
    page.check(&[("workqueue_depth{name=\"endpoint\"}", 1.0)]);
}
