// SPDX-License-Identifier: Apache-2.0
//! The wire forms against the RFCs' rules, against etherparse, and against noise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_model::{IpFamily, NodeName};
use etherparse::{Ethernet2Header, Icmpv6Header, Ipv6Header};
use proptest::prelude::*;

use super::arp::{Arp, ArpError, Operation};
use super::ethernet::{Frame, MacAddr, TYPE_ARP, TYPE_IPV6};
use super::heartbeat::{Heartbeat, HeartbeatError, HeartbeatKey, KeyTooShort, Phase, Reach};
use super::ndp::{ALL_NODES, Advertisement, IPV6_LEN, NdpError, Solicitation, solicited_node_group};

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const TARGET: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0x12, 0x3456);
const ASKER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);

fn solicitation() -> Solicitation {
    Solicitation {
        source: ASKER,
        destination: solicited_node_group(TARGET),
        target: TARGET,
        source_link: Some(THEIRS),
    }
}

fn payload(frame: &[u8]) -> Vec<u8> {
    frame[14..].to_vec()
}

#[test]
fn a_solicited_node_group_carries_the_last_three_bytes() {
    let group = solicited_node_group(TARGET);
    assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
    assert_eq!(MacAddr::of_ipv6_group(group).to_string(), "33:33:ff:12:34:56");
}

#[test]
fn arp_bytes_are_those_of_rfc_826() {
    let frame = Arp::request(OURS, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2))
        .to_frame(MacAddr::BROADCAST);
    let expected: &[u8] = &[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06, // Ethernet
        0, 1, 0x08, 0, 6, 4, 0, 1, // Ethernet, IPv4, lengths, request
        2, 0, 0, 0, 0, 1, 10, 0, 0, 1, // sender
        0, 0, 0, 0, 0, 0, 10, 0, 0, 2, // target
    ];
    assert_eq!(frame, expected);
}

#[test]
fn arp_that_is_not_for_ipv4_over_ethernet_is_named() {
    let good = Arp::probe(OURS, Ipv4Addr::new(10, 0, 0, 2)).to_bytes();
    let with = |offset: usize, value: u8| {
        let mut packet = good;
        packet[offset] = value;
        Arp::parse(&packet)
    };
    assert_eq!(Arp::parse(&good[..27]), Err(ArpError::Truncated));
    for offset in [0, 1, 2, 3, 4, 5] {
        assert_eq!(
            with(offset, 0x55),
            Err(ArpError::OtherAddresses),
            "offset {offset}"
        );
    }
    assert_eq!(with(7, 3), Err(ArpError::OtherOperation(3)));
    assert!(matches!(with(8, 0xff), Err(ArpError::BadSender(_))));
}

#[test]
fn a_solicitation_that_rfc_4861_discards_is_discarded() {
    let packet = payload(&solicitation().to_frame(THEIRS, OURS));
    assert_eq!(Solicitation::parse(&packet), Ok(solicitation()));
    let with = |offset: usize, value: u8| {
        let mut changed = packet.clone();
        changed[offset] = value;
        Solicitation::parse(&changed)
    };
    assert_eq!(with(7, 254), Err(NdpError::HopLimit(254)));
    assert_eq!(with(6, 17), Err(NdpError::OtherMessage));
    assert_eq!(with(0, 0x40), Err(NdpError::OtherMessage));
    assert_eq!(with(IPV6_LEN, 136), Err(NdpError::OtherMessage));
    assert_eq!(with(IPV6_LEN + 1, 1), Err(NdpError::Code(1)));
    assert_eq!(
        with(IPV6_LEN + 2, packet[IPV6_LEN + 2] ^ 1),
        Err(NdpError::Checksum)
    );
    assert_eq!(
        Solicitation::parse(&packet[..packet.len() - 1]),
        Err(NdpError::Truncated)
    );
    assert_eq!(Solicitation::parse(&[]), Err(NdpError::Truncated));
}

#[test]
fn contradictory_solicitations_are_discarded_although_their_checksum_is_right() {
    let rows = [
        (
            "an unspecified source with a link-layer option",
            Solicitation {
                source: Ipv6Addr::UNSPECIFIED,
                ..solicitation()
            },
        ),
        (
            "an unspecified source outside the solicited-node group",
            Solicitation {
                source: Ipv6Addr::UNSPECIFIED,
                source_link: None,
                destination: TARGET,
                ..solicitation()
            },
        ),
        (
            "another group",
            Solicitation {
                destination: ALL_NODES,
                ..solicitation()
            },
        ),
        (
            "a group as source",
            Solicitation {
                source: ALL_NODES,
                ..solicitation()
            },
        ),
    ];
    for (name, bad) in rows {
        let packet = payload(&bad.to_frame(THEIRS, OURS));
        assert_eq!(
            Solicitation::parse(&packet),
            Err(NdpError::Contradiction),
            "{name}"
        );
    }
    let group_target = Solicitation {
        target: ALL_NODES,
        destination: solicited_node_group(ALL_NODES),
        ..solicitation()
    };
    let packet = payload(&group_target.to_frame(THEIRS, OURS));
    assert_eq!(
        Solicitation::parse(&packet),
        Err(NdpError::MulticastTarget(ALL_NODES))
    );
}

