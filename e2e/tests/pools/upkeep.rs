// SPDX-License-Identifier: Apache-2.0
//! What the leader writes for pools: statuses, claims, ServiceCIDRs.

use anyhow::{Result, ensure};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::{PATIENCE, octet, prepare};

pub(crate) async fn get(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let arguments: Vec<&str> = ["get", "-o", "json"].iter().chain(arguments).copied().collect();
    Ok(serde_json::from_str(&cluster.kubectl(&arguments).await?)?)
}

/// `True InUse`.
pub(crate) fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = conditions
        .into_iter()
        .find(|condition| condition["type"] == kind)
        .unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    format!("{} {}", text("status"), text("reason"))
}

#[test]
fn pools_say_who_has_how_much_and_what_is_wrong() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-status").await?;
        cluster.serve(1, &[]).await?;
        let selector = json!({"namespaces": ["team-a"]});
        let addresses = json!({"addresses": ["10.96.1.0/28"], "selector": selector});
        cluster.address_pool("few", &addresses).await?;
        cluster
            .address_pool("late", &json!({"addresses": ["10.96.1.8/29"]}))
            .await?;
        let ports = json!({"ports": ["30100-30109", "40000"], "selector": selector});
        cluster.port_pool("ports", &ports).await?;
        cluster
            .served("team-a", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        for name in ["one", "two"] {
            cluster
                .create("team-a", name, json!({"type": "NodePort"}))
                .await?
                .address()?;
        }
        let counted = async |allocated: i64| {
            eventually(format!("{allocated} allocated"), PATIENCE, || async {
                let few = get(&cluster, &["addresspool", "few"]).await?;
                let ipv4 = &few["status"]["ipv4"];
                let expected =
                    json!({"capacity": "14", "allocated": allocated, "free": (14 - allocated).to_string()});
                ensure!(*ipv4 == expected, "{ipv4}");
                ensure!(condition(&few, "Ready") == "True InUse", "{few}");
                ensure!(few["status"]["namespaces"][0]["ipv4"] == allocated, "{few}");
                let ports = get(&cluster, &["nodeportpool", "ports"]).await?;
                let used = &ports["status"]["ports"];
                ensure!(used["capacity"] == 11 && used["allocated"] == allocated, "{used}");
                ensure!(
                    condition(&ports, "OutOfRange") == "True OutsideNodePortRange",
                    "{ports}"
                );
                let late = get(&cluster, &["addresspool", "late"]).await?;
                ensure!(condition(&late, "Ready") == "False Overlapping", "{late}");
                anyhow::Ok(())
            })
            .await
        };
        counted(2).await?;
        cluster
            .kubectl(&["-n", "team-a", "delete", "service", "one"])
            .await?;
        counted(1).await?;
        cluster.check()
    });
}

#[test]
fn a_claim_keeps_an_address_before_its_service_and_after() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-claim").await?;
        cluster.serve(2, &[]).await?;
        // Three addresses, so that the claimed one is soon in the way of others.
        let spec = json!({"addresses": ["10.96.1.1-10.96.1.3"], "selector": {"namespaces": ["team-a"]}});
        cluster.address_pool("few", &spec).await?;
        cluster
            .served("team-a", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        cluster
            .claim(
                "team-a",
                "sticky",
                &json!({"serviceName": "web", "use": "ClusterIP"}),
            )
            .await?;
        let kept = eventually("the claim keeps an address", PATIENCE, || async {
            let claim = get(&cluster, &["-n", "team-a", "addressclaim", "sticky"]).await?;
            ensure!(condition(&claim, "Ready") == "True Kept", "{claim}");
            Ok(claim["status"]["addresses"][0]
                .as_str()
                .unwrap_or_default()
                .to_owned())
        })
        .await?;
        for name in ["one", "two"] {
            let other = cluster.create("team-a", name, json!({})).await?.address()?;
            ensure!(other != kept, "{name} has the claim's address");
        }
        ensure!(
            cluster
                .create("team-a", "three", json!({}))
                .await?
                .address()
                .is_err(),
            "the claim's was given"
        );
        for _ in 0..2 {
            let own = cluster.create("team-a", "web", json!({})).await?.address()?;
            ensure!(own == kept, "{own}, not {kept}");
            eventually("bound", PATIENCE, || async {
                let claim = get(&cluster, &["-n", "team-a", "addressclaim", "sticky"]).await?;
                ensure!(condition(&claim, "Bound") == "True ServiceHasThem", "{claim}");
                anyhow::Ok(())
            })
            .await?;
            cluster
                .kubectl(&["-n", "team-a", "delete", "service", "web"])
                .await?;
        }
        cluster
            .kubectl(&["-n", "team-a", "delete", "addressclaim", "sticky"])
            .await?;
        eventually("the address is free again", PATIENCE, || async {
            cluster.create("team-a", "three", json!({})).await?.address()
        })
        .await?;
        cluster.check()
    });
}

#[test]
fn a_pool_outside_the_clusters_range_gets_a_service_cidr_for_as_long_as_it_is_there() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-cidr").await?;
        cluster.serve(1, &[]).await?;
        let spec = json!({"addresses": ["10.200.0.0/28"], "createServiceCIDR": true, "selector": {"namespaces": ["team-a"]}});
        cluster.address_pool("far", &spec).await?;
        let made = eventually("a Service has an address of the pool", PATIENCE, || async {
            let made = cluster.create("team-a", "web", json!({})).await?;
            let address = made.address()?;
            if !address.starts_with("10.200.0.") {
                cluster
                    .kubectl(&["-n", "team-a", "delete", "service", "web"])
                    .await?;
            }
            ensure!(address.starts_with("10.200.0."), "{address}");
            anyhow::Ok(address)
        })
        .await?;
        let listed = async || anyhow::Ok(cluster.kubectl(&["get", "servicecidrs", "-o", "name"]).await?);
        ensure!(
            listed().await?.contains("berth-far-10-200-0-0-28"),
            "{}",
            listed().await?
        );
        cluster.kubectl(&["delete", "addresspool", "far"]).await?;
        cluster
            .kubectl(&["-n", "team-a", "get", "service", "web"])
            .await?;
        cluster
            .kubectl(&["-n", "team-a", "delete", "service", "web"])
            .await?;
        eventually("the ServiceCIDR goes with the last address", PATIENCE, || async {
            let listed = listed().await?;
            ensure!(!listed.contains("berth-far"), "{listed} ({made})");
            anyhow::Ok(())
        })
        .await?;
        cluster.check()
    });
}
