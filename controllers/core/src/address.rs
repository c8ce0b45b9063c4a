// SPDX-License-Identifier: Apache-2.0
//! Reading addresses the way the API server has always accepted them.

pub(crate) use berth_snapshot::parse_lenient as parse;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_leniently_and_written_canonically() {
        for (text, canonical) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.0.0.001", Some("10.0.0.1")),
            ("FD00:0:0::1", Some("fd00::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("::ffff:010.0.0.1", Some("10.0.0.1")),
            ("10.0.0.256", None),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.+0.1", None),
            ("fd00::x", None),
            ("web.example", None),
            ("", None),
        ] {
            let read = parse(text).map(|addr| addr.to_string());
            assert_eq!(read.as_deref(), canonical, "{text:?}");
        }
    }
}
