// SPDX-License-Identifier: Apache-2.0
//! The datagram by which announcers tell each other that they live.
//!
//! ```text
//!  0  magic "BRTH"          8  instance     32  fields: kind u8, length u16, value
//!  4  version 1            16  incarnation       1 node name        2 families
//!  5  phase                24  sequence          3 IPv4 prefix      4 IPv6 prefix
//!  6  length of it all                         255 HMAC-SHA256 of all bytes before the field, last
//! ```
//! Numbers are big-endian. Fields of an unknown kind are skipped, so that a newer announcer can say more
//! without a new version; a new version is for what an older one must not misread.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_model::{IpFamily, NodeName};
use hmac::{Hmac, KeyInit, Mac};
use ipnet::IpNet;
use sha2::Sha256;

use super::{bytes_at, u16_at};

/// The version written and understood.
pub const VERSION: u8 = 1;
/// No longer datagram is written or read: it fits an unfragmented packet of the smallest IPv6 link
/// (RFC 8200 section 5: 1280 octets).
pub const MAX_LEN: usize = 1200;
/// Prefixes beyond this number are not told: a datagram with more would be too long.
pub const MAX_PREFIXES: usize = 32;
/// The shortest key taken, in bytes: half the digest (RFC 2104 section 3 advises against less).
pub const MIN_KEY_LEN: usize = 16;

const MAGIC: [u8; 4] = *b"BRTH";
const HEADER_LEN: usize = 32;
const FIELD_HEADER_LEN: usize = 3;
const MAC_LEN: usize = 32;
const FIELD_NODE: u8 = 1;
const FIELD_FAMILIES: u8 = 2;
const FIELD_PREFIX_V4: u8 = 3;
const FIELD_PREFIX_V6: u8 = 4;
const FIELD_MAC: u8 = 255;

/// Where an announcer is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// It has just started, and listens whether another one of its name lives.
    Joining,
    /// It can own addresses.
    Established,
    /// It stops, and owns nothing from now on.
    Leaving,
}

/// What a node can put on a LAN: the families of its carrying interfaces and the subnets on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Families that at least one interface can carry.
    pub families: BTreeSet<IpFamily>,
    /// Subnets of the addresses on carrying interfaces.
    pub prefixes: BTreeSet<IpNet>,
}

impl Reach {
    /// Whether an address lies in a subnet that the node is attached to.
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }
}

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The sender's node.
    pub node: NodeName,
    /// Random, new at each start: tells two processes for one node apart.
    pub instance: u64,
    /// Microseconds since the epoch at the sender's start: which of two instances is the younger.
    pub incarnation: u64,
    /// Grows with each heartbeat of an instance, and is the same in its copies to all peers.
    pub sequence: u64,
    /// Where the sender is in its life.
    pub phase: Phase,
    /// What the sender can announce.
    pub reach: Reach,
}

/// Why a datagram is no heartbeat of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum HeartbeatError {
    /// Not one of Berth's datagrams.
    #[error("not a heartbeat")]
    Foreign,
    /// Written by a version that this one does not understand.
    #[error("unknown version {0}")]
    Version(u8),
    /// Lengths that contradict each other.
    #[error("lengths do not fit")]
    Length,
    /// A known field or phase with a senseless value, or no node name.
    #[error("a field makes no sense")]
    Field,
    /// We have a key, the sender has none.
    #[error("not authenticated")]
    Unauthenticated,
    /// The sender has a key, we have none.
    #[error("authenticated, but this announcer has no key")]
    NoKey,
    /// The sender has another key, or the datagram was changed.
    #[error("wrong authentication code")]
    WrongCode,
}

impl HeartbeatError {
    /// The stable short form for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Version(_) => "version",
            Self::Length => "length",
            Self::Field => "field",
            Self::Unauthenticated => "unauthenticated",
            Self::NoKey => "no_key",
            Self::WrongCode => "wrong_code",
        }
    }
}

/// A key that all announcers of a cluster share.
#[derive(Clone)]
pub struct HeartbeatKey(Hmac<Sha256>);

/// A key too short to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the heartbeat key has {0} bytes; it needs at least {MIN_KEY_LEN}")]
pub struct KeyTooShort(pub usize);

impl HeartbeatKey {
    /// A key from its bytes.
    ///
    /// # Errors
    /// [`KeyTooShort`] below [`MIN_KEY_LEN`].
    pub fn new(bytes: &[u8]) -> Result<Self, KeyTooShort> {
        let short = KeyTooShort(bytes.len());
        if bytes.len() < MIN_KEY_LEN {
            return Err(short);
        }
        Hmac::new_from_slice(bytes).map(Self).map_err(|_| short)
    }
}

impl fmt::Debug for HeartbeatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeartbeatKey(..)")
    }
}

