// SPDX-License-Identifier: Apache-2.0
//! What Endpoints and EndpointSlices must say, by a model that knows no efficiency: every Service looks at every Pod.
//!
//! It shares no code with the planners. Facts are lines of text, one per address and what belongs to it, so that lost,
//! doubled and wrong ones all show as a difference of two sorted lists.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::MAX_ENDPOINTS;

const BY_SELECTOR: &str = "endpointslice-controller.k8s.io";
const BY_MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Everything in some namespaces, as listed.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// All of the cluster.
    pub nodes: Vec<Node>,
    /// Services.
    pub services: Vec<Service>,
    /// Pods.
    pub pods: Vec<Pod>,
    /// Endpoints.
    pub endpoints: Vec<Endpoints>,
    /// Slices.
    pub slices: Vec<EndpointSlice>,
}

impl Observed {
    /// Everything that is not as it must be, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for service in &self.services {
            let key = key(
                service.metadata.namespace.as_ref(),
                service.metadata.name.as_ref(),
            );
            self.judge_slices(&key, service, &mut faults);
            if selector(service).is_some() {
                let (expected, actual) = (self.expected_endpoints(service), self.actual_endpoints(&key));
                compare(&format!("Endpoints {key}"), expected, actual, &mut faults);
            }
        }
        self.find_leftovers(&mut faults);
        faults
    }

    /// How many Endpoints and slices there are.
    pub fn objects(&self) -> usize {
        self.endpoints.len() + self.slices.len()
    }

    fn find_leftovers(&self, faults: &mut Vec<String>) {
        let services: BTreeMap<String, &Service> = self
            .services
            .iter()
            .map(|service| {
                (
                    key(
                        service.metadata.namespace.as_ref(),
                        service.metadata.name.as_ref(),
                    ),
                    service,
                )
            })
            .collect();
        for endpoints in &self.endpoints {
            let key = key(
                endpoints.metadata.namespace.as_ref(),
                endpoints.metadata.name.as_ref(),
            );
            if !services.contains_key(&key) {
                faults.push(format!("Endpoints {key}: left over, there is no such Service"));
            }
        }
        for slice in &self.slices {
            let service = key(slice.metadata.namespace.as_ref(), label(slice, SERVICE_NAME));
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            if !services.contains_key(&service) {
                faults.push(format!("slice {name}: left over, there is no Service {service}"));
            }
        }
    }

    fn judge_slices(&self, key: &str, service: &Service, faults: &mut Vec<String>) {
        let by_hand = selector(service).is_none();
        let uid = service.metadata.uid.as_deref();
        let all: Vec<&EndpointSlice> = self.slices.iter().filter(|slice| of(slice, key)).collect();
        for slice in &all {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            let owners = slice.metadata.owner_references.as_deref().unwrap_or_default();
            let owner = owners.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>();
            // Mirrored slices belong to the Endpoints.
            let uid = if by_hand { self.uid_of_endpoints(key) } else { uid };
            if owner != uid.into_iter().collect::<Vec<_>>() {
                faults.push(format!("slice {name} of {key}: owned by {owner:?}, not {uid:?}"));
            }
            let manager = if by_hand { BY_MIRROR } else { BY_SELECTOR };
            if label(slice, MANAGED_BY).map(String::as_str) != Some(manager) {
                faults.push(format!(
                    "slice {name} of {key}: managed by {:?}",
                    label(slice, MANAGED_BY)
                ));
            }
            let count = slice.endpoints.as_ref().map_or(0, Vec::len);
            if !by_hand && count > MAX_ENDPOINTS {
                faults.push(format!("slice {name} of {key}: {count} endpoints"));
            }
        }
        for family in ["IPv4", "IPv6"] {
            let slices: Vec<&EndpointSlice> = all
                .iter()
                .copied()
                .filter(|slice| slice.address_type == family)
                .collect();
            let expected = if by_hand {
                self.expected_mirror(key, family)
            } else {
                self.expected_slices(service, family)
            };
            let served = families(service).iter().any(|served| served == family);
            let empty = slices
                .iter()
                .filter(|slice| slice.endpoints.as_ref().is_none_or(Vec::is_empty));
            let (empty, total) = (empty.count(), slices.len());
            let wanted = usize::from(expected.is_empty() && served && !by_hand);
            if empty != wanted || (wanted == 1 && total != 1) {
                faults.push(format!(
                    "{key}, {family}: {empty} empty slices of {total}, not {wanted}"
                ));
            }
            let actual = slices
                .iter()
                .flat_map(|slice| slice_facts(slice, by_hand))
                .collect();
            compare(&format!("slices of {key}, {family}"), expected, actual, faults);
        }
    }

    fn expected_slices(&self, service: &Service, family: &str) -> Vec<String> {
        if !families(service).iter().any(|served| served == family) {
            return Vec::new();
        }
        let publish = publishes_not_ready(service);
        let mut facts = Vec::new();
        for pod in self.selected(service) {
            let Some(node) = self.node_of(pod) else { continue };
            let (serving, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
            let ready = publish || (serving && !terminating);
            let mut ports: Vec<String> = service_ports(service)
                .iter()
                .filter_map(|port| {
                    Some(format!(
                        "{}:{}/{}",
                        port.name.as_deref()?,
                        target(port, pod)?,
                        protocol(port)
                    ))
                })
                .collect();
            ports.sort();
            let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE));
            for address in addresses(pod, family) {
                facts.push(format!(
                    "{address} {ports:?} ready={ready} serving={serving} terminating={terminating} {} {} {}",
                    node.metadata.name.as_deref().unwrap_or_default(),
                    zone.map_or("-", String::as_str),
                    target_of(pod),
                ));
            }
        }
        facts
    }

    fn expected_endpoints(&self, service: &Service) -> Vec<String> {
        let publish = publishes_not_ready(service);
        let family = families(service).into_iter().next().unwrap_or_default();
        let mut facts = Vec::new();
        for pod in self.selected(service) {
            if pod.metadata.deletion_timestamp.is_some() && !publish {
                continue;
            }
            let Some(address) = addresses(pod, &family).into_iter().next() else {
                continue;
            };
            let ready = publish || is_ready(pod);
            for port in service_ports(service) {
                if let Some(number) = target(&port, pod) {
                    let name = port.name.as_deref().unwrap_or_default();
                    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                    facts.push(format!(
                        "{address} {name}:{number}/{} ready={ready} {} {}",
                        protocol(&port),
                        node.unwrap_or_default(),
                        target_of(pod)
                    ));
                }
            }
        }
        facts
    }

    fn actual_endpoints(&self, wanted: &str) -> Vec<String> {
        let mut facts = Vec::new();
        let found = self.endpoints.iter().filter(|endpoints| {
            key(
                endpoints.metadata.namespace.as_ref(),
                endpoints.metadata.name.as_ref(),
            ) == wanted
        });
        for subset in found.flat_map(|endpoints| endpoints.subsets.iter().flatten()) {
            let ready = subset.addresses.iter().flatten().map(|address| (address, true));
            let not_ready = subset
                .not_ready_addresses
                .iter()
                .flatten()
                .map(|address| (address, false));
            for (address, ready) in ready.chain(not_ready) {
                for port in subset.ports.iter().flatten() {
                    let target = address.target_ref.as_ref();
                    facts.push(format!(
                        "{} {}:{}/{} ready={ready} {} {}/{}",
                        address.ip,
                        port.name.as_deref().unwrap_or_default(),
                        port.port,
                        port.protocol.as_deref().unwrap_or("TCP"),
                        address.node_name.as_deref().unwrap_or_default(),
                        target
                            .and_then(|target| target.name.as_deref())
                            .unwrap_or_default(),
                        target
                            .and_then(|target| target.uid.as_deref())
                            .unwrap_or_default(),
                    ));
                }
            }
        }
        facts
    }

    fn expected_mirror(&self, wanted: &str, family: &str) -> Vec<String> {
        let mut facts = Vec::new();
        let found = self.endpoints.iter().filter(|endpoints| {
            key(
                endpoints.metadata.namespace.as_ref(),
                endpoints.metadata.name.as_ref(),
            ) == wanted
        });
        for subset in found.flat_map(|endpoints| endpoints.subsets.iter().flatten()) {
            let mut ports: Vec<String> = subset
                .ports
                .iter()
                .flatten()
                .map(|port| {
                    let protocol = port.protocol.as_deref().unwrap_or("TCP");
                    format!(
                        "{}:{}/{protocol}",
                        port.name.as_deref().unwrap_or_default(),
                        port.port
                    )
                })
                .collect();
            ports.sort();
            for address in subset.addresses.iter().flatten() {
                if address.ip.contains(':') == (family == "IPv6") {
                    facts.push(format!("{} {ports:?} ready=true", address.ip));
                }
            }
        }
        facts
    }

    fn uid_of_endpoints(&self, wanted: &str) -> Option<&str> {
        self.endpoints
            .iter()
            .find(|endpoints| {
                key(
                    endpoints.metadata.namespace.as_ref(),
                    endpoints.metadata.name.as_ref(),
                ) == wanted
            })
            .and_then(|endpoints| endpoints.metadata.uid.as_deref())
    }

    /// Pods that the Service selects and that have not ended.
    fn selected<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Pod> {
        let wanted = selector(service);
        self.pods.iter().filter(move |pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let labels = pod.metadata.labels.as_ref();
            pod.metadata.namespace == service.metadata.namespace
                && !matches!(phase, Some("Failed" | "Succeeded"))
                && wanted.is_some_and(|wanted| {
                    wanted
                        .iter()
                        .all(|(name, value)| labels.is_some_and(|labels| labels.get(name) == Some(value)))
                })
        })
    }

    fn node_of(&self, pod: &Pod) -> Option<&Node> {
        let name = pod.spec.as_ref()?.node_name.as_ref()?;
        self.nodes
            .iter()
            .find(|node| node.metadata.name.as_ref() == Some(name))
    }
}

