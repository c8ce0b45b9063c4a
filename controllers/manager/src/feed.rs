// SPDX-License-Identifier: Apache-2.0
//! From the watches into the cache and on to the queues: each kind is watched once.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_controllers_core::names;
use berth_controllers_core::slices::NodeFacts;
use berth_crds::AddressPool;
use berth_runtime::ready::Condition;
use berth_runtime::watch::{Selection, WatchEvent, watch_protobuf, watch_with};
use berth_snapshot::node::Node;
use berth_snapshot::pod::Pod;
use berth_snapshot::wire::Wire;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::Controller;
use crate::cache::{Cache, service_key};
use crate::context::Context;
use crate::task::Dirty;

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Services,
    Pods,
    Nodes,
    EndpointSlices,
    Endpoints,
    AddressPools,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Services,
        Self::Pods,
        Self::Nodes,
        Self::EndpointSlices,
        Self::Endpoints,
        Self::AddressPools,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Pods => "pods",
            Self::Nodes => "nodes",
            Self::EndpointSlices => "endpointslices",
            Self::Endpoints => "endpoints",
            Self::AddressPools => "addresspools",
        }
    }

    /// The readiness condition that it was listed.
    fn condition(self) -> &'static str {
        match self {
            Self::Services => "services-listed",
            Self::Pods => "pods-listed",
            Self::Nodes => "nodes-listed",
            Self::EndpointSlices => "endpointslices-listed",
            Self::Endpoints => "endpoints-listed",
            Self::AddressPools => "addresspools-listed",
        }
    }
}

/// The kinds that a controller's plans depend on.
pub(crate) fn inputs(controller: Controller) -> BTreeSet<Kind> {
    let kinds: &[Kind] = match controller {
        Controller::Endpoints => &[Kind::Services, Kind::Pods, Kind::Endpoints],
        Controller::EndpointSlices => &[Kind::Services, Kind::Pods, Kind::Nodes, Kind::EndpointSlices],
        Controller::Mirroring => &[Kind::Services, Kind::Endpoints, Kind::EndpointSlices],
        Controller::LoadBalancer => &[Kind::Services, Kind::AddressPools],
    };
    kinds.iter().copied().collect()
}

/// The kinds whose first list is complete.
pub(crate) type Listed = watch::Sender<BTreeSet<Kind>>;

/// The watches that the enabled controllers need, as tasks that never end, and where they report
/// their first lists.
pub(crate) fn feeds(
    context: &Arc<Context>,
    client: &Client,
    readiness: &berth_runtime::ready::Readiness,
) -> (
    Vec<futures::future::BoxFuture<'static, ()>>,
    watch::Receiver<BTreeSet<Kind>>,
) {
    let needed: BTreeSet<Kind> = context.args.enabled().into_iter().flat_map(inputs).collect();
    let (listed, receiver) = watch::channel(BTreeSet::new());
    let feeds = Kind::ALL
        .into_iter()
        .filter(|kind| needed.contains(kind))
        .map(|kind| {
            let feed = Feed {
                kind,
                context: Arc::clone(context),
                listed: listed.clone(),
                condition: readiness.register(kind.condition()),
            };
            start(feed, client.clone())
        })
        .collect();
    (feeds, receiver)
}

fn start(feed: Feed, client: Client) -> futures::future::BoxFuture<'static, ()> {
    let everything = Selection::everything();
    match feed.kind {
        Kind::Services => Box::pin(feed.built_in::<Service>(client, everything, services)),
        Kind::Pods => Box::pin(feed.built_in::<Pod>(client, everything, pods)),
        Kind::Nodes => Box::pin(feed.built_in::<Node>(client, everything, nodes)),
        Kind::EndpointSlices => Box::pin(feed.built_in::<EndpointSlice>(client, our_slices(), slices)),
        Kind::Endpoints => Box::pin(feed.built_in::<Endpoints>(client, everything, endpoints)),
        Kind::AddressPools => Box::pin(feed.address_pools(client)),
    }
}

