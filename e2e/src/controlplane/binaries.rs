// SPDX-License-Identifier: Apache-2.0
//! Where etcd, kube-apiserver and kubectl come from: `KUBEBUILDER_ASSETS`, the cache, or a build into the cache.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::build::{CONTROL_PLANE, Module};
use super::error::ControlPlaneError;

/// The programs of the control plane, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kubectl. Absent only where `KUBEBUILDER_ASSETS` has none and PATH has none either.
    pub kubectl: Option<PathBuf>,
}

impl Binaries {
    /// Finds the programs or builds them, showing progress on stderr. A first build takes minutes and needs a
    /// network: call this before entering a sandbox that has none. Blocks; see [`Binaries::ensure`].
    pub fn find_or_build() -> Result<Self, ControlPlaneError> {
        Surroundings::observe().find_or_build()
    }

    /// As [`Binaries::find_or_build`], off the async threads.
    pub async fn ensure() -> Result<Self, ControlPlaneError> {
        match tokio::task::spawn_blocking(Self::find_or_build).await {
            Ok(found) => found,
            Err(stopped) => Err(ControlPlaneError::Build {
                what: CONTROL_PLANE.what,
                why: stopped.to_string(),
                log: PathBuf::new(),
                tail: String::new(),
            }),
        }
    }

    /// What a `KUBEBUILDER_ASSETS` folder holds; kubectl may come from PATH instead.
    fn in_assets(folder: &Path, path: Option<&OsString>) -> Result<Self, ControlPlaneError> {
        // Absolute, because the programs are started in another working directory.
        let absolute = folder
            .canonicalize()
            .map_err(ControlPlaneError::io("read KUBEBUILDER_ASSETS folder", folder))?;
        let program = |name: &'static str| {
            let file = absolute.join(name);
            if file.is_file() {
                Ok(file)
            } else {
                Err(ControlPlaneError::Assets {
                    path: folder.to_path_buf(),
                    missing: name,
                })
            }
        };
        let on_path = || on_path("kubectl", path).into_iter().next();
        Ok(Self {
            etcd: program("etcd")?,
            kube_apiserver: program("kube-apiserver")?,
            kubectl: program("kubectl").ok().or_else(on_path),
        })
    }
}

/// What the environment says about finding and building, read once.
pub(crate) struct Surroundings {
    /// `KUBEBUILDER_ASSETS`.
    pub(super) assets: Option<PathBuf>,
    /// `BERTH_CACHE`.
    pub(super) cache: Option<PathBuf>,
    /// `HOME`.
    pub(super) home: Option<PathBuf>,
    /// `PATH`.
    pub(super) path: Option<OsString>,
}

impl Surroundings {
    pub(crate) fn observe() -> Self {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            assets: variable("KUBEBUILDER_ASSETS").map(PathBuf::from),
            cache: variable("BERTH_CACHE").map(PathBuf::from),
            home: variable("HOME").map(PathBuf::from),
            path: variable("PATH"),
        }
    }

    /// `${BERTH_CACHE:-~/.cache/berth}`.
    pub(crate) fn cache_folder(&self) -> Result<PathBuf, ControlPlaneError> {
        let in_home = || self.home.as_ref().map(|home| home.join(".cache/berth"));
        self.cache
            .clone()
            .or_else(in_home)
            .ok_or(ControlPlaneError::NoCache)
    }

    fn find_or_build(&self) -> Result<Binaries, ControlPlaneError> {
        if let Some(assets) = &self.assets {
            return Binaries::in_assets(assets, self.path.as_ref());
        }
        let folder = CONTROL_PLANE.find_or_build(self)?;
        Ok(Binaries {
            etcd: folder.join("etcd"),
            kube_apiserver: folder.join("kube-apiserver"),
            kubectl: Some(folder.join("kubectl")),
        })
    }

    /// The folder of another module's programs, built where it has to be.
    pub(crate) fn programs_of(&self, module: &Module) -> Result<PathBuf, ControlPlaneError> {
        module.find_or_build(self)
    }
}

/// Every file called `name` on PATH, in its order.
pub(super) fn on_path(name: &str, path: Option<&OsString>) -> Vec<PathBuf> {
    path.map(|path| {
        env::split_paths(path)
            .map(|folder| folder.join(name))
            .filter(|file| file.is_file())
            .collect()
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings {
            assets: None,
            cache: None,
            home: None,
            path: None,
        }
    }

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            std::fs::write(folder.join(name), "").unwrap();
        }
    }

    #[test]
    fn assets_win_and_need_no_cache() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["etcd", "kube-apiserver"]);
        let found = Surroundings {
            assets: Some(folder.path().into()),
            ..surroundings()
        }
        .find_or_build()
        .unwrap();
        assert_eq!(found.etcd, folder.path().canonicalize().unwrap().join("etcd"));
        assert_eq!(found.kubectl, None);
    }

    #[test]
    fn assets_without_kubectl_take_the_one_on_path() {
        let assets = tempfile::tempdir().unwrap();
        let path = tempfile::tempdir().unwrap();
        touch(assets.path(), &["etcd", "kube-apiserver"]);
        touch(path.path(), &["kubectl"]);
        let found = Surroundings {
            assets: Some(assets.path().into()),
            path: Some(path.path().as_os_str().to_owned()),
            ..surroundings()
        }
        .find_or_build()
        .unwrap();
        assert_eq!(found.kubectl, Some(path.path().join("kubectl")));
    }

    #[test]
    fn incomplete_assets_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["etcd"]);
        let refused = Surroundings {
            assets: Some(folder.path().into()),
            ..surroundings()
        }
        .find_or_build()
        .unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("KUBEBUILDER_ASSETS") && text.contains("no kube-apiserver"),
            "{text}"
        );
    }

    #[test]
    fn the_cache_is_used_without_building() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join(CONTROL_PLANE.folder_name());
        std::fs::create_dir(&folder).unwrap();
        touch(&folder, CONTROL_PLANE.programs);
        let found = Surroundings {
            cache: Some(cache.path().into()),
            ..surroundings()
        }
        .find_or_build()
        .unwrap();
        assert_eq!(
            found.kube_apiserver,
            folder.canonicalize().unwrap().join("kube-apiserver")
        );
    }

    #[test]
    fn berth_cache_comes_before_home() {
        let home = Some(PathBuf::from("/home/someone"));
        let by_home = Surroundings {
            home: home.clone(),
            ..surroundings()
        };
        assert_eq!(
            by_home.cache_folder().unwrap(),
            PathBuf::from("/home/someone/.cache/berth")
        );
        let by_variable = Surroundings {
            cache: Some("/elsewhere".into()),
            home,
            ..surroundings()
        };
        assert_eq!(by_variable.cache_folder().unwrap(), PathBuf::from("/elsewhere"));
        assert!(
            surroundings()
                .cache_folder()
                .unwrap_err()
                .to_string()
                .contains("BERTH_CACHE")
        );
    }
}
