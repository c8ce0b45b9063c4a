// SPDX-License-Identifier: Apache-2.0
//! Elements to and from their bytes in the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_model::{IpFamily, Port, Protocol, address_bits};
use berth_proxy_core::names::{BINDINGS, MapName, NumberMap, SetName};
use berth_proxy_core::nft::bindings::Binding;
use berth_proxy_core::nft::{BINDING_KEY, BINDINGS_SIZE, Element, Entry, Field, Key};
use berth_proxy_core::{AffinityNumber, Frontend, Target};
use ipnet::IpNet;
use nlink::netlink::nftables::{Set, SetDataType, SetElement, SetElementData, SetKeyType};

use super::{Place, family_of};
use crate::Error;

/// nft's `TYPE_INTEGER`: what a random number is.
const TYPE_INTEGER: u32 = 4;
/// nft's `TYPE_CLASSID`.
pub(super) const CLASS: SetKeyType = SetKeyType::Other { type_id: 23, len: 4 };

fn address_type(family: IpFamily) -> SetKeyType {
    match family {
        IpFamily::V4 => SetKeyType::Ipv4Addr,
        IpFamily::V6 => SetKeyType::Ipv6Addr,
    }
}

/// The types of a key's parts.
pub(super) fn field_types(family: IpFamily, fields: &[Field]) -> Vec<SetKeyType> {
    let one = |field: &Field| match field {
        Field::SourceIp | Field::DestinationIp => address_type(family),
        Field::Protocol => SetKeyType::InetProto,
        Field::DestinationPort => SetKeyType::InetService,
        Field::Number => CLASS,
    };
    fields.iter().map(one).collect()
}

/// The declaration of a set.
pub(super) fn set(place: Place, name: SetName) -> Set {
    let Place { table, family } = place;
    let mut types = field_types(family, name.fields());
    let key = if types.len() == 1 {
        types.remove(0)
    } else {
        SetKeyType::Concat(types)
    };
    let set = Set::new(table, &name.to_string())
        .family(family_of(family))
        .key_type(key);
    if name.is_interval() { set.interval() } else { set }
}

/// Key and data type of a slot map.
pub(super) fn map_types(family: IpFamily, name: MapName) -> (SetKeyType, SetKeyType) {
    let mut key = field_types(family, name.fields());
    key.push(SetKeyType::Other {
        type_id: TYPE_INTEGER,
        len: 4,
    });
    let data = vec![address_type(family), SetKeyType::InetService];
    (SetKeyType::Concat(key), SetKeyType::Concat(data))
}

/// A slot map, for its elements; its declaration needs user data besides.
pub(super) fn map(place: Place, name: MapName) -> Set {
    let Place { table, family } = place;
    let (key, data) = map_types(family, name);
    Set::new(table, &name.to_string())
        .family(family_of(family))
        .key_type(key)
        .map(SetDataType::Value(data))
}

/// Key and data type of a map from frontends to numbers.
pub(super) fn number_types(family: IpFamily, name: NumberMap) -> (SetKeyType, SetKeyType) {
    let key = field_types(family, name.0.kind.fields());
    (SetKeyType::Concat(key), CLASS)
}

/// Such a map, for its elements.
pub(super) fn number_map(place: Place, name: NumberMap) -> Set {
    let Place { table, family } = place;
    let (key, data) = number_types(family, name);
    Set::new(table, &name.to_string())
        .family(family_of(family))
        .key_type(key)
        .map(SetDataType::Value(data))
}

/// The map of bindings. Packets fill it.
pub(super) fn bindings(place: Place) -> Set {
    let Place { table, family } = place;
    let data = vec![address_type(family), SetKeyType::InetService];
    Set::new(table, BINDINGS)
        .family(family_of(family))
        .key_type(SetKeyType::Concat(field_types(family, &BINDING_KEY)))
        .map(SetDataType::Value(SetKeyType::Concat(data)))
        .dynamic()
        .per_element_timeouts()
        .size(BINDINGS_SIZE)
}

fn address(ip: IpAddr) -> SetElement {
    match ip {
        IpAddr::V4(ip) => SetElement::ipv4(ip),
        IpAddr::V6(ip) => SetElement::ipv6(ip),
    }
}

fn frontend_parts(frontend: &Frontend) -> Vec<SetElement> {
    let service = [
        SetElement::inet_proto(frontend.protocol().number()),
        SetElement::port(frontend.port().get()),
    ];
    let vip = match frontend {
        Frontend::Vip { ip, .. } => Some(address(*ip)),
        Frontend::NodePort { .. } => None,
    };
    vip.into_iter().chain(service).collect()
}