/// Slices of other writers are none of our business, and in some clusters they are most of them.
fn our_slices() -> Selection {
    Selection::everything().labels(format!(
        "{} in ({}, {})",
        names::SLICE_MANAGED_BY,
        names::SLICE_CONTROLLER,
        names::MIRROR_CONTROLLER
    ))
}

/// One watch.
struct Feed {
    kind: Kind,
    context: Arc<Context>,
    listed: Listed,
    condition: Condition,
}

impl Feed {
    async fn built_in<K: Wire + Send + 'static>(
        self,
        client: Client,
        selection: Selection,
        accept: fn(&mut Cache, WatchEvent<K>) -> Dirty,
    ) {
        let metrics = self.context.metrics.watches.clone();
        let events = watch_protobuf(client, selection, self.kind.as_str(), metrics);
        self.run(events, accept).await;
    }

    /// Custom kinds are served in JSON only.
    async fn address_pools(self, client: Client) {
        let metrics = self.context.metrics.watches.clone();
        let config = watcher::Config::default();
        let events = watch_with(Api::all(client), config, self.kind.as_str(), metrics);
        self.run(events, pools).await;
    }

    async fn run<K>(
        self,
        events: impl Stream<Item = WatchEvent<K>>,
        accept: fn(&mut Cache, WatchEvent<K>) -> Dirty,
    ) {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let complete = matches!(event, WatchEvent::Listed(_));
            let dirty = accept(&mut self.context.cache(), event);
            self.context.route(dirty);
            if complete {
                self.condition.set();
                self.listed.send_if_modified(|listed| listed.insert(self.kind));
            }
        }
    }
}

fn services(cache: &mut Cache, event: WatchEvent<Service>) -> Dirty {
    match event {
        WatchEvent::Applied(service) => cache.apply_service(service),
        WatchEvent::Deleted(key) => cache.delete_service(&service_key(&key)),
        WatchEvent::Listed(keys) => cache.retain_services(&keys),
    }
}

fn pods(cache: &mut Cache, event: WatchEvent<Pod>) -> Dirty {
    match event {
        WatchEvent::Applied(pod) => cache.apply_pod(pod),
        WatchEvent::Deleted(key) => cache.delete_pod(&key),
        WatchEvent::Listed(keys) => cache.retain_pods(&keys),
    }
}

fn nodes(cache: &mut Cache, event: WatchEvent<Node>) -> Dirty {
    match event {
        WatchEvent::Applied(node) => {
            let facts =
                NodeFacts::from_parts(node.labels.as_ref(), node.ready, node.allocatable_cpu.as_ref());
            cache.apply_node(node.name, facts)
        }
        WatchEvent::Deleted(key) => cache.delete_node(&key.name),
        WatchEvent::Listed(keys) => cache.retain_nodes(&keys),
    }
}

fn slices(cache: &mut Cache, event: WatchEvent<EndpointSlice>) -> Dirty {
    match event {
        WatchEvent::Applied(slice) => cache.apply_slice(slice),
        WatchEvent::Deleted(key) => cache.delete_slice(&key),
        WatchEvent::Listed(keys) => cache.retain_slices(&keys),
    }
}

fn endpoints(cache: &mut Cache, event: WatchEvent<Endpoints>) -> Dirty {
    match event {
        WatchEvent::Applied(endpoints) => cache.apply_endpoints(endpoints),
        WatchEvent::Deleted(key) => cache.delete_endpoints(&service_key(&key)),
        WatchEvent::Listed(keys) => cache.retain_endpoints(&keys),
    }
}

fn pools(cache: &mut Cache, event: WatchEvent<AddressPool>) -> Dirty {
    match event {
        WatchEvent::Applied(pool) => cache.apply_pool(pool),
        WatchEvent::Deleted(key) => cache.delete_pool(&key.name),
        WatchEvent::Listed(keys) => cache.retain_pools(&keys),
    }
}
