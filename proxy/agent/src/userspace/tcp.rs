// SPDX-License-Identifier: Apache-2.0
//! TCP relays: accept, find an endpoint that takes the connection, join the two.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use berth_proxy_core::Target;
use berth_runtime::backoff::Backoff;
use futures::FutureExt as _;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::relay::{Pool, Refusal};
use super::stream;

/// How long each dial waits: as many dials as there are numbers, of more and more patience. kube-proxy's
/// (`EndpointDialTimeouts` in its user-space proxier, until 1.25).
const DIALS: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// Connections that wait to be accepted; the kernel takes `net.core.somaxconn` for more.
const BACKLOG: u32 = 4_096;

/// What is waited when no connection can be accepted, because descriptors or memory are used up.
const ACCEPT_PAUSE: Backoff = Backoff {
    first: Duration::from_millis(10),
    cap: Duration::from_secs(1),
};

/// Listens. To be called within a tokio runtime.
///
/// # Errors
/// The address is taken, or not there.
pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket_for(at.ip())?;
    // A port whose last connections still linger may be taken again.
    socket.set_reuseaddr(true)?;
    // What is accepted inherits it.
    stream::tune(&socket)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

fn socket_for(ip: IpAddr) -> io::Result<TcpSocket> {
    match ip {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// Accepts connections until told to stop; those that the kernel had taken by then are accepted, too. All go on by
/// themselves.
pub(super) async fn serve(listener: TcpListener, pool: Arc<Pool>, stop: CancellationToken) {
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                failures = 0;
                // At the limit this listener waits with one connection in its hand, others in the kernel's queue.
                let permit = Arc::clone(&pool.common.connections).acquire_owned();
                tokio::select! {
                    () = stop.cancelled() => break,
                    permit = permit => start(client, peer, &pool, permit.ok()),
                }
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                failures += 1;
                let pause = ACCEPT_PAUSE.delay(failures);
                pool.common.count(Refusal::Exhausted);
                tracing::warn!(%error, ?pause, reason = Refusal::Exhausted.as_str(), "no connection accepted");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
    while let Some(Ok((client, peer))) = listener.accept().now_or_never() {
        let permit = Arc::clone(&pool.common.connections).try_acquire_owned();
        start(client, peer, &pool, permit.ok());
    }
}

/// Whether it is about one connection only: accept(2) says that Linux passes its pending network errors on.
fn is_the_clients(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

fn start(client: TcpStream, peer: SocketAddr, pool: &Arc<Pool>, permit: Option<OwnedSemaphorePermit>) {
    let Some(permit) = permit else {
        pool.common.count(Refusal::Exhausted);
        return stream::reset(client);
    };
    let pool = Arc::clone(pool);
    tokio::spawn(async move {
        match dial(&pool, peer.ip().to_canonical()).await {
            Ok(server) => {
                stream::join(client, server).await;
            }
            Err(refusal) => {
                pool.common.count(refusal);
                tracing::debug!(%peer, reason = refusal.as_str(), "connection refused");
                stream::reset(client);
            }
        }
        drop(permit);
    });
}

/// A connection to an endpoint. One that refuses or does not answer in time rests, and the next one is tried; when all
/// were tried, those again that only did not answer.
async fn dial(pool: &Pool, client: IpAddr) -> Result<TcpStream, Refusal> {
    let (mut tried, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let mut next = pool.pick(client);
    for patience in DIALS {
        let target = next.ok_or(Refusal::Unreachable)?;
        match tokio::time::timeout(patience, connect(target, pool.common.mark)).await {
            Ok(Ok(server)) => return Ok(server),
            Ok(Err(error)) if is_ours(&error) => {
                tracing::warn!(%target, %error, reason = Refusal::Exhausted.as_str(), "no connection made");
                return Err(Refusal::Exhausted);
            }
            Ok(Err(error)) => {
                tracing::debug!(%target, %error, "endpoint refused");
                refused.insert(target);
            }
            Err(_) => tracing::debug!(%target, ?patience, "endpoint does not answer"),
        }
        pool.refused(target);
        tried.insert(target);
        let (mut balancer, now) = pool.balancer();
        next = balancer.retry(client, &tried, now);
        if next.is_none() {
            tried.clone_from(&refused);
            next = balancer.retry(client, &tried, now);
        }
    }
    Err(Refusal::Unreachable)
}

/// Whether the endpoint has nothing to do with it.
fn is_ours(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
                | Errno::EADDRNOTAVAIL
                | Errno::EPERM
        )
    )
}

async fn connect(target: Target, mark: u32) -> io::Result<TcpStream> {
    let socket = socket_for(target.ip)?;
    setsockopt(&socket, sockopt::Mark, &mark)?;
    stream::tune(&socket)?;
    socket
        .connect(SocketAddr::new(target.ip, target.port.get()))
        .await
}
