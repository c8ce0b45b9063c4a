// SPDX-License-Identifier: Apache-2.0
//! The builder of a slim control plane: three controllers on a server that has none of Berth's types.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::ensure;
use berth_e2e::cluster::PATIENCE;
use berth_e2e::controlplane::{ControlPlane, ControlPlaneConfig};
use berth_testkit::builders::{mk_pod_on, mk_service, mk_service_port};
use berth_testkit::in_sandbox_async;
use berth_testkit::kubelet::{FAKE, Kubelet, Options};
use berth_testkit::lan::{Lan, ROUTER};
use berth_testkit::process::{Process, Spec, binary};
use berth_testkit::sandbox;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

#[test]
fn three_controllers_run_without_any_of_berths_own_types() {
    super::prepare();
    in_sandbox_async!(async {
        let scratch = Path::new(sandbox::SCRATCH);
        let lan = Lan::builder().nodes(1).build()?;
        let control_plane =
            ControlPlane::start(ControlPlaneConfig::lan(scratch.join("cp"), ROUTER.0)).await?;
        let client = control_plane.client();
        let _kubelet = Kubelet::start(client.clone(), &lan.nodes()[0], Options::default()).await?;
        let mut spec = Spec::new(
            "controllers",
            binary("berth", "berth")?,
            &scratch.join("controllers.log"),
        );
        spec.args = vec![
            "controllers".to_owned(),
            format!("--kubeconfig={}", control_plane.admin_kubeconfig().display()),
            "--enable=endpoints,endpointslices,mirroring".to_owned(),
            "--lease-namespace=kube-system".to_owned(),
        ];
        let mut controllers = Process::start(lan.router(), &spec)?;
        let endpoints: Api<Endpoints> = Api::default_namespaced(client.clone());
        let services: Api<Service> = Api::default_namespaced(client.clone());
        endpoints
            .create(&PostParams::default(), &by_hand("early")?)
            .await?;
        create_objects(&client).await?;
        let slices: Api<EndpointSlice> = Api::default_namespaced(client);
        eventually("Endpoints, slices and mirrored slices", PATIENCE, || async {
            let of_web = slices.list(&labelled("web")).await?.items;
            let filled = of_web
                .iter()
                .filter(|slice| slice.endpoints.as_ref().is_some_and(|e| e.len() == 1))
                .count();
            ensure!(filled == 2, "{filled} slices of web with its Pod");
            ensure!(
                slices.list(&labelled("outside")).await?.items.len() == 1,
                "outside is not mirrored"
            );
            endpoints.get("web").await?;
            anyhow::Ok(())
        })
        .await?;
        mirrored_once_their_service_is_there(&slices, &endpoints, &services).await?;
        ensure!(
            controllers.try_wait()?.is_none(),
            "the controllers have ended:\n{}",
            controllers.log_end()
        );
        anyhow::Ok(())
    });
}

/// A Pod, a Service that selects it, and a Service with hand-written Endpoints.
async fn create_objects(client: &Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let mut pod = mk_pod_on("node-1", "default", "web-0", &[("app", "web")], &[]);
    pod.metadata.annotations = Some(BTreeMap::from([(FAKE.to_owned(), "true".to_owned())]));
    pods.create(&PostParams::default(), &pod).await?;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let port = mk_service_port("http", 80, "8080", "TCP");
    let web = mk_service("default", "web", &[("app", "web")], std::slice::from_ref(&port));
    services.create(&PostParams::default(), &web).await?;
    services
        .create(
            &PostParams::default(),
            &mk_service("default", "outside", &[], &[port]),
        )
        .await?;
    let endpoints: Api<Endpoints> = Api::default_namespaced(client.clone());
    endpoints
        .create(&PostParams::default(), &by_hand("outside")?)
        .await?;
    Ok(())
}

/// Endpoints that point to a machine outside.
fn by_hand(name: &str) -> anyhow::Result<Endpoints> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "subsets": [{"addresses": [{"ip": "10.77.0.100"}], "ports": [{"name": "http", "port": 9080}]}],
    }))?)
}

/// Hand-written Endpoints that were there before their Service are left alone until it comes.
async fn mirrored_once_their_service_is_there(
    slices: &Api<EndpointSlice>,
    endpoints: &Api<Endpoints>,
    services: &Api<Service>,
) -> anyhow::Result<()> {
    // All that came later has been worked off: these have had their turn.
    endpoints.get("early").await?;
    let port = mk_service_port("http", 80, "9080", "TCP");
    services
        .create(
            &PostParams::default(),
            &mk_service("default", "early", &[], &[port]),
        )
        .await?;
    eventually("mirrored slice of early", PATIENCE, || async {
        let found = slices.list(&labelled("early")).await?.items.len();
        ensure!(found == 1, "{found} slices");
        anyhow::Ok(())
    })
    .await?;
    endpoints.get("early").await?;
    Ok(())
}

fn labelled(service: &str) -> ListParams {
    ListParams::default().labels(&format!("kubernetes.io/service-name={service}"))
}
