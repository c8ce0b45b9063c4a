// SPDX-License-Identifier: Apache-2.0
//! From where ClusterIPs are given, as the API server has it and the nodes' kernels get to know it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use berth_e2e::cluster::{Cluster, ClusterConfig, PATIENCE, Role};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};

use super::state::elements;

const MORE: [&str; 2] = ["10.205.0.0/24", "fd00:205::/112"];

#[test]
fn service_cidrs_that_come_and_go_are_in_the_kernel_at_once() {
    super::prepare();
    in_sandbox_async!(async {
        let config = ClusterConfig {
            nodes: 1,
            roles: vec![Role::Proxy],
            ..ClusterConfig::whole("service-cidrs")
        };
        let cluster = Cluster::start(&config, |step| println!("service-cidrs: {step}")).await?;
        let cidrs: Api<ServiceCIDR> = Api::all(cluster.client());
        let own = programmed(&cluster, &cidrs).await?;
        ensure!(!own.is_empty(), "the API server has none of its own");
        let more = ServiceCIDR {
            metadata: ObjectMeta {
                name: Some("more".to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceCIDRSpec {
                cidrs: Some(MORE.map(str::to_owned).to_vec()),
            }),
            ..ServiceCIDR::default()
        };
        cidrs.create(&PostParams::default(), &more).await?;
        let both = programmed(&cluster, &cidrs).await?;
        ensure!(both.len() == own.len() + 2, "{both:?}");
        cidrs.delete("more", &DeleteParams::default()).await?;
        eventually("the ServiceCIDR is gone", PATIENCE, || async {
            let left = cidrs.get_opt("more").await?;
            ensure!(left.is_none(), "{:?}", left.map(|cidr| cidr.status));
            anyhow::Ok(())
        })
        .await?;
        ensure!(programmed(&cluster, &cidrs).await? == own);
        super::sound(cluster)
    });
}

/// Waits until the node's kernel has what the API server has, and yields that.
async fn programmed(cluster: &Cluster, cidrs: &Api<ServiceCIDR>) -> Result<BTreeSet<String>> {
    let listed = cidrs.list(&ListParams::default()).await?;
    let specs = listed.items.into_iter().filter_map(|cidr| cidr.spec?.cidrs);
    let wanted: BTreeSet<String> = specs.flatten().collect();
    let node = cluster.node("node-1")?.netns();
    eventually("ServiceCIDRs in the kernel", PATIENCE, || async {
        let mut found = elements(node, "ip", "service-cidrs")?;
        found.extend(elements(node, "ip6", "service-cidrs")?);
        ensure!(found == wanted, "{found:?} instead of {wanted:?}");
        anyhow::Ok(())
    })
    .await?;
    Ok(wanted)
}
