// SPDX-License-Identifier: Apache-2.0
//! `KEEP=1`: leaves the demo up, and says how to use it and how to stop it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anstream::println;
use anyhow::{Context, Result};
use berth_testkit::sandbox;

use crate::cluster::Cluster;

/// Prints the ways in and waits for SIGINT or SIGTERM.
///
/// # Errors
/// The script cannot be written, or a signal handler not be installed.
pub(crate) async fn until_interrupted(cluster: &Cluster) -> Result<()> {
    let kubectl = script(cluster)?;
    let enter = sandbox::enter_command().context("not in the sandbox")?;
    println!("\nThe demo stays up, in namespaces of its own. From another terminal:");
    println!("  {} get services -A        kubectl on it", kubectl.display());
    println!("  {enter} ip netns                    its nodes, Pods and client");
    println!("  {enter} ip netns exec node-1 nft list table ip berth-proxy");
    println!("  logs: {}", cluster.logs().display());
    println!(
        "Stop it with Ctrl-C here, or by killing process {}.",
        std::env::var("BERTH_SANDBOX").unwrap_or_default()
    );
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// A kubectl that enters the sandbox: beside the logs, so that it can be called from outside.
fn script(cluster: &Cluster) -> Result<PathBuf> {
    let enter = sandbox::enter_command().context("not in the sandbox")?;
    let program = cluster
        .control_plane
        .kubectl_runner()
        .program()
        .context("no kubectl")?
        .display()
        .to_string();
    let kubeconfig = cluster.control_plane.admin_kubeconfig();
    let text = format!(
        "#!/bin/sh\nexec {enter} {program} --kubeconfig={} \"$@\"\n",
        kubeconfig.display()
    );
    let path = cluster.logs().join("kubectl");
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
