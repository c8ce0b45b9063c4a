// SPDX-License-Identifier: Apache-2.0
//! The canonical form of subsets: each port once, next to exactly the addresses that serve it.
//!
//! The order of ports and subsets in the API has no meaning and differs between writers (the API
//! server itself reorders them), so both sides are brought into this form before they are compared.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};

use crate::pods::TCP;
use crate::slices::same_target;

/// One port, with the API's defaults applied. `None` stands for "no port" (portless headless Services).
type PortKey<'a> = Option<(&'a str, i32, &'a str, Option<&'a str>)>;

/// Address and uid of the target: addresses sort by text, then by uid.
type AddressKey<'a> = (&'a str, &'a str);

/// An address and whether it is ready.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    address: &'a EndpointAddress,
    ready: bool,
}

type Addresses<'a> = BTreeMap<AddressKey<'a>, Entry<'a>>;

/// One subset: its ports, sorted, and its addresses.
type Subset<'a> = (Vec<PortKey<'a>>, Addresses<'a>);

/// What tells one set of addresses from another.
type AddressesKey<'a> = Vec<(AddressKey<'a>, bool)>;

/// Subsets in canonical form, borrowed from where they came. Equality ignores the resource versions
/// of targets.
#[derive(Debug)]
pub(crate) struct Canonical<'a> {
    subsets: Vec<Subset<'a>>,
}

impl<'a> Canonical<'a> {
    pub(crate) fn of(subsets: &'a [EndpointSubset]) -> Self {
        // Ports that occur in the same subsets share their addresses: no product of ports and addresses.
        let mut sources: BTreeMap<PortKey<'a>, Vec<usize>> = BTreeMap::new();
        for (index, subset) in subsets.iter().enumerate() {
            let ports = subset.ports.as_deref().unwrap_or_default();
            let keys = ports.iter().map(port_key);
            for key in keys.chain(ports.is_empty().then_some(None)) {
                let indices = sources.entry(key).or_default();
                if indices.last() != Some(&index) {
                    indices.push(index);
                }
            }
        }
        let mut by_sources: BTreeMap<Vec<usize>, Vec<PortKey<'a>>> = BTreeMap::new();
        for (port, indices) in sources {
            by_sources.entry(indices).or_default().push(port);
        }
        let first = first_mentions(subsets);
        let mut by_addresses: BTreeMap<AddressesKey<'a>, Subset<'a>> = BTreeMap::new();
        for (indices, ports) in by_sources {
            let addresses = union(indices.iter().map(|index| &subsets[*index]), &first);
            if addresses.is_empty() {
                continue;
            }
            let identity = addresses.iter().map(|(key, entry)| (*key, entry.ready)).collect();
            let (all, _) = by_addresses
                .entry(identity)
                .or_insert_with(|| (Vec::new(), addresses));
            all.extend(ports);
        }
        let mut subsets: Vec<_> = by_addresses.into_values().collect();
        for (ports, _) in &mut subsets {
            // "No port" beside real ports says nothing.
            if ports.len() > 1 {
                ports.retain(Option::is_some);
            }
            ports.sort_unstable();
        }
        subsets.sort_by(|(left, _), (right, _)| left.cmp(right));
        Self { subsets }
    }

    /// How many addresses, counted once per subset, as the capacity is.
    pub(crate) fn len(&self) -> usize {
        self.subsets.iter().map(|(_, addresses)| addresses.len()).sum()
    }

    /// The form that is written.
    pub(crate) fn to_subsets(&self) -> Vec<EndpointSubset> {
        let list = |addresses: &Addresses<'_>, ready: bool| {
            let entries = addresses.values().filter(|entry| entry.ready == ready);
            let list: Vec<EndpointAddress> = entries.map(|entry| entry.address.clone()).collect();
            (!list.is_empty()).then_some(list)
        };
        let subset = |(ports, addresses): &Subset<'_>| {
            let ports: Vec<EndpointPort> = ports.iter().copied().filter_map(to_port).collect();
            EndpointSubset {
                addresses: list(addresses, true),
                not_ready_addresses: list(addresses, false),
                ports: (!ports.is_empty()).then_some(ports),
            }
        };
        self.subsets.iter().map(subset).collect()
    }
}

impl PartialEq for Canonical<'_> {
    fn eq(&self, other: &Self) -> bool {
        let same = |left: &Addresses<'_>, right: &Addresses<'_>| {
            left.len() == right.len()
                && left.values().zip(right.values()).all(|(left, right)| {
                    left.ready == right.ready && same_address(left.address, right.address)
                })
        };
        self.subsets.len() == other.subsets.len()
            && self
                .subsets
                .iter()
                .zip(&other.subsets)
                .all(|(left, right)| left.0 == right.0 && same(&left.1, &right.1))
    }
}

fn same_address(left: &EndpointAddress, right: &EndpointAddress) -> bool {
    let hostname = |address: &EndpointAddress| address.hostname.clone().unwrap_or_default();
    left.ip == right.ip
        && hostname(left) == hostname(right)
        && left.node_name == right.node_name
        && same_target(left.target_ref.as_ref(), right.target_ref.as_ref())
}

/// Every address of a subset, ready ones first.
fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = Entry<'_>> {
    [(&subset.addresses, true), (&subset.not_ready_addresses, false)]
        .into_iter()
        .flat_map(|(list, ready)| list.iter().flatten().map(move |address| Entry { address, ready }))
}

fn address_key(address: &EndpointAddress) -> AddressKey<'_> {
    let target = address.target_ref.as_ref();
    let uid = target.and_then(|target| target.uid.as_deref());
    (address.ip.as_str(), uid.unwrap_or_default())
}

/// What is said of an address where it is first mentioned holds in every subset.
fn first_mentions(subsets: &[EndpointSubset]) -> BTreeMap<AddressKey<'_>, &EndpointAddress> {
    let mut first = BTreeMap::new();
    for entry in subsets.iter().flat_map(addresses) {
        first.entry(address_key(entry.address)).or_insert(entry.address);
    }
    first
}

/// All addresses of some subsets; not ready wins.
fn union<'a>(
    subsets: impl Iterator<Item = &'a EndpointSubset>,
    first: &BTreeMap<AddressKey<'a>, &'a EndpointAddress>,
) -> Addresses<'a> {
    let mut all = Addresses::new();
    for Entry { address, ready } in subsets.flat_map(addresses) {
        let key = address_key(address);
        let address = first.get(&key).copied().unwrap_or(address);
        all.entry(key)
            .and_modify(|entry| entry.ready &= ready)
            .or_insert(Entry { address, ready });
    }
    all
}

fn port_key(port: &EndpointPort) -> PortKey<'_> {
    Some((
        port.name.as_deref().unwrap_or_default(),
        port.port,
        port.protocol.as_deref().unwrap_or(TCP),
        port.app_protocol.as_deref(),
    ))
}

fn to_port(key: PortKey<'_>) -> Option<EndpointPort> {
    let (name, port, protocol, app_protocol) = key?;
    Some(EndpointPort {
        name: (!name.is_empty()).then(|| name.to_owned()),
        port,
        protocol: Some(protocol.to_owned()),
        app_protocol: app_protocol.map(str::to_owned),
    })
}
