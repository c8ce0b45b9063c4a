// SPDX-License-Identifier: Apache-2.0
//! A frame and what is announced where it arrived, to the answer or the reason for silence.

use std::fmt;
use std::net::IpAddr;

use crate::wire::arp::{Arp, ArpError, Operation};
use crate::wire::ethernet::{Frame, MacAddr, TYPE_ARP, TYPE_IPV6};
use crate::wire::ndp::{ALL_NODES, Advertisement, NdpError, Solicitation};

/// Which protocol an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnswerKind {
    /// An ARP reply.
    ArpReply,
    /// A solicited Neighbor Advertisement.
    NeighborAdvertisement,
}

/// The frame that answers a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The address that was asked for.
    pub address: IpAddr,
    /// What kind of frame it is.
    pub kind: AnswerKind,
    /// The bytes to send on the interface on which the question came.
    pub frame: Vec<u8>,
}

/// Why a frame gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// It came in on an interface that carries no announcement.
    WrongInterface,
    /// It is shorter than an Ethernet header.
    Runt,
    /// It is addressed to another station.
    OtherStation,
    /// We have sent it ourselves.
    OwnFrame,
    /// It is neither ARP nor IPv6.
    OtherProtocol,
    /// It breaks ARP's format.
    MalformedArp(ArpError),
    /// It breaks NDP's format, or is another IPv6 packet.
    MalformedNdp(NdpError),
    /// An ARP reply: nobody asks anything.
    NotRequest,
    /// The sender claims the address for itself.
    ForeignClaim(IpAddr),
    /// The address asked for is not announced here.
    NotAnnounced,
}

