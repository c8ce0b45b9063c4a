// SPDX-License-Identifier: Apache-2.0
//! Services and Nodes, reduced to what the announcers must agree on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_model::{IpFamily, IpMode, NodeName};
use berth_runtime::watch::{ObjectKey, WatchEvent, WatchMetrics, watch_with};
use berth_snapshot::{convert_service, parse_ip};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;

/// Events taken in before the result is published, where that many are waiting.
const CHUNK: usize = 512;

/// What the API server says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// LoadBalancer addresses to be announced by somebody.
    pub addresses: BTreeSet<IpAddr>,
    /// Nodes with their internal addresses, at most one for each family.
    pub nodes: BTreeMap<NodeName, Vec<IpAddr>>,
    /// UIDs of the Nodes.
    pub uids: BTreeMap<NodeName, String>,
}

/// Which Services concern this announcer.
#[derive(Clone, Debug)]
pub(crate) struct ServiceFilter {
    /// Their class.
    pub(crate) class: String,
    /// Those without a class too.
    pub(crate) unclassed: bool,
}

impl ServiceFilter {
    fn admits(&self, class: Option<&str>) -> bool {
        class.map_or(self.unclassed, |class| class == self.class)
    }

    /// The addresses of a Service that are to be announced.
    fn addresses(&self, object: &Service) -> BTreeSet<IpAddr> {
        let Some(service) = convert_service(object).service else {
            return BTreeSet::new();
        };
        if !self.admits(service.load_balancer_class.as_deref()) {
            return BTreeSet::new();
        }
        // With ipMode Proxy the address is that of a balancer in front of the nodes.
        let ours = service
            .load_balancer
            .iter()
            .filter(|ingress| ingress.mode == IpMode::Vip);
        ours.map(|ingress| ingress.ip).collect()
    }
}

/// The watched objects, reduced.
#[derive(Debug)]
struct Observed {
    filter: ServiceFilter,
    services: Option<BTreeMap<ObjectKey, BTreeSet<IpAddr>>>,
    nodes: Option<BTreeMap<ObjectKey, (String, Vec<IpAddr>)>>,
    pending_services: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    pending_nodes: BTreeMap<ObjectKey, (String, Vec<IpAddr>)>,
}

enum Event {
    Service(Box<WatchEvent<Service>>),
    Node(Box<WatchEvent<Node>>),
}

impl Observed {
    fn new(filter: ServiceFilter) -> Self {
        Self {
            filter,
            services: None,
            nodes: None,
            pending_services: BTreeMap::new(),
            pending_nodes: BTreeMap::new(),
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Service(event) => {
                let filter = &self.filter;
                reduce(
                    &mut self.services,
                    &mut self.pending_services,
                    *event,
                    |service| Some(filter.addresses(&service)).filter(|addresses| !addresses.is_empty()),
                );
            }
            Event::Node(event) => reduce(&mut self.nodes, &mut self.pending_nodes, *event, |node| {
                let uid = node.metadata.uid.clone().unwrap_or_default();
                Some((uid, internal_addresses(&node)))
            }),
        }
    }

    /// `None` until both lists are complete: half a view would elect wrong owners.
    fn cluster(&self) -> Option<Cluster> {
        let (services, nodes) = (self.services.as_ref()?, self.nodes.as_ref()?);
        let name = |key: &ObjectKey| NodeName::new(key.name.clone());
        Some(Cluster {
            addresses: services.values().flatten().copied().collect(),
            nodes: nodes
                .iter()
                .map(|(key, (_, ips))| (name(key), ips.clone()))
                .collect(),
            uids: nodes
                .iter()
                .map(|(key, (uid, _))| (name(key), uid.clone()))
                .collect(),
        })
    }
}

/// Takes one event into an index that is `None` until the first list is complete. An object that reduces
/// to nothing is not kept.
fn reduce<K: kube::Resource, V>(
    index: &mut Option<BTreeMap<ObjectKey, V>>,
    pending: &mut BTreeMap<ObjectKey, V>,
    event: WatchEvent<K>,
    reduced: impl FnOnce(K) -> Option<V>,
) {
    let known = index.as_mut().unwrap_or(pending);
    match event {
        WatchEvent::Applied(object) => {
            let key = ObjectKey::of(&object);
            match reduced(object) {
                Some(value) => drop(known.insert(key, value)),
                None => drop(known.remove(&key)),
            }
        }
        WatchEvent::Deleted(key) => drop(known.remove(&key)),
        WatchEvent::Listed(keys) => {
            known.retain(|key, _| keys.contains(key));
            if index.is_none() {
                *index = Some(std::mem::take(pending));
            }
        }
    }
}

/// At most one for each family: a heartbeat to a second address of a family adds a path only rarely.
fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let status = node.status.as_ref();
    let all = status
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    let internal: Vec<IpAddr> = all
        .iter()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| parse_ip(&address.address))
        .collect();
    let first = |family| internal.iter().copied().find(|ip| IpFamily::of(*ip) == family);
    IpFamily::ALL.into_iter().filter_map(first).collect()
}

