// SPDX-License-Identifier: Apache-2.0
//! Durations as Kubernetes' own flags spell them: `15s`, `500ms`, `1m30s`.

use std::time::Duration;

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration; write for example 500ms, 15s, 1m30s or 2h")]
pub struct DurationError(String);

/// Units, longest spelling first, so that `ms` is not read as `m`.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Reads a duration; `0` needs no unit. Made for clap's `value_parser`.
///
/// # Errors
/// Where the text is no sequence of number and unit.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| error())?;
        rest = &rest[digits..];
        let (unit, millis) = UNITS
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))
            .ok_or_else(error)?;
        rest = &rest[unit.len()..];
        total = number
            .checked_mul(millis)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(error)?;
    }
    if text.is_empty() {
        return Err(error());
    }
    Ok(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_kubernetes_flags_are_read() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("15s", 15_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1h0m1s5ms", 3_601_005),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in ["", "15", "s", "-1s", "1 s", "1d", "99999999999999999999h", "1s2"] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains("15s"), "{text}: {error}");
        }
    }
}
