// SPDX-License-Identifier: Apache-2.0
//! Which Services select a Pod, and which Pods a Service selects, without looking at every one in
//! the namespace.
//!
//! A Service is filed under one label pair of its selector, the one with the fewest Services under it so
//! far: a Pod asks at each of its own pairs and matches what it finds in full. Pods are listed under
//! every pair of theirs: a Service starts from its shortest list.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::ServiceKey;
use berth_snapshot::pod::{LabelSet, Pod};

use crate::pods::PodChange;
use crate::service::{Labels, matches};

/// Label key, then value.
type ByPair<T> = BTreeMap<Arc<str>, BTreeMap<Arc<str>, T>>;

/// A Service's selector, shorter than a map.
type Selector = Box<[(Box<str>, Box<str>)]>;

/// The Services of all namespaces, by selector.
#[derive(Clone, Debug, Default)]
pub struct SelectorIndex {
    namespaces: BTreeMap<Arc<str>, Selectors>,
}

/// The Services of one namespace.
#[derive(Clone, Debug, Default)]
struct Selectors {
    services: BTreeMap<Arc<str>, Selector>,
    filed: ByPair<BTreeSet<Arc<str>>>,
}

impl SelectorIndex {
    /// Sets the selector of a Service. None or an empty one selects nothing and is not kept.
    pub fn insert(&mut self, key: &ServiceKey, selector: Option<&Labels>) {
        let namespace = self.namespaces.get(key.namespace());
        let present = namespace.and_then(|namespace| namespace.services.get(key.name()));
        let wanted = selector.filter(|selector| !selector.is_empty()).map(shortened);
        if present == wanted.as_ref() {
            return;
        }
        self.remove(key);
        let Some(selector) = wanted else { return };
        let namespace = self.namespaces.entry(key.namespace().into()).or_default();
        let crowd = |(label, value): &&(Box<str>, Box<str>)| {
            let values = namespace.filed.get(&**label);
            let names = values.and_then(|values| values.get(&**value));
            names.map_or(0, BTreeSet::len)
        };
        let Some((label, value)) = selector.iter().min_by_key(crowd) else {
            return;
        };
        let name: Arc<str> = key.name().into();
        let values = namespace.filed.entry((&**label).into()).or_default();
        let names = values.entry((&**value).into()).or_default();
        names.insert(Arc::clone(&name));
        namespace.services.insert(name, selector);
    }

    /// Whether the Service selects Pods at all.
    pub fn selects(&self, key: &ServiceKey) -> bool {
        let namespace = self.namespaces.get(key.namespace());
        namespace.is_some_and(|namespace| namespace.services.contains_key(key.name()))
    }

    /// Forgets a Service.
    pub fn remove(&mut self, key: &ServiceKey) {
        let Some(namespace) = self.namespaces.get_mut(key.namespace()) else {
            return;
        };
        let Some(selector) = namespace.services.remove(key.name()) else {
            return;
        };
        for (label, value) in &selector {
            unlist(&mut namespace.filed, label, value, |names| {
                names.remove(key.name());
                names.is_empty()
            });
        }
        if namespace.services.is_empty() {
            self.namespaces.remove(key.namespace());
        }
    }

    /// The Services that select a Pod with these labels.
    pub fn services_of(&self, namespace: &str, labels: &LabelSet) -> BTreeSet<ServiceKey> {
        let Some((namespace_key, selectors)) = self.namespaces.get_key_value(namespace) else {
            return BTreeSet::new();
        };
        selectors
            .candidates(labels)
            .filter(|(_, selector)| {
                selector
                    .iter()
                    .all(|(label, value)| labels.get(label).is_some_and(|found| **found == **value))
            })
            .map(|(name, _)| ServiceKey::new(Arc::clone(namespace_key), Arc::clone(name)))
            .collect()
    }

    /// The Services that need a look after a Pod went from `old` to `new` (one may be none).
    ///
    /// Where only labels changed, those that select it in one of the two states but not in the other.
    pub fn affected(&self, old: Option<&Pod>, new: Option<&Pod>) -> BTreeSet<ServiceKey> {
        let of = |pod: Option<&Pod>| {
            pod.map(|pod| self.services_of(pod.namespace(), pod.labels()))
                .unwrap_or_default()
        };
        let change = match (old, new) {
            (Some(old), Some(new)) => PodChange::between(old, new),
            (Some(_), None) | (None, Some(_)) | (None, None) => PodChange {
                endpoint: true,
                membership: true,
            },
        };
        match (change.endpoint, change.membership) {
            (false, false) => BTreeSet::new(),
            (true, false) => of(new),
            (true, true) => &of(old) | &of(new),
            (false, true) => &of(old) ^ &of(new),
        }
    }
}

fn shortened(selector: &Labels) -> Selector {
    let pairs = selector.iter();
    pairs
        .map(|(label, value)| (label.as_str().into(), value.as_str().into()))
        .collect()
}

impl Selectors {
    /// The Services filed under any pair of these labels: each at most once, since each is filed once.
    fn candidates(&self, labels: &LabelSet) -> impl Iterator<Item = (&Arc<str>, &Selector)> {
        let pairs = labels.iter();
        let lists = pairs.filter_map(|(label, value)| self.filed.get(label)?.get(value));
        lists
            .flatten()
            .filter_map(|name| self.services.get_key_value(name))
    }
}

