// SPDX-License-Identifier: Apache-2.0
//! Judges manifests and dependency trees. Pure.

use std::collections::BTreeSet;
use std::fmt;

use super::table::{BANNED_BELOW_CORES, BANNED_BELOW_DATA_PATH, DATA_PATH, Room};

/// What a manifest says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crate {
    pub(crate) name: String,
    /// Normal and build dependencies.
    pub(crate) dependencies: BTreeSet<String>,
    pub(crate) dev_dependencies: BTreeSet<String>,
}

/// A broken rule and the way out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A workspace member that the table does not know.
    NoRoom { name: String },
    /// A room of the table without a crate.
    NoCrate { name: String },
    /// A dependency on a crate of this workspace that no arrow allows.
    Arrow { from: String, to: String },
    /// A test dependency against the arrows.
    DevArrow { from: String, to: String },
    /// A direct dependency on someone else's crate that the room does not list.
    NotListed { from: String, to: String },
    /// A crate below a core that brings the outside world in.
    Below {
        core: String,
        found: String,
        brings: String,
    },
    /// A core's source names the outside world.
    Named {
        file: String,
        path: String,
        reason: String,
    },
    /// A core's clippy.toml lacks a line.
    ClippyGap { core: String, missing: String },
    /// A core's lib.rs does not forbid unsafe code.
    UnsafeNotForbidden { core: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom { name } => {
                write!(
                    f,
                    "{name} has no room: give it one in e2e/tests/rooms/table.rs and draw it in ARCHITECTURE.md"
                )
            }
            Self::NoCrate { name } => write!(
                f,
                "{name} is in e2e/tests/rooms/table.rs but not in the workspace"
            ),
            Self::Arrow { from, to } => write!(
                f,
                "{from} depends on {to}, an arrow that ARCHITECTURE.md does not draw: move the code to the room whose question it answers"
            ),
            Self::DevArrow { from, to } => write!(
                f,
                "{from} depends on {to} in its tests, against the arrows: test the two together in the crate above both"
            ),
            Self::NotListed { from, to } => {
                write!(
                    f,
                    "{from} depends on {to}, which its room in e2e/tests/rooms/table.rs does not list"
                )
            }
            Self::Below { core, found, brings } => write!(
                f,
                "{core} is a core and pulls in {found}, that is {brings}: `cargo tree -p {core} -e normal,build -i {found}` shows through what"
            ),
            Self::Named { file, path, reason } => write!(f, "{file} names {path}: {reason}"),
            Self::ClippyGap { core, missing } => {
                write!(
                    f,
                    "the clippy.toml of {core} lacks {missing}: all cores have the same file"
                )
            }
            Self::UnsafeNotForbidden { core } => {
                write!(f, "the lib.rs of {core} lacks #![forbid(unsafe_code)]")
            }
        }
    }
}

/// Compares the direct dependencies of each crate with what its room allows.
pub(crate) fn arrows(rooms: &[Room], crates: &[Crate]) -> Vec<Finding> {
    let ours: BTreeSet<&str> = crates.iter().map(|c| c.name.as_str()).collect();
    let mut findings = Vec::new();
    for room in rooms.iter().filter(|room| !ours.contains(room.name)) {
        findings.push(Finding::NoCrate {
            name: room.name.to_owned(),
        });
    }
    for c in crates {
        let Some(room) = rooms.iter().find(|room| room.name == c.name) else {
            findings.push(Finding::NoRoom { name: c.name.clone() });
            continue;
        };
        for to in &c.dependencies {
            let (from, to) = (c.name.clone(), to.clone());
            if ours.contains(to.as_str()) {
                if !room.ours.contains(&to.as_str()) {
                    findings.push(Finding::Arrow { from, to });
                }
            } else if !room.others.contains(&to.as_str()) {
                findings.push(Finding::NotListed { from, to });
            }
        }
        for to in c
            .dev_dependencies
            .iter()
            .filter(|to| !dev_allowed(room, &ours, to))
        {
            findings.push(Finding::DevArrow {
                from: c.name.clone(),
                to: to.clone(),
            });
        }
    }
    findings
}

/// Tests keep to the arrows too; shells may use the testkit, and cores may not bring IO in by their tests.
fn dev_allowed(room: &Room, ours: &BTreeSet<&str>, to: &str) -> bool {
    if ours.contains(to) {
        return room.ours.contains(&to) || (!room.core && to == "berth-testkit");
    }
    !(room.core && matches!(to, "tokio" | "kube" | "kube-client" | "hyper"))
}

/// Judges everything that a core pulls in when it is built alone.
pub(crate) fn tree(room: &Room, below: &BTreeSet<String>) -> Vec<Finding> {
    let mut banned = BANNED_BELOW_CORES.to_vec();
    if DATA_PATH.contains(&room.name) {
        banned.extend_from_slice(BANNED_BELOW_DATA_PATH);
    }
    let found = banned.iter().filter(|(name, _)| below.contains(*name));
    let findings = found.map(|(name, brings)| Finding::Below {
        core: room.name.to_owned(),
        found: (*name).to_owned(),
        brings: (*brings).to_owned(),
    });
    findings.collect()
}

/// What the clippy.toml of a core must refuse.
const CLIPPY_BANS: &[&str] = &[
    "std::time::Instant::now",
    "std::time::Instant::elapsed",
    "std::time::SystemTime::now",
    "std::time::SystemTime::elapsed",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "std::env::var",
    "std::env::var_os",
    "std::env::vars",
    "std::fs::read",
    "std::fs::read_to_string",
    "std::fs::write",
    "std::fs::File::open",
    "std::net::TcpStream::connect",
    "std::net::TcpListener::bind",
    "std::net::UdpSocket::bind",
    "std::process::Command::new",
    "std::thread::spawn",
    "std::thread::sleep",
    "std::collections::HashMap",
    "std::collections::HashSet",
];

