// SPDX-License-Identifier: Apache-2.0
//! One of the two servers with its contender: takes steps, says what it holds, and when it has settled.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::process::Process;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::observe::{Listed, NUDGED, packed_alone};
use super::packing;
use super::request::{self, Request, Verb};
use super::step::{NodeEvent, Step};
use crate::stage::{Contender, Launch, Stage};

/// Longer than upstream waits before it looks at a slice that somebody changed (1 s), or tries again at first.
const QUIET: Duration = Duration::from_millis(2000);
/// For what has to happen on a machine that is swamped.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    /// By this HTTP status.
    Refused(u16),
    /// There was nothing to do it to.
    Nothing,
}

pub(crate) struct Side {
    pub(crate) contender: Contender,
    pub(super) client: Client,
    /// Counts what was seen to be written.
    writes: watch::Receiver<u64>,
    _watches: JoinSet<()>,
    // Before the control plane that it talks to.
    process: Process,
    launch: Launch,
    stage: Stage,
}

impl Side {
    pub(crate) async fn start(
        contender: Contender,
        logs: &Path,
        flags: Vec<String>,
        port: u16,
    ) -> Result<Self> {
        let folder = logs.join(contender.to_string());
        let stage = Stage::start(&folder, Vec::new()).await?;
        let launch = Launch {
            extra_flags: flags,
            admin_port: Some(port),
            ..Launch::named(&contender.to_string())
        };
        let mut process = stage.launch(contender, &launch).await?;
        stage.wait_ready(contender, &launch, &mut process).await?;
        let client = stage.client();
        let (sender, writes) = watch::channel(0);
        let mut watches = JoinSet::new();
        watches.spawn(count::<Endpoints>(client.clone(), sender.clone()));
        watches.spawn(count::<EndpointSlice>(client.clone(), sender));
        Ok(Self {
            contender,
            client,
            writes,
            _watches: watches,
            process,
            launch,
            stage,
        })
    }

