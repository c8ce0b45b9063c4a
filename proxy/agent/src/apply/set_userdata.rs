// SPDX-License-Identifier: Apache-2.0
//! User data of sets and maps. The kernel stores it blindly; nft needs it to read a map whose key holds a random number
//! (`typeof`: without it `nft list` aborts, for the whole host), and to know in which byte order a number is.
//!
//! The format is libnftnl's TLV (u8 type, u8 length, value), numbers in native order. Nothing specifies
//! it: a test compares these bytes with those that the installed nft writes for the same map.

use berth_model::IpFamily;
use berth_proxy_core::names::MapName;
use berth_proxy_core::nft::Field;
use berth_proxy_core::nft::slots::LADDER;

/// `enum nft_set_udata` of nftables: what a TLV of a set's user data is.
const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const DATA_INTERVAL: u8 = 6;

/// `BYTEORDER_HOST_ENDIAN` of nftables.
const HOST_ORDER: u32 = 1;

/// An expression: its kind, then its body.
const EXPR_KIND: u8 = 0;
const EXPR_BODY: u8 = 1;

/// `enum expr_types` of nftables.
const EXPR_PAYLOAD: u32 = 7;
const EXPR_META: u32 = 9;
const EXPR_CONCAT: u32 = 13;
const EXPR_NUMGEN: u32 = 23;

/// `enum proto_desc_id`, and the index of a field in that header's description.
const TH: (u32, u32) = (11, 2);
const IP_DADDR: (u32, u32) = (12, 12);
const IP6_DADDR: (u32, u32) = (13, 9);
/// `NFT_META_L4PROTO`.
const META_L4PROTO: u32 = 16;
/// `NFT_NG_RANDOM`.
const NUMGEN_RANDOM: u32 = 1;

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    bytes.extend(value);
    bytes
}

fn word(kind: u8, value: u32) -> Vec<u8> {
    tlv(kind, &value.to_ne_bytes())
}

fn expression(kind: u32, body: &[u8]) -> Vec<u8> {
    [word(EXPR_KIND, kind), tlv(EXPR_BODY, body)].concat()
}

fn payload((header, field): (u32, u32)) -> Vec<u8> {
    expression(EXPR_PAYLOAD, &[word(0, header), word(1, field)].concat())
}

fn concat(parts: &[Vec<u8>]) -> Vec<u8> {
    let numbered = (0u8..).zip(parts).map(|(index, part)| tlv(index, part));
    expression(EXPR_CONCAT, &numbered.collect::<Vec<_>>().concat())
}

fn destination(family: IpFamily) -> Vec<u8> {
    payload(match family {
        IpFamily::V4 => IP_DADDR,
        IpFamily::V6 => IP6_DADDR,
    })
}

/// The user data of a set whose key is a number in the host's byte order.
pub(super) fn of_number_key() -> Vec<u8> {
    word(KEY_BYTE_ORDER, HOST_ORDER)
}

/// The user data of a map whose data is such a number.
pub(super) fn of_numbers() -> Vec<u8> {
    [word(KEY_BYTE_ORDER, 0), word(DATA_BYTE_ORDER, HOST_ORDER)].concat()
}

/// The user data of a slot map: `typeof KEY . numgen random mod 65536 : ip daddr . th dport`.
pub(super) fn of_map(family: IpFamily, map: MapName) -> Vec<u8> {
    let [.., modulus] = LADDER;
    let mut key: Vec<Vec<u8>> = map
        .fields()
        .iter()
        .filter_map(|field| match field {
            Field::DestinationIp => Some(destination(family)),
            Field::Protocol => Some(expression(EXPR_META, &word(0, META_L4PROTO))),
            Field::DestinationPort => Some(payload(TH)),
            Field::SourceIp | Field::Number => None,
        })
        .collect();
    let random = [word(0, NUMGEN_RANDOM), word(1, modulus), word(2, 0)].concat();
    key.push(expression(EXPR_NUMGEN, &random));
    let data = concat(&[destination(family), payload(TH)]);
    [
        word(KEY_BYTE_ORDER, 0),
        word(DATA_BYTE_ORDER, 0),
        tlv(KEY_TYPEOF, &concat(&key)),
        tlv(DATA_TYPEOF, &data),
        word(DATA_INTERVAL, 0),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use berth_proxy_core::names::Group;

    use super::*;

    /// Read back from the kernel after `nft -f` (1.0.6, x86-64) had made the maps of our layout.
    #[test]
    #[cfg(target_endian = "little")]
    fn the_bytes_are_those_that_nft_writes() {
        let vip_key = "036000040d000000015800140004070000 00010c00040c00000001040c000000010e00040900000001060004100000000214000407000000010c00040b000000010402000000031a0004170000000112000401000000010400000100020400000000";
        for (family, map, bytes) in [
            (
                IpFamily::V4,
                MapName(Group::ALL[0]),
                format!("000400000000010400000000{vip_key}043400040d000000012c0014000407000000010c00040c00000001040c0000000114000407000000010c00040b000000010402000000060400000000"),
            ),
            (
                IpFamily::V6,
                MapName(Group::ALL[2]),
                "000400000000010400000000034a00040d0000000142000e00040900000001060004100000000114000407000000010c00040b000000010402000000021a0004170000000112000401000000010400000100020400000000043400040d000000012c0014000407000000010c00040d0000000104090000000114000407000000010c00040b000000010402000000060400000000".to_owned(),
            ),
        ] {
            let ours: String = of_map(family, map).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(ours, bytes.replace(' ', ""), "{family} {map}");
        }
    }
}
