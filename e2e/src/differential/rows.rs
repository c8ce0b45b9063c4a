// SPDX-License-Identifier: Apache-2.0
//! What the two sides are compared by: Endpoints and slices taken apart into rows.

use serde::Serialize;

use super::step::Map;

pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Who writes a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Writer {
    Selector,
    Mirror,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Port {
    pub(super) name: Option<String>,
    pub(super) port: Option<i32>,
    pub(super) protocol: Option<String>,
    pub(super) app: Option<String>,
}

/// What an address stands for: kind, namespace, name, and whether the uid is that of the object of this name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Target {
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(super) uid: Identity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Identity {
    Current,
    Outdated,
    None,
}

/// One address of an Endpoints object, for one of the ports it serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct AddressRow {
    pub(crate) port: Option<Port>,
    pub(crate) ip: String,
    pub(crate) ready: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) target: Option<Target>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointsView {
    pub(crate) labels: Map,
    /// All but the trigger time, which depends on when the controller looked.
    pub(crate) annotations: Map,
    pub(crate) rows: Vec<AddressRow>,
    pub(crate) owned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct EndpointRow {
    pub(crate) addresses: Vec<String>,
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    pub(crate) hostname: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) target: Option<Target>,
    pub(crate) for_zones: Vec<String>,
    pub(crate) for_nodes: Vec<String>,
}

impl EndpointRow {
    /// What does not change while it is the same endpoint: several Pods may have a node's address.
    pub(crate) fn identity(&self) -> (&[String], Option<&String>) {
        let target = self.target.as_ref().and_then(|target| target.name.as_ref());
        (&self.addresses, target)
    }

    #[cfg(test)]
    pub(crate) fn of_address(address: &str) -> Self {
        Self {
            addresses: vec![address.to_owned()],
            ready: None,
            serving: None,
            terminating: None,
            hostname: None,
            node: None,
            zone: None,
            target: None,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
        }
    }
}

/// One endpoint with what its slice says of it; an empty slice is a row without endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct SliceRow {
    pub(crate) family: String,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoint: Option<EndpointRow>,
    pub(super) owner: Option<Target>,
    pub(crate) labels: Map,
    pub(super) annotations: Map,
}

impl SliceRow {
    /// Whether this is an empty slice of an earlier object of its owner's name; it is not any more. The one label that
    /// upstream overlooks when it keeps such a slice is then that of the current owner, too.
    pub(crate) fn adopt_placeholder(&mut self, headless: bool) -> bool {
        match &mut self.owner {
            Some(owner) if self.endpoint.is_none() && owner.uid == Identity::Outdated => {
                owner.uid = Identity::Current;
                self.labels.remove(HEADLESS);
                if headless {
                    self.labels.insert(HEADLESS.to_owned(), String::new());
                }
                true
            }
            Some(_) | None => false,
        }
    }
}
