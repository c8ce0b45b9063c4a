// SPDX-License-Identifier: Apache-2.0
//! Neighbor Solicitation and Advertisement (RFC 4861) over IPv6 and Ethernet.

use std::net::Ipv6Addr;

use super::ethernet::{Frame, MacAddr, TYPE_IPV6};
use super::{bytes_at, u16_at};

/// Length of the IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Offset of the next header field in the IPv6 header.
pub const NEXT_HEADER_OFFSET: usize = 6;
/// Offset of the target address in the ICMPv6 message.
pub const TARGET_OFFSET: usize = 8;
/// ICMPv6 as an IPv6 next header.
pub const NEXT_HEADER_ICMPV6: u8 = 58;
/// The ICMPv6 type of a Neighbor Solicitation.
pub const TYPE_SOLICITATION: u8 = 135;
/// The ICMPv6 type of a Neighbor Advertisement.
pub const TYPE_ADVERTISEMENT: u8 = 136;
/// Every node on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A message that a router forwarded has a lower one, so this proves that the sender is on the link
/// (RFC 4861 section 3.1).
const HOP_LIMIT: u8 = 255;
const MESSAGE_LEN: usize = 24;
const OPTION_SOURCE_LINK: u8 = 1;
const OPTION_TARGET_LINK: u8 = 2;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// The group to which solicitations for an address are sent (RFC 4291 section 2.7.1).
pub fn solicited_node_group(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Why a packet is no valid solicitation or advertisement (RFC 4861 sections 7.1.1 and 7.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NdpError {
    /// Fewer bytes than its lengths promise.
    #[error("shorter than its lengths say")]
    Truncated,
    /// Another protocol, or another ICMPv6 message.
    #[error("not the message looked for")]
    OtherMessage,
    /// A router has forwarded it.
    #[error("hop limit {0} instead of 255")]
    HopLimit(u8),
    /// The ICMPv6 checksum does not fit.
    #[error("wrong checksum")]
    Checksum,
    /// The code is not zero.
    #[error("ICMPv6 code {0} instead of 0")]
    Code(u8),
    /// The target is a group.
    #[error("the target {0} is a multicast group")]
    MulticastTarget(Ipv6Addr),
    /// An option of length zero.
    #[error("an option of length zero")]
    ZeroOption,
    /// An unspecified source with a source link-layer option or outside a solicited-node group, or an
    /// advertisement to a group that calls itself solicited.
    #[error("source, destination and options contradict each other")]
    Contradiction,
}

/// A Neighbor Solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who asks; unspecified in duplicate address detection (RFC 4862 section 5.4.2).
    pub source: Ipv6Addr,
    /// The solicited-node group, or the target itself when a cached neighbour is probed.
    pub destination: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
    /// Where to answer, if the asker says so.
    pub source_link: Option<MacAddr>,
}

/// A Neighbor Advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Who says so.
    pub source: Ipv6Addr,
    /// The asker, or all nodes.
    pub destination: Ipv6Addr,
    /// The address spoken of.
    pub target: Ipv6Addr,
    /// The R bit: the sender is a router.
    pub router: bool,
    /// The S bit: an answer to a solicitation.
    pub solicited: bool,
    /// The O bit: a cached link-layer address is to be replaced.
    pub overriding: bool,
    /// Where the target is reached.
    pub target_link: Option<MacAddr>,
}

impl Solicitation {
    /// Reads the payload of an IPv6 frame.
    ///
    /// # Errors
    /// Whatever RFC 4861 section 7.1.1 tells a node to discard it for.
    pub fn parse(packet: &[u8]) -> Result<Self, NdpError> {
        let message = Message::parse(packet, TYPE_SOLICITATION)?;
        let source_link = message.link_option(OPTION_SOURCE_LINK)?;
        let group = solicited_node_group(message.target);
        // Any solicited-node group will do for the RFC; an address of ours is only ever asked for in its own.
        let contradicts = message.destination.is_multicast() && message.destination != group
            || message.source.is_multicast()
            || message.source.is_unspecified() && (source_link.is_some() || message.destination != group);
        if contradicts {
            return Err(NdpError::Contradiction);
        }
        Ok(Self {
            source: message.source,
            destination: message.destination,
            target: message.target,
            source_link,
        })
    }

    /// The frame that asks the solicited-node group, or the destination's own station.
    pub fn to_frame(&self, from: MacAddr, to: MacAddr) -> Vec<u8> {
        let mut body = [0; MESSAGE_LEN + 8];
        body[0] = TYPE_SOLICITATION;
        body[TARGET_OFFSET..MESSAGE_LEN].copy_from_slice(&self.target.octets());
        let length = put_link_option(&mut body, OPTION_SOURCE_LINK, self.source_link);
        packet_frame(from, to, self.source, self.destination, &mut body[..length])
    }
}

impl Advertisement {
    /// Reads the payload of an IPv6 frame.
    ///
    /// # Errors
    /// Whatever RFC 4861 section 7.1.2 tells a node to discard it for.
    pub fn parse(packet: &[u8]) -> Result<Self, NdpError> {
        let message = Message::parse(packet, TYPE_ADVERTISEMENT)?;
        let solicited = message.flags & FLAG_SOLICITED != 0;
        if solicited && message.destination.is_multicast() {
            return Err(NdpError::Contradiction);
        }
        Ok(Self {
            source: message.source,
            destination: message.destination,
            target: message.target,
            router: message.flags & FLAG_ROUTER != 0,
            solicited,
            overriding: message.flags & FLAG_OVERRIDE != 0,
            target_link: message.link_option(OPTION_TARGET_LINK)?,
        })
    }

