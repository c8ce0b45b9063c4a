// SPDX-License-Identifier: Apache-2.0
//! The admin port: `/healthz`, `/livez`, `/readyz`, `/metrics`. Read-only, no secrets.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::exit::{Code, ExitError};
use crate::metrics::Metrics;
use crate::ready::Readiness;

/// A client that sends no request for this long is cut off, so that idle connections cannot pile up.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {address}: {source}; choose another address with {flag} (another Berth process may hold it)")]
pub struct AdminError {
    flag: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl From<AdminError> for ExitError {
    fn from(error: AdminError) -> Self {
        Self::new(Code::Usage, error)
    }
}

/// The admin port, bound but not yet served.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds the address; `flag` is the flag it came from, for the error.
    ///
    /// # Errors
    /// Where the address is taken or not ours.
    pub async fn bind(flag: &'static str, address: SocketAddr) -> Result<Self, AdminError> {
        let failed = |source| AdminError {
            flag,
            address,
            source,
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address bound: differs from the one asked for where that had port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled.
    pub async fn serve(self, readiness: Readiness, metrics: Metrics, stop: CancellationToken) {
        tracing::info!(address = %self.address, "admin port");
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, most likely: give others time to close theirs.
                        tracing::warn!(%error, "admin port cannot accept");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                },
            };
            tokio::spawn(connection(
                stream,
                readiness.clone(),
                metrics.clone(),
                stop.clone(),
            ));
        }
    }
}

async fn connection(stream: TcpStream, readiness: Readiness, metrics: Metrics, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &readiness, &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = stop.cancelled() => {}
        outcome = served => if let Err(error) = outcome {
            tracing::debug!(%error, "admin connection ended");
        }
    }
}

/// The answer to one request.
fn answer(method: &Method, path: &str, readiness: &Readiness, metrics: &Metrics) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match path {
        "/healthz" | "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if readiness.is_ready() => text(StatusCode::OK, readiness.report()),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, readiness.report()),
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics.render());
            response.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static(crate::metrics::text::CONTENT_TYPE),
            );
            response
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "not found; there are /healthz, /livez, /readyz and /metrics\n".to_owned(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn each_path_answers_over_http() {
        let admin = Admin::bind("--admin-address", ([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
        let address = admin.address();
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        let synced = readiness.register("services-listed");
        let server = tokio::spawn(admin.serve(readiness, Metrics::new("controllers", "0.1.0"), stop.clone()));

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let before = get(address, "/readyz").await;
        assert!(before.starts_with("HTTP/1.1 503"), "{before}");
        assert!(before.contains("[-]services-listed missing"), "{before}");
        synced.set();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("berth_build_info"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_names_flag_and_address() {
        let first = Admin::bind("--admin-address", ([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
        let error = Admin::bind("--admin-address", first.address()).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("--admin-address") && text.contains(&first.address().to_string()),
            "{text}"
        );
    }
}
