// SPDX-License-Identifier: Apache-2.0
//! Services, slices, the own Node and ServiceCIDRs out of a file, in place of the API server's watches: for nodes that no control plane
//! reaches, and to try rules out. The file is looked at twice a second and read again when it is another.
//!
//! In: a file as `kubectl get services,endpointslices,nodes,servicecidrs -A -o yaml` writes it. Out: the events of the feed.
//! Touches: the file.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_runtime::manifest::{Manifest, ManifestError, manifests};
use berth_runtime::watch::{ObjectKey, WatchEvent};
use berth_snapshot::service_cidr::ServiceCidr;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Resource;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::feed::{BACKLOG, Event, HEADLESS_LABEL, PROXY_NAME_LABEL, Selection};

/// Between two looks at whether the file is another.
const LOOK: Duration = Duration::from_millis(500);

/// What a file has of what the proxy reads.
#[derive(Debug, Default)]
struct Objects {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    nodes: Vec<Node>,
    cidrs: Vec<ServiceCIDR>,
}

/// What is wrong with a file: all that was found, each with where it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {fault}; what it held before stays in force")]
pub(crate) struct StateFileError {
    path: String,
    fault: String,
}

/// Reads the file and goes on reading it. The events end when the receiver is dropped.
///
/// # Errors
/// The file cannot be read now. Later that is logged, and what was read before stays.
pub(crate) fn start(path: &Path, selection: &Selection) -> Result<mpsc::Receiver<Event>, StateFileError> {
    let mut seen = Stamp::of(path);
    let mut events = read(path, selection)?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let (path, selection) = (path.to_owned(), selection.clone());
    tokio::spawn(async move {
        loop {
            for event in events.drain(..) {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            let (now, next) = changed(&path, &selection, &seen, &sender).await;
            (seen, events) = (now, next);
            if sender.is_closed() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Waits until the file is another, and reads it; what cannot be read is said once.
async fn changed(
    path: &Path,
    selection: &Selection,
    seen: &Stamp,
    sender: &mpsc::Sender<Event>,
) -> (Stamp, Vec<Event>) {
    loop {
        tokio::select! {
            () = sender.closed() => return (seen.clone(), Vec::new()),
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = Stamp::of(path);
        if now == *seen {
            continue;
        }
        let events = read(path, selection).unwrap_or_else(|error| {
            tracing::error!(%error, "the state file is not taken");
            Vec::new()
        });
        return (now, events);
    }
}

/// Tells a file from what it was: also one that a rename put in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(Option<(u64, u64, i64, i64)>);

impl Stamp {
    fn of(path: &Path) -> Self {
        let of = |meta: std::fs::Metadata| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
        Self(std::fs::metadata(path).ok().map(of))
    }
}

fn read(path: &Path, selection: &Selection) -> Result<Vec<Event>, StateFileError> {
    let fault = |fault: String| StateFileError {
        path: format!("--state {}", path.display()),
        fault,
    };
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let objects = parse(&text).map_err(|error| fault(error.to_string()))?;
    tracing::info!(
        file = %PathBuf::from(path).display(),
        services = objects.services.len(),
        slices = objects.slices.len(),
        "state read"
    );
    Ok(events(objects, selection))
}

fn parse(text: &str) -> Result<Objects, ManifestError> {
    let mut objects = Objects::default();
    for manifest in manifests(text)? {
        match (manifest.api_version.as_str(), manifest.kind.as_str()) {
            ("v1", "Service") => objects.services.push(named(manifest)?),
            ("v1", "Node") => objects.nodes.push(named(manifest)?),
            ("discovery.k8s.io/v1", "EndpointSlice") => objects.slices.push(named(manifest)?),
            ("networking.k8s.io/v1", "ServiceCIDR") => objects.cidrs.push(named(manifest)?),
            _ => {}
        }
    }
    Ok(objects)
}

/// An object with a name and, if it is in one, a namespace: without, two of them would be one.
fn named<K: Resource<DynamicType = ()> + DeserializeOwned>(manifest: Manifest) -> Result<K, ManifestError> {
    if manifest.name.is_empty() {
        return Err(manifest.fault("metadata.name is missing"));
    }
    let mut object: K = manifest.typed()?;
    let kind = K::kind(&()).into_owned();
    if kind != "Node" && kind != "ServiceCIDR" {
        object
            .meta_mut()
            .namespace
            .get_or_insert_with(|| "default".to_owned());
    }
    Ok(object)
}

/// What the watches would have brought: what their selectors leave out, is left out here.
fn events(objects: Objects, selection: &Selection) -> Vec<Event> {
    let Objects {
        services,
        slices,
        nodes,
        cidrs,
    } = objects;
    let wanted = |service: &Service| {
        let name = service
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(PROXY_NAME_LABEL));
        let headless = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None");
        name == selection.service_proxy_name.as_ref() && !headless
    };
    let headless = |slice: &EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.contains_key(HEADLESS_LABEL))
    };
    let own = |node: &Node| node.metadata.name.as_deref() == Some(selection.node.as_str());
    let mut found = Vec::new();
    found.extend(of_kind(nodes.into_iter().filter(own), Event::Node));
    if selection.service_cidrs {
        found.extend(of_cidrs(cidrs));
    }
    found.extend(of_kind(services.into_iter().filter(wanted), Event::Service));
    found.extend(of_kind(
        slices.into_iter().filter(|slice| !headless(slice)),
        Event::Slice,
    ));
    found
}

/// A file has all that there are, if only none.
fn of_cidrs(cidrs: Vec<ServiceCIDR>) -> Vec<Event> {
    let keys: BTreeSet<ObjectKey> = cidrs.iter().map(ObjectKey::of).collect();
    let trimmed = cidrs.into_iter().map(|cidr| ServiceCidr {
        name: cidr.metadata.name.unwrap_or_default().into(),
        cidrs: cidr.spec.and_then(|spec| spec.cidrs).unwrap_or_default(),
    });
    let applied = trimmed.map(WatchEvent::Applied);
    let events = applied.chain([WatchEvent::Listed(keys)]);
    events.map(|event| Event::ServiceCidr(Box::new(event))).collect()
}

fn of_kind<K: Resource>(
    objects: impl Iterator<Item = K>,
    event: fn(Box<WatchEvent<K>>) -> Event,
) -> Vec<Event> {
    let mut keys = BTreeSet::new();
    let mut found = Vec::new();
    for object in objects {
        keys.insert(ObjectKey::of(&object));
        found.push(event(Box::new(WatchEvent::Applied(object))));
    }
    found.push(event(Box::new(WatchEvent::Listed(keys))));
    found
}

#[cfg(test)]
mod tests {
    use berth_model::NodeName;

    use super::*;
    use crate::feed::State;

    const FILE: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop}
  spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ports: [{name: http, port: 80, protocol: TCP}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  endpoints: [{addresses: [10.244.0.1], conditions: {ready: true}}]
  ports: [{name: http, port: 8080, protocol: TCP}]
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop, labels: {service.kubernetes.io/service-proxy-name: else}}
spec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2], ipFamilies: [IPv4], ports: [{port: 80}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: a}}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16]}
---
apiVersion: v1
kind: Pod
metadata: {name: what-no-proxy-reads}
"#;

    fn selection(name: Option<&str>) -> Selection {
        Selection {
            service_proxy_name: name.map(str::to_owned),
            node: NodeName::new("node-1"),
            service_cidrs: true,
        }
    }

    fn state(selection: &Selection) -> State {
        let mut state = State::default();
        for event in events(parse(FILE).unwrap(), selection) {
            state.accept(event);
        }
        state
    }

    #[test]
    fn a_file_is_as_good_as_the_watches_whose_selectors_it_keeps() {
        for (name, service) in [(None, "shop/web"), (Some("else"), "shop/other")] {
            let state = state(&selection(name));
            assert!(state.is_synced() && state.is_node_listed());
            let services: Vec<String> = state
                .index
                .view()
                .services
                .keys()
                .map(ToString::to_string)
                .collect();
            assert_eq!(services, [service]);
            assert!(state.node.is_some());
        }
        let other_mode = Selection {
            service_cidrs: false,
            ..selection(None)
        };
        assert_eq!(state(&other_mode).service_cidrs(), None);
        let state = state(&selection(None));
        assert_eq!(state.index.view().endpoints.len(), 1);
        assert_eq!(state.service_cidrs(), Some(vec!["10.96.0.0/16".parse().unwrap()]));
    }

    #[test]
    fn faults_name_document_object_and_field() {
        for (text, parts) in [
            ("kind: Service", vec!["document 1", "apiVersion"]),
            (
                "apiVersion: v1\nkind: Service\nmetadata: {}",
                vec!["Service", "metadata.name"],
            ),
            (
                "---\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: eighty}]}",
                vec!["Service \"web\"", "eighty"],
            ),
            (
                "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Node, metadata: {}}]",
                vec!["items[0]", "Node", "metadata.name"],
            ),
            ("a: [", vec!["not readable"]),
        ] {
            let fault = parse(text).unwrap_err().to_string();
            for part in parts {
                assert!(fault.contains(part), "{part}: {fault}");
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_changes_is_read_again_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.yaml");
        let selection = selection(None);
        assert!(
            start(&path, &selection)
                .unwrap_err()
                .to_string()
                .contains("--state")
        );
        std::fs::write(&path, FILE).unwrap();
        let mut events = start(&path, &selection).unwrap();
        let mut state = State::default();
        while !state.is_synced() {
            state.accept(events.recv().await.unwrap());
        }
        std::fs::write(&path, "a: [").unwrap();
        let replaced = folder.path().join("new.yaml");
        std::fs::write(&replaced, FILE.replace("name: web,", "name: api,")).unwrap();
        std::fs::rename(&replaced, &path).unwrap();
        let is_there = |state: &State| state.index.view().services.keys().any(|key| key.name() == "api");
        while !is_there(&state) {
            state.accept(events.recv().await.unwrap());
            assert!(!state.index.view().services.is_empty());
        }
    }
}
