// SPDX-License-Identifier: Apache-2.0
//! A control plane with the kinds installed, and the leader's enforcer on it, under the rights that the manifests give.

use std::collections::BTreeMap;
use std::future::ready;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_controllers_core::admission::Exemptions;
use berth_controllers_core::enforcement::{Action, Observed};
use berth_controllers_manager::enforcement::Enforcer;
use berth_crds::{AddressPool, NodePortPool};
use berth_e2e::controlplane::{ControlPlane, ControlPlaneConfig};
use berth_e2e::stage;
use berth_testkit::sandbox;
use berth_testkit::wait::eventually;
use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const OWN: &str = "berth-system";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What became of a write.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) warning: String,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

pub(crate) struct Ground {
    pub(crate) control_plane: ControlPlane,
    pub(crate) client: Client,
    observed: watch::Sender<Option<Observed>>,
    enforcer: Option<DropGuard>,
    probes: u32,
}

impl Ground {
    pub(crate) async fn start(name: &str) -> Result<Self> {
        let config = ControlPlaneConfig {
            logs: Some(stage::folder(name)?),
            apiserver_flags: vec!["--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".to_owned()],
            ..ControlPlaneConfig::loopback(Path::new(sandbox::SCRATCH).join(name))
        };
        let control_plane = ControlPlane::start(config).await?;
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base");
        for file in ["namespace.yaml", "controllers-rbac.yaml"] {
            control_plane.apply(&base.join(file)).await?;
        }
        control_plane.settle_rbac().await?;
        let client = control_plane.client();
        install(&client).await?;
        let ground = Self {
            control_plane,
            client,
            observed: watch::Sender::new(None),
            enforcer: None,
            probes: 0,
        };
        for (name, labels) in [
            ("a", json!({})),
            ("b", json!({})),
            ("c", json!({})),
            ("x", json!({})),
            ("gold", json!({"tier": "gold"})),
        ] {
            let namespace = json!({"metadata": {"name": name, "labels": labels}});
            let namespaces: Api<Namespace> = Api::all(ground.client.clone());
            namespaces
                .create(&PostParams::default(), &serde_json::from_value(namespace)?)
                .await?;
        }
        Ok(ground)
    }

    /// Has the leader keep it, instead of whoever did before.
    pub(crate) async fn lead(&mut self, action: Action) -> Result<()> {
        let kubeconfig = self
            .control_plane
            .service_account_kubeconfig(OWN, "berth-controllers")
            .await?;
        let client = self.control_plane.client_for(&kubeconfig).await?;
        let exemptions = Exemptions::with([OWN.to_owned()]);
        let stop = CancellationToken::new();
        let enforcer = Enforcer::new(client, exemptions, action, self.observed.subscribe());
        self.enforcer = Some(stop.clone().drop_guard());
        tokio::spawn(enforcer.run(ready(()), stop));
        Ok(())
    }

    /// Nobody leads any more. What is enforced stays.
    pub(crate) fn stop_leading(&mut self) {
        self.enforcer = None;
    }

