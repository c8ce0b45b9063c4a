// SPDX-License-Identifier: Apache-2.0
//! The size of the ruleset: rules depend on endpoint counts, not on Services.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use berth_e2e::cluster::{Cluster, ClusterConfig, PATIENCE, Role};
use berth_testkit::builders::{mk_namespace, mk_pod_on, mk_service, mk_service_port};
use berth_testkit::in_sandbox_async;
use berth_testkit::kubelet::FAKE;
use berth_testkit::wait::eventually;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::Api;
use kube::api::PostParams;

use super::state::{chains_and_rules, elements};

const NAMESPACE: &str = "many";

#[test]
fn a_thousand_services_need_the_chains_and_rules_of_ten() {
    super::prepare();
    in_sandbox_async!(async {
        let config = ClusterConfig {
            nodes: 2,
            roles: vec![Role::Controllers, Role::Proxy],
            ..ClusterConfig::whole("thousand")
        };
        let cluster = Cluster::start(&config, |step| println!("thousand: {step}")).await?;
        let client = cluster.client();
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &mk_namespace(NAMESPACE))
            .await?;
        // One, two and three endpoints: app a selects one Pod, app b two, app c three.
        let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
        for (app, count) in [("a", 1), ("b", 2), ("c", 3)] {
            for index in 0..count {
                let mut pod = mk_pod_on(
                    "node-1",
                    NAMESPACE,
                    &format!("{app}{index}"),
                    &[("app", app)],
                    &[],
                );
                pod.metadata.annotations = Some(BTreeMap::from([(FAKE.to_owned(), "true".to_owned())]));
                pods.create(&PostParams::default(), &pod).await?;
            }
        }
        create(&cluster, 0..10).await?;
        programmed(&cluster, 10).await?;
        let of_ten = chains_and_rules(cluster.node("node-2")?.netns())?;
        ensure!(of_ten.0 > 0 && of_ten.1 > 0, "nothing was counted");
        create(&cluster, 10..1000).await?;
        programmed(&cluster, 1000).await?;
        let of_thousand = chains_and_rules(cluster.node("node-2")?.netns())?;
        ensure!(
            of_ten == of_thousand,
            "(chains, rules): {of_ten:?} with 10 Services, {of_thousand:?} with 1,000"
        );
        super::sound(cluster)
    });
}

async fn create(cluster: &Cluster, range: std::ops::Range<usize>) -> Result<()> {
    let services: Api<Service> = Api::namespaced(cluster.client(), NAMESPACE);
    let made = range.map(|index| {
        let services = services.clone();
        let app = ["a", "b", "c"][index % 3];
        let ports = [mk_service_port("http", 80, "8080", "TCP")];
        let service = mk_service(NAMESPACE, &format!("s{index}"), &[("app", app)], &ports);
        async move { services.create(&PostParams::default(), &service).await.map(drop) }
    });
    let results: Vec<_> = futures::stream::iter(made).buffer_unordered(16).collect().await;
    results.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(())
}

/// Waits until every Service has its frontend with endpoints in both families on the second node.
async fn programmed(cluster: &Cluster, services: usize) -> Result<()> {
    let node = cluster.node("node-2")?.netns();
    eventually(
        format!("{services} Services in the kernel"),
        3 * PATIENCE,
        || async {
            for family in ["ip", "ip6"] {
                let frontends = elements(node, family, "vip-frontends")?.len();
                let refused = elements(node, family, "no-endpoint-vips")?.len();
                // Both are IPv4 only: kubernetes.default, and berth-admission, whose Pods are processes here.
                let [kubernetes, admission] = [usize::from(family == "ip"); 2];
                ensure!(
                    frontends == services + kubernetes && refused == admission,
                    "{family}: {frontends} frontends, {refused} refused"
                );
            }
            anyhow::Ok(())
        },
    )
    .await?;
    Ok(())
}
