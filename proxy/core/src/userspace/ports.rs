// SPDX-License-Identifier: Apache-2.0
//! From which ports relays take theirs.

use std::fmt;
use std::str::FromStr;

use berth_model::Port;

/// `--proxy-port-range`, as kube-proxy knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortRange {
    /// The kernel chooses: from `net.ipv4.ip_local_port_range`.
    #[default]
    Any,
    /// From these, both included, the lowest that is free.
    Within {
        /// The first.
        first: Port,
        /// The last, not below the first.
        last: Port,
    },
}

/// A text that is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no range of ports; write FIRST-LAST or FIRST+COUNT, for example 40000-44999 or 40000+5000, or leave it out for any port"
)]
pub struct PortRangeError(pub String);

impl PortRange {
    /// Every port that may be tried, beginning at `from` if that is in the range; none where the kernel chooses.
    pub fn from(&self, from: Option<Port>) -> impl Iterator<Item = Port> {
        let (first, last) = match self {
            Self::Any => (1, 0),
            Self::Within { first, last } => (first.get(), last.get()),
        };
        let from = from.map_or(first, Port::get);
        let from = if (first..=last).contains(&from) {
            from
        } else {
            first
        };
        (from..=last).chain(first..from).filter_map(Port::new)
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    /// `FIRST-LAST`, `FIRST+COUNT` (FIRST and so many after it), `PORT`; empty, `0` and `0-0` are any (kube-proxy's
    /// `PortRange.Set`).
    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let wrong = || PortRangeError(text.to_owned());
        let number = |part: &str| part.trim().parse::<u16>().map_err(|_| wrong());
        let text_or_any = if text.trim().is_empty() { "0" } else { text };
        let (first, last) = if let Some((first, last)) = text_or_any.split_once('-') {
            (number(first)?, number(last)?)
        } else if let Some((first, count)) = text_or_any.split_once('+') {
            let first = number(first)?;
            (first, first.saturating_add(number(count)?))
        } else {
            let port = number(text_or_any)?;
            (port, port)
        };
        match (Port::new(first), Port::new(last)) {
            (None, None) => Ok(Self::Any),
            (Some(first), Some(last)) if first <= last => Ok(Self::Within { first, last }),
            (Some(_) | None, Some(_) | None) => Err(wrong()),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Within { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(first: u16, last: u16) -> Result<PortRange, PortRangeError> {
        Ok(PortRange::Within {
            first: first.try_into().unwrap(),
            last: last.try_into().unwrap(),
        })
    }

    #[test]
    fn ranges_are_written_as_for_kube_proxy() {
        for (text, range) in [
            ("", Ok(PortRange::Any)),
            ("0", Ok(PortRange::Any)),
            ("0-0", Ok(PortRange::Any)),
            ("40000-40010", within(40_000, 40_010)),
            ("40000", within(40_000, 40_000)),
            ("40000+10", within(40_000, 40_010)),
            ("65000+1000", within(65_000, 65_535)),
        ] {
            assert_eq!(text.parse(), range, "{text}");
        }
        for text in ["0-5", "5-0", "7-5", "x", "1-2-3", "70000", "-"] {
            assert_eq!(text.parse::<PortRange>(), Err(PortRangeError(text.to_owned())));
        }
    }

    #[test]
    fn every_port_of_the_range_is_tried_once() {
        let range = within(5, 8).unwrap();
        let tried = |from: u16| -> Vec<u16> { range.from(Port::new(from)).map(Port::get).collect() };
        assert_eq!(tried(0), [5, 6, 7, 8]);
        assert_eq!(tried(7), [7, 8, 5, 6]);
        assert_eq!(tried(9), [5, 6, 7, 8]);
        assert_eq!(PortRange::Any.from(None).count(), 0);
        assert_eq!(within(65_535, 65_535).unwrap().from(None).count(), 1);
    }
}
