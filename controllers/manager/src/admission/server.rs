// SPDX-License-Identifier: Apache-2.0
//! The HTTPS port of the webhook.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use berth_runtime::serve::Answer;
use http::{Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certificates::Credentials;
use super::chooser::Chooser;
use super::registration::PATH;
use super::webhook::Webhook;

#[cfg(test)]
mod tests;

/// An object of the most that etcd takes (1.5 MiB) twice, and half as much again for JSON's own spelling of it.
const LONGEST_BODY: usize = 5 * 1024 * 1024;
/// A client that does not end its handshake is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent. Go's clients keep idle ones for 90 s: closed earlier by us, one could be
/// closed under the request that a client is just sending, which it must not send again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long requests under way may take when the port closes: as long as an API server waits at most.
const DRAIN: Duration = Duration::from_secs(30);
/// How long to wait when nothing can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

type Shown = watch::Receiver<Option<Arc<Credentials>>>;

/// Serves `POST /mutate-services` and `GET /readyz` until `stop` is cancelled; then no connection is taken any more, and
/// what is under way is answered. Each connection is made with the credentials of its time, and stays.
pub async fn serve<C: Chooser>(
    listener: TcpListener,
    credentials: Shown,
    webhook: Webhook<C>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close theirs.
                    tracing::warn!(server = "admission", %error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let present = credentials.borrow().clone();
        // Before the first credentials there is nothing to show: the client sees a closed connection.
        if let Some(present) = present {
            connections.spawn(connection(stream, present, webhook.clone(), stop.clone()));
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!(server = "admission", "requests were cut off");
    }
}

async fn connection<C: Chooser>(
    stream: TcpStream,
    credentials: Arc<Credentials>,
    webhook: Webhook<C>,
    stop: CancellationToken,
) {
    // Small answers must not wait for a larger packet.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let handshake = TlsAcceptor::from(credentials.webhook()).accept(stream);
    let stream = tokio::select! {
        () = stop.cancelled() => return,
        made = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake) => match made {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(server = "admission", %error, "no TLS connection");
                return;
            }
            Err(_) => return,
        },
    };
    let service = service_fn(move |request| {
        let webhook = webhook.clone();
        async move { Ok::<_, Infallible>(Response::from(answer(request, &webhook).await)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(server = "admission", %error, "connection ended");
    }
}

async fn answer<C: Chooser>(request: Request<Incoming>, webhook: &Webhook<C>) -> Answer {
    let since = Instant::now();
    let (head, body) = request.into_parts();
    match (head.method.as_str(), head.uri.path()) {
        ("GET" | "HEAD", "/readyz") if webhook.is_ready() => Answer::text(200, "ok\n"),
        ("GET" | "HEAD", "/readyz") => Answer::text(503, "the cluster's Service ranges are not known yet\n"),
        ("POST", PATH) => {
            let deadline = webhook.deadline(since, timeout_of(head.uri.query()));
            match read(body, deadline).await {
                Ok(body) => match webhook.answer(&body, since, deadline).await {
                    Ok(json) => Answer::json(200, json),
                    Err(malformed) => Answer::text(400, format!("{malformed}\n")),
                },
                Err(answer) => {
                    webhook.malformed(since);
                    answer
                }
            }
        }
        (_, PATH) => Answer::text(405, "only POST\n").with("Allow", "POST"),
        (_, "/readyz") => Answer::text(405, "only GET\n").with("Allow", "GET, HEAD"),
        _ => Answer::text(404, format!("not found; there are {PATH} and /readyz\n")),
    }
}

/// What the API server says of its patience, as `timeout=5s`.
fn timeout_of(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("timeout="))
}

async fn read(body: Incoming, deadline: Instant) -> Result<Bytes, Answer> {
    let whole = Limited::new(body, LONGEST_BODY).collect();
    match tokio::time::timeout_at(deadline, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Answer::text(
            413,
            format!("the body is longer than {LONGEST_BODY} bytes\n"),
        )),
        Ok(Err(error)) => Err(Answer::text(400, format!("the body can't be read: {error}\n"))),
        Err(_) => Err(Answer::text(408, "the body did not arrive in time\n")),
    }
}
