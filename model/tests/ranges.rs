// SPDX-License-Identifier: Apache-2.0
//! What users write as ranges, right, damaged and random: nothing panics, and what is read is what is printed.

use berth_model::{IpFamily, IpRange, Port, PortRange, address_bits};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Of each kind of range.
const INPUTS: usize = 200_000;

/// What ranges are made of, and what breaks parsers.
const CHARACTERS: &[char] = &[
    '0', '1', '2', '5', '9', 'a', 'f', '.', ':', '-', '/', ' ', '+', '%', '\t', '\0', '٣', 'é', '−',
    '\u{feff}',
];

fn address() -> impl Strategy<Value = std::net::IpAddr> {
    let edge = prop::sample::select(vec![
        0u128,
        1,
        u128::from(u32::MAX),
        u128::MAX - 1,
        u128::MAX,
        0xffff_0a00_0001,
    ]);
    (any::<bool>(), prop_oneof![any::<u128>(), edge]).prop_map(|(v6, bits)| {
        let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
        family.address(if v6 { bits } else { bits & u128::from(u32::MAX) })
    })
}

fn ip_text() -> impl Strategy<Value = String> {
    prop_oneof![
        (address(), address()).prop_map(|(first, last)| format!("{first}-{last}")),
        (address(), 0u8..=140).prop_map(|(network, prefix)| format!("{network}/{prefix}")),
        address().prop_map(|address| address.to_string()),
        any::<String>(),
    ]
}

fn port_text() -> impl Strategy<Value = String> {
    prop_oneof![
        (0u32..70_000, 0u32..70_000).prop_map(|(first, last)| format!("{first}-{last}")),
        (0u32..70_000).prop_map(|port| port.to_string()),
        any::<u64>().prop_map(|port| port.to_string()),
        any::<String>(),
    ]
}

/// The text with a few characters changed, added, taken out or doubled.
fn damaged(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let change = (
        any::<prop::sample::Index>(),
        prop::sample::select(CHARACTERS),
        0u8..4,
    );
    (text, prop::collection::vec(change, 0..4)).prop_map(|(text, changes)| {
        let mut characters: Vec<char> = text.chars().collect();
        for (place, character, kind) in changes {
            let at = place.index(characters.len() + 1);
            match kind {
                0 => characters.insert(at, character),
                1 if at < characters.len() => characters[at] = character,
                2 if at < characters.len() => drop(characters.remove(at)),
                _ => characters.truncate(at),
            }
        }
        characters.into_iter().collect()
    })
}

/// So many texts, the same in each run.
#[expect(clippy::expect_used, reason = "a test's own loop")]
fn each(text: impl Strategy<Value = String>, mut look: impl FnMut(&str)) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for _ in 0..INPUTS {
        let tree = text.new_tree(&mut runner);
        look(&tree.expect("a strategy without filters").current());
    }
}

#[test]
fn any_text_is_an_address_range_or_refused_and_what_is_read_prints_as_itself() {
    let mut read = 0;
    each(damaged(ip_text()), |text| match text.parse::<IpRange>() {
        Ok(range) => {
            read += 1;
            assert_eq!(range.to_string().parse(), Ok(range), "{text:?}");
            assert!(range.first() <= range.last(), "{text:?}");
            assert!(range.nth(range.size() - 1).is_some(), "{text:?}");
            assert_eq!(
                range.offset(range.last()),
                Some(address_bits(range.last()) - address_bits(range.first()))
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    });
    assert!(read > INPUTS / 10, "only {read} were ranges");
}

#[test]
fn any_text_is_a_port_range_or_refused_and_what_is_read_prints_as_itself() {
    let mut read = 0;
    each(damaged(port_text()), |text| match text.parse::<PortRange>() {
        Ok(range) => {
            read += 1;
            assert_eq!(range.to_string().parse(), Ok(range), "{text:?}");
            assert!(
                range.contains(range.first()) && range.contains(range.last()),
                "{text:?}"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    });
    assert!(read > INPUTS / 10, "only {read} were ranges");
}

proptest! {
    #![proptest_config(Config { cases: 20_000, ..Config::default() })]

    #[test]
    fn every_range_survives_being_printed(first in address(), last in address(), low: Port, high: Port) {
        if let Ok(range) = IpRange::new(first, last) {
            prop_assert_eq!(range.to_string().parse(), Ok(range));
        }
        let ports = PortRange::new(low.min(high), low.max(high)).unwrap();
        prop_assert_eq!(ports.to_string().parse(), Ok(ports));
        prop_assert_eq!(PortRange::new(high.max(low), low.min(high)).is_ok(), low == high);
    }
}
