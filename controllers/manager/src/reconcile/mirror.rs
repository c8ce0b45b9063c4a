// SPDX-License-Identifier: Apache-2.0
//! Slices that mirror hand-written Endpoints.

use std::sync::Arc;

use berth_controllers_core::mirror::{MirrorInput, mirrored, plan_mirror};
use berth_controllers_core::skips::{SkipReason, Skips};
use berth_controllers_core::tracker::Stale;
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use tokio::time::Instant;

use super::{DOUBT_AFTER, Turn, about, one_line, slices};
use crate::Controller;
use crate::cache::Writes;
use crate::context::Context;
use crate::events::Note;
use crate::write::TurnError;

struct Snapshot {
    service: Option<Arc<Service>>,
    endpoints: Option<Arc<Endpoints>>,
    existing: Vec<Arc<EndpointSlice>>,
}

pub(super) async fn turn(context: &Context, key: &ServiceKey, failures: u32) -> Result<Turn, TurnError> {
    let began = Instant::now();
    let outcome = untimed(context, key, failures).await;
    context.metrics.mirror.took(began.elapsed());
    outcome
}

async fn untimed(context: &Context, key: &ServiceKey, failures: u32) -> Result<Turn, TurnError> {
    let mut taken = snapshot(context, key);
    if taken.is_err() && failures >= DOUBT_AFTER {
        slices::catch_up(context, key, Writes::Mirror).await?;
        taken = snapshot(context, key);
    }
    let snapshot = match taken {
        Ok(snapshot) => snapshot,
        Err(stale) => return Ok(Turn::Behind(stale.to_string())),
    };
    let plan = plan_mirror(&MirrorInput {
        key,
        endpoints: snapshot.endpoints.as_deref(),
        service: snapshot.service.as_deref(),
        existing: &snapshot.existing,
        max_endpoints: usize::from(context.args.endpoints.mirroring_max_endpoints_per_subset),
    });
    let is_mirrored = mirrored(snapshot.endpoints.as_deref(), snapshot.service.as_deref()).is_ok();
    if is_mirrored {
        context.metrics.mirror.planned(key, &plan);
    } else {
        context.metrics.mirror.forget(key);
    }
    if let Some(endpoints) = snapshot.endpoints.as_ref().filter(|_| is_mirrored) {
        complain(context, endpoints, &plan.skips);
    }
    if plan.writes.is_empty() {
        return Ok(Turn::Done);
    }
    tracing::debug!(endpoints = %key, plan = one_line(&plan.writes), skips = %plan.skips, "mirror");
    slices::apply(context, key, Writes::Mirror, plan.writes).await?;
    Ok(Turn::Done)
}

fn snapshot(context: &Context, key: &ServiceKey) -> Result<Snapshot, Stale> {
    let mut cache = context.cache();
    let existing = cache.slices_by(key, Writes::Mirror);
    if let Some(stale) = cache
        .own_mirrors
        .stale(key, existing.iter().map(|slice| &**slice))
    {
        cache.put_off(Writes::Mirror.task(key.clone()));
        return Err(stale);
    }
    let snapshot = Snapshot {
        service: cache.service(key),
        endpoints: cache.endpoints_of(key),
        existing,
    };
    if snapshot.endpoints.is_none() && snapshot.existing.is_empty() {
        cache.own_mirrors.forget(key);
    }
    Ok(snapshot)
}

/// Tells the author of the Endpoints what of it is not mirrored; reasons and wording of the two events
/// follow upstream's.
fn complain(context: &Context, endpoints: &Endpoints, skips: &Skips) {
    for (skipped, reason) in [
        (SkipReason::InvalidAddress, "InvalidIPAddress"),
        (SkipReason::OverCapacity, "TooManyAddressesToMirror"),
    ] {
        if skips.has(skipped) {
            context.events.note(Note {
                reporter: Controller::Mirroring.into(),
                about: about(endpoints),
                warning: true,
                reason,
                text: format!("{} addresses are not mirrored: {skips}", skips.count(skipped)),
            });
        }
    }
}
