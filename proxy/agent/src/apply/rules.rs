// SPDX-License-Identifier: Apache-2.0
//! Typed rules to the kernel's expressions.

use std::time::Duration;

use berth_model::IpFamily;
use berth_proxy_core::names::{BINDINGS, ChainName, UNREMEMBERED, UNTRANSLATED};
use berth_proxy_core::nft::{
    Action, BINDING_KEY, BaseChain as Base, Chain as OurChain, Field, Hook, Match, Rule as OurRule,
};
use berth_proxy_core::{AffinityNumber, Links};
use nlink::netlink::nftables::{
    BaseChain, Chain, CmpOp, CtKey, DynsetExpr, DynsetOp, Expr, FibFlags, FibResult, FilterHook, LookupExpr,
    MetaKey, NatHook, NumgenKind, PayloadBase, Policy, Priority, RawExpr, Register, Rule,
};

use super::attributes::number;
use super::{Place, family_of};
use crate::Error;

/// `NF_CT_STATE_BIT(IP_CT_NEW)` and `IPS_DST_NAT`.
const CT_NEW: u32 = 8;
const CT_STATUS_DNAT: u32 = 1 << 5;
/// `IFNAMSIZ`.
const INTERFACE_NAME: usize = 16;
/// `RTN_LOCAL`.
const ADDRESS_LOCAL: u32 = 2;
/// `NFT_REJECT_ICMP_UNREACH`, with the code for port unreachable in ICMP and in ICMPv6.
const REJECT_ICMP: u32 = 0;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const ICMPV6_PORT_UNREACHABLE: u8 = 4;
/// `NFTA_NAT_*`, `NFT_NAT_DNAT`; `NFTA_MASQ_FLAGS`, `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS: u16 = 3;
const NAT_PORT: u16 = 5;
const NAT_DESTINATION: u32 = 1;
const MASQUERADE_FLAGS: u16 = 1;
const FULLY_RANDOM: u32 = 1 << 4;

/// A rule, ready to be sent.
pub(super) fn lower(place: Place, chain: &str, rule: &OurRule) -> Result<Rule, Error> {
    let Place { table, family } = place;
    let mut lowered = Rule::new(table, chain).family(family_of(family));
    for condition in &rule.matches {
        lowered = matches(family, condition)
            .into_iter()
            .fold(lowered, |rule, expression| rule.expr(expression));
    }
    let jump = |source| Error::kernel(format!("chain {chain}"))(source);
    let lowered = action(family, &rule.action).into_iter().fold(lowered, Rule::expr);
    Ok(match &rule.action {
        Action::Jump(to) => lowered.try_jump(&to.to_string()).map_err(jump)?,
        Action::Goto(to) => lowered.try_goto(&to.to_string()).map_err(jump)?,
        Action::Drop => lowered.drop(),
        Action::CountAndDrop => lowered.counter_named(UNTRANSLATED).drop(),
        Action::CountUnremembered => lowered.counter_named(UNREMEMBERED),
        Action::Recall(_) => lowered.try_jump(&ChainName::Recall.to_string()).map_err(jump)?,
        Action::Accept | Action::Remember(_) => lowered.accept(),
        Action::Reject
        | Action::Mark(_)
        | Action::Unmark(_)
        | Action::Masquerade
        | Action::Translate(..)
        | Action::TranslateBound => lowered,
    })
}

/// A chain without its rules.
pub(super) fn chain(place: Place, chain: &OurChain) -> Result<Chain, Error> {
    let named = named_chain(place, &chain.name.to_string())?;
    Ok(match chain.base {
        None => named,
        Some(base) => named.base(base_chain(base).policy(Policy::Accept)),
    })
}

/// A regular chain of this name.
pub(super) fn named_chain(place: Place, name: &str) -> Result<Chain, Error> {
    Chain::new(place.table, name)
        .map(|chain| chain.family(family_of(place.family)))
        .map_err(Error::kernel(format!("chain {name}")))
}

pub(super) fn base_chain(base: Base) -> BaseChain {
    let priority = Priority::Custom(base.priority);
    let nat = |hook| BaseChain::nat(hook, priority);
    let filter = |hook| BaseChain::filter(hook, priority);
    match (base.hook, base.nat) {
        (Hook::Prerouting, true) => nat(NatHook::Prerouting),
        (Hook::Prerouting, false) => filter(FilterHook::Prerouting),
        (Hook::Output, true) => nat(NatHook::Output),
        (Hook::Output, false) => filter(FilterHook::Output),
        (Hook::Postrouting, true) => nat(NatHook::Postrouting),
        (Hook::Postrouting, false) => filter(FilterHook::Postrouting),
    }
}

/// Offset of source and destination in the IP header, and their length.
fn address(family: IpFamily, field: Field) -> (u32, u32) {
    match (family, field) {
        (IpFamily::V4, Field::SourceIp) => (12, 4),
        (IpFamily::V4, _) => (16, 4),
        (IpFamily::V6, Field::SourceIp) => (8, 16),
        (IpFamily::V6, _) => (24, 16),
    }
}