    /// The frame that carries it.
    pub fn to_frame(&self, from: MacAddr, to: MacAddr) -> Vec<u8> {
        let mut body = [0; MESSAGE_LEN + 8];
        body[0] = TYPE_ADVERTISEMENT;
        for (set, flag) in [
            (self.router, FLAG_ROUTER),
            (self.solicited, FLAG_SOLICITED),
            (self.overriding, FLAG_OVERRIDE),
        ] {
            if set {
                body[4] |= flag;
            }
        }
        body[TARGET_OFFSET..MESSAGE_LEN].copy_from_slice(&self.target.octets());
        let length = put_link_option(&mut body, OPTION_TARGET_LINK, self.target_link);
        packet_frame(from, to, self.source, self.destination, &mut body[..length])
    }

    /// What a station says unasked when it takes an address over (RFC 4861 section 7.2.6): to all
    /// nodes, overriding what they have cached.
    pub fn unsolicited(mac: MacAddr, address: Ipv6Addr) -> Self {
        Self {
            source: address,
            destination: ALL_NODES,
            target: address,
            router: false,
            solicited: false,
            overriding: true,
            target_link: Some(mac),
        }
    }
}

/// What solicitations and advertisements have in common, checked.
struct Message<'a> {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    flags: u8,
    target: Ipv6Addr,
    options: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(packet: &'a [u8], wanted: u8) -> Result<Self, NdpError> {
        let header: [u8; IPV6_LEN] = bytes_at(packet, 0).ok_or(NdpError::Truncated)?;
        if header[0] >> 4 != 6 || header[NEXT_HEADER_OFFSET] != NEXT_HEADER_ICMPV6 {
            return Err(NdpError::OtherMessage);
        }
        let length = usize::from(u16_at(&header, 4).ok_or(NdpError::Truncated)?);
        let body = packet
            .get(IPV6_LEN..IPV6_LEN + length)
            .ok_or(NdpError::Truncated)?;
        let fixed: [u8; MESSAGE_LEN] = bytes_at(body, 0).ok_or(NdpError::Truncated)?;
        if fixed[0] != wanted {
            return Err(NdpError::OtherMessage);
        }
        if header[7] != HOP_LIMIT {
            return Err(NdpError::HopLimit(header[7]));
        }
        if fixed[1] != 0 {
            return Err(NdpError::Code(fixed[1]));
        }
        let address = |bytes: &[u8], offset| {
            bytes_at::<16>(bytes, offset)
                .map(Ipv6Addr::from)
                .ok_or(NdpError::Truncated)
        };
        let (source, destination) = (address(&header, 8)?, address(&header, 24)?);
        if checksum(source, destination, body) != 0 {
            return Err(NdpError::Checksum);
        }
        let target = address(&fixed, TARGET_OFFSET)?;
        if target.is_multicast() {
            return Err(NdpError::MulticastTarget(target));
        }
        Ok(Self {
            source,
            destination,
            flags: fixed[4],
            target,
            options: &body[MESSAGE_LEN..],
        })
    }

    /// Walks all options, unknown ones included, and returns the link-layer address of one kind.
    fn link_option(&self, wanted: u8) -> Result<Option<MacAddr>, NdpError> {
        let mut found = None;
        let mut rest = self.options;
        while let [kind, units, ..] = *rest {
            if units == 0 {
                return Err(NdpError::ZeroOption);
            }
            let (option, behind) = rest
                .split_at_checked(usize::from(units) * 8)
                .ok_or(NdpError::Truncated)?;
            if kind == wanted && units == 1 {
                found = bytes_at(option, 2).map(MacAddr);
            }
            rest = behind;
        }
        if rest.is_empty() {
            Ok(found)
        } else {
            Err(NdpError::Truncated)
        }
    }
}

/// Writes a link-layer option behind the fixed part and returns the length of the message.
fn put_link_option(body: &mut [u8; MESSAGE_LEN + 8], kind: u8, link: Option<MacAddr>) -> usize {
    let Some(mac) = link else { return MESSAGE_LEN };
    body[MESSAGE_LEN] = kind;
    body[MESSAGE_LEN + 1] = 1;
    body[MESSAGE_LEN + 2..].copy_from_slice(&mac.0);
    body.len()
}

/// Puts the checksum, the IPv6 header and the Ethernet header around a message.
fn packet_frame(
    from: MacAddr,
    to: MacAddr,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    body: &mut [u8],
) -> Vec<u8> {
    let sum = checksum(source, destination, body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = Vec::with_capacity(IPV6_LEN + body.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0, 0]);
    // A message is 24 or 32 bytes long.
    packet.push(u8::try_from(body.len()).unwrap_or(u8::MAX));
    packet.extend_from_slice(&[NEXT_HEADER_ICMPV6, HOP_LIMIT]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(body);
    Frame {
        destination: to,
        source: from,
        ether_type: TYPE_IPV6,
        payload: &packet,
    }
    .to_bytes()
}

/// The ICMPv6 checksum over the pseudo header (RFC 4443 section 2.3, RFC 8200 section 8.1). Over a
/// message that carries its right checksum the result is zero.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        bytes
            .chunks(2)
            .map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)))
            .sum()
    };
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let mut sum = words(&source.octets())
        + words(&destination.octets())
        + length
        + u64::from(NEXT_HEADER_ICMPV6)
        + words(body);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded to 16 bits by the loop above.
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
