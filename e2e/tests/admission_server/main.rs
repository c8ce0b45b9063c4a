// SPDX-License-Identifier: Apache-2.0
//! The admission webhook's server, certificates and registration on the real API server, with values that the test hands
//! out itself.

#![expect(
    clippy::indexing_slicing,
    reason = "a test fails by a panic, on a value that is not there too"
)]

mod chooser;
mod replica;
mod rotation;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_controllers_core::certificates::Rules;
use berth_controllers_manager::admission::{CONFIGURATION, FailurePolicy, SECRET, remove};
use berth_e2e::controlplane::{Binaries, ControlPlane, ControlPlaneConfig};
use berth_e2e::stage;
use berth_testkit::wait::eventually;
use berth_testkit::{in_sandbox_async, sandbox};
use http::{HeaderMap, Request};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use replica::Replica;
use serde_json::json;

/// Where replicas keep their Secret.
const OWN: &str = "berth-system";
/// Where users make Services.
const TEAM: &str = "team";
const PATIENCE: Duration = Duration::from_secs(60);

async fn control_plane(folder: &Path) -> Result<ControlPlane> {
    let config = ControlPlaneConfig {
        logs: Some(folder.to_owned()),
        apiserver_flags: vec!["--service-cluster-ip-range=10.96.0.0/16".to_owned()],
        ..ControlPlaneConfig::loopback(Path::new(sandbox::SCRATCH).join("admission-server"))
    };
    let control_plane = ControlPlane::start(config).await?;
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base");
    for file in ["namespace.yaml", "controllers-rbac.yaml"] {
        control_plane.apply(&base.join(file)).await?;
    }
    control_plane.settle_rbac().await?;
    let team = json!({"metadata": {"name": TEAM}});
    let namespaces: Api<Namespace> = Api::all(control_plane.client());
    namespaces
        .create(&PostParams::default(), &serde_json::from_value(team)?)
        .await?;
    Ok(control_plane)
}

/// With the rights that the manifests give to the controllers, and no others.
async fn as_shipped(control_plane: &ControlPlane) -> Result<Client> {
    let kubeconfig = control_plane
        .service_account_kubeconfig(OWN, "berth-controllers")
        .await?;
    Ok(control_plane.client_for(&kubeconfig).await?)
}

/// A Service with one port.
pub(crate) fn service(name: &str, labels: &[(&str, &str)]) -> Service {
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }))
    .unwrap_or_default()
}

fn address(service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    spec.cluster_ip.unwrap_or_default()
}

async fn secret(client: &Client) -> Result<Secret> {
    Ok(Api::<Secret>::namespaced(client.clone(), OWN).get(SECRET).await?)
}

/// Waits until the API server's own watch has the registration: until a Service gets one of our values.
pub(crate) async fn served(client: &Client, replica: &Replica) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), TEAM);
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let before = replica.requests();
    eventually("a review arrives", PATIENCE, || async {
        let made = services.create(&params, &service("probe", &[])).await?;
        ensure!(replica.requests() > before, "no review");
        ensure!(chooser::is_ours(&address(&made)), "{}", address(&made));
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

#[test]
fn services_get_values_through_the_webhook_and_what_breaks_it_is_put_right() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
    in_sandbox_async!(async {
        let folder = stage::folder("admission-server")?;
        let control_plane = control_plane(&folder).await?;
        let client = control_plane.client();
        let replicas = three_at_once_make_one_secret(&control_plane).await?;
        let first = &replicas[0];
        first.register(FailurePolicy::Ignore);
        served(&client, first).await?;
        values_and_refusals_arrive(&control_plane, first).await?;
        clients_are_told_what_to_do(&client).await?;
        what_is_exempt_never_arrives(&control_plane, first).await?;
        the_registration_is_put_right(&client, first).await?;
        a_garbage_secret_is_put_right(&client, &replicas).await?;
        a_deleted_secret_makes_a_new_authority(&client, &replicas).await?;
        remove(client.clone()).await?;
        // Twice is no error.
        remove(client.clone()).await?;
        anyhow::Ok(())
    });
}

#[test]
fn a_rotation_while_services_are_made_fails_none_of_them() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
    in_sandbox_async!(async {
        let folder = stage::folder("admission-rotation")?;
        let control_plane = control_plane(&folder).await?;
        rotation::run(&control_plane.client(), &as_shipped(&control_plane).await?).await
    });
}

