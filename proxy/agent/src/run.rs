// SPDX-License-Identifier: Apache-2.0
//! From flags to a running process, and to its orderly end: the rules stay, so that traffic goes on
//! while the process is restarted or replaced.

mod looks;
mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use berth_model::{IpFamily, ServiceKey};
use berth_proxy_core::nft::BINDINGS_SIZE;
use berth_proxy_core::{Conflict, Settings};
use berth_runtime::admin::Admin;
use berth_runtime::client::ApiArgs;
use berth_runtime::exit::ExitError;
use berth_runtime::metrics::Metrics as Registry;
use berth_runtime::ready::{Condition, Readiness};
use berth_runtime::shutdown::Shutdown;
use berth_runtime::watch::WatchMetrics;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backend::{self, Backend, Chosen};
use crate::events::Events;
use crate::feed::{Event, Seen, Selection, State};
use crate::health::{self, HealthPorts, ProxyHealth, Refusal};
use crate::metrics::Metrics;
use crate::node::own_addresses;
use crate::once::{cleanup, once};
use crate::options::Options;
use crate::source::Source;
use crate::start::{self, Start};
use crate::sync::Syncer;
use crate::takeover::take_over;
use crate::upstream::Upstream;
use crate::{Error, ProxyArgs, sysctl};
use looks::{AUDIT_PERIOD, GLANCE_PERIOD, LookTimes};
use pace::Pace;

/// How often the counters of packets are read, and elements counted: neither is for a change to wait for.
const COUNTER_PERIOD: Duration = Duration::from_secs(10);

/// Why a Service is not served as it should be.
const REFUSED: &str = "RefusedByKernel";

/// How long the first write waits for the own Node.
pub(crate) const NODE_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the node proxy until `shutdown` is requested.
///
/// # Errors
/// Flags that make no sense (2), missing privileges (3), no API server (4).
pub async fn run(args: ProxyArgs, api: ApiArgs, shutdown: Shutdown) -> Result<(), ExitError> {
    if args.cleanup {
        return cleanup().await;
    }
    let Start { options, api } = start::read(&args, api)?;
    let settings = options.settings(None, &BTreeSet::new());
    let selection = Selection {
        service_proxy_name: args.service_proxy_name.clone(),
        node: options.node.clone(),
        service_cidrs: options.drops_unallocated(),
    };
    let stop = shutdown.token();
    let source = Source::open(args.state.clone(), api).await?;
    if args.dry_run || !args.count.is_empty() {
        let events = source.read(&selection, WatchMetrics::default(), &stop).await?;
        return once(&args, &options, events, &stop).await;
    }
    let backend = Chosen::open(&options, &settings, args.retire_delay).await?;
    let admin = Admin::bind("--metrics-bind-address", options.metrics).await?;
    let registry = Registry::new("proxy", env!("CARGO_PKG_VERSION"));
    let metrics = registry.register(Metrics::register);
    let upstream = registry.register(|registry| Upstream::register(registry, options.mode));
    let watches = registry.register(WatchMetrics::register);
    let readiness = Readiness::new();
    let health = ProxyHealth::new(2 * options.sync_period);
    let health_server = health::serve(&options, health.clone(), upstream.clone(), stop.child_token())?;
    tracing::info!(state = source.name(), node = options.node.as_str(), "starting");
    let mut agent = Agent {
        state: State::new(Timestamp::now()),
        syncer: Syncer::new(backend, settings.clone()),
        settings,
        prepared: false,
        written: false,
        takeover: args.takeover,
        node_patience: Instant::now() + NODE_PATIENCE,
        metrics,
        listed: readiness.register("lists-complete"),
        synced: readiness.register("rules-written"),
        pace: Pace::new(options.min_sync_period, options.sync_period),
        conflicts: BTreeSet::new(),
        refused: BTreeMap::new(),
        ports: HealthPorts::new(health.clone()),
        health,
        upstream,
        pending: Seen::default(),
        events: source.publisher(options.node.as_str()),
        look_times: LookTimes::default(),
        options,
    };
    let serving = tokio::spawn(admin.serve(readiness, registry, stop.child_token()));
    let outcome = async {
        let events = source.read(&selection, watches, &stop).await?;
        agent.run(events, &stop).await
    }
    .await;
    shutdown.request();
    ended([Some(serving), health_server]).await;
    outcome
}

async fn ended(servers: [Option<JoinHandle<()>>; 2]) {
    for server in servers.into_iter().flatten() {
        if let Err(error) = server.await {
            tracing::debug!(%error, "server ended");
        }
    }
}

