// SPDX-License-Identifier: Apache-2.0
//! Amounts of CPU, as Nodes state them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Digits after the point of a whole CPU in the unit used here: nano-CPUs, the API's finest.
const NANO: i32 = 9;

/// Decimal suffixes of a quantity and their powers of ten (apimachinery, `resource.Quantity`).
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// Binary suffixes and their powers of two.
const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];

/// An amount of CPU, in nano-CPUs. Never zero: a Node without CPU is a Node that does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu(u128);

impl Cpu {
    /// Reads a quantity (`4`, `3920m`, `0.5`, `1e3`, `1Ki`), rounding fractions of a nano-CPU up.
    /// None for what is no quantity, is zero or negative, or is beyond any machine.
    pub fn of(quantity: &Quantity) -> Option<Self> {
        let text = quantity.0.strip_prefix('+').unwrap_or(&quantity.0);
        let end = text.find(|char: char| !char.is_ascii_digit() && char != '.');
        let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let fraction = fraction.trim_end_matches('0');
        let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
        let places = i32::try_from(fraction.len()).ok()?;
        let nanos = match BINARY.iter().find(|(name, _)| *name == suffix) {
            Some((_, power)) => shifted(digits.checked_mul(1 << power)?, NANO - places)?,
            None => shifted(digits, exponent(suffix)? + NANO - places)?,
        };
        (nanos > 0).then_some(Self(nanos))
    }

    /// Milli-CPUs, rounded up: what shares are computed from.
    pub(crate) fn millis(self) -> u128 {
        self.0.div_ceil(1_000_000)
    }

    /// The sum; as good as unlimited where it would overflow.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// The power of ten that a decimal suffix or a decimal exponent stands for.
fn exponent(suffix: &str) -> Option<i32> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some(*power);
    }
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (-100..=100).contains(&power).then_some(power)
}

/// `digits` times ten to the `power`, rounded up.
fn shifted(digits: u128, power: i32) -> Option<u128> {
    let factor = 10_u128.checked_pow(power.unsigned_abs());
    if power >= 0 {
        return digits.checked_mul(factor?);
    }
    // A divisor that does not fit is larger than any number that does.
    Some(factor.map_or_else(|| digits.min(1), |factor| digits.div_ceil(factor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_every_notation_that_the_api_accepts() {
        let milli = 1_000_000;
        for (text, nanos) in [
            ("4", Some(4_000 * milli)),
            ("+4", Some(4_000 * milli)),
            ("3920m", Some(3_920 * milli)),
            ("0.5", Some(500 * milli)),
            (".5", Some(500 * milli)),
            ("2.", Some(2_000 * milli)),
            ("1.50", Some(1_500 * milli)),
            ("250u", Some(250_000)),
            ("7n", Some(7)),
            ("0.5n", Some(1)),
            ("1k", Some(1_000_000 * milli)),
            ("1e3", Some(1_000_000 * milli)),
            ("1E3", Some(1_000_000 * milli)),
            ("15e-1", Some(1_500 * milli)),
            ("1E", Some(10_u128.pow(27))),
            ("1Ki", Some(1_024_000 * milli)),
            ("0.5Ki", Some(512_000 * milli)),
            ("1e-99", Some(1)),
            ("0", None),
            ("0m", None),
            ("-1", None),
            ("", None),
            ("m", None),
            ("1.2.3", None),
            ("four", None),
            ("4 ", None),
            ("1e999", None),
            ("1e99", None),
        ] {
            let read = Cpu::of(&Quantity(text.to_owned()));
            assert_eq!(read.map(|cpu| cpu.0), nanos, "{text:?}");
        }
    }

    #[test]
    fn millis_are_rounded_up_after_summing() {
        let read = |text: &str| Cpu::of(&Quantity(text.to_owned())).unwrap();
        assert_eq!(read("1u").millis(), 1);
        assert_eq!(read("500u").plus(read("500u")).millis(), 1);
        assert_eq!(read("1500m").plus(read("2")).millis(), 3500);
    }
}
