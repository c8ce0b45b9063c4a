// SPDX-License-Identifier: Apache-2.0
//! Keeps the table of behaviours honest: every test that it names exists, in the crate that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const TABLE: &str = include_str!("../../controllers/core/BEHAVIOUR.md");

/// Where the tests of a crate stand; the first is meant where the table names none.
const CRATES: [(&str, &[&str]); 4] = [
    ("", &["controllers/core/src"]),
    ("manager", &["controllers/manager/src"]),
    ("runtime", &["runtime/src"]),
    ("e2e", &["e2e/tests", "e2e/src"]),
];

/// The tests that the last column of a row names, each with its crate.
fn named(line: &str) -> Vec<(&str, &str)> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
    let [_, tests] = cells[..] else { return Vec::new() };
    if !line.starts_with('|') {
        return Vec::new();
    }
    // Names stand between backticks, what is before each says whose it is.
    let parts: Vec<&str> = tests.split('`').collect();
    parts
        .chunks(2)
        .filter_map(|pair| {
            let [before, name] = *pair else { return None };
            let is_test =
                name.len() > 12 && name.contains('_') && !name.contains([' ', '.', '-', ':', '(', '<', '*']);
            let word = before
                .trim()
                .trim_end_matches(':')
                .rsplit([' ', ',', ';', '('])
                .next()
                .unwrap_or("");
            let owner = CRATES
                .iter()
                .map(|(owner, _)| *owner)
                .find(|owner| *owner == word)
                .unwrap_or("");
            is_test.then_some((owner, name))
        })
        .collect()
}

/// The names of all functions in the sources below a folder.
#[expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text
                .split("fn ")
                .skip(1)
                .filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_test_that_the_table_of_behaviours_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut tests: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (owner, folders) in CRATES {
        for folder in folders {
            functions(&root.join(folder), tests.entry(owner).or_default());
        }
    }
    let named: Vec<(&str, &str)> = TABLE.lines().flat_map(named).collect();
    let owners: BTreeSet<&str> = named.iter().map(|(owner, _)| *owner).collect();
    assert_eq!(
        owners.len(),
        CRATES.len(),
        "only tests of {owners:?}: has the format changed?"
    );
    assert!(
        named.len() > 200,
        "only {} names: has the format changed?",
        named.len()
    );
    let missing: Vec<_> = named
        .iter()
        .filter(|(owner, name)| !tests[owner].contains(*name))
        .collect();
    assert!(
        missing.is_empty(),
        "BEHAVIOUR.md names what is no test: {missing:#?}"
    );
}

#[test]
fn a_row_names_its_tests_and_whose_they_are() {
    let row = "| Adds, and `max` holds | `one_thing_is_so`, manager: `another_is_thus`; that it ends: e2e: `all_comes_to_rest` |";
    let expected = [
        ("", "one_thing_is_so"),
        ("manager", "another_is_thus"),
        ("e2e", "all_comes_to_rest"),
    ];
    assert_eq!(named(row), expected);
}
