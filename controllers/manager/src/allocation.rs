// SPDX-License-Identifier: Apache-2.0
//! Cluster IPs and node ports out of pools, on every replica: the book, the webhook, and the replicas among themselves.
//!
//! In: flags, what the watches show, admission reviews. Out: patches and refusals. Touches: the API server (Secret, Lease,
//! MutatingWebhookConfiguration), two ports. Decides nothing: `berth_controllers_core::{admission, values, holder}` do.
//!
//! ```text
//!   watches --> told --> BookFeed --> Handout<Values> <-- PoolChooser <-- Webhook <-- API server
//!                  ^------ list anew -----'   ^-- mutual TLS --> other replicas
//! ```
//!
//! The webhook is registered only while there is a pool: who has none is asked nothing, and depends on nothing.

mod args;
mod book;
mod chooser;
mod secure;
mod told;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use berth_controllers_core::admission::{ClusterFamilies, Exemptions};
use berth_controllers_core::certificates::Rules;
use berth_controllers_core::values::Values;
use berth_runtime::client::Connection;
use berth_runtime::exit::{Code, ExitError};
use berth_runtime::ready::Condition;
use berth_runtime::serve::bind_both_families;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ControllersArgs;
use crate::admission::{
    AdmissionMetrics, Credentials, Keeper, Names, READ_PERIOD, Registrar, Settings, Webhook, serve,
};
use crate::audit::{AddressAuditor, AuditMetrics, Auditor};
use crate::enforcement::{Enforcer, action};
use crate::handout::{Handout, LeaseStore, Shell, Sites};
use crate::node_port_range::{RangeCheck, RangeMetrics};
use crate::upkeep::Upkeep;
pub use args::AllocationArgs;
pub(crate) use book::{BookFeed, KINDS};
use book::{Ground, Relisting};
use chooser::PoolChooser;
use secure::ReplicaTls;
pub(crate) use told::Tell;
pub(crate) mod tell {
    pub(crate) use super::told::{
        address_pools, claims, ip_addresses, namespaces, port_pools, service_cidrs, services,
    };
}

/// The Lease that says who hands out values; the shipped RBAC names it.
pub(crate) const LEASE: &str = "berth-values";
/// Between two looks whether somebody hands out values, at the start.
const LOOK: Duration = Duration::from_millis(100);

/// All of it at work.
pub(crate) struct Allocation {
    tasks: JoinSet<()>,
    /// No review is taken any more.
    stop: CancellationToken,
    /// For whoever leads.
    leads: Option<Leads>,
}

/// What whoever leads runs.
pub(crate) struct Leads {
    /// Keeps the API servers' own rules.
    pub(crate) enforcer: Enforcer,
    /// Looks for values that are not as they should be.
    pub(crate) auditor: Auditor,
    /// Compares Services with IPAddresses.
    pub(crate) addresses: AddressAuditor,
    /// Asks for the API server's range of node ports.
    pub(crate) node_ports: RangeCheck,
    /// Writes statuses.
    pub(crate) upkeep: Upkeep,
}

impl Leads {
    fn new(
        args: &ControllersArgs,
        client: &Client,
        exemptions: &Exemptions,
        feed: &BookFeed,
        metrics: &AllocationMetrics,
    ) -> Self {
        let action = action(
            args.admission.admission_failure_policy,
            args.admission.unavailable(),
        );
        let (namespace, flags) = (args.lease.namespace(client), &args.allocation);
        let believed = flags.service_node_port_range;
        Self {
            enforcer: Enforcer::new(client.clone(), exemptions.clone(), action, feed.observed()),
            auditor: feed.auditor(metrics.audit.clone()),
            addresses: feed.address_auditor(client, flags.address_audit_period, metrics.audit.clone()),
            node_ports: RangeCheck::new(
                client.clone(),
                &namespace,
                believed,
                feed.observed(),
                metrics.node_ports.clone(),
            ),
            upkeep: feed.upkeep(),
        }
    }
}

/// What is counted.
pub(crate) struct AllocationMetrics {
    pub(crate) admission: AdmissionMetrics,
    pub(crate) audit: AuditMetrics,
    pub(crate) node_ports: RangeMetrics,
}

