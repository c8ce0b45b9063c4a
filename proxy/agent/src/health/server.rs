// SPDX-License-Identifier: Apache-2.0
//! The health port: `/healthz` and `/livez`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use berth_runtime::exit::{Code, ExitError};
use berth_runtime::serve::{self, Answer};
use k8s_openapi::jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::ProxyHealth;
use super::state::Probe;
use crate::options::{BindTo, Options};
use crate::upstream::Upstream;

/// How long to wait before a port that is taken is tried again (kube-proxy's `serveHealthz`).
const RETRY: Duration = Duration::from_secs(5);

/// Starts the health port, if there is to be one. One that is taken is tried again and again, since the
/// rules matter more than who may ask after them; with `--bind-address-hard-fail` it is an error.
///
/// # Errors
/// The address cannot be listened on, and that is to be an error.
pub(crate) fn serve(
    options: &Options,
    health: ProxyHealth,
    metrics: Upstream,
    stop: CancellationToken,
) -> Result<Option<JoinHandle<()>>, ExitError> {
    let address = match options.healthz {
        BindTo::Nowhere => return Ok(None),
        BindTo::Address(address) => address,
    };
    let first = serve::bind_both_families(address);
    if let (true, Err(error)) = (options.bind_address_hard_fail, &first) {
        let message =
            format!("--healthz-bind-address {address}: {error}; choose another address, or none (\"\")");
        return Err(ExitError::new(Code::Usage, message));
    }
    Ok(Some(tokio::spawn(async move {
        let listener = tokio::select! {
            () = stop.cancelled() => return,
            listener = listener(first, address) => listener,
        };
        tracing::info!(%address, "health port");
        let answer = move |method: &str, path: &str| answer(method, path, &health, &metrics);
        serve::serve(listener, "health", stop, answer).await;
    })))
}

async fn listener(first: std::io::Result<TcpListener>, address: SocketAddr) -> TcpListener {
    let mut outcome = first;
    let mut said = false;
    loop {
        match outcome {
            Ok(listener) => return listener,
            Err(error) => {
                if !said {
                    tracing::warn!(
                        %address,
                        %error,
                        "health port not open, trying again; choose another with --healthz-bind-address (kube-proxy may hold it)"
                    );
                    said = true;
                }
                tokio::time::sleep(RETRY).await;
                outcome = serve::bind_both_families(address);
            }
        }
    }
}

fn answer(method: &str, path: &str, health: &ProxyHealth, metrics: &Upstream) -> Answer {
    if !matches!(method, "GET" | "HEAD") {
        return Answer::text(405, "only GET\n");
    }
    let probe = match path {
        "/healthz" => Probe::Healthz,
        "/livez" => Probe::Livez,
        _ => return Answer::text(404, "not found; there are /healthz and /livez\n"),
    };
    let (status, json) = health.answer(probe, Instant::now(), Timestamp::now());
    match probe {
        Probe::Healthz => metrics.healthz(status),
        Probe::Livez => metrics.livez(status),
    }
    Answer::json(status, json)
}
