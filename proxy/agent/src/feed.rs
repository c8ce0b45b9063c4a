// SPDX-License-Identifier: Apache-2.0
//! The watches, filtered by the server, into the index: Services, slices, the own Node, ServiceCIDRs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use berth_model::{IpFamily, NodeName, ServiceKey};
use berth_runtime::watch::{
    ObjectKey, Selection as Wanted, WatchEvent, WatchMetrics, watch_protobuf, watch_with,
};
use berth_snapshot::Index;
use berth_snapshot::service_cidr::ServiceCidr;
use futures::{Stream, StreamExt};
use ipnet::IpNet;
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
    ServiceCidr(Box<WatchEvent<ServiceCidr>>),
    /// ServiceCIDRs cannot be listed: there are none as long as that is so.
    NoServiceCidrs,
}

/// Room for a burst while a turn is under way; beyond it the watches wait.
pub(crate) const BACKLOG: usize = 256;

/// What is watched.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// The value of `service.kubernetes.io/service-proxy-name`; `None` for Services without the label.
    pub(crate) service_proxy_name: Option<String>,
    /// The own Node.
    pub(crate) node: NodeName,
    /// Whether ServiceCIDRs matter.
    pub(crate) service_cidrs: bool,
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
pub(crate) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// The label of slices of headless Services (`IsHeadlessService` of core/v1).
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Starts the watches. They end when the receiver is dropped.
pub(crate) fn start(client: &Client, selection: &Selection, metrics: WatchMetrics) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    // Headless ones are none of ours: kube-proxy's filters.
    // They change seldom, and are by far the larger part of a streaming list. Of slices it is the changes that count, which
    // come compressed only behind a streaming list.
    let services = Wanted::everything()
        .compressed()
        .listed_whole()
        .labels(selection.services())
        .fields("spec.clusterIP!=None");
    let slices = Wanted::everything()
        .compressed()
        .labels(format!("!{HEADLESS_LABEL}"));
    let services = watch_protobuf(client.clone(), services, "services", metrics.clone());
    let slices = watch_protobuf(client.clone(), slices, "endpointslices", metrics.clone());
    forward(services, sender.clone(), |event| Event::Service(Box::new(event)));
    forward(slices, sender.clone(), |event| Event::Slice(Box::new(event)));
    let own = format!("metadata.name={}", selection.node.as_str());
    let own = watcher::Config::default().fields(&own);
    let own = watch_with(Api::all(client.clone()), own, "nodes", metrics.clone());
    forward(own, sender.clone(), |event| Event::Node(Box::new(event)));
    if selection.service_cidrs {
        let cidrs = watch_protobuf(client.clone(), Wanted::everything(), "servicecidrs", metrics);
        tokio::spawn(forward_cidrs(cidrs, sender, CIDR_PATIENCE));
    }
    receiver
}

/// How long ServiceCIDRs are waited for until they count as none. A server without that API (before Kubernetes 1.33), or one
/// that does not let us read it, must not leave open what the kernel shall do.
const CIDR_PATIENCE: Duration = Duration::from_secs(5);

async fn forward_cidrs(
    events: impl Stream<Item = WatchEvent<ServiceCidr>>,
    to: mpsc::Sender<Event>,
    patience: Duration,
) {
    let mut events = std::pin::pin!(events);
    let mut patience = std::pin::pin!(tokio::time::sleep(patience));
    let mut waiting = true;
    loop {
        let event = tokio::select! {
            () = to.closed() => return,
            event = events.next() => match event {
                Some(event) => {
                    waiting &= !matches!(event, WatchEvent::Listed(_));
                    Event::ServiceCidr(Box::new(event))
                }
                None => return,
            },
            () = &mut patience, if waiting => {
                waiting = false;
                tracing::warn!(
                    "ServiceCIDRs are not listed: nothing drops what is addressed to a ClusterIP that no Service has. It takes \
                     Kubernetes 1.33 and the right to list and watch servicecidrs of networking.k8s.io"
                );
                Event::NoServiceCidrs
            }
        };
        if to.send(event).await.is_err() {
            return;
        }
    }
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
    cidrs: BTreeMap<Arc<str>, Vec<IpNet>>,
    cidrs_known: bool,
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

    /// From which networks ClusterIPs are given, as far as that is known.
    pub(crate) fn service_cidrs(&self) -> Option<Vec<IpNet>> {
        let all: BTreeSet<IpNet> = self.cidrs.values().flatten().copied().collect();
        self.cidrs_known.then(|| all.into_iter().collect())
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
            Event::ServiceCidr(event) => self.service_cidr(*event),
            Event::NoServiceCidrs => self.cidrs_known = true,
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

impl State {
    /// One that is being deleted counts until it is gone: Services may still have addresses of it.
    fn service_cidr(&mut self, event: WatchEvent<ServiceCidr>) {
        match event {
            WatchEvent::Applied(cidr) => {
                let mut nets = Vec::new();
                for text in &cidr.cidrs {
                    match text.parse() {
                        Ok(net) => nets.push(net),
                        Err(_) => {
                            tracing::warn!(name = &*cidr.name, text, "a CIDR of a ServiceCIDR is not used")
                        }
                    }
                }
                self.cidrs.insert(cidr.name, nets);
            }
            WatchEvent::Deleted(key) => {
                self.cidrs.remove(&key.name);
            }
            WatchEvent::Listed(keys) => {
                let listed: BTreeSet<&str> = keys.iter().map(|key| &*key.name).collect();
                self.cidrs.retain(|name, _| listed.contains(&**name));
                self.cidrs_known = true;
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
mod tests;
