// SPDX-License-Identifier: Apache-2.0
//! `berth controllers`, `berth proxy`, `berth announcer`: flags, logs, runtime, exit code.

use std::process::ExitCode;
use std::time::Duration;

use berth_announcer_speaker::AnnouncerArgs;
use berth_controllers_manager::ControllersArgs;
use berth_proxy_agent::ProxyArgs;
use berth_runtime::client::ApiArgs;
use berth_runtime::exit::{Code, ExitError};
use berth_runtime::log::LogArgs;
use berth_runtime::shutdown::Shutdown;

/// How long tasks may take to end after SIGTERM: well within a Pod's default grace period of 30 s.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the controllers: Endpoints, EndpointSlices, mirroring, LoadBalancer addresses.
///
/// Any number of replicas may run; the holder of a Lease writes. With --enable=endpoints,endpointslices,mirroring it
/// replaces those three controllers of kube-controller-manager and needs none of Berth's own types.
#[derive(clap::Args, Debug)]
pub(crate) struct Controllers {
    #[command(flatten)]
    args: ControllersArgs,
    #[command(flatten)]
    common: Common,
}

/// Programs this node's kernel (nftables): ClusterIPs, node ports, LoadBalancer addresses.
///
/// Needs CAP_NET_ADMIN in the node's network namespace, and real API server addresses (--apiserver): the ClusterIP of
/// the API server works only once this has run.
#[derive(clap::Args, Debug)]
pub(crate) struct Proxy {
    #[command(flatten)]
    args: ProxyArgs,
    #[command(flatten)]
    common: Common,
}

/// Announces LoadBalancer addresses from this node by ARP and NDP: exactly one node answers for each.
///
/// Needs CAP_NET_RAW in the node's network namespace, and UDP between the nodes on the heartbeat port.
#[derive(clap::Args, Debug)]
pub(crate) struct Announcer {
    #[command(flatten)]
    args: AnnouncerArgs,
    #[command(flatten)]
    common: Common,
}

/// What every daemon takes.
#[derive(clap::Args, Debug)]
struct Common {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    log: LogArgs,
}

impl Controllers {
    /// Runs until SIGTERM or a failure.
    pub(crate) fn run(self) -> ExitCode {
        self.common
            .run(async move |api, shutdown| berth_controllers_manager::run(self.args, api, shutdown).await)
    }
}

impl Proxy {
    /// Runs until SIGTERM or a failure.
    pub(crate) fn run(self) -> ExitCode {
        self.common
            .run(async move |api, shutdown| berth_proxy_agent::run(self.args, api, shutdown).await)
    }
}

impl Announcer {
    /// Runs until SIGTERM or a failure.
    pub(crate) fn run(self) -> ExitCode {
        self.common
            .run(async move |api, shutdown| berth_announcer_speaker::run(self.args, api, shutdown).await)
    }
}

impl Common {
    fn run(self, daemon: impl AsyncFnOnce(ApiArgs, Shutdown) -> Result<(), ExitError>) -> ExitCode {
        let outcome = self
            .log
            .install()
            .map_err(|error| ExitError::new(Code::Usage, error))
            .and_then(|()| {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .build()
                    .map_err(|error| ExitError::failure(format!("starting the async runtime: {error}")))?;
                runtime.block_on(async {
                    let shutdown = Shutdown::on_signals().map_err(|error| {
                        ExitError::failure(format!("installing signal handlers: {error}"))
                    })?;
                    let outcome = daemon(self.api, shutdown.clone()).await;
                    if !shutdown.finish(SHUTDOWN_DEADLINE).await {
                        tracing::warn!(deadline = ?SHUTDOWN_DEADLINE, "not every task ended in time");
                    }
                    outcome
                })
            });
        match outcome {
            Ok(()) => Code::Ok.into(),
            Err(error) => {
                anstream::eprintln!("error: {error}");
                error.code().into()
            }
        }
    }
}
