// SPDX-License-Identifier: Apache-2.0
//! From the watches into the cache and on to the queues: each kind is watched once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use berth_controllers_core::names;
use berth_controllers_core::slices::NodeFacts;
use berth_controllers_core::values::{ALLOCATOR, MANAGED_BY};
use berth_crds::{AddressClaim, AddressPool, NodePortPool};
use berth_runtime::ready::Condition;
use berth_runtime::watch::{Selection, WatchEvent, watch_protobuf, watch_with};
use berth_snapshot::node::Node;
use berth_snapshot::pod::Pod;
use berth_snapshot::wire::Wire;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::Controller;
use crate::allocation::{BookFeed, KINDS, Tell, tell};
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
    NodePortPools,
    AddressClaims,
    Namespaces,
    ServiceCidrs,
    IpAddresses,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Services,
        Self::Pods,
        Self::Nodes,
        Self::EndpointSlices,
        Self::Endpoints,
        Self::AddressPools,
        Self::NodePortPools,
        Self::AddressClaims,
        Self::Namespaces,
        Self::ServiceCidrs,
        Self::IpAddresses,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Pods => "pods",
            Self::Nodes => "nodes",
            Self::EndpointSlices => "endpointslices",
            Self::Endpoints => "endpoints",
            Self::AddressPools => "addresspools",
            Self::NodePortPools => "nodeportpools",
            Self::AddressClaims => "addressclaims",
            Self::Namespaces => "namespaces",
            Self::ServiceCidrs => "servicecidrs",
            Self::IpAddresses => "ipaddresses",
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
            Self::NodePortPools => "nodeportpools-listed",
            Self::AddressClaims => "addressclaims-listed",
            Self::Namespaces => "namespaces-listed",
            Self::ServiceCidrs => "servicecidrs-listed",
            Self::IpAddresses => "ipaddresses-listed",
        }
    }
}

/// The kinds that a controller's plans depend on.
pub(crate) fn inputs(controller: Controller) -> BTreeSet<Kind> {
    let kinds: &[Kind] = match controller {
        Controller::Endpoints => &[Kind::Services, Kind::Pods, Kind::Endpoints],
        Controller::EndpointSlices => &[Kind::Services, Kind::Pods, Kind::Nodes, Kind::EndpointSlices],
        Controller::Mirroring => &[Kind::Services, Kind::Endpoints, Kind::EndpointSlices],
        Controller::LoadBalancer => &[Kind::Services, Kind::AddressPools, Kind::Namespaces],
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
    book: Option<&BookFeed>,
) -> (Vec<BoxFuture<'static, ()>>, watch::Receiver<BTreeSet<Kind>>) {
    let of_book = book.into_iter().flat_map(|_| KINDS);
    let enabled = context.args.enabled().into_iter();
    let needed: BTreeSet<Kind> = enabled.flat_map(inputs).chain(of_book).collect();
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
                book: book.filter(|_| KINDS.contains(&kind)).cloned(),
            };
            start(feed, client.clone())
        })
        .collect();
    (feeds, receiver)
}

