// SPDX-License-Identifier: Apache-2.0
//! The life of one Pod: started, watched over, told about, ended.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use super::Agent;
use super::slot::{self, Slot};
use super::status::{Containers, Seen, plan_status};

/// What the API server says about a Pod.
#[derive(Clone, Debug)]
pub(super) enum Desired {
    Pod(Arc<Pod>),
    /// No such Pod any more.
    Gone,
}

/// Between two looks at a process that should be running.
const WATCH_OVER: Duration = Duration::from_millis(500);
/// Between two looks at a process that should be ending.
const WATCH_END: Duration = Duration::from_millis(20);
/// After a failure.
const RETRY: Duration = Duration::from_millis(500);

/// Runs until the Pod is gone.
pub(super) async fn work(agent: Arc<Agent>, uid: String, mut desired: watch::Receiver<Desired>) {
    let mut worker = Worker {
        agent,
        uid,
        written: None,
    };
    loop {
        let now = desired.borrow_and_update().clone();
        let Desired::Pod(pod) = now else {
            worker.remove().await;
            return;
        };
        let pause = match worker.turn(&pod).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(pod = %pod.name_any(), error = format!("{error:#}"), "node agent; tries again");
                RETRY
            }
        };
        tokio::select! {
            changed = desired.changed() => {
                if changed.is_err() && !matches!(*desired.borrow(), Desired::Gone) {
                    return;
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Worker {
    agent: Arc<Agent>,
    uid: String,
    /// The status last written: the watch may still show an older one.
    written: Option<PodStatus>,
}

impl Worker {
    async fn turn(&mut self, pod: &Arc<Pod>) -> anyhow::Result<Duration> {
        if pod.metadata.deletion_timestamp.is_some() {
            return self.end(pod).await;
        }
        let slot = match self.agent.slot(&self.uid) {
            Some(slot) => self.watch_over(pod, slot).await?,
            None => match self.start(pod).await {
                Ok(slot) => slot,
                Err(error) => {
                    self.write(pod, None, Containers::Waiting(format!("{error:#}")))
                        .await?;
                    return Err(error);
                }
            },
        };
        let since = slot::lock(&slot).since;
        self.write(pod, Some(&slot), Containers::Running(since)).await?;
        Ok(WATCH_OVER)
    }

    async fn start(&self, pod: &Arc<Pod>) -> anyhow::Result<Arc<Mutex<Slot>>> {
        let _turn = self.agent.starts.acquire().await?;
        let (agent, pod, uid) = (Arc::clone(&self.agent), Arc::clone(pod), self.uid.clone());
        tokio::task::spawn_blocking(move || {
            let slot = Arc::new(Mutex::new(Slot::start(&pod, &agent.node, &agent.options)?));
            // In here, so that a stop of the agent does not lose what was just started.
            agent.slots().insert(uid, Arc::clone(&slot));
            Ok(slot)
        })
        .await?
    }

    async fn watch_over(&self, pod: &Arc<Pod>, slot: Arc<Mutex<Slot>>) -> anyhow::Result<Arc<Mutex<Slot>>> {
        if slot::lock(&slot).ended()? {
            tracing::info!(pod = %pod.name_any(), "process ended; started again");
            let (pod, slot) = (Arc::clone(pod), Arc::clone(&slot));
            tokio::task::spawn_blocking(move || slot::lock(&slot).restart(&pod)).await??;
        }
        Ok(slot)
    }

    /// One step towards the end of a Pod that is being deleted.
    async fn end(&mut self, pod: &Arc<Pod>) -> anyhow::Result<Duration> {
        if let Some(slot) = self.agent.slot(&self.uid) {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
            let Some(exit_code) = slot::lock(&slot).terminate(grace, Instant::now())? else {
                // A change of readiness is told during the grace period too.
                let since = slot::lock(&slot).since;
                self.write(pod, Some(&slot), Containers::Running(since)).await?;
                return Ok(WATCH_END);
            };
            self.write(
                pod,
                Some(&slot),
                Containers::Ended {
                    since: Timestamp::now(),
                    exit_code,
                },
            )
            .await?;
            self.remove().await;
        }
        self.delete(pod).await?;
        // The watch tells of the deletion and ends this task.
        Ok(WATCH_OVER)
    }

    /// Removes process and namespace.
    async fn remove(&self) {
        let slot = self.agent.slots().remove(&self.uid);
        // Joined for its end; a panic in there was printed.
        let _ended = tokio::task::spawn_blocking(move || drop(slot)).await;
    }

    async fn delete(&self, pod: &Pod) -> anyhow::Result<()> {
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api(pod).delete(&pod.name_any(), &parameters).await {
            // Gone already, or another Pod of this name.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            deleted => Ok(deleted.map(|_| ())?),
        }
    }

    async fn write(
        &mut self,
        pod: &Pod,
        slot: Option<&Arc<Mutex<Slot>>>,
        containers: Containers,
    ) -> anyhow::Result<()> {
        let seen = {
            let slot = slot.map(slot::lock);
            Seen {
                host: self.agent.node.addresses(),
                addresses: slot.as_ref().map(|slot| slot.addresses()),
                containers,
                restarts: slot.as_ref().map_or(0, |slot| slot.restarts),
            }
        };
        let before = self
            .written
            .clone()
            .or_else(|| pod.status.clone())
            .unwrap_or_default();
        let status = plan_status(pod, &before, &seen, Timestamp::now());
        if status == before {
            return Ok(());
        }
        // The uid guards a new Pod of the same name: it makes the server answer with a conflict.
        let patch = json!({"metadata": {"uid": self.uid}, "status": status});
        let written = self
            .api(pod)
            .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await;
        match written {
            Ok(_) => self.written = Some(status),
            Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => {
                tracing::debug!(pod = %pod.name_any(), %answer.message, "status not written: the Pod is gone");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.agent.client.clone(), &pod.namespace().unwrap_or_default())
    }
}