/// The register that starts at a 32-bit word. Our longest key has 16 + 16 bytes.
fn register(word: usize) -> Register {
    Register::word(word).unwrap_or(Register::R0)
}

fn words(length: u32) -> usize {
    length.div_ceil(4) as usize
}

/// Loads fields side by side from word 0 on; returns the first free word.
pub(super) fn load(family: IpFamily, fields: &[Field], into: &mut Vec<Expr>) -> usize {
    load_from(0, family, fields, into)
}

/// The same from another word on.
fn load_from(mut word: usize, family: IpFamily, fields: &[Field], into: &mut Vec<Expr>) -> usize {
    for field in fields {
        let dreg = register(word);
        let length = match field {
            Field::SourceIp | Field::DestinationIp => {
                let (offset, len) = address(family, *field);
                into.push(Expr::Payload {
                    dreg,
                    base: PayloadBase::Network,
                    offset,
                    len,
                });
                len
            }
            Field::Protocol => {
                into.push(Expr::Meta {
                    dreg,
                    key: MetaKey::L4Proto,
                });
                1
            }
            Field::Number => {
                into.push(Expr::Meta {
                    dreg,
                    key: MetaKey::Priority,
                });
                4
            }
            Field::DestinationPort => {
                into.push(Expr::Payload {
                    dreg,
                    base: PayloadBase::Transport,
                    offset: 2,
                    len: 2,
                });
                2
            }
        };
        word += words(length);
    }
    word
}

fn compare(op: CmpOp, data: Vec<u8>) -> Expr {
    Expr::Cmp {
        sreg: Register::R0,
        op,
        data,
    }
}

fn bitwise(mask: u32, xor: u32) -> Expr {
    Expr::Bitwise {
        sreg: Register::R0,
        dreg: Register::R0,
        len: 4,
        mask: mask.to_ne_bytes().to_vec(),
        xor: xor.to_ne_bytes().to_vec(),
    }
}

fn conntrack_bit(key: CtKey, bit: u32) -> Vec<Expr> {
    let load = Expr::Ct {
        dreg: Register::R0,
        key,
    };
    vec![load, bitwise(bit, 0), compare(CmpOp::Neq, vec![0; 4])]
}

fn load_mark() -> Expr {
    Expr::Meta {
        dreg: Register::R0,
        key: MetaKey::Mark,
    }
}

fn marked(bit: u32, op: CmpOp) -> Vec<Expr> {
    vec![
        load_mark(),
        bitwise(bit, 0),
        compare(op, bit.to_ne_bytes().to_vec()),
    ]
}

/// A condition's expressions.
pub(super) fn matches(family: IpFamily, condition: &Match) -> Vec<Expr> {
    match condition {
        Match::NewConnection => conntrack_bit(CtKey::State, CT_NEW),
        Match::Translated => conntrack_bit(CtKey::Status, CT_STATUS_DNAT),
        Match::Untranslated => vec![
            Expr::Ct {
                dreg: Register::R0,
                key: CtKey::Status,
            },
            bitwise(CT_STATUS_DNAT, 0),
            compare(CmpOp::Eq, vec![0; 4]),
        ],
        Match::Marked(bit) => marked(*bit, CmpOp::Eq),
        Match::Unmarked(bit) => marked(*bit, CmpOp::Neq),
        Match::LocalDestination => address_type(FibFlags::DADDR, CmpOp::Eq),
        Match::ForeignSource => address_type(FibFlags::SADDR, CmpOp::Neq),
        Match::ForeignDestination => address_type(FibFlags::DADDR, CmpOp::Neq),
        Match::NotLoopback => not_loopback(family),
        Match::Numbered => vec![
            Expr::Meta {
                dreg: Register::R0,
                key: MetaKey::Priority,
            },
            bitwise(AffinityNumber::MASK, 0),
            compare(CmpOp::Eq, AffinityNumber::PREFIX.to_ne_bytes().to_vec()),
        ],
        Match::NotBy(links) => not_by(links),
        Match::In(set) | Match::NotIn(set) => {
            let mut expressions = Vec::new();
            load(family, set.fields(), &mut expressions);
            let lookup = LookupExpr::new(set.to_string(), Register::R0);
            let inverted = matches!(condition, Match::NotIn(_));
            expressions.push(if inverted {
                lookup.invert().into()
            } else {
                lookup.into()
            });
            expressions
        }
    }
}

/// The name of the interface that the packet came in by, all zeroes for a packet of this host. A prefix is compared as far
/// as it goes, which is how nft knows it from a name.
fn not_by(links: &Links) -> Vec<Expr> {
    let load = Expr::Meta {
        dreg: Register::R0,
        key: MetaKey::IifName,
    };
    let compared = match links {
        Links::Named(name) => {
            let mut padded = name.as_str().as_bytes().to_vec();
            padded.resize(INTERFACE_NAME, 0);
            padded
        }
        Links::Beginning(prefix) => prefix.as_str().as_bytes().to_vec(),
    };
    vec![load, compare(CmpOp::Neq, compared)]
}

