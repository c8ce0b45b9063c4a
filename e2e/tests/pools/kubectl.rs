// SPDX-License-Identifier: Apache-2.0
//! Every kind of write that users make with kubectl, in three namespaces at once: one that is exempt, where the API server
//! does what it always does; one that a pool selects; and one that no pool selects, beside pools. After each step the three
//! Services have to be the same but for their values, which have to be of the pool where one selects.

mod cases;
mod lane;
mod step;

use anyhow::{Context, Result, ensure};
use berth_testkit::in_sandbox_async;
use cases::Case;
use lane::{Disturbed, Lane};
use serde_json::json;
use step::Step;

use super::cluster::Cluster;
use super::prepare;

/// How often a case is taken again that chance has spoiled: one in ten is, at most.
const AGAIN: usize = 5;
/// One API server, two families.
const FLAGS: &[&str] = &["--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112"];

async fn ready(name: &str) -> Result<Cluster> {
    let mut cluster = Cluster::with_flags(name, FLAGS).await?;
    cluster.namespace(lane::BARE).await?;
    let exempt = format!("--admission-exempt-namespaces={}", lane::BARE);
    cluster
        .serve(2, &["--admission-failure-policy=Fail", &exempt])
        .await?;
    let selector = json!({"namespaces": [lane::POOLED]});
    let addresses = json!({"addresses": lane::POOL_ADDRESSES, "selector": selector});
    cluster.address_pool("kubectl", &addresses).await?;
    let ports = json!({"ports": lane::POOL_PORTS, "selector": selector});
    cluster.port_pool("kubectl", &ports).await?;
    cluster.served(lane::POOLED, lane::is_of_pool).await?;
    Ok(cluster)
}

/// Takes a case through all lanes, step by step.
async fn run(cluster: &Cluster, index: usize, case: &Case) -> Result<()> {
    let mut lanes = Lane::all(index);
    let outcome = live(cluster, &mut lanes, case).await;
    // Whatever became of it, the next case finds nothing of it.
    for lane in &mut lanes {
        lane.take(cluster, &Step::Delete).await?;
    }
    outcome
}

async fn live(cluster: &Cluster, lanes: &mut [Lane; 3], case: &Case) -> Result<()> {
    for (number, step) in case.steps.iter().enumerate() {
        let taken = lanes.iter_mut().map(|lane| lane.take(cluster, step));
        let seen = futures::future::try_join_all(taken).await;
        let seen = seen.with_context(|| case.told(number, step))?;
        for (lane, other) in lanes.iter().zip(&seen).skip(1) {
            ensure!(
                step.alike(&seen[0], other, lane),
                "{}\n{}: {:#?}\n{}: {:#?}",
                case.told(number, step),
                lanes[0].namespace,
                seen[0],
                lane.namespace,
                other
            );
        }
        step.expected(&seen[0]).with_context(|| case.told(number, step))?;
    }
    Ok(())
}

#[test]
fn what_users_do_with_kubectl_ends_as_on_a_bare_api_server_but_for_the_pools() {
    prepare();
    in_sandbox_async!(async {
        let cluster = ready("pools-kubectl").await?;
        let mut failed = Vec::new();
        for (index, case) in cases::all().iter().enumerate() {
            let mut outcome = run(&cluster, index, case).await;
            for _ in 0..AGAIN {
                if outcome.as_ref().is_err_and(|error| error.is::<Disturbed>()) {
                    outcome = run(&cluster, index, case).await;
                }
            }
            if let Err(error) = outcome {
                failed.push(format!("{error:#}"));
            }
        }
        ensure!(
            failed.is_empty(),
            "{} cases:\n{}",
            failed.len(),
            failed.join("\n\n")
        );
        cluster.check()
    });
}
