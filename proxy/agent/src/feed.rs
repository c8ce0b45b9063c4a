// SPDX-License-Identifier: Apache-2.0
//! The watches, filtered by the server, into the index: Services, slices, the own Node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{IpFamily, NodeName, ServiceKey};
use berth_runtime::watch::{
    ObjectKey, Selection as Wanted, WatchEvent, WatchMetrics, watch_protobuf, watch_with,
};
use berth_snapshot::Index;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::node::{Eligibility, NodeFacts};

/// What the watches saw.
#[derive(Debug)]
pub(crate) enum Event {
    Service(Box<WatchEvent<Service>>),
    Slice(Box<WatchEvent<EndpointSlice>>),
    Node(Box<WatchEvent<Node>>),
}

/// Room for a burst while a turn is under way; beyond it the watches wait.
const BACKLOG: usize = 4_096;

/// What is watched.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// The value of `service.kubernetes.io/service-proxy-name`; `None` for Services without the label.
    pub(crate) service_proxy_name: Option<String>,
    /// The own Node.
    pub(crate) node: NodeName,
}

impl Selection {
    /// The label selector of the Services: those of other proxies are none of ours.
    fn services(&self) -> String {
        match &self.service_proxy_name {
            Some(name) => format!("{PROXY_NAME_LABEL}={name}"),
            None => format!("!{PROXY_NAME_LABEL}"),
        }
    }
}

/// The label that hands a Service to another proxy (kube-proxy's `LabelServiceProxyName`).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Starts the watches. They end when the receiver is dropped.
pub(crate) fn start(client: &Client, selection: &Selection, metrics: WatchMetrics) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    // Headless ones are none of ours: kube-proxy's filters.
    let services = Wanted::everything()
        .in_pages()
        .labels(selection.services())
        .fields("spec.clusterIP!=None");
    let slices = Wanted::everything()
        .in_pages()
        .labels("!service.kubernetes.io/headless");
    let services = watch_protobuf(client.clone(), services, "services", metrics.clone());
    let slices = watch_protobuf(client.clone(), slices, "endpointslices", metrics.clone());
    forward(services, sender.clone(), |event| Event::Service(Box::new(event)));
    forward(slices, sender.clone(), |event| Event::Slice(Box::new(event)));
    let own = format!("metadata.name={}", selection.node.as_str());
    let own = watcher::Config::default().fields(&own);
    let own = watch_with(Api::all(client.clone()), own, "nodes", metrics);
    forward(own, sender, |event| Event::Node(Box::new(event)));
    receiver
}

fn forward<K: Send + 'static>(
    events: impl Stream<Item = WatchEvent<K>> + Send + 'static,
    to: mpsc::Sender<Event>,
    event: fn(WatchEvent<K>) -> Event,
) {
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(seen) = events.next().await {
            if to.send(event(seen)).await.is_err() {
                return;
            }
        }
    });
}

/// Counts of events, and the times of the changes that caused them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) services: u64,
    pub(crate) slices: u64,
    /// One for each change of a slice.
    pub(crate) causes: Vec<(IpFamily, Timestamp)>,
}

impl Seen {
    /// Adds what came later.
    pub(crate) fn merge(&mut self, later: Seen) {
        self.services += later.services;
        self.slices += later.slices;
        self.causes.extend(later.causes);
    }
}

/// The annotation that says when the change happened that a slice reflects
/// (`EndpointsLastChangeTriggerTime` of core/v1).
const CAUSE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The index, and which first lists are complete.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    services_listed: bool,
    slices_listed: bool,
    /// The own Node; `None` as long as there is none.
    pub(crate) node: Option<NodeFacts>,
    node_listed: bool,
    seen: Seen,
    /// The last cause of each slice that changed since the start: one that comes again is no news.
    causes: BTreeMap<(Arc<str>, Arc<str>), Timestamp>,
    /// When this process started: what was caused before is somebody else's delay.
    started: Timestamp,
}

impl State {
    /// Whether both first lists are complete: nothing may be written before.
    pub(crate) fn is_synced(&self) -> bool {
        self.services_listed && self.slices_listed
    }

    /// Whether the own Node was asked for, whatever the answer.
    pub(crate) fn is_node_listed(&self) -> bool {
        self.node_listed
    }

