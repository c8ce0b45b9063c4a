// SPDX-License-Identifier: Apache-2.0
//! From flags to a running process, and to its orderly end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_runtime::admin::Admin;
use berth_runtime::backoff::{Backoff, jitter};
use berth_runtime::client::{ApiArgs, Connection};
use berth_runtime::exit::{Code, ExitError};
use berth_runtime::lease::{Elector, Leadership, LeaseError, Lost};
use berth_runtime::metrics::Metrics as Registry;
use berth_runtime::ready::Readiness;
use berth_runtime::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::admission::AdmissionMetrics;
use crate::allocation::{Allocation, AllocationMetrics, BookFeed};
use crate::audit::AuditMetrics;
use crate::context::Context;
use crate::events::Events;
use crate::feed::{self, Kind};
use crate::metrics::Metrics;
use crate::node_port_range::RangeMetrics;
use crate::reconcile::{adopt, adoption_failed};
use crate::work::{pool_status_worker, worker};
use crate::write::Writer;
use crate::{Controller, ControllersArgs};

/// The Lease that replicas compete for; the shipped RBAC names it.
pub(crate) const LEASE: &str = "berth-controllers";
/// How long turns under way may take to end: less than the margin between the renew deadline and the
/// lease duration, so that nothing of ours is in flight when another replica takes over.
const DRAIN: Duration = Duration::from_secs(4);

/// Runs the controllers until `shutdown` is requested or the Lease is lost.
///
/// # Errors
/// Flags that make no sense (2), no API server (4), the Lease lost (5), a task that panicked (1).
pub async fn run(args: ControllersArgs, api: ApiArgs, shutdown: Shutdown) -> Result<(), ExitError> {
    args.lease.check().map_err(usage)?;
    let connection = api.connect().await?;
    let admin = Admin::bind("--admin-address", args.admin_address).await?;
    let registry = Registry::new("controllers", env!("CARGO_PKG_VERSION"));
    let readiness = Readiness::new();
    let reachable = readiness.register("api-server-reached");
    let metrics = registry.register(Metrics::register);
    let serves = args.serves_admission();
    let admission = serves.then(|| AllocationMetrics {
        admission: registry.register(AdmissionMetrics::register),
        audit: registry.register(AuditMetrics::register),
        node_ports: registry.register(RangeMetrics::register),
    });
    let stop = shutdown.token();
    let serving = tokio::spawn(admin.serve(readiness.clone(), registry, stop.child_token()));

    let outcome = async {
        connection.contact(api.patience(), &stop).await?;
        reachable.set();
        if stop.is_cancelled() {
            return Ok(());
        }
        let allocation = match admission {
            Some(metrics) => {
                let ready = readiness.register("admission-served");
                Some(Allocation::start(&args, &connection, ready, metrics).await?)
            }
            None => None,
        };
        Process::start(args, &connection, &readiness, metrics, allocation)?
            .run(&stop)
            .await
    }
    .await;
    shutdown.request();
    if let Err(error) = serving.await {
        tracing::debug!(%error, "admin port ended");
    }
    outcome
}

fn usage(error: LeaseError) -> ExitError {
    ExitError::new(Code::Usage, error)
}

/// Everything that runs, and how to end it.
struct Process {
    context: Arc<Context>,
    /// Watches, events: ended by dropping.
    background: JoinSet<()>,
    workers: JoinSet<()>,
    elector: JoinHandle<Result<(), Lost>>,
    allocation: Option<Allocation>,
    /// Gives the Lease back.
    release: CancellationToken,
    /// Ends what waits for the lead or for first lists.
    halt: CancellationToken,
}

impl Process {
    fn start(
        args: ControllersArgs,
        connection: &Connection,
        readiness: &Readiness,
        metrics: Metrics,
        allocation: Option<(Allocation, BookFeed)>,
    ) -> Result<Self, ExitError> {
        let client = connection.client();
        let (elector, leadership) = Elector::new(&client, &args.lease, LEASE).map_err(usage)?;
        let identity = args.lease.identity().map_err(usage)?;
        let (release, halt) = (CancellationToken::new(), CancellationToken::new());
        let (events, publisher) = Events::new(
            client.clone(),
            leadership.clone(),
            identity,
            metrics.clone(),
            halt.clone(),
        );
        let writer = Writer::new(client.clone(), leadership.clone(), metrics.clone());
        let enabled = args.enabled();
        tracing::info!(server = %connection.origin(), controllers = ?enabled, "starting");
        let context = Arc::new(Context::new(args, writer, events, metrics));

        let mut background = JoinSet::new();
        background.spawn(publisher);
        background.spawn(show_lead(Arc::clone(&context), leadership.clone(), halt.clone()));
        let (mut allocation, book) = allocation.unzip();
        let (feeds, listed) = feed::feeds(&context, &client, readiness, book.as_ref());
        for feed in feeds {
            background.spawn(feed);
        }
        let mut workers = JoinSet::new();
        if let Some(led) = allocation.as_mut().and_then(Allocation::leads) {
            let leads = || {
                let mut lead = leadership.clone();
                async move { lead.acquired().await }
            };
            let events = || context.events.clone();
            workers.spawn(led.enforcer.run(leads(), halt.clone()));
            workers.spawn(led.auditor.run(events(), leads(), halt.clone()));
            workers.spawn(led.addresses.run(events(), leads(), halt.clone()));
            workers.spawn(led.node_ports.run(events(), leads(), halt.clone()));
            workers.spawn(led.upkeep.run(Arc::clone(&context), leads(), halt.clone()));
        }
        for controller in enabled {
            let gate = Gate {
                controller,
                listed: listed.clone(),
                leadership: leadership.clone(),
                halt: halt.clone(),
            };
            workers.spawn(controller_task(Arc::clone(&context), gate));
        }
        Ok(Self {
            context,
            background,
            workers,
            elector: tokio::spawn(elector.run(release.clone())),
            allocation,
            release,
            halt,
        })
    }

