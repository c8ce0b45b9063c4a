// SPDX-License-Identifier: Apache-2.0
//! The node agent: makes the Pods bound to its node real and tells the API server how they fare.
//!
//! One per node, as a task of the calling program. Of a kubelet it does what Services depend on:
//! addresses of both families, phase, conditions, readiness, and termination with its grace period.
//! It knows no images: every Pod runs `berth-testpod` on all ports that its containers declare, and
//! runs no probes: a Pod is ready once it listens, unless annotations say otherwise:
//!
//! | annotation | value | effect |
//! |---|---|---|
//! | [`READY`] | `"false"` | not ready until changed; may change at any time |
//! | [`LINGER`] | `"true"` | goes on serving after SIGTERM until its grace period ends |
//! | [`FAKE`] | `"true"` | only an address and a status, no process: for tests with hundreds of Pods |

mod register;
mod slot;
mod status;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::lan::Node;
use crate::netns::Netns;
use crate::sandbox;

use slot::Slot;
use worker::Desired;

/// `"false"`: the Pod is running and not ready.
pub const READY: &str = "testkit.berth.dev/ready";
/// `"true"`: the process ignores SIGTERM until the grace period has passed.
pub const LINGER: &str = "testkit.berth.dev/linger";
/// `"true"`: no process and no namespace.
pub const FAKE: &str = "testkit.berth.dev/fake";

/// Pods being started at a time: they take turns on the kernel's one lock for links anyway.
const STARTS: usize = 4;
/// After a failed watch. The watcher's own back-off grows to half a minute, too slow for a test that
/// restarts the API server.
const WATCH_RETRY: Duration = Duration::from_millis(250);

/// Where the agent keeps what it makes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Logs of the Pods' processes, one file each.
    pub logs: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            logs: PathBuf::from(sandbox::SCRATCH).join("pods"),
        }
    }
}

/// A node's agent. Dropping it ends the agent and the Pods' processes.
pub struct Kubelet {
    agent: Arc<Agent>,
    task: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Creates or updates the Node object and starts the agent. The client's `default_retry` should be off.
    ///
    /// # Errors
    /// When the API server refuses the Node object.
    pub async fn start(client: Client, node: &Node, options: Options) -> Result<Self, kube::Error> {
        register::register(&client, node, true).await?;
        let agent = Arc::new(Agent {
            client,
            node: node.clone(),
            options,
            slots: Mutex::default(),
            starts: Semaphore::new(STARTS),
        });
        let task = Some(tokio::spawn(Arc::clone(&agent).run()));
        Ok(Self { agent, task })
    }

    /// Ends the agent and leaves the Pods running, as a kubelet that is being upgraded does.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Its end is what is waited for; that it was aborted is known.
            let _aborted = task.await;
        }
    }

    /// Starts the agent again after [`Kubelet::stop`]; it finds the Pods that go on running.
    pub fn resume(&mut self) {
        if self.task.is_none() {
            self.task = Some(tokio::spawn(Arc::clone(&self.agent).run()));
        }
    }

    /// What happens to Pods when their node loses its power: agent and processes are gone, and the API server is not told.
    pub async fn crash(&mut self) {
        self.stop().await;
        let slots = std::mem::take(&mut *self.agent.slots());
        // Joined, so that the links are gone on return; a panic in there was printed.
        let _ended = tokio::task::spawn_blocking(move || drop(slots)).await;
    }

    /// Sets the Node's Ready condition.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn set_node_ready(&self, ready: bool) -> Result<(), kube::Error> {
        register::register(&self.agent.client, &self.agent.node, ready).await
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.agent.node
    }

    /// The namespace of a Pod that runs here: to probe from, or to look into. `None` for fake ones.
    pub fn pod_netns(&self, namespace: &str, name: &str) -> Option<Netns> {
        let slots: Vec<_> = self.agent.slots().values().cloned().collect();
        slots.iter().find_map(|slot| {
            let slot = slot::lock(slot);
            (slot.namespace == namespace && slot.name == name)
                .then(|| slot.netns())
                .flatten()
        })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What the agent's tasks share. The slots outlive a stop of the agent.
struct Agent {
    client: Client,
    node: Node,
    options: Options,
    slots: Mutex<BTreeMap<String, Arc<Mutex<Slot>>>>,
    starts: Semaphore,
}

impl Agent {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Mutex<Slot>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, uid: &str) -> Option<Arc<Mutex<Slot>>> {
        self.slots().get(uid).cloned()
    }

    async fn run(self: Arc<Self>) {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node.name()));
        let mut events = std::pin::pin!(watcher(Api::<Pod>::all(self.client.clone()), config));
        let mut workers = Workers {
            agent: Arc::clone(&self),
            senders: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.extend(pod.uid());
                    workers.deliver(pod);
                }
                Ok(watcher::Event::InitDone) => workers.keep(&listed),
                Ok(watcher::Event::Apply(pod)) => workers.deliver(pod),
                Ok(watcher::Event::Delete(pod)) => workers.gone(&pod.uid().unwrap_or_default()),
                Err(error) => {
                    tracing::warn!(node = self.node.name(), %error, "watch of Pods failed");
                    tokio::time::sleep(WATCH_RETRY).await;
                }
            }
        }
    }
}

/// One task a Pod, keyed by uid: a Pod of the same name may come before the old one has gone.
struct Workers {
    agent: Arc<Agent>,
    senders: BTreeMap<String, watch::Sender<Desired>>,
    tasks: JoinSet<()>,
}

impl Workers {
    fn deliver(&mut self, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        let desired = Desired::Pod(Arc::new(pod));
        if let Some(sender) = self.senders.get(&uid) {
            sender.send_replace(desired);
            return;
        }
        let (sender, receiver) = watch::channel(desired);
        self.senders.insert(uid.clone(), sender);
        self.tasks
            .spawn(worker::work(Arc::clone(&self.agent), uid, receiver));
        while self.tasks.try_join_next().is_some() {}
    }

    fn gone(&mut self, uid: &str) {
        if let Some(sender) = self.senders.remove(uid) {
            sender.send_replace(Desired::Gone);
        }
    }

    /// After a list: what is not in it has gone while nobody watched.
    fn keep(&mut self, listed: &BTreeSet<String>) {
        let missing: Vec<String> = self
            .senders
            .keys()
            .filter(|uid| !listed.contains(*uid))
            .cloned()
            .collect();
        missing.iter().for_each(|uid| self.gone(uid));
        let orphans: Vec<_> = {
            let mut slots = self.agent.slots();
            let uids: Vec<String> = slots
                .keys()
                .filter(|uid| !listed.contains(*uid) && !missing.contains(uid))
                .cloned()
                .collect();
            uids.iter().filter_map(|uid| slots.remove(uid)).collect()
        };
        self.tasks.spawn_blocking(move || drop(orphans));
    }
}