impl Allocation {
    /// Binds both ports and starts. What the watches show has to go to the feed.
    ///
    /// # Errors
    /// Flags that make no sense, a port that is taken, no address to be reached at (2).
    pub(crate) async fn start(
        args: &ControllersArgs,
        connection: &Connection,
        ready: Condition,
        metrics: AllocationMetrics,
    ) -> Result<(Self, BookFeed), ExitError> {
        let client = connection.client();
        let namespace = args.lease.namespace(&client);
        let registration = args.admission.registration(&namespace).map_err(usage)?;
        let names = args.admission.names(&namespace).map_err(usage)?;
        let keeper = keeper(&client, &namespace, names, metrics.admission.clone())?;
        let credentials = keeper.credentials();

        let exemptions = Exemptions::with(args.admission.exempt_namespaces(&namespace));
        let range = args.allocation.service_node_port_range;
        let book = Values::new(range, exemptions.clone(), fastrand::u64(..));
        let relisting = Relisting::new();
        let (listener, address) = replica_site(&args.allocation, connection).await?;
        let sites = Sites {
            listener,
            address,
            secure: ReplicaTls::new(credentials.clone()),
            lease: LeaseStore::new(client.clone(), &namespace, LEASE),
        };
        let identity = args.lease.identity().map_err(usage)?;
        // A process that is started anew is another replica.
        let name = format!("{identity}-{:08x}", fastrand::u32(..));
        let (shell, handout) = Shell::new(&name, book, relisting.refresh(), sites);

        let ground = Ground::unknown();
        let (families, has_pools) = (ground.families.subscribe(), ground.has_pools.subscribe());
        let chooser = Arc::new(PoolChooser::new(client.clone(), handout.clone(), &ground));
        let feed = relisting.feed(handout.clone(), ground);
        let leads = Some(Leads::new(args, &client, &exemptions, &feed, &metrics));
        let webhook = Webhook::new(chooser, settings(args, exemptions), metrics.admission);
        let listener = bound("--admission-address", args.admission.admission_address)?;
        tracing::info!(
            address = %args.admission.admission_address,
            replica = name,
            failure_policy = %args.admission.admission_failure_policy,
            "admission"
        );

        let (stop, leave) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let registrar = Registrar::new(client, registration, credentials.clone());
        let opening = Opening {
            families,
            credentials: credentials.clone(),
            handout,
        };
        tasks.spawn(opening.then(ready, registrar, has_pools, stop.clone()));
        tasks.spawn(keeper.run(leave.clone()));
        tasks.spawn(shell.run(leave.clone()));
        let stopping = stop.clone();
        tasks.spawn(async move {
            serve(listener, credentials, webhook, stopping).await;
            // What was asked is answered: another replica may hand out values now.
            leave.cancel();
        });
        let this = Self { tasks, stop, leads };
        Ok((this, feed))
    }

    /// What is to be run by whoever leads; once.
    pub(crate) fn leads(&mut self) -> Option<Leads> {
        self.leads.take()
    }

    /// Ends when one of the tasks does, which none should.
    pub(crate) async fn ended(&mut self) -> Option<Result<(), tokio::task::JoinError>> {
        self.tasks.join_next().await
    }

    /// Answers what is under way, takes no more, and lets another replica hand out values.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn keeper(
    client: &Client,
    namespace: &str,
    names: Names,
    metrics: AdmissionMetrics,
) -> Result<Keeper, ExitError> {
    let (client, rules) = (client.clone(), Rules::DEFAULT);
    Keeper::new(client, namespace, names, rules, READ_PERIOD, metrics).map_err(ExitError::failure)
}

fn settings(args: &ControllersArgs, exemptions: Exemptions) -> Settings {
    Settings {
        exemptions,
        unavailable: args.admission.unavailable(),
        timeout: args.admission.timeout(),
    }
}

/// When reviews can be answered for the first time: what there is was listed, there is a certificate to show, and somebody
/// hands out values. Before that, the webhook is not registered by this replica.
struct Opening {
    families: watch::Receiver<Option<ClusterFamilies>>,
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
    handout: Handout<Values>,
}

impl Opening {
    async fn wait(&mut self) {
        let known = self.families.wait_for(Option::is_some).await.is_ok();
        let shown = self.credentials.wait_for(Option::is_some).await.is_ok();
        if !(known && shown) {
            // Whoever knew has ended, and the process with it.
            std::future::pending::<()>().await;
        }
        while self.handout.look(|replica, now| replica.answers(now)).await != Some(true) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Says so, and registers from then on.
    async fn then(
        mut self,
        ready: Condition,
        registrar: Registrar,
        has_pools: watch::Receiver<Option<bool>>,
        stop: CancellationToken,
    ) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.wait() => ready.set(),
        }
        registrar.run(has_pools, stop).await;
    }
}

fn usage(error: impl std::error::Error + Send + Sync + 'static) -> ExitError {
    ExitError::new(Code::Usage, error)
}

fn bound(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ExitError> {
    bind_both_families(address).map_err(|source| {
        let text = format!(
            "{flag} {address}: {source}; choose another address with {flag} (another Berth process may hold it)"
        );
        ExitError::new(Code::Usage, text)
    })
}

/// The port of this replica, and where others reach it.
async fn replica_site(
    args: &AllocationArgs,
    connection: &Connection,
) -> Result<(TcpListener, String), ExitError> {
    let listener = bound("--replica-address", args.replica_address)?;
    let port = listener.local_addr().map_err(ExitError::failure)?.port();
    let host = match args.advertised(AllocationArgs::pod_ip().as_deref()) {
        Some(address) => address,
        None => way_out(connection).await.ok_or_else(|| {
            let text = "no address is known at which other replicas reach this one; say it with --replica-advertised-address";
            ExitError::new(Code::Usage, text)
        })?,
    };
    Ok((listener, SocketAddr::new(host, port).to_string()))
}

/// The address from which the API server is reached. No packet is sent for it.
async fn way_out(connection: &Connection) -> Option<IpAddr> {
    let server = connection.origin().servers().first()?;
    let host = server.host()?.trim_start_matches('[').trim_end_matches(']');
    let port = server.port_u16().unwrap_or(443);
    let to = tokio::net::lookup_host((host, port)).await.ok()?.next()?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
