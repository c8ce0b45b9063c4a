// SPDX-License-Identifier: Apache-2.0
//! UDP relays: each client has a socket of its own towards its endpoint, as long as it says something.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_proxy_core::Target;
use berth_proxy_core::userspace::{Recent, RelayIntent};
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::pipe::with_scratch;
use super::relay::{Pool, Refusal};

/// How long a client's socket stays without a datagram in either direction: for a question and its answer, and for
/// a conversation. Linux' `nf_conntrack_udp_timeout` and `nf_conntrack_udp_timeout_stream`, which decide in the other
/// modes.
const QUESTION: Duration = Duration::from_secs(30);
const CONVERSATION: Duration = Duration::from_secs(120);

/// Datagrams that are passed on in one go, before others have their turn.
const BATCH: usize = 64;

/// A client's socket.
#[derive(Debug)]
struct Flow {
    target: Target,
    backend: Arc<UdpSocket>,
    answers: AbortHandle,
    /// Datagrams of the client, as far as it matters.
    asked: u32,
    answered: bool,
}

impl Flow {
    fn patience(&self) -> Duration {
        if self.answered && self.asked > 1 {
            CONVERSATION
        } else {
            QUESTION
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

/// One relay.
#[derive(Debug)]
pub(super) struct UdpRelay {
    socket: UdpSocket,
    pool: Arc<Pool>,
    flows: Mutex<Recent<SocketAddr, Flow>>,
}

impl UdpRelay {
    /// Listens, for at most so many clients. To be called within a tokio runtime.
    ///
    /// # Errors
    /// The address is taken, or not there.
    pub(super) fn listen(at: SocketAddr, pool: Arc<Pool>, clients: usize) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            pool,
            flows: Mutex::new(Recent::new(clients)),
        })
    }

    /// Where it listens.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Moves the flows whose endpoint serves no more: with their next datagram they get another one.
    pub(super) fn update(&self, wish: &RelayIntent) {
        self.pool.update(wish);
        let stays = |target: &Target| wish.serving.contains(target) || wish.targets.contains(target);
        let moved = self.flows().extract(|_, flow| !stays(&flow.target));
        if !moved.is_empty() {
            tracing::debug!(flows = moved.len(), "UDP flows move on");
        }
    }

    fn flows(&self) -> MutexGuard<'_, Recent<SocketAddr, Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes datagrams on until told to stop. All clients lose their sockets then.
    pub(super) async fn serve(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                ready = self.socket.readable() => if let Err(error) = ready {
                    tracing::error!(%error, "UDP relay ends");
                    break;
                },
            }
            self.ask();
            tokio::task::yield_now().await;
        }
        self.flows().extract(|_, _| true);
    }

    /// Passes on what clients sent.
    fn ask(self: &Arc<Self>) {
        with_scratch(|buffer| {
            for _ in 0..BATCH {
                match self.socket.try_recv_from(buffer) {
                    Ok((length, client)) => self.forward(client, buffer.get(..length).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    // An ICMP error about an answer: that client is gone.
                    Err(_) => {}
                }
            }
        });
    }

    /// Sends a client's datagram to its endpoint. If that refused an earlier one, which shows now, to the next.
    fn forward(self: &Arc<Self>, client: SocketAddr, datagram: &[u8]) {
        let common = &self.pool.common;
        for _ in 0..2 {
            let known = {
                let mut flows = self.flows();
                flows.touch(&client, common.now()).map(|flow| {
                    flow.asked = flow.asked.saturating_add(1);
                    (Arc::clone(&flow.backend), flow.target)
                })
            };
            let Some((backend, target)) = known.or_else(|| self.open(client)) else {
                return common.count(Refusal::NotSent);
            };
            match send(&backend, datagram) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.refused(client, target)
                }
                Err(error) => {
                    tracing::debug!(%client, %target, %error, "datagram dropped");
                    break;
                }
            }
        }
        common.count(Refusal::NotSent);
    }

    fn refused(&self, client: SocketAddr, target: Target) {
        tracing::debug!(%client, %target, "endpoint refused a datagram");
        self.pool.refused(target);
        let mut flows = self.flows();
        if flows.get(&client).is_some_and(|flow| flow.target == target) {
            flows.remove(&client);
        }
    }

    /// A socket for a new client.
    fn open(self: &Arc<Self>, client: SocketAddr) -> Option<(Arc<UdpSocket>, Target)> {
        let target = self.pool.pick(client.ip().to_canonical())?;
        let backend = connect(target, self.pool.common.mark).or_else(|error| {
            tracing::debug!(%error, "no socket for a client; the oldest one has to go");
            let oldest = self.flows().pop_oldest();
            oldest.inspect(|_| self.pool.common.count(Refusal::Evicted));
            connect(target, self.pool.common.mark)
        });
        let backend = Arc::new(
            backend
                .inspect_err(|error| tracing::warn!(%target, %error, "no socket towards an endpoint"))
                .ok()?,
        );
        let answers = tokio::spawn(Arc::clone(self).answers(client, target, Arc::clone(&backend)));
        let flow = Flow {
            target,
            backend: Arc::clone(&backend),
            answers: answers.abort_handle(),
            asked: 1,
            answered: false,
        };
        let displaced = self.flows().insert(client, flow, self.pool.common.now());
        if displaced.is_some_and(|(other, _)| other != client) {
            self.pool.common.count(Refusal::Evicted);
        }
        Some((backend, target))
    }

    /// Passes an endpoint's answers on, until nothing was said for long enough.
    async fn answers(self: Arc<Self>, client: SocketAddr, target: Target, backend: Arc<UdpSocket>) {
        let mut wait = QUESTION;
        loop {
            tokio::select! {
                ready = backend.readable() => {
                    if ready.is_err() || self.answer(client, &backend).is_err() {
                        return self.refused(client, target);
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
            let now = self.pool.common.now();
            let mut flows = self.flows();
            let (Some(flow), Some(used)) = (flows.get(&client), flows.last_use(&client)) else {
                return;
            };
            if !Arc::ptr_eq(&flow.backend, &backend) {
                return;
            }
            let end = used + flow.patience();
            if end <= now {
                flows.remove(&client);
                return;
            }
            wait = end - now;
        }
    }

    /// Passes on what there is of answers.
    fn answer(&self, client: SocketAddr, backend: &UdpSocket) -> io::Result<()> {
        let mut answered = false;
        let outcome = with_scratch(|buffer| {
            for _ in 0..BATCH {
                match backend.try_recv(buffer) {
                    Ok(length) => {
                        answered = true;
                        let sent = self
                            .socket
                            .try_send_to(buffer.get(..length).unwrap_or_default(), client);
                        if sent.is_err() {
                            self.pool.common.count(Refusal::NotSent);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        if answered {
            let now = self.pool.common.now();
            if let Some(flow) = self.flows().touch(&client, now) {
                flow.answered = true;
            }
        }
        outcome
    }
}

/// Sends at once or not at all. (What tokio knows of a new socket is that it is not known to be writable.)
fn send(socket: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    nix::sys::socket::send(socket.as_raw_fd(), datagram, flags)?;
    Ok(())
}

/// A socket that talks to this endpoint only.
fn connect(target: Target, mark: u32) -> io::Result<UdpSocket> {
    let any: IpAddr = match target.ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    setsockopt(&socket, sockopt::Mark, &mark)?;
    socket.connect((target.ip, target.port.get()))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
