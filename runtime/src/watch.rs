// SPDX-License-Identifier: Apache-2.0
//! One watch per kind as a stream that never ends: relists come as a set of keys, so that deletions
//! missed while the watch was down are seen; failures are logged once and retried.
//!
//! [`watch_protobuf`] is for built-in kinds, [`watch`] for custom ones, which the API server has in JSON only.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::watcher;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

mod gunzip;
mod metrics;
mod protobuf;
mod session;

pub use metrics::WatchMetrics;
pub use protobuf::{Selection, watch_protobuf};

use crate::backoff::{Backoff, jitter};
use crate::client::{Fault, explain, status_text};

/// Identity of an object within its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Absent for cluster-scoped kinds.
    pub namespace: Option<Arc<str>>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.as_deref().map(Arc::from),
            name: Arc::from(meta.name.as_deref().unwrap_or_default()),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What happened to the objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent<K> {
    /// The object exists and looks like this.
    Applied(K),
    /// The object is gone.
    Deleted(ObjectKey),
    /// A list is complete: each of its objects came as `Applied` before; whatever the consumer holds
    /// beyond these keys is gone. The first one means that the kind is synced.
    Listed(BTreeSet<ObjectKey>),
}

/// Turns kube's events into ours. Pure.
#[derive(Debug, Default)]
struct Normaliser {
    /// The keys of the list under way.
    listing: Option<BTreeSet<ObjectKey>>,
}

impl Normaliser {
    fn accept<K: Resource>(&mut self, event: watcher::Event<K>) -> Option<WatchEvent<K>> {
        match event {
            // A list that fails half-way starts anew with `Init`: its keys must not leak into the next.
            watcher::Event::Init => {
                self.listing = Some(BTreeSet::new());
                None
            }
            watcher::Event::InitApply(mut object) => {
                let listing = self.listing.get_or_insert_default();
                listing.insert(ObjectKey::of(&object));
                object.meta_mut().managed_fields = None;
                Some(WatchEvent::Applied(object))
            }
            watcher::Event::InitDone => Some(WatchEvent::Listed(self.listing.take().unwrap_or_default())),
            watcher::Event::Apply(mut object) => {
                object.meta_mut().managed_fields = None;
                Some(WatchEvent::Applied(object))
            }
            watcher::Event::Delete(object) => Some(WatchEvent::Deleted(ObjectKey::of(&object))),
        }
    }
}

/// Failures in a row: how long to wait, and whether this one is news. Time is an argument.
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    last: Option<Instant>,
    wrong: Option<Fault>,
}

impl Health {
    /// A server that accepts a watch and drops it at once must not reset the back-off each time.
    const CALM: Duration = Duration::from_secs(10);

    /// Records a failure: the delay before the next attempt, and whether its reason is new.
    fn failed(&mut self, fault: Fault, now: Instant) -> (Duration, bool) {
        if self.last.is_some_and(|at| now - at > Self::CALM) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        let news = self.wrong.replace(fault) != Some(fault);
        (Backoff::CONNECT.delay(self.failures), news)
    }

    /// Records that events flow; yields what had been wrong.
    fn recovered(&mut self) -> Option<Fault> {
        self.wrong.take()
    }
}

/// [`watch_with`] without metrics of the caller's.
pub fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    what: &'static str,
) -> impl Stream<Item = WatchEvent<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    watch_with(api, config, what, WatchMetrics::default())
}

/// Watches a kind. The stream never ends; errors are logged, counted and retried with back-off.
/// `managedFields` are stripped. `what` names the kind in logs and metrics.
pub fn watch_with<K>(
    api: Api<K>,
    config: watcher::Config,
    what: &'static str,
    metrics: WatchMetrics,
) -> impl Stream<Item = WatchEvent<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    let inner = Box::pin(watcher(api, config));
    let state = (inner, Normaliser::default(), Health::default(), metrics);
    futures::stream::unfold(
        state,
        move |(mut inner, mut normaliser, mut health, metrics)| async move {
            loop {
                match inner.next().await? {
                    Ok(event) => {
                        let Some(event) = normaliser.accept(event) else {
                            continue;
                        };
                        if let Some(fault) = health.recovered() {
                            tracing::info!(watch = what, after = %fault, "watch recovered");
                        }
                        metrics.event(what, &event);
                        return Some((event, (inner, normaliser, health, metrics)));
                    }
                    Err(error) => {
                        let (fault, text) = describe(&error);
                        let (delay, news) = health.failed(fault, Instant::now());
                        metrics.failure(what, fault);
                        report(what, fault, &text, news);
                        tokio::time::sleep(jitter(delay, fastrand::u32(..))).await;
                    }
                }
            }
        },
    )
}

fn describe(error: &watcher::Error) -> (Fault, String) {
    match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => explain(cause),
        watcher::Error::WatchError(status) => (Fault::of_code(status.code), status_text(status)),
        watcher::Error::NoResourceVersion => (Fault::Other, error.to_string()),
    }
}

/// An old resource version is ordinary life; everything else stops news from flowing.
fn report(what: &'static str, fault: Fault, text: &str, news: bool) {
    let hint = match fault {
        Fault::Forbidden => "grant list and watch by RBAC",
        Fault::Unauthorized => "renew the token or certificate",
        Fault::NotFound => "install Berth's custom resource definitions (manifests/crds)",
        Fault::Unreachable
        | Fault::Timeout
        | Fault::Conflict
        | Fault::Expired
        | Fault::Invalid
        | Fault::Throttled
        | Fault::Server
        | Fault::Malformed
        | Fault::Other => "retrying",
    };
    if !news || fault == Fault::Expired {
        tracing::debug!(watch = what, fault = %fault, error = text, "watch failed");
    } else {
        tracing::warn!(watch = what, fault = %fault, error = text, hint, "watch failed");
    }
}

#[cfg(test)]
mod tests;