impl Heartbeat {
    /// The datagram, authenticated if there is a key.
    pub fn to_bytes(&self, key: Option<&HeartbeatKey>) -> Vec<u8> {
        let mut fields = Vec::new();
        put_field(&mut fields, FIELD_NODE, self.node.as_str().as_bytes());
        put_field(&mut fields, FIELD_FAMILIES, &[family_bits(&self.reach.families)]);
        for prefix in self.reach.prefixes.iter().take(MAX_PREFIXES) {
            let mut value = vec![prefix.prefix_len()];
            let kind = match prefix.network() {
                IpAddr::V4(v4) => {
                    value.extend_from_slice(&v4.octets());
                    FIELD_PREFIX_V4
                }
                IpAddr::V6(v6) => {
                    value.extend_from_slice(&v6.octets());
                    FIELD_PREFIX_V6
                }
            };
            put_field(&mut fields, kind, &value);
        }
        let trailer = key.map_or(0, |_| FIELD_HEADER_LEN + MAC_LEN);
        let total = HEADER_LEN + fields.len() + trailer;
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.push(match self.phase {
            Phase::Joining => 1,
            Phase::Established => 2,
            Phase::Leaving => 3,
        });
        bytes.extend_from_slice(&u16::try_from(total).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(&self.instance.to_be_bytes());
        bytes.extend_from_slice(&self.incarnation.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&fields);
        if let Some(HeartbeatKey(mac)) = key {
            let code = mac.clone().chain_update(&bytes).finalize().into_bytes();
            put_field(&mut bytes, FIELD_MAC, &code);
        }
        bytes
    }

    /// Reads a datagram and checks its authentication code.
    ///
    /// # Errors
    /// Whatever makes it no heartbeat for us; nothing of it is to be believed then.
    pub fn parse(bytes: &[u8], key: Option<&HeartbeatKey>) -> Result<Self, HeartbeatError> {
        if bytes_at(bytes, 0) != Some(MAGIC) {
            return Err(HeartbeatError::Foreign);
        }
        let header: [u8; HEADER_LEN] = bytes_at(bytes, 0).ok_or(HeartbeatError::Length)?;
        if header[4] != VERSION {
            return Err(HeartbeatError::Version(header[4]));
        }
        if u16_at(&header, 6).map(usize::from) != Some(bytes.len()) || bytes.len() > MAX_LEN {
            return Err(HeartbeatError::Length);
        }
        let signed = authenticate(bytes, key)?;
        let phase = match header[5] {
            1 => Phase::Joining,
            2 => Phase::Established,
            3 => Phase::Leaving,
            _ => return Err(HeartbeatError::Field),
        };
        let number = |offset| {
            bytes_at(&header, offset)
                .map(u64::from_be_bytes)
                .ok_or(HeartbeatError::Length)
        };
        let (node, reach) = parse_fields(&signed[HEADER_LEN..])?;
        Ok(Self {
            node,
            instance: number(8)?,
            incarnation: number(16)?,
            sequence: number(24)?,
            phase,
            reach,
        })
    }
}

/// Appends a field. Values are short: a node name has at most 253 bytes.
fn put_field(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    bytes.push(kind);
    bytes.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(value);
}

fn family_bits(families: &BTreeSet<IpFamily>) -> u8 {
    families.iter().fold(0, |bits, family| bits | family_bit(*family))
}

fn family_bit(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 1,
        IpFamily::V6 => 2,
    }
}

/// Splits one field off: its kind, its value and what follows.
fn split_field(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), HeartbeatError> {
    let (Some(&kind), Some(length)) = (bytes.first(), u16_at(bytes, 1)) else {
        return Err(HeartbeatError::Length);
    };
    let (value, rest) = bytes[FIELD_HEADER_LEN..]
        .split_at_checked(usize::from(length))
        .ok_or(HeartbeatError::Length)?;
    Ok((kind, value, rest))
}

/// Checks the authentication code, which is the last field if there is one, and cuts it off.
fn authenticate<'a>(bytes: &'a [u8], key: Option<&HeartbeatKey>) -> Result<&'a [u8], HeartbeatError> {
    let mut rest = &bytes[HEADER_LEN..];
    while !rest.is_empty() {
        let (kind, value, behind) = split_field(rest)?;
        if kind == FIELD_MAC {
            let HeartbeatKey(mac) = key.ok_or(HeartbeatError::NoKey)?;
            if !behind.is_empty() {
                return Err(HeartbeatError::Length);
            }
            let signed = &bytes[..bytes.len() - rest.len()];
            return mac
                .clone()
                .chain_update(signed)
                .verify_slice(value)
                .map(|()| signed)
                .map_err(|_| HeartbeatError::WrongCode);
        }
        rest = behind;
    }
    match key {
        Some(_) => Err(HeartbeatError::Unauthenticated),
        None => Ok(bytes),
    }
}

fn parse_fields(mut rest: &[u8]) -> Result<(NodeName, Reach), HeartbeatError> {
    let mut node = None;
    let mut reach = Reach::default();
    while !rest.is_empty() {
        let (kind, value, behind) = split_field(rest)?;
        rest = behind;
        match (kind, value) {
            (FIELD_NODE, name) => {
                let name = std::str::from_utf8(name).map_err(|_| HeartbeatError::Field)?;
                node = Some(NodeName::new(name)).filter(|_| !name.is_empty());
            }
            (FIELD_FAMILIES, [bits, ..]) => {
                let set = |family: &IpFamily| bits & family_bit(*family) != 0;
                reach.families = IpFamily::ALL.into_iter().filter(set).collect();
            }
            (FIELD_PREFIX_V4, [length, octets @ ..]) => {
                let octets: [u8; 4] = octets.try_into().map_err(|_| HeartbeatError::Field)?;
                reach
                    .prefixes
                    .insert(prefix(Ipv4Addr::from(octets).into(), *length)?);
            }
            (FIELD_PREFIX_V6, [length, octets @ ..]) => {
                let octets: [u8; 16] = octets.try_into().map_err(|_| HeartbeatError::Field)?;
                reach
                    .prefixes
                    .insert(prefix(Ipv6Addr::from(octets).into(), *length)?);
            }
            (FIELD_FAMILIES | FIELD_PREFIX_V4 | FIELD_PREFIX_V6, []) => return Err(HeartbeatError::Field),
            (_, _) => {}
        }
    }
    Ok((node.ok_or(HeartbeatError::Field)?, reach))
}

fn prefix(network: IpAddr, length: u8) -> Result<IpNet, HeartbeatError> {
    let net = IpNet::new(network, length).map_err(|_| HeartbeatError::Field)?;
    Ok(net.trunc())
}
