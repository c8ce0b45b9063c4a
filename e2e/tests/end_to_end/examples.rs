// SPDX-License-Identifier: Apache-2.0
//! The demo's checks, as tests.

use anyhow::{Context, Result, ensure};
use berth_e2e::cluster::{Cluster, Daemon, PATIENCE, Role, socket};
use berth_e2e::examples::{self, Examples, NAMESPACE, Place};
use berth_e2e::failover::{cut_the_owner, owner};
use berth_testkit::in_sandbox_async;
use berth_testkit::probe::{How, Probe};
use berth_testkit::wait::eventually;

#[test]
fn every_example_does_what_its_comment_promises_and_a_cut_owner_is_replaced() {
    super::prepare();
    in_sandbox_async!(async {
        let mut cluster = super::whole("examples").await?;
        let examples = Examples::prepare(&cluster)?;
        let outcomes = examples.apply_and_try(&cluster).await?;
        // 5 Services inside (web with two ports) x 2 families x 4 places, 6 node ports, 6 to the LoadBalancer.
        ensure!(
            outcomes.len() == 6 * 8 + 6 + 6,
            "{} attempts were made",
            outcomes.len()
        );
        examples::objects_without_packets(&cluster).await?;
        let pod = examples.place(&Place::Pod("node-2".to_owned()))?;
        examples::kubernetes_default(&cluster, pod).await?;
        let addresses = cluster.load_balancer_addresses(NAMESPACE, "shop").await?;
        for address in &addresses {
            let failover = cut_the_owner(&cluster, socket(*address, 7)).await?;
            ensure!(failover.from != failover.to, "{failover:?}");
        }
        kill_the_owner(&mut cluster, addresses[0]).await?;
        super::sound(cluster)
    });
}

/// kill -9 of the announcer whose node answers: another node answers, and the Service goes on.
async fn kill_the_owner(cluster: &mut Cluster, address: std::net::IpAddr) -> Result<()> {
    let before = owner(cluster, address).await?;
    let daemon = Daemon::on(Role::Announcer, &before);
    cluster.daemons.kill(&daemon)?;
    eventually("another owner", PATIENCE, || async {
        let after = owner(cluster, address).await?;
        ensure!(after.name() != before.name(), "still {}", after.name());
        anyhow::Ok(())
    })
    .await?;
    let answer = Probe::from(cluster.lan.client())
        .ask_async(How::Udp, socket(address, 7))
        .await;
    answer.context("the Service does not answer on the new owner")?;
    cluster.daemons.start_again(&daemon)?;
    cluster.daemons.wait_ready(&daemon)
}
