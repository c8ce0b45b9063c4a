// SPDX-License-Identifier: Apache-2.0
//! One logical API server behind several addresses: stays with the one that works, moves on when a
//! connection fails. An HTTP answer, whatever its status, is an answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use kube::client::Body;
use tokio::time::Instant;
use tower::{BoxError, Service};

/// On a LAN a handshake takes milliseconds; a dead host is given up after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A watch is silent for minutes: only TCP can tell an idle server from a dead one. Go's default, so that watches cost no
/// more bytes than those of upstream's clients; a dead server is noticed after this and one interval.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// How long written bytes may stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482).
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// A call abandoned by its caller after this long says something about the server.
const ABANDONED_AFTER: Duration = Duration::from_secs(2);

/// The TCP side of every connection.
pub(super) fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    connector
}

/// Limits on one attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// For the whole answer; for a watch, for its first byte.
    pub(super) request: Duration,
}

/// Why no server answered.
#[derive(Debug)]
pub(super) enum FailoverError {
    /// No server could be connected to; one cause per server, in the order tried.
    Unreachable(Vec<(Uri, BoxError)>),
    /// The connection broke after the request was sent: it may have been carried out.
    Broken { server: Uri, source: BoxError },
    /// Connected, but no complete answer in time: it may have been carried out.
    Timeout { server: Uri, after: Duration },
}

impl fmt::Display for FailoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(causes) => {
                for (n, (server, cause)) in causes.iter().enumerate() {
                    let separator = if n == 0 { "" } else { "; " };
                    write!(
                        f,
                        "{separator}{}: {}",
                        super::server_text(server),
                        super::error::reason(cause.as_ref())
                    )?;
                }
                Ok(())
            }
            Self::Broken { server, source } => {
                write!(
                    f,
                    "{}: {}",
                    super::server_text(server),
                    super::error::reason(source.as_ref())
                )
            }
            Self::Timeout { server, after } => {
                write!(f, "{}: no answer within {after:?}", super::server_text(server))
            }
        }
    }
}

impl std::error::Error for FailoverError {}

/// The tower service under kube's client.
#[derive(Clone, Debug)]
pub(super) struct Failover<S> {
    inner: S,
    servers: Arc<[Uri]>,
    current: Arc<AtomicUsize>,
    timeouts: Timeouts,
}

impl<S> Failover<S> {
    pub(super) fn new(inner: S, servers: Vec<Uri>, timeouts: Timeouts) -> Self {
        Self {
            inner,
            servers: servers.into(),
            current: Arc::default(),
            timeouts,
        }
    }
}

type Answer = Response<Either<Incoming, Full<Bytes>>>;

enum Failure {
    /// The request never left: another server may take it.
    Unsent(BoxError),
    Sent(BoxError),
    Timeout,
}

/// Moves on from a server when a call to it is dropped by a caller that lost patience, since the
/// caller's own deadline may be shorter than ours.
struct Abandoned<'a> {
    current: &'a AtomicUsize,
    index: usize,
    servers: &'a [Uri],
    since: Instant,
    armed: bool,
}

impl Abandoned<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if self.armed && self.since.elapsed() >= ABANDONED_AFTER {
            leave(self.current, self.index, self.servers);
        }
    }
}

/// Moves on from `index`, unless somebody else already did.
fn leave(current: &AtomicUsize, index: usize, servers: &[Uri]) {
    let next = (index + 1) % servers.len();
    if next != index
        && current
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    {
        let (from, to) = (&servers[index], &servers[next]);
        tracing::warn!(%from, %to, "moving to the next API server address");
    }
}

