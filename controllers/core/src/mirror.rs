// SPDX-License-Identifier: Apache-2.0
//! Slices that mirror hand-written Endpoints of Services without a selector.

#[cfg(test)]
mod mentions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{IpFamily, ServiceKey};
use k8s_openapi::api::core::v1::{self as core, EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::address;
use crate::endpoints::{Canonical, is_leader_election};
use crate::names;
use crate::plan::{ObjectRef, Plan};
use crate::pods::TCP;
use crate::service::{Labels, key_of};
use crate::skips::{SkipReason, Skips};
use crate::slices::{
    EndpointId, FamilyCounts, PortsKey, controller_ref, generate_name, is_managed, recycle,
    same_beyond_identity,
};

/// Everything that the mirrored slices of one name depend on.
#[derive(Clone, Copy, Debug)]
pub struct MirrorInput<'a> {
    /// Namespace and name, of the Endpoints and of the Service.
    pub key: &'a ServiceKey,
    /// The Endpoints, if there are any.
    pub endpoints: Option<&'a Endpoints>,
    /// The Service, if there is one.
    pub service: Option<&'a Service>,
    /// Slices that carry the service-name label. Others' and those being deleted are left alone.
    pub existing: &'a [Arc<EndpointSlice>],
    /// Addresses mirrored per subset, 1 to 1000 (upstream's `--mirroring-max-endpoints-per-subset`).
    pub max_endpoints: usize,
}

/// Upstream's default of [`MirrorInput::max_endpoints`].
pub const DEFAULT_MAX_ENDPOINTS: usize = 1000;

/// The writes for one Endpoints object, and what was left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MirrorPlan {
    /// The writes.
    pub writes: Plan<EndpointSlice>,
    /// What was left out. `InvalidAddress` and `OverCapacity` are worth an event on the Endpoints;
    /// any other reason says why nothing is mirrored.
    pub skips: Skips,
    /// Figures per family.
    pub counts: BTreeMap<IpFamily, FamilyCounts>,
}

impl MirrorPlan {
    /// Addresses of the Endpoints that are in no slice: unreadable ones and those over the cap
    /// (`addresses_skipped_per_sync`).
    pub fn addresses_skipped(&self) -> usize {
        self.skips.count(SkipReason::InvalidAddress) + self.skips.count(SkipReason::OverCapacity)
    }
}

/// Whether these Endpoints are mirrored.
///
/// # Errors
/// Why they are not.
pub fn mirrored<'a>(
    endpoints: Option<&'a Endpoints>,
    service: Option<&Service>,
) -> Result<&'a Endpoints, SkipReason> {
    let endpoints = endpoints.ok_or(SkipReason::EndpointsMissing)?;
    let labels = endpoints.metadata.labels.as_ref();
    let skip = labels.and_then(|labels| labels.get(names::SKIP_MIRROR));
    if skip.map(String::as_str) == Some("true") {
        return Err(SkipReason::MirrorDisabled);
    }
    if is_leader_election(endpoints) {
        return Err(SkipReason::LeaderElection);
    }
    let service = service.ok_or(SkipReason::ServiceMissing)?;
    let spec = service.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    if selector.is_some_and(|selector| !selector.is_empty()) {
        return Err(SkipReason::ServiceWithSelector);
    }
    Ok(endpoints)
}

/// One slice per family and port list.
type GroupKey = (IpFamily, PortsKey);

/// What a group should hold.
#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

/// Plans the slices that mirror one Endpoints object. Where it is not mirrored, slices that were
/// are deleted.
pub fn plan_mirror(input: &MirrorInput<'_>) -> MirrorPlan {
    let mut plan = MirrorPlan::default();
    let name = input.key.name().to_owned();
    let mut existing: Vec<Arc<EndpointSlice>> = input
        .existing
        .iter()
        .filter(|slice| is_managed(slice, names::MIRROR_CONTROLLER, Some(&name)))
        .map(Arc::clone)
        .collect();
    existing.sort_by(|left, right| left.metadata.name.cmp(&right.metadata.name));
    let endpoints = match mirrored(input.endpoints, input.service) {
        Ok(endpoints) => endpoints,
        Err(reason) => {
            plan.skips.add(reason, || input.key.to_string());
            plan.writes.delete = existing
                .iter()
                .map(|slice| ObjectRef::of(&slice.metadata))
                .collect();
            return plan;
        }
    };
    let groups = wanted(endpoints, input.max_endpoints.max(1), &mut plan.skips);
    write(endpoints, groups, existing, &mut plan);
    plan
}

