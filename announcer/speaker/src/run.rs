// SPDX-License-Identifier: Apache-2.0
//! `berth announcer`: the parts put together.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use berth_announcer_core::membership::Identity;
use berth_announcer_core::wire::heartbeat::Phase;
use berth_model::NodeName;
use berth_runtime::admin::Admin;
use berth_runtime::client::ApiArgs;
use berth_runtime::exit::ExitError;
use berth_runtime::metrics::Metrics;
use berth_runtime::ready::{Condition, Readiness};
use berth_runtime::shutdown::Shutdown;
use berth_runtime::watch::WatchMetrics;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::status::StatusWriter;
use crate::{AnnouncerArgs, AnnouncerMetrics, Cluster, Report, Setup, Speaker, observe};

/// How long the end may take: three farewells, one last write, and some air.
const END: std::time::Duration = std::time::Duration::from_secs(4);

/// Runs the announcer until it is told to stop.
///
/// # Errors
/// Flags that make no sense (exit code 2), no packet sockets (3), no way to the API server (4), a second announcer on this
/// machine or for this Node (5), or another failure (1).
pub async fn run(args: AnnouncerArgs, api: ApiArgs, shutdown: Shutdown) -> Result<(), ExitError> {
    let identity = identity(args.node()?);
    let setup = Setup {
        identity: identity.clone(),
        timing: args.timing()?,
        selection: args.selection(),
        key: args.key()?,
        port: args.heartbeat_port,
    };
    let metrics = Metrics::new("announcer", env!("CARGO_PKG_VERSION"));
    let counters = metrics.register(AnnouncerMetrics::register);
    let watches = metrics.register(WatchMetrics::register);
    // What can only fail for good fails before anything is waited for.
    let speaker = Speaker::open(setup, counters)?;
    let admin = Admin::bind("--admin-address", args.admin_address).await?;
    let connection = api.connect().await?;
    let readiness = Readiness::new();
    let conditions = Conditions {
        joined: readiness.register("joined"),
        listed: readiness.register("services-and-nodes-listed"),
    };
    let instance = format_args!("{:016x}", identity.instance);
    tracing::info!(node = %identity.node, instance, server = %connection.origin(), "starting");
    shutdown.spawn(admin.serve(readiness, metrics, shutdown.token()));
    let outcome = async {
        connection.contact(api.patience(), &shutdown.token()).await?;
        let (cluster_sender, cluster) = watch::channel(None::<Cluster>);
        let (report_sender, reports) = watch::channel(None::<Report>);
        let observed = observe::follow(connection.client(), args.services(), watches, cluster_sender);
        let stop = shutdown.token();
        shutdown.spawn(async move { stop.run_until_cancelled(observed).await });
        shutdown.spawn(conditions.show(reports.clone(), cluster.clone()));
        shutdown.spawn(
            StatusWriter::new(connection.client(), identity, cluster.clone()).run(reports, shutdown.token()),
        );
        speaker.run(cluster, report_sender, shutdown.token()).await?;
        Ok(())
    }
    .await;
    if !shutdown.finish(END).await {
        tracing::warn!(deadline = ?END, "not everything ended in time");
    }
    outcome
}

/// A new identity for each start. The instance need not be unguessable, only different: the heartbeat key
/// authenticates.
fn identity(node: NodeName) -> Identity {
    let micros = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
    let mut random = RandomState::new().build_hasher();
    random.write_u32(std::process::id());
    random.write_u64(micros);
    Identity {
        node,
        instance: random.finish(),
        incarnation: micros,
    }
}

/// What must hold before this process counts as ready.
struct Conditions {
    joined: Condition,
    listed: Condition,
}

impl Conditions {
    /// Ends with the speaker, whose sender of reports it listens to.
    async fn show(
        self,
        mut reports: watch::Receiver<Option<Report>>,
        cluster: watch::Receiver<Option<Cluster>>,
    ) {
        while reports.changed().await.is_ok() {
            if cluster.borrow().is_some() {
                self.listed.set();
            }
            let established = reports
                .borrow_and_update()
                .as_ref()
                .is_some_and(|report| report.phase == Phase::Established && report.listed);
            if established {
                self.joined.set();
            } else {
                self.joined.clear();
            }
        }
    }
}
