// SPDX-License-Identifier: Apache-2.0
//! The messages of the generic netlink family IPVS (Linux's include/uapi/linux/ip_vs.h). Numbers are in the machine's byte
//! order, but for ports and masks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use berth_model::{IpFamily, Port, Protocol};
use berth_proxy_core::Target;
use berth_proxy_core::ipvs::{ServerConfig, ServerKey, Socket};
use nlink::macros::{GenlMessage, genl_family};
use nlink::netlink::MessageBuilder;
use nlink::netlink::attr::AttrIter;

/// `IPVS_CMD_*`.
pub(super) const NEW_SERVICE: u8 = 1;
pub(super) const SET_SERVICE: u8 = 2;
pub(super) const DEL_SERVICE: u8 = 3;
pub(super) const GET_SERVICE: u8 = 4;
pub(super) const NEW_DEST: u8 = 5;
pub(super) const SET_DEST: u8 = 6;
pub(super) const DEL_DEST: u8 = 7;
pub(super) const GET_DEST: u8 = 8;
pub(super) const SET_CONFIG: u8 = 12;
/// `IPVS_CMD_ATTR_*`.
const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;
const TIMEOUT_TCP: u16 = 4;
const TIMEOUT_TCP_FIN: u16 = 5;
const TIMEOUT_UDP: u16 = 6;
/// `IPVS_SVC_ATTR_*`.
const SERVICE_FAMILY: u16 = 1;
const SERVICE_PROTOCOL: u16 = 2;
const SERVICE_ADDRESS: u16 = 3;
const SERVICE_PORT: u16 = 4;
const SERVICE_MARK: u16 = 5;
const SERVICE_SCHEDULER: u16 = 6;
const SERVICE_FLAGS: u16 = 7;
const SERVICE_TIMEOUT: u16 = 8;
const SERVICE_MASK: u16 = 9;
/// `IPVS_DEST_ATTR_*`.
const DEST_ADDRESS: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_METHOD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_UPPER: u16 = 5;
const DEST_LOWER: u16 = 6;
const DEST_ACTIVE: u16 = 7;
const DEST_INACTIVE: u16 = 8;
const DEST_FAMILY: u16 = 11;
/// `AF_INET` and `AF_INET6`.
const INET: u16 = 2;
const INET6: u16 = 10;
/// `NLA_TYPE_MASK`: without the flags of an attribute's type.
const TYPE: u16 = 0x3fff;
/// `IP_VS_CONN_F_MASQ`: destination and answers are translated.
const METHOD_MASQUERADE: u32 = 0;

/// The family, as the kernel numbers it.
#[genl_family(name = "IPVS", version = 1)]
pub(super) struct IpvsFamily;

fn family_number(family: IpFamily) -> u16 {
    match family {
        IpFamily::V4 => INET,
        IpFamily::V6 => INET6,
    }
}

/// `union nf_inet_addr`: 16 bytes, of which IPv4 has the first four.
fn address_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn address(family: IpFamily, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        IpFamily::V4 => <[u8; 4]>::try_from(bytes.get(..4)?)
            .ok()
            .map(|b| Ipv4Addr::from(b).into()),
        IpFamily::V6 => <[u8; 16]>::try_from(bytes.get(..16)?)
            .ok()
            .map(|b| Ipv6Addr::from(b).into()),
    }
}

fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn port_of(bytes: &[u8]) -> Option<Port> {
    Port::new(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// Something about a server: `CMD` says what.
#[derive(Debug)]
pub(super) struct ServerRequest<const CMD: u8> {
    pub(super) key: ServerKey,
    pub(super) config: Option<ServerConfig>,
}

/// Something about a destination.
#[derive(Debug)]
pub(super) struct DestinationRequest<const CMD: u8> {
    pub(super) key: ServerKey,
    pub(super) target: Target,
    pub(super) weight: Option<u32>,
}

/// Every server of both families.
#[derive(Debug)]
pub(super) struct AllServers;

/// The timeouts of connections, all services'.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) tcp: Duration,
    pub(super) tcp_fin: Duration,
    pub(super) udp: Duration,
}

/// An answer that says no more than that it was done.
#[derive(Debug, Default)]
pub(super) struct Nothing;

/// A server as the kernel has it; `None` where it is of no kind that we make.
#[derive(Debug, Default)]
pub(super) struct ServerReply(pub(super) Option<(ServerKey, ServerConfig)>);

/// A destination as the kernel has it.
#[derive(Debug, Default)]
pub(super) struct DestinationReply {
    pub(super) family: Option<IpFamily>,
    address: Vec<u8>,
    port: Option<Port>,
    pub(super) weight: u32,
    pub(super) connections: u32,
}

impl DestinationReply {
    /// Where it is, among the destinations of a server of this family.
    pub(super) fn target(&self, server: IpFamily) -> Option<Target> {
        Some(Target {
            ip: address(self.family.unwrap_or(server), &self.address)?,
            port: self.port?,
        })
    }
}

fn append_server(builder: &mut MessageBuilder, key: &ServerKey, config: Option<&ServerConfig>) {
    let nest = builder.nest_start(SERVICE);
    let family = key.family();
    builder.append_attr_u16(SERVICE_FAMILY, family_number(family));
    match key {
        ServerKey::Socket(Socket { ip, protocol, port }) => {
            builder.append_attr_u16(SERVICE_PROTOCOL, protocol.number().into());
            builder.append_attr(SERVICE_ADDRESS, &address_bytes(*ip));
            builder.append_attr_u16_be(SERVICE_PORT, port.get());
        }
        ServerKey::Mark { mark, .. } => builder.append_attr_u32(SERVICE_MARK, *mark),
    }
    if let Some(config) = config {
        builder.append_attr_str(SERVICE_SCHEDULER, config.scheduler.as_str());
        // `struct ip_vs_flags`: the flags, and which of them are meant.
        let flags = [config.flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
        builder.append_attr(SERVICE_FLAGS, &flags);
        builder.append_attr_u32(SERVICE_TIMEOUT, config.timeout);
        // Every client by itself: a mask in IPv4, a length in IPv6.
        let mask = match family {
            IpFamily::V4 => u32::MAX,
            IpFamily::V6 => 128,
        };
        builder.append_attr_u32(SERVICE_MASK, mask);
    }
    builder.nest_end(nest);
}

impl<const CMD: u8> GenlMessage for ServerRequest<CMD> {
    const CMD: u8 = CMD;

    fn to_bytes(&self, builder: &mut MessageBuilder) -> nlink::Result<()> {
        append_server(builder, &self.key, self.config.as_ref());
        Ok(())
    }

    fn from_bytes(_: &[u8]) -> nlink::Result<Self> {
        Err(nlink::Error::invalid_message("a request is never read"))
    }
}

impl<const CMD: u8> GenlMessage for DestinationRequest<CMD> {
    const CMD: u8 = CMD;

    fn to_bytes(&self, builder: &mut MessageBuilder) -> nlink::Result<()> {
        append_server(builder, &self.key, None);
        let nest = builder.nest_start(DESTINATION);
        builder.append_attr_u16(DEST_FAMILY, family_number(IpFamily::of(self.target.ip)));
        builder.append_attr(DEST_ADDRESS, &address_bytes(self.target.ip));
        builder.append_attr_u16_be(DEST_PORT, self.target.port.get());
        if let Some(weight) = self.weight {
            builder.append_attr_u32(DEST_METHOD, METHOD_MASQUERADE);
            builder.append_attr_u32(DEST_WEIGHT, weight);
            // No bound on connections.
            builder.append_attr_u32(DEST_UPPER, 0);
            builder.append_attr_u32(DEST_LOWER, 0);
        }
        builder.nest_end(nest);
        Ok(())
    }

    fn from_bytes(_: &[u8]) -> nlink::Result<Self> {
        Err(nlink::Error::invalid_message("a request is never read"))
    }
}

impl GenlMessage for AllServers {
    const CMD: u8 = GET_SERVICE;

    fn to_bytes(&self, _: &mut MessageBuilder) -> nlink::Result<()> {
        Ok(())
    }

    fn from_bytes(_: &[u8]) -> nlink::Result<Self> {
        Ok(Self)
    }
}

impl GenlMessage for Timeouts {
    const CMD: u8 = SET_CONFIG;

    /// Zero leaves a timeout as it is.
    fn to_bytes(&self, builder: &mut MessageBuilder) -> nlink::Result<()> {
        for (attribute, timeout) in [
            (TIMEOUT_TCP, self.tcp),
            (TIMEOUT_TCP_FIN, self.tcp_fin),
            (TIMEOUT_UDP, self.udp),
        ] {
            let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
            builder.append_attr_u32(attribute, seconds);
        }
        Ok(())
    }

    fn from_bytes(_: &[u8]) -> nlink::Result<Self> {
        Err(nlink::Error::invalid_message("a request is never read"))
    }
}

impl GenlMessage for Nothing {
    const CMD: u8 = 0;

    fn to_bytes(&self, _: &mut MessageBuilder) -> nlink::Result<()> {
        Ok(())
    }

    fn from_bytes(_: &[u8]) -> nlink::Result<Self> {
        Ok(Self)
    }
}

/// The attributes inside the one of this type.
fn nested(payload: &[u8], wanted: u16) -> Vec<(u16, &[u8])> {
    let inner = AttrIter::new(payload).find(|(kind, _)| kind & TYPE == wanted);
    let attributes = AttrIter::new(inner.map_or(&[], |(_, bytes)| bytes));
    attributes.map(|(kind, bytes)| (kind & TYPE, bytes)).collect()
}

fn find<'a>(attributes: &[(u16, &'a [u8])], wanted: u16) -> Option<&'a [u8]> {
    let found = attributes.iter().find(|(kind, _)| *kind == wanted);
    found.map(|(_, bytes)| *bytes)
}

