// SPDX-License-Identifier: Apache-2.0
//! What ends the announcer.

use std::io;
use std::path::PathBuf;

use berth_announcer_core::membership::{NameTaken, TimingError};
use berth_announcer_core::wire::heartbeat::KeyTooShort;
use berth_model::NodeName;
use berth_runtime::exit::{Code, ExitError};

/// What ends the announcer.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The kernel does not tell the host name.
    #[error("the host name cannot be read ({0}); name this machine's Node with --node-name")]
    HostName(#[source] io::Error),
    /// Flags that do not fit together.
    #[error("--heartbeat-interval and --dead-after: {0}")]
    Timing(#[source] TimingError),
    /// The file with the key cannot be read.
    #[error("--heartbeat-key-file {}: {source}", file.display())]
    KeyFile {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has no usable key.
    #[error("--heartbeat-key-file {}: {source}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// Why.
        source: KeyTooShort,
    },
    /// No packet sockets for this process.
    #[error(
        "opening a packet socket was refused ({0}): the announcer needs CAP_NET_RAW; run it as root, or give the container the capability NET_RAW"
    )]
    Privilege(#[source] io::Error),
    /// Packet sockets fail for another reason.
    #[error("opening a packet socket: {0}")]
    PacketSocket(#[source] io::Error),
    /// Another process has the heartbeat port.
    #[error(
        "--heartbeat-port {port}: UDP {address} is taken ({source}); is another announcer running on this machine?"
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// The address with the port.
        address: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The heartbeat socket fails for another reason.
    #[error("--heartbeat-port: UDP {address}: {source}")]
    HeartbeatSocket {
        /// The address with the port.
        address: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel does not tell about its links.
    #[error("reading the machine's interfaces: {0}")]
    Links(#[source] Box<nlink::Error>),
    /// Another announcer has the Node's name.
    #[error("{0}; stop it, or give this machine's own Node name with --node-name (or $NODE_NAME)")]
    NameTaken(#[source] NameTaken),
    /// Another announcer runs for the Node in the same network namespace.
    #[error(
        "another announcer is running for node {0} on this machine; stop it, or give this machine's own Node name with --node-name (or $NODE_NAME)"
    )]
    SameMachine(NodeName),
    /// No Unix socket for the lock.
    #[error("opening a Unix socket: {0}")]
    Lock(#[source] io::Error),
    /// A part of the announcer ended before the rest.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

impl From<SpeakerError> for ExitError {
    fn from(error: SpeakerError) -> Self {
        let code = match &error {
            SpeakerError::Timing(_) | SpeakerError::KeyFile { .. } | SpeakerError::Key { .. } => Code::Usage,
            SpeakerError::Privilege(_) => Code::Privilege,
            SpeakerError::NameTaken(_) | SpeakerError::SameMachine(_) | SpeakerError::PortTaken { .. } => {
                Code::Identity
            }
            SpeakerError::HostName(_)
            | SpeakerError::PacketSocket(_)
            | SpeakerError::HeartbeatSocket { .. }
            | SpeakerError::Links(_)
            | SpeakerError::Lock(_)
            | SpeakerError::Ended(_) => Code::Failure,
        };
        Self::new(code, error)
    }
}
