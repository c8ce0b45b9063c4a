// SPDX-License-Identifier: Apache-2.0
//! How full a range is, how that lies, and what has to be reached there (issue 6). Pure.

use crate::bench::row::Goal;

/// A range and what is taken of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    prefix: u8,
    fill: Fill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Empty,
    /// So many of 10,000, spread over the range.
    Evenly(u32),
    /// So many of 10,000, the lowest.
    FromOneEnd(u32),
    /// The last address is free.
    AllButTheLast,
}

/// How many addresses a prefix of IPv4 has; lengths outside 8 to 31 count as these.
pub(super) fn addresses(prefix: u8) -> u32 {
    1 << (32 - u32::from(prefix.clamp(8, 31)))
}

impl Case {
    /// All that are measured of a prefix.
    pub(super) fn of(prefix: u8) -> impl Iterator<Item = Self> {
        let fills = [
            Fill::Empty,
            Fill::Evenly(5_000),
            Fill::Evenly(9_900),
            Fill::Evenly(9_999),
            Fill::FromOneEnd(5_000),
            Fill::FromOneEnd(9_900),
            Fill::FromOneEnd(9_999),
            Fill::AllButTheLast,
        ];
        fills.into_iter().map(move |fill| Self { prefix, fill })
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        let percent = |parts: u32| f64::from(parts) / 100.0;
        let fill = match self.fill {
            Fill::Empty => "empty".to_owned(),
            Fill::Evenly(parts) => format!("{}% filled evenly", percent(parts)),
            Fill::FromOneEnd(parts) => format!("{}% filled from one end", percent(parts)),
            Fill::AllButTheLast => "only the last address free".to_owned(),
        };
        format!("/{}, {fill}", self.prefix)
    }

    /// For the programs of both sides: size, static band, how what is taken lies, how much that is, and how long to measure.
    pub(super) fn arguments(&self, milliseconds: u32) -> Vec<String> {
        let size = addresses(self.prefix);
        // At least one address is free.
        let part = |parts: u32| {
            let taken = u64::from(size) * u64::from(parts) / 10_000;
            u32::try_from(taken).unwrap_or(size).min(size - 1)
        };
        let (pattern, taken) = match self.fill {
            Fill::Empty => ("even", 0),
            Fill::Evenly(parts) => ("even", part(parts)),
            Fill::FromOneEnd(parts) => ("end", part(parts)),
            Fill::AllButTheLast => ("end", size - 1),
        };
        vec![
            size.to_string(),
            static_band(size).to_string(),
            pattern.to_owned(),
            taken.to_string(),
            milliseconds.to_string(),
        ]
    }

    /// What issue 6 asks for: twice as fast half full, 100 times almost full, both filled evenly; 500 times in a /16
    /// filled from one end and 5,000 times in a /12.
    pub(super) fn goal(&self) -> Goal {
        match self.fill {
            Fill::Evenly(5_000) => Goal::Ratio(0.5),
            Fill::Evenly(9_999) => Goal::Ratio(0.01),
            Fill::FromOneEnd(_) | Fill::AllButTheLast => match self.prefix {
                16 => Goal::Ratio(1.0 / 500.0),
                12 => Goal::Ratio(1.0 / 5_000.0),
                _ => Goal::None,
            },
            Fill::Empty | Fill::Evenly(_) => Goal::None,
        }
    }
}

/// Upstream's for ClusterIPs (KEP-3070), of more than 16 addresses.
fn static_band(size: u32) -> u32 {
    (size / 16).clamp(16, 256).min(size - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_leaves_an_address_and_says_what_it_is() {
        let of_16: Vec<(String, String)> = Case::of(16)
            .map(|case| (case.name(), case.arguments(5).join(" ")))
            .collect();
        let of_16: Vec<(&str, &str)> = of_16
            .iter()
            .map(|(name, line)| (name.as_str(), line.as_str()))
            .collect();
        assert_eq!(
            of_16,
            [
                ("/16, empty", "65536 256 even 0 5"),
                ("/16, 50% filled evenly", "65536 256 even 32768 5"),
                ("/16, 99% filled evenly", "65536 256 even 64880 5"),
                ("/16, 99.99% filled evenly", "65536 256 even 65529 5"),
                ("/16, 50% filled from one end", "65536 256 end 32768 5"),
                ("/16, 99% filled from one end", "65536 256 end 64880 5"),
                ("/16, 99.99% filled from one end", "65536 256 end 65529 5"),
                ("/16, only the last address free", "65536 256 end 65535 5"),
            ]
        );
        for prefix in [8, 24, 27, 31, 32] {
            for case in Case::of(prefix) {
                let numbers: Vec<u32> = case
                    .arguments(0)
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .collect();
                assert!(numbers[2] < numbers[0] && numbers[1] < numbers[0], "{case:?}");
            }
        }
    }
}
