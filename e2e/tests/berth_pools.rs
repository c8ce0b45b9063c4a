// SPDX-License-Identifier: Apache-2.0
//! `berth pools` as an administrator runs it, on the real API server.

#![expect(
    clippy::indexing_slicing,
    reason = "a test fails by a panic, on a value that is not there too"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_e2e::controlplane::{Binaries, ControlPlane, ControlPlaneConfig};
use berth_e2e::stage;
use berth_testkit::process::binary;
use berth_testkit::wait::eventually;
use berth_testkit::{in_sandbox_async, sandbox};
use serde_json::{Value, json};
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(60);

/// The exit code, what was said, and what was complained of.
async fn pools(kubeconfig: &Path, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = Command::new(binary("berth", "berth")?)
        .arg("pools")
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args(arguments)
        .output()
        .await?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    Ok((output.status.code(), text(output.stdout)?, text(output.stderr)?))
}

async fn said(kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
    let (code, out, err) = pools(kubeconfig, arguments).await?;
    ensure!(code == Some(0), "{arguments:?}: {code:?} {err}");
    Ok(out)
}

async fn make(control_plane: &ControlPlane, object: &Value) -> Result<()> {
    let kubectl = control_plane.kubectl_runner();
    kubectl
        .run_with_input(["apply", "-f", "-"], &object.to_string())
        .await
        .with_context(|| object.to_string())?;
    Ok(())
}

async fn objects(control_plane: &ControlPlane) -> Result<()> {
    control_plane.install_kinds().await?;
    let pool = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "berth.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name}, "spec": spec});
    let team = json!({"use": "ClusterIP", "addresses": ["10.96.1.0/28"], "selector": {"namespaces": ["default"]},
        "reservations": [{"address": "10.96.1.9", "namespace": "default", "name": "later"}]});
    let others =
        json!({"use": "ClusterIP", "addresses": ["10.96.2.0/28"], "selector": {"namespaces": ["others"]}});
    let ports = json!({"ports": ["30000-30009"], "selector": {"namespaces": ["default"]}});
    for object in [
        pool("AddressPool", "team", team),
        pool("AddressPool", "others", others),
        pool("AddressPool", "lan", json!({"addresses": ["192.0.2.0/28"]})),
        pool("NodePortPool", "ports", ports),
        service("web", json!({"clusterIP": "10.96.1.2", "ports": [{"port": 80}]})),
        service(
            "intruder",
            json!({"clusterIP": "10.96.2.2", "ports": [{"port": 80}]}),
        ),
        service(
            "node",
            json!({"clusterIP": "10.96.1.3", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30005}]}),
        ),
    ] {
        make(control_plane, &object).await?;
    }
    Ok(())
}

#[test]
fn an_administrator_sees_who_has_what_and_others_what_they_lack() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
    in_sandbox_async!(async {
        let config = ControlPlaneConfig {
            logs: Some(stage::folder("berth-pools")?),
            apiserver_flags: vec!["--service-cluster-ip-range=10.96.0.0/16".to_owned()],
            ..ControlPlaneConfig::loopback(Path::new(sandbox::SCRATCH).join("berth-pools"))
        };
        let control_plane = ControlPlane::start(config).await?;
        let admin = control_plane.admin_kubeconfig();
        let bare = said(&admin, &[]).await?;
        for part in [
            "No pools.",
            "NodePortPool is not installed",
            "AddressClaim is not installed",
        ] {
            ensure!(bare.contains(part), "{part}: {bare}");
        }
        objects(&control_plane).await?;
        the_administrator_sees_all(&admin).await?;
        what_is_lacking_is_named(&control_plane, &admin).await
    });
}

async fn the_administrator_sees_all(admin: &Path) -> Result<()> {
    let table = said(admin, &[]).await?;
    let line = |name: &str| {
        let line = table
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (name, expected) in [
        // The network and broadcast addresses of a CIDR are no cluster IPs.
        ("team", "team ClusterIP Gives IPv4 14 2 1 11 1 10.96.1.0/28"),
        ("lan", "lan LoadBalancer Gives IPv4 16 0 0 16 0 192.0.2.0/28"),
        ("ports", "ports NodePort Gives ports 10 1 0 9 1 30000-30009"),
    ] {
        ensure!(line(name) == expected, "{}: {table}", line(name));
    }
    let conflicts = said(admin, &["--conflicts"]).await?;
    ensure!(
        conflicts.contains("default/intruder") && conflicts.contains("Encroachment"),
        "{conflicts}"
    );
    let detail = said(admin, &["team"]).await?;
    for part in ["10.96.1.2", "default/web", "Reserved", "HELD"] {
        ensure!(detail.contains(part), "{part}: {detail}");
    }
    ensure!(!detail.contains("intruder"), "{detail}");
    let json: Value = serde_json::from_str(&said(admin, &["-o", "json"]).await?)?;
    let ports = json["pools"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|pool| pool["name"] == "ports");
    let ports = ports.context("no ports")?;
    ensure!(
        ports["values"][0]
            == json!({"value": "30005", "service": "default/node", "ground": "InUse", "claim": null})
    );
    Ok(())
}

async fn what_is_lacking_is_named(control_plane: &ControlPlane, admin: &Path) -> Result<()> {
    let (code, _, err) = pools(admin, &["nobody"]).await?;
    ensure!(
        code == Some(1) && err.contains("no AddressPool and no NodePortPool \"nobody\""),
        "{code:?} {err}"
    );
    control_plane
        .kubectl(&["create", "serviceaccount", "nobody"])
        .await?;
    let nobody = control_plane
        .service_account_kubeconfig("default", "nobody")
        .await?;
    let refused = || async {
        let (code, out, err) = pools(&nobody, &[]).await?;
        ensure!(code == Some(4), "{code:?} {out} {err}");
        ensure!(
            err.contains("the verb list on ") && err.contains("is needed"),
            "{err}"
        );
        anyhow::Ok(())
    };
    // The token's account is known to the server a moment later.
    eventually("a refusal that says what is needed", PATIENCE, refused).await?;
    let missing = PathBuf::from(sandbox::SCRATCH).join("no-such-kubeconfig");
    let (code, _, err) = pools(&missing, &[]).await?;
    ensure!(
        code == Some(4) && err.contains("no-such-kubeconfig"),
        "{code:?} {err}"
    );
    Ok(())
}