#[test]
fn an_option_of_length_zero_ends_the_walk() {
    let mut packet = payload(&solicitation().to_frame(THEIRS, OURS));
    // The checksum is one's complement: moving the value into the next word keeps the sum.
    let option = IPV6_LEN + 24;
    packet[option + 3] += packet[option + 1];
    packet[option + 1] = 0;
    assert_eq!(Solicitation::parse(&packet), Err(NdpError::ZeroOption));
}

#[test]
fn an_unsolicited_advertisement_overrides_and_goes_to_all_nodes() {
    let said = Advertisement::unsolicited(OURS, TARGET);
    let frame = said.to_frame(OURS, MacAddr::of_ipv6_group(ALL_NODES));
    assert_eq!(Advertisement::parse(&frame[14..]), Ok(said));
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    let flags = frame[14 + IPV6_LEN + 4];
    assert_eq!(flags, 0x20, "R and S clear, O set");
    assert_eq!(frame[14 + 7], 255, "hop limit");
}

#[test]
fn etherparse_reads_what_we_build() {
    let frame = solicitation().to_frame(THEIRS, MacAddr::of_ipv6_group(solicited_node_group(TARGET)));
    let (ethernet, rest) = Ethernet2Header::from_slice(&frame).unwrap();
    assert_eq!(ethernet.source, THEIRS.0);
    let (ip, rest) = Ipv6Header::from_slice(rest).unwrap();
    assert_eq!((ip.hop_limit, usize::from(ip.payload_length)), (255, rest.len()));
    assert_eq!(
        (ip.source_addr(), ip.destination_addr()),
        (ASKER, solicited_node_group(TARGET))
    );
    let (icmp, body) = Icmpv6Header::from_slice(rest).unwrap();
    let sum = icmp
        .icmp_type
        .calc_checksum(ip.source, ip.destination, body)
        .unwrap();
    assert_eq!(icmp.checksum, sum);

    let arp = Arp::gratuitous_reply(OURS, Ipv4Addr::new(10, 77, 0, 200));
    let parsed = etherparse::ArpPacketSlice::from_slice(&arp.to_bytes())
        .unwrap()
        .to_packet();
    assert_eq!(parsed.sender_hw_addr(), OURS.0);
    assert_eq!(parsed.target_protocol_addr(), [10, 77, 0, 200]);
    assert_eq!(parsed.operation, etherparse::ArpOperation::REPLY);
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        node: NodeName::new("node-1"),
        instance: 7,
        incarnation: 1_700_000_000_000_000,
        sequence: 3,
        phase: Phase::Established,
        reach: Reach {
            families: [IpFamily::V4].into(),
            prefixes: ["10.77.0.0/24".parse().unwrap(), "fd00:77::/64".parse().unwrap()].into(),
        },
    }
}

#[test]
fn a_heartbeat_with_a_field_of_tomorrow_is_understood() {
    let mut bytes = heartbeat().to_bytes(None);
    bytes.extend_from_slice(&[77, 0, 2, 1, 2]);
    let length = u16::try_from(bytes.len()).unwrap();
    bytes[6..8].copy_from_slice(&length.to_be_bytes());
    assert_eq!(Heartbeat::parse(&bytes, None), Ok(heartbeat()));
}

#[test]
fn a_heartbeat_that_is_not_ours_says_why() {
    let good = heartbeat().to_bytes(None);
    let with = |offset: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[offset] = value;
        Heartbeat::parse(&bytes, None)
    };
    assert_eq!(Heartbeat::parse(b"hello", None), Err(HeartbeatError::Foreign));
    assert_eq!(Heartbeat::parse(&good[..20], None), Err(HeartbeatError::Length));
    assert_eq!(with(4, 9), Err(HeartbeatError::Version(9)));
    assert_eq!(with(5, 9), Err(HeartbeatError::Field));
    assert_eq!(with(7, 0), Err(HeartbeatError::Length));
    assert_eq!(with(32, 99), Err(HeartbeatError::Field), "no node name");
}