    /// What the own Node says of this node.
    pub(crate) fn eligibility(&self) -> Eligibility {
        match &self.node {
            Some(node) => node.eligibility,
            None if self.node_listed => Eligibility::Missing,
            None => Eligibility::NotListed,
        }
    }

    /// A state for a process that starts now.
    pub(crate) fn new(started: Timestamp) -> Self {
        Self {
            started,
            ..Self::default()
        }
    }

    fn note_cause(&mut self, slice: &EndpointSlice) {
        let Some((family, at)) = cause(slice).filter(|(_, at)| *at > self.started) else {
            return;
        };
        let key = parts(&ObjectKey::of(slice));
        if self.causes.insert(key, at) != Some(at) {
            self.seen.causes.push((family, at));
        }
    }

    /// What came since the last call.
    pub(crate) fn take_seen(&mut self) -> Seen {
        std::mem::take(&mut self.seen)
    }

    /// Takes in an event.
    pub(crate) fn accept(&mut self, event: Event) {
        match event {
            Event::Service(event) => {
                self.seen.services += u64::from(!matches!(*event, WatchEvent::Listed(_)));
                self.service(*event);
            }
            Event::Slice(event) => {
                self.seen.slices += u64::from(!matches!(*event, WatchEvent::Listed(_)));
                self.slice(*event);
            }
            Event::Node(event) => self.own_node(*event),
        }
    }

    fn service(&mut self, event: WatchEvent<Service>) {
        match event {
            WatchEvent::Applied(service) => {
                for skip in self.index.apply_service(&service) {
                    let meta = &service.metadata;
                    tracing::warn!(
                        namespace = meta.namespace,
                        name = meta.name,
                        ?skip,
                        "part of a Service is not used"
                    );
                }
            }
            WatchEvent::Deleted(key) => self.index.delete_service(&service_key(&key)),
            WatchEvent::Listed(keys) => {
                let keys: BTreeSet<ServiceKey> = keys.iter().map(service_key).collect();
                self.index.retain_services(&keys);
                self.services_listed = true;
            }
        }
    }

    fn slice(&mut self, event: WatchEvent<EndpointSlice>) {
        match event {
            WatchEvent::Applied(slice) => {
                self.note_cause(&slice);
                let skips = self.index.apply_slice(&slice);
                for skip in skips {
                    let meta = &slice.metadata;
                    tracing::debug!(
                        namespace = meta.namespace,
                        name = meta.name,
                        ?skip,
                        "part of an EndpointSlice is not used"
                    );
                }
            }
            WatchEvent::Deleted(key) => {
                let (namespace, name) = parts(&key);
                self.index.delete_slice(&namespace, &name);
                self.causes.remove(&(namespace, name));
            }
            WatchEvent::Listed(keys) => {
                self.index.retain_slices(&keys.iter().map(parts).collect());
                self.slices_listed = true;
            }
        }
    }
}

impl State {
    fn own_node(&mut self, event: WatchEvent<Node>) {
        match event {
            WatchEvent::Applied(node) => self.node = Some(NodeFacts::of(&node)),
            WatchEvent::Deleted(_) => self.node = None,
            WatchEvent::Listed(keys) => {
                if keys.is_empty() {
                    self.node = None;
                }
                self.node_listed = true;
            }
        }
    }
}

fn cause(slice: &EndpointSlice) -> Option<(IpFamily, Timestamp)> {
    let at = slice.metadata.annotations.as_ref()?.get(CAUSE)?.parse().ok()?;
    let family = IpFamily::ALL
        .into_iter()
        .find(|family| family.as_str() == slice.address_type)?;
    Some((family, at))
}

fn parts(key: &ObjectKey) -> (Arc<str>, Arc<str>) {
    (key.namespace.clone().unwrap_or_default(), Arc::clone(&key.name))
}

fn service_key(key: &ObjectKey) -> ServiceKey {
    let (namespace, name) = parts(key);
    ServiceKey::new(namespace, name)
}

#[cfg(test)]
mod tests {
    use berth_testkit::builders::{mk_service, mk_service_port, mk_slice};

    use super::*;

    fn applied(name: &str, ip: &str) -> Event {
        let mut service = mk_service("shop", name, &[], &[mk_service_port("http", 80, "8080", "TCP")]);
        let spec = service.spec.get_or_insert_default();
        spec.cluster_ip = Some(ip.to_owned());
        spec.cluster_ips = Some(vec![ip.to_owned()]);
        spec.ip_families = Some(vec!["IPv4".to_owned()]);
        Event::Service(Box::new(WatchEvent::Applied(service)))
    }

