// SPDX-License-Identifier: Apache-2.0
//! Watches of built-in kinds, in protobuf with streaming lists: for the server an object costs no more
//! than its cached bytes, and here no more than the fields that are used.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use berth_snapshot::intern::Interner;
use berth_snapshot::wire::{self, Frame, Frames, List, Malformed, Named, Object, Refusal, Wire};
use futures::Stream;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use tokio::time::Instant;

use super::gunzip::{Corrupt, Gunzip};
use super::session::{Ask, Lists, Reaction, Session, Trouble};
use super::{Health, ObjectKey, WatchEvent, WatchMetrics, report};
use crate::backoff::jitter;
use crate::client::{Fault, explain};

/// Objects and statuses.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Watches. A refusal comes as what stands second.
const PROTOBUF_STREAM: &str =
    "application/vnd.kubernetes.protobuf;stream=watch, application/vnd.kubernetes.protobuf";
/// How long watches are asked to last: from this to its double, at random, so that a restarted server's
/// clients do not come in step for ever after (client-go, `minWatchTimeout`).
const SHORTEST_WATCH: u32 = 300;
/// Objects per page, where lists come in pages (client-go's default).
const PAGE: u32 = 500;
/// The coding of compressed answers: lists of 128 KiB and more, and streaming lists with the watches that they turn into.
const GZIP: &str = "gzip";
/// How much of an answer that is no status goes into the log.
const QUOTED: usize = 200;

/// Which objects of a kind are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    labels: Option<String>,
    fields: Option<String>,
    compressed: bool,
    lists: Lists,
}

impl Selection {
    /// All of them.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Compressed, where the server does that (streaming lists since Kubernetes 1.37, `WatchListCompression`; other lists ever
    /// since): a tenth of the bytes. For what runs on every node and has the network between itself and the server.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.compressed = true;
        self
    }

    /// What exists is asked for in one answer, and not object by object at the start of the watch. Compressed, that costs the
    /// server a fifth of the time and a few bytes in a hundred: a streaming list compresses each object by itself. But the
    /// server does not compress the watch that follows: for kinds that seldom change. Since Kubernetes 1.33 the server need not
    /// have all of such an answer at once (KEP-5116).
    #[must_use]
    pub fn listed_whole(mut self) -> Self {
        self.lists = Lists::Whole;
        self
    }

    /// Those that a label selector matches.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Those that a field selector matches.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }
}

/// Watches a built-in kind in all namespaces. The stream never ends; errors are logged, counted and
/// retried with back-off. `what` names the kind in logs and metrics.
pub fn watch_protobuf<K: Wire + Send + 'static>(
    client: Client,
    selection: Selection,
    what: &'static str,
    metrics: WatchMetrics,
) -> impl Stream<Item = WatchEvent<K>> + Send {
    let watcher = Watcher::<K> {
        client,
        session: Session::new(selection.lists),
        selection,
        what,
        metrics,
        health: Health::default(),
        texts: Interner::default(),
        shared: K::Shared::default(),
        open: None,
        ready: VecDeque::new(),
    };
    futures::stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await;
        Some((event, watcher))
    })
}

/// An answer that is being read.
struct Open {
    body: Body,
    gunzip: Option<Gunzip>,
    content: Content,
    since: Instant,
    timeout: Duration,
    useful: bool,
}

/// What an answer holds, as far as it has come.
enum Content {
    Watch(Frames),
    List(List),
}

impl Content {
    fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Watch(frames) => frames.push(bytes),
            Self::List(list) => list.push(bytes),
        }
    }
}

struct Watcher<K: Wire> {
    client: Client,
    selection: Selection,
    what: &'static str,
    metrics: WatchMetrics,
    session: Session,
    health: Health,
    texts: Interner<str>,
    shared: K::Shared,
    open: Option<Open>,
    ready: VecDeque<WatchEvent<K>>,
}