    /// Fails when the contender has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        let ended = self.process.try_wait()?;
        ensure!(
            ended.is_none(),
            "{} has ended: {}",
            self.contender,
            self.process.log_end()
        );
        Ok(())
    }

    pub(crate) async fn create_namespace(&self, name: &str) -> Result<()> {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.must("POST", "/api/v1/namespaces", Some(&body)).await
    }

    /// Takes a step, all of its requests unless one is refused.
    pub(crate) async fn take(&self, namespace: &str, step: &Step) -> Result<Answer> {
        let requests = match step {
            Step::MeddleSlice(service, nth, how) => {
                let Some(path) = self.slice(namespace, service, *nth).await? else {
                    return Ok(Answer::Nothing);
                };
                return self.send(&path, "", &request::slice_meddling(*how)).await;
            }
            Step::CreateService(..)
            | Step::EditService(..)
            | Step::DeleteService(_)
            | Step::CreatePod(..)
            | Step::EditPod(..)
            | Step::CreateEndpoints(..)
            | Step::EditEndpoints(..)
            | Step::DeleteEndpoints(_)
            | Step::MeddleEndpoints(..) => request::requests(step, &now()),
        };
        for request in requests {
            let answer = self.request(namespace, &request).await?;
            if answer != Answer::Accepted {
                return Ok(answer);
            }
        }
        Ok(Answer::Accepted)
    }

    async fn request(&self, namespace: &str, request: &Request) -> Result<Answer> {
        let plural = match request.resource {
            request::Resource::Service => "services",
            request::Resource::Pod => "pods",
            request::Resource::Endpoints => "endpoints",
        };
        let folder = format!("/api/v1/namespaces/{namespace}/{plural}");
        self.send(&format!("{folder}/{}", request.name), &folder, &request.verb)
            .await
    }

    async fn send(&self, path: &str, folder: &str, verb: &Verb) -> Result<Answer> {
        match verb {
            Verb::Create(object) => self.call("POST", folder, Some(object)).await,
            Verb::Patch(patch) => self.call("PATCH", path, Some(patch)).await,
            Verb::PatchStatus(patch) => self.call("PATCH", &format!("{path}/status"), Some(patch)).await,
            Verb::Bind(node) => {
                let name = path.rsplit('/').next().unwrap_or_default();
                let body = json!({
                    "apiVersion": "v1",
                    "kind": "Binding",
                    "metadata": {"name": name},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node},
                });
                self.call("POST", &format!("{path}/binding"), Some(&body)).await
            }
            Verb::Delete { grace } => {
                self.catch_up(path).await?;
                let body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": grace});
                self.call("DELETE", path, Some(&body)).await
            }
        }
    }

    /// Waits until the API server's cache has the last write of an object. It decides by what the cache has whether a
    /// Pod's deletion is graceful, and sticks to it: of a Pod that was bound a moment ago it may make an end at once.
    async fn catch_up(&self, path: &str) -> Result<()> {
        let written = match self.raw("GET", path, None).await {
            Ok(written) => written,
            // What is not there is not deleted either.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error).with_context(|| path.to_owned()),
        };
        let version = written["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        self.call("GET", &format!("{path}?resourceVersion={version}"), None)
            .await?;
        Ok(())
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        match self.raw(method, path, body).await {
            Ok(_) => Ok(Answer::Accepted),
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                tracing::debug!(side = %self.contender, method, path, message = %status.message, "refused");
                Ok(Answer::Refused(status.code))
            }
            Err(error) => Err(error).with_context(|| format!("{}: {method} {path}", self.contender)),
        }
    }

    async fn raw(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, kube::Error> {
        let content = if method == "PATCH" && body.is_some_and(Value::is_object) {
            "application/merge-patch+json"
        } else if method == "PATCH" {
            "application/json-patch+json"
        } else {
            "application/json"
        };
        let bytes = body.map(ToString::to_string).unwrap_or_default().into_bytes();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content)
            .body(bytes)
            .map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    pub(super) async fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Result<()> {
        let answer = self.call(method, path, body).await?;
        ensure!(
            answer == Answer::Accepted,
            "{}: {method} {path}: {answer:?}",
            self.contender
        );
        Ok(())
    }

    /// The path of the n-th slice of a Service, in an order that does not depend on names.
    async fn slice(&self, namespace: &str, service: &str, nth: usize) -> Result<Option<String>> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), namespace);
        let ours = format!(
            "kubernetes.io/service-name={service},{}=endpointslice-controller.k8s.io",
            request::SLICE_MANAGED_BY
        );
        let listed = slices.list(&ListParams::default().labels(&ours)).await?.items;
        let listed = listed.into_iter().map(|slice| (packed_alone(&slice), slice));
        let name = packing::nth(listed.collect(), nth).and_then(|slice| slice.metadata.name);
        Ok(
            name.map(|name| {
                format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}")
            }),
        )
    }

    pub(crate) async fn node(&self, event: &NodeEvent) -> Result<()> {
        let (NodeEvent::Put(name, _) | NodeEvent::Delete(name)) = event;
        let path = format!("/api/v1/nodes/{name}");
        let NodeEvent::Put(_, shape) = event else {
            self.call("DELETE", &path, None).await?;
            return Ok(());
        };
        let now = now();
        let made = self
            .call("POST", "/api/v1/nodes", Some(&request::node(name, shape, &now)))
            .await?;
        if made == Answer::Accepted {
            return Ok(());
        }
        let (labels, status) = request::node_patches(shape, &now);
        self.must("PATCH", &path, Some(&labels)).await?;
        self.must("PATCH", &format!("{path}/status"), Some(&status)).await
    }

    /// Makes both controllers look at a Service again.
    pub(crate) async fn touch(&self, namespace: &str, service: &str, number: usize) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/services/{service}");
        let patch = json!({"metadata": {"labels": {"touched": number.to_string()}}});
        self.must("PATCH", &path, Some(&patch)).await
    }

    /// Makes this side look at a Service again by what no controller copies.
    pub(crate) async fn nudge(&self, namespace: &str, service: &str, number: usize) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/services/{service}");
        let patch = json!({"metadata": {"annotations": {NUDGED: number.to_string()}}});
        self.must("PATCH", &path, Some(&patch)).await
    }

    /// Everything that is compared.
    pub(crate) async fn list(&self) -> Result<Listed> {
        let all = ListParams::default();
        let client = || self.client.clone();
        Ok(Listed {
            services: Api::<Service>::all(client()).list(&all).await?.items,
            pods: Api::<Pod>::all(client()).list(&all).await?.items,
            endpoints: Api::<Endpoints>::all(client()).list(&all).await?.items,
            slices: Api::<EndpointSlice>::all(client()).list(&all).await?.items,
            nodes: Api::<Node>::all(client()).list(&all).await?.items,
        })
    }

    /// Waits until nothing is written any more, and no queue of upstream holds anything.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        let settled = async {
            loop {
                while let Ok(changed) = tokio::time::timeout(QUIET, self.writes.changed()).await {
                    changed.context("the watches have ended")?;
                }
                match self.contender {
                    Contender::Berth => return Ok(()),
                    Contender::KubeControllerManager => {
                        let page = self.stage.metrics(self.contender, &self.launch).await?;
                        if page.sum("workqueue_depth", "") == 0.0 {
                            return anyhow::Ok(());
                        }
                    }
                }
            }
        };
        match tokio::time::timeout(PATIENCE, settled).await {
            Ok(settled) => settled,
            Err(_) => bail!(
                "{} is never quiet: something is written again and again",
                self.contender
            ),
        }
    }

    /// Endpoints, as "namespace/name", that upstream's mirroring fails on for ever: where one write has to replace a
    /// slice of one family and add one of another, it takes the wrong one off its list of new slices (removeSlice in
    /// reconciler_helpers.go compares names, and new slices have none) and then creates a slice that is there.
    pub(crate) fn stuck_mirrors(&self) -> Result<BTreeSet<String>> {
        let log = self.process.output()?;
        let lines = log.lines().filter(|line| {
            line.contains("Error mirroring EndpointSlices for Endpoints")
                && line.contains("not able to generate a unique name")
        });
        let key = |line: &str| {
            let (_, rest) = line.split_once("key=\"")?;
            rest.split_once('"').map(|(key, _)| key.to_owned())
        };
        Ok(lines.filter_map(key).collect())
    }

    /// Waits for a further write, but not for long.
    pub(crate) async fn stir(&mut self) {
        // Both outcomes mean: look again.
        let _ = tokio::time::timeout(QUIET, self.writes.changed()).await;
    }
}

fn now() -> String {
    // The API's times have whole seconds.
    let seconds = Timestamp::now().as_second();
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// Counts changes of a kind.
async fn count<K>(client: Client, counter: watch::Sender<u64>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = Box::pin(watcher::watcher(
        Api::<PartialObjectMeta<K>>::all(client),
        watcher::Config::default(),
    ));
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => counter.send_modify(|count| *count += 1),
            Err(error) => tracing::debug!(%error, "watch of the harness"),
        }
    }
}
