// SPDX-License-Identifier: Apache-2.0
//! From the watches into the cache and on to the queues: each kind is watched once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use berth_controllers_core::names;
use berth_controllers_core::slices::NodeFacts;
use berth_crds::AddressPool;
use berth_runtime::ready::Condition;
use berth_runtime::watch::{ObjectKey, WatchEvent, watch_with};
use berth_snapshot::pod::Pod;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
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
    match feed.kind {
        Kind::Services => Box::pin(feed.run::<Service>(Api::all(client), everything(), services)),
        Kind::Pods => Box::pin(feed.run::<Pod>(Api::all(client), everything(), pods)),
        Kind::Nodes => Box::pin(feed.run::<PartialObjectMeta<Node>>(Api::all(client), everything(), nodes)),
        Kind::EndpointSlices => Box::pin(feed.run::<EndpointSlice>(Api::all(client), our_slices(), slices)),
        Kind::Endpoints => Box::pin(feed.run::<Endpoints>(Api::all(client), everything(), endpoints)),
        Kind::AddressPools => Box::pin(feed.run::<AddressPool>(Api::all(client), everything(), pools)),
    }
}

fn everything() -> watcher::Config {
    watcher::Config::default()
}

/// Slices of other writers are none of our business, and in some clusters they are most of them.
fn our_slices() -> watcher::Config {
    everything().labels(&format!(
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
    async fn run<K>(
        self,
        api: Api<K>,
        config: watcher::Config,
        accept: fn(&mut Cache, WatchEvent<K>) -> Dirty,
    ) where
        K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
    {
        let metrics = self.context.metrics.watches.clone();
        let mut events = Box::pin(watch_with(api, config, self.kind.as_str(), metrics));
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

fn nodes(cache: &mut Cache, event: WatchEvent<PartialObjectMeta<Node>>) -> Dirty {
    match event {
        WatchEvent::Applied(node) => {
            let name = ObjectKey::of(&node).name;
            let facts = NodeFacts::of(&Node {
                metadata: node.metadata,
                ..Node::default()
            });
            cache.apply_node(name, facts)
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