    async fn run(mut self, stop: &CancellationToken) -> Result<(), ExitError> {
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            lost = &mut self.elector => {
                // Writes are refused from here on; what is under way is dropped, not drained.
                self.workers.abort_all();
                return Err(lease_lost(lost));
            }
            task = self.background.join_next() => Err(died(task)),
            task = self.workers.join_next(), if !self.workers.is_empty() => Err(died(task)),
            task = ended(self.allocation.as_mut()) => Err(died(task)),
        };
        let answered = async {
            if let Some(allocation) = self.allocation.take() {
                allocation.stop().await;
            }
        };
        self.halt.cancel();
        self.context.close();
        let drained =
            tokio::time::timeout(DRAIN, async { while self.workers.join_next().await.is_some() {} });
        let (drained, ()) = tokio::join!(drained, answered);
        if drained.is_err() {
            tracing::warn!("turns under way were cut off");
            self.workers.shutdown().await;
        }
        // Only now may another replica begin.
        self.release.cancel();
        match self.elector.await {
            Ok(Ok(())) => ended,
            Ok(Err(lost)) => ended.and(Err(ExitError::new(Code::Identity, lost))),
            Err(error) => ended.and(Err(ExitError::failure(error))),
        }
    }
}

/// Never, where nothing is allocated.
async fn ended(allocation: Option<&mut Allocation>) -> Option<Result<(), tokio::task::JoinError>> {
    match allocation {
        Some(allocation) => allocation.ended().await,
        None => std::future::pending().await,
    }
}

fn lease_lost(outcome: Result<Result<(), Lost>, tokio::task::JoinError>) -> ExitError {
    match outcome {
        Ok(Err(lost)) => ExitError::new(Code::Identity, format!("Lease {LEASE}: {lost}")),
        Ok(Ok(())) => ExitError::failure("leader election ended by itself"),
        Err(error) => ExitError::failure(format!("leader election failed: {error}")),
    }
}

fn died(task: Option<Result<(), tokio::task::JoinError>>) -> ExitError {
    match task {
        Some(Err(error)) => ExitError::failure(format!("a task failed: {error}")),
        Some(Ok(())) | None => ExitError::failure("a task ended that should run on"),
    }
}

/// What must hold before a controller writes anything.
struct Gate {
    controller: Controller,
    listed: watch::Receiver<BTreeSet<Kind>>,
    leadership: Leadership,
    halt: CancellationToken,
}

impl Gate {
    /// Waits until all inputs are listed and we lead; `false` if we are to stop instead.
    async fn passed(&mut self) -> bool {
        let inputs = feed::inputs(self.controller);
        let open = async {
            let closed = self
                .listed
                .wait_for(|listed| listed.is_superset(&inputs))
                .await
                .is_err();
            if closed {
                // The watches are gone, and the process with them.
                std::future::pending::<()>().await;
            }
            self.leadership.acquired().await;
        };
        tokio::select! {
            () = self.halt.cancelled() => false,
            () = open => true,
        }
    }
}

/// One controller: its gate, then its workers.
async fn controller_task(context: Arc<Context>, mut gate: Gate) {
    let controller = gate.controller;
    let Some(queue) = context.queue(controller).cloned() else {
        return;
    };
    if !gate.passed().await {
        return;
    }
    let mut workers = JoinSet::new();
    if controller == Controller::LoadBalancer {
        tokio::select! {
            () = gate.halt.cancelled() => return,
            () = adopt_until_done(&context) => {}
        }
        workers.spawn(pool_status_worker(
            Arc::clone(&context),
            context.pool_statuses.clone(),
        ));
    }
    tracing::info!(%controller, waiting = queue.len(), "working");
    for _ in 0..context.args.workers(controller) {
        workers.spawn(worker(Arc::clone(&context), controller, queue.clone()));
    }
    while let Some(ended) = workers.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn adopt_until_done(context: &Context) {
    let mut failures = 0;
    while let Err(error) = adopt(context).await {
        failures += 1;
        let error = adoption_failed(&error);
        tracing::warn!(
            error,
            failures,
            "LoadBalancer Services cannot be listed; no address is given out"
        );
        tokio::time::sleep(jitter(Backoff::CONNECT.delay(failures), fastrand::u32(..))).await;
    }
}

async fn show_lead(context: Arc<Context>, mut leadership: Leadership, halt: CancellationToken) {
    tokio::select! {
        () = halt.cancelled() => {}
        () = leadership.acquired() => context.metrics.leading(true),
    }
    halt.cancelled().await;
}
