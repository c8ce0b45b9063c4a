// SPDX-License-Identifier: Apache-2.0
//! Workers: take a key, take its turn, settle the outcome.

use std::sync::Arc;

use berth_allocator::PoolName;
use berth_runtime::queue::{Again, Queue, Taken};
use tracing::Instrument;

use crate::Controller;
use crate::context::Context;
use crate::reconcile::{self, Turn};
use crate::task::Task;
use crate::write::{TurnError, WriteError};

/// Works on a controller's queue until it is closed.
pub(crate) async fn worker(context: Arc<Context>, controller: Controller, queue: Queue<Task>) {
    while let Some(taken) = queue.next().await {
        let span = tracing::debug_span!("turn", controller = controller.as_str(), task = ?taken.key());
        let outcome = reconcile::turn(&context, taken.key(), taken.failures())
            .instrument(span)
            .await;
        settle(&context, controller, taken, outcome);
    }
}

/// Works on the statuses of pools until the queue is closed.
pub(crate) async fn pool_status_worker(context: Arc<Context>, queue: Queue<PoolName>) {
    while let Some(taken) = queue.next().await {
        match reconcile::pool_status_turn(&context, taken.key()).await {
            Ok(()) => taken.done(),
            Err(error) => {
                if error.is_news() {
                    tracing::warn!(pool = %taken.key(), %error, "pool status not written");
                }
                taken.retry(error.again());
            }
        }
    }
}

fn settle(context: &Context, controller: Controller, taken: Taken<Task>, outcome: Result<Turn, TurnError>) {
    let result = match outcome {
        Ok(Turn::Done) => {
            taken.done();
            "success"
        }
        // Upstream says nothing either: the namespace takes everything with it.
        Err(TurnError {
            error: WriteError::NamespaceTerminating,
            ..
        }) => {
            taken.done();
            "success"
        }
        Ok(Turn::Behind(behind)) => {
            let task = format!("{:?}", taken.key());
            let failures = taken.retry(Again::Behind);
            tracing::debug!(%controller, task, behind, failures, "cache is behind");
            "stale"
        }
        Ok(Turn::Incomplete(missing)) => {
            let task = format!("{:?}", taken.key());
            let failures = taken.retry(Again::Refused);
            if failures == 1 {
                tracing::warn!(%controller, task, missing, "incomplete; trying again");
            }
            "error"
        }
        Err(TurnError { error, progress }) => {
            let task = format!("{:?}", taken.key());
            if progress {
                // A turn of many writes would hardly ever end where some fail.
                taken.progressed();
            }
            if matches!(error, WriteError::Conflict(_)) {
                // What was written instead is on its way to us.
                context.cache().put_off(taken.key().clone());
            }
            let failures = taken.retry(error.again());
            if error.is_news() {
                tracing::warn!(%controller, task, %error, failures, "turn failed; trying again");
            } else {
                tracing::debug!(%controller, task, %error, failures, "turn failed; trying again");
            }
            "error"
        }
    };
    context.metrics.sync(controller, result);
}
