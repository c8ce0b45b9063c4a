// SPDX-License-Identifier: Apache-2.0
//! What Berth tells people: events on the API server, and what it does not say.

use anyhow::{Result, ensure};
use berth_e2e::cluster::PATIENCE;
use berth_e2e::interposer::{Told, WriteFaults};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Endpoints, Event, Node, Pod};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use serde_json::json;

use super::still::{NAMESPACE, Still};

const ENDPOINTS: &str = "endpoint-controller";
const SLICES: &str = "endpoint-slice-controller";
const MIRRORING: &str = "endpoint-slice-mirroring-controller";

/// Waits for an event: who says what about which object, and how it begins.
async fn said(still: &Still, source: &str, reason: &str, about: (&str, &str), text: &str) -> Result<()> {
    let events: Api<Event> = Api::namespaced(still.stage.client(), NAMESPACE);
    let of_reason = ListParams::default().fields(&format!("reason={reason}"));
    eventually(format!("event {reason} about {about:?}"), PATIENCE, || async {
        let all = events.list(&of_reason).await?.items;
        let found = all.iter().any(|event| {
            let object = &event.involved_object;
            let component = event
                .source
                .as_ref()
                .and_then(|source| source.component.as_deref());
            (object.kind.as_deref(), object.name.as_deref()) == (Some(about.0), Some(about.1))
                && component == Some(source)
                && event
                    .message
                    .as_deref()
                    .is_some_and(|message| message.contains(text))
        });
        ensure!(found, "{all:?}");
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

/// A Node of a zone, as its kubelet would report it.
async fn make_node(still: &Still, name: &str, zone: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(still.stage.client());
    let labels = json!({"topology.kubernetes.io/zone": zone});
    let node = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))?;
    nodes.create(&PostParams::default(), &node).await?;
    let status = json!({"status": {
        "allocatable": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}],
    }});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}

async fn make_pod(still: &Still, name: &str, node: &str, ip: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(still.stage.client(), NAMESPACE);
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    let status = json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}],
    }});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}

#[test]
fn hints_that_are_given_or_refused_are_told() {
    super::prepare();
    in_sandbox_async!(async {
        let still = Still::start("events-hints").await?;
        make_node(&still, "node-a", "zone-a").await?;
        make_node(&still, "node-b", "zone-b").await?;
        still.make("web", &[("app", "web")]).await?;
        let mode = json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}});
        still
            .services()
            .patch("web", &PatchParams::default(), &Patch::Merge(&mode))
            .await?;
        make_pod(&still, "web-0", "node-a", "10.0.0.1").await?;
        let web = ("Service", "web");
        said(&still, SLICES, "TopologyAwareHintsDisabled", web, "").await?;
        make_pod(&still, "web-1", "node-a", "10.0.0.2").await?;
        make_pod(&still, "web-2", "node-b", "10.0.0.3").await?;
        make_pod(&still, "web-3", "node-b", "10.0.0.4").await?;
        said(&still, SLICES, "TopologyAwareHintsEnabled", web, "").await?;
        anyhow::Ok(())
    });
}

#[test]
fn addresses_over_the_limit_of_mirroring_are_told() {
    super::prepare();
    in_sandbox_async!(async {
        let flags = ["--mirroring-max-endpoints-per-subset=2"];
        let still = Still::start_with("events-mirror", false, &flags).await?;
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"name": "db"},
            "subsets": [{
                "addresses": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}, {"ip": "192.0.2.3"}],
                "ports": [{"port": 5432}],
            }],
        }))?;
        still.make("db", &[]).await?;
        still
            .endpoints()
            .create(&PostParams::default(), &endpoints)
            .await?;
        let db = ("Endpoints", "db");
        said(
            &still,
            MIRRORING,
            "TooManyAddressesToMirror",
            db,
            "1 addresses are not mirrored",
        )
        .await?;
        anyhow::Ok(())
    });
}

#[test]
fn writes_that_fail_are_told() {
    super::prepare();
    in_sandbox_async!(async {
        let still = Still::start("events-failures").await?;
        let on_purpose = "failed on purpose";
        still
            .interposer
            .fail_writes(WriteFaults::always(Told::ServerError, false).sparing("events"));
        still.make("web", &[("app", "nobody")]).await?;
        let label = json!({"metadata": {"labels": {"team": "b"}}});
        still
            .services()
            .patch("mark", &PatchParams::default(), &Patch::Merge(&label))
            .await?;
        let (web, mark) = (("Endpoints", "web"), ("Endpoints", "mark"));
        said(&still, ENDPOINTS, "FailedToCreateEndpoint", web, on_purpose).await?;
        said(&still, ENDPOINTS, "FailedToUpdateEndpoint", mark, on_purpose).await?;
        for service in ["web", "mark"] {
            let about = ("Service", service);
            said(&still, SLICES, "FailedToUpdateEndpointSlices", about, on_purpose).await?;
        }
        ensure!(still.interposer.fail_none() >= 4, "nothing was failed");
        still.until("web", true).await?;
        anyhow::Ok(())
    });
}

#[test]
fn that_endpoints_are_deprecated_is_not_logged() {
    super::prepare();
    in_sandbox_async!(async {
        let still = Still::start("events-deprecation").await?;
        let request = http::Request::get("/api/v1/namespaces/default/endpoints").body(Body::empty())?;
        let answer = still.stage.client().send(request).await?;
        let warning = answer
            .headers()
            .get("warning")
            .map(|text| text.to_str())
            .transpose()?;
        ensure!(
            warning.is_some_and(|text| text.contains("Endpoints is deprecated")),
            "the API server warns of nothing: {warning:?}"
        );
        still.turns_taken().await?;
        let log = still.berth.output()?;
        ensure!(log.contains("controllers"), "no log: {log}");
        ensure!(!log.to_lowercase().contains("deprecated"), "{log}");
        anyhow::Ok(())
    });
}
