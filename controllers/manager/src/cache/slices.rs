// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices in the cache, those of both controllers side by side.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_controllers_core::names;
use berth_controllers_core::tracker::SliceTracker;
use berth_model::ServiceKey;
use berth_runtime::watch::ObjectKey;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::Cache;
use super::packed::{Kept, PackedSlice, Texts};
use crate::task::{Dirty, Task};

/// Which of our two controllers writes a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// From a selector.
    Slices,
    /// From hand-written Endpoints.
    Mirror,
}

impl Writes {
    /// The controller that a slice names as its writer, if it is one of ours.
    fn of(slice: &EndpointSlice) -> Option<Self> {
        [Self::Slices, Self::Mirror]
            .into_iter()
            .find(|writes| is_managed_by(slice, writes.managed_by()))
    }

    /// The value of the managed-by label.
    pub(crate) fn managed_by(self) -> &'static str {
        match self {
            Self::Slices => names::SLICE_CONTROLLER,
            Self::Mirror => names::MIRROR_CONTROLLER,
        }
    }

    /// The turn that puts the slices of a Service right.
    pub(crate) fn task(self, key: ServiceKey) -> Task {
        match self {
            Self::Slices => Task::Slices(key),
            Self::Mirror => Task::Mirror(key),
        }
    }
}

/// A slice as it is kept.
#[derive(Debug)]
pub(super) struct CachedSlice {
    name: Arc<str>,
    pub(super) writes: Writes,
    kept: Kept<PackedSlice>,
}

/// Whether the slice's managed-by label has this value.
pub(super) fn is_managed_by(slice: &EndpointSlice, controller: &str) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(names::SLICE_MANAGED_BY))
        .map(String::as_str)
        == Some(controller)
}

/// The Service that a slice's label names.
fn owner_of(slice: &EndpointSlice, texts: &mut Texts) -> Option<ServiceKey> {
    let name = slice.metadata.labels.as_ref()?.get(names::SERVICE_NAME)?;
    let namespace = slice.metadata.namespace.as_deref()?;
    Some(ServiceKey::new(texts.get(namespace), texts.get(&**name)))
}

impl Cache {
    /// The slices that carry a Service's label, those of both controllers.
    pub(super) fn slices_of(&self, key: &ServiceKey) -> &[CachedSlice] {
        self.slices.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Those of one of our controllers.
    pub(crate) fn slices_by(&self, key: &ServiceKey, writes: Writes) -> Vec<Arc<EndpointSlice>> {
        let slices = self.slices_of(key).iter();
        slices
            .filter(|slice| slice.writes == writes)
            .map(|slice| slice.kept.object())
            .collect()
    }

    /// Whether the slice of this uid is cached.
    pub(crate) fn has_slice(&self, key: &ServiceKey, uid: &str) -> bool {
        self.slices_of(key).iter().any(|slice| slice.kept.uid() == uid)
    }

    /// The tracker of one of our controllers.
    pub(crate) fn tracker(&mut self, writes: Writes) -> &mut SliceTracker {
        match writes {
            Writes::Slices => &mut self.own_slices,
            Writes::Mirror => &mut self.own_mirrors,
        }
    }

    /// Takes in a slice.
    pub(crate) fn apply_slice(&mut self, slice: EndpointSlice) -> Dirty {
        let object = ObjectKey::of(&slice);
        let owner = owner_of(&slice, &mut self.texts);
        let mut dirty = Dirty::default();
        let before = self.slice_owner.get(&object).cloned();
        if let Some(before) = &before {
            let mut slices = self.slices_of(before).iter();
            if slices.any(|seen| seen.name == object.name && seen.kept.is_of(&slice.metadata)) {
                return dirty;
            }
            if owner.as_ref() != Some(before) {
                // Its label was changed: the Service that it left lacks it now.
                dirty.merge(self.delete_slice(&object));
            }
        }
        let (Some(owner), Some(writes)) = (owner, Writes::of(&slice)) else {
            return dirty;
        };
        // A turn may have mirrored while its Service gained a selector: nobody else would clean up.
        let unwanted = writes == Writes::Mirror && self.selectors.selects(&owner);
        if unwanted || self.tracker(writes).is_news(&owner, &slice) {
            dirty.batched.insert(writes.task(owner.clone()));
        }
        let slice = CachedSlice {
            name: Arc::clone(&object.name),
            writes,
            kept: Kept::of(slice, &mut self.texts),
        };
        let slices = self.slices.entry(owner.clone()).or_default();
        match slices.iter_mut().find(|seen| seen.name == slice.name) {
            Some(seen) => *seen = slice,
            None => slices.push(slice),
        }
        self.slice_owner.insert(object, owner.clone());
        self.bring_back(writes.task(owner), &mut dirty);
        dirty
    }

    /// Forgets a slice.
    pub(crate) fn delete_slice(&mut self, object: &ObjectKey) -> Dirty {
        let mut dirty = Dirty::default();
        let Some(owner) = self.slice_owner.remove(object) else {
            return dirty;
        };
        let Some(slices) = self.slices.get_mut(&owner) else {
            return dirty;
        };
        let position = slices.iter().position(|slice| slice.name == object.name);
        let slice = position.map(|position| slices.swap_remove(position));
        if slices.is_empty() {
            self.slices.remove(&owner);
        }
        let Some(CachedSlice { writes, kept, .. }) = slice else {
            return dirty;
        };
        let uid = &*kept.uid();
        if self.tracker(writes).vanished(&owner, uid) {
            dirty.batched.insert(writes.task(owner.clone()));
        }
        self.bring_back(writes.task(owner), &mut dirty);
        dirty
    }

    /// Forgets every slice that is not in a complete list.
    pub(crate) fn retain_slices(&mut self, listed: &BTreeSet<ObjectKey>) -> Dirty {
        let gone: Vec<ObjectKey> = self
            .slice_owner
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        self.each(gone, |cache, key| cache.delete_slice(&key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mirror_made_while_its_service_gained_a_selector_is_news_though_we_wrote_it() {
        let mut cache = Cache::default();
        let key = ServiceKey::new("shop", "web");
        let service = |selector: serde_json::Value| {
            let meta = json!({"namespace": "shop", "name": "web", "resourceVersion": selector.to_string()});
            serde_json::from_value(json!({"metadata": meta, "spec": {"selector": selector}})).unwrap()
        };
        cache.apply_service(service(json!({})));
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web-a", "uid": "1", "generation": 1, "labels": {
                names::SERVICE_NAME: "web", names::SLICE_MANAGED_BY: names::MIRROR_CONTROLLER,
            }},
            "addressType": "IPv4",
            "endpoints": [],
        }))
        .unwrap();
        cache.own_mirrors.written(&key, &slice.metadata);
        let dirty = cache.apply_service(service(json!({"app": "web"})));
        assert!(
            !dirty.now.contains(&Task::Mirror(key.clone())),
            "no mirror is known yet"
        );
        let dirty = cache.apply_slice(slice);
        assert!(dirty.batched.contains(&Task::Mirror(key)), "{dirty:?}");
    }
}
