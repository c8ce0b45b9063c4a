// SPDX-License-Identifier: Apache-2.0
//! Ethernet II frames and hardware addresses.

use std::fmt;
use std::net::Ipv6Addr;

use super::{bytes_at, u16_at};

/// Length of the header: two hardware addresses and a type.
pub const HEADER_LEN: usize = 14;
/// Type of an ARP payload (RFC 7042).
pub const TYPE_ARP: u16 = 0x0806;
/// Type of an IPv6 payload (RFC 2464).
pub const TYPE_IPV6: u16 = 0x86dd;

/// A 48-bit hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Every station.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No station; also what an ARP request carries for the address it asks for.
    pub const ZERO: Self = Self([0; 6]);

    /// The group address that carries an IPv6 multicast group (RFC 2464 section 7).
    pub fn of_ipv6_group(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }

    /// Whether it names a group of stations, the broadcast included.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame split into header fields and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whom it is for.
    pub destination: MacAddr,
    /// Who sent it.
    pub source: MacAddr,
    /// What the payload is.
    pub ether_type: u16,
    /// The rest, padding included.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Splits a frame, or `None` if it is shorter than a header.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            destination: MacAddr(bytes_at(bytes, 0)?),
            source: MacAddr(bytes_at(bytes, 6)?),
            ether_type: u16_at(bytes, 12)?,
            payload: bytes.get(HEADER_LEN..)?,
        })
    }

    /// Header and payload as bytes, without padding: drivers pad to the minimum length.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.payload.len());
        bytes.extend_from_slice(&self.destination.0);
        bytes.extend_from_slice(&self.source.0);
        bytes.extend_from_slice(&self.ether_type.to_be_bytes());
        bytes.extend_from_slice(self.payload);
        bytes
    }
}
