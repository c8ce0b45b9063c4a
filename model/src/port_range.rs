// SPDX-License-Identifier: Apache-2.0
//! Inclusive ranges of ports.

use std::fmt;
use std::str::FromStr;

use crate::Port;

/// An inclusive range of ports. Never empty: `first <= last`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: Port,
    last: Port,
}

/// Why a text is no port range. Carries the text as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// Neither a port nor `first-last`.
    #[error("{0:?} is neither a port (1 to 65535) such as 31000 nor a range such as 30000-30099")]
    Malformed(String),
    /// The range runs backwards.
    #[error("{0:?} ends before it starts")]
    Reversed(String),
}

impl PortRange {
    /// The range from `first` to `last`, both included.
    ///
    /// # Errors
    /// `Reversed`.
    pub fn new(first: Port, last: Port) -> Result<Self, PortRangeError> {
        if first > last {
            return Err(PortRangeError::Reversed(format!("{first}-{last}")));
        }
        Ok(Self { first, last })
    }

    /// The first port.
    pub fn first(&self) -> Port {
        self.first
    }

    /// The last port.
    pub fn last(&self) -> Port {
        self.last
    }

    /// Whether the port lies within.
    pub fn contains(&self, port: Port) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether the two share a port.
    pub fn overlaps(&self, other: &PortRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// How many ports it holds.
    pub fn size(&self) -> u32 {
        u32::from(self.last.get() - self.first.get()) + 1
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    /// Reads a range (`30000-30099`) or a single port.
    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first), port(last)) {
            (Some(first), Some(last)) => {
                Self::new(first, last).map_err(|_| PortRangeError::Reversed(text.to_owned()))
            }
            (None, _) | (_, None) => Err(PortRangeError::Malformed(text.to_owned())),
        }
    }
}

/// Digits alone: what Rust reads as a number beyond that ("+80") is no port to anybody else.
fn port(text: &str) -> Option<Port> {
    let text = text.trim();
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_pairs_and_single_ports() {
        for (text, first, last, size) in [
            ("30000-30099", 30_000, 30_099, 100),
            ("31000", 31_000, 31_000, 1),
            ("1 - 65535", 1, 65_535, 65_535),
            (" 80 ", 80, 80, 1),
        ] {
            let range: PortRange = text.parse().unwrap();
            assert_eq!((range.first().get(), range.last().get()), (first, last), "{text}");
            assert_eq!(range.size(), size, "{text}");
        }
    }

    #[test]
    fn a_bad_range_says_what_is_wrong_with_it() {
        for (text, said) in [
            ("", "neither a port"),
            ("0", "neither a port"),
            ("65536", "neither a port"),
            ("+80", "neither a port"),
            ("30000-", "neither a port"),
            ("1-2-3", "neither a port"),
            ("30000+99", "neither a port"),
            ("30099-30000", "ends before it starts"),
        ] {
            let error = text.parse::<PortRange>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn ranges_overlap_where_they_share_a_port() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        for (one, other, overlap) in [
            ("1-10", "10-20", true),
            ("1-10", "11-20", false),
            ("5", "1-10", true),
            ("65535", "1-65534", false),
        ] {
            assert_eq!(range(one).overlaps(&range(other)), overlap, "{one} {other}");
            assert_eq!(range(other).overlaps(&range(one)), overlap, "{one} {other}");
        }
    }
}
