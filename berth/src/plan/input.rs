// SPDX-License-Identifier: Apache-2.0
//! Files to objects.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use berth_crds::AddressPool;
use berth_runtime::manifest::{Manifest, ManifestError, manifests};
use berth_snapshot::pod::PodManifest;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;

/// Everything that the files hold and a planner reads.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) services: Vec<Service>,
    pub(crate) pods: Vec<PodManifest>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) endpoints: Vec<Endpoints>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    pub(crate) pools: Vec<AddressPool>,
    /// Of ServiceCIDRs; `None` where there are none, which says nothing of the cluster's.
    pub(crate) service_cidrs: Option<Vec<IpNet>>,
    /// Kinds that no planner reads, with how many of each were there.
    pub(crate) ignored: BTreeMap<String, usize>,
}

impl Objects {
    /// Reads files, folders (their `.yaml`, `.yml` and `.json` files, by name) and `-`, the standard input.
    ///
    /// # Errors
    /// Names the file, and the document, object and field in it.
    pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut objects = Self::default();
        for path in paths {
            if path.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("reading standard input")?;
                objects.add_text(&text).context("standard input")?;
                continue;
            }
            for file in files_of(path)? {
                let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                objects
                    .add_text(&text)
                    .with_context(|| file.display().to_string())?;
            }
        }
        Ok(objects)
    }

    /// Adds every document of a YAML (or JSON) text.
    pub(crate) fn add_text(&mut self, text: &str) -> Result<(), ManifestError> {
        for manifest in manifests(text)? {
            self.add(manifest)?;
        }
        Ok(())
    }

    fn add(&mut self, manifest: Manifest) -> Result<(), ManifestError> {
        match (manifest.api_version.as_str(), manifest.kind.as_str()) {
            ("v1", "Service") => self.services.push(manifest.typed()?),
            ("v1", "Pod") => self.pods.push(manifest.typed()?),
            ("v1", "Node") => self.nodes.push(manifest.typed()?),
            ("v1", "Endpoints") => self.endpoints.push(manifest.typed()?),
            ("discovery.k8s.io/v1", "EndpointSlice") => self.slices.push(Arc::new(manifest.typed()?)),
            ("networking.k8s.io/v1", "ServiceCIDR") => self.add_cidrs(manifest)?,
            ("berth.dev/v1alpha1", "AddressPool") => self.pools.push(manifest.typed()?),
            (version, kind) => *self.ignored.entry(format!("{kind} ({version})")).or_default() += 1,
        }
        Ok(())
    }

    fn add_cidrs(&mut self, manifest: Manifest) -> Result<(), ManifestError> {
        let cidr: ServiceCIDR = manifest.clone().typed()?;
        for cidr in cidr.spec.and_then(|spec| spec.cidrs).unwrap_or_default() {
            let network = cidr.parse();
            let fault = |error| manifest.fault(&format!("spec.cidrs: {cidr:?}: {error}"));
            let networks = self.service_cidrs.get_or_insert_default();
            networks.push(network.map_err(|error: ipnet::AddrParseError| fault(error))?);
        }
        Ok(())
    }
}

fn files_of(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let file = entry.with_context(|| path.display().to_string())?.path();
        let known = file
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| ["yaml", "yml", "json"].contains(&e));
        if known && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("{}: no .yaml, .yml or .json file in this folder", path.display());
    }
    files.sort();
    Ok(files)
}