/// Publishes the cluster at each change that matters. Never ends.
pub(crate) async fn follow(
    client: Client,
    filter: ServiceFilter,
    metrics: WatchMetrics,
    cluster: watch::Sender<Option<Cluster>>,
) {
    let services = Api::<Service>::all(client.clone());
    let nodes = Api::<Node>::all(client);
    let services = watch_with(services, watcher::Config::default(), "services", metrics.clone());
    let nodes = watch_with(nodes, watcher::Config::default(), "nodes", metrics);
    let events = futures::stream::select(
        services.map(|event| Event::Service(Box::new(event))),
        nodes.map(|event| Event::Node(Box::new(event))),
    );
    let mut chunks = std::pin::pin!(events.ready_chunks(CHUNK));
    let mut observed = Observed::new(filter);
    while let Some(chunk) = chunks.next().await {
        for event in chunk {
            observed.take(event);
        }
        let current = observed.cluster();
        cluster.send_if_modified(|known| {
            let changed = *known != current;
            *known = current;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, class: Option<&str>, ingress: serde_json::Value) -> Service {
        let value = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "type": "LoadBalancer", "loadBalancerClass": class,
                "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            },
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        serde_json::from_value(value).unwrap()
    }

    fn node(name: &str, addresses: serde_json::Value) -> Node {
        let value = json!({"metadata": {"name": name, "uid": "u"}, "status": {"addresses": addresses}});
        serde_json::from_value(value).unwrap()
    }

    fn observed(unclassed: bool) -> Observed {
        Observed::new(ServiceFilter {
            class: "berth.dev/bare-metal".to_owned(),
            unclassed,
        })
    }

    fn services(event: WatchEvent<Service>) -> Event {
        Event::Service(Box::new(event))
    }

    fn nodes(event: WatchEvent<Node>) -> Event {
        Event::Node(Box::new(event))
    }

    fn listed<K: kube::Resource>(objects: &[K]) -> WatchEvent<K> {
        WatchEvent::Listed(objects.iter().map(ObjectKey::of).collect())
    }

    fn addresses(observed: &Observed) -> Vec<String> {
        observed
            .cluster()
            .unwrap()
            .addresses
            .iter()
            .map(IpAddr::to_string)
            .collect()
    }

    const OURS: Option<&str> = Some("berth.dev/bare-metal");

    #[test]
    fn nothing_is_known_before_both_lists_are_complete() {
        let mut observed = observed(false);
        let web = service("web", OURS, json!([{"ip": "10.77.0.200"}]));
        observed.take(services(WatchEvent::Applied(web.clone())));
        observed.take(services(listed(&[web])));
        assert_eq!(observed.cluster(), None);
        observed.take(nodes(listed(&[])));
        assert_eq!(addresses(&observed), ["10.77.0.200"]);
    }

    #[test]
    fn only_addresses_of_our_class_that_end_at_a_node_count() {
        let objects = [
            service(
                "ours",
                OURS,
                json!([{"ip": "10.77.0.200"}, {"ip": "fd00:77::200"}]),
            ),
            service("other", Some("example.com/lb"), json!([{"ip": "10.77.0.201"}])),
            service("unclassed", None, json!([{"ip": "10.77.0.202"}])),
            service("proxied", OURS, json!([{"ip": "10.77.0.203", "ipMode": "Proxy"}])),
            service("named", OURS, json!([{"hostname": "lb.example.com"}])),
            service("pending", OURS, json!([])),
        ];
        for (unclassed, expected) in [
            (false, vec!["10.77.0.200", "fd00:77::200"]),
            (true, vec!["10.77.0.200", "10.77.0.202", "fd00:77::200"]),
        ] {
            let mut observed = observed(unclassed);
            for object in &objects {
                observed.take(services(WatchEvent::Applied(object.clone())));
            }
            observed.take(services(listed(&objects)));
            observed.take(nodes(listed(&[])));
            assert_eq!(addresses(&observed), expected);
        }
    }

    #[test]
    fn a_relist_forgets_what_was_deleted_meanwhile() {
        let mut observed = observed(false);
        let (one, two) = (
            service("one", OURS, json!([{"ip": "10.77.0.201"}])),
            service("two", OURS, json!([{"ip": "10.77.0.202"}])),
        );
        for object in [&one, &two] {
            observed.take(services(WatchEvent::Applied(object.clone())));
        }
        observed.take(services(listed(&[one.clone(), two.clone()])));
        observed.take(nodes(listed(&[])));
        observed.take(services(listed(std::slice::from_ref(&two))));
        assert_eq!(addresses(&observed), ["10.77.0.202"]);
        observed.take(services(WatchEvent::Deleted(ObjectKey::of(&two))));
        assert_eq!(addresses(&observed), Vec::<String>::new());
    }

    #[test]
    fn a_node_is_reached_at_its_first_internal_address_of_each_family() {
        let one = node(
            "node-1",
            json!([
                {"type": "Hostname", "address": "node-1"},
                {"type": "InternalIP", "address": "fd00:77::11"},
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "10.77.0.11"},
                {"type": "InternalIP", "address": "192.168.0.1"},
            ]),
        );
        let addresses: Vec<String> = internal_addresses(&one).iter().map(IpAddr::to_string).collect();
        assert_eq!(addresses, ["10.77.0.11", "fd00:77::11"]);
    }
}
