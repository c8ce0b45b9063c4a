// SPDX-License-Identifier: Apache-2.0
//! All slices of one Service: families, strangers, placeholders, recycling.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::IpFamily;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::desired::{Groups, desired};
use super::hints::settle;
use super::identity::PortsKey;
use super::meta::{
    controller_ref, generate_name, is_owned_by, labels_differ, set_trigger_time, slice_labels,
};
use super::pack::pack;
use super::routing::Routing;
use super::topology::{Verdict, Written, ZoneShares};
use super::{FamilyCounts, Leftovers, SliceInput, SlicePlan, is_managed};
use crate::names;
use crate::plan::{ObjectRef, Plan};
use crate::service::{Labels, key_of, selector_of, slice_families};
use crate::skips::SkipReason;

/// What is to happen to the slices of one Service, before recycling.
#[derive(Default)]
struct Drafts {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

/// Plans the slices of one Service.
///
/// A Service without selector or of type ExternalName is left alone, or cleaned up where the options
/// say so; the reason is among the skips. A Service that is gone is the garbage collector's business.
pub fn plan_slices(input: &SliceInput<'_>) -> SlicePlan {
    let mut plan = SlicePlan::default();
    let service = input.service;
    let mut existing: Vec<Arc<EndpointSlice>> = input
        .existing
        .iter()
        .filter(|slice| is_managed(slice, names::SLICE_CONTROLLER, service.metadata.name.as_ref()))
        .map(Arc::clone)
        .collect();
    existing.sort_by(|left, right| left.metadata.name.cmp(&right.metadata.name));
    if let Err(reason) = selector_of(service) {
        plan.skips.add(reason, || key_of(&service.metadata).to_string());
        if input.options.leftovers == Leftovers::Delete {
            plan.writes.delete = existing
                .iter()
                .map(|slice| ObjectRef::of(&slice.metadata))
                .collect();
        }
        return plan;
    }

    plan.routing = Routing::of(service);
    let families = slice_families(service);
    let wanted = desired(service, input.pods, input.nodes, &families, &mut plan.skips);
    let labels = slice_labels(service);
    let mut drafts = Drafts::default();
    let mut by_family: BTreeMap<IpFamily, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        match families
            .iter()
            .find(|family| family.as_str() == slice.address_type)
        {
            Some(family) => by_family.entry(*family).or_default().push(slice),
            None => drafts.delete.push(slice),
        }
    }
    for (family, groups) in wanted {
        let slices = by_family.remove(&family).unwrap_or_default();
        let planner = FamilyPlanner {
            service,
            family,
            labels: &labels,
            max: input.options.max_endpoints,
            routing: plan.routing,
            shares: input.shares,
        };
        let (counts, verdict) = planner.plan(slices, groups, &mut drafts);
        plan.counts.insert(family, counts);
        plan.events.extend(plan.hints.note(input.hints, family, verdict));
    }
    finish(input, drafts, &mut plan);
    plan
}

/// Recycles, stamps and sorts out what may not be created.
fn finish(input: &SliceInput<'_>, mut drafts: Drafts, plan: &mut SlicePlan) {
    let service = input.service;
    recycle(
        &mut drafts.create,
        &mut drafts.update,
        &mut drafts.delete,
        |slice| is_owned_by(slice, service),
    );
    if service.metadata.deletion_timestamp.is_some() {
        // The garbage collector is at work on this Service's slices: creating one would race with it.
        plan.skips
            .add_many(SkipReason::OwnerTerminating, drafts.create.len(), || {
                key_of(&service.metadata).to_string()
            });
        drafts.create.clear();
    }
    for slice in drafts.create.iter_mut().chain(&mut drafts.update) {
        set_trigger_time(&mut slice.metadata, input.trigger_time);
        slice.metadata.managed_fields = None;
    }
    plan.writes = Plan {
        create: drafts.create,
        update: drafts.update,
        delete: drafts
            .delete
            .iter()
            .map(|slice| ObjectRef::of(&slice.metadata))
            .collect(),
    };
}

/// Turns creations into updates of slices of the same address type that would be deleted: one write
/// instead of two. Last creation to first deletion, as upstream pairs them. Such an update carries no
/// resource version: it replaces whatever is there.
pub(crate) fn recycle(
    create: &mut Vec<EndpointSlice>,
    update: &mut Vec<EndpointSlice>,
    delete: &mut Vec<Arc<EndpointSlice>>,
    may: impl Fn(&EndpointSlice) -> bool,
) {
    delete.retain(|doomed| {
        let fits = |slice: &EndpointSlice| slice.address_type == doomed.address_type;
        let position = create.iter().rposition(fits).filter(|_| may(doomed));
        let Some(position) = position else { return true };
        let mut slice = create.remove(position);
        slice.metadata.name.clone_from(&doomed.metadata.name);
        update.push(slice);
        false
    });
}

