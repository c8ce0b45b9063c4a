// SPDX-License-Identifier: Apache-2.0
//! Both contenders do their work on it, and who wrote what can be told.

use anyhow::{Result, ensure};
use berth_e2e::cluster::PATIENCE;
use berth_e2e::stage::{self, Contender, Launch, Stage};
use berth_testkit::builders::{mk_pod_on, mk_service, mk_service_port};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, PodStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

const POD_ADDRESS: &str = "10.244.1.5";

#[test]
fn both_contenders_converge_the_same_service_each_on_its_stage() {
    super::prepare();
    in_sandbox_async!(async {
        for contender in Contender::ALL {
            converges(contender).await?;
        }
        anyhow::Ok(())
    });
}

async fn converges(contender: Contender) -> Result<()> {
    let stage = Stage::start_audited(&stage::folder(&format!("stage-{contender}"))?, Vec::new()).await?;
    let launch = Launch::named(&contender.to_string());
    let mut process = stage.launch(contender, &launch).await?;
    stage.wait_ready(contender, &launch, &mut process).await?;
    let client = stage.client();
    create_objects(&client).await?;
    let endpoints: Api<Endpoints> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client);
    let of_web = ListParams::default().labels("kubernetes.io/service-name=web");
    let written = eventually(format!("{contender}: Endpoints and slices"), PATIENCE, || async {
        let endpoints = endpoints.get("web").await?;
        ensure!(
            format!("{:?}", endpoints.subsets).contains(POD_ADDRESS),
            "no address"
        );
        let slices = slices.list(&of_web).await?.items;
        let with_pod = slices
            .iter()
            .any(|slice| format!("{:?}", slice.endpoints).contains(POD_ADDRESS));
        ensure!(with_pod, "no slice with the address among {}", slices.len());
        Ok(slices)
    })
    .await?;
    for slice in &written {
        let managers: Vec<_> = slice
            .managed_fields()
            .iter()
            .map(|entry| &entry.manager)
            .collect();
        ensure!(
            managers == [&Some(contender.field_manager().to_owned())],
            "{contender}: {managers:?}"
        );
    }
    let credential = stage.credential(&launch).await?;
    let requests = stage.audit()?.requests()?;
    let writes: Vec<_> = requests
        .iter()
        .filter(|request| request.is_write() && request.resource() != "events")
        .collect();
    ensure!(writes.len() > written.len(), "{writes:?}");
    for write in writes {
        ensure!(write.user() == contender.user(), "{write}");
        ensure!(write.credential() == Some(credential.as_str()), "{write}");
        ensure!(write.received <= write.answered, "{write:?}");
    }
    stage.nothing_was_forbidden()?;
    let page = stage.metrics(contender, &launch).await?;
    let build = match contender {
        Contender::Berth => "berth_build_info",
        Contender::KubeControllerManager => "kubernetes_build_info",
    };
    ensure!(page.sum(build, "") > 0.0, "no {build} in:\n{}", page.text());
    process.terminate(PATIENCE)?;
    Ok(())
}

/// A Node, a ready Pod on it, and a Service that selects it.
async fn create_objects(client: &Client) -> Result<()> {
    let create = PostParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "node-1"}}))?;
    nodes.create(&create, &node).await?;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let port = mk_service_port("http", 80, "8080", "TCP");
    services
        .create(&create, &mk_service("default", "web", &[("app", "web")], &[port]))
        .await?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(
        &create,
        &mk_pod_on("node-1", "default", "web-0", &[("app", "web")], &[]),
    )
    .await?;
    let status: PodStatus = serde_json::from_value(json!({
        "phase": "Running", "podIP": POD_ADDRESS, "podIPs": [{"ip": POD_ADDRESS}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }))?;
    let patch = Patch::Merge(json!({"status": status}));
    pods.patch_status("web-0", &PatchParams::default(), &patch)
        .await?;
    Ok(())
}
