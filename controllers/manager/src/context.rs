// SPDX-License-Identifier: Apache-2.0
//! What every task of the controllers shares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_allocator::PoolName;
use berth_controllers_core::load_balancer::LoadBalancers;
use berth_runtime::backoff::Backoff;
use berth_runtime::queue::{Budget, Policy, Queue};

use crate::cache::Cache;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::reconcile::Compactor;
use crate::task::{Dirty, Task};
use crate::write::Writer;
use crate::{Controller, ControllersArgs};

/// Where a failed turn is most likely settled by the next watch event.
const RETRY: Backoff = Backoff {
    first: Duration::from_millis(250),
    cap: LONGEST,
};
/// After a turn that waits for news, which brings it back: for news that does not come.
const BEHIND: Backoff = Backoff {
    first: Duration::from_secs(1),
    cap: LONGEST,
};
/// Nothing is ever given up (upstream forgets a key after 15 failures, and waits up to 1000 s before).
const LONGEST: Duration = Duration::from_secs(60);
/// Pool statuses are counts: those of a burst are written once.
const POOL_STATUS_DELAY: Duration = Duration::from_millis(250);

/// Shared by watches and workers.
pub(crate) struct Context {
    pub(crate) args: ControllersArgs,
    pub(crate) writer: Writer,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    pub(crate) pool_statuses: Queue<PoolName>,
    /// Only where compaction is asked for.
    pub(crate) compactor: Option<Compactor>,
    cache: Mutex<Cache>,
    book: Mutex<LoadBalancers>,
    /// Whether turns of the load balancer are accepted: not before it has adopted what exists.
    book_open: AtomicBool,
    queues: BTreeMap<Controller, Queue<Task>>,
}

impl Context {
    pub(crate) fn new(args: ControllersArgs, writer: Writer, events: Events, metrics: Metrics) -> Self {
        let enabled: BTreeSet<Controller> = args.enabled();
        let queues = enabled
            .into_iter()
            .map(|controller| {
                let name = queue_name(controller);
                let queue = Queue::reporting(policy(controller), name, &metrics.queues);
                (controller, queue)
            })
            .collect();
        Self {
            writer,
            events,
            metrics,
            pool_statuses: Queue::new(Policy::simple(RETRY)),
            compactor: args.compactor(),
            cache: Mutex::default(),
            book: Mutex::new(LoadBalancers::new(args.load_balancer_settings())),
            book_open: AtomicBool::new(false),
            queues,
            args,
        }
    }

    /// The cache, locked: never across an await.
    pub(crate) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The load balancer's book, locked: never across an await, and never before the cache.
    pub(crate) fn book(&self) -> MutexGuard<'_, LoadBalancers> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts turns of the load balancer from now on.
    pub(crate) fn open_book(&self) {
        self.book_open.store(true, Ordering::Release);
    }

    /// The queue of an enabled controller.
    pub(crate) fn queue(&self, controller: Controller) -> Option<&Queue<Task>> {
        self.queues.get(&controller)
    }

    /// Puts what became due into the queues of the enabled controllers.
    pub(crate) fn route(&self, dirty: Dirty) {
        for task in dirty.now {
            self.enqueue(task, Duration::ZERO);
        }
        for task in dirty.batched {
            let delay = self.args.batch_period(controller_of(&task));
            self.enqueue(task, delay);
        }
    }

    /// Puts one task into its queue.
    pub(crate) fn enqueue(&self, task: Task, delay: Duration) {
        let controller = controller_of(&task);
        if controller == Controller::LoadBalancer && !self.book_open.load(Ordering::Acquire) {
            return;
        }
        if let Some(queue) = self.queues.get(&controller) {
            queue.add_after(task, delay);
        }
    }

    /// Has the statuses of these pools looked at soon.
    pub(crate) fn enqueue_pools(&self, pools: impl IntoIterator<Item = PoolName>) {
        for pool in pools {
            self.pool_statuses.add_after(pool, POOL_STATUS_DELAY);
        }
    }

    /// Lets the workers end.
    pub(crate) fn close(&self) {
        self.queues.values().for_each(Queue::close);
        self.pool_statuses.close();
    }
}

/// The name of a queue in metrics; those of the first three are upstream's.
fn queue_name(controller: Controller) -> &'static str {
    match controller {
        Controller::Endpoints => "endpoint",
        Controller::EndpointSlices => "endpoint_slice",
        Controller::Mirroring => "endpoint_slice_mirroring",
        Controller::LoadBalancer => "load_balancer",
    }
}

/// How failed turns are taken again; first delays and the overall budget of the first three are
/// upstream's.
fn policy(controller: Controller) -> Policy {
    let backoff = |first, cap| Backoff { first, cap };
    let failed = match controller {
        Controller::Endpoints => backoff(Duration::from_millis(5), LONGEST),
        Controller::EndpointSlices => backoff(Duration::from_secs(1), LONGEST),
        Controller::Mirroring => backoff(Duration::from_secs(1), Duration::from_secs(100)),
        Controller::LoadBalancer => return Policy::simple(RETRY),
    };
    Policy {
        failed,
        behind: BEHIND,
        budget: Some(Budget::UPSTREAM),
    }
}

fn controller_of(task: &Task) -> Controller {
    match task {
        Task::Endpoints(_) => Controller::Endpoints,
        Task::Slices(_) => Controller::EndpointSlices,
        Task::Mirror(_) => Controller::Mirroring,
        Task::LoadBalancer(_) | Task::Pools => Controller::LoadBalancer,
    }
}

#[cfg(test)]
mod tests;
