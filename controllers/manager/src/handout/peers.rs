// SPDX-License-Identifier: Apache-2.0
//! Connections between replicas. Each is one task, and whatever it has to say is news to the shell.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use berth_controllers_core::holder::ReplicaId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::wire::{Hello, VERSION, Wire, encode};

/// From the first packet to both ends knowing each other: less than a holder may be silent.
const HANDSHAKE: Duration = Duration::from_secs(1);
/// How long a peer's kernel may leave packets unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);
/// Messages that wait for a peer that does not read: more, and it is cut off.
const BACKLOG: usize = 16_384;
/// How long to wait when nothing can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How a connection is made safe, and its other end known for a replica of this cluster.
pub trait Secure: Send + Sync + 'static {
    /// What comes of a connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// On the side that called.
    fn client(&self, tcp: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// On the side that was called.
    fn server(&self, tcp: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// One connection, from the shell's side: dropping it closes it.
pub(super) struct Link<M> {
    /// Tells connections with one peer apart.
    pub(super) number: u64,
    outgoing: mpsc::Sender<M>,
}

impl<M> Link<M> {
    /// Whether the message is on its way; if not, the connection is of no use any more.
    pub(super) fn send(&self, message: M) -> bool {
        self.outgoing.try_send(message).is_ok()
    }
}

/// What connections have to say.
pub(super) enum News<M> {
    /// A peer has called.
    Accepted { peer: ReplicaId, link: Link<M> },
    /// The call of this number was answered.
    Dialled { peer: ReplicaId, link: Link<M> },
    /// The call of this number came to nothing.
    NotReached {
        peer: ReplicaId,
        number: u64,
        refused: bool,
    },
    /// A message.
    Received {
        peer: ReplicaId,
        number: u64,
        message: M,
    },
    /// It is over.
    Closed { peer: ReplicaId, number: u64 },
}

/// What every connection needs.
pub(super) struct Peers<S, M> {
    pub(super) own: Hello,
    pub(super) secure: Arc<S>,
    pub(super) news: mpsc::Sender<News<M>>,
}

impl<S, M> Clone for Peers<S, M> {
    fn clone(&self) -> Self {
        Self {
            own: self.own.clone(),
            secure: Arc::clone(&self.secure),
            news: self.news.clone(),
        }
    }
}

impl<S, M> Peers<S, M>
where
    S: Secure,
    M: Serialize + DeserializeOwned + Send + 'static,
{
    /// Takes calls until it is dropped. Connections that were accepted end with it. Their numbers are odd, those of calls even.
    pub(super) async fn accept(self, listener: TcpListener) {
        let mut connections = tokio::task::JoinSet::new();
        let mut number = 1;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((tcp, from)) => {
                    number += 2;
                    let peers = self.clone();
                    connections.spawn(async move {
                        if let Err(error) = peers.answer(tcp, number).await {
                            tracing::debug!(%from, %error, "a replica's call came to nothing");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection of another replica can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn answer(self, tcp: TcpStream, number: u64) -> io::Result<()> {
        let meet = async {
            prepare(&tcp)?;
            let mut wire = Wire::new(self.secure.server(tcp).await?);
            let hello: Hello = wire.receive().await?;
            // Whoever is not of our kind learns from the answer why nothing comes of it.
            wire.send(encode(&self.own)?).await?;
            Ok::<_, io::Error>((wire, hello))
        };
        let (wire, hello) = tokio::time::timeout(HANDSHAKE, meet).await??;
        self.check(&hello)?;
        let (link, outgoing) = link(number);
        let peer = hello.id;
        let accepted = News::Accepted {
            peer: peer.clone(),
            link,
        };
        self.run(wire, peer, number, accepted, outgoing).await;
        Ok(())
    }

    /// Calls a replica.
    pub(super) async fn dial(self, peer: ReplicaId, address: String, number: u64) {
        let outcome = tokio::time::timeout(HANDSHAKE, self.meet(&peer, &address)).await;
        let (error, refused) = match outcome {
            Ok(Ok(wire)) => {
                let (link, outgoing) = link(number);
                let dialled = News::Dialled {
                    peer: peer.clone(),
                    link,
                };
                return self.run(wire, peer, number, dialled, outgoing).await;
            }
            Ok(Err(Unmet::Io(error))) => {
                let refused = error.kind() == io::ErrorKind::ConnectionRefused;
                (error.to_string(), refused)
            }
            // Its process is over, or another would not have its address.
            Ok(Err(Unmet::Another(id))) => (format!("{id} answers there"), true),
            Err(_) => (format!("no answer within {HANDSHAKE:?}"), false),
        };
        tracing::info!(replica = %peer, address, error, "cannot be reached");
        let lost = News::NotReached {
            peer,
            number,
            refused,
        };
        // A shell that has ended needs no news.
        let _ended = self.news.send(lost).await;
    }

    async fn meet(&self, peer: &ReplicaId, address: &str) -> Result<Wire<S::Stream>, Unmet> {
        let tcp = TcpStream::connect(address).await?;
        prepare(&tcp)?;
        let mut wire = Wire::new(self.secure.client(tcp).await?);
        wire.send(encode(&self.own)?).await?;
        let hello: Hello = wire.receive().await?;
        self.check(&hello)?;
        if hello.id == *peer {
            Ok(wire)
        } else {
            Err(Unmet::Another(hello.id))
        }
    }

    fn check(&self, hello: &Hello) -> io::Result<()> {
        if hello.version != VERSION {
            return Err(io::Error::other(format!(
                "replica {} speaks version {} of the protocol, this one {VERSION}; run the same release everywhere",
                hello.id, hello.version
            )));
        }
        if hello.lease != self.own.lease {
            return Err(io::Error::other(format!(
                "replica {} follows Lease {}, this one {}",
                hello.id, hello.lease, self.own.lease
            )));
        }
        Ok(())
    }

    /// Carries messages both ways until one end has enough.
    async fn run(
        self,
        mut wire: Wire<S::Stream>,
        peer: ReplicaId,
        number: u64,
        first: News<M>,
        mut outgoing: mpsc::Receiver<M>,
    ) {
        if self.news.send(first).await.is_err() {
            return;
        }
        loop {
            let received = tokio::select! {
                message = outgoing.recv() => match message {
                    Some(message) => {
                        if write(&mut wire, message, &mut outgoing).await.is_err() {
                            break;
                        }
                        continue;
                    }
                    None => return,
                },
                received = wire.receive() => received,
            };
            let Ok(message) = received else {
                break;
            };
            let received = News::Received {
                peer: peer.clone(),
                number,
                message,
            };
            if self.news.send(received).await.is_err() {
                return;
            }
        }
        // A shell that has ended needs no news.
        let _ended = self.news.send(News::Closed { peer, number }).await;
    }
}

/// Writes a message and all that wait behind it, in as few packets as they fit in.
async fn write<S, M>(wire: &mut Wire<S>, first: M, more: &mut mpsc::Receiver<M>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    M: Serialize,
{
    wire.feed(encode(&first)?).await?;
    while let Ok(message) = more.try_recv() {
        wire.feed(encode(&message)?).await?;
    }
    wire.flush().await
}

/// Small messages leave at once, and a peer whose machine is gone is not waited for (RFC 5482).
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    SockRef::from(tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

fn link<M>(number: u64) -> (Link<M>, mpsc::Receiver<M>) {
    let (outgoing, messages) = mpsc::channel(BACKLOG);
    (Link { number, outgoing }, messages)
}

/// A call that is made: dropping it gives it up, and whatever connection came of it.
pub(super) type Call = AbortOnDropHandle<()>;

/// Why a call came to nothing.
enum Unmet {
    Io(io::Error),
    /// Another replica answered.
    Another(ReplicaId),
}

impl From<io::Error> for Unmet {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
