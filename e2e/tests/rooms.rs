// SPDX-License-Identifier: Apache-2.0
//! Each crate keeps to its room: the arrows of ARCHITECTURE.md hold, and cores touch nothing.
//!
//! In: the workspace's manifests, dependency trees and sources. Out: findings, each with the way
//! out. Touches: reads the checkout, runs `cargo metadata` and `cargo tree` offline.
//!
//! The judges are pure functions over values; the tests below feed them the real workspace and,
//! so that they are known to be able to fail, workspaces that break each rule.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail by panicking"
)]

#[path = "rooms/judge.rs"]
mod judge;
#[path = "rooms/source.rs"]
mod source;
#[path = "rooms/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use judge::{Crate, Finding};
use table::{ROOMS, Room};

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// The manifests alone: a resolved graph would show kube's client everywhere, because features are
/// unified over the whole workspace.
fn manifests() -> Metadata {
    MetadataCommand::new()
        .manifest_path(workspace_root().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap()
}

fn crates(metadata: &Metadata) -> Vec<Crate> {
    let of = |package: &cargo_metadata::Package, wanted: &[DependencyKind]| {
        let dependencies = package.dependencies.iter().filter(|d| wanted.contains(&d.kind));
        dependencies.map(|d| d.name.clone()).collect::<BTreeSet<_>>()
    };
    let crates = metadata.packages.iter().map(|package| Crate {
        name: package.name.to_string(),
        dependencies: of(package, &[DependencyKind::Normal, DependencyKind::Build]),
        dev_dependencies: of(package, &[DependencyKind::Development]),
    });
    crates.collect()
}

/// What the crate pulls in when it is built by itself, so that no neighbour's features count.
fn tree_alone(room: &Room) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(workspace_root())
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "-p",
        ])
        .arg(room.name)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo tree -p {}: {}",
        room.name,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert!(
        names.contains(room.name),
        "cargo tree -p {} does not show the crate itself",
        room.name
    );
    names
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cores() -> impl Iterator<Item = &'static Room> {
    ROOMS.iter().filter(|room| room.core)
}

#[track_caller]
fn assert_none(findings: &[Finding]) {
    let list: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(list.is_empty(), "\n{}\n", list.join("\n"));
}

#[test]
fn no_crate_takes_a_dependency_that_its_room_does_not_allow() {
    assert_none(&judge::arrows(ROOMS, &crates(&manifests())));
}

#[test]
fn each_crate_stands_in_the_folder_of_its_room() {
    let metadata = manifests();
    for room in ROOMS {
        let package = metadata.packages.iter().find(|package| package.name == room.name);
        let found = package.map(|package| {
            package
                .manifest_path
                .parent()
                .unwrap()
                .as_std_path()
                .to_path_buf()
        });
        assert_eq!(found, Some(workspace_root().join(room.folder)), "{}", room.name);
    }
}

#[test]
fn no_core_pulls_in_an_async_runtime_a_client_or_randomness() {
    let findings: Vec<Finding> = cores()
        .flat_map(|room| judge::tree(room, &tree_alone(room)))
        .collect();
    assert_none(&findings);
}

#[test]
fn no_core_names_a_clock_the_environment_a_file_a_socket_or_randomness() {
    let mut findings = Vec::new();
    for room in cores() {
        let root = workspace_root().join(room.folder).join("src");
        let files: Vec<(PathBuf, String)> = rust_files(&root)
            .into_iter()
            .map(|path| (path.clone(), read(&path)))
            .collect();
        assert!(!files.is_empty(), "{} holds no source", root.display());
        findings.extend(source::outside_world(&files));
    }
    assert_none(&findings);
}

#[test]
fn each_core_forbids_unsafe_and_lets_clippy_refuse_the_outside_world() {
    let common = read(&workspace_root().join("clippy.toml"));
    let mut findings = Vec::new();
    for room in cores() {
        let folder = workspace_root().join(room.folder);
        findings.extend(judge::clippy_bans(
            room,
            &common,
            &read(&folder.join("clippy.toml")),
        ));
        findings.extend(judge::forbids_unsafe(room, &read(&folder.join("src/lib.rs"))));
    }
    assert_none(&findings);
}

#[test]
fn each_crate_takes_the_workspace_lints() {
    for room in ROOMS {
        let manifest = read(&workspace_root().join(room.folder).join("Cargo.toml"));
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{}/Cargo.toml lacks `[lints]` with `workspace = true`",
            room.folder
        );
    }
}
