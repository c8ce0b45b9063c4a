// SPDX-License-Identifier: Apache-2.0
//! Builds the Go module `e2e/controlplane` into the cache, once, however many runs ask for it at a time.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::binaries::{Binaries, Surroundings};
use super::error::ControlPlaneError;
use super::process::log_tail;
use super::progress::Progress;
use super::toolchain;

/// The names that the one binary answers to, in the order of [`Binaries`]' fields.
pub(super) const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];

/// The module's files, carried in this program: the build does not depend on where the checkout is.
const MODULE: [(&str, &str); 3] = [
    ("go.mod", include_str!("../../controlplane/go.mod")),
    ("go.sum", include_str!("../../controlplane/go.sum")),
    ("main.go", include_str!("../../controlplane/main.go")),
];

/// Arguments of `go`. Without the version, clients cannot parse what the server says it is.
const BUILD: [&str; 7] = [
    "build",
    "-v",
    "-buildvcs=false",
    "-trimpath",
    "-ldflags",
    "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2",
    "-o",
];

const WHAT: &str = "building etcd 3.7, kube-apiserver 1.37 and kubectl for the test control plane";

/// How often a live progress line is drawn anew, and the compiler looked at.
const TICK: Duration = Duration::from_millis(250);

/// `controlplane-HASH`: whatever changes the binary changes the name, so that a stale one is never used.
pub(super) fn folder_name() -> String {
    let mut hash = Sha256::new();
    for (name, text) in MODULE {
        hash.update(name);
        hash.update([0]);
        hash.update(text);
        hash.update([0]);
    }
    hash.update(BUILD.join(" "));
    hash.update(std::env::consts::ARCH);
    let digest: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("controlplane-{digest}")
}

/// Builds into `folder` of `cache`; when another process is at it already, waits for it and takes its result.
pub(super) fn build(
    cache: &Path,
    folder: &Path,
    surroundings: &Surroundings,
) -> Result<Binaries, ControlPlaneError> {
    let _lock = lock(cache)?;
    if let Some(built_meanwhile) = Binaries::in_cache(folder) {
        return Ok(built_meanwhile);
    }
    remove_leftovers(cache);
    let go = toolchain::find(surroundings, cache)?;
    let workshop = tempfile::Builder::new()
        .prefix(LEFTOVER)
        .tempdir_in(cache)
        .map_err(ControlPlaneError::io("create a folder in", cache))?;
    compile(
        &go,
        workshop.path(),
        &cache.join("build.log"),
        surroundings.home.is_none(),
    )?;
    install(workshop.path(), folder)?;
    Binaries::in_cache(folder).ok_or_else(|| ControlPlaneError::Io {
        what: "find the finished build in",
        path: folder.to_path_buf(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// Prefix of work folders; one that is there while nobody holds the lock was left by a killed build.
const LEFTOVER: &str = ".building-";

fn lock(cache: &Path) -> Result<File, ControlPlaneError> {
    let path = cache.join("build.lock");
    let file = File::create(&path).map_err(ControlPlaneError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let progress =
                Progress::start("waiting for the test control plane", "another run is building it");
            file.lock().map_err(ControlPlaneError::io("lock", &path))?;
            progress.finish("done");
        }
        Err(TryLockError::Error(source)) => {
            return Err(ControlPlaneError::Io {
                what: "lock",
                path,
                source,
            });
        }
    }
    Ok(file)
}

fn remove_leftovers(cache: &Path) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| {
        entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(LEFTOVER.as_bytes())
    }) {
        // Only disk space is at stake: a folder that cannot be removed does not stop the build.
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Runs `go build` in `workshop`, into `workshop/out/controlplane`.
fn compile(go: &Path, workshop: &Path, log: &Path, homeless: bool) -> Result<(), ControlPlaneError> {
    for (name, text) in MODULE {
        let path = workshop.join(name);
        fs::write(&path, text).map_err(ControlPlaneError::io("write", path))?;
    }
    let output = File::create(log).map_err(ControlPlaneError::io("create", log))?;
    let errors = output.try_clone().map_err(ControlPlaneError::io("open", log))?;
    let mut command = Command::new(go);
    command
        .args(BUILD)
        .args(["out/controlplane", "."])
        .current_dir(workshop);
    command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
    command.env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
    if homeless {
        command
            .env("GOPATH", workshop.with_file_name("go"))
            .env("GOCACHE", workshop.with_file_name("go-build"));
    }
    let failed = |why: String| ControlPlaneError::Build {
        why,
        log: log.to_path_buf(),
        tail: log_tail(log),
    };
    let progress = Progress::start(WHAT, "the first time takes 5 to 10 minutes");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| failed(format!("{}: {error}", go.display())))?;
    loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) if status.success() => break,
            Some(status) => {
                progress.finish("failed");
                return Err(failed(status.to_string()));
            }
            None => progress.tick(&step(log)),
        }
        std::thread::sleep(TICK);
    }
    progress.finish("done");
    Ok(())
}

/// What `go build -v` is at: it names each module it fetches and each package it compiles.
fn step(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let (fetched, compiled): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("go: "));
    format!(
        "{} modules fetched, {} packages compiled",
        fetched.len(),
        compiled.len()
    )
}

/// Adds the links and puts the whole folder in its place at once.
fn install(workshop: &Path, folder: &Path) -> Result<(), ControlPlaneError> {
    let out: PathBuf = workshop.join("out");
    for name in PROGRAMS {
        let link = out.join(name);
        symlink("controlplane", &link).map_err(ControlPlaneError::io("link", link))?;
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(ControlPlaneError::io("remove", folder))?;
    }
    fs::rename(&out, folder).map_err(ControlPlaneError::io("rename the finished build to", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_named_by_sixteen_hex_digits() {
        let name = folder_name();
        let digest = name.strip_prefix("controlplane-").unwrap();
        assert!(
            digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{name}"
        );
        assert_eq!(name, folder_name());
    }

    #[test]
    fn an_installed_folder_is_complete_and_replaces_a_broken_one() {
        let cache = tempfile::tempdir().unwrap();
        let (workshop, folder) = (cache.path().join("work"), cache.path().join("controlplane-x"));
        fs::create_dir_all(workshop.join("out")).unwrap();
        fs::write(workshop.join("out/controlplane"), "binary").unwrap();
        fs::create_dir(&folder).unwrap();
        install(&workshop, &folder).unwrap();
        let built = Binaries::in_cache(&folder).unwrap();
        assert_eq!(fs::read_to_string(built.etcd).unwrap(), "binary");
    }

    #[test]
    fn leftovers_of_killed_builds_go_and_builds_stay() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir(cache.path().join(".building-1")).unwrap();
        fs::create_dir(cache.path().join("controlplane-1")).unwrap();
        remove_leftovers(cache.path());
        assert!(!cache.path().join(".building-1").exists());
        assert!(cache.path().join("controlplane-1").exists());
    }

    #[test]
    fn a_failed_build_shows_the_log_and_its_place() {
        let workshop = tempfile::tempdir().unwrap();
        let log = workshop.path().join("build.log");
        // A shell in place of go: it complains that there is no script called "build".
        let text = compile(Path::new("/bin/sh"), workshop.path(), &log, false)
            .unwrap_err()
            .to_string();
        let said = fs::read_to_string(&log).unwrap();
        assert!(!said.is_empty() && text.ends_with(said.trim_end()), "{text}");
        assert!(
            text.contains(log.to_str().unwrap()) && text.contains("exit status"),
            "{text}"
        );
    }
}
