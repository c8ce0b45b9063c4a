// SPDX-License-Identifier: Apache-2.0
//! What Berth is compared with: kube-controller-manager, built and cached as the control plane is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::controlplane::{Module, Surroundings};

/// Names a kube-controller-manager to use instead of building one.
const VARIABLE: &str = "BERTH_KUBE_CONTROLLER_MANAGER";

/// The Go module `e2e/peers`.
const MODULE: Module = Module {
    name: "peers",
    what: "kube-controller-manager 1.37 to compare Berth with",
    takes: "the first time takes some minutes beyond the control plane's",
    programs: &["kube-controller-manager"],
    files: [
        ("go.mod", include_str!("../peers/go.mod")),
        ("go.sum", include_str!("../peers/go.sum")),
        ("main.go", include_str!("../peers/main.go")),
    ],
};

/// The programs, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
}

impl Peers {
    /// Finds the programs or builds them, showing progress on stderr. A first build takes minutes and needs a
    /// network: call this before entering a sandbox, which has none. Blocks; see [`Peers::ensure`].
    ///
    /// # Errors
    /// No Go, no network, no cache folder, or a variable that names no file; each with the way out.
    pub fn find_or_build() -> Result<Self> {
        match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            Some(named) => Self::named(Path::new(&named)),
            None => Ok(Self {
                kube_controller_manager: Surroundings::observe()
                    .programs_of(&MODULE)?
                    .join("kube-controller-manager"),
            }),
        }
    }

    /// As [`Peers::find_or_build`], off the async threads.
    ///
    /// # Errors
    /// As there.
    pub async fn ensure() -> Result<Self> {
        tokio::task::spawn_blocking(Self::find_or_build).await?
    }

    fn named(path: &Path) -> Result<Self> {
        ensure!(
            path.is_file(),
            "{VARIABLE}={}: no such file; name a kube-controller-manager 1.37, or unset it to have one built",
            path.display()
        );
        // Absolute, because it may be started in another working directory.
        let kube_controller_manager = path.canonicalize().with_context(|| path.display().to_string())?;
        Ok(Self {
            kube_controller_manager,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_program_is_taken_and_a_missing_one_refused_by_the_variable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kcm");
        let refused = Peers::named(&path).unwrap_err().to_string();
        assert!(
            refused.contains(VARIABLE) && refused.contains("unset it"),
            "{refused}"
        );
        std::fs::write(&path, "").unwrap();
        let peers = Peers::named(&path).unwrap();
        assert_eq!(peers.kube_controller_manager, path.canonicalize().unwrap());
    }
}
