// SPDX-License-Identifier: Apache-2.0
//! What becomes of values that were granted for creates that failed after all.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use serde_json::json;

use super::cluster::Cluster;
use super::{PATIENCE, octet, prepare};

/// A hold ends 65 s after it was granted.
const UNTIL_HOLDS_LAPSE: Duration = Duration::from_secs(180);
/// Addresses that a /28 gives.
const ALL: usize = 14;

/// Has the API server deny every Service with such a name, after the webhook has said what it gets.
async fn doom(cluster: &Cluster) -> Result<()> {
    let group = "admissionregistration.k8s.io/v1";
    let policy = json!({"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "doomed"}, "spec": {
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["services"]}]},
        "validations": [{"expression": "!object.metadata.name.startsWith('doomed-')", "message": "the name is doomed"}]}});
    cluster.apply_object(&policy).await?;
    let binding = json!({"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "doomed"},
        "spec": {"policyName": "doomed", "validationActions": ["Deny"]}});
    cluster.apply_object(&binding).await?;
    eventually("the policy acts", PATIENCE, || async {
        is_doomed(cluster.try_out("team-a", "doomed-probe").await?.refusal()?)
    })
    .await?;
    Ok(())
}

fn is_doomed((code, text): (u16, &str)) -> Result<()> {
    ensure!(text.contains("the name is doomed"), "{code}: {text}");
    Ok(())
}

#[test]
fn what_was_granted_for_creates_that_fail_is_given_after_the_deadline_and_nothing_leaks() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-leaks").await?;
        cluster.serve(3, &["--admission-failure-policy=Fail"]).await?;
        let few = json!({"addresses": ["10.96.1.0/28"], "selector": {"namespaces": ["team-a"]}});
        cluster.address_pool("few", &few).await?;
        cluster
            .served("team-a", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        doom(&cluster).await?;
        for index in 0..ALL {
            let name = format!("doomed-{index}");
            is_doomed(cluster.create("team-a", &name, json!({})).await?.refusal()?)?;
        }
        let early = cluster.create("team-a", "early", json!({})).await?;
        let (code, text) = early.refusal()?;
        ensure!(text.contains("14 of these on their way"), "{code}: {text}");
        // Whoever goes on knows of the holds, and when they end.
        for _ in 0..2 {
            cluster.replicas()?.kill(0)?;
            cluster.replicas()?.launch()?;
            cluster.replicas()?.ready()?;
        }
        let mut addresses = BTreeSet::new();
        for index in 0..ALL {
            let name = format!("web-{index}");
            let given = eventually(format!("{name} is made"), UNTIL_HOLDS_LAPSE, || async {
                cluster.create("team-a", &name, json!({})).await?.address()
            });
            addresses.insert(given.await?);
        }
        ensure!(addresses.len() == ALL, "{addresses:?}");
        let late = cluster.create("team-a", "late", json!({})).await?;
        let (code, text) = late.refusal()?;
        ensure!(
            code == 403 && text.contains("14 of 14") && !text.contains("on their way"),
            "{code}: {text}"
        );
        cluster.check()
    });
}