fn start(feed: Feed, client: Client) -> BoxFuture<'static, ()> {
    let (everything, every) = (Selection::everything(), watcher::Config::default());
    match feed.kind {
        Kind::Services => {
            Box::pin(feed.built_in::<Service>(client, everything, services, Some(tell::services)))
        }
        Kind::Pods => Box::pin(feed.built_in::<Pod>(client, everything, pods, None)),
        Kind::Nodes => Box::pin(feed.built_in::<Node>(client, everything, nodes, None)),
        Kind::EndpointSlices => Box::pin(feed.built_in::<EndpointSlice>(client, our_slices(), slices, None)),
        Kind::Endpoints => Box::pin(feed.built_in::<Endpoints>(client, everything, endpoints, None)),
        Kind::AddressPools => {
            Box::pin(feed.in_json::<AddressPool>(client, every, pools, Some(tell::address_pools)))
        }
        Kind::NodePortPools => {
            Box::pin(feed.in_json::<NodePortPool>(client, every, not_cached, Some(tell::port_pools)))
        }
        Kind::AddressClaims => {
            Box::pin(feed.in_json::<AddressClaim>(client, every, not_cached, Some(tell::claims)))
        }
        Kind::Namespaces => {
            Box::pin(feed.in_json::<Namespace>(client, every, namespaces, Some(tell::namespaces)))
        }
        Kind::ServiceCidrs => {
            Box::pin(feed.in_json::<ServiceCIDR>(client, every, not_cached, Some(tell::service_cidrs)))
        }
        Kind::IpAddresses => Box::pin(feed.in_json::<IPAddress>(
            client,
            foreign_addresses(),
            not_cached,
            Some(tell::ip_addresses),
        )),
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

/// IPAddresses that the API server's allocator does not manage: the others, one for each address of a Service, say nothing that
/// Services don't.
fn foreign_addresses() -> watcher::Config {
    watcher::Config::default().labels(&format!("{MANAGED_BY}!={ALLOCATOR}"))
}

/// How an event of a kind changes the cache, and what is to be done for it.
type Accept<K> = fn(&mut Cache, WatchEvent<K>) -> Dirty;

/// One watch.
struct Feed {
    kind: Kind,
    context: Arc<Context>,
    listed: Listed,
    condition: Condition,
    /// Where it is to be told as well.
    book: Option<BookFeed>,
}

impl Feed {
    async fn built_in<K: Wire + Send + 'static>(
        self,
        client: Client,
        selection: Selection,
        accept: Accept<K>,
        tell: Option<Tell<K>>,
    ) {
        let metrics = self.context.metrics.watches.clone();
        let what = self.kind.as_str();
        let open = || watch_protobuf(client.clone(), selection.clone(), what, metrics.clone());
        self.run(open, accept, tell).await;
    }

    /// Custom kinds are served in JSON only, and of some others there are few.
    async fn in_json<K>(
        self,
        client: Client,
        config: watcher::Config,
        accept: Accept<K>,
        tell: Option<Tell<K>>,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
    {
        let metrics = self.context.metrics.watches.clone();
        let what = self.kind.as_str();
        let open = || {
            let api = Api::<K>::all(client.clone());
            watch_with(api, config.clone(), what, metrics.clone())
        };
        self.run(open, accept, tell).await;
    }

    /// One watch after the other: another one when the book wants all of it anew.
    async fn run<K, S: Stream<Item = WatchEvent<K>>>(
        mut self,
        open: impl Fn() -> S,
        accept: Accept<K>,
        tell: Option<Tell<K>>,
    ) {
        loop {
            let number = self.book.as_mut().map(BookFeed::wanted).unwrap_or_default();
            let mut events = std::pin::pin!(open());
            while let Some(event) = self.next(&mut events).await {
                let complete = matches!(event, WatchEvent::Listed(_));
                if let (Some(book), Some(tell)) = (&self.book, tell) {
                    book.tell(self.kind, tell(&event)).await;
                }
                let dirty = accept(&mut self.context.cache(), event);
                self.context.route(dirty);
                if complete {
                    self.condition.set();
                    self.listed.send_if_modified(|listed| listed.insert(self.kind));
                    if let Some(book) = &self.book {
                        book.complete(self.kind, number).await;
                    }
                }
            }
        }
    }

    /// The next event; none where another watch is wanted.
    async fn next<K>(
        &mut self,
        events: &mut std::pin::Pin<&mut impl Stream<Item = WatchEvent<K>>>,
    ) -> Option<WatchEvent<K>> {
        let Some(book) = &mut self.book else {
            return events.next().await;
        };
        tokio::select! {
            event = events.next() => event,
            () = book.wants_another() => None,
        }
    }
}

/// Kinds that only the book is told of.
fn not_cached<K>(_: &mut Cache, _: WatchEvent<K>) -> Dirty {
    Dirty::default()
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

fn namespaces(cache: &mut Cache, event: WatchEvent<Namespace>) -> Dirty {
    match event {
        WatchEvent::Applied(namespace) => cache.apply_namespace(namespace.metadata),
        WatchEvent::Deleted(key) => cache.delete_namespace(&key.name),
        WatchEvent::Listed(keys) => cache.retain_namespaces(&keys),
    }
}

fn pools(cache: &mut Cache, event: WatchEvent<AddressPool>) -> Dirty {
    match event {
        WatchEvent::Applied(pool) => cache.apply_pool(pool),
        WatchEvent::Deleted(key) => cache.delete_pool(&key.name),
        WatchEvent::Listed(keys) => cache.retain_pools(&keys),
    }
}
