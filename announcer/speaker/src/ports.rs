// SPDX-License-Identifier: Apache-2.0
//! Packet sockets: one for ARP and one for IPv6 on each interface that carries announcements.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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
/// After an error, which may come again at once.
const PAUSE: Duration = Duration::from_secs(1);

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

/// Where frames come from.
trait Source: Send + Sync {
    fn receive(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
}

impl Source for PacketSocket {
    fn receive(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send {
        Self::receive(self, buffer)
    }
}

/// Hands on frames for as long as somebody takes them. No error ends it: the node goes on owning addresses, and
/// must answer for them as soon as it can.
async fn read(socket: Arc<impl Source>, interface: u32, frames: mpsc::Sender<Received>) {
    let mut buffer = [0; LONGEST];
    let mut failing = None;
    loop {
        match socket.receive(&mut buffer).await {
            Ok(length) => {
                if failing.take().is_some() {
                    tracing::info!(interface, "packet socket receives again");
                }
                if frames.try_send((interface, buffer[..length].to_vec())).is_err() && frames.is_closed() {
                    return;
                }
            }
            // The interface went down: the socket goes on when it is up again.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => {
                let kind = (error.kind(), error.raw_os_error());
                if failing.replace(kind) != Some(kind) {
                    tracing::warn!(interface, %error, "packet socket receives nothing; trying again");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    /// Gives what it was given, then waits.
    struct Script(Mutex<VecDeque<io::Result<u8>>>);

    impl Source for Script {
        async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
            let next = self.0.lock().unwrap().pop_front();
            match next {
                Some(result) => {
                    buffer[0] = result?;
                    Ok(1)
                }
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_goes_on_after_every_error() {
        let failed = |code| Err(io::Error::from_raw_os_error(code));
        let script = [
            Ok(1),
            failed(libc::ENETDOWN),
            Ok(2),
            failed(libc::ENOMEM),
            failed(libc::ENOMEM),
            failed(libc::ENOBUFS),
            Ok(3),
        ];
        let (sender, mut frames) = mpsc::channel(QUEUE);
        let reader = tokio::spawn(read(Arc::new(Script(Mutex::new(script.into()))), 7, sender));
        for expected in 1..=3 {
            assert_eq!(frames.recv().await, Some((7, vec![expected])));
        }
        assert!(!reader.is_finished());
    }
}