    fn listed(names: &[&str]) -> BTreeSet<ObjectKey> {
        names
            .iter()
            .map(|name| ObjectKey {
                namespace: Some("shop".into()),
                name: (*name).into(),
            })
            .collect()
    }

    fn services(state: &State) -> Vec<String> {
        state
            .index
            .view()
            .services
            .keys()
            .map(ServiceKey::to_string)
            .collect()
    }

    #[test]
    fn synced_only_when_both_kinds_are_listed() {
        let mut state = State::default();
        state.accept(applied("web", "10.96.0.1"));
        assert!(!state.is_synced());
        state.accept(Event::Service(Box::new(WatchEvent::Listed(listed(&["web"])))));
        assert!(!state.is_synced(), "slices are missing");
        state.accept(Event::Slice(Box::new(WatchEvent::Listed(BTreeSet::new()))));
        assert!(state.is_synced());
        assert_eq!(services(&state), ["shop/web"]);
    }

    #[test]
    fn services_are_selected_by_the_proxys_name_or_by_having_none() {
        let labels = |name: Option<&str>| {
            let selection = Selection {
                service_proxy_name: name.map(str::to_owned),
                node: NodeName::new("node-1"),
            };
            selection.services()
        };
        assert_eq!(labels(None), "!service.kubernetes.io/service-proxy-name");
        assert_eq!(
            labels(Some("berth")),
            "service.kubernetes.io/service-proxy-name=berth"
        );
    }

    #[test]
    fn the_own_node_is_unknown_missing_or_what_it_says() {
        let mut state = State::default();
        let mut after = |event: WatchEvent<Node>| {
            state.accept(Event::Node(Box::new(event)));
            (state.eligibility(), state.node.is_some())
        };
        assert_eq!(
            after(WatchEvent::Applied(Node::default())),
            (Eligibility::Eligible, true)
        );
        let key = ObjectKey {
            namespace: None,
            name: "node-1".into(),
        };
        assert_eq!(
            after(WatchEvent::Listed(BTreeSet::from([key.clone()]))),
            (Eligibility::Eligible, true)
        );
        assert_eq!(after(WatchEvent::Deleted(key)), (Eligibility::Missing, false));
        assert_eq!(
            after(WatchEvent::Applied(Node::default())),
            (Eligibility::Eligible, true)
        );
        assert_eq!(
            after(WatchEvent::Listed(BTreeSet::new())),
            (Eligibility::Missing, false)
        );
        assert_eq!(State::default().eligibility(), Eligibility::NotListed);
    }

    #[test]
    fn a_slice_that_changes_endpoints_says_when_that_was_caused() {
        let mut state = State::default();
        let mut slice = mk_slice("shop", "web-1", "web", &["10.1.0.1"], &[("http", 8080, "TCP")]);
        let annotations = slice.metadata.annotations.get_or_insert_default();
        annotations.insert(CAUSE.to_owned(), "2026-11-23T01:02:03.5Z".to_owned());
        let expected = (IpFamily::V4, "2026-11-23T01:02:03.5Z".parse().unwrap());
        let mut after = |event| {
            state.accept(Event::Slice(Box::new(event)));
            state.index.take_dirty();
            let seen = state.take_seen();
            (seen.slices, seen.causes)
        };
        assert_eq!(after(WatchEvent::Applied(slice.clone())), (1, vec![expected]));
        assert_eq!(after(WatchEvent::Applied(slice)), (1, vec![]), "the same again");
        assert_eq!(after(WatchEvent::Listed(BTreeSet::new())), (0, vec![]));
    }

    #[test]
    fn what_a_list_does_not_hold_and_what_is_deleted_is_gone() {
        let mut state = State::default();
        for (name, ip) in [("a", "10.96.0.1"), ("b", "10.96.0.2"), ("c", "10.96.0.3")] {
            state.accept(applied(name, ip));
        }
        state.accept(Event::Service(Box::new(WatchEvent::Listed(listed(&["a", "b"])))));
        assert_eq!(services(&state), ["shop/a", "shop/b"]);
        for key in listed(&["a"]) {
            state.accept(Event::Service(Box::new(WatchEvent::Deleted(key))));
        }
        assert_eq!(services(&state), ["shop/b"]);
        assert_eq!(state.index.take_dirty().len(), 3);
    }
}
