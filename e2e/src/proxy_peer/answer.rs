// SPDX-License-Identifier: Apache-2.0
//! Endpoints that really listen, and clients that say what became of a packet.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_testkit::netns::Netns;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::task::JoinSet;

use super::world::{Site, World};

/// What Pods listen on, TCP and UDP.
pub const TARGETS: [u16; 2] = [8_080, 8_081];
/// A client that got nothing by then was dropped: TCP has sent its SYN three times.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// A datagram may be lost on a busy machine; sent again it belongs to the same flow.
const AGAIN: Duration = Duration::from_millis(1_200);

/// Layer 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// A connection with a question and an answer.
    Tcp,
    /// A datagram each way.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// What an endpoint saw as the source of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The client's own address.
    Kept,
    /// Another one.
    Rewritten(IpAddr),
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// An endpoint answered: `NAME:PORT`.
    Answered(String, Source),
    /// A reset, or ICMP port unreachable.
    Refused,
    /// Nothing at all.
    Dropped,
    /// ICMP net unreachable: it was sent on as it was, to a router that knows no way.
    Untouched,
    /// What no proxy should do.
    Other(String),
}

impl Outcome {
    /// Whether an endpoint answered.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Answered(..) => true,
            Self::Refused | Self::Dropped | Self::Untouched | Self::Other(_) => false,
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => Self::Refused,
            Some(Errno::ENETUNREACH) => Self::Untouched,
            Some(Errno::ETIMEDOUT) => Self::Dropped,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(endpoint, Source::Kept) => write!(f, "{endpoint}"),
            Self::Answered(endpoint, Source::Rewritten(source)) => write!(f, "{endpoint} (from {source})"),
            Self::Refused => f.write_str("refused"),
            Self::Dropped => f.write_str("dropped"),
            Self::Untouched => f.write_str("untouched"),
            Self::Other(what) => write!(f, "{what}"),
        }
    }
}

/// Every outcome of equal packets.
pub type Outcomes = BTreeSet<Outcome>;

/// Sockets of all endpoints of a world, answering until dropped.
pub struct Endpoints(#[expect(dead_code, reason = "its end is what counts")] JoinSet<()>);

impl Endpoints {
    /// Listens everywhere, in both families.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn listen(world: &World) -> Result<Self> {
        let mut tasks = JoinSet::new();
        for site in Site::ALL {
            for (port, ipv6) in TARGETS.into_iter().flat_map(|port| [(port, false), (port, true)]) {
                let address = SocketAddr::new(site.address().of(ipv6), port);
                let name = format!("{}:{port}", site.name());
                let open = || -> io::Result<_> {
                    Ok((
                        std::net::TcpListener::bind(address)?,
                        std::net::UdpSocket::bind(address)?,
                    ))
                };
                let (tcp, udp) = world
                    .site(site)
                    .run(open)?
                    .with_context(|| format!("{name} {address}"))?;
                tcp.set_nonblocking(true)?;
                udp.set_nonblocking(true)?;
                tasks.spawn(connections(TcpListener::from_std(tcp)?, name.clone()));
                tasks.spawn(datagrams(UdpSocket::from_std(udp)?, name));
            }
        }
        Ok(Self(tasks))
    }
}

