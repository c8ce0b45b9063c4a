// SPDX-License-Identifier: Apache-2.0
//! Netlink attributes for what nlink does not model.

/// `NLM_F_CREATE | NLM_F_EXCL`.
pub(super) const CREATE: u16 = 0x600;
/// `NFTA_SET_ELEM_LIST_*`.
pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS_LIST: u16 = 3;
/// `NFTA_LIST_ELEM`, `NFTA_SET_ELEM_KEY`, `NFTA_DATA_VALUE`.
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const DATA_VALUE: u16 = 1;

/// `NLA_F_NESTED` is left out: nf_tables does not look at it, and nft does not set it.
pub(super) fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A number as nf_tables takes it: big-endian.
pub(super) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// A text with its final NUL.
pub(super) fn text(kind: u16, value: &str) -> Vec<u8> {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    attribute(kind, &bytes)
}
