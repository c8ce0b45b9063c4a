// SPDX-License-Identifier: Apache-2.0
//! Keeps `BEHAVIOUR.md` honest: every test it names exists.

const TABLE: &str = include_str!("../BEHAVIOUR.md");

const SOURCES: [&str; 29] = [
    include_str!("address.rs"),
    include_str!("endpoints/tests/canonical.rs"),
    include_str!("endpoints/tests/inclusion.rs"),
    include_str!("endpoints/tests/random.rs"),
    include_str!("endpoints/tests/takeover.rs"),
    include_str!("endpoints/tests/writes.rs"),
    include_str!("endpoints/truncate.rs"),
    include_str!("figures/tests.rs"),
    include_str!("mirror/tests.rs"),
    include_str!("mirror/tests/random.rs"),
    include_str!("selector/tests.rs"),
    include_str!("skips.rs"),
    include_str!("slices/compaction/budget.rs"),
    include_str!("slices/compaction/tests.rs"),
    include_str!("slices/tests/compacting.rs"),
    include_str!("slices/tests/endpoints.rs"),
    include_str!("slices/tests/figures.rs"),
    include_str!("slices/tests/hints.rs"),
    include_str!("slices/tests/packing.rs"),
    include_str!("slices/tests/placeholders.rs"),
    include_str!("slices/tests/random.rs"),
    include_str!("slices/tests/scale.rs"),
    include_str!("slices/tests/takeover.rs"),
    include_str!("slices/topology/cpu.rs"),
    include_str!("slices/topology/tests.rs"),
    include_str!("slices/topology/tests/upstream.rs"),
    include_str!("slices/topology/tests/world.rs"),
    include_str!("tracker/tests.rs"),
    include_str!("trigger.rs"),
];

/// The last column of a table row, if the row is one of behaviour and test.
fn tests_of(line: &str) -> Vec<&str> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
    let last = cells.last().filter(|_| line.starts_with('|') && cells.len() == 2);
    let names = last.into_iter().flat_map(|cell| cell.split(','));
    names
        .filter_map(|name| name.trim().strip_prefix('`')?.strip_suffix('`'))
        .collect()
}

#[test]
fn every_test_that_the_table_names_exists() {
    let named: Vec<&str> = TABLE.lines().flat_map(tests_of).collect();
    assert!(
        named.len() > 150,
        "only {} names found: has the format changed?",
        named.len()
    );
    for name in named {
        let found = SOURCES
            .iter()
            .any(|source| source.contains(&format!("fn {name}(")));
        assert!(found, "BEHAVIOUR.md names {name}, which is no test");
    }
}
