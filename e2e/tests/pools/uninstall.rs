// SPDX-License-Identifier: Apache-2.0
//! `berth uninstall`: nothing depends on Berth when it is through, and nothing that works is taken.

use anyhow::{Result, ensure};
use berth_testkit::in_sandbox_async;
use berth_testkit::process::binary;
use berth_testkit::wait::eventually;
use serde_json::json;
use tokio::process::Command;

use super::cluster::Cluster;
use super::{PATIENCE, prepare};

/// The exit code, what was said, and what was complained of.
async fn uninstall(cluster: &Cluster, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = Command::new(binary("berth", "berth")?)
        .arg("uninstall")
        .arg(format!("--kubeconfig={}", cluster.admin_kubeconfig().display()))
        .args(arguments)
        .output()
        .await?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    Ok((output.status.code(), text(output.stdout)?, text(output.stderr)?))
}

/// What the controllers wrote beside statuses.
async fn written(cluster: &Cluster) -> Result<String> {
    let kinds = "mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,servicecidrs";
    let global = cluster.kubectl(&["get", kinds, "-o", "name"]).await?;
    let own = cluster
        .kubectl(&["-n", "berth-system", "get", "secrets,leases", "-o", "name"])
        .await?;
    let mut names: Vec<&str> = global
        .lines()
        .chain(own.lines())
        .filter(|name| name.contains("/berth-"))
        .collect();
    names.sort_unstable();
    Ok(names.join(" "))
}

/// A pool in a ServiceCIDR of its own, the Service web with an address of it, and all that the controllers write for them.
async fn in_use() -> Result<(Cluster, String)> {
    let mut cluster = Cluster::start("pools-uninstall").await?;
    cluster.serve(1, &["--admission-failure-policy=Fail"]).await?;
    let spec = json!({"addresses": ["10.97.1.0/24"], "createServiceCIDR": true, "selector": {"namespaces": ["team-a"]}});
    cluster.address_pool("lab", &spec).await?;
    let web = cluster.made_within("team-a", "web", "10.97.1.").await?;
    eventually("everything is written", PATIENCE, || async {
        let written = written(&cluster).await?;
        for part in [
            "/berth-services",
            "/berth-cluster-ips",
            "servicecidr.networking.k8s.io/berth-lab",
            "lease",
        ] {
            ensure!(written.contains(part), "{part}: {written}");
        }
        anyhow::Ok(())
    })
    .await?;
    Ok((cluster, web))
}

async fn nothing_goes_while_controllers_run(cluster: &Cluster) -> Result<()> {
    let before = written(cluster).await?;
    let (code, _, complaint) = uninstall(cluster, &[]).await?;
    ensure!(
        code == Some(1) && complaint.contains("still run") && complaint.contains("controllers-1"),
        "{code:?} {complaint}"
    );
    let (code, said, _) = uninstall(cluster, &["--dry-run"]).await?;
    ensure!(
        code == Some(1) && said.starts_with("would delete MutatingWebhookConfiguration berth-services"),
        "{code:?} {said}"
    );
    ensure!(written(cluster).await? == before, "a dry run deleted something");
    Ok(())
}

async fn what_is_lived_on_stays(cluster: &Cluster, web: &str) -> Result<()> {
    eventually("the Leases have run out", PATIENCE, || async {
        let (_, said, complaint) = uninstall(cluster, &[]).await?;
        ensure!(
            said.contains("left ServiceCIDR berth-lab")
                && said.contains("team-a/web")
                && complaint.contains("1 of"),
            "{said} {complaint}"
        );
        anyhow::Ok(())
    })
    .await?;
    let left = written(cluster).await?;
    ensure!(
        left.starts_with("servicecidr.networking.k8s.io/berth-lab") && !left.contains(' '),
        "{left}"
    );
    ensure!(
        cluster.address("team-a", "web").await? == web,
        "its address is another"
    );
    eventually("nobody is asked any more", PATIENCE, || async {
        cluster.create("team-a", "plain", json!({})).await?.address()
    })
    .await?;
    Ok(())
}

async fn what_nobody_needs_goes(cluster: &Cluster) -> Result<()> {
    let (code, said, complaint) = uninstall(cluster, &["-o", "json"]).await?;
    let steps: serde_json::Value = serde_json::from_str(&said)?;
    ensure!(
        code == Some(0) && steps["steps"][0]["target"]["kind"] == "ServiceCIDR",
        "{code:?} {said} {complaint}"
    );
    eventually("nothing is left", PATIENCE, || async {
        let left = written(cluster).await?;
        ensure!(left.is_empty(), "{left}");
        anyhow::Ok(())
    })
    .await?;
    let (code, said, _) = uninstall(cluster, &[]).await?;
    ensure!(
        code == Some(0) && said.contains("Nothing of Berth"),
        "{code:?} {said}"
    );
    Ok(())
}

#[test]
fn uninstall_waits_for_the_controllers_to_end_leaves_what_is_lived_on_and_then_nothing() {
    prepare();
    in_sandbox_async!(async {
        let (cluster, web) = in_use().await?;
        nothing_goes_while_controllers_run(&cluster).await?;
        cluster.replicas()?.kill_all()?;
        let refused = cluster.create("team-a", "refused", json!({})).await?;
        ensure!(refused.refusal().is_ok(), "created without the webhook");
        what_is_lived_on_stays(&cluster, &web).await?;
        cluster
            .kubectl(&["-n", "team-a", "delete", "service", "--all"])
            .await?;
        what_nobody_needs_goes(&cluster).await?;
        cluster.create("team-a", "after", json!({})).await?.address()?;
        anyhow::Ok(())
    });
}
