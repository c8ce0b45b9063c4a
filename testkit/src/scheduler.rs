// SPDX-License-Identifier: Apache-2.0
//! Binds Pods without a node to the nodes in turn. No resources, no taints, no node selectors.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinHandle;

/// After a failed watch or binding.
const RETRY: Duration = Duration::from_millis(250);

/// A running scheduler; dropping it ends it.
#[derive(Debug)]
pub struct Scheduler {
    task: JoinHandle<()>,
}

impl Scheduler {
    /// Starts binding Pods to these nodes.
    pub fn start(client: Client, nodes: Vec<String>) -> Self {
        Self {
            task: tokio::spawn(run(client, nodes)),
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(client: Client, nodes: Vec<String>) {
    let config = watcher::Config::default().fields("spec.nodeName=");
    let mut events = std::pin::pin!(watcher(Api::<Pod>::all(client.clone()), config));
    let mut turns = nodes.iter().cycle();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod)) => {
                let Some(node) = turns.next() else { return };
                if pod.metadata.deletion_timestamp.is_none() {
                    bind_until_done(&client, &pod, node).await;
                }
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone | watcher::Event::Delete(_)) => {}
            Err(error) => {
                tracing::warn!(%error, "watch of unscheduled Pods failed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Ends when the Pod is bound, by this or another, or gone.
async fn bind_until_done(client: &Client, pod: &Pod, node: &str) {
    loop {
        match bind(client, pod, node).await {
            Ok(()) => return,
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => return,
            Err(error) => {
                tracing::warn!(pod = %pod.name_any(), node, %error, "not bound; tries again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Binds one Pod to a node.
///
/// # Errors
/// What the API server answers: a conflict when it is bound already.
pub async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<(), kube::Error> {
    let name = pod.name_any();
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            uid: pod.uid(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let _answer: Status = api
        .create_subresource("binding", &name, &PostParams::default(), &binding)
        .await?;
    Ok(())
}
