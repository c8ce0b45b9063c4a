// SPDX-License-Identifier: Apache-2.0
//! What the watches read in protobuf from a real API server is what it says in JSON, through lists in both
//! ways, restarts, cut connections and versions that are too old.

#[path = "wire/forwarder.rs"]
mod forwarder;
#[path = "wire/objects.rs"]
mod objects;
#[path = "wire/watching.rs"]
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::Context;
use berth_e2e::controlplane::{ControlPlane, ControlPlaneConfig};
use berth_runtime::client::ApiArgs;
use berth_runtime::watch::{ObjectKey, Selection, WatchEvent, WatchMetrics, watch_protobuf};
use berth_snapshot::node::Node;
use berth_snapshot::pod::{Pod, PodManifest};
use berth_snapshot::wire::Wire;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Endpoints, Node as FullNode, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Our own client, as the daemons have it.
async fn client(control_plane: &ControlPlane) -> anyhow::Result<Client> {
    let args = ApiArgs {
        kubeconfig: Some(control_plane.admin_kubeconfig()),
        ..ApiArgs::default()
    };
    Ok(args.client().await?)
}

/// A kind as JSON says it is, without what watches do not read.
async fn in_json<K: Wire + DeserializeOwned>(client: &Client) -> anyhow::Result<BTreeMap<String, K>> {
    in_json_as::<K, K>(client).await
}

async fn in_json_as<K: Wire, T: DeserializeOwned>(client: &Client) -> anyhow::Result<BTreeMap<String, T>> {
    let mut list: Value = client
        .request(http::Request::get(K::path()).body(Vec::new())?)
        .await?;
    let items = list["items"].as_array_mut().context("a list")?;
    let read = |item: &mut Value| {
        let meta = item["metadata"].as_object_mut().context("metadata")?;
        meta.remove("managedFields");
        let key = format!(
            "{}/{}",
            meta.get("namespace").unwrap_or(&Value::Null),
            meta["name"]
        );
        Ok((
            key.replace('"', "").replace("null/", ""),
            serde_json::from_value(item.take())?,
        ))
    };
    items.iter_mut().map(read).collect()
}

/// A kind as a watch lists it.
async fn listed<K: Wire + Send + 'static>(
    client: &Client,
    selection: &Selection,
    key: fn(&K) -> String,
) -> anyhow::Result<BTreeMap<String, K>> {
    let events = watch_protobuf::<K>(client.clone(), selection.clone(), "test", WatchMetrics::default());
    let mut events = std::pin::pin!(events);
    let mut objects = BTreeMap::new();
    loop {
        match events.next().await.context("watches do not end")? {
            WatchEvent::Applied(object) => {
                objects.insert(key(&object), object);
            }
            WatchEvent::Deleted(key) => anyhow::bail!("{key} deleted within a list"),
            WatchEvent::Listed(keys) => {
                let keys: BTreeSet<String> = keys.iter().map(ObjectKey::to_string).collect();
                anyhow::ensure!(keys.iter().eq(objects.keys()), "{keys:?}");
                return Ok(objects);
            }
        }
    }
}

fn meta_key<K: kube::Resource>(object: &K) -> String {
    ObjectKey::of(object).to_string()
}

fn assert_same<K: PartialEq + Debug>(found: &BTreeMap<String, K>, wanted: &BTreeMap<String, K>) {
    assert!(!wanted.is_empty());
    for (key, wanted) in wanted {
        assert_eq!(found.get(key), Some(wanted), "{key}");
    }
    assert_eq!(found.len(), wanted.len());
}

/// Lists every kind in both ways.
async fn compare(client: &Client, selection: &Selection) -> anyhow::Result<()> {
    assert_same(
        &listed::<Service>(client, selection, meta_key).await?,
        &in_json::<Service>(client).await?,
    );
    assert_same(
        &listed::<Endpoints>(client, selection, meta_key).await?,
        &in_json::<Endpoints>(client).await?,
    );
    assert_same(
        &listed::<EndpointSlice>(client, selection, meta_key).await?,
        &in_json::<EndpointSlice>(client).await?,
    );
    let pods = in_json_as::<Pod, PodManifest>(client).await?;
    assert_same(
        &listed::<Pod>(client, selection, |pod| {
            format!("{}/{}", pod.namespace(), pod.name())
        })
        .await?,
        &pods.into_iter().map(|(key, pod)| (key, pod.into())).collect(),
    );
    let trimmed = |(key, node): (String, FullNode)| {
        let status = node.status.unwrap_or_default();
        let mut conditions = status.conditions.into_iter().flatten();
        let trimmed = Node {
            name: key.as_str().into(),
            labels: node.metadata.labels,
            ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            allocatable_cpu: status.allocatable.and_then(|all| all.get("cpu").cloned()),
        };
        (key, trimmed)
    };
    let nodes: BTreeMap<String, FullNode> = in_json_as::<Node, FullNode>(client).await?;
    assert!(nodes.len() >= 3);
    assert_same(
        &listed::<Node>(client, selection, |node| node.name.to_string()).await?,
        &nodes.into_iter().map(trimmed).collect(),
    );
    Ok(())
}

#[tokio::test]
async fn every_kind_reads_as_in_json() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let control_plane = ControlPlane::start(ControlPlaneConfig::loopback(dir.path())).await?;
    let client = client(&control_plane).await?;
    objects::create(&client).await?;
    compare(&client, &Selection::everything()).await?;
    compare(&client, &Selection::everything().compressed()).await
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_asked_for_pages() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = ControlPlaneConfig::loopback(dir.path());
    config.apiserver_flags = vec!["--feature-gates=WatchList=false".to_owned()];
    let control_plane = ControlPlane::start(config).await?;
    let client = client(&control_plane).await?;
    objects::create(&client).await?;
    // More than one page of 500, and so much in a page that the server compresses it.
    objects::create_many(&client, 1_100).await?;
    compare(&client, &Selection::everything()).await?;
    compare(&client, &Selection::everything().compressed()).await?;
    compare(&client, &Selection::everything().listed_whole()).await?;
    compare(&client, &Selection::everything().compressed().listed_whole()).await
}
