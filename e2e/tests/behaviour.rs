// SPDX-License-Identifier: Apache-2.0
//! Keeps the tables of behaviours honest: every test that one names exists, where it says, and what has no test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Whose a test is, and where those stand.
type Owners = &'static [(&'static str, &'static [&'static str])];

/// One table.
struct Book {
    text: &'static str,
    /// The first is meant where the table names none.
    owners: Owners,
    /// Fewer names than that: the format has changed.
    names: usize,
}

const CONTROLLERS: Book = Book {
    text: include_str!("../../controllers/core/BEHAVIOUR.md"),
    owners: &[
        ("", &["controllers/core/src"]),
        ("manager", &["controllers/manager/src"]),
        ("runtime", &["runtime/src"]),
        ("e2e", &["e2e/tests", "e2e/src"]),
    ],
    names: 200,
};

const PROXY: Book = Book {
    text: include_str!("../../proxy/BEHAVIOUR.md"),
    owners: &[
        ("", &["proxy/core/src", "proxy/agent/src"]),
        ("nftables", &["proxy/core/src/nft", "proxy/agent/tests/backend"]),
        (
            "iptables",
            &["proxy/core/src/iptables", "proxy/agent/tests/iptables"],
        ),
        ("ipvs", &["proxy/core/src/ipvs", "proxy/agent/tests/ipvs"]),
        (
            "userspace",
            &["proxy/core/src/userspace", "proxy/agent/tests/userspace"],
        ),
        ("loss", &["proxy/agent/tests/loss"]),
        ("snapshot", &["snapshot/src"]),
        ("berth", &["berth/tests", "berth/src"]),
        ("controllers", &["controllers/core/src"]),
        ("e2e", &["e2e/tests", "e2e/src"]),
    ],
    names: 150,
};

/// The cells of a row: a behaviour, and what tests it. Rows of the tables' heads are none.
fn row(line: &str) -> Option<(&str, &str)> {
    let cells: Vec<&str> = line.strip_prefix('|')?.trim_end_matches('|').split('|').collect();
    match cells[..] {
        [behaviour, tests] if !tests.trim().starts_with("---") && tests.trim() != "test" => {
            Some((behaviour.trim(), tests.trim()))
        }
        _ => None,
    }
}

/// The tests that the last column of a row names, each with whose it is.
fn named(line: &str, owners: Owners) -> Vec<(&'static str, String)> {
    let Some((_, tests)) = row(line) else {
        return Vec::new();
    };
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
            let owner = owners
                .iter()
                .map(|(owner, _)| *owner)
                .find(|owner| *owner == word)
                .unwrap_or("");
            is_test.then_some((owner, name.to_owned()))
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
fn every_test_that_a_table_of_behaviours_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for book in [CONTROLLERS, PROXY] {
        let mut tests: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (owner, folders) in book.owners {
            for folder in *folders {
                functions(&root.join(folder), tests.entry(owner).or_default());
            }
        }
        let named: Vec<(&str, String)> = book
            .text
            .lines()
            .flat_map(|line| named(line, book.owners))
            .collect();
        let owners: BTreeSet<&str> = named.iter().map(|(owner, _)| *owner).collect();
        let known: BTreeSet<&str> = book.owners.iter().map(|(owner, _)| *owner).collect();
        assert_eq!(owners, known, "has the format changed?");
        assert!(
            named.len() > book.names,
            "only {} names: has the format changed?",
            named.len()
        );
        let missing: Vec<_> = named
            .iter()
            .filter(|(owner, name)| !tests[owner].contains(name))
            .collect();
        assert!(missing.is_empty(), "no tests of these names: {missing:#?}");
    }
}

#[test]
fn every_behaviour_of_the_proxy_has_a_test_or_an_owner_or_is_said_to_be_missing() {
    let rows: Vec<(&str, &str)> = PROXY.text.lines().filter_map(row).collect();
    let unsaid: Vec<_> = rows
        .iter()
        .filter(|(_, tests)| {
            let said = ["missing", "not ours: ", "not here: "];
            !tests.contains('`') && !said.iter().any(|word| tests.starts_with(word))
        })
        .collect();
    assert!(unsaid.is_empty(), "nothing is said of {unsaid:#?}");
    // What is missing is counted where it is summed up, so that nobody takes the table for more than it is.
    let missing = rows.iter().filter(|(_, tests)| tests.contains("missing")).count();
    let summed = format!("In {missing} of {} rows something is missing", rows.len());
    assert!(PROXY.text.contains(&summed), "the summary is to say: {summed}");
}

#[test]
fn a_row_names_its_tests_and_whose_they_are() {
    let row = "| Adds, and `max` holds | `one_thing_is_so`, manager: `another_is_thus`; that it ends: e2e: `all_comes_to_rest` |";
    let expected = [
        ("", "one_thing_is_so"),
        ("manager", "another_is_thus"),
        ("e2e", "all_comes_to_rest"),
    ]
    .map(|(owner, name)| (owner, name.to_owned()));
    assert_eq!(named(row, CONTROLLERS.owners), expected);
}