/// A frontend as the key of a set.
pub(super) fn frontend(frontend: &Frontend) -> SetElement {
    SetElement::concat(frontend_parts(frontend))
}

fn network(net: IpNet) -> Result<SetElement, Error> {
    match net.network() {
        IpAddr::V4(ip) => SetElement::ipv4_prefix(ip, net.prefix_len()),
        IpAddr::V6(ip) => SetElement::ipv6_prefix(ip, net.prefix_len()),
    }
    .map_err(Error::kernel(format!("network {net}")))
}

/// An element in the kernel's form.
pub(super) fn encode(element: &Element) -> Result<SetElement, Error> {
    Ok(match element {
        Element::Member(_, Key::Frontend(frontend)) => self::frontend(frontend),
        Element::Member(SetName::Hairpin, Key::Address(ip)) => {
            SetElement::concat([address(*ip), address(*ip)])
        }
        Element::Member(_, Key::Address(ip)) => address(*ip),
        Element::Member(_, Key::Net(net)) => network(*net)?,
        Element::Member(_, Key::Source(frontend, net)) => {
            let mut key = frontend_parts(frontend);
            key.push(network(*net)?);
            SetElement::concat(key)
        }
        Element::Member(_, Key::Number(number)) => SetElement::mark(number.get()),
        Element::Numbered(entry, number) => {
            SetElement::concat(frontend_parts(&entry.frontend)).value(SetElement::mark(number.get()))
        }
        Element::Slot(entry, slot, target) => {
            let mut key = frontend_parts(&entry.frontend);
            key.push(SetElement::mark(*slot));
            let data = [address(target.ip), SetElement::port(target.port.get())];
            SetElement::concat(key).value(SetElement::concat(data))
        }
    })
}

/// Whether these are the elements of just these networks, in any order.
pub(super) fn are_networks(elements: &[SetElement], networks: &[IpNet]) -> Result<bool, Error> {
    let range = |element: &SetElement| {
        let end = element.key_end().unwrap_or(element.key());
        (element.key().to_vec(), end.to_vec())
    };
    let found: BTreeSet<_> = elements.iter().map(range).collect();
    let mut wanted = BTreeSet::new();
    for net in networks {
        wanted.insert(range(&network(*net)?));
    }
    Ok(found == wanted)
}

/// Reads fields off a key, each padded to four bytes.
struct Fields<'a> {
    family: IpFamily,
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.rest.split_at_checked(N.next_multiple_of(4))?;
        self.rest = rest;
        field.first_chunk().copied()
    }

    fn address(&mut self) -> Option<IpAddr> {
        Some(match self.family {
            IpFamily::V4 => Ipv4Addr::from(self.take::<4>()?).into(),
            IpFamily::V6 => Ipv6Addr::from(self.take::<16>()?).into(),
        })
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let [number] = self.take()?;
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }

    fn number(&mut self) -> Option<AffinityNumber> {
        AffinityNumber::read(u32::from_ne_bytes(self.take()?))
    }

    fn port(&mut self) -> Option<Port> {
        Port::new(u16::from_be_bytes(self.take()?))
    }

    fn target(&mut self) -> Option<Target> {
        Some(Target {
            ip: self.address()?,
            port: self.port()?,
        })
    }

    fn frontend(&mut self, fields: &[Field]) -> Option<Frontend> {
        let ip = if fields.contains(&Field::DestinationIp) {
            Some(self.address()?)
        } else {
            None
        };
        let (protocol, port) = (self.protocol()?, self.port()?);
        Some(match ip {
            Some(ip) => Frontend::Vip { ip, protocol, port },
            None => Frontend::NodePort {
                family: self.family,
                protocol,
                port,
            },
        })
    }
}

/// The network from this address to that; `None` if it is none.
fn network_of(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let host_bits = (address_bits(first) ^ address_bits(last)).count_ones();
    let length = IpFamily::of(first)
        .bits()
        .checked_sub(u8::try_from(host_bits).ok()?)?;
    let net = IpNet::new(first, length).ok()?;
    (net.network() == first && net.broadcast() == last).then_some(net)
}