#[test]
fn keys_must_agree() {
    let key = HeartbeatKey::new(b"sixteen bytes ok").unwrap();
    let other = HeartbeatKey::new(b"sixteen bytes no").unwrap();
    let sealed = heartbeat().to_bytes(Some(&key));
    assert_eq!(Heartbeat::parse(&sealed, Some(&key)), Ok(heartbeat()));
    assert_eq!(
        Heartbeat::parse(&sealed, Some(&other)),
        Err(HeartbeatError::WrongCode)
    );
    assert_eq!(Heartbeat::parse(&sealed, None), Err(HeartbeatError::NoKey));
    let open = heartbeat().to_bytes(None);
    assert_eq!(
        Heartbeat::parse(&open, Some(&key)),
        Err(HeartbeatError::Unauthenticated)
    );
    let mut forged = sealed;
    forged[20] ^= 1;
    assert_eq!(
        Heartbeat::parse(&forged, Some(&key)),
        Err(HeartbeatError::WrongCode)
    );
    assert_eq!(HeartbeatKey::new(b"short").unwrap_err(), KeyTooShort(5));
}

fn any_mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn any_station() -> impl Strategy<Value = MacAddr> {
    any_mac().prop_filter("a station", |mac| !mac.is_group() && *mac != MacAddr::ZERO)
}

fn any_net() -> impl Strategy<Value = ipnet::IpNet> {
    (any::<IpAddr>(), 0u8..=128).prop_map(|(address, length)| {
        let length = if address.is_ipv4() { length.min(32) } else { length };
        ipnet::IpNet::new(address, length).unwrap().trunc()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = Frame::parse(&bytes);
        let _ = Arp::parse(&bytes);
        let _ = Solicitation::parse(&bytes);
        let _ = Advertisement::parse(&bytes);
        let _ = Heartbeat::parse(&bytes, None);
    }

    #[test]
    fn almost_good_bytes_never_panic(at in 0usize..200, value: u8, cut in 0usize..200) {
        let key = HeartbeatKey::new(&[1; 32]).unwrap();
        for bytes in [heartbeat().to_bytes(None), heartbeat().to_bytes(Some(&key)), payload(&solicitation().to_frame(THEIRS, OURS))] {
            let mut changed = bytes;
            let end = changed.len();
            changed[at % end] = value;
            changed.truncate(cut.max(1).min(end));
            let _ = Heartbeat::parse(&changed, None);
            let _ = Heartbeat::parse(&changed, Some(&key));
            let _ = Solicitation::parse(&changed);
        }
    }

    #[test]
    fn a_changed_solicitation_is_never_taken_for_a_good_one(at in 0usize..72, flip in 1u8..=255) {
        let good = payload(&solicitation().to_frame(THEIRS, OURS));
        let mut changed = good.clone();
        changed[at] ^= flip;
        // Outside the checksum: version, traffic class and flow label do not change what is asked.
        if let Ok(parsed) = Solicitation::parse(&changed) {
            prop_assert!(at < 4, "byte {at}");
            prop_assert_eq!(parsed, solicitation());
        }
    }

    #[test]
    fn arp_reads_back(request: bool, sender_mac in any_station(), sender_ip: Ipv4Addr, target_mac in any_mac(), target_ip: Ipv4Addr, padding in 0usize..20) {
        let operation = if request { Operation::Request } else { Operation::Reply };
        let arp = Arp { operation, sender_mac, sender_ip, target_mac, target_ip };
        let mut frame = arp.to_frame(target_mac);
        frame.resize(frame.len() + padding, 0);
        let parsed = Frame::parse(&frame).unwrap();
        prop_assert_eq!((parsed.ether_type, parsed.source), (TYPE_ARP, sender_mac));
        prop_assert_eq!(Arp::parse(parsed.payload), Ok(arp));
    }

    #[test]
    fn advertisements_read_back(source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr, bits in any::<(bool, bool, bool)>(), target_link in proptest::option::of(any_mac())) {
        let said = Advertisement { source, destination, target, router: bits.0, solicited: bits.1, overriding: bits.2, target_link };
        let contradicts = said.solicited && destination.is_multicast();
        prop_assume!(!target.is_multicast() && !contradicts);
        let frame = said.to_frame(OURS, THEIRS);
        let parsed = Frame::parse(&frame).unwrap();
        prop_assert_eq!(parsed.ether_type, TYPE_IPV6);
        prop_assert_eq!(Advertisement::parse(parsed.payload), Ok(said));
    }

    #[test]
    fn heartbeats_read_back(name in "[a-z0-9.-]{1,253}", numbers: [u64; 3], phase in 0usize..3, prefixes in proptest::collection::btree_set(any_net(), 0..32), sealed: bool) {
        let phase = [Phase::Joining, Phase::Established, Phase::Leaving][phase];
        let [instance, incarnation, sequence] = numbers;
        let said = Heartbeat { node: NodeName::new(name.as_str()), instance, incarnation, sequence, phase, reach: Reach { families: [IpFamily::V6].into(), prefixes } };
        let key = sealed.then(|| HeartbeatKey::new(&[7; 20]).unwrap());
        let bytes = said.to_bytes(key.as_ref());
        prop_assert!(bytes.len() <= super::heartbeat::MAX_LEN);
        prop_assert_eq!(Heartbeat::parse(&bytes, key.as_ref()), Ok(said));
    }
}
