// SPDX-License-Identifier: Apache-2.0
//! A control plane with Berth's kinds and rights, namespaces of teams, and replicas that serve.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_e2e::controlplane::{ControlPlane, ControlPlaneConfig, Kubectl};
use berth_e2e::metrics::{Page, http_get};
use berth_e2e::replicas::Replicas;
use berth_e2e::stage;
use berth_testkit::sandbox;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

/// Namespaces.
pub(crate) const TEAMS: [&str; 4] = ["team-a", "team-b", "team-c", "team-d"];
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    control_plane: ControlPlane,
    folder: PathBuf,
    replicas: Option<Mutex<Replicas>>,
}

/// What became of a create.
#[derive(Debug)]
pub(crate) enum Made {
    Stored(Box<Service>),
    Refused(u16, String),
}

impl Made {
    /// The cluster IP.
    pub(crate) fn address(&self) -> Result<String> {
        match self {
            Self::Stored(service) => {
                let spec = service.spec.as_ref().context("no spec")?;
                spec.cluster_ip.clone().context("no address")
            }
            Self::Refused(code, text) => bail!("{code}: {text}"),
        }
    }

    /// The first node port.
    pub(crate) fn node_port(&self) -> Result<i64> {
        match self {
            Self::Stored(service) => {
                let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
                let port = ports.and_then(|ports| ports.first()?.node_port);
                port.map(i64::from).context("no node port")
            }
            Self::Refused(code, text) => bail!("{code}: {text}"),
        }
    }

    pub(crate) fn refusal(&self) -> Result<(u16, &str)> {
        match self {
            Self::Refused(code, text) => Ok((*code, text)),
            Self::Stored(service) => bail!("stored: {service:?}"),
        }
    }

    pub(crate) fn stored_name(&self) -> Option<String> {
        match self {
            Self::Stored(service) => service.metadata.name.clone(),
            Self::Refused(..) => None,
        }
    }
}

impl Cluster {
    pub(crate) async fn start(name: &str) -> Result<Self> {
        Self::with_flags(name, &["--service-cluster-ip-range=10.96.0.0/16"]).await
    }

    /// With these flags of the API server.
    pub(crate) async fn with_flags(name: &str, flags: &[&str]) -> Result<Self> {
        let folder = stage::folder(name)?;
        let config = ControlPlaneConfig {
            logs: Some(folder.clone()),
            apiserver_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            ..ControlPlaneConfig::loopback(Path::new(sandbox::SCRATCH).join(name))
        };
        let control_plane = ControlPlane::start(config).await?;
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
        for file in ["base/namespace.yaml", "base/controllers-rbac.yaml"] {
            control_plane.apply(&manifests.join(file)).await?;
        }
        control_plane.install_kinds().await?;
        control_plane.settle_rbac().await?;
        let cluster = Self {
            control_plane,
            folder,
            replicas: None,
        };
        for team in TEAMS {
            cluster.namespace(team).await?;
        }
        Ok(cluster)
    }

    pub(crate) async fn namespace(&self, name: &str) -> Result<()> {
        self.namespace_with(name, &json!({})).await
    }