impl DropReason {
    /// The stable short form for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::WrongInterface => "wrong_interface",
            Self::Runt => "runt",
            Self::OtherStation => "other_station",
            Self::OwnFrame => "own_frame",
            Self::OtherProtocol => "other_protocol",
            Self::MalformedArp(_) => "malformed_arp",
            Self::MalformedNdp(_) => "malformed_ndp",
            Self::NotRequest => "not_request",
            Self::ForeignClaim(_) => "foreign_claim",
            Self::NotAnnounced => "not_announced",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// Answers a frame that came in on the interface with hardware address `mac`, where `announced` says for
/// which addresses this interface speaks.
///
/// # Errors
/// The reason for silence.
pub fn respond(bytes: &[u8], mac: MacAddr, announced: impl Fn(IpAddr) -> bool) -> Result<Answer, DropReason> {
    let frame = Frame::parse(bytes).ok_or(DropReason::Runt)?;
    if frame.source == mac {
        return Err(DropReason::OwnFrame);
    }
    if frame.destination != mac && !frame.destination.is_group() {
        return Err(DropReason::OtherStation);
    }
    match frame.ether_type {
        TYPE_ARP => respond_arp(&frame, mac, announced),
        TYPE_IPV6 => respond_ndp(&frame, mac, announced),
        _ => Err(DropReason::OtherProtocol),
    }
}

fn respond_arp(
    frame: &Frame<'_>,
    mac: MacAddr,
    announced: impl Fn(IpAddr) -> bool,
) -> Result<Answer, DropReason> {
    if frame.destination.is_group() && frame.destination != MacAddr::BROADCAST {
        return Err(DropReason::OtherStation);
    }
    let question = Arp::parse(frame.payload).map_err(DropReason::MalformedArp)?;
    let address = IpAddr::V4(question.target_ip);
    if question.sender_mac == mac {
        return Err(DropReason::OwnFrame);
    }
    if announced(IpAddr::V4(question.sender_ip)) {
        return Err(DropReason::ForeignClaim(IpAddr::V4(question.sender_ip)));
    }
    match question.operation {
        Operation::Request => {}
        Operation::Reply => return Err(DropReason::NotRequest),
    }
    if !announced(address) {
        return Err(DropReason::NotAnnounced);
    }
    // A probe has no sender address and is answered like a question: that is how the prober learns of
    // the conflict (RFC 5227 section 2.1.1).
    Ok(Answer {
        address,
        kind: AnswerKind::ArpReply,
        frame: question.answer(mac).to_frame(question.sender_mac),
    })
}

fn respond_ndp(
    frame: &Frame<'_>,
    mac: MacAddr,
    announced: impl Fn(IpAddr) -> bool,
) -> Result<Answer, DropReason> {
    let question = Solicitation::parse(frame.payload).map_err(DropReason::MalformedNdp)?;
    let address = IpAddr::V6(question.target);
    if !announced(address) {
        return Err(DropReason::NotAnnounced);
    }
    if !question.destination.is_multicast() && question.destination != question.target {
        return Err(DropReason::NotAnnounced);
    }
    if question.source == question.target {
        return Err(DropReason::ForeignClaim(address));
    }
    let advertisement = Advertisement {
        source: question.target,
        target: question.target,
        router: false,
        // The one owner of the address: the asker is to replace what it has cached (RFC 4861 section
        // 7.2.4 keeps O for all but proxies and anycast).
        overriding: true,
        target_link: Some(mac),
        // Duplicate address detection has no address to answer to: RFC 4861 section 7.2.4.
        solicited: !question.source.is_unspecified(),
        destination: if question.source.is_unspecified() {
            ALL_NODES
        } else {
            question.source
        },
    };
    let to = if question.source.is_unspecified() {
        MacAddr::of_ipv6_group(ALL_NODES)
    } else {
        question.source_link.unwrap_or(frame.source)
    };
    Ok(Answer {
        address,
        kind: AnswerKind::NeighborAdvertisement,
        frame: advertisement.to_frame(mac, to),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::wire::ndp::solicited_node_group;

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
    const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x200);
    const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x100);

    fn ours(address: IpAddr) -> bool {
        address == IpAddr::V4(VIP) || address == IpAddr::V6(VIP6)
    }

    fn answer(bytes: &[u8]) -> Result<Answer, DropReason> {
        respond(bytes, OURS, ours)
    }

    fn reply_in(answer: &Answer) -> (MacAddr, Arp) {
        let frame = Frame::parse(&answer.frame).unwrap();
        (frame.destination, Arp::parse(frame.payload).unwrap())
    }

    #[test]
    fn a_request_is_answered_to_the_asker() {
        for to in [MacAddr::BROADCAST, OURS] {
            let got = answer(&Arp::request(ASKER, CLIENT, VIP).to_frame(to)).unwrap();
            let (destination, reply) = reply_in(&got);
            assert_eq!(destination, ASKER);
            assert_eq!(
                reply,
                Arp {
                    operation: Operation::Reply,
                    sender_mac: OURS,
                    sender_ip: VIP,
                    target_mac: ASKER,
                    target_ip: CLIENT,
                }
            );
        }
    }

    #[test]
    fn a_probe_is_answered_so_that_the_prober_sees_the_conflict() {
        let got = answer(&Arp::probe(ASKER, VIP).to_frame(MacAddr::BROADCAST)).unwrap();
        let (_, reply) = reply_in(&got);
        assert_eq!((reply.sender_ip, reply.target_ip), (VIP, Ipv4Addr::UNSPECIFIED));
    }

    #[test]
    fn what_gets_no_answer_says_why() {
        let request = Arp::request(ASKER, CLIENT, VIP);
        let other = Ipv4Addr::new(10, 77, 0, 201);
        let rows = [
            (request.to_frame(ASKER), DropReason::OtherStation),
            (
                request.to_frame(MacAddr([1, 0, 0x5e, 0, 0, 1])),
                DropReason::OtherStation,
            ),
            (
                Arp::request(OURS, CLIENT, VIP).to_frame(MacAddr::BROADCAST),
                DropReason::OwnFrame,
            ),
            (
                Arp::request(ASKER, CLIENT, other).to_frame(OURS),
                DropReason::NotAnnounced,
            ),
            (
                Arp::gratuitous_reply(ASKER, other).to_frame(MacAddr::BROADCAST),
                DropReason::NotRequest,
            ),
            (
                Arp::gratuitous_request(ASKER, VIP).to_frame(MacAddr::BROADCAST),
                DropReason::ForeignClaim(VIP.into()),
            ),
            (
                Arp::gratuitous_reply(ASKER, VIP).to_frame(MacAddr::BROADCAST),
                DropReason::ForeignClaim(VIP.into()),
            ),
            (
                request.to_frame(OURS)[..40].to_vec(),
                DropReason::MalformedArp(ArpError::Truncated),
            ),
            (vec![0; 13], DropReason::Runt),
            (vec![0xff; 60], DropReason::OtherProtocol),
        ];
        for (frame, reason) in rows {
            assert_eq!(answer(&frame), Err(reason), "{frame:02x?}");
        }
    }

    fn ask6(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        link: Option<MacAddr>,
        to: MacAddr,
    ) -> Result<Answer, DropReason> {
        let question = Solicitation {
            source,
            destination,
            target: VIP6,
            source_link: link,
        };
        answer(&question.to_frame(ASKER, to))
    }

    #[test]
    fn solicitations_are_answered_as_rfc_4861_says() {
        let group = solicited_node_group(VIP6);
        let group_mac = MacAddr::of_ipv6_group(group);
        let nobody = Ipv6Addr::UNSPECIFIED;
        let all_mac = MacAddr::of_ipv6_group(ALL_NODES);
        let rows = [
            (
                "address resolution",
                CLIENT6,
                group,
                Some(ASKER),
                group_mac,
                true,
                CLIENT6,
                ASKER,
            ),
            (
                "a unicast probe without a link-layer option",
                CLIENT6,
                VIP6,
                None,
                OURS,
                true,
                CLIENT6,
                ASKER,
            ),
            (
                "a multicast question without a link-layer option",
                CLIENT6,
                group,
                None,
                group_mac,
                true,
                CLIENT6,
                ASKER,
            ),
            (
                "duplicate address detection",
                nobody,
                group,
                None,
                group_mac,
                false,
                ALL_NODES,
                all_mac,
            ),
        ];
        for (name, source, destination, link, to, solicited, answered, station) in rows {
            let got = ask6(source, destination, link, to).unwrap();
            let frame = Frame::parse(&got.frame).unwrap();
            assert_eq!((frame.source, frame.destination), (OURS, station), "{name}");
            let expected = Advertisement {
                solicited,
                destination: answered,
                ..Advertisement::unsolicited(OURS, VIP6)
            };
            assert_eq!(Advertisement::parse(frame.payload), Ok(expected), "{name}");
        }
    }

    #[test]
    fn solicitations_for_others_are_not_answered() {
        let other = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x201);
        let question = Solicitation {
            source: CLIENT6,
            destination: solicited_node_group(other),
            target: other,
            source_link: Some(ASKER),
        };
        let frame = question.to_frame(ASKER, MacAddr::of_ipv6_group(question.destination));
        assert_eq!(answer(&frame), Err(DropReason::NotAnnounced));
        assert_eq!(ask6(CLIENT6, CLIENT6, None, OURS), Err(DropReason::NotAnnounced));
        assert_eq!(
            ask6(VIP6, solicited_node_group(VIP6), Some(ASKER), MacAddr::BROADCAST),
            Err(DropReason::ForeignClaim(VIP6.into()))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn noise_is_never_answered(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), arp: bool) {
            // Behind a good Ethernet header, so that the noise reaches the parsers.
            let kind = if arp { TYPE_ARP } else { TYPE_IPV6 };
            let frame = Frame { destination: OURS, source: ASKER, ether_type: kind, payload: &bytes }.to_bytes();
            prop_assert!(respond(&frame, OURS, |_| true).is_err());
            bytes.truncate(13);
            prop_assert_eq!(respond(&bytes, OURS, |_| true), Err(DropReason::Runt));
        }
    }
}