/// The Pods of all namespaces, by name and by label.
#[derive(Clone, Debug, Default)]
pub struct PodIndex {
    namespaces: BTreeMap<Arc<str>, Pods>,
}

/// The Pods of one namespace. Lists by label hold slot numbers, not names: a Pod with six labels costs
/// six small integers.
#[derive(Clone, Debug, Default)]
struct Pods {
    slots: Vec<Option<Arc<Pod>>>,
    free: Vec<u32>,
    by_name: BTreeMap<Arc<str>, u32>,
    by_label: ByPair<BTreeSet<u32>>,
}

impl PodIndex {
    /// Takes in a Pod; returns the state it replaces.
    pub fn insert(&mut self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        let pods = self.namespaces.entry(Arc::clone(pod.namespace()));
        pods.or_default().insert(pod)
    }

    /// Forgets a Pod; returns its last state.
    pub fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let pods = self.namespaces.get_mut(namespace)?;
        let removed = pods.remove(name);
        if pods.by_name.is_empty() {
            self.namespaces.remove(namespace);
        }
        removed
    }

    /// A Pod by name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        let pods = self.namespaces.get(namespace)?;
        pods.at(*pods.by_name.get(name)?)
    }

    /// The Pods that a selector matches, in no order that means anything. An empty selector matches none.
    pub fn select(&self, namespace: &str, selector: &Labels) -> Vec<Arc<Pod>> {
        let pods = self.namespaces.get(namespace);
        pods.map(|pods| pods.select(selector)).unwrap_or_default()
    }

    /// Every Pod, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        let all = self.namespaces.values();
        all.flat_map(|pods| pods.by_name.values().filter_map(|slot| pods.at(*slot)))
    }

    /// How many Pods.
    pub fn len(&self) -> usize {
        self.namespaces.values().map(|pods| pods.by_name.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }
}

impl Pods {
    fn at(&self, slot: u32) -> Option<&Arc<Pod>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn insert(&mut self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        if let Some(slot) = self.by_name.get(pod.name()).copied() {
            let same_labels = self.at(slot).is_some_and(|old| old.labels() == pod.labels());
            if !same_labels {
                self.unlist(slot);
            }
            // The name's text is the Pod's own: the one of the old state must not stay behind.
            self.by_name.remove(pod.name());
            self.by_name.insert(Arc::clone(pod.name()), slot);
            let old = self.slots.get_mut(slot as usize)?.replace(Arc::clone(&pod));
            if !same_labels {
                self.list(slot, &pod);
            }
            return old;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            // A cluster of four billion Pods in one namespace does not exist; the last slot is shared then.
            None => u32::try_from(self.slots.len()).unwrap_or(u32::MAX),
        };
        if slot as usize == self.slots.len() {
            self.slots.push(None);
        }
        self.by_name.insert(Arc::clone(pod.name()), slot);
        self.list(slot, &pod);
        self.slots.get_mut(slot as usize)?.replace(pod)
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Pod>> {
        let slot = self.by_name.remove(name)?;
        self.unlist(slot);
        self.free.push(slot);
        self.slots.get_mut(slot as usize)?.take()
    }

    fn list(&mut self, slot: u32, pod: &Pod) {
        for (label, value) in pod.labels().iter() {
            let values = self.by_label.entry(Arc::clone(label)).or_default();
            values.entry(Arc::clone(value)).or_default().insert(slot);
        }
    }

    fn unlist(&mut self, slot: u32) {
        let Some(pod) = self.at(slot).map(Arc::clone) else {
            return;
        };
        for (label, value) in pod.labels().iter() {
            unlist(&mut self.by_label, label, value, |slots| {
                slots.remove(&slot);
                slots.is_empty()
            });
        }
    }

    /// The shortest list of a selector's pairs; none where a pair has no Pod at all.
    fn shortest(&self, selector: &Labels) -> Option<&BTreeSet<u32>> {
        let mut shortest: Option<&BTreeSet<u32>> = None;
        for (label, value) in selector {
            let list = self.by_label.get(label.as_str())?.get(value.as_str())?;
            if shortest.is_none_or(|least| list.len() < least.len()) {
                shortest = Some(list);
            }
        }
        shortest
    }

    fn select(&self, selector: &Labels) -> Vec<Arc<Pod>> {
        let slots = self.shortest(selector).into_iter().flatten();
        slots
            .filter_map(|slot| self.at(*slot))
            .filter(|pod| selector.len() == 1 || matches(selector, pod.labels()))
            .map(Arc::clone)
            .collect()
    }
}

/// Takes something out of the list of a pair, and the list out of the map once `empty` says so.
fn unlist<T>(by_pair: &mut ByPair<T>, label: &str, value: &str, empty: impl FnOnce(&mut T) -> bool) {
    let Some(values) = by_pair.get_mut(label) else {
        return;
    };
    let Some(list) = values.get_mut(value) else { return };
    if empty(list) {
        values.remove(value);
        if values.is_empty() {
            by_pair.remove(label);
        }
    }
}