impl<S> Failover<S>
where
    S: Service<Request<Body>, Response = Response<Incoming>, Error = legacy::Error> + Send,
    S::Future: Send,
{
    async fn send(mut self, request: Request<Body>) -> Result<Answer, FailoverError> {
        let (parts, body) = request.into_parts();
        let servers = self.servers.clone();
        let start = self.current.load(Ordering::Relaxed);
        let mut causes = Vec::new();
        for step in 0..servers.len() {
            let index = (start + step) % servers.len();
            let server = &servers[index];
            let mut copy = Request::from_parts(parts.clone(), body.try_clone().unwrap_or_else(Body::empty));
            *copy.uri_mut() = address(server, &parts.uri);
            let guard = Abandoned {
                current: &self.current.clone(),
                index,
                servers: &servers,
                since: Instant::now(),
                armed: true,
            };
            let outcome = self.attempt(copy).await;
            guard.disarm();
            match outcome {
                Ok(answer) => {
                    if step > 0 {
                        self.current.store(index, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err(Failure::Unsent(cause)) => {
                    tracing::debug!(server = %server, %cause, "cannot connect");
                    leave(&self.current, index, &servers);
                    causes.push((server.clone(), cause));
                }
                Err(failure) => {
                    leave(&self.current, index, &servers);
                    let last = step + 1 == servers.len();
                    match sent(server, failure, self.timeouts.request) {
                        // A read can be asked again elsewhere; a write may have been carried out.
                        error if parts.method != Method::GET || last => return Err(error),
                        error => causes.push((server.clone(), Box::new(error))),
                    }
                }
            }
        }
        Err(FailoverError::Unreachable(causes))
    }

    async fn attempt(&mut self, request: Request<Body>) -> Result<Answer, Failure> {
        let watch = is_watch(request.uri());
        let answer = async {
            let response = self.inner.call(request).await.map_err(|error| {
                if error.is_connect() {
                    Failure::Unsent(error.into())
                } else {
                    Failure::Sent(error.into())
                }
            })?;
            if watch {
                return Ok(response.map(Either::Left));
            }
            let (head, body) = response.into_parts();
            let whole = body
                .collect()
                .await
                .map_err(|error| Failure::Sent(error.into()))?;
            Ok(Response::from_parts(
                head,
                Either::Right(Full::new(whole.to_bytes())),
            ))
        };
        tokio::time::timeout(self.timeouts.request, answer)
            .await
            .unwrap_or(Err(Failure::Timeout))
    }
}

fn sent(server: &Uri, failure: Failure, after: Duration) -> FailoverError {
    let server = server.clone();
    match failure {
        Failure::Timeout => FailoverError::Timeout { server, after },
        Failure::Unsent(source) | Failure::Sent(source) => FailoverError::Broken { server, source },
    }
}

impl<S> Service<Request<Body>> for Failover<S>
where
    S: Service<Request<Body>, Response = Response<Incoming>, Error = legacy::Error> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.send(request).await.map_err(Into::into) })
    }
}

/// The request's path and query at a server.
fn address(server: &Uri, request: &Uri) -> Uri {
    let mut parts = server.clone().into_parts();
    let base = server.path().trim_end_matches('/');
    let wanted = request.path_and_query().map_or("/", |path| path.as_str());
    parts.path_and_query = format!("{base}{wanted}").parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| server.clone())
}

/// Whether the answer is an endless stream.
fn is_watch(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| {
        query
            .split('&')
            .any(|part| part == "watch=true" || part == "watch=1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_path_and_query_and_the_servers_prefix() {
        let request: Uri = "/api/v1/services?limit=500&watch=true".parse().unwrap();
        for (server, expected) in [
            (
                "https://10.77.0.1:6443",
                "https://10.77.0.1:6443/api/v1/services?limit=500&watch=true",
            ),
            (
                "https://[fd00:77::1]:6443/",
                "https://[fd00:77::1]:6443/api/v1/services?limit=500&watch=true",
            ),
            (
                "https://front/k8s/c1",
                "https://front/k8s/c1/api/v1/services?limit=500&watch=true",
            ),
        ] {
            assert_eq!(address(&server.parse().unwrap(), &request).to_string(), expected);
        }
    }

    #[test]
    fn only_a_watch_is_exempt_from_the_request_timeout() {
        for (uri, expected) in [
            ("/api/v1/pods?watch=true", true),
            ("/api/v1/pods?limit=5&watch=true&x=y", true),
            ("/api/v1/pods", false),
            ("/api/v1/namespaces/a/configmaps/watch=true", false),
            ("/api/v1/pods?labelSelector=watch%3Dtrue", false),
        ] {
            assert_eq!(is_watch(&uri.parse().unwrap()), expected, "{uri}");
        }
    }
}
