// SPDX-License-Identifier: Apache-2.0
//! Bytes on the wire, parsed without allocation and built from values.

pub mod arp;
pub mod ethernet;
pub mod heartbeat;
pub mod ndp;

#[cfg(test)]
mod tests;

/// Reads a fixed number of bytes at an offset, if the slice is long enough.
fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    let end = offset.checked_add(N)?;
    bytes.get(offset..end)?.try_into().ok()
}

/// Reads a big-endian 16-bit number at an offset.
fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes_at(bytes, offset).map(u16::from_be_bytes)
}
