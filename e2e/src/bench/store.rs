// SPDX-License-Identifier: Apache-2.0
//! Data sets as folders of etcd: loaded through the API once, kept, copied for each run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use kube::Client;

use super::dataset::Posted;
use crate::controlplane::{Binaries, ControlPlane, ControlPlaneConfig};

/// Requests under way at once: enough to keep two cores busy.
const AT_ONCE: usize = 32;
/// Old revisions would be most of the folder: each Pod is written twice.
const COMPACTION: Duration = Duration::from_secs(15);
/// etcd's folder within a control plane's.
const ETCD: &str = "etcd";

/// Objects that can be loaded and kept.
pub(crate) trait Data {
    /// Says everything that the objects depend on, for people too.
    fn describe(&self) -> String;
    /// A name for stored data: other objects, or another control plane, give another one.
    fn key(&self, control_plane: &str) -> String;
    /// What everything else lives in or on.
    fn foundations(&self) -> Vec<Posted>;
    /// The rest.
    fn workload(&self) -> impl Iterator<Item = Posted>;
}

/// Where data sets are kept.
pub(crate) struct Store {
    folder: PathBuf,
    control_plane: String,
}

impl Store {
    /// Beside the cached control plane.
    pub(crate) fn open(cache: &Path) -> Result<Self> {
        let binaries = Binaries::find_or_build()?;
        Ok(Self {
            folder: cache.to_owned(),
            // In the cache, the folder of the programs is named by the hash of what they were built from.
            control_plane: binaries.etcd.display().to_string(),
        })
    }

    /// Fills `run/etcd` with a data set, which is loaded first where it is not kept yet.
    pub(crate) async fn fill(&self, data: &impl Data, run: &Path, say: &impl Fn(&str)) -> Result<()> {
        let kept = self
            .folder
            .join(format!("bench-data-{}", data.key(&self.control_plane)));
        if !kept.is_dir() {
            say(&format!("loading {} through the API, once", data.describe()));
            let working = run.with_extension("load");
            load(data, &working, say).await?;
            // Under its name only when it is whole.
            let partial = kept.with_extension(format!("partial-{}", std::process::id()));
            copy(&working.join(ETCD), &partial)?;
            std::fs::rename(&partial, &kept).with_context(|| kept.display().to_string())?;
            std::fs::remove_dir_all(&working).with_context(|| working.display().to_string())?;
        }
        copy(&kept, &run.join(ETCD))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copying {} to {}", from.display(), to.display());
    std::fs::create_dir_all(to).with_context(what)?;
    for entry in std::fs::read_dir(from).with_context(what)? {
        let entry = entry.with_context(what)?;
        let target = to.join(entry.file_name());
        if entry.file_type().with_context(what)?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target).with_context(what)?;
        }
    }
    Ok(())
}

async fn load(data: &impl Data, folder: &Path, say: &impl Fn(&str)) -> Result<()> {
    let mut config = ControlPlaneConfig::loopback(folder);
    config.apiserver_flags = vec![format!("--etcd-compaction-interval={}s", COMPACTION.as_secs())];
    let mut control_plane = ControlPlane::start(config).await?;
    let client = control_plane.client();
    post_all(&client, data.foundations().into_iter(), say).await?;
    post_all(&client, data.workload(), say).await?;
    // What etcd itself has accepted is in its log, which it reads at its next start: it may be killed.
    control_plane.stop_apiserver().await?;
    Ok(())
}

async fn post_all(client: &Client, objects: impl Iterator<Item = Posted>, say: &impl Fn(&str)) -> Result<()> {
    const EVERY: usize = 5_000;
    let mut done = 0;
    let mut answers = futures::stream::iter(objects)
        .map(|posted| post(client.clone(), posted))
        .buffer_unordered(AT_ONCE);
    while answers.try_next().await?.is_some() {
        done += 1;
        if done % EVERY == 0 {
            say(&format!("  {done} objects"));
        }
    }
    Ok(())
}

/// The object as its controller makes it, the status as a kubelet writes it: managedFields come by themselves.
async fn post(client: Client, posted: Posted) -> Result<()> {
    let path = format!("{}/{}", posted.collection, posted.name);
    let create = http::Request::post(format!(
        "{}?fieldManager=kube-controller-manager",
        posted.collection
    ))
    .header("content-type", "application/json")
    .body(serde_json::to_vec(&posted.object)?)?;
    client.request_text(create).await.with_context(|| path.clone())?;
    let Some(status) = posted.status else {
        return Ok(());
    };
    let patch = serde_json::json!({ "status": status });
    let update = http::Request::patch(format!("{path}/status?fieldManager=kubelet"))
        .header("content-type", "application/strategic-merge-patch+json")
        .body(serde_json::to_vec(&patch)?)?;
    client.request_text(update).await.with_context(|| path)?;
    Ok(())
}
