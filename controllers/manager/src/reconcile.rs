// SPDX-License-Identifier: Apache-2.0
//! One turn of one task: snapshot under the lock, plan, apply.

mod compaction;
mod endpoints;
mod load_balancer;
mod mirror;
mod pool_status;
mod slices;

use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, Resource};

use crate::context::Context;
use crate::task::Task;
use crate::write::{TurnError, WriteError};

pub(crate) use compaction::Compactor;
pub(crate) use load_balancer::{adopt, adoption_failed};
pub(crate) use pool_status::turn as pool_status_turn;

/// After so many failed turns in a row what was written is no longer taken for granted: somebody may
/// have deleted it before the watch ever showed it, and then no news comes.
const DOUBT_AFTER: u32 = 4;

/// How a turn ended that no write failed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// All is as it should be.
    Done,
    /// The cache is behind our own writes or a list: nothing was planned. Due again at the next news.
    Behind(String),
    /// All that could be written is; something is missing that may yet come.
    Incomplete(String),
}

/// Takes one turn. `failures` is how often the task failed in a row.
pub(crate) async fn turn(context: &Context, task: &Task, failures: u32) -> Result<Turn, TurnError> {
    match task {
        Task::Endpoints(key) => Ok(endpoints::turn(context, key, failures).await?),
        Task::Slices(key) => slices::turn(context, key, failures).await,
        Task::Mirror(key) => mirror::turn(context, key, failures).await,
        Task::LoadBalancer(key) => Ok(load_balancer::turn(context, key).await?),
        Task::Pools => Ok(load_balancer::pools_turn(context)),
    }
}

/// Asks the API server, where the cache may be behind. A list of one: our role may list Services only.
async fn service_exists(context: &Context, key: &ServiceKey) -> Result<bool, WriteError> {
    let api: Api<Service> = Api::namespaced(context.writer.client(), key.namespace());
    let by_name = ListParams::default().fields(&format!("metadata.name={}", key.name()));
    let listed = api.list_metadata(&by_name).await;
    listed
        .map(|listed| !listed.items.is_empty())
        .map_err(|error| WriteError::of(&error))
}

/// The wall clock: plans take it as an argument.
fn now() -> Time {
    Time(jiff::Timestamp::now())
}

/// A plan as a log field.
fn one_line(plan: &impl ToString) -> String {
    plan.to_string().trim_end().replace('\n', "; ")
}

/// What an event is about.
fn about<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

#[cfg(test)]
mod tests;
