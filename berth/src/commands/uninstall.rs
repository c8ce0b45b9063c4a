// SPDX-License-Identifier: Apache-2.0
//! `berth uninstall`: takes out of a cluster what Berth's controllers wrote beside its Pods and kinds.

use std::fmt::Debug;
use std::path::PathBuf;

use berth_controllers_manager::admission::{self, SECRET};
use berth_controllers_manager::{LEASES, enforcement};
use berth_runtime::client::{ApiArgs, Connection, explain};
use berth_runtime::exit::{Code, ExitError};
use clap::ValueEnum;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingAdmissionPolicy};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, Error, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::uninstall::{Found, Step, Target, plan, running};

/// Takes out of a cluster what Berth's controllers wrote there, in an order in which nothing ever waits for what is gone.
///
/// That is: the webhook, the policies that API servers hold pools by, the ServiceCIDRs that pools wanted, the certificates and
/// the Leases. To be run when the controllers are gone, and before the namespace and the kinds are deleted (`kubectl delete -k`). A
/// ServiceCIDR that Services live on stays, and is told (exit code 1). On the nodes, `berth proxy --cleanup` removes the rules.
#[derive(clap::Args, Debug)]
pub(crate) struct UninstallArgs {
    /// The namespace that Berth's controllers ran in.
    #[arg(short, long, value_name = "NAME", default_value = "berth-system")]
    namespace: String,
    /// Only say what would go, and what would stay.
    #[arg(long)]
    dry_run: bool,
    /// table: for reading, as it goes; json: for scripts.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Kubeconfig file; without it the Pod's service account is used, then ~/.kube/config
    #[arg(long, env = "KUBECONFIG", value_name = "FILE", help_heading = "API server")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, if not its current one
    #[arg(long, value_name = "NAME", help_heading = "API server")]
    context: Option<String>,
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
/// No API server, or one that does not let us (4); controllers that run still, or something that has to stay (1).
pub(crate) fn run(args: &UninstallArgs) -> Result<(), ExitError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ExitError::failure(format!("starting the async runtime: {error}")))?;
    runtime.block_on(uninstall(args))
}

async fn uninstall(args: &UninstallArgs) -> Result<(), ExitError> {
    let server = ApiArgs {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        ..ApiArgs::default()
    };
    let connection = server.connect().await?;
    connection.check().await?;
    let cluster = Cluster {
        client: connection.client(),
        connection: &connection,
        namespace: &args.namespace,
    };
    let found = cluster.found().await?;
    if let Some((lease, holder)) = running(&found.leases, Timestamp::now()).filter(|_| !args.dry_run) {
        return Err(still_runs(&args.namespace, &lease, &holder));
    }
    let steps = plan(&found);
    for step in steps.iter().filter(|step| step.goes && !args.dry_run) {
        cluster.delete(&step.target).await?;
        say(args, step);
    }
    for step in steps.iter().filter(|step| !step.goes || args.dry_run) {
        say(args, step);
    }
    if args.output == Output::Json {
        let text = serde_json::to_string_pretty(&json!({"dryRun": args.dry_run, "steps": steps}));
        anstream::println!("{}", text.map_err(ExitError::failure)?);
    } else if steps.is_empty() {
        anstream::println!("Nothing of Berth's controllers is there.");
    }
    match steps.iter().filter(|step| !step.goes).count() {
        0 => Ok(()),
        left => Err(ExitError::failure(format!(
            "{left} of {} had to stay: see above",
            steps.len()
        ))),
    }
}

fn say(args: &UninstallArgs, step: &Step) {
    if args.output == Output::Table {
        let what = match (step.goes, args.dry_run) {
            (true, false) => "deleted",
            (true, true) => "would delete",
            (false, _) => "left",
        };
        anstream::println!("{what} {}: {}", step.target, step.because);
    }
}

fn still_runs(namespace: &str, lease: &str, holder: &str) -> ExitError {
    ExitError::failure(format!(
        "berth controllers still run: {holder} holds Lease {namespace}/{lease}, and would write anew what is deleted; end them first \
         (kubectl -n {namespace} delete deployment berth-controllers), and wait until the Lease has run out (15 s after a kill)"
    ))
}

/// Where it is all done.
struct Cluster<'a> {
    client: Client,
    connection: &'a Connection,
    namespace: &'a str,
}

impl Cluster<'_> {
    async fn found(&self) -> Result<Found, ExitError> {
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let mut found = Found {
            is_registered: self.get(&webhooks, admission::CONFIGURATION).await?.is_some(),
            service_cidrs: self.list(&Api::<ServiceCIDR>::all(self.client.clone())).await?,
            services: self.list(&Api::<Service>::all(self.client.clone())).await?,
            ..Found::default()
        };
        for name in enforcement::names() {
            if self.get(&policies, name).await?.is_some() {
                found.policies.push(name.to_owned());
            }
        }
        let secret = self.get(&self.own::<Secret>(), SECRET).await?;
        found.secret = secret.map(|_| SECRET.to_owned());
        for name in LEASES {
            found.leases.extend(self.get(&self.own::<Lease>(), name).await?);
        }
        Ok(found)
    }

    async fn delete(&self, target: &Target) -> Result<(), ExitError> {
        let client = self.client.clone();
        let deleted = match target {
            Target::Webhook => admission::remove(client).await,
            Target::Policies { .. } => enforcement::remove(client).await,
            Target::ServiceCidr { name } => delete(&Api::<ServiceCIDR>::all(client), name).await,
            Target::Secret { name } => delete(&self.own::<Secret>(), name).await,
            Target::Lease { name } => delete(&self.own::<Lease>(), name).await,
        };
        deleted.map_err(|error| self.refused(&format!("deleting {target}"), &error))
    }

    fn own<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    async fn get<K>(&self, api: &Api<K>, name: &str) -> Result<Option<K>, ExitError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        match api.get_opt(name).await {
            Ok(object) => Ok(object),
            Err(error) => Err(self.refused(&format!("reading {} {name}", K::kind(&())), &error)),
        }
    }

    /// None where the cluster does not have the kind.
    async fn list<K>(&self, api: &Api<K>) -> Result<Vec<K>, ExitError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items),
            Err(Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(self.refused(&format!("listing {}", K::plural(&())), &error)),
        }
    }

    /// What is done already stays done: the order is such that it does no harm, and another run goes on.
    fn refused(&self, what: &str, error: &Error) -> ExitError {
        let (_, text) = explain(error);
        let server = self.connection.origin();
        ExitError::new(
            Code::ApiServer,
            format!("{what} on {server}: {text}; run this again as somebody who may"),
        )
    }
}

async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