/// Compares a core's clippy.toml with the common keys and the bans.
pub(crate) fn clippy_bans(room: &Room, common: &str, toml: &str) -> Vec<Finding> {
    let meaningful = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let lines: BTreeSet<&str> = toml.lines().filter(meaningful).collect();
    let keys = common
        .lines()
        .filter(meaningful)
        .filter(|key| !lines.contains(key))
        .map(str::to_owned);
    let bans = CLIPPY_BANS.iter().map(|ban| format!("path = \"{ban}\""));
    let bans = bans.filter(|ban| !lines.iter().any(|line| line.contains(ban.as_str())));
    keys.chain(bans)
        .map(|missing| Finding::ClippyGap {
            core: room.name.to_owned(),
            missing,
        })
        .collect()
}

/// A core's lib.rs forbids unsafe code; `deny`, which the workspace has, could be relaxed by a line further down.
pub(crate) fn forbids_unsafe(room: &Room, lib: &str) -> Option<Finding> {
    let forbids = lib.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]");
    (!forbids).then(|| Finding::UnsafeNotForbidden {
        core: room.name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[Room] = &[
        Room {
            name: "berth-model",
            folder: "model",
            core: true,
            ours: &[],
            others: &["ipnet"],
        },
        Room {
            name: "berth-runtime",
            folder: "runtime",
            core: false,
            ours: &["berth-model"],
            others: &["tokio"],
        },
    ];

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn mk_crate(name: &str, dependencies: &[&str], dev_dependencies: &[&str]) -> Crate {
        Crate {
            name: name.to_owned(),
            dependencies: set(dependencies),
            dev_dependencies: set(dev_dependencies),
        }
    }

    fn judged(model: Crate, runtime: Crate) -> Vec<String> {
        arrows(TWO, &[model, runtime])
            .iter()
            .map(|finding| format!("{finding:?}"))
            .collect()
    }

    #[test]
    fn arrows_table() {
        let model = || mk_crate("berth-model", &["ipnet"], &["proptest"]);
        let runtime = || mk_crate("berth-runtime", &["berth-model", "tokio"], &["tempfile"]);
        let none: Vec<String> = Vec::new();
        let one = |text: &str| vec![text.to_owned()];
        for (behaviour, model, runtime, expected) in [
            ("what the table lists is allowed", model(), runtime(), none),
            (
                "an arrow upwards is found",
                mk_crate("berth-model", &["berth-runtime"], &[]),
                runtime(),
                one(r#"Arrow { from: "berth-model", to: "berth-runtime" }"#),
            ),
            (
                "tokio in a core is found",
                mk_crate("berth-model", &["ipnet", "tokio"], &[]),
                runtime(),
                one(r#"NotListed { from: "berth-model", to: "tokio" }"#),
            ),
            (
                "tokio in a core's tests is found",
                mk_crate("berth-model", &[], &["tokio"]),
                runtime(),
                one(r#"DevArrow { from: "berth-model", to: "tokio" }"#),
            ),
            (
                "an arrow upwards in tests is found",
                mk_crate("berth-model", &[], &["berth-runtime"]),
                runtime(),
                one(r#"DevArrow { from: "berth-model", to: "berth-runtime" }"#),
            ),
        ] {
            assert_eq!(judged(model, runtime), expected, "{behaviour}");
        }
    }

    #[test]
    fn a_crate_without_a_room_and_a_room_without_a_crate_are_found() {
        let findings = arrows(
            TWO,
            &[mk_crate("berth-model", &[], &[]), mk_crate("berth-dns", &[], &[])],
        );
        assert_eq!(
            findings,
            [
                Finding::NoCrate {
                    name: "berth-runtime".to_owned()
                },
                Finding::NoRoom {
                    name: "berth-dns".to_owned()
                }
            ]
        );
    }

    #[test]
    fn a_client_below_a_core_is_found_however_deep() {
        let below = set(&["berth-model", "ipnet", "kube-client", "k8s-openapi"]);
        let found: Vec<String> = tree(&TWO[0], &below).iter().map(Finding::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("kube-client") && found[1].contains("k8s-openapi"),
            "{found:?}"
        );
    }

    #[test]
    fn gaps_in_a_clippy_file_are_found() {
        let all: String = CLIPPY_BANS
            .iter()
            .map(|ban| format!("    {{ path = \"{ban}\" }},\n"))
            .collect();
        let common = "# why\nallow-unwrap-in-tests = true\n";
        let whole = format!("allow-unwrap-in-tests = true\n{all}");
        assert_eq!(clippy_bans(&TWO[0], common, &whole), []);
        let gaps = clippy_bans(
            &TWO[0],
            common,
            &all.replace("std::time::Instant::now", "std::mem::swap"),
        );
        assert_eq!(gaps.len(), 2, "{gaps:?}");
        let commented = format!("allow-unwrap-in-tests = true\n{}", all.replace("    {", "#   {"));
        assert_eq!(clippy_bans(&TWO[0], common, &commented).len(), CLIPPY_BANS.len());
    }

    #[test]
    fn deny_instead_of_forbid_is_found() {
        assert_eq!(
            forbids_unsafe(&TWO[0], "//! doc\n#![forbid(unsafe_code)]\n"),
            None
        );
        assert!(forbids_unsafe(&TWO[0], "#![deny(unsafe_code)]\n").is_some());
        assert!(forbids_unsafe(&TWO[0], "// #![forbid(unsafe_code)]\n").is_some());
    }
}
