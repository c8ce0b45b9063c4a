// SPDX-License-Identifier: Apache-2.0
//! Of what it has not listed in full Berth writes nothing.

use anyhow::{Context, Result, ensure};
use berth_e2e::cluster::PATIENCE;
use berth_testkit::builders::{mk_container_port, mk_pod};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;

use super::still::{NAMESPACE, Still};

/// A watch that is held back from the start, and whether Endpoints, slices and mirrored slices are written meanwhile.
const ROWS: [(&str, [bool; 3]); 5] = [
    ("services", [false, false, false]),
    ("pods", [false, false, true]),
    ("nodes", [true, false, true]),
    ("endpointslices", [true, false, false]),
    ("endpoints", [false, true, false]),
];

async fn slices_of(still: &Still, service: &str) -> Result<bool> {
    let slices: Api<EndpointSlice> = Api::namespaced(still.stage.client(), NAMESPACE);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    Ok(!slices.list(&of_service).await?.items.is_empty())
}

/// Whether there are Endpoints, slices and mirrored slices of the row's Services.
async fn written(still: &Still, held: &str) -> Result<[bool; 3]> {
    let (web, by_hand) = (format!("web-{held}"), format!("hand-{held}"));
    Ok([
        still.uid(&web).await?.is_some(),
        slices_of(still, &web).await?,
        slices_of(still, &by_hand).await?,
    ])
}

async fn until_written(still: &Still, held: &str, expected: [bool; 3]) -> Result<()> {
    let what = format!("{held}: Endpoints, slices, mirrored slices as in {expected:?}");
    let arrived = eventually(what, PATIENCE, || async {
        let written = written(still, held).await?;
        ensure!(written == expected, "{written:?}");
        anyhow::Ok(())
    });
    Ok(arrived.await?)
}

async fn a_node_and_a_pod(still: &Still) -> Result<()> {
    let nodes: Api<Node> = Api::all(still.stage.client());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "node-a"}}))?;
    nodes.create(&PostParams::default(), &node).await?;
    let pods: Api<Pod> = Api::namespaced(still.stage.client(), NAMESPACE);
    let port = mk_container_port("http", 80, "TCP");
    let mut pod = mk_pod(NAMESPACE, "web-0", &[("app", "web")], &[port]);
    pod.spec.as_mut().context("a spec")?.node_name = Some("node-a".to_owned());
    pods.create(&PostParams::default(), &pod).await?;
    Ok(())
}

#[test]
fn nothing_is_written_before_every_input_was_listed() {
    super::prepare();
    in_sandbox_async!(async {
        let mut still = Still::start("listed").await?;
        a_node_and_a_pod(&still).await?;
        for (held, meanwhile) in ROWS {
            still
                .restart(async |still| {
                    still.interposer.hold_watches(held);
                    still.make(&format!("web-{held}"), &[("app", "web")]).await?;
                    let by_hand = format!("hand-{held}");
                    still.make(&by_hand, &[]).await?;
                    still.write_endpoints(&by_hand, false).await?;
                    Ok(())
                })
                .await?;
            for (other, _) in ROWS.iter().filter(|(other, _)| *other != held) {
                still.seen_beyond(other, 0.0).await?;
            }
            until_written(&still, held, meanwhile).await?;
            still.interposer.let_go();
            until_written(&still, held, [true; 3]).await?;
        }
        anyhow::Ok(())
    });
}