async fn connections(listener: TcpListener, name: String) {
    loop {
        let Ok((mut stream, client)) = listener.accept().await else {
            // Out of descriptors: connections that end give some back.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let line = format!("{name} {}", client.ip());
        tokio::spawn(async move {
            let _gone = stream.write_all(line.as_bytes()).await;
        });
    }
}

async fn datagrams(socket: UdpSocket, name: String) {
    let mut question = [0; 64];
    loop {
        // An error here is an earlier answer's ICMP message.
        if let Ok((_, client)) = socket.recv_from(&mut question).await {
            let _gone = socket
                .send_to(format!("{name} {}", client.ip()).as_bytes(), client)
                .await;
        }
    }
}

/// A client's socket, made in the namespace that it is to be in for ever; it may be used from any thread.
pub enum Client {
    /// Not connected yet.
    Tcp(TcpSocket),
    /// Bound to a port of its own.
    Udp(UdpSocket),
}

/// Opens clients in a namespace.
///
/// # Errors
/// The kernel refuses.
pub fn clients(
    netns: &Netns,
    protocol: Protocol,
    from: Option<IpAddr>,
    ipv6: bool,
    count: usize,
) -> Result<Vec<Client>> {
    let open = || (0..count).map(|_| socket(protocol, from, ipv6)).collect();
    let sockets: io::Result<Vec<Socket>> = netns.run(open)?;
    sockets?
        .into_iter()
        .map(|socket| {
            Ok(match protocol {
                Protocol::Tcp => Client::Tcp(TcpSocket::from_std_stream(socket.into())),
                Protocol::Udp => Client::Udp(UdpSocket::from_std(socket.into())?),
            })
        })
        .collect()
}

fn socket(protocol: Protocol, from: Option<IpAddr>, ipv6: bool) -> io::Result<Socket> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(domain, kind, None)?;
    socket.set_nonblocking(true)?;
    let any: IpAddr = if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    match (protocol, from) {
        (Protocol::Tcp, None) => {}
        (Protocol::Tcp, Some(from)) => socket.bind(&SocketAddr::new(from, 0).into())?,
        (Protocol::Udp, from) => bind_fresh(&socket, from.unwrap_or(any))?,
    }
    if protocol == Protocol::Udp {
        // Without it a datagram socket hears of port unreachable only.
        let heard = if ipv6 {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
        } else {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)
        };
        heard?;
    }
    Ok(socket)
}

/// Binds to a port that no client had before: conntrack remembers a flow for minutes, and who comes with its port is taken
/// for it.
fn bind_fresh(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 33_000;
    const COUNT: u16 = 32_000;
    loop {
        let port = FIRST + TAKEN.fetch_add(1, Ordering::Relaxed) % COUNT;
        match socket.bind(&SocketAddr::new(ip, port).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

impl Client {
    /// Sends one packet and says what became of it.
    pub async fn ask(self, to: SocketAddr) -> Outcome {
        self.ask_for(PATIENCE, to).await
    }

    /// The same with another time after which it was dropped.
    pub async fn ask_for(self, patience: Duration, to: SocketAddr) -> Outcome {
        let asked = async {
            match self {
                Self::Tcp(socket) => connect(socket, to).await,
                Self::Udp(socket) => exchange(&socket, to).await,
            }
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::of(&error),
            Err(_elapsed) => Outcome::Dropped,
        }
    }
}

async fn connect(socket: TcpSocket, to: SocketAddr) -> io::Result<Outcome> {
    let mut stream = socket.connect(to).await?;
    let own = stream.local_addr()?.ip();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(parse(&answer, own))
}

async fn exchange(socket: &UdpSocket, to: SocketAddr) -> io::Result<Outcome> {
    socket.connect(to).await?;
    let own = socket.local_addr()?.ip();
    let mut answer = [0; 128];
    loop {
        match socket.send(b"who").await {
            // A rule of the output hook dropped it; whether it also refused it, comes by ICMP.
            Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {}
            sent => {
                sent?;
            }
        }
        if let Ok(received) = tokio::time::timeout(AGAIN, socket.recv(&mut answer)).await {
            let length = received?;
            return Ok(parse(&String::from_utf8_lossy(&answer[..length]), own));
        }
    }
}

fn parse(answer: &str, own: IpAddr) -> Outcome {
    let mut words = answer.split_whitespace();
    let seen = words.next().zip(words.next().and_then(|seen| seen.parse().ok()));
    match seen {
        Some((name, seen)) if seen == own => Outcome::Answered(name.to_owned(), Source::Kept),
        Some((name, seen)) => Outcome::Answered(name.to_owned(), Source::Rewritten(seen)),
        None => Outcome::Other(format!("answer {answer:?}")),
    }
}
