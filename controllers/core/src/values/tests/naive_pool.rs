// SPDX-License-Identifier: Apache-2.0
//! A pool of the naive book.

use super::*;
use crate::pools::Supply;

/// A pool of either kind in namespaces `a` and `b`.
#[derive(Clone, Debug)]
pub(super) struct NaivePool {
    pub(super) name: String,
    pub(super) supply: Supply,
    pub(super) created: i64,
    pub(super) priority: i64,
    pub(super) namespaces: Vec<&'static str>,
    pub(super) items: BTreeSet<Item>,
    pub(super) excluded: BTreeSet<Item>,
    pub(super) draining: bool,
    pub(super) quota: Option<u64>,
    pub(super) reserved: Option<(Item, ServiceKey)>,
}

impl NaivePool {
    pub(super) fn spec(&self) -> Json {
        let texts = |items: &BTreeSet<Item>| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        let reservations = self.reserved.iter().map(|(item, key)| match item {
            Item::Address(address) => {
                json!({"address": address, "namespace": key.namespace(), "name": key.name()})
            }
            Item::Port(port) => json!({"port": port, "namespace": key.namespace(), "name": key.name()}),
        });
        let field = match self.supply {
            Supply::NodePort => "ports",
            Supply::ClusterIp | Supply::LoadBalancer => "addresses",
        };
        let mut spec = json!({"exclude": texts(&self.excluded), "priority": self.priority, "draining": self.draining,
            "reservations": reservations.collect::<Vec<_>>()});
        spec[field] = json!(texts(&self.items));
        if let Some(limit) = self.quota {
            spec["quota"] = json!({"perNamespace": limit});
        }
        if !self.namespaces.is_empty() {
            spec["selector"] = json!({"namespaces": self.namespaces});
        }
        spec
    }

    pub(super) fn is_well_formed(&self) -> bool {
        let usable: BTreeSet<&Item> = self.items.difference(&self.excluded).collect();
        let kept = self
            .reserved
            .as_ref()
            .is_none_or(|(item, _)| usable.contains(item));
        !usable.is_empty() && kept
    }

    pub(super) fn selects(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(&namespace)
    }
}