    /// Makes a pool, or gives it another spec.
    pub(crate) async fn pool(&self, plural: &str, name: &str, spec: &Value) -> Result<()> {
        let kind = if plural == "addresspools" {
            "AddressPool"
        } else {
            "NodePortPool"
        };
        let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name}, "spec": spec});
        let path = format!("/apis/berth.dev/v1alpha1/{plural}/{name}?fieldManager=test&force=true");
        let request = Request::patch(path).header("content-type", "application/apply-patch+yaml");
        let stored = self
            .client
            .request::<Value>(request.body(serde_json::to_vec(&pool)?)?);
        stored.await.with_context(|| format!("{kind} {name}"))?;
        Ok(())
    }

    /// Tells the leader what there is, as its watches would.
    pub(crate) async fn observe(&self, claims: &[(&str, &str)]) -> Result<()> {
        let address_pools: Api<AddressPool> = Api::all(self.client.clone());
        let port_pools: Api<NodePortPool> = Api::all(self.client.clone());
        let everything = ListParams::default();
        let mut observed = Observed::default();
        for pool in address_pools.list(&everything).await? {
            let name = pool.metadata.name.clone().unwrap_or_default();
            observed.address_pools.insert(name, pool);
        }
        for pool in port_pools.list(&everything).await? {
            let name = pool.metadata.name.clone().unwrap_or_default();
            observed.port_pools.insert(name, pool);
        }
        for (pool, namespace) in claims {
            let of_pool = observed.claims.entry((*pool).to_owned()).or_default();
            of_pool.insert((*namespace).to_owned());
        }
        self.observed.send_replace(Some(observed));
        Ok(())
    }

    /// Tells the leader that there are no pools.
    pub(crate) fn observe_nothing(&self) {
        self.observed.send_replace(Some(Observed::default()));
    }

    pub(crate) async fn create(&self, namespace: &str, name: &str, service: &Value) -> Result<Answer> {
        let mut service = service.clone();
        service["metadata"]["name"] = json!(name);
        self.send(
            "POST",
            &format!("/api/v1/namespaces/{namespace}/services"),
            &service,
        )
        .await
    }

    pub(crate) async fn delete(&self, namespace: &str, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
        let answer = self.send("DELETE", &path, &json!({})).await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    pub(crate) async fn patch(&self, namespace: &str, name: &str, patch: &Value) -> Result<Answer> {
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
        self.send("PATCH", &path, patch).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind);
        let response = self
            .client
            .send(request.body(serde_json::to_vec(body)?.into())?)
            .await?;
        let warning = response.headers().get("warning");
        let warning = warning
            .and_then(|warning| warning.to_str().ok())
            .unwrap_or_default();
        let (status, warning) = (response.status().as_u16(), warning.to_owned());
        let body = response.into_body().collect_bytes().await?;
        let body = serde_json::from_slice(&body)?;
        Ok(Answer {
            status,
            warning,
            body,
        })
    }

    /// Waits until a Service without wishes meets what is expected: API servers take up a policy within some seconds.
    pub(crate) async fn until(
        &mut self,
        namespace: &str,
        what: &str,
        is: impl Fn(&Answer) -> bool,
    ) -> Result<()> {
        self.probes += 1;
        let name = format!("probe-{}", self.probes);
        let made = eventually(what, PATIENCE, || async {
            let answer = self.create(namespace, &name, &plain()).await?;
            if answer.status == 201 {
                let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
                self.send("DELETE", &path, &json!({})).await?;
            }
            ensure!(is(&answer), "{answer:?}");
            anyhow::Ok(())
        });
        Ok(made.await?)
    }

    pub(crate) async fn is_denied(&mut self) -> Result<()> {
        self.until("a", "what strays is denied", |answer| answer.status == 403)
            .await
    }

    pub(crate) async fn is_made(&mut self) -> Result<()> {
        self.until("a", "everything passes", |answer| answer.status == 201)
            .await
    }
}

/// A Service that asks for nothing.
pub(crate) fn plain() -> Value {
    json!({"metadata": {}, "spec": {"ports": [{"name": "http", "port": 80}]}})
}

/// One with fields of its spec set.
pub(crate) fn with(spec: &Value) -> Value {
    let mut service = plain();
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}

pub(crate) fn labelled(spec: &Value, labels: &[(&str, &str)]) -> Value {
    let mut service = with(spec);
    service["metadata"]["labels"] = json!(labels.iter().copied().collect::<BTreeMap<_, _>>());
    service
}

async fn install(client: &Client) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in berth_crds::all() {
        definitions.create(&PostParams::default(), &definition).await?;
    }
    let served = || async {
        for plural in ["addresspools", "nodeportpools", "addressclaims"] {
            let request = Request::get(format!("/apis/berth.dev/v1alpha1/{plural}")).body(Vec::new())?;
            client.request::<Value>(request).await?;
        }
        anyhow::Ok(())
    };
    Ok(eventually("the kinds are served", PATIENCE, served).await?)
}
