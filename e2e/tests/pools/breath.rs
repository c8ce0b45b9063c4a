// SPDX-License-Identifier: Apache-2.0
//! A namespace and a Service of it in one breath, as `kubectl apply` of a folder makes them: no watch has shown the namespace
//! when the Service is reviewed.

use anyhow::{Context, ensure};
use berth_testkit::in_sandbox_async;
use serde_json::json;

use super::cluster::Cluster;
use super::{octet, prepare};

const MANY: usize = 50;

#[test]
fn a_service_that_is_made_together_with_its_namespace_is_in_the_pool_that_the_labels_select() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-breath").await?;
        // Under Fail: what can't be answered would be refused.
        cluster.serve(3, &["--admission-failure-policy=Fail"]).await?;
        let selector = json!({"namespaceSelector": {"matchLabels": {"tier": "gold"}}});
        cluster
            .address_pool(
                "gold",
                &json!({"addresses": ["10.96.1.0/24"], "selector": selector}),
            )
            .await?;
        cluster.namespace_with("gold", &json!({"tier": "gold"})).await?;
        cluster
            .served("gold", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        for turn in 0..MANY {
            let (name, is_gold) = (format!("new-{turn}"), turn % 2 == 0);
            let tier = if is_gold { "gold" } else { "tin" };
            cluster.namespace_with(&name, &json!({"tier": tier})).await?;
            let made = cluster.create(&name, "web", json!({})).await?;
            let address = made.address().with_context(|| name.clone())?;
            let is_of_pool = octet(&address)? == 1;
            ensure!(is_of_pool == is_gold, "{name} is {tier} and has {address}");
        }
        cluster.check()
    });
}

#[test]
fn namespaces_and_services_that_many_clients_make_at_once_are_each_in_their_pool() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-breaths").await?;
        cluster.serve(2, &[]).await?;
        let selector = json!({"namespaceSelector": {"matchLabels": {"tier": "gold"}}});
        cluster
            .address_pool(
                "gold",
                &json!({"addresses": ["10.96.1.0/24"], "selector": selector}),
            )
            .await?;
        cluster.namespace_with("gold", &json!({"tier": "gold"})).await?;
        cluster
            .served("gold", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        let client = async |client: usize| {
            let name = format!("at-once-{client}");
            cluster.namespace_with(&name, &json!({"tier": "gold"})).await?;
            let address = cluster.create(&name, "web", json!({})).await?.address()?;
            ensure!(octet(&address)? == 1, "{name} has {address}");
            anyhow::Ok(())
        };
        futures::future::try_join_all((0..MANY).map(client)).await?;
        cluster.check()
    });
}
