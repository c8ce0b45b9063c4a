// SPDX-License-Identifier: Apache-2.0
//! Sees what a controller writes: one kept-alive watch of Endpoints and one of EndpointSlices, the same for
//! whoever is measured.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::AsyncBufReadExt;
use kube::Client;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::dataset::PREFIX;

/// Longer than any run.
const WATCH_SECONDS: u32 = 3_000;

/// Which of the two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// core/v1 Endpoints.
    Endpoints,
    /// discovery.k8s.io/v1 EndpointSlices.
    Slices,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Endpoints, Self::Slices];

    fn path(self) -> &'static str {
        match self {
            Self::Endpoints => "/api/v1/endpoints",
            Self::Slices => "/apis/discovery.k8s.io/v1/endpointslices",
        }
    }

    /// The Service that an object belongs to.
    fn service(self, meta: &Meta) -> Option<&str> {
        match self {
            Self::Endpoints => Some(&meta.name),
            Self::Slices => meta.labels.get("kubernetes.io/service-name").map(String::as_str),
        }
    }
}

/// The lines of a watch's answer.
type Lines = std::pin::Pin<Box<dyn futures::AsyncBufRead + Send>>;

/// Namespace and name of a Service.
pub(crate) type ServiceKey = (String, String);

/// How many addresses of a Service take traffic, and how many do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ready: usize,
    pub(crate) not_ready: usize,
}

/// A Service as one kind showed it at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) kind: Kind,
    pub(crate) service: ServiceKey,
    pub(crate) counts: Counts,
    pub(crate) at: Instant,
}

/// What has been seen so far. Pure.
#[derive(Debug, Default)]
struct Seen {
    objects: BTreeMap<(Kind, ServiceKey), BTreeMap<String, Counts>>,
    /// Services of which a kind has all Pods, all of them ready.
    complete: BTreeMap<Kind, usize>,
    last: Option<Instant>,
    sightings: Vec<Sighting>,
    pods_each: usize,
}

impl Seen {
    fn accept(&mut self, kind: Kind, event: &Event, at: Instant) {
        let meta = &event.object.metadata;
        let Some(service) = kind.service(meta) else { return };
        if !meta.namespace.starts_with(PREFIX) {
            return;
        }
        let service = (meta.namespace.clone(), service.to_owned());
        let objects = self.objects.entry((kind, service.clone())).or_default();
        let before = total(objects);
        if event.kind == "DELETED" {
            objects.remove(&meta.name);
        } else {
            objects.insert(meta.name.clone(), event.object.counts());
        }
        let counts = total(objects);
        let whole = |counts: Counts| usize::from(counts.ready == self.pods_each);
        let complete = self.complete.entry(kind).or_default();
        *complete = (*complete + whole(counts)).saturating_sub(whole(before));
        self.last = Some(at);
        self.sightings.push(Sighting {
            kind,
            service,
            counts,
            at,
        });
    }

    fn complete(&self) -> [usize; 2] {
        Kind::ALL.map(|kind| self.complete.get(&kind).copied().unwrap_or(0))
    }
}

fn total(objects: &BTreeMap<String, Counts>) -> Counts {
    objects.values().fold(Counts::default(), |sum, counts| Counts {
        ready: sum.ready + counts.ready,
        not_ready: sum.not_ready + counts.not_ready,
    })
}

/// What those who wait are woken by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Services that are complete, of each kind.
    complete: [usize; 2],
    /// Why a watch is over: what comes later is not seen.
    failure: Option<String>,
}