/// The groups, after repacking: several subsets may name one address.
fn wanted(endpoints: &Endpoints, max: usize, skips: &mut Skips) -> BTreeMap<GroupKey, Group> {
    let mut groups: BTreeMap<GroupKey, Group> = BTreeMap::new();
    for subset in Canonical::of(endpoints.subsets.as_deref().unwrap_or_default()).to_subsets() {
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
        let key = PortsKey::of(&ports);
        for (family, endpoint) in readable(&subset, max, skips) {
            let group = groups.entry((family, key.clone())).or_insert_with(|| Group {
                ports: ports.clone(),
                endpoints: Vec::new(),
            });
            group.endpoints.push(endpoint);
        }
    }
    for group in groups.values_mut() {
        distinct(&mut group.endpoints);
    }
    groups
}

/// An address that is written in two ways is one endpoint: the last mention, and so not ready, counts.
fn distinct(endpoints: &mut Vec<Endpoint>) {
    let mut last = BTreeMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        last.insert(EndpointId::of(endpoint), index);
    }
    let last: BTreeSet<usize> = last.into_values().collect();
    let mut index = 0..;
    endpoints.retain(|_| index.next().is_some_and(|index| last.contains(&index)));
}

/// The first `max` readable addresses, ready ones first.
fn readable(subset: &EndpointSubset, max: usize, skips: &mut Skips) -> Vec<(IpFamily, Endpoint)> {
    let lists = [(&subset.addresses, true), (&subset.not_ready_addresses, false)];
    let addresses = lists
        .into_iter()
        .flat_map(|(list, ready)| list.iter().flatten().map(move |address| (address, ready)));
    let mut taken = Vec::new();
    for (address, ready) in addresses {
        if taken.len() == max {
            skips.add(SkipReason::OverCapacity, || {
                format!("{}, a subset mirrors at most {max} addresses", address.ip)
            });
            continue;
        }
        match endpoint(address, ready) {
            Some(found) => taken.push(found),
            None => skips.add(SkipReason::InvalidAddress, || address.ip.clone()),
        }
    }
    taken
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(IpFamily, Endpoint)> {
    let addr = address::parse(&address.ip)?;
    let endpoint = Endpoint {
        addresses: vec![addr.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((IpFamily::of(addr), endpoint))
}

fn port(port: &core::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| TCP.to_owned())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn write(
    endpoints: &Endpoints,
    groups: BTreeMap<GroupKey, Group>,
    existing: Vec<Arc<EndpointSlice>>,
    plan: &mut MirrorPlan,
) {
    let (mut create, mut update, mut delete) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_group: BTreeMap<GroupKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        let mut families = IpFamily::ALL.into_iter();
        match families.find(|family| family.as_str() == slice.address_type) {
            Some(family) => {
                let key = (family, PortsKey::of_slice(&slice));
                by_group.entry(key).or_default().push(slice);
            }
            None => delete.push(slice),
        }
    }
    for (key, group) in groups {
        let mut slices = by_group.remove(&key).unwrap_or_default();
        let counts = plan.counts.entry(key.0).or_default();
        counts.endpoints += group.endpoints.len();
        counts.slices += 1;
        counts.optimal_slices += 1;
        let wanted = mirror_slice(endpoints, key.0, group);
        // The one that is right stays, whichever it is; else the first by name is written.
        let keep = slices.iter().position(|slice| is_right(slice, &wanted));
        if slices.is_empty() {
            counts.added += wanted.endpoints.as_ref().map_or(0, Vec::len);
            create.push(wanted);
            continue;
        }
        let kept = slices.remove(keep.unwrap_or(0));
        delete.append(&mut slices);
        count_changes(counts, &kept, &wanted);
        if keep.is_none() {
            let mut wanted = wanted;
            wanted.metadata.name.clone_from(&kept.metadata.name);
            update.push(wanted);
        }
    }
    for ((family, _), slices) in by_group {
        for slice in slices {
            let counts = plan.counts.entry(family).or_default();
            counts.removed += slice.endpoints.as_ref().map_or(0, Vec::len);
            delete.push(slice);
        }
    }
    recycle(&mut create, &mut update, &mut delete, |_| true);
    if endpoints.metadata.deletion_timestamp.is_some() {
        plan.skips
            .add_many(SkipReason::OwnerTerminating, create.len(), || {
                key_of(&endpoints.metadata).to_string()
            });
        create.clear();
    }
    plan.writes = Plan {
        create,
        update,
        delete: delete
            .iter()
            .map(|slice| ObjectRef::of(&slice.metadata))
            .collect(),
    };
}

/// The slice of one group, complete. An update replaces everything: it carries no resource version.
fn mirror_slice(endpoints: &Endpoints, family: IpFamily, group: Group) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels: Labels = meta.labels.clone().unwrap_or_default();
    labels.insert(names::SERVICE_NAME.to_owned(), name.clone());
    labels.insert(
        names::SLICE_MANAGED_BY.to_owned(),
        names::MIRROR_CONTROLLER.to_owned(),
    );
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.remove(names::TRIGGER_TIME);
    annotations.remove(names::LAST_APPLIED);
    EndpointSlice {
        address_type: family.as_str().to_owned(),
        endpoints: Some(group.endpoints),
        ports: Some(group.ports),
        metadata: ObjectMeta {
            generate_name: Some(generate_name(&name)),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_ref::<Endpoints>(meta)]),
            ..ObjectMeta::default()
        },
    }
}

