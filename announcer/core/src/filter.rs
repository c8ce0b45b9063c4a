// SPDX-License-Identifier: Apache-2.0
//! Classic BPF programs that let only questions about our addresses wake the process.
//!
//! A socket for one Ethernet type still sees every frame of that type: on a node that forwards IPv6 that
//! is every packet of every Pod. The program runs in the kernel, before the frame is copied.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ethernet::HEADER_LEN;
use crate::wire::{arp, ndp};

/// One instruction, as `struct sock_filter` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jump_true: u8,
    /// Instructions to skip if it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Beyond this many addresses the program no longer lists them and lets every question through: it is
/// walked one comparison after the other, and a program has at most 4096 instructions (BPF_MAXINSNS).
pub const MAX_LISTED: usize = 256;

/// The whole frame is accepted.
const WHOLE: u32 = 0x4_0000;

const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const fn load(code: u16, offset: usize) -> Instruction {
    // Offsets lie within the first hundred bytes of a frame.
    #[expect(clippy::cast_possible_truncation, reason = "frame offsets are below 2^16")]
    let operand = offset as u32;
    Instruction {
        code,
        jump_true: 0,
        jump_false: 0,
        operand,
    }
}

const fn finish(length: u32) -> Instruction {
    Instruction {
        code: RETURN,
        jump_true: 0,
        jump_false: 0,
        operand: length,
    }
}

const fn skip_next_unless(value: u32) -> Instruction {
    Instruction {
        code: JUMP_IF_EQUAL,
        jump_true: 0,
        jump_false: 1,
        operand: value,
    }
}

const fn skip_next_if(value: u32) -> Instruction {
    Instruction {
        code: JUMP_IF_EQUAL,
        jump_true: 1,
        jump_false: 0,
        operand: value,
    }
}

/// Ethernet frames with an ARP request for one of the addresses. IPv6 ones are ignored.
pub fn arp_requests(addresses: &BTreeSet<IpAddr>) -> Vec<Instruction> {
    let ours: Vec<Ipv4Addr> = addresses.iter().filter_map(as_v4).collect();
    let mut program = vec![
        load(LOAD_HALF, HEADER_LEN + arp::OPERATION_OFFSET),
        skip_next_if(u32::from(arp::OPERATION_REQUEST)),
        finish(0),
    ];
    if ours.is_empty() || ours.len() > MAX_LISTED {
        program.push(finish(if ours.is_empty() { 0 } else { WHOLE }));
        return program;
    }
    program.push(load(LOAD_WORD, HEADER_LEN + arp::TARGET_IP_OFFSET));
    for address in ours {
        program.extend([skip_next_unless(address.to_bits()), finish(WHOLE)]);
    }
    program.push(finish(0));
    program
}

/// Ethernet frames with a Neighbor Solicitation for one of the addresses. IPv4 ones are ignored. Of an
/// address only the last four bytes are compared: the responder looks at the rest.
pub fn solicitations(addresses: &BTreeSet<IpAddr>) -> Vec<Instruction> {
    let ends: BTreeSet<u32> = addresses.iter().filter_map(as_v6).map(last_word).collect();
    let message = HEADER_LEN + ndp::IPV6_LEN;
    let mut program = vec![
        load(LOAD_BYTE, HEADER_LEN + ndp::NEXT_HEADER_OFFSET),
        skip_next_if(u32::from(ndp::NEXT_HEADER_ICMPV6)),
        finish(0),
        load(LOAD_BYTE, message),
        skip_next_if(u32::from(ndp::TYPE_SOLICITATION)),
        finish(0),
    ];
    if ends.is_empty() || ends.len() > MAX_LISTED {
        program.push(finish(if ends.is_empty() { 0 } else { WHOLE }));
        return program;
    }
    program.push(load(LOAD_WORD, message + ndp::TARGET_OFFSET + 12));
    for end in ends {
        program.extend([skip_next_unless(end), finish(WHOLE)]);
    }
    program.push(finish(0));
    program
}

fn as_v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    }
}

