// SPDX-License-Identifier: Apache-2.0
//! A connection to a Service, and a packet of its endpoint's that conntrack cannot make sense of: it comes from far
//! beyond the client's window. Untranslated, it makes the client reset a connection that it does not know, and the reset
//! ends the endpoint's (kubernetes/kubernetes#74839). Whatever the backend.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Context;
use berth_testkit::netns::Netns;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::cluster::TARGET_PORT;
use crate::traffic::PATIENCE;

/// Not 0 where conntrack takes packets as they come, whatever the window.
pub(crate) const BE_LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";
/// Whoever is reset, is so long before.
const TALKS: usize = 50;
/// More than any window.
const FAR: u32 = 1 << 30;

/// Both ends of a connection, and what the endpoint's host sees of it.
pub(crate) struct Connection {
    client: TcpStream,
    endpoint: TcpStream,
    wire: OwnedFd,
}

/// What the client knows of the endpoint, as of a segment of its own.
struct Seen {
    /// What it expects next.
    expected: u32,
    /// What it has sent.
    sent: u32,
}

impl Connection {
    /// From the client to a Service, whose one endpoint is this Pod.
    pub(crate) fn open(client: &Netns, pod: &Netns, to: SocketAddr) -> anyhow::Result<Self> {
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, TARGET_PORT));
        let listener = pod.run(|| TcpListener::bind(all))??;
        let family = if to.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let wire = pod.run(|| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp))??;
        let seconds = i64::try_from(PATIENCE.as_secs())?;
        setsockopt(&wire, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0))?;
        let client = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
        let (endpoint, _) = listener.accept()?;
        for stream in [&client, &endpoint] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
        }
        Ok(Self {
            client,
            endpoint,
            wire,
        })
    }

    /// A word there and one back.
    fn talk(&mut self) -> std::io::Result<()> {
        let mut word = [0; 4];
        self.client.write_all(b"ping")?;
        self.endpoint.read_exact(&mut word)?;
        self.endpoint.write_all(b"pong")?;
        self.client.read_exact(&mut word)
    }

    /// Whether it goes on for some time.
    pub(crate) fn goes_on(&mut self) -> std::io::Result<bool> {
        for _ in 0..TALKS {
            match self.talk().map_err(|error| error.kind()) {
                Ok(()) => {}
                Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return Ok(false),
                Err(other) => return Err(other.into()),
            }
        }
        Ok(true)
    }

    /// The client's next segment with anything in it.
    fn see(&mut self) -> anyhow::Result<Seen> {
        let port = self.client_address()?.port();
        self.talk()?;
        let mut packet = [0; 2_048];
        loop {
            let length = recv(self.wire.as_raw_fd(), &mut packet, MsgFlags::empty())?;
            let packet = packet.get(..length).context("a packet")?;
            // A raw socket of IPv4 sees its header, too.
            let skipped = match self.client_address()?.ip() {
                IpAddr::V4(_) => usize::from(packet.first().context("a header")? & 15) * 4,
                IpAddr::V6(_) => 0,
            };
            let segment = packet.get(skipped..).context("a segment")?;
            let header = segment.first_chunk::<20>().context("TCP's header")?;
            let data = segment.len().saturating_sub(usize::from(header[12] >> 4) * 4);
            let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
            if header[..2] == port.to_be_bytes() && data > 0 {
                return Ok(Seen {
                    // The endpoint's answer to it came after it.
                    expected: word(8).wrapping_add(4),
                    sent: word(4).wrapping_add(u32::try_from(data)?),
                });
            }
        }
    }

    fn client_address(&self) -> std::io::Result<SocketAddr> {
        let peer = self.endpoint.peer_addr()?;
        Ok((peer.ip().to_canonical(), peer.port()).into())
    }

    /// Sends the client a segment that is none of the endpoint's, but for its acknowledgement.
    pub(crate) fn stray(&mut self) -> anyhow::Result<()> {
        let seen = self.see()?;
        let (from, to) = (
            self.endpoint.local_addr()?.ip().to_canonical(),
            self.client_address()?,
        );
        let mut segment = Vec::new();
        segment.extend(TARGET_PORT.to_be_bytes());
        segment.extend(to.port().to_be_bytes());
        segment.extend(seen.expected.wrapping_add(FAR).to_be_bytes());
        segment.extend(seen.sent.to_be_bytes());
        // Twenty bytes of header, ACK, a window of 1,024; checksum and urgent pointer follow.
        segment.extend([5 << 4, 0x10, 4, 0, 0, 0, 0, 0]);
        let sum = checksum(from, to.ip(), &segment).to_be_bytes();
        segment.splice(16..18, sum);
        let address = SockaddrStorage::from(SocketAddr::from((to.ip(), 0)));
        sendto(self.wire.as_raw_fd(), &segment, &address, MsgFlags::empty())?;
        Ok(())
    }
}

/// RFC 9293, section 3.1, with the pseudo header of RFC 8200, section 8.1, which adds up to IPv4's.
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = u32::try_from(segment.len()).unwrap();
    let all = [
        octets(from),
        octets(to),
        length.to_be_bytes().into(),
        vec![0, 6],
        segment.to_vec(),
    ]
    .concat();
    let words = all
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
