// SPDX-License-Identifier: Apache-2.0
//! The admin port: `/healthz`, `/livez`, `/readyz`, `/metrics`. Read-only, no secrets.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::exit::{Code, ExitError};
use crate::metrics::Metrics;
use crate::ready::Readiness;
use crate::serve::{self, Answer};

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
        let answer = move |method: &str, path: &str| answer(method, path, &readiness, &metrics);
        serve::serve(self.listener, "admin", stop, answer).await;
    }
}

/// The answer to one request.
fn answer(method: &str, path: &str, readiness: &Readiness, metrics: &Metrics) -> Answer {
    if !matches!(method, "GET" | "HEAD") {
        return Answer::text(405, "only GET\n");
    }
    match path {
        "/healthz" | "/livez" => Answer::text(200, "ok\n"),
        "/readyz" if readiness.is_ready() => Answer::text(200, readiness.report()),
        "/readyz" => Answer::text(503, readiness.report()),
        "/metrics" => Answer {
            content_type: crate::metrics::text::CONTENT_TYPE,
            ..Answer::text(200, metrics.render())
        },
        _ => Answer::text(
            404,
            "not found; there are /healthz, /livez, /readyz and /metrics\n",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

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