async fn three_at_once_make_one_secret(control_plane: &ControlPlane) -> Result<Vec<Replica>> {
    let berth = as_shipped(control_plane).await?;
    let start = || Replica::start(&berth, OWN, Rules::DEFAULT);
    let replicas = tokio::try_join!(start(), start(), start())?;
    let replicas = vec![replicas.0, replicas.1, replicas.2];
    let stored = secret(&control_plane.client()).await?;
    let data = stored.data.clone().unwrap_or_default();
    let entries: Vec<&str> = data.keys().map(String::as_str).collect();
    let expected = [
        "authority-1.crt",
        "authority-1.key",
        "authority-1.signs-from",
        "ca.crt",
    ];
    ensure!(entries == expected, "{entries:?}");
    for replica in &replicas {
        let trusted = ByteString(replica.bundle().into_bytes());
        ensure!(data["ca.crt"] == trusted, "a replica trusts something else");
    }
    // It was written once: its one managed field entry is the create's.
    let writers = stored.metadata.managed_fields.unwrap_or_default();
    ensure!(writers.len() == 1, "{writers:?}");
    let created = replicas
        .iter()
        .map(|replica| replica.counts("berth_admission_authority_changes_total{change=\"Created\"}"));
    ensure!(
        created.sum::<u64>() == 1,
        "several replicas say that they made it"
    );
    Ok(replicas)
}

async fn values_and_refusals_arrive(control_plane: &ControlPlane, replica: &Replica) -> Result<()> {
    let services: Api<Service> = Api::namespaced(control_plane.client(), TEAM);
    let made = services
        .create(&PostParams::default(), &service("web", &[]))
        .await?;
    ensure!(chooser::is_ours(&address(&made)), "{}", address(&made));
    let asked = replica.last_asked();
    ensure!(asked == "Create team/web dry=false", "{asked}");

    let dry = [
        "-n",
        TEAM,
        "create",
        "service",
        "clusterip",
        "dry",
        "--tcp=80",
        "--dry-run=server",
        "-o=name",
    ];
    control_plane.kubectl(&dry).await?;
    let asked = replica.last_asked();
    ensure!(asked == "Create team/dry dry=true", "{asked}");

    let manifest = serde_json::to_string(&service("never", &[("test", "refuse")]))?;
    let kubectl = control_plane.kubectl_runner();
    let refused = kubectl
        .run_with_input(["-n", TEAM, "create", "-f", "-"], &manifest)
        .await;
    let text = refused.err().context("a refused Service was made")?.to_string();
    for part in ["PoolExhausted", "services.berth.dev", chooser::REFUSAL] {
        ensure!(text.contains(part), "{part}: {text}");
    }
    ensure!(services.get_opt("never").await?.is_none());

    // What is not the spec is not asked about at all.
    let before = replica.requests();
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let merge = Patch::Merge(&labels);
    services.patch("web", &PatchParams::default(), &merge).await?;
    ensure!(replica.requests() == before, "a change of labels arrived");
    // And a replace that omits the address keeps it.
    let mut again = service("web", &[]);
    again.metadata.resource_version = services.get("web").await?.metadata.resource_version;
    let kept = services.replace("web", &PostParams::default(), &again).await?;
    ensure!(address(&kept) == address(&made), "{}", address(&kept));
    ensure!(replica.requests() > before, "a change of the spec did not arrive");
    Ok(())
}

/// What the API server makes of warnings and of a time to wait, which clients see as headers.
async fn clients_are_told_what_to_do(client: &Client) -> Result<()> {
    // Nobody can say: the API server goes on by itself, and the user is warned.
    let (status, headers) = post(client, &service("unserved", &[("test", "unavailable")])).await?;
    let warning = headers.get("warning").context("no warning")?.to_str()?;
    ensure!(
        status == 201 && warning.contains("NoHolder"),
        "{status} {warning}"
    );
    let services: Api<Service> = Api::namespaced(client.clone(), TEAM);
    let got = address(&services.get("unserved").await?);
    ensure!(!got.is_empty() && !chooser::is_ours(&got), "{got}");
    // Nothing is left for now: client-go waits that long and tries again.
    let (status, headers) = post(client, &service("later", &[("test", "later")])).await?;
    let after = headers.get("retry-after").context("no Retry-After")?.to_str()?;
    ensure!((status, after) == (429, "7"), "{status} {after}");
    Ok(())
}

