// SPDX-License-Identifier: Apache-2.0
//! Pools of load balancers' addresses: whom they are for.

use anyhow::{Result, ensure};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::upkeep::{condition, get};
use super::{PATIENCE, prepare};

async fn pool(cluster: &Cluster, name: &str, spec: &Value) -> Result<()> {
    let object = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": name}, "spec": spec});
    cluster.apply_object(&object).await
}

async fn service(cluster: &Cluster, namespace: &str, name: &str, asks_for: Option<&str>) -> Result<()> {
    let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "berth.dev/bare-metal", "loadBalancerIP": asks_for});
    cluster.create(namespace, name, spec).await?.address()?;
    Ok(())
}

/// Waits until a Service has this address, or none, and says so in these words.
async fn stands(cluster: &Cluster, (namespace, name): (&str, &str), address: &str, said: &str) -> Result<()> {
    eventually(format!("{namespace}/{name}: {said}"), PATIENCE, || async {
        let service = get(cluster, &["-n", namespace, "service", name]).await?;
        let ingress = &service["status"]["loadBalancer"]["ingress"];
        ensure!(
            ingress[0]["ip"].as_str().unwrap_or_default() == address,
            "{ingress}"
        );
        let condition = condition(&service, "berth.dev/AddressAllocated");
        ensure!(condition == said, "{condition}");
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

/// Which says a sharing key, and has one port.
async fn sharing(cluster: &Cluster, name: &str, port: u16) -> Result<()> {
    let annotations = json!({"berth.dev/sharing-key": "front"});
    let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "berth.dev/bare-metal", "ports": [{"port": port}]});
    let metadata = json!({"namespace": "team-a", "name": name, "annotations": annotations});
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    cluster.apply_object(&object).await
}

#[test]
fn services_that_agree_on_it_have_one_address_until_the_last_of_them_is_gone() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-sharing").await?;
        cluster.serve(1, &["--enable=load-balancer"]).await?;
        pool(&cluster, "two", &json!({"addresses": ["192.0.2.0/31"]})).await?;
        for (name, port) in [("web", 80), ("dns", 53)] {
            sharing(&cluster, name, port).await?;
            stands(&cluster, ("team-a", name), "192.0.2.0", "True Allocated").await?;
        }
        sharing(&cluster, "api", 80).await?;
        stands(&cluster, ("team-a", "api"), "192.0.2.1", "True Allocated").await?;
        // The pool has nothing else: what collides now keeps what it has.
        sharing(&cluster, "dns", 80).await?;
        stands(&cluster, ("team-a", "dns"), "192.0.2.0", "False NoLongerShared").await?;
        cluster.replicas()?.kill_all()?;
        cluster.replicas()?.launch()?;
        cluster.replicas()?.ready()?;
        let delete = async |name: &str| {
            cluster
                .kubectl(&["-n", "team-a", "delete", "service", name])
                .await
        };
        delete("web").await?;
        stands(&cluster, ("team-a", "dns"), "192.0.2.0", "True Allocated").await?;
        service(&cluster, "team-b", "waits", None).await?;
        stands(&cluster, ("team-b", "waits"), "", "False PoolExhausted").await?;
        delete("dns").await?;
        stands(&cluster, ("team-b", "waits"), "192.0.2.0", "True Allocated").await?;
        cluster.check()
    });
}

#[test]
fn a_pool_of_load_balancers_serves_whom_it_selects_and_takes_nothing_back() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-load-balancer").await?;
        cluster.serve(1, &["--enable=load-balancer"]).await?;
        let of_team_a =
            json!({"addresses": ["192.0.2.0/30"], "selector": {"namespaces": ["team-a"]}, "priority": 10});
        pool(&cluster, "team-a", &of_team_a).await?;
        let by_label = json!({"namespaceSelector": {"matchLabels": {"tier": "gold"}}});
        let gold = json!({"addresses": ["192.0.2.16/30"], "selector": by_label});
        pool(&cluster, "gold", &gold).await?;
        service(&cluster, "team-a", "web", None).await?;
        stands(&cluster, ("team-a", "web"), "192.0.2.0", "True Allocated").await?;
        service(&cluster, "team-b", "web", None).await?;
        stands(&cluster, ("team-b", "web"), "", "False NoPoolForService").await?;
        service(&cluster, "team-b", "asks", Some("192.0.2.1")).await?;
        stands(&cluster, ("team-b", "asks"), "", "False PoolForOthers").await?;
        cluster
            .kubectl(&["label", "namespace", "team-b", "tier=gold"])
            .await?;
        stands(&cluster, ("team-b", "web"), "192.0.2.16", "True Allocated").await?;
        stands(&cluster, ("team-b", "asks"), "", "False PoolForOthers").await?;
        // A label or a selector that changes takes no address from anybody.
        cluster
            .kubectl(&["label", "namespace", "team-b", "tier-"])
            .await?;
        stands(&cluster, ("team-b", "web"), "192.0.2.16", "True KeptOfOthers").await?;
        let of_team_c = json!({"addresses": ["192.0.2.0/30"], "selector": {"namespaces": ["team-c"]}});
        pool(&cluster, "team-a", &of_team_c).await?;
        stands(&cluster, ("team-a", "web"), "192.0.2.0", "True KeptOfOthers").await?;
        cluster.replicas()?.kill_all()?;
        cluster.replicas()?.launch()?;
        service(&cluster, "team-c", "web", None).await?;
        stands(&cluster, ("team-c", "web"), "192.0.2.1", "True Allocated").await?;
        stands(&cluster, ("team-a", "web"), "192.0.2.0", "True KeptOfOthers").await?;
        cluster.check()
    });
}
