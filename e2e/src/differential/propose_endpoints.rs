// SPDX-License-Identifier: Apache-2.0
//! Hand-written Endpoints as people write them, and as they should not.

use super::dice::Dice;
use super::propose::{LABELS, map};
use super::step::{AddressShape, ContainerPort, EndpointsEdit, EndpointsShape, Map, SubsetShape};
use super::world::LEADER;

/// Documentation networks (RFC 5737, RFC 3849); two of them are one address in two spellings.
const ADDRESSES: [&str; 8] = [
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "192.0.2.4",
    "2001:db8::1",
    "2001:db8::2",
    "2001:DB8:0::2",
    "2001:db8::3",
];

pub(super) fn endpoints_shape(dice: &mut Dice) -> EndpointsShape {
    EndpointsShape {
        subsets: subsets(dice),
        labels: labels(dice),
        annotations: annotations(dice),
    }
}

pub(super) fn endpoints_edit(dice: &mut Dice) -> EndpointsEdit {
    match dice.below(4) {
        0 | 1 => EndpointsEdit::Subsets(subsets(dice)),
        2 => EndpointsEdit::Labels(labels(dice)),
        _ => EndpointsEdit::Annotations(annotations(dice)),
    }
}

fn labels(dice: &mut Dice) -> Map {
    map(LABELS[dice.below(LABELS.len())])
}

fn annotations(dice: &mut Dice) -> Map {
    let choices: [&[(&str, &str)]; 6] = [
        &[],
        &[],
        &[("note", "1")],
        &[
            ("note", "2"),
            ("kubectl.kubernetes.io/last-applied-configuration", "{}"),
        ],
        &[(
            "endpoints.kubernetes.io/last-change-trigger-time",
            "2026-01-01T00:00:00Z",
        )],
        &[(LEADER, "{}")],
    ];
    map(choices[dice.below(choices.len())])
}

fn subsets(dice: &mut Dice) -> Vec<SubsetShape> {
    let count = [0, 1, 1, 2, 3][dice.below(5)];
    (0..count).map(|_| subset(dice)).collect()
}

fn subset(dice: &mut Dice) -> SubsetShape {
    let port = |name: &str, number, protocol: &str| ContainerPort {
        name: name.to_owned(),
        number,
        protocol: protocol.to_owned(),
    };
    let ports = match dice.below(5) {
        0 => vec![port("", 80, "TCP")],
        1 => vec![port("http", 80, "TCP"), port("https", 443, "TCP")],
        2 => vec![port("https", 443, "TCP"), port("http", 80, "TCP")],
        3 => vec![port("dns", 53, "UDP")],
        _ => Vec::new(),
    };
    let ready: Vec<AddressShape> = (0..dice.below(4)).map(|_| address(dice)).collect();
    // The API wants one address at least.
    let fewest = usize::from(ready.is_empty());
    let not_ready = (0..dice.below(2).max(fewest)).map(|_| address(dice));
    SubsetShape {
        not_ready: not_ready.collect(),
        ready,
        ports,
    }
}

fn address(dice: &mut Dice) -> AddressShape {
    AddressShape {
        ip: dice.word(&ADDRESSES),
        hostname: dice.chance(20).then(|| dice.word(&["left", "right"])),
        node: dice.chance(20).then(|| dice.word(&["n1", "nowhere"])),
        target: dice.chance(20).then(|| dice.word(&["p1", "nobody"])),
    }
}
