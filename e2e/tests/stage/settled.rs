// SPDX-License-Identifier: Apache-2.0
//! When a contender has nothing left to do, and what is stored then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use berth_e2e::cluster::PATIENCE;
use berth_e2e::stage::{Contender, Launch, Stage};
use berth_testkit::builders::mk_namespace;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Endpoints, Namespace};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::objects::{Kind, create, ready_pod};

/// Where the sentinels are.
pub(crate) const SENTINELS: &str = "sentinels";

/// Upstream retries after 1 s and then 2 s; in between its queue looks empty.
const QUIET: Duration = Duration::from_secs(4);

/// Every Endpoints and EndpointSlice outside the sentinels' namespace, by "KIND NAMESPACE/NAME".
pub(crate) type Stored = BTreeMap<String, Value>;

/// Reads all of them.
pub(crate) async fn stored(client: &Client) -> Result<Stored> {
    let endpoints: Api<Endpoints> = Api::all(client.clone());
    let slices: Api<EndpointSlice> = Api::all(client.clone());
    let all = ListParams::default();
    let mut stored = Stored::new();
    for object in endpoints.list(&all).await? {
        keep(&mut stored, "Endpoints", &object.metadata, &object)?;
    }
    for object in slices.list(&all).await? {
        keep(&mut stored, "EndpointSlice", &object.metadata, &object)?;
    }
    Ok(stored)
}

fn keep(stored: &mut Stored, kind: &str, metadata: &ObjectMeta, object: &impl Serialize) -> Result<()> {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    if namespace != SENTINELS {
        let name = metadata.name.as_deref().unwrap_or_default();
        stored.insert(
            format!("{kind} {namespace}/{name}"),
            serde_json::to_value(object)?,
        );
    }
    Ok(())
}

/// Keys of objects that came, went, or have another resource version.
pub(crate) fn changed(before: &Stored, after: &Stored) -> BTreeSet<String> {
    let version = |object: Option<&Value>| object.map(|object| object["metadata"]["resourceVersion"].clone());
    before
        .keys()
        .chain(after.keys())
        .filter(|key| version(before.get(*key)) != version(after.get(*key)))
        .cloned()
        .collect()
}

/// The same with what they were and are, for people; empty where nothing changed.
pub(crate) fn differences(before: &Stored, after: &Stored) -> String {
    let show = |object: Option<&Value>| object.map_or("absent".to_owned(), Value::to_string);
    let describe = |key: String| {
        let (before, after) = (show(before.get(&key)), show(after.get(&key)));
        format!("{key}\n  before: {before}\n  after:  {after}\n")
    };
    changed(before, after).into_iter().map(describe).collect()
}

/// Makes a Service with a Pod and one with hand-written Endpoints and waits until their slices are there and the
/// contender's queues are empty: everything written before has been looked at.
pub(crate) async fn looked_at_everything(
    stage: &Stage,
    contender: Contender,
    launch: &Launch,
    sentinel: &str,
) -> Result<()> {
    stage.wait_idle(contender, launch).await?;
    let client = stage.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    if namespaces.get_opt(SENTINELS).await?.is_none() {
        namespaces
            .create(&PostParams::default(), &mk_namespace(SENTINELS))
            .await?;
    }
    let address = "10.244.99.1";
    let mirrored = format!("{sentinel}-mirrored");
    let ports = json!([{"port": 80}]);
    for (kind, object) in [
        (
            Kind::Service,
            json!({"metadata": {"name": sentinel}, "spec": {"selector": {"app": sentinel}, "ports": ports}}),
        ),
        (
            Kind::Pod,
            ready_pod(sentinel, &json!({"app": sentinel}), "node-a", &[address]),
        ),
        (
            Kind::Service,
            json!({"metadata": {"name": mirrored}, "spec": {"ports": ports}}),
        ),
        (
            Kind::Endpoints,
            json!({"metadata": {"name": mirrored}, "subsets": [{"addresses": [{"ip": address}], "ports": ports}]}),
        ),
    ] {
        create(&client, SENTINELS, kind, &object).await?;
    }
    let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), SENTINELS);
    let slices: Api<EndpointSlice> = Api::namespaced(client, SENTINELS);
    eventually(format!("{contender}: {sentinel}"), PATIENCE, || async {
        let endpoints = endpoints.get(sentinel).await?;
        ensure!(
            format!("{:?}", endpoints.subsets).contains(address),
            "no Endpoints"
        );
        let mut with_address = slices.list(&ListParams::default()).await?.items;
        with_address.retain(|slice| format!("{:?}", slice.endpoints).contains(address));
        for name in [sentinel, &mirrored] {
            let label = |slice: &EndpointSlice| slice.labels().get("kubernetes.io/service-name").cloned();
            let found = with_address
                .iter()
                .any(|slice| label(slice).as_deref() == Some(name));
            ensure!(found, "no slice of {name}");
        }
        Ok(())
    })
    .await?;
    stage.wait_idle(contender, launch).await
}

/// Waits until a contender has looked at everything and nothing has changed for a while; what is stored then.
pub(crate) async fn converged(
    stage: &Stage,
    contender: Contender,
    launch: &Launch,
    sentinel: &str,
) -> Result<Stored> {
    looked_at_everything(stage, contender, launch, sentinel).await?;
    let client = stage.client();
    let last = Mutex::new((stored(&client).await?, Instant::now()));
    eventually(format!("{contender} has converged"), PATIENCE, || async {
        let now = stored(&client).await?;
        let mut last = last.lock().await;
        if now != last.0 {
            *last = (now, Instant::now());
        }
        ensure!(last.1.elapsed() >= QUIET, "still writing");
        Ok(())
    })
    .await?;
    Ok(last.into_inner().0)
}