impl<K: Wire> Watcher<K> {
    async fn next(&mut self) -> WatchEvent<K> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.metrics.event(self.what, &event);
                return event;
            }
            let outcome = match self.open.take() {
                None => self.connect().await,
                Some(open) => self.proceed(open).await,
            };
            if let Err(trouble) = outcome {
                self.recover(trouble).await;
            }
        }
    }

    async fn recover(&mut self, trouble: Trouble) {
        match self.session.failed(trouble) {
            Reaction::Again => {}
            Reaction::FallBack(text) => {
                tracing::debug!(
                    watch = self.what,
                    error = text,
                    "no streaming lists here: asking for pages"
                );
            }
            Reaction::ListAnew(fault, text) => {
                let (_, news) = self.health.failed(fault, Instant::now());
                self.metrics.failure(self.what, fault);
                report(self.what, fault, &text, news);
            }
            Reaction::Pause(fault, text) => {
                let (delay, news) = self.health.failed(fault, Instant::now());
                self.metrics.failure(self.what, fault);
                report(self.what, fault, &text, news);
                tokio::time::sleep(jitter(delay, fastrand::u32(..))).await;
            }
        }
    }

    fn well(&mut self) {
        if let Some(fault) = self.health.recovered() {
            tracing::info!(watch = self.what, after = %fault, "watch recovered");
        }
    }

    async fn connect(&mut self) -> Result<(), Trouble> {
        let ask = self.session.ask();
        let seconds = fastrand::u32(SHORTEST_WATCH..2 * SHORTEST_WATCH);
        let request = request::<K>(&ask, &self.selection, seconds)?;
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|error| broken(&error))?;
        let coding = answer.headers().get(CONTENT_ENCODING);
        let gunzip = coding.is_some_and(|coding| coding == GZIP).then(Gunzip::default);
        let content = match ask {
            Ask::StreamList | Ask::Watch { .. } => Content::Watch(Frames::default()),
            Ask::List | Ask::Page { .. } => Content::List(List::of(K::KIND)),
        };
        self.open = Some(Open {
            body: accepted(answer).await?,
            gunzip,
            content,
            since: Instant::now(),
            timeout: Duration::from_secs(seconds.into()),
            useful: false,
        });
        Ok(())
    }

    /// Reads on until there is an event, or the answer is over; the connection is kept only as long as all is well.
    async fn proceed(&mut self, mut open: Open) -> Result<(), Trouble> {
        while self.ready.is_empty() {
            if self.read(&mut open)? {
                open.useful = true;
            } else if !self.receive(&mut open).await? {
                return self.ended(&open);
            }
        }
        self.open = Some(open);
        Ok(())
    }

    /// Takes the next object or event of what has come; whether there was one.
    fn read(&mut self, open: &mut Open) -> Result<bool, Trouble> {
        match &mut open.content {
            Content::Watch(frames) => {
                let next = frames.next_frame();
                let Some(frame) = next.map_err(|fault| malformed::<K>("frame", &fault))? else {
                    return Ok(false);
                };
                let frame = wire::read_frame(frame, K::KIND);
                self.frame(frame.map_err(|fault| malformed::<K>("frame", &fault))?)?;
            }
            Content::List(list) => {
                let next = list.next_object();
                let Some(object) = next.map_err(|fault| malformed::<K>("list", &fault))? else {
                    return Ok(false);
                };
                self.applied(&object);
            }
        }
        Ok(true)
    }

    /// Waits for more of an answer; whether there was more.
    async fn receive(&mut self, open: &mut Open) -> Result<bool, Trouble> {
        let patience = self.session.patience(open.timeout);
        let chunk = tokio::time::timeout(patience, open.body.frame())
            .await
            .map_err(|_| Trouble::Silent(patience))?;
        let Some(chunk) = chunk else {
            return Ok(false);
        };
        // Trailers carry nothing for us.
        if let Ok(bytes) = chunk.map_err(|error| broken(&error))?.into_data() {
            self.metrics.bytes(self.what, bytes.len());
            let content = &mut open.content;
            match &mut open.gunzip {
                Some(gunzip) => gunzip
                    .push(&bytes, |bytes| content.push(bytes))
                    .map_err(corrupt)?,
                None => content.push(&bytes),
            }
        }
        Ok(true)
    }

    /// The answer is over: a watch, or a list, which may have more pages.
    fn ended(&mut self, open: &Open) -> Result<(), Trouble> {
        let within = |part| {
            let text = format!("the stream ended within a {part}");
            Trouble::Broken(Fault::Unreachable, text)
        };
        match &open.content {
            Content::Watch(frames) if frames.is_within_frame() => Err(within("frame")),
            Content::Watch(_) => Err(Trouble::Ended {
                after: open.since.elapsed(),
                useful: open.useful,
            }),
            Content::List(list) => {
                let (version, next) = list.ended().ok_or_else(|| within("list"))?;
                let complete = self.session.page(version, next);
                self.ready.extend(complete.map(WatchEvent::Listed));
                self.well();
                Ok(())
            }
        }
    }

    fn frame(&mut self, frame: Frame<'_>) -> Result<(), Trouble> {
        match frame {
            Frame::Applied(object) => self.applied(&object),
            Frame::Deleted(object) => {
                let key = self.key(&object);
                self.session.deleted(&key, object.version);
                self.ready.push_back(WatchEvent::Deleted(key));
            }
            Frame::Bookmark {
                version,
                initial_events_end,
            } => {
                let complete = self.session.bookmark(version, initial_events_end);
                self.ready.extend(complete.map(WatchEvent::Listed));
            }
            Frame::Error(refusal) => return Err(Trouble::Refused(refusal)),
        }
        self.well();
        Ok(())
    }

    fn key(&mut self, object: &Object<'_>) -> ObjectKey {
        ObjectKey {
            namespace: (!object.namespace.is_empty()).then(|| self.texts.get(object.namespace)),
            name: object.name.into(),
        }
    }

    /// One object that cannot be read does not end the watch of the others; it is known to exist.
    fn applied(&mut self, object: &Object<'_>) {
        let key = self.key(object);
        self.session.applied(&key, object.version);
        let named = Named {
            namespace: key.namespace.clone().unwrap_or_else(|| self.texts.get("")),
            name: Arc::clone(&key.name),
        };
        match K::read(object.raw, &named, &mut self.shared) {
            Ok(object) => self.ready.push_back(WatchEvent::Applied(object)),
            Err(fault) => {
                self.metrics.failure(self.what, Fault::Malformed);
                tracing::error!(watch = self.what, kind = K::KIND, object = %key, error = %fault,
                    "an object cannot be read and is left as it was");
            }
        }
    }
}

