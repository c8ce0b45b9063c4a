// SPDX-License-Identifier: Apache-2.0
//! A hash that is the same in every version, unlike the standard library's.

/// FNV-1a, 64 bits (draft-eastlake-fnv).
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
