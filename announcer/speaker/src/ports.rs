// SPDX-License-Identifier: Apache-2.0
//! Packet sockets: one for ARP and one for IPv6 on each interface that carries announcements.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use berth_announcer_core::filter;
use berth_announcer_core::wire::ethernet::{Frame, TYPE_ARP, TYPE_IPV6};
use berth_runtime::sys::packet::{Instruction, PacketSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::SpeakerError;

/// A frame and the interface on which it came.
pub(crate) type Received = (u32, Vec<u8>);

/// Questions that wait for the engine; more than that are dropped, and asked again by whoever asked.
const QUEUE: usize = 1024;
/// The questions are shorter than a hundred bytes; a longer frame is none of them.
const LONGEST: usize = 256;

/// A socket and the task that reads it, which ends with it.
#[derive(Debug)]
struct Port {
    socket: Arc<PacketSocket>,
    reader: AbortHandle,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// All packet sockets of this process.
#[derive(Debug)]
pub(crate) struct Ports {
    ports: BTreeMap<(u32, u16), Port>,
    frames: mpsc::Sender<Received>,
}

impl Ports {
    /// No socket yet, and where the frames will come.
    ///
    /// # Errors
    /// When this process may not have packet sockets.
    pub(crate) fn new() -> Result<(Self, mpsc::Receiver<Received>), SpeakerError> {
        match PacketSocket::open() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(SpeakerError::Privilege(error));
            }
            Err(error) => return Err(SpeakerError::PacketSocket(error)),
        }
        let (frames, received) = mpsc::channel(QUEUE);
        let ports = BTreeMap::new();
        Ok((Self { ports, frames }, received))
    }

    /// Opens and closes sockets so that exactly these interfaces have theirs. Those that fail are returned
    /// with their error and tried again next time.
    pub(crate) fn set_interfaces(&mut self, interfaces: &BTreeSet<u32>) -> Vec<(u32, io::Error)> {
        self.ports
            .retain(|(interface, _), port| interfaces.contains(interface) && !port.reader.is_finished());
        let mut failed = Vec::new();
        for interface in interfaces {
            for ether_type in [TYPE_ARP, TYPE_IPV6] {
                if self.ports.contains_key(&(*interface, ether_type)) {
                    continue;
                }
                match self.open(*interface, ether_type) {
                    Ok(port) => {
                        self.ports.insert((*interface, ether_type), port);
                    }
                    Err(error) => failed.push((*interface, error)),
                }
            }
        }
        failed
    }

    fn open(&self, interface: u32, ether_type: u16) -> io::Result<Port> {
        let socket = PacketSocket::open()?;
        socket.set_filter(&program(ether_type, &BTreeSet::new()))?;
        socket.bind(interface, ether_type)?;
        let socket = Arc::new(socket);
        let task = read(Arc::clone(&socket), interface, self.frames.clone());
        let reader = tokio::spawn(task).abort_handle();
        Ok(Port { socket, reader })
    }

    /// Lets only questions about these addresses through on an interface.
    pub(crate) fn set_addresses(&self, interface: u32, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        for ether_type in [TYPE_ARP, TYPE_IPV6] {
            if let Some(port) = self.ports.get(&(interface, ether_type)) {
                port.socket.set_filter(&program(ether_type, addresses))?;
            }
        }
        Ok(())
    }

    /// Sends a frame on an interface without waiting. By the socket of its type: the kernel marks the frame with
    /// the socket's protocol, which bonds and traffic control look at.
    pub(crate) fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        let ether_type = Frame::parse(frame).map_or(TYPE_ARP, |frame| frame.ether_type);
        let port = self
            .ports
            .get(&(interface, ether_type))
            .ok_or(io::ErrorKind::NotConnected)?;
        port.socket.send(frame)
    }
}

fn program(ether_type: u16, addresses: &BTreeSet<IpAddr>) -> Vec<Instruction> {
    let program = match ether_type {
        TYPE_ARP => filter::arp_requests(addresses),
        _ => filter::solicitations(addresses),
    };
    let convert = |step: filter::Instruction| {
        Instruction::new(step.code, step.jump_true, step.jump_false, step.operand)
    };
    program.into_iter().map(convert).collect()
}

async fn read(socket: Arc<PacketSocket>, interface: u32, frames: mpsc::Sender<Received>) {
    let mut buffer = [0; LONGEST];
    loop {
        match socket.receive(&mut buffer).await {
            Ok(length) => {
                if frames.try_send((interface, buffer[..length].to_vec())).is_err() && frames.is_closed() {
                    return;
                }
            }
            // The interface went down: the socket goes on when it is up again.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => {
                tracing::warn!(interface, %error, "packet socket");
                return;
            }
        }
    }
}
