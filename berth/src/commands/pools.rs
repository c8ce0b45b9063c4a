// SPDX-License-Identifier: Apache-2.0
//! `berth pools`: what the pools of a cluster have, and who has it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use berth_controllers_core::admission::Exemptions;
use berth_controllers_core::values::{ALLOCATOR, MANAGED_BY};
use berth_model::PortRange;
use berth_runtime::client::{ApiArgs, Connection, explain};
use berth_runtime::exit::{Code, ExitError};
use clap::ValueEnum;
use kube::api::{Api, ListParams};
use kube::{Client, Error, Resource};
use serde::de::DeserializeOwned;

use crate::pools::{Flags, Listed, Report, report};

/// How often a list is asked for that the API server puts off, and how long after.
const TRIES: u32 = 10;
const AGAIN: Duration = Duration::from_secs(1);

/// Shows the pools of a cluster: how full they are, who has which address or node port and why, and what conflicts.
///
/// Lists AddressPools, NodePortPools, AddressClaims, Services, Namespaces, ServiceCIDRs and the IPAddresses that the API server's
/// allocator does not manage, once each, and reckons as the controllers do.
/// With a NAME it says everything about the pools called so.
#[derive(clap::Args, Debug)]
pub(crate) struct PoolsArgs {
    /// Everything about the AddressPool or NodePortPool of this name.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// table: for reading; json: for scripts, with every holder.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Only what is not as it should be: a value of two Services, of no range, or of a pool that is for others.
    #[arg(long)]
    conflicts: bool,
    /// The API server's --service-node-port-range, which nobody can ask it for.
    #[arg(
        long,
        env = "BERTH_SERVICE_NODE_PORT_RANGE",
        value_name = "FIRST-LAST",
        default_value = "30000-32767"
    )]
    service_node_port_range: PortRange,
    /// Namespaces that pools do not apply to, beside kube-system: Berth's own, and what its flags say.
    #[arg(
        long,
        env = "BERTH_ADMISSION_EXEMPT_NAMESPACES",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "berth-system"
    )]
    exempt_namespaces: Vec<String>,
    /// Count Services without a loadBalancerClass as Berth's as well.
    #[arg(long)]
    default_provider: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which API server is asked.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "API server")]
struct ServerArgs {
    /// Kubeconfig file; without it the Pod's service account is used, then ~/.kube/config
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, if not its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Longest time for one request, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    request_timeout: u64,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    #[value(alias = "text")]
    Table,
    Json,
}

/// Runs the command.
///
/// # Errors
/// No API server, or one that does not let us list a kind (4); no pool of that name (1).
pub(crate) fn run(args: &PoolsArgs) -> Result<(), ExitError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ExitError::failure(format!("starting the async runtime: {error}")))?;
    let listed = runtime.block_on(list(&args.server))?;
    let flags = Flags {
        node_ports: args.service_node_port_range,
        exemptions: Exemptions::with(args.exempt_namespaces.iter().cloned()),
        default_provider: args.default_provider,
    };
    let text = render(args, report(&listed, &flags))?;
    anstream::print!("{text}");
    Ok(())
}

fn render(args: &PoolsArgs, report: Report) -> Result<String, ExitError> {
    let report = match &args.name {
        Some(name) => report.of(name).ok_or_else(|| {
            let missing =
                format!("there is no AddressPool and no NodePortPool {name:?}; `berth pools` lists them");
            ExitError::failure(missing)
        })?,
        None => report,
    };
    let text = match (args.output, args.conflicts, &args.name) {
        (Output::Json, false, _) => return json(&report),
        (Output::Json, true, _) => return json(&report.conflicts),
        (Output::Table, true, _) => report.conflict_list(),
        (Output::Table, false, Some(_)) => report.details(),
        (Output::Table, false, None) => report.table(),
    };
    text.map_err(ExitError::failure)
}

fn json(value: &impl serde::Serialize) -> Result<String, ExitError> {
    let text = serde_json::to_string_pretty(value).map_err(ExitError::failure)?;
    Ok(text + "\n")
}

async fn list(server: &ServerArgs) -> Result<Listed, ExitError> {
    let args = ApiArgs {
        kubeconfig: server.kubeconfig.clone(),
        context: server.context.clone(),
        request_timeout: Duration::from_secs(server.request_timeout),
        ..ApiArgs::default()
    };
    let connection = args.connect().await?;
    // For its words about a server that can't be reached, or does not know us.
    connection.check().await?;
    let client = connection.client();
    let everything = ListParams::default();
    let foreign = ListParams::default().labels(&format!("{MANAGED_BY}!={ALLOCATOR}"));
    let (services, namespaces, service_cidrs, ip_addresses, address_pools, port_pools, claims) = tokio::try_join!(
        all(&client, &connection, "services", &everything),
        all(&client, &connection, "namespaces", &everything),
        all(
            &client,
            &connection,
            "servicecidrs.networking.k8s.io",
            &everything
        ),
        all(&client, &connection, "ipaddresses.networking.k8s.io", &foreign),
        all(&client, &connection, "addresspools.berth.dev", &everything),
        all(&client, &connection, "nodeportpools.berth.dev", &everything),
        all(&client, &connection, "addressclaims.berth.dev", &everything),
    )?;
    Ok(Listed {
        services: services.unwrap_or_default(),
        namespaces: namespaces.unwrap_or_default(),
        service_cidrs,
        ip_addresses,
        address_pools,
        port_pools,
        claims,
    })
}

/// All objects of a kind; none where the cluster does not have the kind.
async fn all<K>(
    client: &Client,
    connection: &Connection,
    plural: &str,
    params: &ListParams,
) -> Result<Option<Vec<K>>, ExitError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api = Api::<K>::all(client.clone());
    let mut tries = 1;
    let listed = loop {
        match api.list(params).await {
            // Busy, or with a kind that was installed just now.
            Err(Error::Api(status)) if status.code == 429 && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(AGAIN).await;
            }
            listed => break listed,
        }
    };
    match listed {
        Ok(list) => Ok(Some(list.items)),
        Err(Error::Api(status)) if status.code == 404 => Ok(None),
        Err(Error::Api(status)) if status.code == 403 => {
            let server = connection.origin();
            let message = format!(
                "{server} does not let this user list {plural} ({}): the verb list on {plural} is needed, in all namespaces",
                status.message
            );
            Err(ExitError::new(Code::ApiServer, message))
        }
        Err(error) => {
            let (_, text) = explain(&error);
            let message = format!("listing {plural}: {text}");
            Err(ExitError::new(Code::ApiServer, message))
        }
    }
}