fn family(number: u16) -> Option<IpFamily> {
    IpFamily::ALL
        .into_iter()
        .find(|family| family_number(*family) == number)
}

fn server(attributes: &[(u16, &[u8])]) -> Option<(ServerKey, ServerConfig)> {
    let get = |wanted| find(attributes, wanted);
    let family = family(get(SERVICE_FAMILY).and_then(u16_of)?)?;
    let key = match get(SERVICE_MARK).and_then(u32_of) {
        Some(mark) => ServerKey::Mark { family, mark },
        None => {
            let number = get(SERVICE_PROTOCOL).and_then(u16_of)?;
            let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
            ServerKey::Socket(Socket {
                ip: address(family, get(SERVICE_ADDRESS)?)?,
                protocol: protocols.into_iter().find(|p| u16::from(p.number()) == number)?,
                port: get(SERVICE_PORT).and_then(port_of)?,
            })
        }
    };
    let scheduler = get(SERVICE_SCHEDULER).unwrap_or_default();
    let scheduler = String::from_utf8_lossy(scheduler);
    let config = ServerConfig::observed(
        scheduler.trim_end_matches('\0'),
        get(SERVICE_FLAGS).and_then(u32_of).unwrap_or_default(),
        get(SERVICE_TIMEOUT).and_then(u32_of).unwrap_or_default(),
    );
    Some((key, config))
}

impl GenlMessage for ServerReply {
    const CMD: u8 = NEW_SERVICE;

    fn to_bytes(&self, _: &mut MessageBuilder) -> nlink::Result<()> {
        Err(nlink::Error::invalid_message("an answer is never sent"))
    }