/// The running watches.
pub(crate) struct Observer {
    seen: Arc<Mutex<Seen>>,
    progress: watch::Receiver<Progress>,
    watches: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Starts both watches with what is there now; `pods_each` is what makes a Service complete.
    pub(crate) async fn start(client: &Client, pods_each: u32) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Seen {
            pods_each: usize::try_from(pods_each)?,
            ..Seen::default()
        }));
        let (sender, progress) = watch::channel(Progress::default());
        let mut watches = Vec::new();
        for kind in Kind::ALL {
            let mut watch = Watch {
                client: client.clone(),
                kind,
                version: String::new(),
            };
            let lines = watch.begin().await?;
            let (seen, sender) = (Arc::clone(&seen), sender.clone());
            watches.push(tokio::spawn(async move {
                let Err(failure) = watch.follow(lines, &seen, &sender).await;
                sender.send_modify(|progress| {
                    progress.failure = Some(format!("watch of {kind:?}: {failure:#}"));
                });
            }));
        }
        Ok(Self {
            seen,
            progress,
            watches,
        })
    }

    /// Waits until both kinds have every Service with all its Pods; the moment at which the last one was seen.
    pub(crate) async fn converged(&mut self, services: u32, deadline: Duration) -> Result<Instant> {
        let services = usize::try_from(services)?;
        let over = |progress: &Progress| progress.complete == [services; 2] || progress.failure.is_some();
        // Whatever ended the wait: what is known now says it.
        let _ = tokio::time::timeout(deadline, self.progress.wait_for(over)).await;
        let progress = self.progress.borrow().clone();
        ensure!(
            progress.complete == [services; 2],
            "of {services} Services, {:?} (Endpoints, slices) were complete; {}",
            progress.complete,
            progress
                .failure
                .unwrap_or_else(|| format!("given up after {deadline:?}"))
        );
        self.with(|seen| seen.last).context("nothing was seen")
    }

    /// Forgets what was seen when; what is there stays known.
    pub(crate) fn clear(&self) {
        self.with(|seen| seen.sightings.clear());
    }

    /// Everything seen since the last [`Observer::clear`], in order.
    pub(crate) fn sightings(&self) -> Vec<Sighting> {
        self.with(|seen| seen.sightings.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

/// One kind's watch.
struct Watch {
    client: Client,
    kind: Kind,
    /// Of the last event; none at the start.
    version: String,
}

impl Watch {
    /// At first a watch begins with what is there, as `ADDED` events; later where the last one ended.
    async fn begin(&self) -> Result<Lines> {
        let (path, version) = (self.kind.path(), &self.version);
        let uri = format!("{path}?watch=1&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}");
        let request = http::Request::get(uri).body(Vec::new())?;
        let lines = self.client.request_stream(request).await;
        Ok(Box::pin(
            lines.with_context(|| format!("watch of {:?}", self.kind))?,
        ))
    }

    /// Reads for ever. The API server ends a watch whose reader does not keep up, as on a machine that is busy with
    /// other things: then it goes on from the last event.
    async fn follow(
        &mut self,
        mut lines: Lines,
        seen: &Mutex<Seen>,
        progress: &watch::Sender<Progress>,
    ) -> Result<Infallible> {
        let mut line = Vec::new();
        loop {
            while lines.read_until(b'\n', &mut line).await? > 0 {
                self.accept(&line, seen, progress)?;
                line.clear();
            }
            lines = self.begin().await?;
        }
    }

    fn accept(&mut self, line: &[u8], seen: &Mutex<Seen>, progress: &watch::Sender<Progress>) -> Result<()> {
        let at = Instant::now();
        let event: Event =
            serde_json::from_slice(line).with_context(|| String::from_utf8_lossy(line).into_owned())?;
        ensure!(event.kind != "ERROR", "{}", String::from_utf8_lossy(line));
        self.version.clone_from(&event.object.metadata.resource_version);
        let complete = {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.accept(self.kind, &event, at);
            seen.complete()
        };
        progress.send_if_modified(|known| std::mem::replace(&mut known.complete, complete) != complete);
        Ok(())
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

/// Both kinds, as far as it counts.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Meta,
    subsets: Vec<Subset>,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    namespace: String,
    name: String,
    resource_version: String,
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Subset {
    addresses: Vec<IgnoredAny>,
    not_ready_addresses: Vec<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

impl Object {
    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for subset in &self.subsets {
            counts.ready += subset.addresses.len();
            counts.not_ready += subset.not_ready_addresses.len();
        }
        for endpoint in self.endpoints.iter().flatten() {
            // Absent means ready: discovery.k8s.io/v1.
            if endpoint.conditions.ready.unwrap_or(true) {
                counts.ready += 1;
            } else {
                counts.not_ready += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(kind: &str, name: &str, service: &str, ready: &[bool]) -> Event {
        let endpoints: Vec<_> = ready
            .iter()
            .map(|ready| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}))
            .collect();
        serde_json::from_value(json!({"type": kind, "object": {
            "metadata": {"namespace": "bench-1", "name": name, "labels": {"kubernetes.io/service-name": service}},
            "endpoints": endpoints,
        }}))
        .unwrap()
    }

    fn endpoints(namespace: &str, ready: usize, not_ready: usize) -> Event {
        let addresses = |count| vec![json!({"ip": "10.0.0.1"}); count];
        serde_json::from_value(json!({"type": "MODIFIED", "object": {
            "metadata": {"namespace": namespace, "name": "a"},
            "subsets": [{"addresses": addresses(ready), "notReadyAddresses": addresses(not_ready)}],
        }}))
        .unwrap()
    }

    #[test]
    fn a_service_is_complete_with_all_its_pods_over_all_its_slices() {
        let mut seen = Seen {
            pods_each: 3,
            ..Seen::default()
        };
        let now = Instant::now();
        let mut accept = |kind, event: Event| {
            seen.accept(kind, &event, now);
            seen.complete()
        };
        assert_eq!(
            accept(Kind::Slices, slice("ADDED", "a-1", "a", &[true, true])),
            [0, 0]
        );
        assert_eq!(accept(Kind::Slices, slice("ADDED", "a-2", "a", &[true])), [0, 1]);
        assert_eq!(
            accept(Kind::Slices, slice("MODIFIED", "a-2", "a", &[false])),
            [0, 0]
        );
        assert_eq!(
            accept(Kind::Slices, slice("MODIFIED", "a-2", "a", &[true])),
            [0, 1]
        );
        assert_eq!(accept(Kind::Endpoints, endpoints("bench-1", 3, 0)), [1, 1]);
        assert_eq!(accept(Kind::Slices, slice("DELETED", "a-1", "a", &[])), [1, 0]);
        assert_eq!(accept(Kind::Endpoints, endpoints("default", 3, 0)), [1, 0]);
        assert_eq!(accept(Kind::Endpoints, endpoints("bench-1", 2, 1)), [0, 0]);
        let last = seen.sightings.last().unwrap();
        assert_eq!(
            last.counts,
            Counts {
                ready: 2,
                not_ready: 1
            }
        );
        assert_eq!(seen.sightings.len(), 7);
    }
}
