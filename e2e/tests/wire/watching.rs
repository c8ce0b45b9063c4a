// SPDX-License-Identifier: Apache-2.0
//! A watch over time.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, ensure};
use berth_e2e::controlplane::{ControlPlane, ControlPlaneConfig};
use berth_runtime::client::ApiArgs;
use berth_runtime::metrics::Metrics;
use berth_runtime::watch::{ObjectKey, Selection, WatchEvent, WatchMetrics, watch_protobuf};
use berth_testkit::wait::eventually;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Endpoints;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::forwarder::Forwarder;

const DEADLINE: Duration = Duration::from_secs(60);

/// A watch of Endpoints, and what a consumer of it knows.
struct Watched {
    events: Pin<Box<dyn Stream<Item = WatchEvent<Endpoints>> + Send>>,
    known: BTreeSet<String>,
    lists: usize,
    metrics: Metrics,
}

impl Watched {
    /// Waits until the consumer knows exactly these names.
    async fn until(&mut self, wanted: &[&str]) -> anyhow::Result<()> {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| format!("default/{name}")).collect();
        while self.known != wanted || self.lists == 0 {
            let event = tokio::time::timeout(DEADLINE, self.events.next())
                .await
                .with_context(|| format!("known {:?}, wanted {wanted:?}", self.known))?;
            match event.context("watches do not end")? {
                WatchEvent::Applied(object) => {
                    self.known.insert(ObjectKey::of(&object).to_string());
                }
                WatchEvent::Deleted(key) => {
                    self.known.remove(&key.to_string());
                }
                WatchEvent::Listed(keys) => {
                    let keys: BTreeSet<String> = keys.iter().map(ObjectKey::to_string).collect();
                    ensure!(
                        keys.is_subset(&self.known),
                        "a list names what it did not send: {keys:?}"
                    );
                    self.known = keys;
                    self.lists += 1;
                }
            }
        }
        Ok(())
    }

    fn failures(&self, fault: &str) -> String {
        let line = format!(r#"berth_watch_failures_total{{kind="endpoints",fault="{fault}"}} "#);
        let text = self.metrics.render();
        let found = text.lines().find_map(|text| text.strip_prefix(&line));
        found.unwrap_or("0").to_owned()
    }
}

struct Cluster {
    control_plane: ControlPlane,
    api: Api<Endpoints>,
    forwarder: Forwarder,
    watched: Watched,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let control_plane = ControlPlane::start(ControlPlaneConfig::loopback(dir.path())).await?;
        let forwarder = Forwarder::start(control_plane.port()).await?;
        let args = ApiArgs {
            kubeconfig: Some(control_plane.admin_kubeconfig()),
            apiserver: vec![format!("https://{}", forwarder.address).parse()?],
            ..ApiArgs::default()
        };
        let metrics = Metrics::new("test", "0");
        let events = watch_protobuf(
            args.client().await?,
            Selection::everything().fields("metadata.namespace=default,metadata.name!=kubernetes"),
            "endpoints",
            metrics.register(WatchMetrics::register),
        );
        Ok(Self {
            api: Api::namespaced(control_plane.client(), "default"),
            control_plane,
            forwarder,
            watched: Watched {
                events: Box::pin(events),
                known: BTreeSet::new(),
                lists: 0,
                metrics,
            },
            _dir: dir,
        })
    }

    async fn create(&self, name: &str) -> anyhow::Result<()> {
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        eventually(format!("{name} is created"), DEADLINE, || async {
            match self.api.create(&PostParams::default(), &object).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
                other => other.map(|_| ()),
            }
        })
        .await?;
        Ok(())
    }

    async fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.api.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_cut_connection_is_taken_up_where_it_broke() -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    cluster.create("a").await?;
    cluster.create("b").await?;
    cluster.watched.until(&["a", "b"]).await?;
    let connections = cluster.forwarder.accepted();

    cluster.forwarder.cut();
    cluster.delete("a").await?;
    cluster.create("c").await?;
    cluster.watched.until(&["b", "c"]).await?;
    assert_eq!(cluster.watched.lists, 1, "no relist was needed");
    assert_eq!(cluster.watched.failures("unreachable"), "1");
    assert!(cluster.forwarder.accepted() > connections);
    Ok(())
}

#[tokio::test]
async fn a_restarted_server_that_has_forgotten_our_version_is_asked_for_a_list() -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    cluster.create("a").await?;
    cluster.create("b").await?;
    cluster.watched.until(&["a", "b"]).await?;

    // Cut off first, so that the deletions are not seen; the new server's cache starts after them.
    cluster.forwarder.cut();
    cluster.delete("a").await?;
    cluster.create("c").await?;
    cluster.control_plane.restart_apiserver().await?;
    cluster.delete("b").await?;
    cluster.create("d").await?;
    cluster.watched.until(&["c", "d"]).await?;
    assert_eq!(cluster.watched.lists, 2, "{}", cluster.watched.metrics.render());
    assert_eq!(cluster.watched.failures("expired"), "1");
    assert_eq!(cluster.watched.failures("malformed"), "0");
    Ok(())
}
