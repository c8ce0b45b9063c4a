// SPDX-License-Identifier: Apache-2.0
//! Ranges of port numbers.

use std::fmt;
use std::str::FromStr;

use berth_model::Port;

/// An inclusive range of port numbers. Never empty: `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: Port,
    last: Port,
}

/// Why a text is no range of ports. Carries the text as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// Neither a port nor `first-last`.
    #[error(
        "{0:?} is neither a port such as 30080 nor a range such as 30000-30099, of numbers from 1 to 65535"
    )]
    Malformed(String),
    /// The range runs backwards.
    #[error("{0:?} ends before it starts")]
    Reversed(String),
}

impl PortRange {
    /// The first port.
    pub fn first(self) -> Port {
        self.first
    }

    /// The last port.
    pub fn last(self) -> Port {
        self.last
    }

    /// Whether the port lies within.
    pub fn contains(self, port: Port) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether the two share a port.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| {
            // `parse` takes a sign.
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<Port>().ok().filter(|_| digits)
        };
        let (Some(first), Some(last)) = (port(first), port(last)) else {
            return Err(PortRangeError::Malformed(text.to_owned()));
        };
        if first > last {
            return Err(PortRangeError::Reversed(text.to_owned()));
        }
        Ok(Self { first, last })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_port_or_two() {
        for (text, read) in [
            ("30080", Ok("30080")),
            ("30000-30099", Ok("30000-30099")),
            ("1-65535", Ok("1-65535")),
            ("9-9", Ok("9")),
            ("30099-30000", Err("ends before it starts")),
            ("0", Err("neither a port")),
            ("65536", Err("neither a port")),
            ("1-2-3", Err("neither a port")),
            ("+9", Err("neither a port")),
            ("-9", Err("neither a port")),
            ("", Err("neither a port")),
        ] {
            match (text.parse::<PortRange>(), read) {
                (Ok(range), Ok(expected)) => assert_eq!(range.to_string(), expected, "{text}"),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn ranges_overlap_where_they_share_a_port() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        assert!(range("10-20").overlaps(range("20-30")) && range("20-30").overlaps(range("10-20")));
        assert!(!range("10-19").overlaps(range("20-30")));
        assert!(
            range("10-20").contains(Port::new(10).unwrap())
                && !range("10-20").contains(Port::new(21).unwrap())
        );
    }
}
