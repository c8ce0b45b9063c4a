// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices of a Service with a selector.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_controllers_core::plan::Plan;
use berth_controllers_core::skips::SkipReason;
use berth_controllers_core::slices::topology::{HintState, ZoneShares};
use berth_controllers_core::slices::{Nodes, SliceInput, plan_slices};
use berth_controllers_core::tracker::Stale;
use berth_controllers_core::{names, selector_of};
use berth_model::ServiceKey;
use berth_runtime::client::explain;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;

use super::{DOUBT_AFTER, Turn, about, one_line};
use crate::Controller;
use crate::cache::Writes;
use crate::context::Context;
use crate::events::Note;
use crate::write::WriteError;

/// What the plan is made from.
struct Snapshot {
    service: Arc<Service>,
    pods: Vec<Arc<Pod>>,
    nodes: Arc<Nodes>,
    existing: Vec<Arc<EndpointSlice>>,
    trigger_time: Option<Timestamp>,
}

pub(super) async fn turn(context: &Context, key: &ServiceKey, failures: u32) -> Result<Turn, WriteError> {
    if failures >= DOUBT_AFTER {
        catch_up(context, key, Writes::Slices).await?;
    }
    let snapshot = match snapshot(context, key) {
        Ok(Some(snapshot)) => snapshot,
        // The slices of a Service that is gone are the garbage collector's: they name it as owner.
        Ok(None) => return Ok(Turn::Done),
        Err(stale) => return Ok(Turn::Behind(stale.to_string())),
    };
    let plan = plan_slices(&SliceInput {
        service: &snapshot.service,
        pods: &snapshot.pods,
        nodes: &snapshot.nodes,
        existing: &snapshot.existing,
        trigger_time: snapshot.trigger_time,
        options: context.args.slice_options(),
        shares: &ZoneShares::default(),
        hints: &HintState::default(),
    });
    if !plan.writes.is_empty() {
        tracing::debug!(service = %key, plan = one_line(&plan.writes), skips = %plan.skips, "slices");
    }
    let missing = plan.skips.has(SkipReason::NodeUnknown);
    let complain = |text: &str| {
        context.events.note(Note {
            controller: Controller::EndpointSlices,
            about: about(&*snapshot.service),
            warning: true,
            reason: "FailedToUpdateEndpointSlices",
            action: "UpdateEndpointSlices",
            text: format!("Error updating Endpoint Slices for Service {key}: {text}"),
        });
    };
    if let Err(error) = apply(context, key, Writes::Slices, plan.writes).await {
        if error.is_news() {
            complain(&error.to_string());
        }
        return Err(error);
    }
    if missing {
        let text = plan.skips.to_string();
        complain(&text);
        return Ok(Turn::Incomplete(text));
    }
    Ok(Turn::Done)
}

fn snapshot(context: &Context, key: &ServiceKey) -> Result<Option<Snapshot>, Stale> {
    let mut cache = context.cache();
    let Some(service) = cache.services.get(key).cloned() else {
        cache.own_slices.forget(key);
        cache.slice_triggers.forget(key);
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
    let trigger_time = cache.slice_triggers.observe(key, &service, &pods);
    Ok(Some(Snapshot {
        nodes: Arc::clone(&cache.nodes),
        service,
        pods,
        existing,
        trigger_time,
    }))
}

/// Makes the writes, in order, and tells the tracker of each.
pub(super) async fn apply(
    context: &Context,
    key: &ServiceKey,
    writes: Writes,
    plan: Plan<EndpointSlice>,
) -> Result<(), WriteError> {
    for slice in &plan.create {
        let stored = context.writer.create(slice).await?;
        context.cache().tracker(writes).written(key, &stored);
    }
    for slice in &plan.update {
        let stored = context.writer.replace(slice).await?;
        context.cache().tracker(writes).written(key, &stored);
    }
    for object in &plan.delete {
        context.writer.delete::<EndpointSlice>(object).await?;
        let uid = object.uid.as_deref().unwrap_or_default();
        let mut cache = context.cache();
        // The watch may have been faster: then there is nothing left to expect.
        let cached = cache
            .slices_of(key)
            .any(|slice| slice.metadata.uid.as_deref() == Some(uid));
        if cached {
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
        .map_err(|error| {
            let (fault, text) = explain(&error);
            WriteError::Failed(fault, text)
        })?;
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
