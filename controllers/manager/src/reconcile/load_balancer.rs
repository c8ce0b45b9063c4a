// SPDX-License-Identifier: Apache-2.0
//! LoadBalancer addresses of a Service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_controllers_core::Labels;
use berth_controllers_core::load_balancer::{LbEvent, StatusWrite};
use berth_crds::AddressPool;
use berth_model::ServiceKey;
use berth_runtime::client::explain;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::ListParams;

use super::{Turn, about, now, service_exists};
use crate::Controller;
use crate::context::Context;
use crate::events::Note;
use crate::task::Task;
use crate::write::WriteError;

/// Takes over what is given out already, then lets every LoadBalancer Service take its first turn.
/// To be called once, with the lead, before any worker runs.
///
/// The Services are listed anew: the cache may be behind the last writes of the leader before us.
pub(crate) async fn adopt(context: &Context) -> Result<(), kube::Error> {
    let api: Api<Service> = Api::all(context.writer.client());
    let services = api
        .list(&ListParams::default().fields("spec.type=LoadBalancer"))
        .await?;
    take_over(context, &services.items);
    Ok(())
}

/// Takes over what these Services list: all of type LoadBalancer.
pub(super) fn take_over(context: &Context, services: &[Service]) {
    let (pools, namespaces) = seen(context);
    let (adopted, changed) = {
        let mut book = context.book();
        book.set_namespaces(&namespaces);
        book.set_pools(pools.iter().map(|pool| &**pool));
        (book.adopt(services), book.take_changed_pools())
    };
    for (address, loser, holder) in &adopted.conflicts {
        tracing::warn!(%address, service = %loser, %holder, "two Services list one address; the holder keeps it");
    }
    tracing::info!(
        services = adopted.order.len(),
        pools = pools.len(),
        "took over what is given out"
    );
    context.cache().adopt_services(services);
    context.open_book();
    for key in adopted.order {
        context.enqueue(Task::LoadBalancer(key), Duration::ZERO);
    }
    // Everything that changed since the list was asked for, and while the book was closed.
    let every: Vec<ServiceKey> = context.cache().service_keys().cloned().collect();
    for key in every {
        context.enqueue(Task::LoadBalancer(key), Duration::ZERO);
    }
    context.enqueue(Task::Pools, Duration::ZERO);
    context.enqueue_pools(changed);
}

pub(super) async fn turn(context: &Context, key: &ServiceKey) -> Result<Turn, WriteError> {
    let awaited = context.cache().awaits_adopted(key);
    if awaited && let Some(turn) = missed(context, key, service_exists(context, key).await?) {
        return Ok(turn);
    }
    let service = {
        let cache = context.cache();
        if cache.status_is_behind(key) {
            // The watch brings our own write, and with it the next turn.
            return Ok(Turn::Done);
        }
        cache.service(key)
    };
    let (plan, changed) = {
        let mut book = context.book();
        let plan = book.reconcile(key, service.as_deref(), &now());
        (plan, book.take_changed_pools())
    };
    context.enqueue_pools(changed);
    if let Some(next) = plan.wake.clone() {
        context.enqueue(Task::LoadBalancer(next), Duration::ZERO);
    }
    if !plan.taken.is_empty() || !plan.released.is_empty() || !plan.is_empty() {
        tracing::info!(%plan, "load balancer");
    }
    let Some(service) = service else {
        return Ok(Turn::Done);
    };
    if let Some(write) = &plan.write {
        write_status(context, key, write).await?;
    }
    if let Some(event) = plan.event {
        note(context, &service, event);
    }
    Ok(Turn::Done)
}

/// A Service that was taken over and that the watch has not shown: waits for it, unless it is gone again.
pub(super) fn missed(context: &Context, key: &ServiceKey, exists: bool) -> Option<Turn> {
    if exists {
        return Some(Turn::Behind(
            "the Service was taken over but is not cached yet".to_owned(),
        ));
    }
    context.cache().adopted_is_gone(key);
    None
}

async fn write_status(context: &Context, key: &ServiceKey, write: &StatusWrite) -> Result<(), WriteError> {
    let stored = context
        .writer
        .patch_status::<Service>("Service", Some(key.namespace()), key.name(), &write.merge_patch())
        .await;
    match stored {
        Ok(stored) => {
            context.cache().status_written(
                key,
                write.resource_version.as_deref(),
                stored.resource_version.as_deref(),
            );
            Ok(())
        }
        // Deleted meanwhile: its deletion is on the way to us.
        Err(WriteError::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn note(context: &Context, service: &Service, event: LbEvent) {
    context.events.note(Note {
        reporter: Controller::LoadBalancer.into(),
        about: about(service),
        warning: event.warning,
        reason: event.reason,
        text: event.message,
    });
}

/// What the cache has of pools, and of what they select by.
fn seen(context: &Context) -> (Vec<Arc<AddressPool>>, Arc<BTreeMap<String, Labels>>) {
    let cache = context.cache();
    let pools = cache.pools.values().cloned().collect();
    (pools, Arc::clone(&cache.namespaces))
}

/// Takes in a changed set of pools, or changed labels of namespaces.
pub(super) fn pools_turn(context: &Context) -> Turn {
    let (pools, namespaces) = seen(context);
    let (change, changed) = {
        let mut book = context.book();
        let relabelled = book.set_namespaces(&namespaces);
        let mut change = book.set_pools(pools.iter().map(|pool| &**pool));
        change.wake.extend(relabelled);
        (change, book.take_changed_pools())
    };
    for (address, owner) in &change.edit.uncovered {
        tracing::warn!(%address, service = %owner, "no AddressPool covers this address any more; its Service keeps it");
    }
    for key in change.wake {
        context.enqueue(Task::LoadBalancer(key), Duration::ZERO);
    }
    context.enqueue_pools(changed);
    // Somebody may have edited a status.
    context.enqueue_pools(
        pools
            .iter()
            .filter_map(|pool| pool.metadata.name.as_deref().map(berth_allocator::PoolName::new)),
    );
    Turn::Done
}

/// Why what exists could not be taken over, in words.
pub(crate) fn adoption_failed(error: &kube::Error) -> String {
    explain(error).1
}
