// SPDX-License-Identifier: Apache-2.0
//! Builds a Go module that this program carries into the cache, once, however many runs ask for it at a time.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::binaries::Surroundings;
use super::error::ControlPlaneError;
use super::process::log_tail;
use super::progress::Progress;
use super::toolchain;

/// A Go module whose one binary picks its program by the name it is called by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    /// Of the binary, and the first part of its folder's name in the cache.
    pub(crate) name: &'static str,
    /// For messages: what is inside, as "kubectl for the test cluster".
    pub(crate) what: &'static str,
    /// How long a first build takes, in words.
    pub(crate) takes: &'static str,
    /// The names that the binary answers to, each a link beside it.
    pub(crate) programs: &'static [&'static str],
    /// Names and texts of its files, carried in this program: the build does not depend on where the checkout is.
    pub(crate) files: &'static [(&'static str, &'static str)],
}

/// etcd, kube-apiserver and kubectl.
pub(super) const CONTROL_PLANE: Module = Module {
    name: "controlplane",
    what: "etcd 3.7, kube-apiserver 1.37 and kubectl for the test control plane",
    takes: "the first time takes 5 to 10 minutes",
    programs: &["etcd", "kube-apiserver", "kubectl"],
    files: &[
        ("go.mod", include_str!("../../controlplane/go.mod")),
        ("go.sum", include_str!("../../controlplane/go.sum")),
        ("main.go", include_str!("../../controlplane/main.go")),
    ],
};

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

/// How often a live progress line is drawn anew, and the compiler looked at.
const TICK: Duration = Duration::from_millis(250);

impl Module {
    /// The folder in the cache that holds the programs, built there first where it has to be.
    pub(super) fn find_or_build(&self, surroundings: &Surroundings) -> Result<PathBuf, ControlPlaneError> {
        let cache = surroundings.cache_folder()?;
        fs::create_dir_all(&cache).map_err(ControlPlaneError::io("create cache folder", &cache))?;
        let cache = cache
            .canonicalize()
            .map_err(ControlPlaneError::io("read cache folder", &cache))?;
        let folder = cache.join(self.folder_name());
        if !self.is_built(&folder) {
            self.build(&cache, &folder, surroundings)?;
        }
        Ok(folder)
    }

    /// Whether a folder has every program: one that was left unfinished has not.
    pub(super) fn is_built(&self, folder: &Path) -> bool {
        self.programs.iter().all(|name| folder.join(name).is_file())
    }

    /// `NAME-HASH`: whatever changes the binary changes the name, so that a stale one is never used.
    pub(super) fn folder_name(&self) -> String {
        let mut hash = Sha256::new();
        for (name, text) in self.files {
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
        format!("{}-{digest}", self.name)
    }

    /// Builds into `folder` of `cache`; when another process is at it already, waits for it and takes its result.
    fn build(
        &self,
        cache: &Path,
        folder: &Path,
        surroundings: &Surroundings,
    ) -> Result<(), ControlPlaneError> {
        let _lock = lock(cache)?;
        if self.is_built(folder) {
            return Ok(());
        }
        remove_leftovers(cache);
        let go = toolchain::find(surroundings, cache)?;
        let workshop = tempfile::Builder::new()
            .prefix(LEFTOVER)
            .tempdir_in(cache)
            .map_err(ControlPlaneError::io("create a folder in", cache))?;
        let log = cache.join("build.log");
        compile(self, &go, workshop.path(), &log, surroundings.home.is_none())?;
        install(self, workshop.path(), folder)?;
        if self.is_built(folder) {
            return Ok(());
        }
        Err(ControlPlaneError::Io {
            what: "find the finished build in",
            path: folder.to_path_buf(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }
}

/// Prefix of work folders; one that is there while nobody holds the lock was left by a killed build.
const LEFTOVER: &str = ".building-";

fn lock(cache: &Path) -> Result<File, ControlPlaneError> {
    let path = cache.join("build.lock");
    let file = File::create(&path).map_err(ControlPlaneError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let progress = Progress::start("waiting for the build folder", "another run is building in it");
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

/// Runs `go build` in `workshop`, into `workshop/out/NAME`.
fn compile(
    module: &Module,
    go: &Path,
    workshop: &Path,
    log: &Path,
    homeless: bool,
) -> Result<(), ControlPlaneError> {
    for (name, text) in module.files {
        let path = workshop.join(name);
        fs::write(&path, text).map_err(ControlPlaneError::io("write", path))?;
    }
    let output = File::create(log).map_err(ControlPlaneError::io("create", log))?;
    let errors = output.try_clone().map_err(ControlPlaneError::io("open", log))?;
    let mut command = Command::new(go);
    command
        .args(BUILD)
        .args([&format!("out/{}", module.name), "."])
        .current_dir(workshop);
    command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
    command.env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
    if homeless {
        command
            .env("GOPATH", workshop.with_file_name("go"))
            .env("GOCACHE", workshop.with_file_name("go-build"));
    }
    let failed = |why: String| ControlPlaneError::Build {
        what: module.what,
        why,
        log: log.to_path_buf(),
        tail: log_tail(log),
    };
    let progress = Progress::start(format!("building {}", module.what), module.takes);
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
fn install(module: &Module, workshop: &Path, folder: &Path) -> Result<(), ControlPlaneError> {
    let out: PathBuf = workshop.join("out");
    for name in module.programs {
        let link = out.join(name);
        symlink(module.name, &link).map_err(ControlPlaneError::io("link", link))?;
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
        let name = CONTROL_PLANE.folder_name();
        let digest = name.strip_prefix("controlplane-").unwrap();
        assert!(
            digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{name}"
        );
        assert_eq!(name, CONTROL_PLANE.folder_name());
    }

    #[test]
    fn an_unfinished_folder_is_no_build() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["etcd", "kubectl"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert!(!CONTROL_PLANE.is_built(folder.path()));
    }

    #[test]
    fn an_installed_folder_is_complete_and_replaces_a_broken_one() {
        let cache = tempfile::tempdir().unwrap();
        let (workshop, folder) = (cache.path().join("work"), cache.path().join("controlplane-x"));
        fs::create_dir_all(workshop.join("out")).unwrap();
        fs::write(workshop.join("out/controlplane"), "binary").unwrap();
        fs::create_dir(&folder).unwrap();
        assert!(!CONTROL_PLANE.is_built(&folder));
        install(&CONTROL_PLANE, &workshop, &folder).unwrap();
        assert!(CONTROL_PLANE.is_built(&folder));
        assert_eq!(fs::read_to_string(folder.join("etcd")).unwrap(), "binary");
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
        let go = Path::new("/bin/sh");
        let text = compile(&CONTROL_PLANE, go, workshop.path(), &log, false)
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