fn malformed<K: Wire>(part: &str, fault: &Malformed) -> Trouble {
    Trouble::Malformed(format!(
        "a {part} of {} cannot be read: {fault}",
        K::URL_PATH_SEGMENT
    ))
}

fn corrupt(corrupt: Corrupt) -> Trouble {
    Trouble::Malformed(format!("a compressed answer: {corrupt}"))
}

fn broken(error: &kube::Error) -> Trouble {
    let (fault, text) = explain(error);
    Trouble::Broken(fault, text)
}

fn request<K: Wire>(ask: &Ask, selection: &Selection, seconds: u32) -> Result<Request<Body>, Trouble> {
    let watch = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}");
    let (accept, mut query) = match ask {
        Ask::StreamList => (
            PROTOBUF_STREAM,
            format!("{watch}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
        ),
        Ask::Watch { version } => (
            PROTOBUF_STREAM,
            format!("{watch}&resourceVersion={}", escape(version)),
        ),
        Ask::List => (PROTOBUF, String::new()),
        Ask::Page { next } if next.is_empty() => (PROTOBUF, format!("limit={PAGE}")),
        Ask::Page { next } => (PROTOBUF, format!("limit={PAGE}&continue={}", escape(next))),
    };
    for (name, selector) in [
        ("labelSelector", &selection.labels),
        ("fieldSelector", &selection.fields),
    ] {
        if let Some(selector) = selector {
            let and = if query.is_empty() { "" } else { "&" };
            query = format!("{query}{and}{name}={}", escape(selector));
        }
    }
    let mark = if query.is_empty() { "" } else { "?" };
    let mut request = Request::get(format!("{}{mark}{query}", K::path())).header(ACCEPT, accept);
    if selection.compressed {
        request = request.header(ACCEPT_ENCODING, GZIP);
    }
    request
        .body(Body::empty())
        .map_err(|error| Trouble::Broken(Fault::Other, error.to_string()))
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The body of an answer that says yes, in protobuf.
async fn accepted(answer: Response<Body>) -> Result<Body, Trouble> {
    let status = answer.status();
    let content = answer.headers().get(CONTENT_TYPE).cloned();
    if status.is_success() {
        let content = content
            .as_ref()
            .map_or("", |content| content.to_str().unwrap_or("?"));
        if content.starts_with(PROTOBUF) {
            return Ok(answer.into_body());
        }
        return Err(Trouble::Malformed(format!(
            "the answer is {content:?}, not protobuf"
        )));
    }
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| broken(&error))?.to_bytes();
    let mut refusal = wire::read_status(&body).unwrap_or_else(|_| Refusal {
        message: String::from_utf8_lossy(&body).chars().take(QUOTED).collect(),
        ..Refusal::default()
    });
    refusal.code = status.as_u16();
    Err(Trouble::Refused(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    #[test]
    fn requests_name_path_selection_and_where_to_start() {
        let ours = Selection::everything().labels("managed-by in (a.k8s.io, b)");
        for (request, path, accept) in [
            (
                request::<EndpointSlice>(&Ask::StreamList, &ours, 300),
                "/apis/discovery.k8s.io/v1/endpointslices?watch=true&allowWatchBookmarks=true&timeoutSeconds=300\
                 &sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                 &labelSelector=managed-by%20in%20%28a.k8s.io%2C%20b%29",
                PROTOBUF_STREAM,
            ),
            (
                request::<Service>(
                    &Ask::Watch {
                        version: "77".to_owned(),
                    },
                    &Selection::everything().fields("metadata.name=a"),
                    301,
                ),
                "/api/v1/services?watch=true&allowWatchBookmarks=true&timeoutSeconds=301&resourceVersion=77\
                 &fieldSelector=metadata.name%3Da",
                PROTOBUF_STREAM,
            ),
            (
                request::<Service>(&Ask::List, &Selection::everything(), 300),
                "/api/v1/services",
                PROTOBUF,
            ),
            (
                request::<Service>(&Ask::List, &Selection::everything().labels("a"), 300),
                "/api/v1/services?labelSelector=a",
                PROTOBUF,
            ),
            (
                request::<Service>(&Ask::Page { next: String::new() }, &Selection::everything(), 300),
                "/api/v1/services?limit=500",
                PROTOBUF,
            ),
            (
                request::<Service>(
                    &Ask::Page {
                        next: "a/b=".to_owned(),
                    },
                    &Selection::everything(),
                    300,
                ),
                "/api/v1/services?limit=500&continue=a%2Fb%3D",
                PROTOBUF,
            ),
        ] {
            let request = request.unwrap();
            assert_eq!(request.uri().to_string(), path);
            assert_eq!(request.headers()[ACCEPT], accept);
            assert!(request.headers().get(ACCEPT_ENCODING).is_none(), "nobody asked");
        }
    }

    #[test]
    fn compressed_answers_are_asked_for_where_the_network_is_between() {
        let asked = request::<Service>(&Ask::StreamList, &Selection::everything().compressed(), 300).unwrap();
        assert_eq!(asked.headers()[ACCEPT_ENCODING], GZIP);
    }
}
