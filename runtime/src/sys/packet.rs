// SPDX-License-Identifier: Apache-2.0
//! Packet sockets (packet(7)) that receive nothing until they are filtered and bound.
#![expect(
    unsafe_code,
    reason = "socket2 and nix cannot build a sockaddr_ll with a protocol; AsyncFd is unsafe to register"
)]

use std::io::{self, Read, Write};
use std::mem::size_of;

use socket2::{Domain, SockAddr, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

/// One instruction of a classic BPF program, as `struct sock_filter` has it.
pub type Instruction = SockFilter;

/// A raw, non-blocking packet socket: frames with their link-layer header.
#[derive(Debug)]
pub struct PacketSocket {
    socket: AsyncFd<Socket>,
}

impl PacketSocket {
    /// Opens a socket that receives nothing yet: with protocol 0 the kernel hands it no frame, so none can
    /// slip in before the filter is attached. To be called on a tokio runtime.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        // SAFETY: the AsyncFd owns the socket, whose descriptor is open and the same until it is dropped;
        // nobody else gets at it, because it is never handed out.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// Replaces the filter: frames that the program rejects are never copied to this socket.
    ///
    /// # Errors
    /// `InvalidInput` for a program that the kernel does not accept, or that is too long for it.
    pub fn set_filter(&self, program: &[Instruction]) -> io::Result<()> {
        // BPF_MAXINSNS; a longer one would be cut off silently where its length is narrowed to 16 bits.
        if program.len() > 4096 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.socket.get_ref().attach_filter(program)
    }

    /// Starts to receive frames of one Ethernet type from one interface; frames sent go out there.
    ///
    /// # Errors
    /// `ENODEV` when the interface is gone, `ENETDOWN` when it is down.
    pub fn bind(&self, interface: u32, ether_type: u16) -> io::Result<()> {
        let index = i32::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.socket.get_ref().bind(&link_address(index, ether_type)?)
    }

    /// Sends one frame, link-layer header included, on the interface bound to.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` when the queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let mut socket = self.socket.get_ref();
        socket.write(frame).map(|_| ())
    }

    /// Waits for a frame and receives it; a longer one than the buffer is cut off. Loses nothing when cancelled.
    ///
    /// # Errors
    /// What the kernel says; `ENETDOWN` once when the interface went down.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.socket.readable().await?;
            let read = |socket: &AsyncFd<Socket>| {
                let mut socket = socket.get_ref();
                socket.read(buffer)
            };
            if let Ok(received) = ready.try_io(read) {
                return received;
            }
        }
    }
}

/// The `sockaddr_ll` of an interface and an Ethernet type.
fn link_address(index: i32, ether_type: u16) -> io::Result<SockAddr> {
    let family = u16::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?;
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `storage` points to a zeroed sockaddr_storage, which is larger than a sockaddr_ll and aligned
    // for every socket address (POSIX). All bytes of the sockaddr_ll are initialised, and `set_length` is
    // given exactly its size, as try_init demands.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, set_length| {
            storage.cast::<libc::sockaddr_ll>().write(libc::sockaddr_ll {
                sll_family: family,
                sll_protocol: ether_type.to_be(),
                sll_ifindex: index,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            });
            *set_length = length;
            Ok(())
        })
    }?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_interface_and_protocol_in_network_order() {
        let address = link_address(7, 0x0806).unwrap();
        assert_eq!(i32::from(address.family()), libc::AF_PACKET);
        assert_eq!(
            usize::try_from(address.len()).unwrap(),
            size_of::<libc::sockaddr_ll>()
        );
        // SAFETY: the family says that a sockaddr_ll is stored, and sockaddr_storage is aligned for it.
        let stored = unsafe { address.as_ptr().cast::<libc::sockaddr_ll>().read() };
        assert_eq!(stored.sll_ifindex, 7);
        assert_eq!(stored.sll_protocol.to_ne_bytes(), [0x08, 0x06]);
    }
}
