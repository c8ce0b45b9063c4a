// SPDX-License-Identifier: Apache-2.0
//! The same input as upstream's library got, and its answers.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointSlice, ForZone};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

const ANSWERS: &str = include_str!("../../../../testdata/topology-upstream.txt");

fn mk_endpoint(zone: char, hint: char) -> Endpoint {
    let zones = (hint != '-').then(|| EndpointHints {
        for_zones: Some(vec![ForZone {
            name: hint.to_string(),
        }]),
        for_nodes: None,
    });
    Endpoint {
        conditions: Some(EndpointConditions {
            ready: Some(true),
            ..EndpointConditions::default()
        }),
        zone: (zone != '-').then(|| zone.to_string()),
        hints: zones,
        ..Endpoint::default()
    }
}

fn mk_slice(number: usize, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(number.to_string()),
            ..ObjectMeta::default()
        },
        endpoints: Some(endpoints),
        ..EndpointSlice::default()
    }
}

/// Slices from text, each endpoint `width` letters wide.
fn mk_slices(text: &str, width: usize) -> Vec<EndpointSlice> {
    let texts = text.split('/').filter(|text| !text.is_empty()).enumerate();
    let slices = texts.map(|(number, text)| {
        let letters: Vec<char> = text.chars().collect();
        let pairs = letters.chunks(width);
        mk_slice(
            number,
            pairs
                .map(|pair| mk_endpoint(pair[0], if width == 2 { pair[1] } else { '-' }))
                .collect(),
        )
    });
    slices.collect()
}

fn mk_shares<'a>(millis: impl Iterator<Item = &'a str>) -> ZoneShares {
    let nodes = millis.zip('a'..).map(|(millis, zone)| {
        let facts = mk_facts(&zone.to_string(), &format!("{millis}m"));
        (Arc::from(zone.to_string()), facts)
    });
    ZoneShares::of(&nodes.collect())
}

/// Answers in the words of the file, and the names of the slices that joined the written ones.
fn answer(cpu: &str, keep: &str, write: &str) -> (String, Vec<String>) {
    let mut update = mk_slices(write, 1);
    let written = update.len();
    let unchanged: Vec<_> = mk_slices(keep, 2).into_iter().map(Arc::new).collect();
    let all = Written {
        create: &mut Vec::new(),
        update: &mut update,
    };
    let counts = match hint(all, &unchanged, &mk_shares(cpu.split(' '))) {
        Verdict::On(counts) => counts,
        Verdict::Off(why, _) => return (why.to_string(), Vec::new()),
    };
    let pulled: Vec<String> = update[written..]
        .iter()
        .filter_map(|slice| slice.metadata.name.clone())
        .collect();
    let kept = unchanged
        .iter()
        .map(|slice| &**slice)
        .filter(|slice| !pulled.contains(slice.metadata.name.as_ref().unwrap()));
    let mut seen = BTreeMap::new();
    for endpoint in update
        .iter()
        .chain(kept)
        .flat_map(|slice| slice.endpoints.iter().flatten())
    {
        let zones = endpoint.hints.as_ref().unwrap().for_zones.as_ref().unwrap();
        *seen.entry(zones[0].name.clone()).or_insert(0) += 1;
    }
    let text: Vec<String> = seen
        .iter()
        .map(|(zone, count)| format!("{zone}{count}"))
        .collect();
    let remembered: BTreeMap<_, _> = counts.iter().filter(|(_, count)| **count > 0).collect();
    assert!(
        remembered.into_iter().eq(seen.iter()),
        "{counts:?} remembered, {seen:?} seen"
    );
    let mut book = TopologyBook::default();
    let mut state = HintState::default();
    state.note(
        &HintState::default(),
        berth_model::IpFamily::V4,
        Some(Verdict::On(counts)),
    );
    let key = berth_model::ServiceKey::new("shop", "web");
    book.set(&key, state);
    let over = match book.due(&mk_shares(cpu.split(' ').rev())).as_slice() {
        [] => "fine",
        _ => "overloaded",
    };
    (format!("{} reversed={over}", text.join(" ")), pulled)
}

#[test]
fn hints_per_zone_are_those_of_upstream() {
    let rows = ANSWERS.lines().filter(|line| !line.starts_with('#'));
    let mut seen = 0;
    for row in rows {
        let [cpu, keep, write, expected] = row.split('|').collect::<Vec<_>>().try_into().unwrap();
        let (answered, pulled) = answer(cpu, keep, write);
        let (counts, rest) = expected.split_once(" pulled=").unwrap_or((expected, ""));
        let (allowed, reversed) = rest.split_once(' ').unwrap_or(("", ""));
        let expected = [counts, reversed].join(" ");
        assert_eq!(answered.trim(), expected.trim(), "{row}");
        // Ours leaves out those that end as they were.
        assert!(
            pulled
                .iter()
                .all(|name| allowed.split(',').any(|one| one == name)),
            "{row}: {pulled:?}"
        );
        seen += 1;
    }
    assert_eq!(seen, 70);
}
