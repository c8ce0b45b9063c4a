// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices of a Service with a selector.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_controllers_core::plan::Plan;
use berth_controllers_core::skips::SkipReason;
use berth_controllers_core::slices::topology::{HintState, ZoneShares};
use berth_controllers_core::slices::{Nodes, SliceInput, SlicePlan, plan_slices};
use berth_controllers_core::tracker::Stale;
use berth_controllers_core::trigger::Sight;
use berth_controllers_core::{names, selector_of};
use berth_model::ServiceKey;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;

use super::compaction::Decision;
use super::{DOUBT_AFTER, Turn, about, one_line};
use crate::Controller;
use crate::cache::Writes;
use crate::context::Context;
use crate::events::Note;
use crate::metrics::{Operation, changed_by_family};
use crate::write::{TurnError, WriteError};

/// What the plan is made from.
struct Snapshot {
    service: Arc<Service>,
    pods: Vec<Arc<Pod>>,
    nodes: Arc<Nodes>,
    shares: Arc<ZoneShares>,
    hints: HintState,
    existing: Vec<Arc<EndpointSlice>>,
    sight: Sight,
}

pub(super) async fn turn(context: &Context, key: &ServiceKey, failures: u32) -> Result<Turn, TurnError> {
    let mut taken = snapshot(context, key);
    if taken.is_err() && failures >= DOUBT_AFTER {
        catch_up(context, key, Writes::Slices).await?;
        taken = snapshot(context, key);
    }
    let snapshot = match taken {
        Ok(Some(snapshot)) => snapshot,
        Ok(None) => {
            // The slices of a Service that is gone are the garbage collector's: they name it as owner.
            context.metrics.slices.forget(key);
            if let Some(compactor) = &context.compactor {
                compactor.forget(key);
            }
            return Ok(Turn::Done);
        }
        Err(stale) => return Ok(Turn::Behind(stale.to_string())),
    };
    let plan = plan_slices(&SliceInput {
        service: &snapshot.service,
        pods: &snapshot.pods,
        nodes: &snapshot.nodes,
        existing: &snapshot.existing,
        trigger_time: snapshot.sight.time(),
        options: context.args.slice_options(),
        shares: &snapshot.shares,
        hints: &snapshot.hints,
    });
    if !plan.writes.is_empty() {
        tracing::debug!(service = %key, plan = one_line(&plan.writes), skips = %plan.skips, "slices");
    }
    carry_out(context, key, snapshot, plan).await
}

/// Makes the writes and tells everybody concerned.
async fn carry_out(
    context: &Context,
    key: &ServiceKey,
    snapshot: Snapshot,
    mut plan: SlicePlan,
) -> Result<Turn, TurnError> {
    let changed = changed_by_family(&plan, &snapshot.existing);
    let quiet = plan.writes.is_empty();
    context.metrics.slices.planned(key, &plan);
    context.cache().topology.set(key, std::mem::take(&mut plan.hints));
    let applied = apply(context, key, Writes::Slices, std::mem::take(&mut plan.writes)).await;
    for event in &plan.events {
        context.events.note(Note {
            reporter: Controller::EndpointSlices.into(),
            about: about(&*snapshot.service),
            warning: event.is_warning(),
            reason: event.reason(),
            text: event.to_string(),
        });
    }
    let missing = plan
        .skips
        .has(SkipReason::NodeUnknown)
        .then(|| plan.skips.to_string());
    let trouble = match &applied {
        Ok(()) => missing.clone(),
        Err(failed) => failed.error.is_news().then(|| failed.error.to_string()),
    };
    if let Some(trouble) = trouble {
        context.events.note(Note {
            reporter: Controller::EndpointSlices.into(),
            about: about(&*snapshot.service),
            warning: true,
            reason: "FailedToUpdateEndpointSlices",
            text: format!("Error updating Endpoint Slices for Service {key}: {trouble}"),
        });
    }
    applied?;
    context.metrics.slices.settled(plan.routing, &changed);
    context.cache().slice_triggers.commit(key, snapshot.sight);
    if let Some(missing) = missing {
        return Ok(Turn::Incomplete(missing));
    }
    compact(context, key, &snapshot.service, &snapshot.existing, quiet).await?;
    Ok(Turn::Done)
}

