// SPDX-License-Identifier: Apache-2.0
//! The UDP sockets of the heartbeat port: one for each family that the machine has.

use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::SpeakerError;

/// Heartbeats are short, but a process that was stopped finds many.
const RECEIVE_BUFFER: usize = 1 << 20;
/// More datagrams than the receive buffer holds: who sends faster than we read must not keep us here.
const MOST_WAITING: usize = 1 << 15;

/// The heartbeat port.
#[derive(Debug)]
pub(crate) struct HeartbeatSockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl HeartbeatSockets {
    /// Binds the port on all addresses.
    pub(crate) fn bind(port: u16) -> Result<Self, SpeakerError> {
        let v4 = bind_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        let v6 = bind_one(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        Ok(Self { v4, v6 })
    }

    /// Sends one datagram without waiting.
    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        socket.try_send_to(datagram, to).map(|_| ())
    }

    /// Waits until there may be something to receive.
    pub(crate) async fn readable(&self) {
        tokio::select! {
            () = one_readable(self.v4.as_ref()) => {}
            () = one_readable(self.v6.as_ref()) => {}
        }
    }

    /// Throws away what has arrived: nobody knows how long ago. Returns how many datagrams that were.
    pub(crate) fn discard(&self) -> usize {
        let sockets = [&self.v4, &self.v6].into_iter().flatten();
        sockets.map(discard_one).sum()
    }

    /// Takes what has arrived, at most `limit` datagrams of each family.
    pub(crate) fn drain(&self, limit: usize, mut take: impl FnMut(SocketAddr, &[u8])) {
        let mut buffer = [0; 2048];
        for socket in [&self.v4, &self.v6].into_iter().flatten() {
            for _ in 0..limit {
                match socket.try_recv_from(&mut buffer) {
                    Ok((length, from)) => take(from, &buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // A peer's host says that its port is closed: the next datagram may come from another.
                    Err(error) => tracing::trace!(%error, "heartbeat socket"),
                }
            }
        }
    }
}

/// Asks the kernel, not tokio, which may not have noticed yet that there is something to read.
fn discard_one(socket: &UdpSocket) -> usize {
    let socket = SockRef::from(socket);
    let mut discarded = 0;
    for _ in 0..MOST_WAITING {
        match (&*socket).read(&mut [0; 1]) {
            Ok(_) => discarded += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // It is used up by being read.
            Err(error) => tracing::trace!(%error, "heartbeat socket"),
        }
    }
    discarded
}

async fn one_readable(socket: Option<&UdpSocket>) {
    match socket {
        // An error here shows itself again when it is read.
        Some(socket) => drop(socket.readable().await),
        None => std::future::pending().await,
    }
}

/// `None` where the machine does not have the family.
fn bind_one(address: SocketAddr) -> Result<Option<UdpSocket>, SpeakerError> {
    let open = || -> io::Result<UdpSocket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.nonblocking(),
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.bind(&address.into())?;
        UdpSocket::from_std(socket.into())
    };
    match open() {
        Ok(socket) => Ok(Some(socket)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
            ) =>
        {
            Ok(None)
        }
        Err(source) if source.kind() == io::ErrorKind::AddrInUse => Err(SpeakerError::PortTaken {
            port: address.port(),
            address: address.to_string(),
            source,
        }),
        Err(source) => Err(SpeakerError::HeartbeatSocket {
            address: address.to_string(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waited_is_discarded_and_what_comes_later_is_not() {
        let sockets = HeartbeatSockets::bind(0).unwrap();
        let port = sockets.v4.as_ref().unwrap().local_addr().unwrap().port();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let say = |text: &[u8]| peer.send_to(text, ("127.0.0.1", port)).unwrap();
        for _ in 0..3 {
            say(b"stale");
        }
        let mut discarded = 0;
        while discarded < 3 {
            discarded += sockets.discard();
        }
        assert_eq!((discarded, sockets.discard()), (3, 0));
        say(b"fresh");
        let mut heard = Vec::new();
        while heard.is_empty() {
            sockets.readable().await;
            sockets.drain(8, |_, datagram| heard.push(datagram.to_vec()));
        }
        assert_eq!(heard, [b"fresh"]);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let first = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let error = HeartbeatSockets::bind(port).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("--heartbeat-port") && said.contains(&format!("0.0.0.0:{port}")),
            "{said}"
        );
        let exit = berth_runtime::exit::ExitError::from(error);
        assert_eq!(exit.code(), berth_runtime::exit::Code::Identity);
    }
}