/// Compares what the address is to this host with a local one.
fn address_type(flags: FibFlags, op: CmpOp) -> Vec<Expr> {
    let load = Expr::Fib {
        dreg: Register::R0,
        result: FibResult::AddrType,
        flags,
    };
    vec![load, compare(op, ADDRESS_LOCAL.to_ne_bytes().to_vec())]
}

/// 127.0.0.0/8 is its first byte, as nft writes it; ::1 is itself.
fn not_loopback(family: IpFamily) -> Vec<Expr> {
    let (offset, len) = address(family, Field::DestinationIp);
    let (len, loopback) = match family {
        IpFamily::V4 => (1, vec![127]),
        IpFamily::V6 => (len, std::net::Ipv6Addr::LOCALHOST.octets().to_vec()),
    };
    let load = Expr::Payload {
        dreg: Register::R0,
        base: PayloadBase::Network,
        offset,
        len,
    };
    vec![load, compare(CmpOp::Neq, loopback)]
}

/// What a rule does before its verdict, if it has one.
fn action(family: IpFamily, action: &Action) -> Vec<Expr> {
    let set_mark = |mask, xor| {
        let store = Expr::MetaSet {
            key: MetaKey::Mark,
            sreg: Register::R0,
        };
        vec![load_mark(), bitwise(mask, xor), store]
    };
    match action {
        Action::Reject => vec![Expr::Reject {
            reject_type: REJECT_ICMP,
            icmp_code: match family {
                IpFamily::V4 => ICMP_PORT_UNREACHABLE,
                IpFamily::V6 => ICMPV6_PORT_UNREACHABLE,
            },
        }],
        Action::Mark(bit) => set_mark(!bit, *bit),
        Action::Unmark(bit) => set_mark(u32::MAX, *bit),
        Action::Masquerade => vec![RawExpr::new("masq", number(MASQUERADE_FLAGS, FULLY_RANDOM)).into()],
        Action::Translate(map, count) => {
            let mut expressions = Vec::new();
            let next = load(family, map.fields(), &mut expressions);
            expressions.push(Expr::Numgen {
                dreg: register(next),
                kind: NumgenKind::Random,
                modulus: *count,
                offset: 0,
            });
            let lookup = LookupExpr::new(map.to_string(), Register::R0).dreg(Register::R0);
            expressions.push(lookup.into());
            expressions.push(translate(family));
            expressions
        }
        Action::Recall(map) => {
            let mut expressions = Vec::new();
            load(family, map.0.kind.fields(), &mut expressions);
            let lookup = LookupExpr::new(map.to_string(), Register::R0).dreg(Register::R0);
            expressions.push(lookup.into());
            expressions.push(store_priority());
            expressions
        }
        Action::TranslateBound => {
            let mut expressions = Vec::new();
            load(family, &BINDING_KEY, &mut expressions);
            let lookup = LookupExpr::new(BINDINGS, Register::R0).dreg(Register::R0);
            expressions.push(lookup.into());
            expressions.push(translate(family));
            expressions
        }
        Action::Remember(seconds) => remember(family, *seconds),
        Action::Jump(_)
        | Action::Goto(_)
        | Action::Drop
        | Action::Accept
        | Action::CountAndDrop
        | Action::CountUnremembered => Vec::new(),
    }
}

fn store_priority() -> Expr {
    Expr::MetaSet {
        key: MetaKey::Priority,
        sreg: Register::R0,
    }
}

/// Binds the client to where the packet goes by now, and clears the number.
fn remember(family: IpFamily, seconds: u32) -> Vec<Expr> {
    let mut expressions = Vec::new();
    let data = load(family, &BINDING_KEY, &mut expressions);
    let target = [Field::DestinationIp, Field::DestinationPort];
    load_from(data, family, &target, &mut expressions);
    let update = DynsetExpr::new(DynsetOp::Update, BINDINGS, Register::R0)
        .sreg_data(register(data))
        .timeout(Duration::from_secs(seconds.into()));
    expressions.push(update.into());
    expressions.push(Expr::Immediate {
        dreg: Register::R0,
        data: vec![0; 4],
    });
    expressions.push(store_priority());
    expressions
}

/// Destination translation with the address in word 0 and the port right behind it. nlink's own
/// expression has fixed registers.
fn translate(family: IpFamily) -> Expr {
    let (_, length) = address(family, Field::DestinationIp);
    let attributes = [
        number(NAT_TYPE, NAT_DESTINATION),
        number(NAT_FAMILY, family_of(family) as u32),
        number(NAT_ADDRESS, Register::R0.wire()),
        number(NAT_PORT, register(words(length)).wire()),
    ];
    RawExpr::new("nat", attributes.concat()).into()
}