async fn post(client: &Client, service: &Service) -> Result<(u16, HeaderMap)> {
    let request = Request::post(format!("/api/v1/namespaces/{TEAM}/services"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(service)?.into())?;
    let response = client.send(request).await?;
    Ok((response.status().as_u16(), response.headers().clone()))
}

async fn what_is_exempt_never_arrives(control_plane: &ControlPlane, replica: &Replica) -> Result<()> {
    let before = replica.requests();
    let client = control_plane.client();
    for namespace in ["kube-system", OWN] {
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        services
            .create(&PostParams::default(), &service("system", &[("test", "refuse")]))
            .await?;
    }
    // The API server makes its own anew, through its admission.
    let services: Api<Service> = Api::namespaced(client, "default");
    let old = services.get("kubernetes").await?.metadata.uid;
    services.delete("kubernetes", &DeleteParams::default()).await?;
    eventually("default/kubernetes is there again", PATIENCE, || async {
        let new = services.get("kubernetes").await?;
        ensure!(new.metadata.uid != old, "still the old one");
        anyhow::Ok(())
    })
    .await?;
    ensure!(replica.requests() == before, "{}", replica.last_asked());
    Ok(())
}

async fn the_registration_is_put_right(client: &Client, replica: &Replica) -> Result<()> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let foreign =
        json!({"webhooks": [{"name": "services.berth.dev", "timeoutSeconds": 29, "failurePolicy": "Fail"}]});
    let strategic = Patch::Strategic(&foreign);
    api.patch(CONFIGURATION, &PatchParams::default(), &strategic)
        .await?;
    let is_right = || async {
        let webhooks = api.get(CONFIGURATION).await?.webhooks.unwrap_or_default();
        let webhook = webhooks.first().context("no webhook")?;
        let policy = (webhook.timeout_seconds, webhook.failure_policy.as_deref());
        ensure!(policy == (Some(5), Some("Ignore")), "{policy:?}");
        anyhow::Ok(())
    };
    eventually("the change is taken back", PATIENCE, is_right).await?;
    api.delete(CONFIGURATION, &DeleteParams::default()).await?;
    eventually("it is there again", PATIENCE, is_right).await?;
    served(client, replica).await
}

async fn a_garbage_secret_is_put_right(client: &Client, replicas: &[Replica]) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), OWN);
    let before = replicas[0].bundle();
    for (what, data) in [
        (
            "all garbage",
            json!({"authority-1.crt": "eA==", "authority-1.key": "eA==", "ca.crt": "eA=="}),
        ),
        ("no key", json!({"authority-1.key": null})),
        (
            "nothing",
            json!({"authority-1.crt": null, "authority-1.key": null, "authority-1.signs-from": null}),
        ),
    ] {
        let patch = json!({"data": data});
        api.patch(SECRET, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        eventually(format!("{what} is put right"), PATIENCE, || async {
            let data = secret(client).await?.data.unwrap_or_default();
            let whole = data.len() == 4
                && data
                    .get("ca.crt")
                    .is_some_and(|bundle| bundle.0 == before.as_bytes());
            ensure!(
                whole && data["authority-1.key"].0.len() > 100,
                "{:?}",
                data.keys()
            );
            anyhow::Ok(())
        })
        .await?;
    }
    // A replica remembered the authority, so that nobody's certificate changed.
    for replica in replicas {
        ensure!(replica.bundle() == before, "a replica has another authority");
    }
    served(client, &replicas[0]).await
}

async fn a_deleted_secret_makes_a_new_authority(client: &Client, replicas: &[Replica]) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), OWN);
    let before = replicas[0].bundle();
    api.delete(SECRET, &DeleteParams::default()).await?;
    eventually("all replicas have the new authority", PATIENCE, || async {
        let data = secret(client).await?.data.unwrap_or_default();
        for replica in replicas {
            ensure!(replica.bundle() != before, "the old authority");
            ensure!(
                data["ca.crt"].0 == replica.bundle().as_bytes(),
                "not the one of the Secret"
            );
        }
        anyhow::Ok(())
    })
    .await?;
    served(client, &replicas[0]).await
}
