// SPDX-License-Identifier: Apache-2.0
//! When are two endpoints, or two port lists, the same one?

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::pods::TCP;

/// What makes an endpoint the same one over time: addresses, host name, and the namespace and name
/// of its target. Everything else about it may change in place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndpointId<'a> {
    first: &'a str,
    /// Empty for nearly every endpoint, and then without an allocation.
    more: Vec<&'a str>,
    hostname: &'a str,
    namespace: &'a str,
    name: &'a str,
}

#[cfg(test)]
thread_local! {
    /// How often an endpoint was looked at: what the scale tests count.
    pub(crate) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl<'a> EndpointId<'a> {
    pub(crate) fn of(endpoint: &'a Endpoint) -> Self {
        #[cfg(test)]
        LOOKS.set(LOOKS.get() + 1);
        let mut addresses = endpoint.addresses.iter().map(String::as_str);
        let mut first = addresses.next().unwrap_or_default();
        let mut more: Vec<&str> = addresses.collect();
        if !more.is_empty() {
            more.push(first);
            more.sort_unstable();
            first = more.remove(0);
        }
        let target = endpoint.target_ref.as_ref();
        let text = |part: fn(&ObjectReference) -> Option<&String>| {
            target.and_then(part).map(String::as_str).unwrap_or_default()
        };
        Self {
            first,
            more,
            hostname: endpoint.hostname.as_deref().unwrap_or_default(),
            namespace: text(|target| target.namespace.as_ref()),
            name: text(|target| target.name.as_ref()),
        }
    }
}

/// Whether two endpoints of one identity need no write. Hints are settled elsewhere; the resource
/// version of a target says nothing about the endpoint.
pub(crate) fn same_beyond_identity(left: &Endpoint, right: &Endpoint) -> bool {
    let conditions = |endpoint: &Endpoint| endpoint.conditions.clone().unwrap_or_default();
    left.node_name == right.node_name
        && left.zone == right.zone
        && conditions(left) == conditions(right)
        && same_target(left.target_ref.as_ref(), right.target_ref.as_ref())
}

/// Equality of references, resource version aside. Absent and empty are the same on the wire.
pub(crate) fn same_target(left: Option<&ObjectReference>, right: Option<&ObjectReference>) -> bool {
    let (left, right) = match (left, right) {
        (None, None) => return true,
        (Some(left), Some(right)) => (left, right),
        (Some(_), None) | (None, Some(_)) => return false,
    };
    let same = |part: fn(&ObjectReference) -> Option<&String>| {
        let text = |target| part(target).map(String::as_str).unwrap_or_default();
        text(left) == text(right)
    };
    same(|target| target.kind.as_ref())
        && same(|target| target.namespace.as_ref())
        && same(|target| target.name.as_ref())
        && same(|target| target.uid.as_ref())
        && same(|target| target.api_version.as_ref())
        && same(|target| target.field_path.as_ref())
}

/// One port, with the API's defaults applied: name, protocol, number, application protocol.
type PortKey = (String, String, Option<i32>, Option<String>);

/// The ports of a slice, in any order: slices of one Service and family with equal ports form a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortsKey(Vec<PortKey>);

impl PortsKey {
    pub(crate) fn of(ports: &[EndpointPort]) -> Self {
        let key = |port: &EndpointPort| {
            (
                port.name.clone().unwrap_or_default(),
                port.protocol.clone().unwrap_or_else(|| TCP.to_owned()),
                port.port,
                port.app_protocol.clone(),
            )
        };
        let mut keys: Vec<PortKey> = ports.iter().map(key).collect();
        keys.sort_unstable();
        Self(keys)
    }

    pub(crate) fn of_slice(slice: &EndpointSlice) -> Self {
        Self::of(slice.ports.as_deref().unwrap_or_default())
    }
}