    /// With these labels.
    pub(crate) async fn namespace_with(&self, name: &str, labels: &Value) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.control_plane.client());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
        Ok(())
    }

    pub(crate) fn client(&self) -> Client {
        self.control_plane.client()
    }

    pub(crate) fn kubectl_runner(&self) -> &Kubectl {
        self.control_plane.kubectl_runner()
    }

    /// Starts so many replicas, with these flags besides.
    pub(crate) async fn serve(&mut self, count: usize, flags: &[&str]) -> Result<()> {
        let started = Replicas::start(&self.control_plane, &self.folder, count, flags).await?;
        self.replicas = Some(Mutex::new(started));
        Ok(())
    }

    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.control_plane.kubectl(arguments).await?)
    }

    /// A claim.
    pub(crate) async fn claim(&self, namespace: &str, name: &str, spec: &Value) -> Result<()> {
        let metadata = json!({"namespace": namespace, "name": name});
        self.apply_as("AddressClaim", &metadata, spec).await
    }

    async fn apply(&self, kind: &str, name: &str, spec: &Value) -> Result<()> {
        self.apply_as(kind, &json!({"name": name}), spec).await
    }

    async fn apply_as(&self, kind: &str, metadata: &Value, spec: &Value) -> Result<()> {
        let object =
            json!({"apiVersion": "berth.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
        self.apply_object(&object).await
    }

    pub(crate) async fn apply_object(&self, object: &Value) -> Result<()> {
        let kubectl = self.control_plane.kubectl_runner();
        kubectl
            .run_with_input(["apply", "-f", "-"], &object.to_string())
            .await?;
        Ok(())
    }

    /// A pool of cluster IPs.
    pub(crate) async fn address_pool(&self, name: &str, spec: &Value) -> Result<()> {
        let mut spec = spec.clone();
        spec["use"] = json!("ClusterIP");
        self.apply("AddressPool", name, &spec).await
    }

    /// A pool of node ports.
    pub(crate) async fn port_pool(&self, name: &str, spec: &Value) -> Result<()> {
        self.apply("NodePortPool", name, spec).await
    }

    /// Creates a Service with one port; `spec` holds what is special about it.
    pub(crate) async fn create(&self, namespace: &str, name: &str, spec: Value) -> Result<Made> {
        self.post(namespace, name, spec, false).await
    }

    /// The same as a dry run.
    pub(crate) async fn try_out(&self, namespace: &str, name: &str) -> Result<Made> {
        self.post(namespace, name, json!({}), true).await
    }

    async fn post(&self, namespace: &str, name: &str, spec: Value, dry_run: bool) -> Result<Made> {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        self.send(namespace, object, dry_run).await
    }

    /// Creates a Service that is given whole but for its port.
    pub(crate) async fn send(&self, namespace: &str, mut object: Value, dry_run: bool) -> Result<Made> {
        if object["spec"]["ports"].is_null() {
            object["spec"]["ports"] = json!([{"port": 80}]);
        }
        let services: Api<Service> = Api::namespaced(self.control_plane.client(), namespace);
        let params = PostParams {
            dry_run,
            ..PostParams::default()
        };
        match services.create(&params, &serde_json::from_value(object)?).await {
            Ok(stored) => Ok(Made::Stored(Box::new(stored))),
            Err(kube::Error::Api(status)) => Ok(Made::Refused(status.code, status.message)),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a Service of the namespace would get such an address: the API server's own watch has the registration, and
    /// the replicas' have the pool.
    pub(crate) async fn served(&self, namespace: &str, fits: impl Fn(&str) -> bool) -> Result<()> {
        eventually(format!("{namespace} is served"), PATIENCE, || async {
            let mut addresses = Vec::new();
            // Each of the replicas answers in turn, more or less.
            for _ in 0..8 {
                let made = self.try_out(namespace, "probe").await?;
                addresses.push(made.address()?);
            }
            anyhow::ensure!(addresses.iter().all(|address| fits(address)), "{addresses:?}");
            anyhow::Ok(())
        })
        .await?;
        Ok(())
    }

    /// A Service of the namespace whose cluster IP begins so: made, and deleted, until the ServiceCIDR that has such addresses is there.
    /// A dry run would not show it.
    pub(crate) async fn made_within(&self, namespace: &str, name: &str, prefix: &str) -> Result<String> {
        eventually(
            format!("{namespace}/{name} has an address of {prefix}"),
            PATIENCE,
            || async {
                let address = self.create(namespace, name, json!({})).await?.address()?;
                if !address.starts_with(prefix) {
                    self.kubectl(&["-n", namespace, "delete", "service", name])
                        .await?;
                }
                anyhow::ensure!(address.starts_with(prefix), "{address}");
                anyhow::Ok(address)
            },
        )
        .await
        .map_err(anyhow::Error::from)
    }

    /// The replicas, for as long as nobody waits.
    pub(crate) fn replicas(&self) -> Result<MutexGuard<'_, Replicas>> {
        let replicas = self.replicas.as_ref().context("none run")?;
        Ok(replicas.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The cluster IP of a stored Service.
    pub(crate) async fn address(&self, namespace: &str, name: &str) -> Result<String> {
        let services: Api<Service> = Api::namespaced(self.control_plane.client(), namespace);
        Made::Stored(Box::new(services.get(name).await?)).address()
    }

    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.control_plane.admin_kubeconfig()
    }

    pub(crate) async fn restart_apiserver(&mut self) -> Result<()> {
        Ok(self.control_plane.restart_apiserver().await?)
    }

    /// A metric, summed over the replicas.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let pages = self.replicas()?.metric_pages();
        let (name, labels) = (name.to_owned(), labels.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut sum = 0.0;
            for url in pages {
                sum += Page::new(http_get(&url)?).sum(&name, &labels);
            }
            Ok(sum)
        })
        .await?
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.replicas()?.check()
    }
}