fn compare(what: &str, mut expected: Vec<String>, mut actual: Vec<String>, faults: &mut Vec<String>) {
    expected.sort();
    actual.sort();
    if expected == actual {
        return;
    }
    let count = |list: &[String], line: &String| list.iter().filter(|other| *other == line).count();
    let mut lines: Vec<&String> = expected.iter().chain(&actual).collect();
    lines.sort();
    lines.dedup();
    let mut told = 0;
    for line in lines {
        let (wanted, found) = (count(&expected, line), count(&actual, line));
        if wanted != found && told < 3 {
            told += 1;
            faults.push(format!("{what}: {found} times instead of {wanted}: {line}"));
        }
    }
}

fn slice_facts(slice: &EndpointSlice, by_hand: bool) -> Vec<String> {
    let mut ports: Vec<String> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| {
            format!(
                "{}:{}/{}",
                port.name.as_deref().unwrap_or_default(),
                port.port.unwrap_or_default(),
                port.protocol.as_deref().unwrap_or("TCP")
            )
        })
        .collect();
    ports.sort();
    let mut facts = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let said =
            |condition: Option<bool>| condition.map_or("unsaid", |is| if is { "true" } else { "false" });
        for address in &endpoint.addresses {
            let ready = said(conditions.ready);
            if by_hand {
                facts.push(format!("{address} {ports:?} ready={ready}"));
                continue;
            }
            let target = endpoint.target_ref.as_ref();
            facts.push(format!(
                "{address} {ports:?} ready={ready} serving={} terminating={} {} {} {}/{}",
                said(conditions.serving),
                said(conditions.terminating),
                endpoint.node_name.as_deref().unwrap_or_default(),
                endpoint.zone.as_deref().unwrap_or("-"),
                target
                    .and_then(|target| target.name.as_deref())
                    .unwrap_or_default(),
                target
                    .and_then(|target| target.uid.as_deref())
                    .unwrap_or_default(),
            ));
        }
    }
    facts
}