/// Plans one family of one Service.
struct FamilyPlanner<'a> {
    service: &'a Service,
    family: IpFamily,
    labels: &'a Labels,
    max: usize,
    routing: Routing,
    shares: &'a ZoneShares,
}

impl FamilyPlanner<'_> {
    fn plan(
        &self,
        existing: Vec<Arc<EndpointSlice>>,
        groups: Groups,
        drafts: &mut Drafts,
    ) -> (FamilyCounts, Option<Verdict>) {
        let mut counts = FamilyCounts::default();
        let before = existing.len();
        let (mut create, mut update, mut unchanged) = (Vec::new(), Vec::new(), Vec::new());
        let (owned, mut delete): (Vec<_>, Vec<_>) = existing
            .into_iter()
            .partition(|slice| is_owned_by(slice, self.service));
        let mut by_ports: BTreeMap<PortsKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in owned {
            by_ports
                .entry(PortsKey::of_slice(&slice))
                .or_default()
                .push(slice);
        }
        // Ports of Pods of which none can be published keep no slice: an empty one says nothing by its ports.
        for (key, group) in groups
            .into_iter()
            .filter(|(_, group)| !group.endpoints.is_empty())
        {
            let slices = by_ports.remove(&key).unwrap_or_default();
            counts.endpoints += group.endpoints.len();
            counts.optimal_slices += group.endpoints.len().div_ceil(self.max.max(1));
            let packed = pack(&slices, group.endpoints, self.max, |slice| {
                labels_differ(slice, self.labels)
            });
            counts.added += packed.added;
            counts.updated += packed.updated;
            counts.removed += packed.removed;
            let fresh = packed.create.into_iter();
            create.extend(fresh.map(|endpoints| self.fresh(group.ports.clone(), endpoints)));
            let changed = packed.update.into_iter();
            update.extend(changed.map(|(slice, endpoints)| self.changed(&slice, endpoints)));
            delete.extend(packed.delete);
            unchanged.extend(packed.unchanged);
        }
        for slice in by_ports.into_values().flatten() {
            counts.removed += slice.endpoints.as_ref().map_or(0, Vec::len);
            delete.push(slice);
        }
        if before == delete.len() && create.is_empty() {
            let placeholder = self.fresh(Vec::new(), Vec::new());
            match delete
                .iter()
                .position(|slice| is_placeholder(slice, &placeholder))
            {
                Some(position) => unchanged.push(delete.remove(position)),
                None => create.push(placeholder),
            }
        }
        // A family that has endpoints nowhere has its placeholder.
        counts.optimal_slices = counts.optimal_slices.max(1);
        counts.slices = before + create.len() - delete.len();
        let written = Written {
            create: &mut create,
            update: &mut update,
        };
        let verdict = settle(self.routing, written, &unchanged, self.shares);
        drafts.create.append(&mut create);
        drafts.update.append(&mut update);
        drafts.delete.append(&mut delete);
        (counts, verdict)
    }

    /// A slice that does not exist yet.
    fn fresh(&self, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let meta = &self.service.metadata;
        EndpointSlice {
            address_type: self.family.as_str().to_owned(),
            endpoints: Some(endpoints),
            ports: Some(ports),
            metadata: ObjectMeta {
                generate_name: Some(generate_name(meta.name.as_deref().unwrap_or_default())),
                namespace: meta.namespace.clone(),
                labels: Some(self.labels.clone()),
                owner_references: Some(vec![controller_ref::<Service>(meta)]),
                ..ObjectMeta::default()
            },
        }
    }

    /// A slice with other endpoints and right labels; all else about it stays.
    fn changed(&self, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let mut metadata = slice.metadata.clone();
        metadata.labels = Some(self.labels.clone());
        EndpointSlice {
            address_type: slice.address_type.clone(),
            endpoints: Some(endpoints),
            ports: slice.ports.clone(),
            metadata,
        }
    }
}

/// Whether a slice can stay as the placeholder: nothing in it, and labels and owner right.
fn is_placeholder(slice: &EndpointSlice, placeholder: &EndpointSlice) -> bool {
    let none = |count: Option<usize>| count.unwrap_or_default() == 0;
    none(slice.endpoints.as_ref().map(Vec::len))
        && none(slice.ports.as_ref().map(Vec::len))
        && slice.metadata.labels == placeholder.metadata.labels
        && slice.metadata.owner_references == placeholder.metadata.owner_references
}