/// Compacts where that is asked for, or sees to it that the Service is looked at again.
async fn compact(
    context: &Context,
    key: &ServiceKey,
    service: &Service,
    existing: &[Arc<EndpointSlice>],
    quiet: bool,
) -> Result<(), TurnError> {
    let Some(compactor) = &context.compactor else {
        return Ok(());
    };
    let wait = if quiet {
        match compactor.decide(key, service, existing) {
            Decision::Leave => return Ok(()),
            Decision::Wait(wait) => wait,
            Decision::Write(plan) => {
                tracing::info!(service = %key, plan = one_line(&plan), "compaction");
                apply(context, key, Writes::Slices, plan).await?;
                compactor.written(key)
            }
        }
    } else {
        compactor.written(key)
    };
    context.enqueue(Writes::Slices.task(key.clone()), wait);
    Ok(())
}

fn snapshot(context: &Context, key: &ServiceKey) -> Result<Option<Snapshot>, Stale> {
    let mut cache = context.cache();
    let Some(service) = cache.service(key) else {
        cache.own_slices.forget(key);
        cache.slice_triggers.forget(key);
        cache.topology.forget(key);
        return Ok(None);
    };
    let existing = cache.slices_by(key, Writes::Slices);
    if let Some(stale) = cache.own_slices.stale(key, existing.iter().map(|slice| &**slice)) {
        cache.put_off(Writes::Slices.task(key.clone()));
        return Err(stale);
    }
    let pods = selector_of(&service)
        .map(|selector| cache.pods.select(key.namespace(), selector))
        .unwrap_or_default();
    Ok(Some(Snapshot {
        nodes: Arc::clone(&cache.nodes),
        shares: Arc::clone(&cache.shares),
        hints: cache.topology.get(key),
        sight: cache.slice_triggers.look(key, &service, &pods),
        service,
        pods,
        existing,
    }))
}

/// Makes the writes, in order, and tells the tracker of each. The first that fails is the last: those
/// after it may rely on it.
pub(super) async fn apply(
    context: &Context,
    key: &ServiceKey,
    writes: Writes,
    plan: Plan<EndpointSlice>,
) -> Result<(), TurnError> {
    let mut progress = false;
    let failed = |progress| move |error| TurnError { error, progress };
    for slice in &plan.create {
        let created = context.writer.create(slice).await;
        let stored = created.map_err(failed(progress))?;
        progress = true;
        context.metrics.slice_changed(writes, Operation::Create);
        context.cache().tracker(writes).written(key, &stored);
    }
    for slice in &plan.update {
        let replaced = context.writer.replace(slice).await;
        let stored = replaced.map_err(failed(progress))?;
        progress = true;
        context.metrics.slice_changed(writes, Operation::Update);
        context.cache().tracker(writes).written(key, &stored);
    }
    for object in &plan.delete {
        let deleted = context.writer.delete::<EndpointSlice>(object).await;
        deleted.map_err(failed(progress))?;
        progress = true;
        context.metrics.slice_changed(writes, Operation::Delete);
        let uid = object.uid.as_deref().unwrap_or_default();
        let mut cache = context.cache();
        // The watch may have been faster: then there is nothing left to expect.
        if cache.has_slice(key, uid) {
            cache.tracker(writes).deleted(key, uid);
        }
    }
    Ok(())
}

/// Forgets slices that were written but deleted before the watch ever showed them: the only case in
/// which no news comes.
pub(super) async fn catch_up(context: &Context, key: &ServiceKey, writes: Writes) -> Result<(), WriteError> {
    let api: Api<EndpointSlice> = Api::namespaced(context.writer.client(), key.namespace());
    let labels = format!("{}={}", names::SERVICE_NAME, key.name());
    let list = api
        .list_metadata(&ListParams::default().labels(&labels))
        .await
        .map_err(|error| WriteError::of(&error))?;
    let live: BTreeSet<String> = list
        .items
        .into_iter()
        .filter_map(|slice| slice.metadata.uid)
        .collect();
    let mut cache = context.cache();
    let cached = cache.slices_by(key, writes);
    let tracker = cache.tracker(writes);
    while let Some(Stale::Missing { uid }) = tracker.stale(key, cached.iter().map(|slice| &**slice)) {
        if live.contains(&uid) {
            break;
        }
        tracker.vanished(key, &uid);
    }
    Ok(())
}