fn key(namespace: Option<&String>, name: Option<&String>) -> String {
    let text = |part: Option<&String>| part.cloned().unwrap_or_default();
    format!("{}/{}", text(namespace), text(name))
}

fn of(slice: &EndpointSlice, service: &str) -> bool {
    key(slice.metadata.namespace.as_ref(), label(slice, SERVICE_NAME)) == service
}

fn label<'a>(slice: &'a EndpointSlice, name: &str) -> Option<&'a String> {
    slice.metadata.labels.as_ref().and_then(|labels| labels.get(name))
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref().and_then(|spec| spec.selector.as_ref())
}

fn families(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_default()
}

fn publishes_not_ready(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.publish_not_ready_addresses == Some(true))
}

fn service_ports(service: &Service) -> Vec<ServicePort> {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.clone())
        .unwrap_or_default()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            containers
                .flat_map(|container| container.ports.iter().flatten())
                .find(|found| found.name.as_ref() == Some(name))
                .map(|found| found.container_port)
        }
        None => Some(port.port),
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn addresses(pod: &Pod, family: &str) -> Vec<String> {
    let all = pod
        .status
        .iter()
        .flat_map(|status| status.pod_ips.iter().flatten());
    all.map(|ip| ip.ip.clone())
        .filter(|ip| ip.contains(':') == (family == "IPv6"))
        .collect()
}

fn target_of(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}/{}",
        meta.name.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    )
}
