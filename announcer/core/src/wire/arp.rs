// SPDX-License-Identifier: Apache-2.0
//! ARP for IPv4 over Ethernet (RFC 826), with the probe and announcement forms of RFC 5227.

use std::net::Ipv4Addr;

use super::ethernet::{Frame, MacAddr, TYPE_ARP};
use super::{bytes_at, u16_at};

/// Length of a packet for six-byte hardware and four-byte protocol addresses.
pub const PACKET_LEN: usize = 28;
/// Offset of the operation in a packet.
pub const OPERATION_OFFSET: usize = 6;
/// Offset of the target protocol address in a packet.
pub const TARGET_IP_OFFSET: usize = 24;
/// The operation number of a request.
pub const OPERATION_REQUEST: u16 = 1;

const OPERATION_REPLY: u16 = 2;
const HARDWARE_ETHERNET: u16 = 1;
const PROTOCOL_IPV4: u16 = 0x0800;

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks who has the target address.
    Request,
    /// Says who has the sender address.
    Reply,
}

/// Why bytes are no ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArpError {
    /// Fewer bytes than a packet has.
    #[error("shorter than an ARP packet")]
    Truncated,
    /// Other hardware or protocol types, or lengths that do not fit them.
    #[error("not ARP for IPv4 over Ethernet")]
    OtherAddresses,
    /// Neither request nor reply.
    #[error("unknown ARP operation {0}")]
    OtherOperation(u16),
    /// The sender claims a group or zero hardware address.
    #[error("the sender's hardware address {0} names no station")]
    BadSender(MacAddr),
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: MacAddr,
    /// Protocol address of the sender; unspecified in a probe.
    pub sender_ip: Ipv4Addr,
    /// Hardware address of the target; meaningless in a request.
    pub target_mac: MacAddr,
    /// Protocol address asked for, or of the station that asked.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Reads the payload of an ARP frame; padding behind it is ignored.
    ///
    /// # Errors
    /// Whatever makes it no request or reply for IPv4 over Ethernet.
    pub fn parse(payload: &[u8]) -> Result<Self, ArpError> {
        let packet: [u8; PACKET_LEN] = bytes_at(payload, 0).ok_or(ArpError::Truncated)?;
        let field = |offset| u16_at(&packet, offset).ok_or(ArpError::Truncated);
        if field(0)? != HARDWARE_ETHERNET || field(2)? != PROTOCOL_IPV4 || packet[4..6] != [6, 4] {
            return Err(ArpError::OtherAddresses);
        }
        let operation = match field(OPERATION_OFFSET)? {
            OPERATION_REQUEST => Operation::Request,
            OPERATION_REPLY => Operation::Reply,
            other => return Err(ArpError::OtherOperation(other)),
        };
        let mac = |offset| bytes_at(&packet, offset).map(MacAddr).ok_or(ArpError::Truncated);
        let ip = |offset| {
            bytes_at::<4>(&packet, offset)
                .map(Ipv4Addr::from)
                .ok_or(ArpError::Truncated)
        };
        let sender_mac = mac(8)?;
        if sender_mac.is_group() || sender_mac == MacAddr::ZERO {
            return Err(ArpError::BadSender(sender_mac));
        }
        Ok(Self {
            operation,
            sender_mac,
            sender_ip: ip(14)?,
            target_mac: mac(18)?,
            target_ip: ip(TARGET_IP_OFFSET)?,
        })
    }

    /// The packet without an Ethernet header.
    pub fn to_bytes(&self) -> [u8; PACKET_LEN] {
        let mut packet = [0; PACKET_LEN];
        let operation = match self.operation {
            Operation::Request => OPERATION_REQUEST,
            Operation::Reply => OPERATION_REPLY,
        };
        packet[0..2].copy_from_slice(&HARDWARE_ETHERNET.to_be_bytes());
        packet[2..4].copy_from_slice(&PROTOCOL_IPV4.to_be_bytes());
        packet[4..6].copy_from_slice(&[6, 4]);
        packet[6..8].copy_from_slice(&operation.to_be_bytes());
        packet[8..14].copy_from_slice(&self.sender_mac.0);
        packet[14..18].copy_from_slice(&self.sender_ip.octets());
        packet[18..24].copy_from_slice(&self.target_mac.0);
        packet[24..28].copy_from_slice(&self.target_ip.octets());
        packet
    }

    /// The frame that carries the packet to a station or to all.
    pub fn to_frame(&self, destination: MacAddr) -> Vec<u8> {
        Frame {
            destination,
            source: self.sender_mac,
            ether_type: TYPE_ARP,
            payload: &self.to_bytes(),
        }
        .to_bytes()
    }

    /// The answer to a request, from the station that has the address asked for.
    pub fn answer(&self, mac: MacAddr) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }

    /// A request as a host sends it to find a neighbour.
    pub fn request(mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac: mac,
            sender_ip,
            target_mac: MacAddr::ZERO,
            target_ip,
        }
    }

    /// An address conflict probe: a request that claims nothing (RFC 5227 section 1.1).
    pub fn probe(mac: MacAddr, target_ip: Ipv4Addr) -> Self {
        Self::request(mac, Ipv4Addr::UNSPECIFIED, target_ip)
    }

    /// A gratuitous request: the announcement of RFC 5227 section 2.3.
    pub fn gratuitous_request(mac: MacAddr, ip: Ipv4Addr) -> Self {
        Self::request(mac, ip, ip)
    }

    /// A gratuitous reply, for neighbours that take updates from replies only (RFC 5944 section 4.6).
    pub fn gratuitous_reply(mac: MacAddr, ip: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: ip,
            target_mac: mac,
            target_ip: ip,
        }
    }

    /// Whether the sender claims the address that it names, in a request or a reply.
    pub fn is_gratuitous(&self) -> bool {
        self.sender_ip == self.target_ip
    }
}