/// Whether a slice needs no write.
fn is_right(slice: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let annotations = |slice: &EndpointSlice| slice.metadata.annotations.clone().unwrap_or_default();
    let uid = |slice: &EndpointSlice| -> Option<String> {
        let owners = slice.metadata.owner_references.as_deref().unwrap_or_default();
        owners.first().map(|owner| owner.uid.clone())
    };
    slice.metadata.labels == wanted.metadata.labels
        && annotations(slice) == annotations(wanted)
        && uid(slice) == uid(wanted)
        && same_endpoints(slice, wanted)
}

/// Counts what replacing one slice by another adds, changes and removes.
fn count_changes(counts: &mut FamilyCounts, before: &EndpointSlice, after: &EndpointSlice) {
    let (before, after) = (by_id(before), by_id(after));
    let kept: Vec<(&Endpoint, &Endpoint)> = before
        .iter()
        .filter_map(|(id, endpoint)| Some((*endpoint, *after.get(id)?)))
        .collect();
    counts.added += after.len() - kept.len();
    counts.removed += before.len() - kept.len();
    let updated = kept
        .iter()
        .filter(|(before, after)| !same_beyond_identity(before, after));
    counts.updated += updated.count();
}

fn by_id(slice: &EndpointSlice) -> BTreeMap<EndpointId<'_>, &Endpoint> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints
        .map(|endpoint| (EndpointId::of(endpoint), endpoint))
        .collect()
}

fn same_endpoints(left: &EndpointSlice, right: &EndpointSlice) -> bool {
    let count = |slice: &EndpointSlice| slice.endpoints.as_deref().unwrap_or_default().len();
    if count(left) != count(right) {
        return false;
    }
    let (left, right) = (by_id(left), by_id(right));
    left.len() == right.len()
        && left
            .iter()
            .zip(&right)
            .all(|(left, right)| left.0 == right.0 && same_beyond_identity(left.1, right.1))
}