    fn from_bytes(payload: &[u8]) -> nlink::Result<Self> {
        Ok(Self(server(&nested(payload, SERVICE))))
    }
}

impl GenlMessage for DestinationReply {
    const CMD: u8 = NEW_DEST;

    fn to_bytes(&self, _: &mut MessageBuilder) -> nlink::Result<()> {
        Err(nlink::Error::invalid_message("an answer is never sent"))
    }

    fn from_bytes(payload: &[u8]) -> nlink::Result<Self> {
        let attributes = nested(payload, DESTINATION);
        let number = |wanted| find(&attributes, wanted).and_then(u32_of).unwrap_or_default();
        Ok(Self {
            family: find(&attributes, DEST_FAMILY).and_then(u16_of).and_then(family),
            address: find(&attributes, DEST_ADDRESS).unwrap_or_default().to_vec(),
            port: find(&attributes, DEST_PORT).and_then(port_of),
            weight: number(DEST_WEIGHT),
            connections: number(DEST_ACTIVE).saturating_add(number(DEST_INACTIVE)),
        })
    }
}

#[cfg(test)]
mod tests {
    use berth_proxy_core::ipvs::Scheduler;

    use super::*;

    /// What the message has after its headers.
    fn body(message: &impl GenlMessage) -> Vec<u8> {
        let mut builder = MessageBuilder::new(0, 0);
        let headers = builder.len();
        message.to_bytes(&mut builder).unwrap();
        builder.as_bytes()[headers..].to_vec()
    }

    #[test]
    fn a_server_reads_back_as_it_was_written() {
        let port = 443.try_into().unwrap();
        let socket = |ip: &str, protocol| {
            ServerKey::Socket(Socket {
                ip: ip.parse().unwrap(),
                protocol,
                port,
            })
        };
        let config = ServerConfig::persistent(Scheduler::Wrr, 300);
        for key in [
            socket("10.96.0.1", Protocol::Tcp),
            socket("fd00:96::1", Protocol::Sctp),
            ServerKey::Mark {
                family: IpFamily::V6,
                mark: 0xbc00_0001,
            },
        ] {
            let request = ServerRequest::<NEW_SERVICE> {
                key,
                config: Some(config),
            };
            let reply = ServerReply::from_bytes(&body(&request)).unwrap();
            assert_eq!(reply.0, Some((key, config)));
        }
        assert_eq!(ServerReply::from_bytes(&[]).unwrap().0, None);
    }

    #[test]
    fn a_destination_reads_back_as_it_was_written() {
        for ip in ["10.244.0.7", "fd00:244::7"] {
            let target = Target {
                ip: ip.parse().unwrap(),
                port: 8_080.try_into().unwrap(),
            };
            let key = ServerKey::Mark {
                family: IpFamily::of(target.ip),
                mark: 7,
            };
            let request = DestinationRequest::<NEW_DEST> {
                key,
                target,
                weight: Some(1),
            };
            let reply = DestinationReply::from_bytes(&body(&request)).unwrap();
            assert_eq!(reply.target(key.family()), Some(target));
            assert_eq!((reply.weight, reply.connections), (1, 0));
        }
    }

    #[test]
    fn attributes_are_where_the_header_file_has_them() {
        let request = ServerRequest::<NEW_SERVICE> {
            key: ServerKey::Socket(Socket {
                ip: [10, 0, 0, 1].into(),
                protocol: Protocol::Tcp,
                port: 80.try_into().unwrap(),
            }),
            config: None,
        };
        let attributes = body(&request);
        let inner = nested(&attributes, 1);
        let kinds: Vec<(u16, usize)> = inner.iter().map(|(kind, bytes)| (*kind, bytes.len())).collect();
        assert_eq!(kinds, [(1, 2), (2, 2), (3, 16), (4, 2)]);
        assert_eq!(find(&inner, 4), Some([0, 80].as_slice()));
    }
}
