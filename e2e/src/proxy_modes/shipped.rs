// SPDX-License-Identifier: Apache-2.0
//! What the manifests ship for a mode, as the API server has it once it has checked and completed them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext};
use serde_json::Value;

use super::Mode;
use crate::cluster::repository;
use crate::controlplane::ControlPlane;

/// The proxy's DaemonSet.
#[derive(Clone, Debug)]
pub struct Shipped {
    /// Of the container, as the manifest has them.
    pub args: Vec<String>,
    /// Names of capabilities that are added to none, in small letters without `CAP_`; `None` where it has all.
    pub capabilities: Option<Vec<String>>,
    /// What is mounted: where the container has it, where the node has it, and whether for reading only.
    pub mounts: BTreeMap<String, (String, bool)>,
}

/// The folder for a mode. Mode userspace has none of its own: a flag is all that it takes.
pub fn folder(mode: Mode) -> PathBuf {
    let name = match mode {
        Mode::Nftables | Mode::Userspace => "base",
        Mode::Iptables => "proxy-iptables",
        Mode::Ipvs => "proxy-ipvs",
    };
    repository().join("manifests").join(name)
}

impl Shipped {
    /// Has the API server look at the whole folder of a mode, without changing anything.
    ///
    /// # Errors
    /// It refuses an object; there is no such DaemonSet.
    pub async fn read(control_plane: &ControlPlane, mode: Mode) -> Result<Self> {
        let folder = folder(mode);
        let folder = folder.to_str().context("a path that is no text")?;
        let dry_run = ["apply", "--dry-run=server", "--output=json", "-k", folder];
        let text = control_plane.kubectl(&dry_run).await?;
        let mut list: Value = serde_json::from_str(&text)?;
        let items = list["items"].as_array_mut().context("no list")?;
        let is_proxy =
            |item: &&mut Value| item["kind"] == "DaemonSet" && item["metadata"]["name"] == "berth-proxy";
        let found = items
            .iter_mut()
            .find(is_proxy)
            .context("no DaemonSet berth-proxy")?;
        let found: DaemonSet = serde_json::from_value(found.take())?;
        let pod = found.spec.template.spec;
        Self::of(pod.context("a DaemonSet without Pods")?)
    }

    fn of(mut pod: PodSpec) -> Result<Self> {
        let container = pod.containers.pop().context("no container")?;
        let capabilities = capabilities(container.security_context.as_ref());
        let mounts = mounts(&pod, &container);
        Ok(Self {
            args: container.args.unwrap_or_default(),
            capabilities,
            mounts,
        })
    }

    /// `-all,+net_admin`; `None` for all.
    pub fn as_setpriv(&self) -> Option<String> {
        let add = |only: String, name: &String| format!("{only},+{name}");
        let names = self.capabilities.as_ref()?;
        Some(names.iter().fold("-all".to_owned(), add))
    }

    /// The argument that chooses the mode.
    pub fn mode_flag(&self) -> Option<&String> {
        let mut args = self.args.iter();
        args.find(|arg| arg.starts_with("--proxy-mode="))
    }
}

fn capabilities(context: Option<&SecurityContext>) -> Option<Vec<String>> {
    let context = context?;
    if context.privileged == Some(true) {
        return None;
    }
    let capabilities = context.capabilities.as_ref()?;
    // Nothing is taken away where nothing says so, and then what is added does not matter.
    capabilities.drop.as_ref().filter(|drop| *drop == &["ALL"])?;
    let added = capabilities.add.iter().flatten();
    Some(added.map(|name| name.to_lowercase()).collect())
}

fn mounts(pod: &PodSpec, container: &Container) -> BTreeMap<String, (String, bool)> {
    let volumes = pod.volumes.iter().flatten().filter_map(|volume| {
        let path = &volume.host_path.as_ref()?.path;
        Some((volume.name.as_str(), path.clone()))
    });
    let volumes: BTreeMap<&str, String> = volumes.collect();
    let mounts = container.volume_mounts.iter().flatten().filter_map(|mount| {
        let on_node = volumes.get(mount.name.as_str())?.clone();
        Some((mount.mount_path.clone(), (on_node, mount.read_only == Some(true))))
    });
    mounts.collect()
}
