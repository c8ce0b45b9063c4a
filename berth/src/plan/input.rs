// SPDX-License-Identifier: Apache-2.0
//! Files to objects.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use berth_crds::AddressPool;
use berth_snapshot::pod::PodManifest;
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Everything that the files hold and a planner reads.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) services: Vec<Service>,
    pub(crate) pods: Vec<PodManifest>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) endpoints: Vec<Endpoints>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    pub(crate) pools: Vec<AddressPool>,
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
    pub(crate) fn add_text(&mut self, text: &str) -> anyhow::Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)
            .map_err(|error| anyhow::anyhow!("not readable as YAML: {error}"))?;
        for (index, document) in documents.into_iter().enumerate() {
            self.add(document)
                .with_context(|| format!("document {}", index + 1))?;
        }
        Ok(())
    }

    fn add(&mut self, document: Value) -> anyhow::Result<()> {
        if document.is_null() {
            return Ok(());
        }
        let text = |pointer: &str| {
            document
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        if kind.is_empty() || version.is_empty() {
            bail!("no Kubernetes object: apiVersion or kind is missing");
        }
        match (version.as_str(), kind.as_str()) {
            ("v1", "Service") => self.services.push(typed(document, &kind, &name)?),
            ("v1", "Pod") => self.pods.push(typed(document, &kind, &name)?),
            ("v1", "Node") => self.nodes.push(typed(document, &kind, &name)?),
            ("v1", "Endpoints") => self.endpoints.push(typed(document, &kind, &name)?),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.slices.push(Arc::new(typed(document, &kind, &name)?))
            }
            ("berth.dev/v1alpha1", "AddressPool") => self.pools.push(typed(document, &kind, &name)?),
            (_, kind) if kind == "List" || kind.ends_with("List") => {
                let items = document
                    .get("items")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                items.into_iter().try_for_each(|item| self.add(item))?;
            }
            _ => *self.ignored.entry(format!("{kind} ({version})")).or_default() += 1,
        }
        Ok(())
    }
}

fn typed<T: DeserializeOwned>(document: Value, kind: &str, name: &str) -> anyhow::Result<T> {
    serde_json::from_value(document).with_context(|| format!("{kind} {name:?}"))
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