fn as_v6(address: &IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(*v6),
    }
}

fn last_word(address: Ipv6Addr) -> u32 {
    let [.., a, b, c, d] = address.octets();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::arp::Arp;
    use crate::wire::ethernet::MacAddr;
    use crate::wire::ndp::{Advertisement, Solicitation, solicited_node_group};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    /// What the kernel does with such a program: a load beyond the frame rejects it.
    fn accepts(program: &[Instruction], frame: &[u8]) -> bool {
        let mut accumulator = 0u32;
        let mut at = 0;
        loop {
            let step = program[at];
            at += 1;
            let offset = step.operand as usize;
            let bytes = |length| frame.get(offset..offset + length);
            match step.code {
                LOAD_BYTE | LOAD_HALF | LOAD_WORD => {
                    let length = match step.code {
                        LOAD_BYTE => 1,
                        LOAD_HALF => 2,
                        _ => 4,
                    };
                    let Some(bytes) = bytes(length) else { return false };
                    accumulator = bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
                }
                JUMP_IF_EQUAL if accumulator == step.operand => at += usize::from(step.jump_true),
                JUMP_IF_EQUAL => at += usize::from(step.jump_false),
                RETURN => return step.operand > 0,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    fn ask_v6(target: Ipv6Addr) -> Vec<u8> {
        Solicitation {
            source: "fe80::9".parse().unwrap(),
            destination: solicited_node_group(target),
            target,
            source_link: Some(MAC),
        }
        .to_frame(MAC, MacAddr::of_ipv6_group(solicited_node_group(target)))
    }

    #[test]
    fn only_questions_about_our_addresses_pass() {
        for extra in [0u32, 3, 255, 256, 1_000] {
            let mut ours: BTreeSet<IpAddr> = ["10.77.0.200", "fd00:77::200"]
                .map(|text| text.parse().unwrap())
                .into();
            for n in 0..extra {
                ours.insert(Ipv4Addr::from_bits(0x0b00_0000 + n).into());
                ours.insert(Ipv6Addr::from_bits((0xfd01 << 112) + u128::from(n)).into());
            }
            let (v4, v6) = (arp_requests(&ours), solicitations(&ours));
            assert!(v4.len() <= 4096 && v6.len() <= 4096);
            let listed = usize::try_from(extra).unwrap() < MAX_LISTED;
            let ask = |target: [u8; 4]| Arp::probe(MAC, target.into()).to_frame(MacAddr::BROADCAST);
            assert!(accepts(&v4, &ask([10, 77, 0, 200])), "{extra}");
            assert_eq!(accepts(&v4, &ask([10, 77, 0, 201])), !listed, "{extra}");
            let reply = Arp::gratuitous_reply(MAC, Ipv4Addr::new(10, 77, 0, 200));
            assert!(!accepts(&v4, &reply.to_frame(MacAddr::BROADCAST)), "{extra}");
            assert!(accepts(&v6, &ask_v6("fd00:77::200".parse().unwrap())), "{extra}");
            assert_eq!(
                accepts(&v6, &ask_v6("fd00:77::ffff:201".parse().unwrap())),
                !listed,
                "{extra}"
            );
            let said = Advertisement::unsolicited(MAC, "fd00:77::200".parse().unwrap());
            assert!(!accepts(&v6, &said.to_frame(MAC, MAC)), "{extra}");
        }
    }

    #[test]
    fn nothing_passes_while_nothing_is_announced_or_the_frame_is_short() {
        let none = BTreeSet::new();
        let target = Ipv4Addr::new(10, 77, 0, 200);
        let frame = Arp::probe(MAC, target).to_frame(MacAddr::BROADCAST);
        assert!(!accepts(&arp_requests(&none), &frame));
        assert!(!accepts(
            &solicitations(&none),
            &ask_v6("fd00:77::200".parse().unwrap())
        ));
        let ours = [IpAddr::V4(target)].into();
        assert!(!accepts(&arp_requests(&ours), &frame[..30]));
    }
}
