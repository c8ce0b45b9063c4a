// SPDX-License-Identifier: Apache-2.0
//! IP families and inclusive address ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// The two address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Both, IPv4 first.
    pub const ALL: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

    /// The family of an address. An IPv4-mapped IPv6 address counts as IPv6, as it does on the wire.
    pub fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The spelling of the Kubernetes API (`spec.ipFamilies`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The address of this family with this number; the last one where the number is beyond the family.
    pub fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX))),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        }
    }

    /// Bits in an address of this family: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An inclusive range of addresses of one family. Never empty: `first <= last`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is no address range. Carries the text as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Neither a CIDR nor `first-last`.
    #[error("{0:?} is neither a CIDR such as 192.0.2.0/28 nor a range such as 192.0.2.10-192.0.2.20")]
    Malformed(String),
    /// The two ends are of different families.
    #[error("{0:?} mixes IPv4 and IPv6")]
    MixedFamilies(String),
    /// The range runs backwards.
    #[error("{0:?} ends before it starts")]
    Reversed(String),
    /// A CIDR with bits set behind its prefix.
    #[error("{text:?} has bits set behind its prefix; did you mean {meant}?")]
    HostBits {
        /// What the user wrote.
        text: String,
        /// The network that holds it.
        meant: IpNet,
    },
}

impl IpRange {
    /// The range from `first` to `last`, both included.
    ///
    /// # Errors
    /// `MixedFamilies` or `Reversed`.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        let text = || format!("{first}-{last}");
        if IpFamily::of(first) != IpFamily::of(last) {
            return Err(RangeError::MixedFamilies(text()));
        }
        if first > last {
            return Err(RangeError::Reversed(text()));
        }
        Ok(Self { first, last })
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// The family of every address in it.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.first)
    }

    /// Whether the address lies within.
    pub fn contains(&self, addr: IpAddr) -> bool {
        IpFamily::of(addr) == self.family() && self.first <= addr && addr <= self.last
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &IpRange) -> bool {
        self.family() == other.family() && self.first <= other.last && other.first <= self.last
    }

    /// How many addresses it holds, or `u128::MAX` for all of IPv6 (whose count is one more than that).
    pub fn size(&self) -> u128 {
        (address_bits(self.last) - address_bits(self.first)).saturating_add(1)
    }

    /// The address `offset` behind the first one, if it still lies within.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        let bits = address_bits(self.first).checked_add(offset)?;
        (bits <= address_bits(self.last)).then(|| self.family().address(bits))
    }

    /// How far behind the first address this one lies, if it lies within.
    pub fn offset(&self, addr: IpAddr) -> Option<u128> {
        self.contains(addr)
            .then(|| address_bits(addr) - address_bits(self.first))
    }
}

/// The address as a number, high bits zero for IPv4. [`IpFamily::address`] is the inverse.
pub fn address_bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl From<IpNet> for IpRange {
    fn from(net: IpNet) -> Self {
        Self {
            first: net.network(),
            last: net.broadcast(),
        }
    }
}

impl FromStr for IpRange {
    type Err = RangeError;

    /// Reads a CIDR (`192.0.2.0/28`), a range (`192.0.2.1-192.0.2.9`) or a single address.
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let malformed = || RangeError::Malformed(text.to_owned());
        if text.contains('/') {
            let net: IpNet = text.trim().parse().map_err(|_| malformed())?;
            if net.addr() != net.network() {
                return Err(RangeError::HostBits {
                    text: text.to_owned(),
                    meant: net.trunc(),
                });
            }
            return Ok(net.into());
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: IpAddr = first.trim().parse().map_err(|_| malformed())?;
        let last: IpAddr = last.trim().parse().map_err(|_| malformed())?;
        Self::new(first, last).map_err(|error| match error {
            RangeError::MixedFamilies(_) => RangeError::MixedFamilies(text.to_owned()),
            RangeError::Reversed(_) => RangeError::Reversed(text.to_owned()),
            other @ (RangeError::Malformed(_) | RangeError::HostBits { .. }) => other,
        })
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Debug for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_cidrs_pairs_and_single_addresses() {
        for (text, first, last, size) in [
            ("192.0.2.0/30", "192.0.2.0", "192.0.2.3", 4),
            ("192.0.2.10-192.0.2.12", "192.0.2.10", "192.0.2.12", 3),
            ("192.0.2.7", "192.0.2.7", "192.0.2.7", 1),
            ("192.0.2.1 - 192.0.2.2", "192.0.2.1", "192.0.2.2", 2),
            ("fd00::/126", "fd00::", "fd00::3", 4),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255", 1 << 32),
        ] {
            let range: IpRange = text.parse().unwrap();
            assert_eq!(
                (range.first(), range.last()),
                (first.parse().unwrap(), last.parse().unwrap()),
                "{text}"
            );
            assert_eq!(range.size(), size, "{text}");
        }
    }

    #[test]
    fn a_bad_range_says_what_is_wrong_with_it() {
        for (text, said) in [
            ("192.0.2.300/24", "neither a CIDR"),
            ("192.0.2.9-192.0.2.1", "ends before it starts"),
            ("192.0.2.1-fd00::1", "mixes IPv4 and IPv6"),
            ("192.0.2.5/24", "did you mean 192.0.2.0/24?"),
            ("", "neither a CIDR"),
        ] {
            let error = text.parse::<IpRange>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn the_whole_of_ipv6_does_not_overflow() {
        let all: IpRange = "::/0".parse().unwrap();
        assert_eq!(all.size(), u128::MAX);
        assert_eq!(
            all.nth(u128::MAX),
            Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap())
        );
    }

    proptest::proptest! {
        #[test]
        fn nth_and_offset_are_inverse(first: u32, length in 0u32..5_000, step in 0u128..6_000) {
            let last = first.saturating_add(length);
            let range = IpRange::new(Ipv4Addr::from(first).into(), Ipv4Addr::from(last).into()).unwrap();
            match range.nth(step) {
                Some(addr) => proptest::prop_assert_eq!(range.offset(addr), Some(step)),
                None => proptest::prop_assert!(step >= range.size()),
            }
        }
    }
}