/// A set's element as ours; `None` for networks ([`are_networks`]) and for what we did not write.
pub(super) fn decode_member(family: IpFamily, name: SetName, element: &SetElement) -> Option<Element> {
    let mut fields = Fields {
        family,
        rest: element.key(),
    };
    let key = match name {
        SetName::ServiceCidrs | SetName::PodCidrs | SetName::NodePortIps => return None,
        SetName::AffinityTimeout(_) => Key::Number(fields.number()?),
        SetName::ClusterIps | SetName::Hairpin => Key::Address(fields.address()?),
        SetName::AllowedSources => {
            let frontend = fields.frontend(name.fields())?;
            let first = fields.address()?;
            let mut end = Fields {
                family,
                rest: element.key_end().unwrap_or(element.key()),
            };
            end.frontend(name.fields())?;
            Key::Source(frontend, network_of(first, end.address()?)?)
        }
        SetName::Frontends(_)
        | SetName::Local(_)
        | SetName::NoEndpoint(_)
        | SetName::Drop(_)
        | SetName::Masquerade(_)
        | SetName::RangedVips
        | SetName::Count(..) => Key::Frontend(fields.frontend(name.fields())?),
    };
    Some(Element::Member(name, key))
}

/// A slot map's element as ours.
pub(super) fn decode_slot(family: IpFamily, name: MapName, element: &SetElement) -> Option<Element> {
    let mut key = Fields {
        family,
        rest: element.key(),
    };
    let entry = Entry {
        frontend: key.frontend(name.fields())?,
        list: name.0.list,
    };
    let slot = u32::from_ne_bytes(key.take()?);
    Some(Element::Slot(entry, slot, data_of(family, element)?.target()?))
}

fn data_of(family: IpFamily, element: &SetElement) -> Option<Fields<'_>> {
    match element.data() {
        Some(SetElementData::Value(rest)) => Some(Fields { family, rest }),
        _ => None,
    }
}

/// A number map's element as ours.
pub(super) fn decode_number(family: IpFamily, name: NumberMap, element: &SetElement) -> Option<Element> {
    let mut key = Fields {
        family,
        rest: element.key(),
    };
    let entry = Entry {
        frontend: key.frontend(name.0.kind.fields())?,
        list: name.0.list,
    };
    Some(Element::Numbered(entry, data_of(family, element)?.number()?))
}

/// A binding's key in the kernel's form: what it takes to remove it.
pub(super) fn encode_binding(binding: &Binding) -> SetElement {
    SetElement::concat([
        address(binding.source),
        SetElement::inet_proto(binding.protocol.number()),
        SetElement::mark(binding.number.get()),
    ])
}

/// An element of the map of bindings.
pub(super) fn decode_binding(family: IpFamily, element: &SetElement) -> Option<Binding> {
    let mut key = Fields {
        family,
        rest: element.key(),
    };
    Some(Binding {
        source: key.address()?,
        protocol: key.protocol()?,
        number: key.number()?,
        target: data_of(family, element)?.target()?,
    })
}

#[cfg(test)]
mod tests {
    use berth_proxy_core::names::Group;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for ip in ["10.96.0.10", "fd00:10:96::a"] {
            let ip: IpAddr = ip.parse().unwrap();
            let family = IpFamily::of(ip);
            let target = Target {
                ip,
                port: 8080.try_into().unwrap(),
            };
            let number = AffinityNumber::read(0xb123_4567).unwrap();
            let vip = Frontend::Vip {
                ip,
                protocol: Protocol::Udp,
                port: 53.try_into().unwrap(),
            };
            let node_port = Frontend::NodePort {
                family,
                protocol: Protocol::Sctp,
                port: 30_007.try_into().unwrap(),
            };
            for frontend in [vip, node_port] {
                for entry in [Entry::main(frontend), Entry::local(frontend)] {
                    let slot = Element::Slot(entry, 65_535, target);
                    assert_eq!(
                        decode_slot(family, MapName::of(&entry), &encode(&slot).unwrap()),
                        Some(slot)
                    );
                    let numbered = Element::Numbered(entry, number);
                    assert_eq!(
                        decode_number(family, NumberMap(entry.group()), &encode(&numbered).unwrap()),
                        Some(numbered)
                    );
                }
            }
            let host = IpNet::from(ip);
            let wide = IpNet::new(ip, 7).unwrap().trunc();
            for (set, key) in [
                (SetName::Count(Group::ALL[1], 7), Key::Frontend(vip)),
                (SetName::Count(Group::ALL[2], 7), Key::Frontend(node_port)),
                (SetName::Drop(Group::ALL[3]), Key::Frontend(node_port)),
                (SetName::RangedVips, Key::Frontend(vip)),
                (SetName::AllowedSources, Key::Source(vip, host)),
                (SetName::AllowedSources, Key::Source(vip, wide)),
                (SetName::ClusterIps, Key::Address(ip)),
                (SetName::Hairpin, Key::Address(ip)),
                (SetName::AffinityTimeout(10_800), Key::Number(number)),
            ] {
                let member = Element::Member(set, key);
                assert_eq!(
                    decode_member(family, set, &encode(&member).unwrap()),
                    Some(member)
                );
            }
        }
    }
}
