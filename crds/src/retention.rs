// SPDX-License-Identifier: Apache-2.0
//! Durations as users write them: `72h`, `1h30m`, `90s`.

use std::time::Duration;

use schemars::{Schema, SchemaGenerator, json_schema};

/// The units, largest first, each at most once.
const UNITS: [(char, u64); 3] = [('h', 3600), ('m', 60), ('s', 1)];

/// Ten years and more: what is longer is a mistake.
const LONGEST: u64 = 100_000 * 3600;

/// Reads a duration of hours, minutes and seconds; `None` where it is none, or too long to be meant.
pub fn parse_retention(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds: u64 = 0;
    for (unit, length) in UNITS {
        if let Some((number, after)) = rest.split_once(unit) {
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let number: u64 = number.parse().ok().filter(|_| digits)?;
            seconds = seconds.checked_add(number.checked_mul(length)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && !text.is_empty() && seconds <= LONGEST).then(|| Duration::from_secs(seconds))
}

/// The schema of such a field.
pub(crate) fn retention_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "nullable": true,
        "minLength": 2,
        "maxLength": 16,
        "pattern": "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_hours_minutes_and_seconds() {
        for (text, seconds) in [
            ("0s", Some(0)),
            ("90s", Some(90)),
            ("72h", Some(72 * 3600)),
            ("1h30m", Some(5400)),
            ("1h0m1s", Some(3601)),
            ("99999h", Some(99_999 * 3600)),
            ("30m1h", None),
            ("1h1h", None),
            ("1.5h", None),
            ("-1h", None),
            ("+1h", None),
            ("1d", None),
            ("15", None),
            ("h", None),
            ("", None),
            ("999999999999999999999h", None),
        ] {
            assert_eq!(
                parse_retention(text),
                seconds.map(Duration::from_secs),
                "{text:?}"
            );
        }
    }
}
