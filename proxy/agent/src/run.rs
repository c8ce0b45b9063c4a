// SPDX-License-Identifier: Apache-2.0
//! From flags to a running process, and to its orderly end: the rules stay, so that traffic goes on
//! while the process is restarted or replaced.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_model::IpFamily;
use berth_proxy_core::nft::full_script;
use berth_proxy_core::{Conflict, Intent, Shortfall};
use berth_runtime::admin::Admin;
use berth_runtime::backoff::{Backoff, jitter};
use berth_runtime::client::ApiArgs;
use berth_runtime::exit::{Code, ExitError};
use berth_runtime::metrics::Metrics as Registry;
use berth_runtime::ready::{Condition, Readiness};
use berth_runtime::shutdown::Shutdown;
use berth_runtime::watch::WatchMetrics;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::apply::nft::Nft;
use crate::feed::{self, Event, State};
use crate::metrics::Metrics;
use crate::sync::Syncer;
use crate::{Error, ProxyArgs};

/// Retries of a failed turn. The kernel answers at once, so the first retry comes soon.
const RETRY: Backoff = Backoff {
    first: Duration::from_millis(100),
    cap: Duration::from_secs(30),
};
/// How often the counter of untranslated packets is read.
const COUNTER_PERIOD: Duration = Duration::from_secs(10);
/// How often the ruleset is looked at for changes of somebody else's, who may have flushed our tables.
const AUDIT_PERIOD: Duration = Duration::from_secs(15);

/// Runs the node proxy until `shutdown` is requested.
///
/// # Errors
/// Flags that make no sense (2), missing privileges (3), no API server (4).
pub async fn run(args: ProxyArgs, api: ApiArgs, shutdown: Shutdown) -> Result<(), ExitError> {
    if args.cleanup {
        return cleanup().await;
    }
    let settings = args
        .settings()
        .map_err(|error| ExitError::new(Code::Usage, error))?;
    let connection = api.connect().await?;
    let stop = shutdown.token();
    if args.dry_run {
        connection.contact(api.patience(), &stop).await?;
        let events = feed::start(&connection.client(), WatchMetrics::default());
        return dry_run(settings, events, &stop).await;
    }
    let nft = Nft::open()?;
    // Missing privileges show here, before anything else is waited for.
    nft.has_table(IpFamily::V4).await?;
    let admin = Admin::bind("--admin-address", args.admin_address).await?;
    let registry = Registry::new("proxy", env!("CARGO_PKG_VERSION"));
    let metrics = registry.register(Metrics::register);
    let watches = registry.register(WatchMetrics::register);
    let readiness = Readiness::new();
    let mut agent = Agent {
        state: State::default(),
        syncer: Syncer::new(nft, settings, args.retire_delay),
        metrics,
        listed: readiness.register("lists-complete"),
        synced: readiness.register("rules-written"),
        failures: 0,
        retry_at: None,
        reported: Reported::default(),
    };
    let serving = tokio::spawn(admin.serve(readiness, registry, stop.child_token()));
    tracing::info!(server = %connection.origin(), node = args.node_name, "starting");
    let outcome = async {
        connection.contact(api.patience(), &stop).await?;
        agent.run(feed::start(&connection.client(), watches), &stop).await
    }
    .await;
    shutdown.request();
    if let Err(error) = serving.await {
        tracing::debug!(%error, "admin port ended");
    }
    outcome
}

/// Removes Berth's tables, and nothing else.
///
/// # Errors
/// Missing privileges (3), or the kernel refused (1).
pub async fn cleanup() -> Result<(), ExitError> {
    let nft = Nft::open()?;
    for family in IpFamily::ALL {
        let removed = nft.remove(family).await?;
        tracing::info!(%family, removed, "clean-up");
    }
    Ok(())
}

/// Prints what would be written on an empty node.
async fn dry_run(
    settings: berth_proxy_core::Settings,
    mut events: mpsc::Receiver<Event>,
    stop: &CancellationToken,
) -> Result<(), ExitError> {
    let mut state = State::default();
    while !state.is_synced() {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = events.recv() => match event {
                Some(event) => state.accept(event),
                None => return Err(ExitError::failure("the watches ended")),
            },
        }
    }
    let intent = Intent::of(state.index.view(), settings);
    print!("{}", full_script(&intent));
    Ok(())
}

/// What was said already, so that it is said once.
#[derive(Debug, Default)]
struct Reported {
    conflicts: BTreeSet<Conflict>,
    shortfalls: BTreeSet<Shortfall>,
}

