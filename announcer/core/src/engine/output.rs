// SPDX-License-Identifier: Apache-2.0
//! What the engine asks of its caller, and its reasons.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::membership::{Change, Ignored, NameTaken};
use crate::wire::heartbeat::HeartbeatError;

/// What kind of frame it is, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameKind {
    /// Answer to an ARP request.
    ArpReply,
    /// Answer to a Neighbor Solicitation.
    NeighborAdvertisement,
    /// Unasked ARP request.
    GratuitousRequest,
    /// Unasked ARP reply.
    GratuitousReply,
    /// Unasked Neighbor Advertisement.
    UnsolicitedAdvertisement,
}

impl FrameKind {
    /// The stable short form for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ArpReply => "arp_reply",
            Self::NeighborAdvertisement => "neighbor_advertisement",
            Self::GratuitousRequest => "gratuitous_request",
            Self::GratuitousReply => "gratuitous_reply",
            Self::UnsolicitedAdvertisement => "unsolicited_advertisement",
        }
    }
}

/// Why an address is no longer announced on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WithdrawReason {
    /// No Service has it any more.
    Released,
    /// Another node owns it.
    OwnedElsewhere,
    /// The interface cannot carry it any more.
    LinkLost,
    /// This announcer stops, or joins anew.
    NotEstablished,
}

impl WithdrawReason {
    /// The stable short form for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::OwnedElsewhere => "owned_elsewhere",
            Self::LinkLost => "link_lost",
            Self::NotEstablished => "not_established",
        }
    }
}

/// Something for the caller to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Listen for questions about the address on the interface: this node owns it now.
    Announce {
        /// The address.
        address: IpAddr,
        /// The interface's index.
        interface: u32,
    },
    /// Stop listening for questions about the address on the interface.
    Withdraw {
        /// The address.
        address: IpAddr,
        /// The interface's index.
        interface: u32,
        /// Why.
        reason: WithdrawReason,
    },
    /// Send a frame.
    SendFrame {
        /// The interface's index.
        interface: u32,
        /// What it is.
        kind: FrameKind,
        /// Its bytes, Ethernet header included.
        frame: Vec<u8>,
    },
    /// Send a datagram from the heartbeat port.
    SendHeartbeat {
        /// To whom.
        to: SocketAddr,
        /// Its bytes.
        datagram: Vec<u8>,
    },
    /// Something changed among the announcers.
    Membership(Change),
    /// Another announcer runs for this node: stop.
    NameTaken(NameTaken),
    /// The farewell is said: stop.
    Gone,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announce { address, interface } => write!(f, "announce {address} on {interface}"),
            Self::Withdraw {
                address,
                interface,
                reason,
            } => write!(f, "withdraw {address} on {interface}: {}", reason.reason()),
            Self::SendFrame {
                interface,
                kind,
                frame,
            } => write!(f, "send {} ({} bytes) on {interface}", kind.name(), frame.len()),
            Self::SendHeartbeat { to, datagram } => write!(f, "heartbeat ({} bytes) to {to}", datagram.len()),
            Self::Membership(change) => write!(f, "{change:?}"),
            Self::NameTaken(taken) => taken.fmt(f),
            Self::Gone => f.write_str("gone"),
        }
    }
}

/// Why a datagram changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeartbeatDrop {
    /// It is no heartbeat of this cluster.
    Unreadable(HeartbeatError),
    /// It is, but says nothing new.
    Ignored(Ignored),
}

impl HeartbeatDrop {
    /// The stable short form for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unreadable(error) => error.reason(),
            Self::Ignored(ignored) => ignored.reason(),
        }
    }
}
