// SPDX-License-Identifier: Apache-2.0
//! What Berth is compared with: kube-controller-manager, kube-proxy and the API server's allocator, built and cached as
//! the control plane is.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};

use crate::controlplane::{Module, Surroundings};

/// A program, and the variable that names one to use instead of building it.
struct Program {
    name: &'static str,
    variable: &'static str,
}

const CONTROLLER_MANAGER: Program = Program {
    name: "kube-controller-manager",
    variable: "BERTH_KUBE_CONTROLLER_MANAGER",
};
const PROXY: Program = Program {
    name: "kube-proxy",
    variable: "BERTH_KUBE_PROXY",
};

const ALLOCATOR: Program = Program {
    name: "service-allocator",
    variable: "BERTH_SERVICE_ALLOCATOR",
};

/// The Go module `e2e/peers`.
const MODULE: Module = Module {
    name: "peers",
    what: "kube-controller-manager and kube-proxy 1.37 to compare Berth with",
    takes: "the first time takes some minutes beyond the control plane's",
    programs: &[CONTROLLER_MANAGER.name, PROXY.name, ALLOCATOR.name],
    files: &[
        ("go.mod", include_str!("../peers/go.mod")),
        ("go.sum", include_str!("../peers/go.sum")),
        ("main.go", include_str!("../peers/main.go")),
        ("allocation.go", include_str!("../peers/allocation.go")),
    ],
};

/// The programs, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
    /// kube-proxy.
    pub kube_proxy: PathBuf,
    /// The measuring loop around the allocator of the API server.
    pub service_allocator: PathBuf,
}

impl Peers {
    /// Finds the programs or builds them, showing progress on stderr. A first build takes minutes and needs a
    /// network: call this before entering a sandbox, which has none. Blocks; see [`Peers::ensure`].
    ///
    /// # Errors
    /// No Go, no network, no cache folder, or a variable that names no file; each with the way out.
    pub fn find_or_build() -> Result<Self> {
        let folder = OnceCell::new();
        let program = |program: Program| match program.given()? {
            Some(given) => Ok(given),
            None => {
                let built = folder.get_or_init(|| Surroundings::observe().programs_of(&MODULE));
                match built {
                    Ok(folder) => Ok(folder.join(program.name)),
                    Err(error) => Err(anyhow!("{error}")),
                }
            }
        };
        Ok(Self {
            kube_controller_manager: program(CONTROLLER_MANAGER)?,
            kube_proxy: program(PROXY)?,
            service_allocator: program(ALLOCATOR)?,
        })
    }

    /// As [`Peers::find_or_build`], off the async threads.
    ///
    /// # Errors
    /// As there.
    pub async fn ensure() -> Result<Self> {
        tokio::task::spawn_blocking(Self::find_or_build).await?
    }
}

impl Program {
    /// The one that the variable names.
    fn given(&self) -> Result<Option<PathBuf>> {
        let value = std::env::var_os(self.variable).filter(|value| !value.is_empty());
        value.map(|value| self.at(Path::new(&value))).transpose()
    }

    fn at(&self, path: &Path) -> Result<PathBuf> {
        ensure!(
            path.is_file(),
            "{}={}: no such file; name a {} 1.37, or unset it to have one built",
            self.variable,
            path.display(),
            self.name
        );
        // Absolute, because it may be started in another working directory. Its last part stays: by it the binary
        // tells which program it is.
        std::path::absolute(path).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_program_is_taken_and_a_missing_one_refused_by_the_variable() {
        let folder = tempfile::tempdir().unwrap();
        for program in [CONTROLLER_MANAGER, PROXY, ALLOCATOR] {
            let path = folder.path().join(program.name);
            let refused = program.at(&path).unwrap_err().to_string();
            assert!(
                refused.contains(program.variable) && refused.contains("unset it"),
                "{refused}"
            );
            std::fs::write(&path, "").unwrap();
            assert_eq!(program.at(&path).unwrap(), path);
        }
    }
}
