// SPDX-License-Identifier: Apache-2.0
//! Holds the API server's port for as long as the control plane lives, over restarts of the API server.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::error::ControlPlaneError;

/// A port that nothing else gets. The socket is bound with `SO_REUSEPORT` but never listens, so kube-apiserver
/// (`--permit-port-sharing`) can listen on the same port, and connections are refused while it is away.
pub(super) struct HeldPort {
    _socket: Socket,
    pub(super) port: u16,
}

impl HeldPort {
    /// `port`, or any free one.
    pub(super) fn hold(address: IpAddr, port: Option<u16>) -> Result<Self, ControlPlaneError> {
        let wanted = SocketAddr::new(address, port.unwrap_or(0));
        bind(wanted).map_err(|source| ControlPlaneError::Listen {
            address: wanted,
            source,
        })
    }
}

fn bind(wanted: SocketAddr) -> std::io::Result<HeldPort> {
    let socket = Socket::new(Domain::for_address(wanted), Type::STREAM, Some(Protocol::TCP))?;
    if wanted.is_ipv6() {
        // As Go listens on "::": both families.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&wanted.into())?;
    let port = socket
        .local_addr()?
        .as_socket()
        .map_or(wanted.port(), |bound| bound.port());
    Ok(HeldPort {
        _socket: socket,
        port,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_held_port_refuses_connections_and_other_listeners() {
        let held = HeldPort::hold(Ipv4Addr::LOCALHOST.into(), None).unwrap();
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), held.port);
        assert_eq!(
            TcpStream::connect(address).unwrap_err().kind(),
            std::io::ErrorKind::ConnectionRefused
        );
        assert_eq!(
            TcpListener::bind(address).unwrap_err().kind(),
            std::io::ErrorKind::AddrInUse
        );
    }

    #[test]
    fn an_address_of_no_interface_is_named() {
        // TEST-NET-1, RFC 5737.
        let refused = HeldPort::hold(Ipv4Addr::new(192, 0, 2, 1).into(), Some(6443))
            .err()
            .unwrap();
        assert!(refused.to_string().contains("192.0.2.1:6443"), "{refused}");
    }
}