struct Agent {
    state: State,
    syncer: Syncer,
    metrics: Metrics,
    listed: Condition,
    synced: Condition,
    failures: u32,
    retry_at: Option<Instant>,
    reported: Reported,
}

impl Agent {
    async fn run(
        &mut self,
        mut events: mpsc::Receiver<Event>,
        stop: &CancellationToken,
    ) -> Result<(), ExitError> {
        let mut counters = tokio::time::interval(COUNTER_PERIOD);
        let mut audits = tokio::time::interval(AUDIT_PERIOD);
        audits.reset();
        loop {
            let wake = self.wake_in();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.recv() => {
                    let Some(event) = event else {
                        return Err(ExitError::failure("the watches ended"));
                    };
                    self.accept(event, &mut events);
                }
                () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {}
                _ = counters.tick() => {
                    self.read_counters().await;
                    continue;
                }
                _ = audits.tick() => {
                    if let Err(error) = self.syncer.audit().await {
                        tracing::debug!(%error, "ruleset not compared");
                    }
                }
            }
            self.turn().await?;
        }
    }

    /// The event and all that wait behind it: a burst becomes one turn.
    fn accept(&mut self, event: Event, events: &mut mpsc::Receiver<Event>) {
        self.state.accept(event);
        while let Ok(event) = events.try_recv() {
            self.state.accept(event);
        }
    }

    fn wake_in(&self) -> Option<Duration> {
        match self.retry_at {
            Some(at) => Some(at.saturating_duration_since(Instant::now())),
            None => self.syncer.next_retirement(),
        }
    }

    async fn turn(&mut self) -> Result<(), ExitError> {
        if !self.state.is_synced() {
            return Ok(());
        }
        self.listed.set();
        let dirty = self.state.index.take_dirty();
        self.syncer.take(self.state.index.view(), &dirty);
        if !dirty.is_empty() {
            self.report();
        }
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        let started = Instant::now();
        match self.syncer.turn().await {
            Ok(done) => {
                self.failures = 0;
                self.retry_at = None;
                self.synced.set();
                if !done.is_nothing() {
                    self.metrics.synced(started.elapsed().as_secs_f64());
                    self.metrics.forgotten(done.forgotten);
                    self.metrics.wrote(done.changes, done.rebuilt);
                    tracing::debug!(?done, services = dirty.len(), took = ?started.elapsed(), "synced");
                }
                for (family, count) in self.syncer.elements() {
                    self.metrics.elements(family, count);
                }
                Ok(())
            }
            Err(error @ Error::Privilege { .. }) => Err(error.into()),
            Err(error @ (Error::Kernel { .. } | Error::Unstable { .. } | Error::Socket(_))) => {
                self.failures = self.failures.saturating_add(1);
                let delay = jitter(
                    RETRY.delay(self.failures),
                    self.failures.wrapping_mul(0x9e37_79b9),
                );
                self.retry_at = Some(Instant::now() + delay);
                self.metrics.failed();
                tracing::error!(%error, failures = self.failures, retry_in = ?delay, "rules not written");
                Ok(())
            }
        }
    }

    fn report(&mut self) {
        let conflicts: BTreeSet<Conflict> = self.syncer.intent().conflicts().into_iter().collect();
        for conflict in conflicts.difference(&self.reported.conflicts) {
            tracing::warn!(%conflict, "frontend claimed twice");
        }
        self.metrics.conflicts(conflicts.len());
        self.reported.conflicts = conflicts;
        let shortfalls: BTreeSet<Shortfall> = self.syncer.intent().shortfalls().into_iter().collect();
        for new in shortfalls.difference(&self.reported.shortfalls) {
            tracing::warn!(reason = new.kind.as_str(), "{new}");
            self.metrics.shortfall(new.kind, 1);
        }
        for gone in self.reported.shortfalls.difference(&shortfalls) {
            self.metrics.shortfall(gone.kind, -1);
        }
        self.reported.shortfalls = shortfalls;
    }

    async fn read_counters(&self) {
        for family in IpFamily::ALL {
            match self.syncer.nft().untranslated(family).await {
                Ok(packets) => {
                    let before = self.metrics.untranslated(family, packets);
                    if packets > before {
                        tracing::warn!(%family, packets = packets - before, "packets to Services found no endpoint");
                    }
                }
                Err(error) => tracing::debug!(%family, %error, "counter not read"),
            }
        }
    }
}