struct Agent {
    state: State,
    syncer: Syncer<Chosen>,
    metrics: Metrics,
    listed: Condition,
    synced: Condition,
    pace: Pace,
    /// Those that were warned of.
    conflicts: BTreeSet<Conflict>,
    refused: BTreeMap<ServiceKey, String>,
    options: Options,
    settings: Settings,
    /// Whether what an earlier process left was read ahead of time.
    prepared: bool,
    /// Whether rules were written once.
    written: bool,
    /// Whether to remove what a kube-proxy left.
    takeover: bool,
    /// Until when the first write waits for the own Node.
    node_patience: Instant,
    health: ProxyHealth,
    upstream: Upstream,
    /// What came and is not in the rules yet.
    pending: Seen,
    ports: HealthPorts,
    events: Events,
    look_times: LookTimes,
}

impl Agent {
    async fn run(
        &mut self,
        mut events: mpsc::Receiver<Event>,
        stop: &CancellationToken,
    ) -> Result<(), ExitError> {
        let mut counters = tokio::time::interval(COUNTER_PERIOD);
        let mut glance_at = Instant::now() + GLANCE_PERIOD;
        let mut audit_at = Instant::now() + AUDIT_PERIOD;
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
                () = tokio::time::sleep_until(glance_at.into()) => {
                    glance_at = self.glance().await?;
                    continue;
                }
                () = tokio::time::sleep_until(audit_at.into()) => {
                    audit_at = self.audit().await?;
                    continue;
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
        let new = self.state.take_seen();
        self.pending.merge(new.clone());
        self.upstream.seen(&new, &self.pending);
    }

    fn wake_in(&self) -> Option<Duration> {
        let now = Instant::now();
        let until = |at: Instant| at.saturating_duration_since(now);
        let rules = match self.pace.not_before() {
            Some(at) => Some(until(at)),
            None => self.syncer.next_wake(),
        };
        let ports = self.ports.retry_at().map(until);
        let node = (!self.written && self.state.is_synced()).then(|| until(self.node_patience));
        let node = node.filter(|wait| !wait.is_zero());
        rules.into_iter().chain(ports).chain(node).min()
    }

    fn is_synced(&self) -> bool {
        self.state.is_synced() && (self.written || self.state.node.is_some() || self.goes_without_node())
    }

    /// Whether to write although the Node is not known. Its zone and addresses matter, and it comes first,
    /// as a rule; but where it may not be read, or is not there, that must not keep rules from the others.
    fn goes_without_node(&self) -> bool {
        !self.options.needs_node() && (self.state.is_node_listed() || Instant::now() >= self.node_patience)
    }

    /// What the Node, the machine's addresses and the ServiceCIDRs changed of the settings is written like any other change.
    /// A Node that is gone changes nothing: traffic goes on as long as this process runs.
    fn follow_node(&mut self) {
        self.health.node(self.state.eligibility());
        let known = if self.state.node.is_none() && self.written {
            self.settings.clone()
        } else if let Some(settings) = self.of_node() {
            settings
        } else {
            return;
        };
        let settings = Settings {
            service_cidrs: self.state.service_cidrs(),
            ..known
        };
        if settings != self.settings {
            tracing::info!(
                ?settings,
                "the node or the ServiceCIDRs changed, and the rules follow"
            );
            self.syncer.reconfigure(settings.clone(), self.state.index.view());
            self.settings = settings;
            self.queued();
        }
    }

    /// The settings as the Node and the machine's addresses are now.
    fn of_node(&self) -> Option<Settings> {
        let own = if self.options.selects_addresses() {
            match own_addresses() {
                Ok(own) => own,
                Err(error) => {
                    tracing::warn!(%error, "the machine's addresses cannot be read");
                    return None;
                }
            }
        } else {
            BTreeSet::new()
        };
        Some(self.options.settings(self.state.node.as_ref(), &own))
    }

    fn queued(&self) {
        self.health.queued(Instant::now());
        self.upstream.queued(Timestamp::now());
    }

    async fn check_ports(&mut self) {
        let on = &self.settings.node_port_addresses;
        for refusal in self.ports.sync(on, Instant::now()).await {
            tracing::warn!(reason = Refusal::REASON, "{refusal}");
            self.events.refused(refusal);
        }
        self.metrics.health_ports(self.ports.count());
    }

    async fn turn(&mut self) -> Result<(), ExitError> {
        self.follow_node();
        if !self.is_synced() {
            self.prepare().await;
            return Ok(());
        }
        self.listed.set();
        let dirty = self.state.index.take_dirty();
        let view = self.state.index.view();
        self.syncer.take(view, &dirty);
        if !dirty.is_empty() {
            self.queued();
            self.ports.update(view, &dirty, self.settings.node.as_ref());
        }
        self.check_ports().await;
        if self.pace.is_due(Instant::now()) {
            self.write(dirty.len()).await?;
        }
        if !dirty.is_empty() {
            // It looks at all frontends, which no change is to wait for.
            self.report();
        }
        Ok(())
    }

    /// Reads what an earlier process left while lists are still coming; once, when the settings that its rules depend on are
    /// known.
    async fn prepare(&mut self) {
        let node = self.state.node.is_some() || self.goes_without_node();
        let cidrs = self.settings.service_cidrs.is_some() || !self.options.drops_unallocated();
        if !node || !cidrs || std::mem::replace(&mut self.prepared, true) {
            return;
        }
        if let Err(error) = self.syncer.prepare().await {
            tracing::debug!(%error, "not read ahead of time");
        }
    }

    async fn write(&mut self, services: usize) -> Result<(), ExitError> {
        let started = Instant::now();
        match self.syncer.turn().await {
            Ok(done) => {
                self.synced.set();
                if !std::mem::replace(&mut self.written, true) {
                    // Only now, since the rules have the kernel load the module.
                    let refused = sysctl::apply(&self.options.conntrack);
                    self.metrics.sysctls_refused(refused);
                    self.remove_others().await;
                }
                let now = Timestamp::now();
                self.health.updated(now);
                self.upstream.synced(now, &std::mem::take(&mut self.pending));
                self.upstream.cleaned(self.syncer.take_passes());
                self.pace.ended(Instant::now(), !done.is_nothing());
                if !done.is_nothing() {
                    let took = started.elapsed();
                    self.upstream.wrote(took, done.rebuilt > 0);
                    self.metrics.synced(took.as_secs_f64());
                    self.metrics.forgotten(done.forgotten);
                    self.metrics.unbound(done.unbound);
                    self.metrics.wrote(done.changes, done.rebuilt);
                    tracing::debug!(?done, services, ?took, "synced");
                }
                self.report_refused();
                Ok(())
            }
            Err(error @ Error::Privilege { .. }) => Err(error.into()),
            Err(
                error @ (Error::Kernel { .. }
                | Error::Unstable { .. }
                | Error::Program { .. }
                | Error::Refused { .. }
                | Error::Missing { .. }
                | Error::Socket(_)),
            ) => {
                self.failed(&error);
                Ok(())
            }
        }
    }

    /// What another mode left, and if it is wished what a kube-proxy left: only once our rules are written, so that there
    /// is no time without any.
    async fn remove_others(&self) {
        let mode = self.options.mode;
        if let Err(error) = backend::remove(Some(mode)).await {
            tracing::warn!(%error, "what another mode may have left is not removed");
        }
        if !self.takeover {
            return;
        }
        match take_over(mode).await {
            Ok(taken) => {
                tracing::info!(%taken, "what a kube-proxy left is removed");
                if taken.servers_left {
                    tracing::warn!(
                        "link kube-ipvs0 and its virtual servers are left by kube-proxy's mode ipvs: run kube-proxy --cleanup"
                    );
                }
            }
            Err(error) => {
                tracing::error!(%error, "what a kube-proxy left is not removed; restart to try again")
            }
        }
    }

    /// What was refused is tried again after a pause.
    fn failed(&mut self, error: &Error) {
        let delay = self.pace.failed(Instant::now());
        self.metrics.failed();
        self.upstream.failed();
        tracing::error!(%error, failures = self.pace.failures(), retry_in = ?delay, "rules not written");
    }

    fn report(&mut self) {
        let conflicts: BTreeSet<Conflict> = self.syncer.intent().conflicts().into_iter().collect();
        for conflict in conflicts.difference(&self.conflicts) {
            tracing::warn!(%conflict, "frontend claimed twice");
        }
        self.metrics.conflicts(conflicts.len());
        self.conflicts = conflicts;
    }

    /// Each Service that is refused is named once, and again when it is taken.
    fn report_refused(&mut self) {
        let refused = self.syncer.refused();
        for (service, why) in refused {
            if self.refused.get(service) != Some(why) {
                tracing::error!(reason = REFUSED, %service, why, "a Service is refused, and is left as it is");
            }
        }
        for service in self
            .refused
            .keys()
            .filter(|service| !refused.contains_key(service))
        {
            tracing::info!(%service, "the Service is not refused any more, or it is gone");
        }
        self.metrics.refused(refused.len());
        self.refused.clone_from(refused);
    }

    async fn read_counters(&self) {
        for (family, count) in self.syncer.backend().elements() {
            self.metrics.elements(family, count);
        }
        self.upstream.rules(&self.syncer.backend().rule_counts());
        for (reason, count) in self.syncer.backend().refusals() {
            self.metrics.not_relayed(reason, count);
        }
        for family in IpFamily::ALL {
            match self.syncer.backend().counters(family).await {
                Ok(None) => {}
                Ok(Some(counters)) => {
                    let packets = self.metrics.untranslated(family, counters.untranslated);
                    if packets > 0 {
                        tracing::warn!(%family, packets, "packets to Services found no endpoint");
                    }
                    let connections = self.metrics.unremembered(family, counters.unremembered);
                    if connections > 0 {
                        tracing::warn!(
                            %family,
                            connections,
                            limit = BINDINGS_SIZE,
                            "session affinity: no room to remember more clients, which are spread at each connection"
                        );
                    }
                }
                Err(error) => tracing::debug!(%family, %error, "counters not read"),
            }
        }
    }
}
