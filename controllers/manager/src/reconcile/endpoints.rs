// SPDX-License-Identifier: Apache-2.0
//! Legacy Endpoints of a Service with a selector.

use std::sync::Arc;

use berth_controllers_core::endpoints::{Absence, EndpointsInput, plan_endpoints, plan_orphan};
use berth_controllers_core::plan::Plan;
use berth_controllers_core::selector_of;
use berth_controllers_core::trigger::Sight;
use berth_model::ServiceKey;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::jiff::Timestamp;

use super::{DOUBT_AFTER, Turn, about, one_line, service_exists};
use crate::Controller;
use crate::context::Context;
use crate::events::Note;
use crate::task::Task;
use crate::write::WriteError;

/// What the plan is made from.
struct Snapshot {
    service: Option<Arc<Service>>,
    pods: Vec<Arc<Pod>>,
    current: Option<Arc<Endpoints>>,
    sight: Sight,
    /// Counts without a Service only.
    absence: Absence,
}

pub(super) async fn turn(context: &Context, key: &ServiceKey, failures: u32) -> Result<Turn, WriteError> {
    let snapshot = match snapshot(context, key, failures) {
        Ok(snapshot) => snapshot,
        Err(behind) => return Ok(Turn::Behind(behind)),
    };
    let plan = match &snapshot.service {
        Some(service) => plan_endpoints(&EndpointsInput {
            key,
            service: Some(service),
            pods: &snapshot.pods,
            current: snapshot.current.as_deref(),
            trigger_time: snapshot.sight.time(),
            leftovers: context.args.leftovers(),
        }),
        None => plan_orphan(key, snapshot.current.as_deref(), snapshot.absence),
    };
    if plan.writes.is_empty() {
        commit(context, key, snapshot);
        return Ok(Turn::Done);
    }
    // The watches of Services and Endpoints are not in step: one that was not seen may still be there.
    let unsure = snapshot.service.is_none() && snapshot.absence == Absence::NotSeen;
    if unsure && service_exists(context, key).await? {
        return Ok(Turn::Behind("the Service is not cached yet".to_owned()));
    }
    tracing::debug!(endpoints = %key, plan = one_line(&plan.writes), skips = %plan.skips, "endpoints");
    if let Err(error) = apply(context, key, &plan.writes).await {
        if matches!(error, WriteError::Conflict(_)) {
            let cached = version_of(snapshot.current.as_deref());
            context
                .cache()
                .endpoints_conflicts
                .met(key, cached, Timestamp::now());
        }
        return Err(error);
    }
    commit(context, key, snapshot);
    Ok(Turn::Done)
}

fn version_of(current: Option<&Endpoints>) -> Option<&str> {
    current?.metadata.resource_version.as_deref()
}

/// The turn's trigger time is spent.
fn commit(context: &Context, key: &ServiceKey, snapshot: Snapshot) {
    if snapshot.service.is_some() {
        context.cache().endpoints_triggers.commit(key, snapshot.sight);
    }
}

/// The snapshot, or how the cache is behind.
fn snapshot(context: &Context, key: &ServiceKey, failures: u32) -> Result<Snapshot, String> {
    let mut cache = context.cache();
    let current = cache.endpoints_of(key);
    if cache
        .endpoints_conflicts
        .rests(key, version_of(current.as_deref()), Timestamp::now())
    {
        cache.put_off(Task::Endpoints(key.clone()));
        return Err("the cached Endpoints are outdated, as a conflict has shown".to_owned());
    }
    let replaced = cache.own_endpoints.stale(key, current.as_deref());
    let behind = replaced.map(|stale| stale.to_string()).or_else(|| {
        // Their Service may be there again: an update of what is gone would be refused.
        if cache.endpoints_are_deleted(key) {
            return Some("Endpoints are deleted but still cached".to_owned());
        }
        let created = current.is_none() && cache.endpoints_are_written(key);
        created.then(|| "Endpoints are written but not cached yet".to_owned())
    });
    // A store that was restored from a backup counts versions anew: the API server has the last word.
    if let Some(behind) = behind.filter(|_| failures < DOUBT_AFTER) {
        cache.put_off(Task::Endpoints(key.clone()));
        return Err(behind);
    }
    let Some(service) = cache.service(key) else {
        cache.endpoints_triggers.forget(key);
        let absence = current
            .as_deref()
            .map_or(Absence::NotSeen, |current| cache.endpoints_absence(key, current));
        return Ok(Snapshot {
            service: None,
            pods: Vec::new(),
            current,
            sight: Sight::default(),
            absence,
        });
    };
    let pods = selector_of(&service)
        .map(|selector| cache.pods.select(key.namespace(), selector))
        .unwrap_or_default();
    let sight = cache.endpoints_triggers.look(key, &service, &pods);
    Ok(Snapshot {
        service: Some(service),
        pods,
        current,
        sight,
        absence: Absence::NotSeen,
    })
}

async fn apply(context: &Context, key: &ServiceKey, plan: &Plan<Endpoints>) -> Result<(), WriteError> {
    for endpoints in &plan.create {
        let created = context.writer.create(endpoints).await;
        let stored = complain(context, endpoints, "FailedToCreateEndpoint", created)?;
        context.cache().endpoints_written(key, None, &stored);
    }
    for endpoints in &plan.update {
        let replaced = context.writer.replace(endpoints).await;
        let stored = complain(context, endpoints, "FailedToUpdateEndpoint", replaced)?;
        context
            .cache()
            .endpoints_written(key, Some(&endpoints.metadata), &stored);
    }
    for object in &plan.delete {
        context.writer.delete::<Endpoints>(object).await?;
        let uid = object.uid.as_deref().unwrap_or_default();
        context.cache().endpoints_deleted(key, uid);
    }
    Ok(())
}

/// Passes an outcome on, with an event if it is a failure that people should know of.
fn complain<T>(
    context: &Context,
    endpoints: &Endpoints,
    reason: &'static str,
    outcome: Result<T, WriteError>,
) -> Result<T, WriteError> {
    if let Err(error) = &outcome
        && error.is_news()
    {
        context.events.note(Note {
            reporter: Controller::Endpoints.into(),
            about: about(endpoints),
            warning: true,
            reason,
            text: error.to_string(),
        });
    }
    outcome
}
